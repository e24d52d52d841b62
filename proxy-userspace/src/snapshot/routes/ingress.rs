//! Ingresses, from their manifests.

use super::{Attachment, Fault, backend::World, check};
use crate::{
    route::{
        choices::Choices,
        host::HostPattern,
        path,
        rule::{Backend, Conditions, Destination, Filters, Limits, PathPattern, Rule},
    },
    snapshot::conditions::{ObjectStatus, Says},
    source::{
        Objects, Sourced,
        finding::{Finding, Severity, quoted},
    },
};
use k8s_openapi::api::networking::v1::{self, HTTPIngressPath, IngressBackend, IngressSpec};

/// Who serves the Ingresses of a class, if it is us.
const CONTROLLER: &str = "weir.dev/ingress";
/// The class that is ours without an IngressClass.
const OUR_CLASS: &str = "weir";
/// How Ingresses named their class before `ingressClassName`.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";
/// Says that a class is the one of Ingresses that name none.
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// Which Ingresses are ours.
pub(super) struct Classes<'a> {
    ours: Vec<&'a str>,
    others: Vec<&'a str>,
    /// Ingresses without a class are ours.
    unnamed: bool,
}

impl<'a> Classes<'a> {
    pub(super) fn of(objects: &'a Objects) -> Self {
        let mut classes = Self { ours: Vec::new(), others: Vec::new(), unnamed: false };
        for class in objects.ingress_classes.iter() {
            let controller = class.object.spec.as_ref().and_then(|spec| spec.controller.as_deref());
            let annotations = class.object.metadata.annotations.as_ref();
            let default = annotations.and_then(|all| all.get(IS_DEFAULT)).is_some_and(|is| is == "true");
            if controller == Some(CONTROLLER) {
                classes.ours.push(&class.name);
                classes.unnamed |= default;
            } else {
                classes.others.push(&class.name);
            }
        }
        // Where nobody says whose they are, they are nobody else's.
        classes.unnamed |= objects.ingress_classes.is_empty();
        classes
    }

    /// Whether an Ingress is ours; `Err` names the class that it has instead.
    fn has(&self, ingress: &'a Sourced<v1::Ingress>) -> Result<(), Option<&'a str>> {
        let spec = ingress.object.spec.as_ref();
        let annotations = ingress.object.metadata.annotations.as_ref();
        let named = spec.and_then(|spec| spec.ingress_class_name.as_deref());
        let named = named.or_else(|| annotations.and_then(|all| all.get(OLD_CLASS)).map(String::as_str));
        let ours = match named {
            None => self.unnamed,
            Some(class) => {
                self.ours.contains(&class) || (class == OUR_CLASS && !self.others.contains(&class))
            }
        };
        if ours { Ok(()) } else { Err(named) }
    }
}

/// One Ingress's rules; `age` orders it among all routes.
pub(super) fn read(
    ingress: &Sourced<v1::Ingress>,
    (classes, world, age): (&Classes<'_>, &World<'_>, u32),
    findings: &mut Vec<Finding>,
) -> Option<(Vec<Attachment>, ObjectStatus)> {
    if let Err(class) = classes.has(ingress) {
        let class = class.map_or_else(|| "no class".to_owned(), |class| format!("class {}", quoted(class)));
        let (line, text) = (ingress.lines.field("ingressClassName"), format!("{class}: not Weir's to serve"));
        findings.push(ingress.finding(Severity::Info, line, text, "Weir's is ingressClassName: weir"));
        return None;
    }
    let empty = IngressSpec::default();
    let spec = ingress.object.spec.as_ref().unwrap_or(&empty);
    let faults = check::ingress(spec);
    if !faults.is_empty() {
        findings.extend(faults.into_iter().map(|fault| fault.about(ingress, "the Ingress is left out")));
        return None;
    }
    let choices = super::choices(ingress, findings);
    let mut reader = Reader { ingress, world, age, choices, attachments: Vec::new(), findings };
    reader.spec(spec);
    super::lint_choices(ingress, &reader.attachments, reader.findings);
    let status = ObjectStatus {
        kind: "Ingress",
        namespace: ingress.namespace.clone(),
        name: ingress.name.clone(),
        says: Says::Ingress,
    };
    Some((reader.attachments, status))
}

struct Reader<'a> {
    ingress: &'a Sourced<v1::Ingress>,
    world: &'a World<'a>,
    age: u32,
    choices: Choices,
    attachments: Vec<Attachment>,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    fn spec(&mut self, spec: &IngressSpec) {
        let label = format!("Ingress {}/{}", self.ingress.namespace, self.ingress.name);
        let default = spec
            .default_backend
            .as_ref()
            .map(|backend| self.rule(format!("{label}#default"), backend, "defaultBackend"));
        let mut hosts = Vec::new();
        for (at, rule) in spec.rules.iter().flatten().enumerate() {
            let host = rule.host.as_deref().filter(|host| !host.is_empty());
            let host = host.map_or(HostPattern::Any, HostPattern::of_ingress);
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            for (index, one) in paths.enumerate() {
                let place = format!("rules[{at}].http.paths[{index}].backend");
                let rule = self.rule(format!("{label}#rule{at}.path{index}"), &one.backend, &place);
                self.attach(host.clone(), pattern(one), &rule, (at, index));
            }
            hosts.push(host);
        }
        // Where no path matches, the Ingress's own default comes before that of others.
        if let Some(rule) = default {
            hosts.push(HostPattern::Any);
            hosts.sort();
            hosts.dedup();
            for host in hosts {
                self.attach(host, PathPattern::Default, &rule, (0, 0));
            }
        }
    }

    fn rule(&mut self, name: String, backend: &IngressBackend, place: &str) -> std::sync::Arc<Rule> {
        let to = self.destination(backend).unwrap_or_else(|fault| {
            let line = self.ingress.lines.field(place);
            let text = format!("{place}: {}", fault.text);
            self.findings.push(self.ingress.finding(Severity::Error, line, text, "its requests get 503"));
            Destination::Missing(fault.text.into())
        });
        let rule = Rule {
            name: name.into(),
            filters: Filters::default(),
            backends: vec![Backend { weight: 1, to, filters: Filters::default() }],
            timeouts: Limits::default(),
            choices: self.choices,
            retry: None,
            session: None,
            broken: None,
        };
        rule.into()
    }

    fn destination(&self, backend: &IngressBackend) -> Result<Destination, Fault> {
        let Some(service) = &backend.service else {
            let text = "a resource is no backend that Weir knows".to_owned();
            return Err(Fault { path: String::new(), text });
        };
        let port = service.port.as_ref();
        let name = port.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty());
        let number = port.and_then(|port| port.number);
        self.world.ingress_backend(&self.ingress.namespace, &service.name, (number, name))
    }

    fn attach(
        &mut self,
        host: HostPattern,
        path: PathPattern,
        rule: &std::sync::Arc<Rule>,
        (at, index): (usize, usize),
    ) {
        let ordinal = |number| u32::try_from(number).unwrap_or(u32::MAX);
        self.attachments.push(Attachment {
            host,
            path,
            conditions: Conditions::default(),
            rule: std::sync::Arc::clone(rule),
            order: (self.age, ordinal(at), ordinal(index)),
        });
    }
}

/// `ImplementationSpecific` is a prefix.
fn pattern(one: &HTTPIngressPath) -> PathPattern {
    let value = one.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let value = path::canonical(value).map_or_else(|_| value.to_owned(), std::borrow::Cow::into_owned);
    match one.path_type.as_str() {
        "Exact" => PathPattern::Exact(value.into()),
        _ => PathPattern::prefix(&value),
    }
}
