//! The rules that a request did not find, and why: what comes near it first.

use super::Other;
use crate::route::{
    table::{Candidate, Found, Site},
    target::Target,
};
use std::sync::Arc;

/// Rules that are named among those that were not chosen.
const MAX_OTHERS: usize = 20;

/// What a match is for.
pub(super) fn pattern(candidate: &Candidate) -> String {
    let mut text = format!("host {}, {}", candidate.host, candidate.path);
    let conditions = &candidate.conditions;
    if let Some(method) = &conditions.method {
        text += &format!(", method {method}");
    }
    conditions.headers.iter().for_each(|(name, _)| text += &format!(", field {name}"));
    conditions.query.iter().for_each(|(name, _)| text += &format!(", parameter {name}"));
    text
}

/// The rules that were not chosen.
pub(super) fn others(sites: &[Arc<Site>], target: &Target<'_>, chosen: Option<Found<'_>>) -> Vec<Other> {
    let mut all = Vec::new();
    for site in sites {
        for door in &site.doors {
            let own = door.listener(target).map(std::ptr::from_ref);
            for (_, listener) in door.listeners.iter() {
                let paths = listener.hosts.iter().flat_map(|(_, paths)| paths.iter());
                all.extend(paths.map(|candidate| {
                    let elsewhere = own != Some(std::ptr::from_ref(listener));
                    (why_not(candidate, target, elsewhere), candidate)
                }));
            }
        }
    }
    let is_chosen = |candidate: &Candidate| {
        chosen.is_some_and(|found| std::ptr::eq(found.candidate, candidate) || found.candidate == candidate)
    };
    all.retain(|(_, candidate)| !is_chosen(candidate));
    all.sort_by_key(|((distance, _), candidate)| (*distance, candidate.rank()));
    let named = all.into_iter().map(|((_, because), candidate)| Other {
        rule: candidate.rule.name.to_string(),
        pattern: pattern(candidate),
        because,
    });
    named.take(MAX_OTHERS).collect()
}

/// How far a match is from being chosen, and why it is not.
fn why_not(candidate: &Candidate, target: &Target<'_>, elsewhere: bool) -> (u8, String) {
    if !candidate.host.matches(target.host.as_deref()) {
        return (4, "the host does not match".to_owned());
    }
    if elsewhere {
        return (3, "a more special listener has the host".to_owned());
    }
    if !candidate.path.matches(&target.path) {
        return (2, "the path does not match".to_owned());
    }
    match candidate.conditions.unmet(target) {
        Some(unmet) => (1, unmet),
        None => (0, "another rule is more special, or older".to_owned()),
    }
}
