//! The kernel half's counters, read from its table: what the agent exports may be a second old.

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, MapInfo, PerCpuArray};
use proxy_common::abi::counter;
use std::{fmt, fs};

/// The table of one agent.
pub struct Counters(PerCpuArray<MapData, u64>);

impl fmt::Debug for Counters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    /// The table that this process holds.
    pub fn of(pid: u32) -> Result<Self> {
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A descriptor may have been closed meanwhile.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let Some(id) = text.lines().find_map(|line| line.strip_prefix("map_id:")) else { continue };
            let id = id.trim().parse()?;
            if MapInfo::from_id(id)?.name_as_str() == Some("COUNTERS") {
                let map = Map::from_map_data(MapData::from_id(id)?)?;
                return Ok(Self(PerCpuArray::try_from(map)?));
            }
        }
        anyhow::bail!("process {pid} has no table of counters")
    }

    /// One counter (`proxy_common::abi::counter`) over all processors, now.
    pub fn get(&self, index: u32) -> Result<u64> {
        let values = self.0.get(&index, 0).with_context(|| format!("counter {index}"))?;
        Ok(values.iter().sum())
    }

    /// Requests that the kernel half began to carry.
    pub fn spliced(&self) -> Result<u64> {
        self.get(counter::SPLICED)
    }

    /// Answers among them that the agent went on with.
    pub fn turned(&self) -> Result<u64> {
        self.get(counter::TURNED)
    }
}
