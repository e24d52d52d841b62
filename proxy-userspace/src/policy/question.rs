//! What policies say about a connection, or a request, that nobody makes: for `weir policy`.

mod gate;
mod request;
mod service;

pub(crate) use request::{Http, Request};
pub(crate) use service::Ports;

use request::{get, slash};

use super::{
    Outcome, Passage,
    access::{Access, Direction, Party, Side, Transport, Verdict},
};
use crate::{
    route::{
        choices::Choices,
        table::{Place, Scheme, Site, Where},
    },
    snapshot::{Family, Snapshot},
};
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// One end of a connection, as people write it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// `namespace/pod`.
    Pod(String),
    /// `svc/namespace/name`.
    Service(String),
    /// An address.
    Address(IpAddr),
    /// This node.
    Host,
    /// Another one.
    RemoteNode,
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let named = |name: &str| match name.split('/').collect::<Vec<_>>().as_slice() {
            [name] if !name.is_empty() => Some(format!("default/{name}")),
            [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Some(format!("{namespace}/{name}"))
            }
            _ => None,
        };
        let wrong = || format!("{text:?} is not namespace/pod, an address, host or remote-node");
        match text.split_once('/') {
            None if text == "host" => Ok(Self::Host),
            None if text == "remote-node" => Ok(Self::RemoteNode),
            Some(("pod" | "po", rest)) => named(rest).map(Self::Pod).ok_or_else(wrong),
            Some(("svc" | "service", rest)) => named(rest).map(Self::Service).ok_or_else(wrong),
            Some(_) => named(text).map(Self::Pod).ok_or_else(wrong),
            None => Err(wrong()),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) transport: Transport,
    /// Of the address that is connected to: of a Service, the Service's.
    pub(crate) port: u16,
    pub(crate) family: Option<Family>,
    pub(crate) http: Option<Http>,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fate {
    /// The connection, and the request if there is one.
    Allow,
    /// The request is answered 403.
    Forbidden,
    /// The connection is refused.
    Drop,
    /// The request is answered 400.
    BadRequest,
    /// A route answers it with a redirect.
    Redirect,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Forbidden => "forbidden",
            Self::Drop => "drop",
            Self::BadRequest => "bad-request",
            Self::Redirect => "redirect",
        })
    }
}

/// What becomes of it at one endpoint, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Answer {
    /// The endpoint, or the address.
    pub(crate) at: String,
    /// What.
    pub(crate) fate: Fate,
    /// Why.
    pub(crate) because: String,
}

/// An endpoint of a connection: who is there, and which port of theirs.
pub(crate) struct There {
    pub(crate) name: String,
    pub(crate) party: Party,
    pub(crate) port: u16,
}

impl There {
    /// Whoever has an address, or the pod that a slice names.
    fn at(access: &Access, addr: SocketAddr, workload: Option<&str>) -> Self {
        let pod = access.pod_at(addr.ip(), workload);
        let party = match &pod {
            Some(pod) => access.party_of(pod, Some(addr.ip())),
            None => access.party_at(addr.ip()),
        };
        let name = pod.map_or_else(|| addr.to_string(), |pod| format!("{} {addr}", pod.facts.name));
        Self { name, party, port: addr.port() }
    }
}

/// An answer, and what it was found by.
pub(crate) struct Told {
    pub(crate) answer: Answer,
    /// `None` where it reaches nobody.
    pub(crate) there: Option<There>,
    /// As the endpoint would get it.
    pub(crate) request: Option<Request>,
    /// It came to a listener, and a rule chose the endpoint.
    pub(crate) by_rule: bool,
}

/// Who connects, and where the connection may lead: to any endpoint of a Service.
pub(crate) struct Ends {
    pub(crate) client: Party,
    pub(crate) endpoints: Vec<There>,
}

