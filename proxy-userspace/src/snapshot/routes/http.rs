//! HTTPRoutes: their rules, and the listeners that they attach to.

use super::{
    Attachment, Fault, Places,
    backend::{Referrer, Unresolved, World},
    check, filters,
    gateways::{Gateways, OneGateway},
};
use crate::{
    route::{
        choices::Choices,
        host::HostPattern,
        path,
        rule::{
            Backend, Conditions, Destination, Filters, Limits, PathPattern, Retry, Rule, Session, Value,
            Whole,
        },
    },
    snapshot::conditions::{Condition, ObjectStatus, ParentStatus, Says},
    source::{
        Sourced,
        finding::{Finding, Severity},
        gateway::{self, HttpBackendRef, HttpRoute, Match, ParentRef, RouteRule, ValueMatch},
        store::Key,
    },
};
use ::http::HeaderName;
use std::{sync::Arc, time::Duration};

/// Attaches one route to every listener that takes it; what is to be said of it, where any parent is ours.
pub(super) fn attach<'a>(
    source: &'a Sourced<HttpRoute>,
    (world, age): (&World<'_>, u32),
    gateways: &mut Gateways<'a>,
    places: &mut Places,
    findings: &mut Vec<Finding>,
) -> Option<ObjectStatus> {
    let spec = &source.object.spec;
    let faults = check::http_route(spec);
    let choices = super::choices(source, findings);
    let read = if faults.is_empty() { Read::of(source, (world, choices), age) } else { Err(faults) };
    let mut parents = Vec::new();
    for (index, parent) in spec.parent_refs.iter().enumerate() {
        let namespace = parent.namespace.as_deref().unwrap_or(&source.namespace);
        let is_gateway = parent.group == gateway::GROUP && parent.kind == "Gateway";
        let Some(gateway) = gateways.get(namespace, &parent.name).filter(|_| is_gateway) else {
            let text =
                format!("parent {} {namespace}/{} is not one that Weir serves", parent.kind, parent.name);
            let line = source.lines.field(&format!("parentRefs[{index}]"));
            findings.push(source.finding(Severity::Info, line, text, ""));
            continue;
        };
        let refused = match &read {
            Ok(read) => read.attach(source, (parent, gateway, namespace), world, places).err(),
            Err(faults) => {
                let text = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                Some(("UnsupportedValue", text))
            }
        };
        if refused.is_none() {
            services(source).for_each(|service| gateway.leads_to(service));
        }
        if let Some((reason, text)) = refused.as_ref().filter(|_| read.is_ok()) {
            let line = source.lines.field(&format!("parentRefs[{index}]"));
            let text = format!("Gateway {namespace}/{} does not take it: {text} ({reason})", parent.name);
            findings.push(source.finding(Severity::Error, line, text, ""));
        }
        let conditions = conditions(source, refused, read.as_ref().ok());
        parents.push(ParentStatus { parent: index, conditions });
    }
    match &read {
        Ok(read) => {
            read.report(source, findings);
            super::lint_choices(source, &read.attachments, findings);
        }
        Err(faults) => {
            findings.extend(faults.iter().map(|fault| fault.about(source, "the route is left out")));
        }
    }
    (!parents.is_empty()).then(|| ObjectStatus {
        kind: "HTTPRoute",
        namespace: source.namespace.clone(),
        name: source.name.clone(),
        says: Says::Route(parents),
    })
}

/// The Services that a route's requests and their copies go to, whether they are there or not.
fn services(source: &Sourced<HttpRoute>) -> impl Iterator<Item = Key> {
    let rules = source.object.spec.rules.iter();
    let named = rules.flat_map(|rule| {
        let backends = rule.backend_refs.iter().map(HttpBackendRef::backend);
        let filters = rule.backend_refs.iter().flat_map(|one| &one.filters).chain(&rule.filters);
        backends.chain(filters.filter_map(|filter| Some(filter.request_mirror.as_ref()?.backend_ref.clone())))
    });
    named.filter(|one| one.group.is_empty() && one.kind == "Service").map(|one| {
        let namespace = one.namespace.as_deref().unwrap_or(&source.namespace);
        Key::new(namespace, &one.name)
    })
}

