//! The array of pairs, which this half maps too: arming and taking back are a compare-and-swap, not a
//! system call. See `proxy_common::pair` for the transitions.

use super::{DatapathError, Kernel};
use crate::status::PairCounts;
use anyhow::Context as _;
use bytes::Bytes;
use parking_lot::Mutex;
use proxy_common::{
    flow::FlowKey,
    pair::{self, Pair},
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{
    collections::VecDeque,
    os::fd::AsFd,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// How long an entry rests before it belongs to another pair: far longer than a program that still
/// looks at it can run.
const REST: Duration = Duration::from_millis(100);

/// The mapped array, and which entries are free.
pub(super) struct Pairs {
    first: NonNull<Pair>,
    count: u32,
    free: Mutex<VecDeque<(u32, Instant)>>,
}

// SAFETY: the mapping lives as long as this, and `Slot` accesses it atomically or volatilely.
#[expect(unsafe_code, reason = "shared memory")]
unsafe impl Send for Pairs {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "shared memory")]
unsafe impl Sync for Pairs {}

impl Pairs {
    /// Maps an array of so many pairs.
    #[expect(unsafe_code, reason = "mmap")]
    pub(super) fn map(array: impl AsFd, count: u32) -> anyhow::Result<Self> {
        let size = size_of::<Pair>() * count as usize;
        // SAFETY: a new mapping, wherever the kernel likes.
        let first = unsafe {
            mmap(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, array, 0)
        };
        let first = NonNull::new(first.context("map PAIRS into memory")?.cast()).context("mmap gave null")?;
        let rested = Instant::now().checked_sub(REST).unwrap_or_else(Instant::now);
        let free = Mutex::new((0..count).map(|index| (index, rested)).collect());
        Ok(Self { first, count, free })
    }

    /// How many there are of each kind, now.
    pub(super) fn counts(&self) -> PairCounts {
        let free = u32::try_from(self.free.lock().len()).unwrap_or(u32::MAX);
        let armed = (0..self.count).filter(|index| self.word(*index).load(SeqCst) & pair::KERNEL != 0);
        PairCounts {
            armed: armed.count() as u64,
            joined: self.count.saturating_sub(free).into(),
            capacity: self.count.into(),
        }
    }

    #[expect(unsafe_code, reason = "shared memory")]
    fn pair(&self, index: u32) -> *mut Pair {
        // SAFETY: indices are below `count`, and the mapping is that long.
        unsafe { self.first.as_ptr().add(index as usize) }
    }

    #[expect(unsafe_code, reason = "shared memory")]
    fn word(&self, index: u32) -> &AtomicU64 {
        // SAFETY: the word is aligned (first of a structure of multiples of eight bytes), lives as long
        // as this, and both halves change it atomically only.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.pair(index)).word) }
    }

    /// Sets all of an entry that no pair has, or a pair of the self-test.
    #[expect(unsafe_code, reason = "shared memory")]
    pub(super) fn set(&self, index: u32, pair: Pair) {
        // SAFETY: an entry, aligned as the structure is, that no program looks at now.
        unsafe { self.pair(index).write_volatile(pair) }
    }

    /// An entry's state word.
    pub(super) fn state(&self, index: u32) -> u64 {
        self.word(index).load(SeqCst)
    }

    /// Makes a transition of an entry's word; false where it is not to be made.
    pub(super) fn change(&self, index: u32, transition: impl Fn(u64) -> Option<u64>) -> bool {
        self.word(index).try_update(SeqCst, SeqCst, transition).is_ok()
    }

    fn allocate(&self) -> Option<u32> {
        self.free.lock().pop_front_if(|(_, since)| since.elapsed() >= REST).map(|(index, _)| index)
    }
}

impl Drop for Pairs {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        let size = size_of::<Pair>() * self.count as usize;
        // SAFETY: what `map` mapped; every `Slot` holds this alive.
        if let Err(error) = unsafe { munmap(self.first.as_ptr().cast(), size) } {
            tracing::debug!(%error, "munmap");
        }
    }
}

/// What the kernel half may carry on an armed pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    /// The generation of the snapshot that says so.
    pub(crate) generation: u32,
    /// The endpoint's policy.
    pub(crate) policy: u32,
    /// Which series of the metrics counts it.
    pub(crate) series: u32,
}

/// `CLOCK_MONOTONIC`, as the kernel half stamps.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}

/// One connection's entry; free again when dropped.
pub(crate) struct Slot {
    kernel: Arc<Kernel>,
    pairs: Arc<Pairs>,
    index: u32,
    ends: Mutex<Option<(FlowKey, FlowKey)>>,
}

impl Slot {
    /// `None` where every entry is in use.
    pub(super) fn new(kernel: &Arc<Kernel>) -> Option<Self> {
        let pairs = Arc::clone(kernel.pairs.as_ref()?);
        let index = pairs.allocate()?;
        Some(Self { kernel: Arc::clone(kernel), pairs, index, ends: Mutex::new(None) })
    }

    /// Which entry it is.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Says whose sockets the pair is made of. Only while it is not armed.
    pub(crate) fn join(&self, client: FlowKey, endpoint: FlowKey) -> Result<(), DatapathError> {
        let mut ends = self.ends.lock();
        if *ends == Some((client, endpoint)) {
            return Ok(());
        }
        if let Some((_, before)) = ends.take_if(|(_, before)| *before != endpoint) {
            self.kernel.tables.paired.remove(&before)?;
        }
        self.write(|pair| &raw mut pair.client, client);
        self.write(|pair| &raw mut pair.endpoint, endpoint);
        for key in [client, endpoint] {
            self.kernel.tables.paired.insert(&key, &(self.index + 1))?;
        }
        *ends = Some((client, endpoint));
        Ok(())
    }

