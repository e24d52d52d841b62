//! Sees pods' cgroups come and go, on a thread of its own: inotify where it works, and a slow poll.

use crate::identity::{PodCgroup, pods};
use anyhow::Context;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How often the tree is looked at without an event.
const POLL: Duration = Duration::from_secs(1);

/// The running thread; stops when dropped.
#[derive(Debug)]
pub(super) struct PodWatch {
    stop: Arc<AtomicBool>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl PodWatch {
    /// Calls `changed` with all pods' cgroups, at once and whenever they are others. It may wait for a lock,
    /// but must not stop the watch.
    pub(super) fn start(
        parent: &Path,
        changed: impl Fn(Vec<PodCgroup>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (wake, signals) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let mut watched = Watched::new(parent, wake.clone());
        watched.follow();
        let mut seen = pods(parent);
        changed(seen.clone());
        let (parent, stopped) = (parent.to_owned(), Arc::clone(&stop));
        let watch = move || {
            while wait(&signals) && !stopped.load(Ordering::Relaxed) {
                watched.follow();
                let now = pods(&parent);
                if now != seen {
                    changed(now.clone());
                    seen = now;
                }
            }
        };
        let thread = std::thread::Builder::new().name("weir-pods".into());
        let thread = thread.spawn(watch).context("the thread that watches pods")?;
        Ok(Self { stop, wake, thread: Some(thread) })
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Full: it is awake already.
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch over pods panicked");
        }
    }
}

/// Until an event or the next poll; false when nobody can wake us any more.
fn wait(signals: &Receiver<()>) -> bool {
    !matches!(signals.recv_timeout(POLL), Err(RecvTimeoutError::Disconnected))
}

/// The directories that pods' cgroups are made in: the parent, and its classes of service.
struct Watched {
    parent: PathBuf,
    wake: SyncSender<()>,
    inotify: Option<RecommendedWatcher>,
    directories: HashSet<PathBuf>,
}

impl Watched {
    fn new(parent: &Path, wake: SyncSender<()>) -> Self {
        let tell = wake.clone();
        let inotify = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // A look opens directories, which is an event as well: it would be followed by the next one for ever.
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            // Full: a look is due anyway.
            let _ = tell.try_send(());
        });
        let inotify = inotify
            .inspect_err(|error| tracing::warn!(%error, "pods are seen up to a second late: no inotify"))
            .ok();
        Self { parent: parent.to_owned(), wake, inotify, directories: HashSet::new() }
    }

    /// Watches directories that are new.
    fn follow(&mut self) {
        let now: HashSet<PathBuf> = crate::identity::parents_of_pods(&self.parent).into_iter().collect();
        let Some(inotify) = &mut self.inotify else { return };
        for directory in now.difference(&self.directories) {
            match inotify.watch(directory, RecursiveMode::NonRecursive) {
                // What was made in it before the watch.
                Ok(()) => drop(self.wake.try_send(())),
                Err(error) => {
                    tracing::debug!(%error, directory = %directory.display(), "no inotify: polled");
                }
            }
        }
        self.directories = now;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::{fs, sync::mpsc, time::Instant};

    /// Waits until exactly these pods are there.
    fn expect(changes: &mpsc::Receiver<Vec<PodCgroup>>, wanted: &[&str]) {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let pods = changes.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap();
            let mut names: Vec<_> = pods.iter().map(|pod| pod.uid.to_string()).collect();
            names.sort();
            if names == wanted {
                return;
            }
        }
    }

    #[test]
    fn a_look_at_pods_is_no_reason_for_another_one() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir_all(parent.path().join("burstable/poda")).unwrap();
        let (wake, signals) = sync_channel(1);
        let mut watched = Watched::new(parent.path(), wake);
        watched.follow();
        assert_eq!(signals.recv(), Ok(()), "what was made before the watch");
        while signals.recv_timeout(Duration::from_millis(300)).is_ok() {}
        watched.follow();
        assert_eq!(pods(parent.path()).len(), 1);
        let woken = signals.recv_timeout(Duration::from_millis(300));
        assert_eq!(woken, Err(RecvTimeoutError::Timeout), "the look itself");
        fs::create_dir(parent.path().join("burstable/podb")).unwrap();
        assert_eq!(signals.recv_timeout(Duration::from_secs(10)), Ok(()), "a pod");
    }

    #[test]
    fn pods_are_seen_when_they_come_and_go_in_every_class_of_service() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("poda")).unwrap();
        let (told, changes) = mpsc::channel();
        let watch = PodWatch::start(parent.path(), move |pods| told.send(pods).unwrap()).unwrap();
        expect(&changes, &["a"]);
        fs::create_dir_all(parent.path().join("burstable/podb/container")).unwrap();
        expect(&changes, &["a", "b"]);
        fs::create_dir(parent.path().join("burstable/podc")).unwrap();
        expect(&changes, &["a", "b", "c"]);
        fs::remove_dir(parent.path().join("poda")).unwrap();
        expect(&changes, &["b", "c"]);
        drop(watch);
        assert!(changes.recv().is_err());
    }
}
