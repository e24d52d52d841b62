//! The table in which the kernel half counts what it carried: one value a processor.

use super::tables::take;
use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{MapData, PerCpuHashMap, PerCpuValues},
};
use parking_lot::Mutex;
use proxy_common::tally::{OVERFLOW, Tally, TallyKey};

/// Entries of the table; `maps.rs` sizes it alike.
pub(super) const MAX_TALLIES: u32 = 4096;

/// See the module.
pub(super) struct Tallies(Mutex<PerCpuHashMap<MapData, TallyKey, Tally>>);

impl Tallies {
    /// Takes the table out of `ebpf`, and makes the entry for what will find no room.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut table = PerCpuHashMap::try_from(take(ebpf, "SPLICED")?).context("map SPLICED")?;
        let processors = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let zeros = PerCpuValues::try_from(vec![Tally::default(); processors])?;
        table.insert(OVERFLOW, zeros, 0).context("map SPLICED")?;
        Ok(Self(Mutex::new(table)))
    }

    /// Every entry, over all processors. About 2 us each.
    pub(super) fn read(&self) -> anyhow::Result<Vec<(TallyKey, Tally)>> {
        let table = self.0.lock();
        let mut tallies = Vec::new();
        // Entries are removed under the lock alone, and new ones disturb nobody.
        for entry in table.iter() {
            let (key, values) = entry.context("map SPLICED")?;
            let mut sum = Tally::default();
            values.iter().for_each(|one| sum.add(one));
            tallies.push((key, sum));
        }
        Ok(tallies)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.0.lock().keys().filter(Result::is_ok).count()
    }

    /// Removes an entry that nothing is counted for any more.
    pub(super) fn remove(&self, key: &TallyKey) -> anyhow::Result<()> {
        self.0.lock().remove(key).context("map SPLICED")
    }
}
