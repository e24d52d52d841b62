#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use crate::flow::tests::record;
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::OwnedFd,
};

const LONG: Duration = Duration::from_secs(30);

fn numbered(number: usize) -> RequestRecord {
    RequestRecord { request_id: format!("id-{number}"), ..record() }
}

fn ids(text: &str) -> Vec<String> {
    let values = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    values.map(|value| value["x_request_id"].as_str().unwrap().to_owned()).collect()
}

fn pipe() -> (File, File) {
    let (read, write): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    (read.into(), write.into())
}

fn on(file: File, queue: usize, dropped: &Counter) -> AccessLog {
    AccessLog::start_on(Output::opened(file, dropped.clone()), queue, dropped.clone()).unwrap()
}

fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never came true");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn every_line_is_in_the_file_after_finish() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    fs::write(&path, "what was there\n").unwrap();
    let log = AccessLog::start(path.to_str().unwrap(), 4096, Counter::default()).unwrap();
    (0..1000).for_each(|number| log.write(numbered(number)));
    assert!(log.finish(LONG));
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.strip_prefix("what was there\n").unwrap();
    assert_eq!(ids(lines), (0..1000).map(|number| format!("id-{number}")).collect::<Vec<_>>());
}

#[test]
fn lines_after_finish_are_counted_as_dropped() {
    let dropped = Counter::default();
    let (_read, write) = pipe();
    let log = on(write, 16, &dropped);
    assert!(log.finish(LONG));
    log.write(record());
    assert_eq!(dropped.get(), 1);
    assert!(log.finish(LONG), "a second finish has nothing to do");
}

#[test]
fn off_writes_nothing_and_counts_nothing() {
    let dropped = Counter::default();
    let log = AccessLog::start("off", 16, dropped.clone()).unwrap();
    log.write(record());
    assert!(log.finish(Duration::ZERO));
    assert_eq!(dropped.get(), 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
    let error = AccessLog::start("/nonexistent/dir/log", 16, Counter::default()).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/dir/log: "), "{error}");
}

#[test]
fn f19_a_reader_that_does_not_read_costs_lines_and_never_blocks_the_data_path() {
    const LINES: usize = 5000;
    let dropped = Counter::default();
    let (mut read, write) = pipe();
    // Less than a queue of lines, so that the writer is stuck however late it gets to run.
    rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
    let log = on(write, 64, &dropped);
    let started = Instant::now();
    (0..LINES).for_each(|number| log.write(numbered(number)));
    until(|| dropped.get() > 0);
    assert!(started.elapsed() < Duration::from_secs(10), "5000 lines took {:?}", started.elapsed());
    assert!(!log.finish(Duration::from_millis(50)), "finish gives up on a blocked target");

    let reader = thread::spawn(move || {
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        text
    });
    assert!(log.finish(LONG));
    drop(log);
    let written = ids(&reader.join().unwrap());
    assert_eq!(
        written.len() + usize::try_from(dropped.get()).unwrap(),
        LINES,
        "each line is written or counted"
    );
    let order: Vec<usize> =
        written.iter().map(|id| id.strip_prefix("id-").unwrap().parse().unwrap()).collect();
    assert!(order.is_sorted_by(|a, b| a < b), "in order, none twice");
}

#[test]
fn a_non_blocking_target_is_waited_for() {
    let dropped = Counter::default();
    let (mut read, write) = pipe();
    rustix::fs::fcntl_setfl(&write, rustix::fs::OFlags::NONBLOCK).unwrap();
    let log = on(write, 4096, &dropped);
    (0..1000).for_each(|number| log.write(numbered(number)));
    let reader = thread::spawn(move || {
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        text
    });
    assert!(log.finish(LONG));
    drop(log);
    assert_eq!(ids(&reader.join().unwrap()).len(), 1000);
    assert_eq!(dropped.get(), 0);
}

#[test]
fn f19_a_full_disk_costs_lines_that_are_counted() {
    let dropped = Counter::default();
    let log = AccessLog::start("/dev/full", 64, dropped.clone()).unwrap();
    (0..10).for_each(|number| log.write(numbered(number)));
    assert!(log.finish(LONG));
    assert_eq!(dropped.get(), 10);
}

#[test]
fn f19_a_torn_line_is_completed_when_the_target_recovers_and_the_lines_after_it_are_dropped() {
    let dropped = Counter::default();
    let (mut read, mut write) = pipe();
    let mut output = Output::opened(write.try_clone().unwrap(), dropped.clone());
    let mut line = String::new();
    line::append(&mut line, &numbered(0)).unwrap();
    (0..3).for_each(|number| output.append(&numbered(number)));
    let (taken, _) = line.split_at(10);
    write.write_all(taken.as_bytes()).unwrap();
    output.settle(10, &Err(io::ErrorKind::StorageFull.into()));
    output.settle(0, &Err(io::ErrorKind::StorageFull.into()));
    output.append(&numbered(3));
    output.flush();
    drop((output, write));
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(ids(&text), ["id-0", "id-3"]);
    assert_eq!(dropped.get(), 2);
}

#[test]
fn f19_a_reader_that_is_gone_costs_lines_that_are_counted() {
    let dropped = Counter::default();
    let (read, write) = pipe();
    drop(read);
    let log = on(write, 64, &dropped);
    (0..10).for_each(|number| log.write(numbered(number)));
    assert!(log.finish(LONG));
    assert_eq!(dropped.get(), 10);
}

#[test]
fn a_renamed_file_is_followed_by_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let rotated = dir.path().join("access.log.1");
    let log = AccessLog::start(path.to_str().unwrap(), 4096, Counter::default()).unwrap();
    log.write(numbered(0));
    until(|| fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    fs::rename(&path, &rotated).unwrap();
    until(|| {
        log.write(numbered(1));
        path.exists()
    });
    log.write(numbered(2));
    assert!(log.finish(LONG));
    let after = ids(&fs::read_to_string(&path).unwrap());
    assert_eq!(after.last().map(String::as_str), Some("id-2"));
    assert_eq!(ids(&fs::read_to_string(&rotated).unwrap()).first().map(String::as_str), Some("id-0"));
}
