//! What the actors share: the pair, the sockets' queues, and the kernel half's programs.

use proxy_common::pair::{
    self, ANSWER_DUE, ANSWER_ENDS, ANSWER_OPEN, BEGINNING, KERNEL, REQUEST_OPEN, is_busy, is_same_exchange,
};
use shuttle::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};
use std::collections::VecDeque;

/// Connections to endpoints, of which the agent uses one after the other: some may be closed by their
/// endpoint, one by the agent, and one stays.
pub(crate) const ENDPOINTS: usize = MORTAL + 2;
/// So many of them the endpoint may close.
pub(crate) const MORTAL: usize = 2;

/// The key of no socket.
pub(crate) const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// One message that the kernel half may carry.
    Small,
    /// Two of them.
    Body,
    /// For the agent to relay.
    Odd,
    /// For the agent to answer.
    Denied,
}

/// What happens in a run.
#[derive(Clone, Default)]
pub(crate) struct Scenario {
    pub(crate) requests: Vec<Kind>,
    /// The client does not wait for answers.
    pub(crate) ahead: bool,
    /// Some answers are too large for the kernel half.
    pub(crate) large: bool,
    /// Endpoints close their connections at any time.
    pub(crate) dies: bool,
    /// This request is late as soon as the kernel half has begun it.
    pub(crate) late: Option<u32>,
}

/// A message of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) id: u32,
    pub(crate) kind: Kind,
    pub(crate) first: bool,
    pub(crate) last: bool,
}

/// A message of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reply {
    pub(crate) id: u32,
    /// How many follow.
    pub(crate) left: u32,
    pub(crate) large: bool,
    /// Of the endpoint, not of the agent.
    pub(crate) genuine: bool,
}

#[derive(Default)]
pub(crate) struct Net {
    pub(crate) to_agent: VecDeque<Part>,
    pub(crate) to_client: VecDeque<Reply>,
    pub(crate) to_endpoint: [VecDeque<Part>; ENDPOINTS],
    pub(crate) from_endpoint: [VecDeque<Reply>; ENDPOINTS],
    /// Closed by the endpoint.
    pub(crate) gone: [bool; ENDPOINTS],
    /// Closed by the agent.
    pub(crate) left: [bool; ENDPOINTS],
    pub(crate) client_gone: bool,
    /// The agent has cut the client off.
    pub(crate) cut: bool,
    pub(crate) rings: bool,
    pub(crate) executed: Vec<u32>,
    /// Exchanges that the kernel half counted, and those that the agent reported as cut short.
    pub(crate) counted: Vec<u32>,
    pub(crate) reported: Vec<u32>,
    pub(crate) answered: Vec<Reply>,
}

/// A field that takes two accesses: read while it is written, it is torn.
#[derive(Default)]
pub(crate) struct Field(AtomicU32, AtomicU32);

impl Field {
    pub(crate) fn write(&self, value: u32) {
        self.0.store(value, SeqCst);
        self.1.store(value, SeqCst);
    }

    pub(crate) fn read(&self) -> u32 {
        let (one, other) = (self.0.load(SeqCst), self.1.load(SeqCst));
        assert_eq!(one, other, "a field was read while another wrote it");
        one
    }

    /// For keys, of which a torn one is nobody's.
    fn key(&self) -> usize {
        let (one, other) = (self.0.load(SeqCst), self.1.load(SeqCst));
        if one == other { one as usize } else { NOBODY as usize }
    }
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) word: AtomicU64,
    pub(crate) head: Field,
    /// One aligned word: never torn.
    pub(crate) started: AtomicU32,
    pub(crate) endpoint: Field,
    request_left: Field,
    answer_left: Field,
    net: Mutex<Net>,
    changed: Condvar,
}

