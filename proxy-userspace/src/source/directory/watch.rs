//! Keeps a [`Snapshot`] up to date with a directory, on a thread of its own: inotify where it
//! works, and a slow poll for what inotify does not see (targets of symlinks, remounts).

use super::{Directory, Look, ReadError, Reading};
use crate::source::{manifest::file_error, publisher::Publisher};
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

/// What the directory is called where the age of the state is told.
const PART: &str = "directory";
/// A change is read once the directory has been quiet for so long, and nobody is in the middle of writing
/// a file there (who pauses between two writes is not done),
const QUIET: Duration = Duration::from_millis(20);
/// but no later than this after its first event.
const AT_MOST: Duration = Duration::from_millis(500);
/// How often the directory is looked at without an event.
const POLL: Duration = Duration::from_secs(2);
/// A look at the whole directory, without an event, takes no more than one part in so many of a processor.
const POLL_SHARE: u32 = 100;
/// Changed files that are remembered one by one.
const MAX_NOTICED: usize = 1000;
/// The longest wait before a failed reading is tried again without a change.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// A directory that was read once and can be watched.
pub struct Watch {
    directory: Directory,
    publisher: Publisher,
    retry: Option<Retry>,
}

/// When a failed reading is tried again.
#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    after: Duration,
}

impl Watch {
    /// Reads `dir` and publishes what it holds. An error where the directory or a file cannot be read;
    /// what else is wrong is logged.
    pub fn open(dir: &Path, publisher: Publisher) -> Result<Self, ReadError> {
        let mut directory = Directory::new(dir);
        let (objects, findings) = directory.read(Look::Everywhere)?;
        let mut watch = Self { directory, publisher, retry: None };
        watch.publish(Ok((objects, findings)));
        Ok(watch)
    }

    /// Where its snapshots come into force.
    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    /// Watches until the answer is dropped. A state that cannot be read keeps the last good
    /// snapshot, is logged and counted.
    pub fn spawn(self) -> io::Result<Watching> {
        let (wake, signals) = sync_channel(1);
        let wishes = Arc::<Wishes>::default();
        let watching = Watching { wake: wake.clone(), wishes: Arc::clone(&wishes) };
        let thread = std::thread::Builder::new().name("weir-watch".into());
        thread.spawn(move || self.run(&wake, &signals, &wishes))?;
        Ok(watching)
    }

    fn run(mut self, wake: &SyncSender<()>, signals: &Receiver<()>, wishes: &Wishes) {
        let mut inotify = Inotify::default();
        inotify.follow(&self.directory.dir, wake);
        // What changed since `open`.
        let (mut due, mut pause) = self.poll();
        loop {
            if let Some(look) = due {
                self.reload(look);
            }
            let woken = match signals.recv_timeout(pause) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let wished = woken && settle(signals, wishes, &inotify.writers);
            if wishes.stop.load(Ordering::Relaxed) {
                return;
            }
            let same = inotify.follow(&self.directory.dir, wake);
            // Whatever is noticed from here on wakes again.
            let noticed = inotify.writers.take();
            if woken {
                let all = wished || !same || self.retry.is_some();
                due = if all { Some(Look::Everywhere) } else { noticed };
            } else {
                (due, pause) = self.poll();
            }
        }
    }

    /// Without an event: did what is there change, or is a failed reading to be tried again? And when the
    /// next such look is due.
    fn poll(&self) -> (Option<Look>, Duration) {
        let begun = Instant::now();
        let due = self.retry.is_some_and(|retry| retry.at <= begun) || self.directory.has_changed();
        (due.then_some(Look::Everywhere), POLL.max(begun.elapsed().saturating_mul(POLL_SHARE)).min(MAX_RETRY))
    }

    fn reload(&mut self, look: Look) {
        let reading = self.directory.read(look);
        self.publish(reading);
    }

    fn publish(&mut self, reading: Reading) {
        match reading {
            Ok((objects, findings)) => {
                self.retry = None;
                self.publisher.freshness().current(PART);
                self.publisher.publish(&objects, findings);
            }
            Err(error) => self.keep(error),
        }
    }

    /// The last good snapshot stays.
    fn keep(&mut self, error: ReadError) {
        let after = self.retry.map_or(POLL, |retry| (2 * retry.after).min(MAX_RETRY));
        self.retry = Some(Retry { at: Instant::now() + after, after });
        let findings = match error {
            ReadError::Files(findings) => findings,
            ReadError::Directory { dir, why } => {
                vec![file_error(&dir.to_string_lossy(), 0, &format!("cannot be read: {why}"), "")]
            }
        };
        let why = findings.first().map(ToString::to_string).unwrap_or_default();
        self.publisher.freshness().stale(PART, &why);
        self.publisher.reject(&findings);
    }
}

