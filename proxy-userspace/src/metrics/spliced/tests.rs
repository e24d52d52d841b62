//! Counts of the kernel half become counts of the families, once each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;
use crate::{flow::LaneLabel, status::KernelStatus};
use proxy_common::{
    policy::method,
    tally::{OVERFLOW, bucket},
};

#[derive(Debug, Default)]
struct View(Mutex<HashMap<TallyKey, Tally>>);

impl View {
    fn counts(&self, key: TallyKey, by: u64) {
        let mut tallies = self.0.lock();
        let tally = tallies.entry(key).or_default();
        tally.exchange[bucket(300_000)] += by;
        tally.first_byte[bucket(100_000)] += by;
        tally.body[bucket(200_000)] += by;
        tally.first_byte_ns += by * 100_000;
        tally.body_ns += by * 200_000;
    }
}

impl KernelView for View {
    fn kernel_status(&self) -> anyhow::Result<KernelStatus> {
        Ok(KernelStatus::default())
    }

    fn tallies(&self) -> anyhow::Result<Vec<(TallyKey, Tally)>> {
        Ok(self.0.lock().iter().map(|(key, tally)| (*key, *tally)).collect())
    }

    fn forget_tally(&self, key: &TallyKey) -> anyhow::Result<()> {
        self.0.lock().remove(key);
        Ok(())
    }
}

fn names(source: &str) -> Names {
    ["default/web:8080".into(), source.into(), "default/server".into()]
}

fn get(series: u32, status: u32) -> TallyKey {
    TallyKey { series, method: method::GET, status }
}

/// Time that goes on with every look.
struct Clock(Instant);

impl Clock {
    fn later(&mut self, by: Duration) -> Instant {
        self.0 += by;
        self.0
    }
}

#[test]
fn what_is_read_twice_is_counted_once() {
    let (spliced, requests, view) = (Spliced::new(), Requests::new(), View::default());
    let mut clock = Clock(Instant::now());
    let series = spliced.series(names("default/client"));
    for _ in 0..3 {
        view.counts(get(series.id, 200), 5);
        spliced.collect(&view, &requests, clock.later(FRESH));
        spliced.collect(&view, &requests, clock.later(FRESH));
    }
    assert_eq!(requests.carried_by(LaneLabel::Splice), 15);
}

#[test]
fn concurrent_looks_count_once() {
    let (spliced, requests, view) = (Spliced::new(), Requests::new(), View::default());
    let series = spliced.series(names("default/client"));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 1..200 {
                    view.counts(get(series.id, 200), 1);
                    spliced.collect(&view, &requests, began + FRESH * round);
                }
            });
        }
    });
    spliced.collect(&view, &requests, began + FRESH * 1000);
    assert_eq!(requests.carried_by(LaneLabel::Splice), 4 * 199);
}

#[test]
fn the_same_names_have_one_number_and_full_is_number_zero() {
    let spliced = Spliced::new();
    let first = spliced.series(names("a"));
    assert_eq!(first.id, spliced.series(names("a")).id);
    let held: Vec<_> = (0..SERIES_LIMIT).map(|n| spliced.series(names(&format!("ns/{n}")))).collect();
    assert_eq!(held.last().unwrap().id, 0);
    assert_ne!(held[0].id, first.id);
}

#[test]
fn a_series_that_nobody_holds_retires_with_its_last_count_and_a_held_one_stays() {
    let (spliced, requests, view) = (Spliced::new(), Requests::new(), View::default());
    let mut clock = Clock(Instant::now());
    let held = spliced.series(names("held"));
    let dropped = spliced.series(names("dropped")).id;
    view.counts(get(held.id, 200), 1);
    view.counts(get(dropped, 200), 1);
    spliced.collect(&view, &requests, clock.later(FRESH));
    view.counts(get(dropped, 200), 1);
    spliced.collect(&view, &requests, clock.later(REST / 2));
    spliced.collect(&view, &requests, clock.later(REST / 2));
    spliced.collect(&view, &requests, clock.later(FRESH));
    assert_eq!(requests.carried_by(LaneLabel::Splice), 3);
    assert_eq!(view.0.lock().keys().copied().collect::<Vec<_>>(), [get(held.id, 200)]);
    let again = spliced.series(names("dropped"));
    assert_ne!(again.id, dropped, "a number is not used again");
    view.counts(get(again.id, 200), 1);
    spliced.collect(&view, &requests, clock.later(FRESH));
    assert_eq!(requests.carried_by(LaneLabel::Splice), 4);
}

#[test]
fn what_found_no_room_is_counted_too() {
    let (spliced, requests, view) = (Spliced::new(), Requests::new(), View::default());
    view.counts(OVERFLOW, 3);
    let unnamed = TallyKey { series: 0, ..get(0, 200) };
    view.counts(unnamed, 2);
    spliced.collect(&view, &requests, Instant::now());
    assert_eq!(requests.carried_by(LaneLabel::Splice), 5);
}