impl World {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let world = Self { scenario, ..Self::default() };
        world.endpoint.write(NOBODY);
        world
    }

    /// Changes the sockets, and wakes who waits for that.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Net) -> T) -> T {
        let mut net = self.net.lock().unwrap();
        let told = change(&mut net);
        drop(net);
        self.changed.notify_all();
        told
    }

    /// Waits until something can be had.
    pub(crate) fn until<T>(&self, mut wanted: impl FnMut(&mut Net) -> Option<T>) -> T {
        let mut net: MutexGuard<'_, Net> = self.net.lock().unwrap();
        loop {
            if let Some(told) = wanted(&mut net) {
                return told;
            }
            net = self.changed.wait(net).unwrap();
        }
    }

    pub(crate) fn swap(&self, old: u64, new: u64) -> bool {
        self.word.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }

    /// The kernel half's program on the client's socket: the endpoint that gets the message, or the agent.
    pub(crate) fn asked(&self, part: Part, to_peer: u32) -> Option<usize> {
        let word = self.word.load(SeqCst);
        if word & REQUEST_OPEN != 0 {
            return self.request_goes_on();
        }
        let beginning = pair::begun(word, to_peer)?;
        let carriable = part.first && matches!(part.kind, Kind::Small | Kind::Body);
        if !carriable || !self.change(|net| net.to_client.is_empty()) || !self.swap(word, beginning) {
            return None;
        }
        self.change(|net| assert!(net.to_agent.is_empty(), "the agent has unread bytes"));
        self.started.store(part.id, SeqCst);
        self.head.write(part.id);
        self.request_left.write(u32::from(!part.last));
        let endpoint = self.endpoint.read() as usize;
        if !self.is_mapped(endpoint) {
            assert!(self.swap(beginning, pair::undone(beginning).unwrap()), "another owner");
            return None;
        }
        assert!(self.swap(beginning, pair::handed(beginning, !part.last).unwrap()), "another owner");
        Some(endpoint)
    }

    fn request_goes_on(&self) -> Option<usize> {
        let endpoint = self.endpoint.key();
        if !self.is_mapped(endpoint) {
            return None;
        }
        let left = self.request_left.read() - 1;
        self.request_left.write(left);
        if left == 0 {
            self.word.fetch_and(!REQUEST_OPEN, SeqCst);
        }
        Some(endpoint)
    }

    /// The kernel half's program on an endpoint's socket: true where the client gets the message.
    pub(crate) fn told(&self, endpoint: usize, reply: Reply) -> bool {
        let word = self.word.load(SeqCst);
        if self.endpoint.key() != endpoint {
            return false;
        }
        if word & ANSWER_OPEN == 0 {
            if word & (KERNEL | ANSWER_DUE) != KERNEL | ANSWER_DUE {
                return false;
            }
            let answered = |word| match reply.left {
                0 => pair::answered(word).and_then(pair::ending),
                _ => pair::answered(word),
            };
            if !self
                .within_exchange(word, |word| if reply.large { pair::turned(word) } else { answered(word) })
                || reply.large
            {
                return false;
            }
            self.answer_left.write(reply.left + 1);
        } else if reply.left == 0 && !self.within_exchange(word, pair::ending) {
            return false;
        }
        let left = self.answer_left.read() - 1;
        self.answer_left.write(left);
        if left == 0 {
            let id = self.started.load(SeqCst);
            self.change(|net| net.counted.push(id));
            self.word.fetch_and(!(ANSWER_OPEN | ANSWER_ENDS), SeqCst);
        }
        true
    }

    fn within_exchange(&self, of: u64, transition: impl Fn(u64) -> Option<u64>) -> bool {
        let mut word = of;
        while is_same_exchange(of, word) {
            let Some(to) = transition(word) else { return false };
            if self.swap(word, to) {
                return true;
            }
            word = self.word.load(SeqCst);
        }
        false
    }

    fn is_mapped(&self, endpoint: usize) -> bool {
        endpoint < ENDPOINTS && self.change(|net| !net.gone[endpoint] && !net.left[endpoint])
    }

    /// The exchange that the kernel half carries, and its word.
    pub(crate) fn carried(&self) -> Option<(u64, u32)> {
        let word = self.word.load(SeqCst);
        let carries = word & (KERNEL | BEGINNING) == KERNEL && word & (ANSWER_DUE | ANSWER_OPEN) != 0;
        let started = self.started.load(SeqCst);
        carries.then_some((word, started))
    }

    /// Whether everything ended as it should.
    pub(crate) fn check(&self) {
        let Scenario { requests, dies, late, .. } = &self.scenario;
        self.change(|net| {
            for id in 1..=u32::try_from(requests.len()).unwrap() {
                let executed = net.executed.iter().filter(|one| **one == id).count();
                assert!(executed <= 1, "request {id} was executed {executed} times");
            }
            for id in &net.counted {
                let told = net.counted.iter().chain(&net.reported).filter(|one| *one == id).count();
                assert!(told == 1, "request {id} was counted {told} times");
            }
            let may_be_cut = *dies || late.is_some();
            assert!(may_be_cut || !net.cut, "the client was cut off");
            if net.cut {
                return;
            }
            assert_eq!(net.answered.len(), requests.len(), "every request has one answer");
            for reply in &net.answered {
                let kind = requests[reply.id as usize - 1];
                let excused = kind == Kind::Denied || *dies || *late == Some(reply.id);
                assert!(reply.genuine || excused, "request {} never reached an endpoint", reply.id);
            }
            assert!(net.to_client.is_empty(), "an answer that nobody asked for");
        });
        assert!(!is_busy(self.word.load(SeqCst)), "an exchange without end");
    }
}
