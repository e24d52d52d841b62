//! What is said of BackendTLSPolicies, at each Gateway whose routes lead to a target.

use super::{Judged, Trusts};
use crate::{
    snapshot::{
        conditions::{AncestorStatus, Condition, ObjectStatus, Says},
        routes::gateways::Gateways,
    },
    source::{
        finding::{Finding, Severity},
        store::Key,
    },
};

/// Entries of `status.ancestors` that the API takes.
const MAX_ANCESTORS: usize = 16;

impl Trusts<'_> {
    /// Also of those that no Gateway has to do with: what was said of them is over.
    pub(in crate::snapshot::routes) fn statuses(
        &self,
        gateways: &Gateways<'_>,
        findings: &mut Vec<Finding>,
    ) -> Vec<ObjectStatus> {
        self.judged.iter().map(|judged| judged.status(gateways, findings)).collect()
    }
}

impl Judged<'_> {
    fn status(&self, gateways: &Gateways<'_>, findings: &mut Vec<Finding>) -> ObjectStatus {
        let source = self.source;
        let targets = source.object.spec.target_refs.iter();
        let services: Vec<_> = targets.map(|target| Key::new(&source.namespace, &target.name)).collect();
        let mut users = gateways.users(&services);
        if users.len() > MAX_ANCESTORS {
            let text = format!(
                "{} Gateways lead to its targets: of {MAX_ANCESTORS} alone the status can tell",
                users.len()
            );
            findings.push(source.finding(Severity::Warning, source.lines.object, text, "it holds for all"));
            users.truncate(MAX_ANCESTORS);
        }
        let conditions = self.conditions();
        let ancestor = |gateway: Key| AncestorStatus {
            namespace: gateway.namespace().to_owned(),
            name: gateway.name().to_owned(),
            conditions: conditions.clone(),
        };
        ObjectStatus {
            kind: "BackendTLSPolicy",
            namespace: source.namespace.clone(),
            name: source.name.clone(),
            says: Says::Policy(users.into_iter().map(ancestor).collect()),
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        let generation = self.source.object.metadata.generation;
        let accepted = match &self.refused {
            Some((reason, text)) => Condition::new("Accepted", false, reason, text, generation),
            None => Condition::new("Accepted", true, "Accepted", "", generation),
        };
        let resolved = match (&self.unresolved, &self.refused) {
            (Some((reason, text)), _) => {
                Some(Condition::new("ResolvedRefs", false, reason, text, generation))
            }
            // What cannot be read has no references that were followed.
            (None, Some(("Invalid", _))) => None,
            (None, _) => Some(Condition::new("ResolvedRefs", true, "ResolvedRefs", "", generation)),
        };
        [accepted].into_iter().chain(resolved).collect()
    }
}
