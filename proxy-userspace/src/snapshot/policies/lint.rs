//! Where policies do less than their author may think.

use super::{super::places::Places, Place, Policies};
use crate::{
    policy::access::{Access, AccessRule, Direction},
    source::{
        Objects,
        finding::{Finding, Severity},
    },
};
use std::collections::{HashMap, HashSet};

impl Policies {
    /// Looks at everything as it is now.
    pub(in super::super) fn lint(&self, access: &Access, objects: &Objects, places: &Places) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (key, place) in &self.read {
            if !place.parts.is_empty() && !self.access.selects_any(key) {
                let text = "selects no pod: nothing is restricted";
                let fix = "the pods' manifests, with labels and status.podIP, belong in the directory too";
                findings.push(place.finding(place.line, text, fix));
            }
        }
        let http = access.sets().filter(|set| set.has_http());
        for set in http {
            for (voided, open) in set.voided() {
                self.void(voided, open, &mut findings);
            }
        }
        self.unserved(access, places, &mut findings);
        for (address, holder, others) in self.access.contested() {
            for name in others {
                let Some(source) = objects.pods.get(&**name) else { continue };
                let text = format!("{address} is the address of Pod {holder} too");
                let fix = "remove the one that is gone; the younger one has the address until then";
                findings.push(source.finding(Severity::Warning, source.lines.object, text, fix));
            }
        }
        findings.sort();
        findings.dedup();
        findings
    }

    /// A rule that opens what another one has HTTP rules for.
    fn void(&self, voided: &AccessRule, open: &AccessRule, findings: &mut Vec<Finding>) {
        let Some(place) = self.place(open) else { return };
        let (policy, _) = voided.name.split_once('#').unwrap_or((&voided.name, ""));
        let ports: Vec<_> = voided.ports.iter().map(|ports| ports.span.to_string()).collect();
        let text = format!(
            "allows everything on port {}: the HTTP rules of {policy} for the same pods mean nothing",
            ports.join(", ")
        );
        findings.push(place.finding(open.line, &text, "give the entry rules.http too, or remove it"));
    }

    /// Ports with HTTP rules that no Service leads to: requests are decided about on the way to Services.
    fn unserved(&self, access: &Access, places: &Places, findings: &mut Vec<Finding>) {
        let (mut rules, mut served) = (HashMap::new(), HashSet::new());
        for pod in access.pods() {
            let Some(set) = pod.set(Direction::Ingress).filter(|set| set.has_http()) else { continue };
            let has_service = pod.facts.addresses.is_empty()
                || pod.facts.addresses.iter().any(|ip| !places.services(*ip).is_empty());
            for rule in set.http_rules() {
                if has_service {
                    served.insert(&rule.name);
                }
                rules.insert(&rule.name, rule);
            }
        }
        for (_, rule) in rules.into_iter().filter(|(name, _)| !served.contains(name)) {
            let Some(place) = self.place(rule) else { continue };
            let text = "its pods are in no Service: nobody decides about their requests";
            let fix = "only connections to Services, and to their endpoints, are steered";
            findings.push(place.finding(rule.line, text, fix));
        }
    }

    fn place(&self, rule: &AccessRule) -> Option<&Place> {
        let has = |place: &&Place| {
            let mut rules = place
                .parts
                .iter()
                .flat_map(|part| part.ingress.iter().chain(&part.egress))
                .flat_map(|one| &one.rules);
            rules.any(|one| **one == *rule)
        };
        self.read.values().find(has)
    }
}

impl Place {
    fn finding(&self, line: u32, text: &str, fix: &str) -> Finding {
        Finding {
            severity: Severity::Warning,
            file: self.file.to_string(),
            line,
            object: self.label.clone(),
            text: text.to_owned(),
            fix: fix.to_owned(),
        }
    }
}
