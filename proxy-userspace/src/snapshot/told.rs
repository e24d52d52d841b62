//! The findings of everything that was read, by what they are about: one object's can be replaced.

use crate::source::{
    finding::{Finding, Severity},
    store::Key,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What a finding depends on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum About {
    /// A Service, with its slices and its ports' endpoints.
    Service(Key),
    /// Slices of a Service that is not there, by that Service.
    Orphans(Key),
    /// One slice.
    Slice(Key),
    /// One object of a kind.
    Object(&'static str, Key),
    /// Objects of one kind that have the same name.
    Twice(&'static str, Key),
    /// What a policy does not do, by the policy's key.
    Policy(Arc<str>),
    /// What is looked at as a whole: a name for it.
    Whole(&'static str),
}

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Told {
    by_subject: HashMap<About, Vec<Arc<Finding>>>,
    /// All of them in order, and how often each is there.
    all: BTreeMap<Arc<Finding>, usize>,
    total: usize,
    errors: usize,
}

impl Told {
    /// Replaces what was found about something.
    pub(super) fn set(&mut self, about: About, findings: Vec<Finding>) {
        for old in self.by_subject.remove(&about).unwrap_or_default() {
            self.total -= 1;
            self.errors -= usize::from(old.severity == Severity::Error);
            if let Some(count) = self.all.get_mut(&old) {
                *count -= 1;
                if *count == 0 {
                    self.all.remove(&old);
                }
            }
        }
        if findings.is_empty() {
            return;
        }
        let findings: Vec<_> = findings.into_iter().map(Arc::new).collect();
        for finding in &findings {
            self.total += 1;
            self.errors += usize::from(finding.severity == Severity::Error);
            *self.all.entry(Arc::clone(finding)).or_default() += 1;
        }
        self.by_subject.insert(about, findings);
    }

    /// How many there are, and how many of them are errors.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.total, self.errors)
    }

    /// All findings, sorted.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.all.iter().flat_map(|(finding, count)| std::iter::repeat_n(&**finding, *count))
    }
}