/// A watch at work; ends when dropped.
#[derive(Debug)]
pub struct Watching {
    wake: SyncSender<()>,
    wishes: Arc<Wishes>,
}

/// What a watch does not wait with.
#[derive(Default, Debug)]
struct Wishes {
    stop: AtomicBool,
    reload: AtomicBool,
}

impl Wishes {
    /// Whether there is one; to reload is granted by that.
    fn any(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }
}

impl Watching {
    /// Reads the directory now, however quiet it is.
    pub fn reload(&self) {
        self.wish(&self.wishes.reload);
    }

    fn wish(&self, wish: &AtomicBool) {
        wish.store(true, Ordering::Relaxed);
        // Full means that it wakes anyway.
        let _ = self.wake.try_send(());
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.wish(&self.wishes.stop);
    }
}

/// Waits until no more signals come and every file is written to its end, but not for ever, and not
/// against a wish; whether there was one.
fn settle(signals: &Receiver<()>, wishes: &Wishes, writers: &Writers) -> bool {
    let begun = Instant::now();
    loop {
        if wishes.any() {
            return true;
        }
        let Some(left) = AT_MOST.checked_sub(begun.elapsed()) else { return false };
        if signals.recv_timeout(QUIET.min(left)).is_err() && !writers.any() {
            return false;
        }
    }
}

/// What was noticed about files.
#[derive(Clone, Default)]
struct Writers(Arc<Mutex<Noticed>>);

#[derive(Default)]
struct Noticed {
    /// Somebody has written to them and not closed them since.
    open: HashSet<PathBuf>,
    /// Their directory entries or contents are others since these were taken.
    changed: BTreeSet<PathBuf>,
    /// Some notices are lost, or there were too many.
    lost: bool,
}

impl Writers {
    fn any(&self) -> bool {
        !self.0.lock().open.is_empty()
    }

    /// Where something has changed since this was last called; `None` where nothing is known to have.
    fn take(&self) -> Option<Look> {
        let mut noticed = self.0.lock();
        let (changed, lost) = (std::mem::take(&mut noticed.changed), std::mem::take(&mut noticed.lost));
        match (lost, changed.is_empty()) {
            (true, _) => Some(Look::Everywhere),
            (false, false) => Some(Look::At(changed)),
            (false, true) => None,
        }
    }

    fn lose(&self) {
        self.0.lock().lost = true;
    }

    fn note_change(&self, event: &Event) {
        let mut noticed = self.0.lock();
        noticed.lost |= event.need_rescan() || event.paths.is_empty();
        noticed.changed.extend(event.paths.iter().cloned());
        if noticed.changed.len() > MAX_NOTICED {
            noticed.changed.clear();
            noticed.lost = true;
        }
    }

    fn note(&self, event: &Event) {
        let open = &mut self.0.lock().open;
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => open.extend(event.paths.iter().cloned()),
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => event.paths.iter().for_each(|path| {
                open.remove(path);
            }),
            _ => {}
        }
    }
}

/// The kernel's notices about one directory, whichever inode its path leads to by now.
#[derive(Default)]
struct Inotify {
    writers: Writers,
    attached: Option<((u64, u64), RecommendedWatcher)>,
    failure: String,
}

impl Inotify {
    /// False if it was not followed until now: what has changed there is not known.
    fn follow(&mut self, dir: &Path, wake: &SyncSender<()>) -> bool {
        let Ok(metadata) = fs::metadata(dir) else {
            self.attached = None;
            return false;
        };
        let inode = (metadata.dev(), metadata.ino());
        if self.attached.as_ref().is_some_and(|(attached, _)| *attached == inode) {
            return true;
        }
        self.writers = Writers::default();
        match attach(dir, wake.clone(), self.writers.clone()) {
            Ok(watcher) => self.attached = Some((inode, watcher)),
            Err(error) => {
                self.attached = None;
                let failure = error.to_string();
                if self.failure != failure {
                    tracing::warn!(
                        "inotify on {}: {failure}; changes are found every {POLL:?}",
                        dir.display()
                    );
                    self.failure = failure;
                }
            }
        }
        false
    }
}

