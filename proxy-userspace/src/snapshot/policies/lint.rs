//! Where policies do less than their author may think. Only what a change has touched is looked at again.

use super::{super::places::Places, Findings, Place, Policies};
use crate::{
    policy::access::{Access, AccessRule, Direction, News, PolicySet},
    snapshot::told::About,
    source::{
        Objects,
        finding::{Finding, Severity},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// What was found last, and what that is made of.
#[derive(Debug, Default)]
pub(super) struct Lint {
    /// Of sets with HTTP rules: rules that others make mean nothing.
    voided: BTreeMap<u32, Vec<Finding>>,
    serving: Serving,
    /// Policies say the same, elsewhere: findings point there.
    pub(super) again: bool,
    /// HTTP rules, by name, whose pods no Service leads to.
    unserved: BTreeMap<Arc<str>, Option<Finding>>,
}

/// Pods with HTTP rules of ingress, and whether some Service leads to them.
#[derive(Debug, Default)]
struct Serving {
    pods: HashMap<Arc<str>, (Arc<PolicySet>, bool)>,
    rules: HashMap<Arc<str>, Ruled>,
}

/// A rule of pods with HTTP rules.
#[derive(Debug)]
struct Ruled {
    rule: Arc<AccessRule>,
    /// How many pods have it, and of those how many some Service leads to.
    pods: usize,
    served: usize,
}

impl Serving {
    /// Takes in what holds for a pod; `touched` are the rules that it had, and those that it has.
    fn set(&mut self, pod: &Arc<str>, now: Option<(Arc<PolicySet>, bool)>, touched: &mut BTreeSet<Arc<str>>) {
        let old = match &now {
            Some(now) => self.pods.insert(Arc::clone(pod), now.clone()),
            None => self.pods.remove(pod),
        };
        if let Some((set, served)) = old {
            for rule in set.http_rules() {
                let Some(ruled) = self.rules.get_mut(&rule.name) else { continue };
                ruled.pods -= 1;
                ruled.served -= usize::from(served);
                if ruled.pods == 0 {
                    self.rules.remove(&rule.name);
                }
                touched.insert(Arc::clone(&rule.name));
            }
        }
        if let Some((set, served)) = now {
            for rule in set.http_rules() {
                let ruled = self.rules.entry(Arc::clone(&rule.name));
                let ruled = ruled.or_insert_with(|| Ruled { rule: Arc::clone(rule), pods: 0, served: 0 });
                ruled.rule = Arc::clone(rule);
                ruled.pods += 1;
                ruled.served += usize::from(served);
                touched.insert(Arc::clone(&rule.name));
            }
        }
    }
}

impl Policies {
    /// Looks at what has changed since the last time. `moved` are addresses that some Service leads to now
    /// and none did, or the other way round.
    pub(in super::super) fn lint(
        &mut self,
        access: &Access,
        objects: &Objects,
        places: &Places,
        moved: &BTreeSet<IpAddr>,
    ) -> Findings {
        let mut findings = Findings::new();
        let News { pods, policies, mut http_sets } = self.access.take_news();
        for key in policies {
            findings.push((About::Policy(Arc::clone(&key)), self.idle(&key)));
        }
        let again = std::mem::take(&mut self.lint.again);
        if again || self.access.has_other_sets() {
            if again {
                self.lint.voided.clear();
                http_sets = access.http_sets().cloned().collect();
            }
            self.find_voided(access, &http_sets);
            let mut voided: Vec<_> = self.lint.voided.values().flatten().cloned().collect();
            voided.sort();
            voided.dedup();
            findings.push((About::Whole("voided rules"), voided));
        }
        if self.find_unserved(access, places, (&pods, moved), again) {
            let unserved = self.lint.unserved.values().flatten().cloned().collect();
            findings.push((About::Whole("unserved rules"), unserved));
        }
        if !pods.is_empty() {
            findings.push((About::Whole("contested addresses"), self.contested(objects)));
        }
        findings
    }

    /// A policy that selects nobody.
    fn idle(&self, key: &str) -> Vec<Finding> {
        let Some(place) = self.read.get(key) else { return Vec::new() };
        if place.parts.is_empty() || self.access.selects_any(key) {
            return Vec::new();
        }
        let text = "selects no pod: nothing is restricted";
        let fix = "the pods' manifests, with labels and status.podIP, belong in the directory too";
        vec![place.finding(place.line, text, fix)]
    }

    fn find_voided(&mut self, access: &Access, new: &[Arc<PolicySet>]) {
        let mut voided = std::mem::take(&mut self.lint.voided);
        voided.retain(|id, _| access.http_set(*id).is_some());
        for set in new.iter().filter(|set| access.http_set(set.id).is_some()) {
            let found: Vec<_> =
                set.voided().into_iter().filter_map(|(voided, open)| self.void(voided, open)).collect();
            if !found.is_empty() {
                voided.insert(set.id, found);
            }
        }
        self.lint.voided = voided;
    }

    /// A rule that opens what another one has HTTP rules for.
    fn void(&self, voided: &AccessRule, open: &AccessRule) -> Option<Finding> {
        let place = self.place_of(open)?;
        let (policy, _) = voided.name.split_once('#').unwrap_or((&voided.name, ""));
        let ports: Vec<_> = voided.ports.iter().map(|ports| ports.span.to_string()).collect();
        let text = format!(
            "allows everything on port {}: the HTTP rules of {policy} for the same pods mean nothing",
            ports.join(", ")
        );
        Some(place.finding(open.line, &text, "give the entry rules.http too, or remove it"))
    }

    /// Ports with HTTP rules that no Service leads to: requests are decided about on the way to Services.
    /// Whether others are than before.
    fn find_unserved(
        &mut self,
        access: &Access,
        places: &Places,
        (pods, moved): (&HashSet<Arc<str>>, &BTreeSet<IpAddr>),
        again: bool,
    ) -> bool {
        if self.lint.serving.pods.is_empty() && access.http_sets().next().is_none() {
            return false;
        }
        let at_moved = moved.iter().flat_map(|ip| self.access.claimants(*ip));
        let names: BTreeSet<_> = at_moved.chain(pods).cloned().collect();
        let mut touched = BTreeSet::new();
        if again {
            touched.extend(self.lint.serving.rules.keys().cloned());
        }
        for name in names {
            let now = access.pod(&name).and_then(|pod| {
                let set = pod.set(Direction::Ingress).filter(|set| set.has_http())?;
                let addresses = &pod.facts.addresses;
                let served = addresses.is_empty() || addresses.iter().any(|ip| places.is_served(*ip));
                Some((Arc::clone(set), served))
            });
            self.lint.serving.set(&name, now, &mut touched);
        }
        let mut differs = false;
        for name in touched {
            let rule = self.lint.serving.rules.get(&name).filter(|ruled| ruled.served == 0);
            let finding = rule.map(|ruled| self.unserved(&ruled.rule));
            differs |= self.lint.unserved.get(&name) != finding.as_ref();
            match finding {
                Some(finding) => self.lint.unserved.insert(name, finding),
                None => self.lint.unserved.remove(&name),
            };
        }
        differs
    }

    fn unserved(&self, rule: &AccessRule) -> Option<Finding> {
        let text = "its pods are in no Service: nobody decides about their requests";
        let fix = "only connections to Services, and to their endpoints, are steered";
        Some(self.place_of(rule)?.finding(rule.line, text, fix))
    }

    /// Addresses that several pods have.
    fn contested(&self, objects: &Objects) -> Vec<Finding> {
        let mut findings = Vec::new();
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

    /// Where a rule is written.
    fn place_of(&self, rule: &AccessRule) -> Option<&Place> {
        self.places_of
            .get(&rule.name)?
            .iter()
            .filter_map(|key| self.read.get(key))
            .find(|place| place.rules().any(|one| **one == *rule))
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
