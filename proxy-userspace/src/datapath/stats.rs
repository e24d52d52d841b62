//! What the kernel half is and does, for metrics and `weir status`.

use super::{Kernel, SelfTest, workloads::WorkloadCounts};
use proxy_common::abi::counter;
use serde::Serialize;

/// A look at the kernel half now.
#[derive(Clone, Debug, Serialize)]
pub struct KernelStats {
    /// Every loaded program.
    pub programs: Vec<ProgramStats>,
    /// Every table, with its fill.
    pub maps: Vec<MapFill>,
    /// The kernel half's counters, by name.
    pub counters: Vec<(&'static str, u64)>,
    /// Workloads by acceleration state.
    pub workloads: WorkloadCounts,
    /// What the boot self-test found.
    pub self_test: Option<SelfTest>,
    /// What does not work as configured, and why.
    pub degraded: Vec<Degraded>,
}

/// One loaded program.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramStats {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// The kernel's id.
    pub id: u32,
    /// Instructions that the verifier looked at.
    pub verified_instructions: u32,
    /// Nanoseconds it ran, while statistics were on.
    pub run_time_ns: u64,
    /// Runs, while statistics were on.
    pub run_count: u64,
}

/// One table.
#[derive(Clone, Debug, Serialize)]
pub struct MapFill {
    /// Its name.
    pub name: &'static str,
    /// Entries now.
    pub entries: usize,
    /// Entries that fit.
    pub capacity: u32,
}

/// Something that does not work as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Degraded {
    /// What is missing.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do about it.
    pub fix: String,
}

impl Kernel {
    pub(super) fn stats(&self) -> KernelStats {
        KernelStats {
            programs: self.programs(),
            maps: self.maps(),
            counters: (0..)
                .zip(counter::NAMES)
                .map(|(index, name)| (name, self.tables.counter(index)))
                .collect(),
            workloads: self.workloads.counts(),
            self_test: self.self_test.clone(),
            degraded: self.degraded.clone(),
        }
    }

    fn programs(&self) -> Vec<ProgramStats> {
        let ebpf = self.ebpf.lock();
        ebpf.programs()
            .filter_map(|(name, program)| {
                let info = program.info().ok()?;
                Some(ProgramStats {
                    name: name.to_owned(),
                    id: info.id(),
                    verified_instructions: info.verified_instruction_count().unwrap_or(0),
                    run_time_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                    run_count: info.run_count(),
                })
            })
            .collect()
    }

    fn maps(&self) -> Vec<MapFill> {
        let (tables, sizes) = (&self.tables, &self.sizes);
        let fill = |name, entries, capacity| MapFill { name, entries, capacity };
        vec![
            fill("SERVICES", tables.services.len(), sizes.services),
            fill("ENDPOINTS", tables.endpoints.len(), sizes.services),
            fill("ORIG_DST", tables.orig_dst.len(), sizes.flows),
            fill("FLOWS", tables.flows.len(), sizes.flow_records),
            fill("UPSTREAMS", tables.upstreams.len(), sizes.flows),
            fill("STATES", tables.states.len(), sizes.sockets),
            fill("WORKLOADS", tables.workloads.len(), super::MAX_WORKLOADS),
            fill("ADMITTED", tables.admitted.len(), super::MAX_WORKLOADS),
        ]
    }
}