fn conditions(
    source: &Sourced<HttpRoute>,
    refused: Option<(&'static str, String)>,
    read: Option<&Read>,
) -> Vec<Condition> {
    let generation = source.object.metadata.generation;
    let accepted = match refused {
        Some((reason, text)) => Condition::new("Accepted", false, reason, text, generation),
        None => Condition::new("Accepted", true, "Accepted", "", generation),
    };
    let unresolved = read.and_then(|read| read.unresolved.first());
    let resolved = match unresolved {
        Some((_, why)) => Condition::new("ResolvedRefs", false, why.reason, why.text.as_str(), generation),
        None => Condition::new("ResolvedRefs", true, "ResolvedRefs", "", generation),
    };
    let broken = read.and_then(|read| read.broken.first()).map(|fault| {
        Condition::new("PartiallyInvalid", true, "UnsupportedValue", fault.to_string(), generation)
    });
    [accepted, resolved].into_iter().chain(broken).collect()
}

/// A route's rules, ready to be attached.
struct Read {
    /// Without a host yet: the hosts are the listener's too.
    attachments: Vec<Attachment>,
    hosts: Vec<HostPattern>,
    unresolved: Vec<(String, Unresolved)>,
    /// Rules that get 500, and why.
    broken: Vec<Fault>,
}

impl Read {
    fn of(
        source: &Sourced<HttpRoute>,
        (world, choices): (&World<'_>, Choices),
        age: u32,
    ) -> Result<Self, Vec<Fault>> {
        let hosts = source.object.spec.hostnames.iter().map(|host| HostPattern::of_gateway(host));
        let mut read = Self {
            attachments: Vec::new(),
            hosts: hosts.collect(),
            unresolved: Vec::new(),
            broken: Vec::new(),
        };
        let mut faults = Vec::new();
        for (at, rule) in source.object.spec.rules.iter().enumerate() {
            let table_rule = Arc::new(read.rule(source, (at, rule), (world, choices)));
            for (index, one) in rule.matches.iter().enumerate() {
                match read_match(one, &format!("rules[{at}].matches[{index}]")) {
                    Ok((path, conditions)) => read.attachments.push(Attachment {
                        host: HostPattern::Any,
                        path,
                        conditions,
                        rule: Arc::clone(&table_rule),
                        order: (age, ordinal(at), ordinal(index)),
                    }),
                    Err(fault) => faults.push(fault),
                }
            }
        }
        if faults.is_empty() { Ok(read) } else { Err(faults) }
    }

    fn rule(
        &mut self,
        source: &Sourced<HttpRoute>,
        (at, rule): (usize, &RouteRule),
        (world, choices): (&World<'_>, Choices),
    ) -> Rule {
        let from = Referrer::route(&source.namespace);
        let place = format!("rules[{at}]");
        let name = match &rule.name {
            Some(name) => format!("HTTPRoute {}/{}#{name}", source.namespace, source.name),
            None => format!("HTTPRoute {}/{}#rule{at}", source.namespace, source.name),
        };
        let mut unresolved = Vec::new();
        let own = filters::read(&rule.filters, &format!("{place}.filters"), (world, from), &mut unresolved);
        let broken = own.as_ref().err().map(|fault| fault.text.as_str().into());
        let filters = own.unwrap_or_else(|fault| {
            self.broken.push(fault);
            Filters::default()
        });
        let mut backends = Vec::new();
        for (index, one) in rule.backend_refs.iter().enumerate() {
            let place = format!("{place}.backendRefs[{index}]");
            let to = world.backend(from, &one.backend()).unwrap_or_else(|why| {
                self.unresolved.push((place.clone(), why.clone()));
                Destination::Invalid(why.text.into())
            });
            let at = format!("{place}.filters");
            let (to, filters) = match filters::read(&one.filters, &at, (world, from), &mut unresolved) {
                Ok(filters) => (to, filters),
                Err(fault) => {
                    let invalid = Destination::Invalid(fault.text.as_str().into());
                    self.broken.push(fault);
                    (invalid, Filters::default())
                }
            };
            let weight = u32::try_from(one.weight).unwrap_or_default();
            backends.push(Backend { weight, to, filters });
        }
        self.unresolved.extend(unresolved.into_iter().map(|why| (format!("{place}.filters"), why)));
        Rule {
            name: name.into(),
            filters,
            backends,
            timeouts: limits(rule),
            choices,
            retry: rule.retry.as_ref().map(read_retry),
            session: rule.session_persistence.as_ref().map(read_session),
            broken,
        }
    }

    /// Attaches the rules to what a parent reference means; `Err` is why to nothing.
    fn attach(
        &self,
        source: &Sourced<HttpRoute>,
        (parent, gateway, namespace): (&ParentRef, &mut OneGateway<'_>, &str),
        world: &World<'_>,
        places: &mut Places,
    ) -> Result<(), (&'static str, String)> {
        let door = format!("Gateway {namespace}/{}", parent.name);
        let (mut meant, mut admitted, mut shared) = (false, false, false);
        for listener in &mut gateway.listeners {
            let section = parent.section_name.as_ref().filter(|name| !name.is_empty());
            let this = section.is_none_or(|name| *name == listener.name)
                && parent.port.is_none_or(|port| port == listener.port);
            meant |= this;
            let admits = this && listener.takes_http && listener.admits(world, namespace, &source.namespace);
            admitted |= admits;
            let hosts = self.hosts_of(&listener.host);
            if !admits || hosts.is_empty() {
                continue;
            }
            shared = true;
            listener.attach();
            for (place, scheme) in listener.places() {
                let table = places.listener((place, scheme), &door, (&listener.host, &listener.name));
                for host in &hosts {
                    self.attachments.iter().for_each(|attachment| attachment.add_to(table, host));
                }
            }
        }
        match (meant, admitted, shared) {
            (_, _, true) => Ok(()),
            (false, ..) => Err(("NoMatchingParent", "no listener of this name or port".to_owned())),
            (_, false, _) => Err(("NotAllowedByListeners", "no listener allows it".to_owned())),
            _ => Err(("NoMatchingListenerHostname", "no listener has one of its hosts".to_owned())),
        }
    }

    /// The hosts that route and listener share; without any of its own the route has the listener's.
    fn hosts_of(&self, listener: &HostPattern) -> Vec<HostPattern> {
        if self.hosts.is_empty() {
            return vec![listener.clone()];
        }
        let mut shared: Vec<_> = self.hosts.iter().filter_map(|host| host.intersection(listener)).collect();
        shared.sort();
        shared.dedup();
        shared
    }

    fn report(&self, source: &Sourced<HttpRoute>, findings: &mut Vec<Finding>) {
        for (path, why) in &self.unresolved {
            let fault = Fault { path: path.clone(), text: why.text.clone() };
            findings.push(fault.about(source, "its requests get 500"));
        }
        findings.extend(self.broken.iter().map(|fault| fault.about(source, "its requests get 500")));
        for (at, rule) in source.object.spec.rules.iter().enumerate() {
            for (field, there) in
                [("retry", rule.retry.is_some()), ("sessionPersistence", rule.session_persistence.is_some())]
            {
                if there {
                    let path = format!("rules[{at}].{field}");
                    let text = format!("{path} is read and not acted upon yet");
                    findings.push(source.finding(Severity::Warning, source.lines.field(&path), text, ""));
                }
            }
        }
    }
}

fn ordinal(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn read_match(one: &Match, place: &str) -> Result<(PathPattern, Conditions), Fault> {
    let whole = |source: &str, at: String| {
        Whole::new(source)
            .map_err(|why| Fault { path: at, text: format!("{source:?} is no expression: {why}") })
    };
    let value = &one.path.value;
    let canonical = || {
        let path = path::canonical(value);
        path.map_err(|why| Fault { path: format!("{place}.path.value"), text: format!("{value:?}: {why}") })
    };
    let path = match one.path.kind.as_str() {
        "Exact" => PathPattern::Exact(canonical()?.into()),
        "RegularExpression" => PathPattern::Regex(whole(value, format!("{place}.path.value"))?),
        _ => PathPattern::prefix(&canonical()?),
    };
    let read = |value: &ValueMatch, what: &str, index: usize| match value.kind.as_str() {
        "RegularExpression" => {
            whole(&value.value, format!("{place}.{what}[{index}].value")).map(Value::Regex)
        }
        _ => Ok(Value::Exact(value.value.as_str().into())),
    };
    let mut conditions =
        Conditions { method: one.method.as_deref().map(Into::into), ..Conditions::default() };
    for (index, header) in one.headers.iter().enumerate() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let at = format!("{place}.headers[{index}].name");
        let name = name.map_err(|_| Fault { path: at, text: format!("{:?} is no name", header.name) })?;
        let value = read(header, "headers", index)?;
        // Of equivalent names the first counts.
        if !conditions.headers.iter().any(|(other, _)| *other == name) {
            conditions.headers.push((name, value));
        }
    }
    for (index, parameter) in one.query_params.iter().enumerate() {
        let value = read(parameter, "queryParams", index)?;
        conditions.query.push((parameter.name.as_str().into(), value));
    }
    Ok((path, conditions))
}

fn limits(rule: &RouteRule) -> Limits {
    let of = |text: &Option<String>| text.as_deref().and_then(check::duration).map(unless_zero);
    let timeouts = rule.timeouts.as_ref();
    Limits {
        request: timeouts.and_then(|timeouts| of(&timeouts.request)),
        backend: timeouts.and_then(|timeouts| of(&timeouts.backend_request)),
    }
}

/// `0s` is no limit.
fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn read_retry(retry: &gateway::Retry) -> Retry {
    Retry {
        codes: retry.codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect(),
        attempts: retry.attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(1),
        backoff: retry.backoff.as_deref().and_then(check::duration),
    }
}

fn read_session(session: &gateway::SessionPersistence) -> Session {
    Session {
        name: session.session_name.as_deref().map(Into::into),
        in_header: session.kind.as_deref() == Some("Header"),
        absolute: session.absolute_timeout.as_deref().and_then(check::duration),
        idle: session.idle_timeout.as_deref().and_then(check::duration),
    }
}