    /// Makes it a pair of the control group: its client's waits are measured, nothing is carried.
    pub(crate) fn observe(&self, client: FlowKey) -> Result<(), DatapathError> {
        self.write(|pair| &raw mut pair.started_ns, 0);
        self.write(|pair| &raw mut pair.control, 1);
        self.write(|pair| &raw mut pair.client, client);
        self.kernel.tables.paired.insert(&client, &(self.index + 1))?;
        *self.ends.lock() = Some((client, FlowKey::default()));
        Ok(())
    }

    /// Lets the kernel half carry what comes next; `seen` is how many bytes of the client have been
    /// read. False where the pair is not the agent's and idle.
    pub(crate) fn arm(&self, seen: u32, terms: Terms) -> bool {
        self.write(|pair| &raw mut pair.moved_ns, now_ns());
        self.write(|pair| &raw mut pair.generation, terms.generation);
        self.write(|pair| &raw mut pair.policy, terms.policy);
        self.write(|pair| &raw mut pair.series, terms.series);
        self.change(|word| pair::armed(word, seen))
    }

    /// The rest of a request's body goes to the endpoint, past the agent.
    pub(crate) fn has_open_body(&self) -> bool {
        self.word() & pair::REQUEST_OPEN != 0
    }

    /// Takes the pair back if no exchange is under way.
    pub(crate) fn take(&self) -> bool {
        self.change(pair::taken)
    }

    /// Makes the kernel half hand the answer over that is due; true where it is the agent's now.
    pub(crate) fn turn(&self) -> bool {
        self.change(pair::turned) || self.word() & pair::TURNED != 0
    }

    /// Goes on with an answer that was turned.
    pub(crate) fn resume(&self) -> bool {
        self.change(pair::resumed)
    }

    /// Cuts short the exchange that `of` is a word of; the pair's sockets must not be used again. False
    /// where it has come to its end meanwhile.
    pub(crate) fn cut(&self, of: u64) -> bool {
        let is_under_way = |word| pair::is_busy(word) && pair::is_same_exchange(of, word);
        loop {
            if self.change(|word| pair::cut(word).filter(|_| is_under_way(word))) {
                return true;
            }
            if !is_under_way(self.word()) {
                return false;
            }
            // For the rest of a program's run: one that was preempted may need this very processor.
            std::thread::yield_now();
        }
    }

    /// The status of the answer under way, or of the last one.
    pub(crate) fn status(&self) -> u32 {
        self.read(|pair| &raw const pair.status)
    }

    /// Gives up the exchange that `of` is a word of, if its answer has not begun.
    pub(crate) fn give_up(&self, of: u64) -> bool {
        self.change(|word| pair::given_up(word).filter(|_| pair::is_same_exchange(of, word)))
    }

    /// Forgets the endpoint. Only while the pair is not armed.
    pub(crate) fn part(&self) {
        let Some((client, endpoint)) = self.ends.lock().take() else { return };
        self.write(|pair| &raw mut pair.control, 0);
        self.write(|pair| &raw mut pair.client, FlowKey::default());
        self.write(|pair| &raw mut pair.endpoint, FlowKey::default());
        for key in [client, endpoint].into_iter().filter(|key| *key != FlowKey::default()) {
            if let Err(error) = self.kernel.tables.paired.remove(&key) {
                tracing::warn!(%error, "forget a pair");
            }
        }
    }

    /// The head of the request under way, and the whole request's length.
    pub(crate) fn request(&self) -> (Bytes, u32) {
        let head = self.read(|pair| &raw const pair.head);
        let length = self.read(|pair| &raw const pair.request_head) as usize;
        let head = Bytes::copy_from_slice(head.0.get(..length).unwrap_or_default());
        (head, self.read(|pair| &raw const pair.request_bytes))
    }

    /// The state word.
    pub(crate) fn word(&self) -> u64 {
        self.pairs.state(self.index)
    }

    /// When the exchange under way, or the last one, began and moved last, `CLOCK_MONOTONIC`
    /// nanoseconds.
    pub(crate) fn times(&self) -> (u64, u64) {
        (self.read(|pair| &raw const pair.started_ns), self.read(|pair| &raw const pair.moved_ns))
    }

    /// When the last byte of the request under way passed; 0 while there are more to come.
    pub(crate) fn asked(&self) -> u64 {
        self.read(|pair| &raw const pair.asked_ns)
    }

    /// How many bytes of the request under way are still to come.
    pub(crate) fn request_left(&self) -> u32 {
        self.read(|pair| &raw const pair.request_left)
    }

    fn change(&self, transition: impl Fn(u64) -> Option<u64>) -> bool {
        self.pairs.change(self.index, transition)
    }

    #[expect(unsafe_code, reason = "shared memory")]
    fn read<T: Copy>(&self, field: impl Fn(&Pair) -> *const T) -> T {
        // SAFETY: a field of a live entry, aligned as the structure is; the kernel half writes whole
        // words.
        unsafe { field(&*self.pairs.pair(self.index)).read_volatile() }
    }

    #[expect(unsafe_code, reason = "shared memory")]
    fn write<T: Copy>(&self, field: impl Fn(&mut Pair) -> *mut T, value: T) {
        // SAFETY: as in `read`; the agent owns the pair, so nobody else writes.
        unsafe { field(&mut *self.pairs.pair(self.index)).write_volatile(value) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.change(|word| Some(pair::freed(word)));
        self.part();
        self.pairs.free.lock().push_back((self.index, Instant::now()));
    }
}
