//! Probation: which workloads' sockets may enter the socket map. A workload (a cgroup) is admitted
//! after a number of watched exchanges in which the kernel half saw it call neither splice(2) nor
//! ioctl(FIONREAD); the trip-wire in the kernel bars it whenever it calls one later.

use super::{cgroups, tables::Tables};
use crate::{config::Acceleration, snapshot::AccelerationChoice, status::WorkloadCounts};
use parking_lot::Mutex;
use proxy_common::abi::{WORKLOAD_ADMITTED, WORKLOAD_REFUSED};
use std::{collections::HashMap, path::Path};

/// What the user half knows of one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Exchanges watched so far.
    Probation(u32),
    Admitted,
    Barred,
}

/// The user half's view of probation.
#[derive(Debug)]
pub(super) struct Workloads {
    mode: Acceleration,
    wanted: u32,
    standings: Mutex<HashMap<u64, Standing>>,
}

impl Workloads {
    pub(super) fn new(mode: Acceleration, wanted: u32) -> Self {
        Self { mode, wanted: wanted.max(1), standings: Mutex::default() }
    }

    /// Counts a complete, relayed exchange; admits the workload when it has shown enough.
    pub(super) fn watched_exchange(&self, cgroup_id: u64, tables: &Tables) {
        if cgroup_id == 0 || self.mode == Acceleration::Off {
            return;
        }
        let mut standings = self.standings.lock();
        let standing = standings.entry(cgroup_id).or_insert(Standing::Probation(0));
        let Standing::Probation(seen) = standing else { return };
        *seen += 1;
        if *seen >= self.wanted {
            *standing = admit_if_clean(cgroup_id, tables);
        }
    }

    /// Applies a Service's annotation to the workload behind one of its endpoints.
    pub(super) fn choose(&self, cgroup_id: u64, choice: AccelerationChoice, tables: &Tables) {
        let mut standings = self.standings.lock();
        match (choice, standings.get(&cgroup_id)) {
            (AccelerationChoice::Off, Some(Standing::Barred))
            | (AccelerationChoice::On, Some(Standing::Admitted | Standing::Barred))
            | (AccelerationChoice::Default, _) => {}
            (AccelerationChoice::Off, _) => {
                write(tables, cgroup_id, WORKLOAD_REFUSED);
                standings.insert(cgroup_id, Standing::Barred);
            }
            (AccelerationChoice::On, _) => {
                standings.insert(cgroup_id, admit_if_clean(cgroup_id, tables));
            }
        }
    }

    /// The kernel half reported that the workload tripped the wire.
    pub(super) fn barred(&self, cgroup_id: u64) {
        self.standings.lock().insert(cgroup_id, Standing::Barred);
    }

    /// How many are in which state.
    pub(super) fn counts(&self) -> WorkloadCounts {
        let mut counts = WorkloadCounts::default();
        for standing in self.standings.lock().values() {
            match standing {
                Standing::Probation(_) => counts.probation += 1,
                Standing::Admitted => counts.accelerated += 1,
                Standing::Barred => counts.barred += 1,
            }
        }
        counts
    }

    /// Forgets workloads whose cgroup is gone, so that the tables never fill with the dead.
    pub(super) fn sweep(&self, cgroup_root: &Path, tables: &Tables) {
        let alive = cgroups::ids_below(cgroup_root);
        self.standings.lock().retain(|id, _| alive.contains(id));
        for id in tables.workloads.keys().into_iter().filter(|id| !alive.contains(id)) {
            for removed in [tables.workloads.remove(&id), tables.admitted.remove(&id)] {
                if let Err(error) = removed {
                    tracing::warn!(cgroup_id = id, %error, "cannot forget a workload");
                }
            }
        }
    }
}

fn admit_if_clean(cgroup_id: u64, tables: &Tables) -> Standing {
    match tables.workloads.get(&cgroup_id) {
        Ok(Some(workload)) if workload.barred == 0 => {
            write(tables, cgroup_id, WORKLOAD_ADMITTED);
            tracing::info!(cgroup_id, "workload passed probation: its new connections are redirected");
            Standing::Admitted
        }
        Ok(Some(_)) => Standing::Barred,
        // The kernel half has no room to watch it.
        Ok(None) => Standing::Probation(0),
        Err(error) => {
            tracing::warn!(cgroup_id, %error, "cannot read what the workload did");
            Standing::Probation(0)
        }
    }
}

fn write(tables: &Tables, cgroup_id: u64, value: u32) {
    if let Err(error) = tables.admitted.insert(&cgroup_id, &value) {
        tracing::warn!(cgroup_id, %error, "cannot record the workload's acceleration");
    }
}
