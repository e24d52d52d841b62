//! What is said about Gateways, their listeners and classes.

use super::{OneGateway, OneListener, clients};
use crate::{
    route::table::Scheme,
    snapshot::conditions::{Condition, ListenerStatus, ObjectStatus, Says},
    source::{Sourced, gateway::GatewayClass},
};

pub(super) fn class_status(class: &Sourced<GatewayClass>) -> ObjectStatus {
    let generation = class.object.metadata.generation;
    let parameters = class.object.spec.parameters_ref.as_ref();
    let accepted = match parameters {
        None => Condition::new("Accepted", true, "Accepted", "", generation),
        Some(one) => {
            let text = format!("Weir has no parameters, and does not read {} {}", one.kind, one.name);
            Condition::new("Accepted", false, "InvalidParameters", text, generation)
        }
    };
    ObjectStatus {
        kind: "GatewayClass",
        namespace: String::new(),
        name: class.name.clone(),
        says: Says::Class(vec![accepted]),
    }
}

impl OneGateway<'_> {
    pub(super) fn status(self) -> ObjectStatus {
        let generation = self.source.object.metadata.generation;
        let listeners: Vec<ListenerStatus> =
            self.listeners.iter().map(|listener| listener.status(generation)).collect();
        let invalid = self.listeners.iter().filter(|listener| !listener.is_valid()).count();
        let accepted = match &self.refused {
            Some((reason, text)) => Condition::new("Accepted", false, reason, text, generation),
            None if invalid == self.listeners.len() => {
                Condition::new("Accepted", false, "ListenersNotValid", "no listener is valid", generation)
            }
            None if invalid > 0 => {
                let text = format!("{invalid} of {} listeners are not valid", self.listeners.len());
                Condition::new("Accepted", true, "ListenersNotValid", text, generation)
            }
            None => Condition::new("Accepted", true, "Accepted", "", generation),
        };
        let serves = self.listeners.iter().any(|listener| listener.serves());
        let programmed = match (&self.unusable, serves && accepted.status) {
            (Some((reason, text)), _) => Condition::new("Programmed", false, reason, text, generation),
            (None, true) => Condition::new("Programmed", true, "Programmed", "", generation),
            (None, false) => {
                Condition::new("Programmed", false, "Invalid", "no listener is served", generation)
            }
        };
        let insecure = clients::is_lenient(&self.source.object.spec).then(|| {
            let text = "clients without a valid certificate are served as well";
            Condition::new("InsecureFrontendValidationMode", true, "ConfigurationChanged", text, generation)
        });
        let resolved = self.shown.as_ref().map(|shown| match &shown.fault {
            Some((reason, text)) => Condition::new("ResolvedRefs", false, reason, text, generation),
            None => Condition::new("ResolvedRefs", true, "ResolvedRefs", "", generation),
        });
        ObjectStatus {
            kind: "Gateway",
            namespace: self.source.namespace.clone(),
            name: self.source.name.clone(),
            says: Says::Gateway {
                conditions: [accepted, programmed].into_iter().chain(insecure).chain(resolved).collect(),
                listeners,
                addresses: self.addresses,
            },
        }
    }
}

impl OneListener {
    /// Whether requests come in there.
    fn serves(&self) -> bool {
        let speaks = self.scheme == Some(Scheme::Http) || self.terms.is_some();
        self.is_valid() && speaks && !self.places.is_empty()
    }

    fn status(&self, generation: Option<i64>) -> ListenerStatus {
        let condition = |kind, good: &'static str, bad: &Option<(&'static str, String)>| match bad {
            Some((reason, text)) => Condition::new(kind, false, reason, text, generation),
            None => Condition::new(kind, true, good, "", generation),
        };
        let conflicted = match &self.conflict {
            Some((reason, text)) => Condition::new("Conflicted", true, reason, text, generation),
            None => Condition::new("Conflicted", false, "NoConflicts", "", generation),
        };
        let refused = self.refused.as_ref().or(self.conflict.as_ref());
        let programmed = if self.serves() {
            Condition::new("Programmed", true, "Programmed", "", generation)
        } else {
            Condition::new("Programmed", false, "Invalid", "not served", generation)
        };
        ListenerStatus {
            name: self.name.clone(),
            supported_kinds: self.supported.clone(),
            attached_routes: self.attached,
            conditions: vec![
                condition("Accepted", "Accepted", &refused.cloned()),
                programmed,
                condition("ResolvedRefs", "ResolvedRefs", &self.unresolved),
                conflicted,
            ],
        }
    }
}
