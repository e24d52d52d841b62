//! Whom an entry of one of Cilium's policies names.

use super::Reader;
use crate::{
    policy::access::{DirectionRules, Entity, Net, Peer, Selector, Whose, reserved},
    source::cilium::{CidrRule, Egress, Ingress, ServiceRule},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Whom an entry names.
pub(super) enum Named {
    /// It does not say.
    Unsaid,
    /// Any of these; nobody where there is none.
    Peers(Vec<Peer>),
}

/// Peers while they are being read.
#[derive(Default)]
struct Reading {
    said: bool,
    /// A list is there and empty: then the entry is about nobody.
    is_void: bool,
    peers: Vec<Peer>,
}

impl Reading {
    fn list<T>(&mut self, list: Option<&[T]>) -> impl Iterator<Item = (usize, T)> + use<T>
    where
        T: Clone,
    {
        self.said |= list.is_some();
        self.is_void |= list.is_some_and(<[T]>::is_empty);
        list.unwrap_or_default().to_vec().into_iter().enumerate()
    }

    fn named(self) -> Named {
        match (self.said, self.is_void) {
            (false, _) => Named::Unsaid,
            (true, true) => Named::Peers(Vec::new()),
            (true, false) => Named::Peers(self.peers),
        }
    }
}

/// The names of one direction's fields.
struct Fields<'a> {
    endpoints: (&'static str, Option<&'a [LabelSelector]>),
    requires: bool,
    cidr: (&'static str, Option<&'a [String]>),
    cidr_set: (&'static str, Option<&'a [CidrRule]>),
    entities: (&'static str, Option<&'a [String]>),
}

