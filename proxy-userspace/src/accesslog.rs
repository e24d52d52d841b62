//! One JSON line per request, on a bounded queue that never blocks the data path.
//!
//! The data path moves a record into the queue; a thread of its own makes the line and writes it.
//! When the queue is full, or the target fails, lines are dropped and counted
//! (`weir_access_log_dropped_total`). A file may be renamed or removed at any time: within a second
//! the log goes on in a new file of the same name. No signal is needed.

mod carried;
mod line;
mod writer;

use crate::flow::RequestRecord;
use carried::Connections;
use prometheus_client::metrics::counter::Counter;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};
use writer::Output;

/// How long lines that the kernel half keeps in its ring buffer wait for the writer.
const PATIENCE: Duration = Duration::from_millis(200);

/// A handle on the writer; clones share its queue. The default one writes nothing.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    queue: Option<Arc<Queue>>,
}

#[derive(Debug)]
struct Queue {
    sender: SyncSender<Message>,
    dropped: Counter,
    /// Those whose requests the kernel half may carry.
    connections: Connections,
    /// The writer has let nothing through for [`PATIENCE`].
    stands_still: AtomicBool,
}

#[derive(Debug)]
enum Message {
    Line(Box<RequestRecord>),
    /// Everything before it is to be written; then the sender is dropped, nothing is sent.
    Finish(SyncSender<()>),
}

impl AccessLog {
    /// Starts the writer. `target` is `-` (standard output), `off` or a file to append to;
    /// `queue` records may wait for the writer; `dropped` counts lost lines. Fails when the file
    /// cannot be opened.
    pub fn start(target: &str, queue: usize, dropped: Counter) -> io::Result<Self> {
        let output = match target {
            "off" => return Ok(Self::default()),
            "-" => Output::standard(dropped.clone())?,
            path => Output::file(path.into(), dropped.clone())?,
        };
        Self::start_on(output, queue, dropped)
    }

    fn start_on(output: Output, queue: usize, dropped: Counter) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(queue);
        let pause = writer::pause(queue);
        thread::Builder::new()
            .name("weir-access-log".to_owned())
            .spawn(move || write_all(receiver, output, pause))?;
        let connections = Connections::default();
        Ok(Self {
            queue: Some(Arc::new(Queue {
                sender,
                dropped,
                connections,
                stands_still: AtomicBool::new(false),
            })),
        })
    }

    /// Queues the line. Waits for the writer where the queue is full, but not for one that stands still:
    /// then the line is dropped and counted.
    fn write_patiently(&self, record: RequestRecord) {
        let Some(queue) = &self.queue else { return };
        let mut message = Message::Line(Box::new(record));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match queue.sender.try_send(message) {
                Ok(()) => return queue.stands_still.store(false, Relaxed),
                Err(TrySendError::Full(again))
                    if !queue.stands_still.load(Relaxed) && Instant::now() < deadline =>
                {
                    message = again;
                }
                Err(_) => {
                    queue.stands_still.store(true, Relaxed);
                    queue.dropped.inc();
                    return;
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Queues the line; drops and counts it when the queue is full.
    pub fn write(&self, record: RequestRecord) {
        if let Some(queue) = &self.queue
            && queue.sender.try_send(Message::Line(Box::new(record))).is_err()
        {
            queue.dropped.inc();
        }
    }

    /// Writes what is queued and ends the writer; later lines are dropped. False when `timeout`
    /// was too short for the target.
    #[must_use]
    pub fn finish(&self, timeout: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let deadline = Instant::now() + timeout;
        let (written, wait) = sync_channel(1);
        let mut message = Message::Finish(written);
        loop {
            match queue.sender.try_send(message) {
                Ok(()) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    return wait.recv_timeout(left) != Err(RecvTimeoutError::Timeout);
                }
                Err(TrySendError::Disconnected(_)) => return true,
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => return false,
                Err(TrySendError::Full(again)) => message = again,
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The writer's thread. A producer pays for a wake-up only when the writer waits in `recv`: it
/// lets a batch gather first, so that this happens at most once in a pause, not once a request.
fn write_all(queue: Receiver<Message>, mut output: Output, pause: Duration) {
    while let Ok(first) = queue.recv() {
        thread::sleep(pause);
        let mut waiting = Vec::new();
        for message in [first].into_iter().chain(queue.try_iter()) {
            match message {
                Message::Line(record) => output.append(&record),
                Message::Finish(written) => waiting.push(written),
            }
        }
        output.flush();
        if !waiting.is_empty() {
            // First the queue: lines that come from now on are counted as dropped. Then `waiting`:
            // by that they know.
            drop(queue);
            return;
        }
    }
}

#[cfg(test)]
mod tests;