fn attach(dir: &Path, wake: SyncSender<()>, writers: Writers) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let changed = match event {
            Ok(event) => {
                writers.note(&event);
                let changed = is_change(event.kind) || event.need_rescan();
                if changed {
                    writers.note_change(&event);
                }
                changed
            }
            Err(_) => {
                writers.lose();
                true
            }
        };
        if changed {
            // Full: the watch has yet to see the previous one, and reads after it.
            let _ = wake.try_send(());
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Our own reading opens files, too.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::{
        metrics::Format,
        snapshot::{BuildOptions, Snapshot},
        status::Board,
    };
    use arc_swap::ArcSwap;
    use std::{io::Write as _, os::unix::fs::symlink};
    use tempfile::TempDir;

    fn service(name: &str, ip: u8) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{clusterIP: 10.96.0.{ip}, ports: [{{port: 8080}}]}}\n"
        )
    }

    fn board() -> Arc<Board> {
        Arc::new(Board::new(Arc::default()))
    }

    struct Fixture {
        dir: TempDir,
        current: Arc<ArcSwap<Snapshot>>,
        board: Arc<Board>,
        watching: Watching,
    }

    fn watched(prepare: impl FnOnce(&Path)) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let board = board();
        let publisher = Publisher::new(BuildOptions::default(), Arc::clone(&board));
        let current = publisher.snapshot();
        let watch = Watch::open(dir.path(), publisher).unwrap();
        Fixture { dir, current, board, watching: watch.spawn().unwrap() }
    }

    impl Fixture {
        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn names(&self) -> Vec<String> {
            self.current.load().clusters.iter().map(|cluster| cluster.name.to_string()).collect()
        }

        fn frontend(&self) -> String {
            self.current.load().clusters[0].frontends[0].to_string()
        }

        fn readings(&self, result: &str) -> u64 {
            let text = self.board.metrics().text(Format::Prometheus).unwrap();
            let series = format!("weir_config_reloads_total{{result=\"{result}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
        }
    }

    fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_change_comes_into_force() {
        let fixture = watched(|dir| fs::write(dir.join("a.yaml"), service("a", 1)).unwrap());
        assert_eq!(fixture.current.load().generation, 1);
        fixture.write("b.yaml", &service("b", 2));
        eventually("b is there", || fixture.names() == ["default/a:8080", "default/b:8080"]);
        assert_eq!(fixture.current.load().generation, 2);
        fs::remove_file(fixture.path("a.yaml")).unwrap();
        eventually("a is gone", || fixture.names() == ["default/b:8080"]);
    }

    #[test]
    fn a_writer_that_pauses_is_waited_for() {
        let fixture = watched(|dir| fs::write(dir.join("a.yaml"), service("a", 1)).unwrap());
        fixture.write("a2.yaml", &service("a2", 9));
        eventually("the directory is watched", || fixture.names().len() == 2);
        let begun = Instant::now();
        let mut file = fs::File::create(fixture.path("b.yaml")).unwrap();
        file.write_all(service("b", 2).as_bytes()).unwrap();
        // Longer than it takes to read a quiet directory: what is there so far is whole, and not all.
        std::thread::sleep(4 * QUIET);
        let half = fixture.names();
        let in_time = begun.elapsed() < AT_MOST / 2;
        file.write_all(format!("---\n{}", service("c", 3)).as_bytes()).unwrap();
        drop(file);
        eventually("all is there", || fixture.names().len() == 4);
        assert!(half == ["default/a2:8080", "default/a:8080"] || !in_time, "{half:?}");
    }

    #[test]
    fn a_wish_to_reload_is_granted_without_a_change() {
        let fixture = watched(|dir| fs::write(dir.join("a.yaml"), service("a", 1)).unwrap());
        for _ in 0..3 {
            let before = fixture.readings("success");
            fixture.watching.reload();
            eventually("it was read", || fixture.readings("success") > before);
        }
        assert_eq!(fixture.current.load().generation, 1);
    }

    #[test]
    fn a_swapped_config_map_comes_into_force() {
        let fixture = watched(|dir| {
            fs::create_dir(dir.join("..1")).unwrap();
            fs::write(dir.join("..1/a.yaml"), service("a", 1)).unwrap();
            symlink("..1", dir.join("..data")).unwrap();
            symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
        });
        assert_eq!(fixture.frontend(), "10.96.0.1:8080");
        for version in 2..5 {
            let dir = fixture.path(&format!("..{version}"));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("a.yaml"), service("a", version)).unwrap();
            symlink(format!("..{version}"), fixture.path("..data_tmp")).unwrap();
            fs::rename(fixture.path("..data_tmp"), fixture.path("..data")).unwrap();
            fs::remove_dir_all(fixture.path(&format!("..{}", version - 1))).unwrap();
            eventually("the new version", || fixture.frontend() == format!("10.96.0.{version}:8080"));
        }
    }

    #[test]
    fn c1_a_broken_or_truncated_file_keeps_the_last_good_state() {
        let fixture = watched(|dir| fs::write(dir.join("a.yaml"), service("a", 1)).unwrap());
        let mut failures = 0;
        for text in ["a: [", "", &service("a", 2)[..60]] {
            fixture.write("a.yaml", text);
            eventually("the failure is counted", || fixture.readings("failure") > failures);
            failures = fixture.readings("failure");
            let error = fixture.board.status().config.error.unwrap();
            assert!(error.contains("a.yaml"), "{error}");
            assert_eq!(fixture.frontend(), "10.96.0.1:8080");
            assert_eq!(fixture.current.load().generation, 1);
        }
        assert!(
            fixture
                .board
                .metrics()
                .text(Format::Prometheus)
                .unwrap()
                .contains("weir_config_last_reload_success 0")
        );
        fixture.write("a.yaml", &service("a", 3));
        eventually("the repair", || fixture.frontend() == "10.96.0.3:8080");
        assert!(
            fixture
                .board
                .metrics()
                .text(Format::Prometheus)
                .unwrap()
                .contains("weir_config_last_reload_success 1")
        );
    }

    #[test]
    fn an_invalid_object_does_not_hold_up_the_others() {
        let fixture = watched(|dir| fs::write(dir.join("a.yaml"), service("a", 1)).unwrap());
        fixture.write("b.yaml", &format!("{}---\n{}", service("B", 2), service("c", 3)));
        eventually("c is there", || fixture.names() == ["default/a:8080", "default/c:8080"]);
        eventually("B is named", || {
            fixture
                .board
                .status()
                .config
                .error
                .is_some_and(|error| error.contains("b.yaml:1 Service default/B"))
        });
    }

    #[test]
    fn f26_a_flapping_directory_is_applied_while_it_flaps() {
        let fixture = watched(|dir| fs::write(dir.join("a.yaml"), service("a", 1)).unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut last = 0;
        for change in 0_u8.. {
            last = change % 100 + 1;
            fixture.write("a.tmp", &service("a", last));
            fs::rename(fixture.path("a.tmp"), fixture.path("a.yaml")).unwrap();
            if fixture.current.load().generation >= 3 || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(fixture.current.load().generation >= 3, "nothing was applied under 100 changes/s");
        eventually("the last change wins", || fixture.frontend() == format!("10.96.0.{last}:8080"));
    }

    #[test]
    fn the_same_state_again_is_no_new_generation() {
        let fixture = watched(|dir| fs::write(dir.join("a.yaml"), service("a", 1)).unwrap());
        let before = fixture.readings("success");
        fixture.write("a.yaml", &format!("# a comment\n{}", service("a", 1)));
        eventually("it is read", || fixture.readings("success") > before);
        assert_eq!(fixture.current.load().generation, 1);
    }

    #[test]
    fn a_removed_directory_keeps_the_last_good_state_until_it_comes_back() {
        let fixture = watched(|dir| {
            fs::write(dir.join("a.yaml"), service("a", 1)).unwrap();
        });
        fs::remove_dir_all(fixture.dir.path()).unwrap();
        eventually("the failure is counted", || fixture.readings("failure") > 0);
        assert_eq!(fixture.names(), ["default/a:8080"]);
        fs::create_dir(fixture.dir.path()).unwrap();
        fixture.write("b.yaml", &service("b", 2));
        eventually("the new directory is read", || fixture.names() == ["default/b:8080"]);
        fixture.write("b.yaml", &service("c", 3));
        eventually("and watched", || fixture.names() == ["default/c:8080"]);
    }

    #[test]
    fn what_inotify_does_not_see_is_found_by_the_poll() {
        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("a.yaml");
        fs::write(&target, service("a", 1)).unwrap();
        let fixture = watched(|dir| symlink(&target, dir.join("a.yaml")).unwrap());
        fs::write(&target, service("a", 2)).unwrap();
        eventually("the target's change", || fixture.frontend() == "10.96.0.2:8080");
    }

    #[test]
    fn consumers_are_woken_by_each_generation() {
        let dir = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(BuildOptions::default(), board());
        let mut generations = publisher.generations();
        let watch = Watch::open(dir.path(), publisher).unwrap();
        assert_eq!(*generations.borrow_and_update(), 1);
        let _watching = watch.spawn().unwrap();
        fs::write(dir.path().join("a.yaml"), service("a", 1)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let woken = async { tokio::time::timeout(Duration::from_secs(20), generations.changed()).await };
        runtime.block_on(woken).unwrap().unwrap();
        assert_eq!(*generations.borrow(), 2);
    }
}
