//! What the kernel half is and does, for metrics and `weir status`.

use super::{
    Datapath, Kernel, MAX_PATHS, MAX_VERDICTS, MAX_WORKLOADS, SelfTest, tables::Table, tallies::MAX_TALLIES,
};
use crate::{
    config::Acceleration,
    status::{Board, KernelStatus, KernelView, MapStatus, Mode, OpenFlows, ProgramStatus, SelfTest as Check},
};
use aya::Pod;
use clap::ValueEnum;
use proxy_common::{
    abi::{END_OPENER_GONE, Flow, HOP_DOWNSTREAM, counter},
    tally::{Tally, TallyKey},
};
use std::sync::Arc;

impl Datapath {
    /// Writes down how connections and bytes travel, what the self-test found and what does not work as
    /// configured.
    pub fn report(&self, board: &Board) {
        let Some(kernel) = &self.kernel else {
            board.mode(Mode { steering: "iptables".into(), acceleration: "off".into(), ..Mode::default() });
            return;
        };
        let (wanted, active) = (kernel.wanted, kernel.accelerates());
        board.mode(Mode {
            steering: "ebpf".into(),
            acceleration: wanted.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned()),
            redirect_to_agent: active,
            redirect_to_applications: active && wanted != Acceleration::AgentOnly,
            self_test: kernel.self_test.as_ref().map(checks).unwrap_or_default(),
        });
        for degraded in &kernel.degraded {
            board.degraded(degraded.clone());
        }
        board.kernel(Arc::clone(kernel) as Arc<dyn KernelView>);
    }
}

fn checks(found: &SelfTest) -> Vec<Check> {
    let check = |check: &str, passed, wrong: &str| Check {
        check: check.into(),
        passed,
        detail: if passed { "as without the socket map".into() } else { wrong.into() },
    };
    let lane_broken = found.lane_broken.as_deref().unwrap_or_default();
    let lane = check("splice lane", found.proves_the_lane(), lane_broken);
    let basics = "bytes, order, half-close, sendfile, peek, leaving the map";
    [
        check(basics, found.broken.is_none(), found.broken.as_deref().unwrap_or_default()),
        check(
            "splice(2)",
            found.splice,
            "reads end of file for redirected bytes: who calls it is left alone",
        ),
        check(
            "blocking recv(2)",
            found.blocking,
            "fails with EAGAIN when a FIN is acknowledged: clients that block are left alone",
        ),
        check("FIONREAD", found.fionread, "miscounts on a mapped socket: who calls it is left alone"),
    ]
    .into_iter()
    .chain(found.lane_tried.then_some(lane))
    .collect()
}

impl KernelView for Kernel {
    fn kernel_status(&self) -> anyhow::Result<KernelStatus> {
        let values: Vec<u64> = (0..counter::COUNT).map(|index| self.tables.counter(index)).collect();
        Ok(KernelStatus {
            programs: self.programs()?,
            maps: self.maps(),
            counters: KernelStatus::named_counters(&values),
            workloads: self.workloads.counts(),
            open_flows: self.open_flows(),
            pairs: self.pairs.as_ref().map(|pairs| pairs.counts()),
        })
    }

    fn tallies(&self) -> anyhow::Result<Vec<(TallyKey, Tally)>> {
        self.tallies.read()
    }

    fn forget_tally(&self, key: &TallyKey) -> anyhow::Result<()> {
        self.tallies.remove(key)
    }
}

impl Kernel {
    fn programs(&self) -> anyhow::Result<Vec<ProgramStatus>> {
        let ebpf = self.ebpf.lock();
        let status = |(name, program): (&str, &aya::programs::Program)| {
            let info = program.info()?;
            Ok(ProgramStatus {
                name: name.to_owned(),
                id: info.id(),
                verified_instructions: info.verified_instruction_count(),
                run_time_ns: u64::try_from(info.run_time().as_nanos()).ok(),
                run_count: Some(info.run_count()),
            })
        };
        ebpf.programs().map(status).collect()
    }

    fn maps(&self) -> Vec<MapStatus> {
        let (tables, sizes) = (&self.tables, &self.sizes);
        let [subjects, peers, verdicts] = self.access.lock().len();
        let held = |name: &str, entries: usize, capacity: u32| MapStatus {
            name: name.to_owned(),
            entries: entries as u64,
            capacity: capacity.into(),
        };
        vec![
            held("SUBJECTS", subjects, MAX_WORKLOADS),
            held("PEERS", peers, sizes.services),
            held("VERDICTS", verdicts, MAX_VERDICTS),
            fill(&tables.services, sizes.services),
            fill(&tables.endpoints, sizes.services),
            fill(&tables.orig_dst, sizes.flows),
            fill(&tables.flows, sizes.flow_records),
            fill(&tables.upstreams, sizes.flows),
            fill(&tables.states, sizes.sockets),
            fill(&tables.workloads, MAX_WORKLOADS),
            fill(&tables.admitted, MAX_WORKLOADS),
            MapStatus {
                name: "PATHS".to_owned(),
                entries: self.policies.lock().nodes() as u64,
                capacity: MAX_PATHS.into(),
            },
            MapStatus {
                name: "SPLICED".to_owned(),
                entries: self.tallies.len() as u64,
                capacity: MAX_TALLIES.into(),
            },
        ]
    }

    fn open_flows(&self) -> OpenFlows {
        let mut open = OpenFlows::default();
        let open_now = |flow: &Flow| flow.ends & END_OPENER_GONE == 0;
        for flow in self.tables.flows.values().filter(open_now) {
            if flow.hop == HOP_DOWNSTREAM {
                open.downstream += 1;
            } else {
                open.upstream += 1;
            }
        }
        open
    }
}

fn fill<K: Pod, V: Pod>(table: &Table<K, V>, capacity: u32) -> MapStatus {
    MapStatus { name: table.name().to_owned(), entries: table.len() as u64, capacity: capacity.into() }
}
