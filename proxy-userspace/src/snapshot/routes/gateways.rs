//! Gateways and their listeners.

mod status;

use super::{
    BuildOptions, Places,
    backend::World,
    certificates::{self, Shown},
    check, clients, distinct,
};
use crate::{
    policy::access::{Labels, Selector},
    route::{
        host::HostPattern,
        table::{Place, Scheme, Where},
    },
    snapshot::conditions::ObjectStatus,
    source::{
        Objects, Sourced,
        finding::{Finding, Severity, quoted},
        gateway::{self, Gateway},
        store::Key,
    },
    tls::{Clients, Held, Terms},
};
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// Who serves the Gateways of a class, if it is us.
const CONTROLLER: &str = "weir.dev/gateway";
/// The class that is ours without a GatewayClass.
const OUR_CLASS: &str = "weir";

/// All Gateways that are ours.
pub(super) struct Gateways<'a> {
    all: HashMap<(&'a str, &'a str), OneGateway<'a>>,
    classes: Vec<ObjectStatus>,
}

/// One of them.
pub(super) struct OneGateway<'a> {
    source: &'a Sourced<Gateway>,
    pub(super) listeners: Vec<OneListener>,
    addresses: Vec<IpAddr>,
    /// Of the Gateway itself.
    refused: Option<(&'static str, String)>,
    unusable: Option<(&'static str, String)>,
    /// What endpoints get to see of it, where it wants that.
    shown: Option<Shown>,
    /// Services that its routes lead to.
    leads_to: HashSet<Key>,
}

/// One listener of a Gateway of ours.
pub(super) struct OneListener {
    pub(super) name: String,
    pub(super) port: i32,
    pub(super) host: HostPattern,
    scheme: Option<Scheme>,
    /// HTTPRoutes may attach.
    pub(super) takes_http: bool,
    from: From,
    places: Vec<Place>,
    supported: Vec<&'static str>,
    attached: i32,
    refused: Option<(&'static str, String)>,
    conflict: Option<(&'static str, String)>,
    unresolved: Option<(&'static str, String)>,
    /// What TLS clients get there.
    terms: Option<Arc<Terms>>,
    /// What they have to prove.
    clients: Option<Arc<Clients>>,
    /// What is wrong with certificates that are used all the same.
    doubts: Vec<String>,
}

/// Namespaces whose routes may attach.
enum From {
    Same,
    All,
    Selected(Selector),
    None,
}

impl OneListener {
    /// Whether routes can reach it at all.
    pub(super) fn is_valid(&self) -> bool {
        self.refused.is_none() && self.conflict.is_none()
    }

    /// Whether a namespace's routes may attach to this listener of a Gateway in `own`.
    pub(super) fn admits(&self, world: &World<'_>, own: &str, namespace: &str) -> bool {
        match &self.from {
            From::Same => own == namespace,
            From::All => true,
            From::Selected(selector) => selector.selects(&Labels::default(), &world.labels(namespace)),
            From::None => false,
        }
    }

    /// Counts a route.
    pub(super) fn attach(&mut self) {
        self.attached = self.attached.saturating_add(1);
    }

    /// Where its requests come in.
    pub(super) fn places(&self) -> impl Iterator<Item = (Place, Scheme)> {
        let scheme = self.scheme.filter(|_| self.is_valid());
        scheme.into_iter().flat_map(|scheme| self.places.iter().map(move |place| (*place, scheme)))
    }
}

impl<'a> Gateways<'a> {
    /// Reads them, and opens their doors.
    pub(super) fn read(
        objects: &'a Objects,
        (world, options): (&World<'_>, &BuildOptions),
        places: &mut Places,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut ours = HashMap::new();
        let mut statuses = Vec::new();
        for class in distinct(&objects.gateway_classes, findings) {
            let faults = check::gateway_class(&class.object.spec);
            findings.extend(faults.iter().map(|fault| fault.about(class, "the class is left out")));
            let is_ours = faults.is_empty() && class.object.spec.controller_name == CONTROLLER;
            ours.insert(class.name.as_str(), is_ours);
            if is_ours {
                statuses.push(status::class_status(class));
            }
        }
        let mut all = HashMap::new();
        for source in distinct(&objects.gateways, findings) {
            let class = source.object.spec.gateway_class_name.as_str();
            if !ours.get(class).copied().unwrap_or(class == OUR_CLASS) {
                let text = format!("class {}: not Weir's to serve", quoted(class));
                let line = source.lines.field("gatewayClassName");
                let fix = format!("Weir's is {OUR_CLASS}, or a GatewayClass of controller {CONTROLLER}");
                findings.push(source.finding(Severity::Info, line, text, fix));
                continue;
            }
            let faults = check::gateway(&source.object.spec);
            if !faults.is_empty() {
                findings.extend(faults.iter().map(|fault| fault.about(source, "the Gateway is left out")));
                continue;
            }
            let gateway = OneGateway::read(source, (world, options), places, findings);
            all.insert((source.namespace.as_str(), source.name.as_str()), gateway);
        }
        all.values().for_each(|gateway: &OneGateway<'_>| gateway.report_neighbours(places, findings));
        Self { all, classes: statuses }
    }

    /// A Gateway of ours.
    pub(super) fn get(&mut self, namespace: &'a str, name: &'a str) -> Option<&mut OneGateway<'a>> {
        self.all.get_mut(&(namespace, name))
    }

    /// Those whose routes lead to some of these Services, in order.
    pub(super) fn users(&self, services: &[Key]) -> Vec<Key> {
        let leads = |gateway: &&OneGateway<'_>| services.iter().any(|one| gateway.leads_to.contains(one));
        let key = |gateway: &OneGateway<'_>| Key::new(&gateway.source.namespace, &gateway.source.name);
        let mut users: Vec<_> = self.all.values().filter(leads).map(key).collect();
        users.sort();
        users
    }

    /// The certificates that they show to endpoints, by their doors.
    pub(super) fn shown(&self) -> impl Iterator<Item = (String, &Held)> {
        self.all.values().filter_map(|gateway| {
            let held = gateway.shown.as_ref()?.held.as_ref()?;
            Some((gateway.door(), held))
        })
    }

    /// What is to be said about all of them, once routes are attached.
    pub(super) fn statuses(self) -> impl Iterator<Item = ObjectStatus> {
        let Self { all, classes } = self;
        classes.into_iter().chain(all.into_values().map(OneGateway::status))
    }
}

impl<'a> OneGateway<'a> {
    fn read(
        source: &'a Sourced<Gateway>,
        (world, options): (&World<'_>, &BuildOptions),
        places: &mut Places,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let spec = &source.object.spec;
        let mut gateway = Self {
            source,
            listeners: Vec::new(),
            addresses: Vec::new(),
            refused: None,
            unusable: None,
            shown: None,
            leads_to: HashSet::new(),
        };
        let backend = spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
        let shown = backend.and_then(|backend| backend.client_certificate_ref.as_ref());
        gateway.shown = shown.map(|one| certificates::of_gateway(one, (world, options), &source.namespace));
        gateway.report_shown(findings);
        let at = gateway.read_addresses(options);
        let parameters = spec.infrastructure.as_ref().and_then(|all| all.parameters_ref.as_ref());
        if let Some(one) = parameters {
            let text = format!("Weir has no parameters, and does not read {} {}", one.kind, one.name);
            gateway.refused = Some(("InvalidParameters", text));
        }
        let door = gateway.door();
        for (index, one) in spec.listeners.iter().enumerate() {
            let mut listener = read_listener(one, &at);
            if listener.scheme == Some(Scheme::Https) {
                let scope = format!("{door}#{}", one.name);
                let by = (&*scope, &listener.host);
                let wanted = clients::of_port((spec, one.port), (world, options), &source.namespace);
                let asked = wanted.clients.clone();
                let found = certificates::of_listener(one, (by, asked), (world, options, &source.namespace));
                (listener.terms, listener.doubts) = (found.terms, found.doubts);
                listener.clients = wanted.clients;
                listener.unresolved = listener.unresolved.or(found.fault).or(wanted.unresolved);
                listener.refused = wanted.refused;
            }
            if gateway.refused.is_some() {
                listener.places.clear();
            }
            let scheme = listener.scheme.unwrap_or_default();
            if let Some(place) =
                listener.places.iter().find(|place| places.scheme(**place).is_some_and(|is| is != scheme))
            {
                let text = format!("port {} already speaks another protocol", place.port);
                listener.conflict = Some(("ProtocolConflict", text));
            }
            for (place, scheme) in listener.places().collect::<Vec<_>>() {
                let table = places.listener((place, scheme), &door, (&listener.host, &listener.name));
                table.clients.clone_from(&listener.clients);
                if scheme == Scheme::Https {
                    places.offer(place, &listener.host, listener.terms.as_ref());
                }
            }
            gateway.report(index, &listener, findings);
            gateway.listeners.push(listener);
        }
        for (_, text) in [&gateway.refused, &gateway.unusable].into_iter().flatten() {
            findings.push(source.finding(
                Severity::Error,
                source.lines.object,
                text,
                "nothing of it is served",
            ));
        }
        gateway
    }

    /// A route of it leads to this Service.
    pub(super) fn leads_to(&mut self, service: Key) {
        self.leads_to.insert(service);
    }

    /// What it is called where requests come in.
    fn door(&self) -> String {
        format!("Gateway {}/{}", self.source.namespace, self.source.name)
    }

    fn report_shown(&self, findings: &mut Vec<Finding>) {
        const PATH: &str = "tls.backend.clientCertificateRef";
        let Some(Shown { fault, doubt, .. }) = &self.shown else { return };
        let mut say = |severity, text: &str| {
            let line = self.source.lines.field(PATH);
            let line = if line == 0 { self.source.lines.object } else { line };
            findings.push(self.source.finding(severity, line, format!("{PATH}: {text}"), ""));
        };
        fault.iter().for_each(|(_, text)| say(Severity::Error, text));
        doubt.iter().for_each(|text| say(Severity::Warning, text));
    }

    /// Where it is reached.
    fn read_addresses(&mut self, options: &BuildOptions) -> Vec<Where> {
        let mut at = Vec::new();
        let wanted = self.source.object.spec.addresses.iter();
        for address in wanted.filter(|address| address.value.as_ref().is_some_and(|value| !value.is_empty()))
        {
            let value = address.value.as_deref().unwrap_or_default();
            if address.kind != "IPAddress" {
                let text = format!("addresses of type {} are not served", quoted(&address.kind));
                self.refused = Some(("UnsupportedAddress", text));
                continue;
            }
            match value.parse::<IpAddr>() {
                Ok(ip) if options.node_addresses.contains(&ip) => at.push(Where::Nodes),
                Ok(ip) => {
                    self.addresses.push(ip);
                    at.push(Where::Address(ip));
                }
                Err(_) => {
                    let text = format!("address {} is none", quoted(value));
                    self.unusable = Some(("AddressNotUsable", text));
                }
            }
        }
        if at.is_empty() && self.refused.is_none() && self.unusable.is_none() {
            at.push(Where::Nodes);
        }
        at
    }

    /// Tells of hosts at whose requests others' terms are in the way.
    fn report_neighbours(&self, places: &Places, findings: &mut Vec<Finding>) {
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(clients) = listener.clients.as_ref().filter(|_| listener.is_valid()) else { continue };
            for taken in clients::taken_over(places, (&listener.places, &listener.host), clients) {
                let line = self.source.lines.field(&format!("listeners[{index}]"));
                let name = quoted(&listener.name);
                let text =
                    format!("listener {name}: {taken}, which does not verify clients as this one does");
                let fix = "their requests for this listener get 421: give it a port or an address of its own";
                findings.push(self.source.finding(Severity::Warning, line, text, fix));
            }
        }
    }

    fn report(&self, index: usize, listener: &OneListener, findings: &mut Vec<Finding>) {
        let line = self.source.lines.field(&format!("listeners[{index}]"));
        let line = if line == 0 { self.source.lines.object } else { line };
        let name = quoted(&listener.name);
        for (_, text) in [&listener.refused, &listener.conflict, &listener.unresolved].into_iter().flatten() {
            findings.push(self.source.finding(Severity::Error, line, format!("listener {name}: {text}"), ""));
        }
        for text in &listener.doubts {
            findings.push(self.source.finding(
                Severity::Warning,
                line,
                format!("listener {name}: {text}"),
                "",
            ));
        }
    }
}

fn read_listener(one: &gateway::Listener, at: &[Where]) -> OneListener {
    let scheme = match one.protocol.as_str() {
        "HTTP" => Some(Scheme::Http),
        "HTTPS" => Some(Scheme::Https),
        _ => None,
    };
    let allowed = &one.allowed_routes;
    let http = |kind: &&gateway::RouteKind| kind.group == gateway::GROUP && kind.kind == "HTTPRoute";
    let takes_http =
        scheme.is_some() && (allowed.kinds.is_empty() || allowed.kinds.iter().any(|kind| http(&kind)));
    let odd = allowed.kinds.iter().find(|kind| !http(kind));
    let unresolved = odd
        .filter(|_| scheme.is_some())
        .map(|odd| ("InvalidRouteKinds", format!("routes of kind {} are not served", quoted(&odd.kind))));
    let from = match (allowed.namespaces.from.as_str(), &allowed.namespaces.selector) {
        ("All", _) => From::All,
        ("Selector", Some(selector)) => Selector::of_namespaces(selector).map_or(From::None, From::Selected),
        ("Selector", None) => From::None,
        _ => From::Same,
    };
    let port = u16::try_from(one.port).unwrap_or_default();
    let refused = scheme.is_none().then(|| ("UnsupportedProtocol", unserved(one)));
    OneListener {
        name: one.name.clone(),
        port: one.port,
        host: one.hostname.as_deref().map_or(HostPattern::Any, HostPattern::of_gateway),
        scheme,
        takes_http,
        from,
        places: at.iter().map(|at| Place { at: *at, port }).collect(),
        supported: if takes_http { vec!["HTTPRoute"] } else { Vec::new() },
        attached: 0,
        refused,
        conflict: None,
        unresolved,
        terms: None,
        clients: None,
        doubts: Vec::new(),
    }
}

/// Why a listener's protocol is not served, and what to do instead.
fn unserved(one: &gateway::Listener) -> String {
    let passes = one.tls.as_ref().is_some_and(|tls| tls.mode == "Passthrough");
    let fix = match one.protocol.as_str() {
        "TLS" if passes => {
            "requests within it cannot be read: have it end here (HTTPS with certificateRefs, and a BackendTLSPolicy \
             for the way on), or reach the Service itself, at a node port or an external address"
        }
        "TLS" => "protocol HTTPS is TLS that ends here, before HTTP",
        _ => "HTTP and HTTPS are; a Service with a node port or an external address carries anything",
    };
    format!("protocol {} is not served: {fix}", quoted(&one.protocol))
}