impl Reader<'_> {
    pub(super) fn sources(&mut self, path: &str, entry: &Ingress) -> Named {
        let mut reading = Reading::default();
        let fields = Fields {
            endpoints: ("fromEndpoints", entry.from_endpoints.as_deref()),
            requires: entry.from_requires.is_some(),
            cidr: ("fromCIDR", entry.from_cidr.as_deref()),
            cidr_set: ("fromCIDRSet", entry.from_cidr_set.as_deref()),
            entities: ("fromEntities", entry.from_entities.as_deref()),
        };
        self.peers(path, &fields, &mut reading);
        reading.named()
    }

    pub(super) fn destinations(&mut self, path: &str, entry: &Egress) -> Named {
        let mut reading = Reading::default();
        let fields = Fields {
            endpoints: ("toEndpoints", entry.to_endpoints.as_deref()),
            requires: entry.to_requires.is_some(),
            cidr: ("toCIDR", entry.to_cidr.as_deref()),
            cidr_set: ("toCIDRSet", entry.to_cidr_set.as_deref()),
            entities: ("toEntities", entry.to_entities.as_deref()),
        };
        self.peers(path, &fields, &mut reading);
        for (index, rule) in reading.list(entry.to_services.as_deref()) {
            reading.peers.extend(self.service(&format!("{path}.toServices[{index}]"), &rule));
        }
        reading.named()
    }

    fn peers(&mut self, path: &str, fields: &Fields<'_>, reading: &mut Reading) {
        // Alone it grants nothing.
        reading.said |= fields.requires;
        let (field, list) = fields.endpoints;
        for (index, selector) in reading.list(list) {
            reading.peers.extend(self.endpoints(&format!("{path}.{field}[{index}]"), &selector));
        }
        let (field, list) = fields.cidr;
        for (index, text) in reading.list(list) {
            let net = self.net(&format!("{path}.{field}[{index}]"), &text);
            reading.peers.extend(net.map(|net| outsiders(net, Vec::new())));
        }
        let (field, list) = fields.cidr_set;
        for (index, rule) in reading.list(list) {
            reading.peers.extend(self.cidr_rule(&format!("{path}.{field}[{index}]"), &rule));
        }
        let (field, list) = fields.entities;
        for (index, name) in reading.list(list) {
            match Entity::named(&name) {
                Ok(entity) => reading.peers.extend(entity.map(Peer::Entity)),
                Err(text) => self.fault(&format!("{path}.{field}[{index}]"), text, ""),
            }
        }
    }

    fn endpoints(&mut self, path: &str, selector: &LabelSelector) -> Option<Peer> {
        let read = match reserved(selector) {
            Ok(Some(entity)) => return entity.map(Peer::Entity),
            Ok(None) => Selector::cilium(selector),
            Err(text) => Err(text),
        };
        match (read, self.namespace) {
            (Ok(selector), Some(namespace)) if !selector.names_namespace() => {
                Some(Peer::Pods(selector.within(namespace)))
            }
            (Ok(selector), _) => Some(Peer::Pods(selector)),
            (Err(text), _) => {
                self.fault(path, text, "");
                None
            }
        }
    }

    /// What peers must have beside, in every policy of the pod.
    pub(super) fn requires(
        &mut self,
        path: &str,
        (field, selectors): (&str, Option<&[LabelSelector]>),
        deny: bool,
        rules: &mut DirectionRules,
    ) {
        for (index, selector) in selectors.unwrap_or_default().iter().enumerate() {
            match Selector::cilium(selector) {
                Ok(selector) if deny => rules.requires_deny.push(selector),
                Ok(selector) => rules.requires.push(selector),
                Err(text) => self.fault(&format!("{path}.{field}[{index}]"), text, ""),
            }
        }
    }

    fn net(&mut self, path: &str, text: &str) -> Option<Net> {
        Net::parse(text).map_err(|why| self.fault(path, why, "10.0.0.0/8 is a prefix")).ok()
    }

    fn cidr_rule(&mut self, path: &str, rule: &CidrRule) -> Option<Peer> {
        let Some(text) = &rule.cidr else {
            self.fault(path, "has no cidr", "");
            return None;
        };
        let net = self.net(&format!("{path}.cidr"), text);
        let texts = rule.except.iter().flatten().enumerate();
        let except: Vec<_> =
            texts.map(|(index, text)| self.net(&format!("{path}.except[{index}]"), text)).collect();
        let net = net?;
        for (index, one) in except.iter().enumerate() {
            if one.is_some_and(|one| !net.covers(one)) {
                let text = format!("is no part of {net}");
                self.fault(&format!("{path}.except[{index}]"), text, "name a part of cidr");
            }
        }
        Some(outsiders(net, except.into_iter().flatten().collect()))
    }

    fn service(&mut self, path: &str, rule: &ServiceRule) -> Option<Peer> {
        match (&rule.k8s_service, &rule.k8s_service_selector) {
            (Some(service), None) => {
                let namespace = service.namespace.as_deref().filter(|one| !one.is_empty()).or(self.namespace);
                match (namespace, service.service_name.as_deref().filter(|one| !one.is_empty())) {
                    (Some(namespace), Some(name)) => {
                        return Some(Peer::Service { namespace: namespace.into(), name: name.into() });
                    }
                    _ => self.fault(
                        &format!("{path}.k8sService"),
                        "names no Service",
                        "serviceName and namespace",
                    ),
                }
            }
            (None, Some(services)) => match Selector::of_pods(&services.selector) {
                Ok(selector) => {
                    let namespace = services.namespace.as_deref().filter(|one| !one.is_empty());
                    return Some(Peer::Services { namespace: namespace.map(Into::into), selector });
                }
                Err(text) => self.fault(&format!("{path}.k8sServiceSelector"), text, ""),
            },
            _ => self.fault(path, "names no Service, or two", "k8sService or k8sServiceSelector"),
        }
        None
    }
}

/// Neither pods nor nodes.
fn outsiders(net: Net, except: Vec<Net>) -> Peer {
    Peer::Block { net, except, whose: Whose::Outsiders }
}