impl Question {
    /// Of what `weir policy explain` was called with: `from`, `to`, `port`, `protocol`, and of a request
    /// `method`, `path`, `host` and `header`.
    pub(crate) fn of_pairs(pairs: &[(String, String)]) -> Result<Self, String> {
        let value =
            |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let end = |wanted: &str| value(wanted).ok_or_else(|| format!("{wanted} is missing"))?.parse::<End>();
        let transport = match value("protocol").unwrap_or("TCP").to_ascii_uppercase().as_str() {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            "SCTP" => Transport::Sctp,
            other => return Err(format!("protocol {other:?} is not TCP, UDP or SCTP")),
        };
        let port = value("port").unwrap_or("80").parse().ok().filter(|port: &u16| *port > 0);
        let mut headers = Vec::new();
        for (_, field) in pairs.iter().filter(|(name, _)| name == "header") {
            let (name, value) =
                field.split_once(':').ok_or_else(|| format!("{field:?} is not Name: value"))?;
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let owned = |wanted: &str| value(wanted).map(str::to_owned);
        let (method, path, host) = (owned("method"), owned("path"), owned("host"));
        let is_request = method.is_some() || path.is_some() || host.is_some() || !headers.is_empty();
        let http = is_request.then(|| Http {
            method: method.unwrap_or_else(get),
            path: path.unwrap_or_else(slash),
            host,
            headers,
        });
        let port = port.ok_or("port is no port")?;
        Ok(Self { from: end("from")?, to: end("to")?, transport, port, family: None, http })
    }

    /// Who is meant. `Err` where the question cannot be understood.
    pub(crate) fn ends(&self, snapshot: &Snapshot, ports: &Ports) -> anyhow::Result<Ends> {
        let access = &snapshot.access;
        let family = self.family.or_else(|| family_of(&self.to)).or_else(|| family_of(&self.from));
        let client = match &self.from {
            End::Service(name) => anyhow::bail!("svc/{name} connects to nobody"),
            end => party(access, end, family)?.1,
        };
        let endpoints = match &self.to {
            End::Service(name) => {
                let cluster = snapshot.clusters.get(&format!("{name}:{}", self.port));
                let frontends =
                    cluster.filter(|_| self.transport == Transport::Tcp).map(|one| &one.frontends);
                let mut frontends = frontends.into_iter().flatten();
                let fits = |addr: &&SocketAddr| family.is_none_or(|family| Family::of(addr.ip()) == family);
                let address = match frontends.find(fits) {
                    Some(address) => *address,
                    None => ports.address(name, self.port, self.transport, family)?,
                };
                self.behind(snapshot, ports, address)
            }
            End::Address(ip) => self.behind(snapshot, ports, SocketAddr::new(ip.to_canonical(), self.port)),
            _ => None,
        };
        let endpoints = match endpoints {
            Some(endpoints) => endpoints,
            None => {
                let (name, party) = party(access, &self.to, family)?;
                vec![There { name, party, port: self.port }]
            }
        };
        Ok(Ends { client, endpoints })
    }

    /// The endpoints of a Service's address; `None` where it is none.
    fn behind(&self, snapshot: &Snapshot, ports: &Ports, address: SocketAddr) -> Option<Vec<There>> {
        if self.transport == Transport::Tcp
            && let Some(cluster) = snapshot.by_frontend.get(&address)
        {
            let usable = cluster.usable_endpoints(Family::of(address.ip()));
            return Some(
                usable.map(|one| There::at(&snapshot.access, one.addr, one.workload.as_deref())).collect(),
            );
        }
        let endpoints = ports.endpoints(address, self.transport)?;
        Some(endpoints.into_iter().map(|addr| There::at(&snapshot.access, addr, None)).collect())
    }

    /// What becomes of it at each endpoint. `Err` where the question cannot be understood.
    pub(crate) fn answers(&self, snapshot: &Snapshot, ports: &Ports) -> anyhow::Result<Vec<Answer>> {
        Ok(self.told(snapshot, ports)?.1.into_iter().map(|told| told.answer).collect())
    }

    /// Who connects, and what becomes of it at each endpoint. `Err` where the question cannot be understood.
    pub(crate) fn told(&self, snapshot: &Snapshot, ports: &Ports) -> anyhow::Result<(Party, Vec<Told>)> {
        ensure!(self.http.is_none() || self.transport == Transport::Tcp, "HTTP is spoken on TCP alone");
        let Ends { client, endpoints } = self.ends(snapshot, ports)?;
        let site = self.site(snapshot);
        let choices = site.map_or_else(|| self.choices(snapshot), |site| site.choices);
        let request = self.http.as_ref().map(|http| http.request(self.authority(), choices));
        if let (Some(request), Some(site), [gate]) = (&request, site, &endpoints[..]) {
            let family = self.family.or_else(|| family_of(&self.to));
            let told = gate::requested(snapshot, (&client, gate), (site, family), request.as_ref());
            return Ok((client, told));
        }
        let request = request.map(|request| request.and_then(|request| request.spelled(choices)));
        if endpoints.is_empty() {
            let because = "the Service has no endpoint that can be used".to_owned();
            let answer = Answer { at: format!("{:?}", self.to), fate: Fate::Drop, because };
            return Ok((client, vec![Told { answer, there: None, request: None, by_rule: false }]));
        }
        let told = endpoints.into_iter().map(|there| {
            let (fate, because) = match &request {
                None => connection(&snapshot.access, &client, &there, self.transport),
                Some(request) => requested(&snapshot.access, &client, &there, request.as_ref()),
            };
            let answer = Answer { at: there.name.clone(), fate, because };
            let request = request.clone().and_then(Result::ok);
            Told { answer, there: Some(there), request, by_rule: false }
        });
        let told = told.collect();
        Ok((client, told))
    }

    /// The Gateways and Ingresses that it is for, where it goes by host and path.
    fn site<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Site> {
        let at = match &self.to {
            End::Address(ip) => {
                let address = SocketAddr::new(ip.to_canonical(), self.port);
                if snapshot.by_frontend.contains_key(&address) {
                    return None;
                }
                if let Some(site) = snapshot.by_gateway.get(&address) {
                    return Some(site);
                }
                Where::Address(address.ip())
            }
            End::Host | End::RemoteNode => Where::Nodes,
            End::Pod(_) | End::Service(_) => return None,
        };
        let site = snapshot.routes.sites.get(&Place { at, port: self.port })?;
        (site.scheme == Scheme::Http).then_some(site)
    }

    /// What the Service admits that it is for, if it is for one.
    fn choices(&self, snapshot: &Snapshot) -> Choices {
        let cluster = match &self.to {
            End::Service(name) => snapshot.clusters.get(&format!("{name}:{}", self.port)),
            End::Address(ip) => snapshot.by_frontend.get(&SocketAddr::new(ip.to_canonical(), self.port)),
            End::Pod(_) | End::Host | End::RemoteNode => None,
        };
        cluster.map(|cluster| cluster.choices).unwrap_or_default()
    }

    /// What a client would send as the host.
    pub(crate) fn authority(&self) -> String {
        let host = match &self.to {
            End::Address(IpAddr::V6(ip)) => format!("[{ip}]"),
            End::Address(ip) => ip.to_string(),
            End::Pod(name) | End::Service(name) => {
                let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
                format!("{name}.{namespace}")
            }
            End::Host | End::RemoteNode => "node".to_owned(),
        };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

fn family_of(end: &End) -> Option<Family> {
    if let End::Address(ip) = end { Some(Family::of(*ip)) } else { None }
}

/// Who is meant, and under which name.
fn party(access: &Access, end: &End, family: Option<Family>) -> anyhow::Result<(String, Party)> {
    Ok(match end {
        End::Pod(name) => {
            let pod = access.pod(name).with_context(|| format!("there is no pod {name}"))?;
            let mut addresses = pod.facts.addresses.iter().copied();
            let address = match family {
                Some(family) => addresses.find(|ip| Family::of(*ip) == family),
                None => addresses.next(),
            };
            (name.clone(), access.party_of(pod, address))
        }
        End::Address(ip) => (ip.to_string(), access.party_at(*ip)),
        End::Host => ("host".to_owned(), access.node(true)),
        End::RemoteNode => ("remote-node".to_owned(), access.node(false)),
        End::Service(name) => anyhow::bail!("svc/{name} is no pod"),
    })
}

fn connection(access: &Access, client: &Party, there: &There, transport: Transport) -> (Fate, String) {
    match access.decide(client, &there.party, transport, there.port) {
        Verdict::Deny { direction, policies, rule } => {
            (Fate::Drop, denied(direction, &policies, rule.as_deref()))
        }
        Verdict::Allow { egress, ingress } => {
            let mut said = Vec::new();
            for (direction, side) in [(Direction::Egress, &egress), (Direction::Ingress, &ingress)] {
                said.push(match side {
                    None => format!("{direction}: no policy is about it"),
                    Some((_, Side::Allow { rule: Some(rule), .. })) => {
                        format!("{direction}: {rule} allows it")
                    }
                    Some((set, Side::Allow { .. })) => {
                        format!("{direction}: {} denies nothing else", set.name)
                    }
                    Some((set, Side::Http(_))) => format!("{direction}: {} decides about requests", set.name),
                    Some((set, Side::Deny { .. })) => format!("{direction}: {} denies it", set.name),
                });
            }
            (Fate::Allow, said.join("; "))
        }
    }
}

fn denied(direction: Direction, policies: &str, rule: Option<&str>) -> String {
    match rule {
        Some(rule) => format!("{direction}: {rule} denies it"),
        None => format!("{direction}: no rule of {policies} allows it"),
    }
}

fn requested(
    access: &Access,
    client: &Party,
    there: &There,
    request: Result<&Request, &String>,
) -> (Fate, String) {
    let passage = Passage::of(access, client, &there.party, there.port);
    if passage.is_closed() {
        return connection(access, client, there, Transport::Tcp);
    }
    let request = match request {
        Ok(request) => request,
        Err(why) => return (Fate::BadRequest, why.clone()),
    };
    match passage.decide(&request.asked()) {
        Outcome::Allow(rules) if rules.is_empty() => connection(access, client, there, Transport::Tcp),
        Outcome::Allow(rules) => {
            let names: Vec<_> = rules.iter().map(|rule| &*rule.name).collect();
            (Fate::Allow, format!("{} allows it", names.join(" and ")))
        }
        Outcome::Deny(policies) => (Fate::Forbidden, format!("no HTTP rule of {policies} allows it")),
        Outcome::Ambiguous(policies, why) => {
            (Fate::BadRequest, format!("{why}: {policies} cannot be applied"))
        }
    }
}
