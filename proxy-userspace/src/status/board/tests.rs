#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::{
    snapshot::{Cluster, Lane},
    status::{KernelStatus, MapStatus},
    testing,
};

fn board() -> Board {
    Board::new(Arc::new(Metrics::default()))
}

fn word(what: &str, why: &str) -> Degraded {
    Degraded { what: what.to_owned(), why: why.to_owned(), fix: "mend it".to_owned() }
}

#[derive(Debug)]
struct Maps(Vec<MapStatus>);

impl KernelView for Maps {
    fn kernel_status(&self) -> anyhow::Result<KernelStatus> {
        anyhow::ensure!(!self.0.is_empty(), "no such map");
        Ok(KernelStatus { maps: self.0.clone(), ..KernelStatus::default() })
    }
}

fn map(name: &str, entries: u64) -> MapStatus {
    MapStatus { name: name.to_owned(), entries, capacity: 1000 }
}

#[test]
fn a_rejected_reading_is_told_and_leaves_what_is_in_force() {
    let board = board();
    board.config_applied(Arc::new(Snapshot { generation: 3, ..Snapshot::default() }), None);
    assert_eq!(board.status().degraded, []);
    board.config_rejected("web.yaml:3: port 0".to_owned());
    let status = board.status();
    assert_eq!(status.config.generation, 3);
    assert_eq!(status.config.error.as_deref(), Some("web.yaml:3: port 0"));
    assert_eq!(status.degraded.first().unwrap().what, "configuration");
    board.config_applied(Arc::new(Snapshot { generation: 4, ..Snapshot::default() }), None);
    assert_eq!(board.status().degraded, []);
}

#[test]
fn the_metrics_tell_the_fate_of_every_reading() {
    let board = board();
    board.config_applied(Arc::new(Snapshot { generation: 7, ..Snapshot::default() }), None);
    board.config_rejected("no".to_owned());
    board.config_applied(
        Arc::new(Snapshot { generation: 8, ..Snapshot::default() }),
        Some("partly".to_owned()),
    );
    let text = board.metrics().text(crate::metrics::Format::Prometheus).unwrap();
    for line in [
        "weir_config_last_reload_success 0",
        "weir_config_reloads_total{result=\"success\"} 1",
        "weir_config_reloads_total{result=\"failure\"} 2",
        "weir_config_generation 8",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
    }
}

#[test]
fn a_word_about_the_same_thing_replaces_the_earlier_one_until_it_recovers() {
    let board = board();
    board.degraded(word("acceleration", "old"));
    board.degraded(word("steering", "other"));
    board.degraded(word("acceleration", "new"));
    let told = board.status().degraded;
    assert_eq!(told, [word("steering", "other"), word("acceleration", "new")]);
    board.recovered("acceleration");
    assert_eq!(board.status().degraded, [word("steering", "other")]);
}

#[test]
fn a_map_that_is_nearly_full_is_told_with_its_flag() {
    let board = board();
    board.kernel(Arc::new(Maps(vec![map("FLOWS", 899), map("SERVICES", 900)])));
    let told = board.status().degraded;
    assert_eq!(told.len(), 1, "{told:?}");
    let told = told.first().unwrap();
    assert_eq!((told.what.as_str(), told.fix.as_str()), ("map SERVICES", "raise --max-services"));
    assert_eq!(told.why, "900 of 1000 entries are in use");
}

#[test]
fn a_kernel_half_that_cannot_be_read_is_told() {
    let board = board();
    board.kernel(Arc::new(Maps(vec![])));
    let status = board.status();
    assert_eq!(status.kernel, None);
    assert_eq!(status.degraded.first().unwrap().why, "no such map");
}

#[test]
fn clusters_show_their_lane_and_every_endpoint() {
    let endpoints = ["10.0.0.2:80", "10.0.0.3:80"].map(|addr| addr.parse().unwrap());
    let mut cluster = Cluster { lane: Lane::Pass, ..testing::cluster_of(&endpoints) };
    let leaving = cluster.endpoints.last_mut().unwrap();
    (leaving.ready, leaving.terminating) = (false, true);
    let board = board();
    let snapshot = Snapshot { clusters: vec![Arc::new(cluster)].into(), ..Snapshot::default() };
    board.config_applied(Arc::new(snapshot), None);
    let clusters = board.status().clusters;
    let shown = clusters.first().unwrap();
    assert_eq!((shown.name.as_str(), shown.lane.as_str()), ("default/web:8080", "pass"));
    let states: Vec<_> =
        shown.endpoints.iter().map(|one| (one.ready, one.serving, one.terminating)).collect();
    assert_eq!(states, [(true, true, false), (false, true, true)]);
}
