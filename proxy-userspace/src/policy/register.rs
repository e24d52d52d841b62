//! Ids that outlive a reading of the configuration: of compiled policies, of rules, of host patterns.
//!
//! The same content has the same id for as long as anybody holds it; what an id means never changes, so
//! that a new snapshot rewrites only what is new in the kernel's tables.

use super::{
    Rule,
    compile::{self, Entry, HostPattern},
    pattern::Pattern,
};
use parking_lot::Mutex;
use proxy_common::policy::HOST_PATTERNS;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
};

/// The ids in use. Readings of one agent share it.
#[derive(Default)]
pub struct Register {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    policies: HashMap<Vec<Entry>, Weak<Compiled>>,
    last_policy: u32,
    rules: HashMap<Arc<str>, u32>,
    last_rule: u32,
    hosts: HashMap<HostPattern, Weak<HostBit>>,
    patterns: HashMap<Box<str>, Weak<Pattern>>,
}

/// A policy as the kernel half has it.
pub struct Compiled {
    /// Its id; never 0.
    pub id: u32,
    entries: Vec<Entry>,
    hosts: Vec<Arc<HostBit>>,
}

/// A host pattern and its bit, which is nobody else's while this lives.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct HostBit {
    pub(crate) pattern: HostPattern,
    pub(crate) index: u32,
}

impl HostBit {
    /// As in `Candidate::hosts`.
    pub(crate) fn bit(&self) -> u64 {
        1_u64.checked_shl(self.index).unwrap_or(0)
    }
}

impl Compiled {
    /// Its nodes, root first.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The host patterns that its nodes ask for.
    pub(crate) fn hosts(&self) -> &[Arc<HostBit>] {
        &self.hosts
    }
}

impl PartialEq for Compiled {
    /// An id means the same for ever.
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Compiled {}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("id", &self.id).field("entries", &self.entries.len()).finish()
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.lock();
        f.debug_struct("Register").field("policies", &known.policies.len()).finish_non_exhaustive()
    }
}

impl Register {
    /// A regular expression; the one that is already there, if it is. `Err` says what is wrong with it.
    pub(crate) fn pattern(&self, source: &str) -> Result<Arc<Pattern>, String> {
        let held = self.known.lock().patterns.get(source).and_then(Weak::upgrade);
        if let Some(pattern) = held {
            return Ok(pattern);
        }
        let pattern = Arc::new(Pattern::new(source)?);
        self.known.lock().patterns.insert(source.into(), Arc::downgrade(&pattern));
        Ok(pattern)
    }

    /// The id of the rule of this name; never 0.
    pub(super) fn rule(&self, name: &Arc<str>) -> u32 {
        let known = &mut *self.known.lock();
        *known.rules.entry(Arc::clone(name)).or_insert_with(|| {
            known.last_rule = known.last_rule.wrapping_add(1).max(1);
            known.last_rule
        })
    }

    /// Compiles the rules of an endpoint's port; why the kernel half cannot decide all of it, if so.
    pub(super) fn compile(&self, rules: &[Arc<Rule>]) -> (Arc<Compiled>, Option<String>) {
        let known = &mut *self.known.lock();
        let mut hosts: Vec<Arc<HostBit>> = Vec::new();
        let mut bit = |pattern: &HostPattern| {
            let bit = host_bit(&mut known.hosts, pattern)?;
            let value = bit.bit();
            if !hosts.contains(&bit) {
                hosts.push(bit);
            }
            Some(value)
        };
        let shapes: Vec<_> = rules.iter().map(|rule| (&**rule, &rule.shape)).collect();
        let (entries, why) = compile::compile(&shapes, &mut bit);
        if let Some(compiled) = known.policies.get(&entries).and_then(Weak::upgrade) {
            return (compiled, why);
        }
        known.last_policy = known.last_policy.wrapping_add(1).max(1);
        let compiled = Arc::new(Compiled { id: known.last_policy, entries: entries.clone(), hosts });
        known.policies.insert(entries, Arc::downgrade(&compiled));
        (compiled, why)
    }

    /// Forgets what nobody holds any more. Call between readings.
    pub(crate) fn sweep(&self) {
        let known = &mut *self.known.lock();
        known.policies.retain(|_, one| one.strong_count() > 0);
        known.hosts.retain(|_, one| one.strong_count() > 0);
        known.patterns.retain(|_, one| one.strong_count() > 0);
        known.rules.retain(|name, _| Arc::strong_count(name) > 1);
    }
}

/// The bit of a host pattern, or a free one; `None` where there is none.
fn host_bit(hosts: &mut HashMap<HostPattern, Weak<HostBit>>, pattern: &HostPattern) -> Option<Arc<HostBit>> {
    if let Some(bit) = hosts.get(pattern).and_then(Weak::upgrade) {
        return Some(bit);
    }
    let taken = hosts.values().filter_map(Weak::upgrade).fold(0, |all, bit| all | bit.bit());
    let index = (!taken).trailing_zeros();
    if usize::try_from(index).ok()? >= HOST_PATTERNS {
        return None;
    }
    let bit = Arc::new(HostBit { pattern: pattern.clone(), index });
    hosts.insert(pattern.clone(), Arc::downgrade(&bit));
    Some(bit)
}
