//! Where a request goes and why, in words: for `weir route` and for whoever asks a running agent.

mod others;
mod told;

pub(crate) use told::{Explanation, Other, Outcome};

use super::{
    choices::Choices,
    decision::{Act, Forward, acts, unmatched},
    host, path,
    table::{Found, Place, Routes, Scheme, Site},
    target::Target,
};
use crate::snapshot::{Cluster, Family, Snapshot};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use others::{others, pattern};
use serde::Deserialize;
use std::sync::Arc;

/// A request that is only talked about.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hypothetical {
    /// The Host field.
    #[serde(default)]
    pub(crate) host: Option<String>,
    /// Path and query.
    #[serde(default = "slash")]
    pub(crate) path: String,
    /// Its method.
    #[serde(default = "get")]
    pub(crate) method: String,
    /// Names and values of its other fields.
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    /// `http` or `https`.
    #[serde(default)]
    pub(crate) scheme: Option<String>,
    /// Where it comes in.
    #[serde(default)]
    pub(crate) port: Option<u16>,
    /// `namespace/name` of a Gateway, or `ingress`.
    #[serde(default)]
    pub(crate) gateway: Option<String>,
}

fn slash() -> String {
    "/".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

/// The head of a hypothetical request.
pub(super) struct Head {
    method: Method,
    uri: Uri,
    pub(super) fields: HeaderMap,
}

impl Hypothetical {
    /// Where it goes, as far as `routes` say. `Err` says why nobody could send it.
    pub(crate) fn outcomes(&self, snapshot: &Snapshot) -> Result<Vec<Outcome>, String> {
        let sites = self.sites(&snapshot.routes)?;
        let head = self.head()?;
        let refused = |why: &str| Ok(vec![answered(400, why)]);
        let Some(head) = head else { return refused("the target is none") };
        let target = match head.target() {
            Ok(target) => target,
            Err(why) => return refused(why),
        };
        if target.is_about_the_server() {
            return Ok(vec![answered(204, "it is about the server")]);
        }
        let Some(site) = best(&sites, &target) else { return Ok(vec![nowhere(&target)]) };
        Ok(outcomes(site, &target, snapshot).1)
    }

    /// The same with every reason.
    pub(crate) fn explain(&self, snapshot: &Snapshot) -> Result<Explanation, String> {
        let sites = self.sites(&snapshot.routes)?;
        let nothing = |outcome| Explanation {
            listener: None,
            rule: None,
            matched: None,
            outcomes: vec![outcome],
            others: Vec::new(),
        };
        let Some(head) = self.head()? else { return Ok(nothing(answered(400, "the target is none"))) };
        let target = match head.target() {
            Ok(target) => target,
            Err(why) => return Ok(nothing(answered(400, why))),
        };
        if target.is_about_the_server() {
            return Ok(nothing(answered(204, "it is about the server")));
        }
        let site = best(&sites, &target);
        let (found, all) = match site {
            Some(site) => outcomes(site, &target, snapshot),
            None => (None, vec![nowhere(&target)]),
        };
        Ok(Explanation {
            listener: found.map(|found| listener(&found, site)),
            rule: found.map(|found| found.candidate.rule.name.to_string()),
            matched: found.map(|found| pattern(found.candidate)),
            outcomes: all,
            others: others(&sites, &target, found),
        })
    }

    /// As a query says it, and whether the answer is to be JSON.
    pub(crate) fn of_query(query: &str) -> Result<(Self, bool), String> {
        let mut asked = Self {
            host: None,
            path: slash(),
            method: get(),
            headers: Vec::new(),
            scheme: None,
            port: None,
            gateway: None,
        };
        let mut json = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = String::from_utf8(path::parameter(value).into_owned());
            let value = value.map_err(|_| format!("{name} is not UTF-8"))?;
            match name {
                "host" => asked.host = Some(value),
                "path" => asked.path = value,
                "method" => asked.method = value,
                "scheme" => asked.scheme = Some(value),
                "gateway" => asked.gateway = Some(value),
                "port" => asked.port = Some(value.parse().map_err(|_| "port is no port".to_owned())?),
                "output" => json = value == "json",
                "header" => {
                    let (name, value) = value.split_once(':').ok_or("header is not NAME:VALUE")?;
                    asked.headers.push((name.to_owned(), value.to_owned()));
                }
                other => return Err(format!("{other:?} is not known")),
            }
        }
        Ok((asked, json))
    }

    /// The listeners that it may come to.
    pub(super) fn sites(&self, routes: &Routes) -> Result<Vec<Arc<Site>>, String> {
        let scheme = match self.scheme.as_deref() {
            None | Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(other) => return Err(format!("scheme {other:?} is none of http, https")),
        };
        let door = self.gateway.as_deref().map(|name| match name {
            "ingress" | "Ingress" => "Ingress".to_owned(),
            name => format!("Gateway {name}"),
        });
        let all: Vec<(&Place, Arc<Site>)> = routes
            .sites
            .iter()
            .filter(|(_, site)| site.scheme == scheme)
            .filter_map(|(place, site)| match &door {
                Some(door) => Some((place, Arc::new(site.of_door(door)?))),
                None => Some((place, Arc::clone(site))),
            })
            .collect();
        let default = scheme.default_port();
        // Without a port: the scheme's or, where nobody listens there, the first at which somebody does.
        let port = self.port.or_else(|| {
            let ports = all.iter().map(|(place, _)| place.port);
            if ports.clone().any(|port| port == default) { Some(default) } else { ports.min() }
        });
        if let (Some(door), true) = (&door, all.is_empty()) {
            return Err(format!("{door} has no listener for {}", scheme.as_str()));
        }
        Ok(all.into_iter().filter(|(place, _)| Some(place.port) == port).map(|(_, site)| site).collect())
    }

    /// `Ok(None)` where the target cannot be sent.
    pub(super) fn head(&self) -> Result<Option<Head>, String> {
        let method =
            Method::from_bytes(self.method.as_bytes()).map_err(|_| "the method is none".to_owned())?;
        let mut fields = HeaderMap::new();
        if let Some(host) = &self.host {
            let host =
                HeaderValue::from_str(host).map_err(|_| "the host is no value of a field".to_owned())?;
            fields.append(header::HOST, host);
        }
        for (name, value) in &self.headers {
            let known =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no field"))?;
            let value = HeaderValue::from_str(value).map_err(|_| format!("{value:?} is no value"))?;
            if known == header::HOST && self.host.is_some() {
                return Err("the host is there twice".to_owned());
            }
            fields.append(known, value);
        }
        Ok(self.path.parse::<Uri>().ok().map(|uri| Head { method, uri, fields }))
    }
}

impl Head {
    pub(super) fn target(&self) -> Result<Target<'_>, &'static str> {
        let hosts = (self.fields.get(header::HOST), self.fields.get_all(header::HOST).iter().count());
        let host = match hosts.1 {
            // Whoever asks without a host means one that no rule names.
            0 => None,
            _ => host::of_request(&self.uri, Version::HTTP_11, hosts)?,
        };
        Target::new(host.as_deref(), &self.method, &self.uri, &self.fields)
    }
}

fn answered(status: u16, why: &str) -> Outcome {
    Outcome { backend: None, status: Some(status), notes: vec![why.to_owned()] }
}

/// Where no rule is for it.
fn nowhere(target: &Target<'_>) -> Outcome {
    match unmatched(target) {
        Act::NotAdmitted(why) => answered(400, why),
        _ => answered(404, "no rule is for it"),
    }
}

/// The site with the most special rule.
pub(super) fn best<'a>(sites: &'a [Arc<Site>], target: &Target<'_>) -> Option<&'a Site> {
    let found = sites.iter().filter_map(|site| Some((&**site, site.find(target)?)));
    found.min_by_key(|(_, found)| found.candidate.rank()).map(|(site, _)| site)
}

fn outcomes<'a>(
    site: &'a Site,
    target: &Target<'_>,
    snapshot: &Snapshot,
) -> (Option<Found<'a>>, Vec<Outcome>) {
    let (found, acts) = acts(site, target);
    let outcomes = acts.into_iter().map(|act| match act {
        Act::NoMatch => answered(404, "no rule is for it"),
        Act::NotAdmitted(why) => answered(400, why),
        Act::Broken(why) => answered(500, why),
        Act::Unavailable(why) => answered(503, why),
        Act::Preflight(_) => answered(204, "it asks what pages of other origins may do"),
        Act::Redirect { status, location } => answered(status.as_u16(), &format!("location: {location}")),
        Act::Forward(forward) => forwarded(&forward, target, snapshot),
    });
    (found, outcomes.collect())
}

fn forwarded(forward: &Forward<'_>, target: &Target<'_>, snapshot: &Snapshot) -> Outcome {
    let cluster = snapshot.cluster(forward.cluster);
    let mut notes = Vec::new();
    let total: u64 =
        forward.found.candidate.rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total != u64::from(forward.backend.weight) {
        notes.push(format!("weight {} of {total}", forward.backend.weight));
    }
    let choices = forward.found.candidate.choices();
    if choices != Choices::default() {
        notes.push(format!("admits {choices}"));
    }
    let path = forward.path_and_query(target);
    if path != target.path_and_query() {
        notes.push(format!("forwarded as {path}"));
    }
    for filters in forward.filters() {
        for (what, changes) in [("request", &filters.request), ("answer", &filters.answer)] {
            if !changes.is_none() {
                notes.push(format!("{what} fields change"));
            }
        }
        if let Some(host) = filters.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_ref()) {
            notes.push(format!("host becomes {}", String::from_utf8_lossy(host.as_bytes())));
        }
        notes.extend(filters.mirrors.iter().map(|mirror| {
            format!("copied to {} ({} of {})", mirror.cluster, mirror.numerator, mirror.denominator)
        }));
    }
    if let Some(proof) = snapshot.routes.proof(forward.found.door, forward.cluster) {
        notes.push(format!("in TLS as {}, by {}", proof.demands.host, proof.demands.policy));
        let shown = proof.demands.shown.as_ref();
        notes.extend(shown.map(|shown| format!("with the certificate of {}", shown.secret)));
    }
    if let Some(clients) = &forward.found.listener.clients {
        notes.push(clients.to_string());
    }
    notes.push(readiness(cluster.map(|cluster| &**cluster)));
    let status = cluster.is_none_or(|cluster| !is_served(cluster)).then_some(503);
    Outcome { backend: Some(forward.cluster.to_string()), status, notes }
}

fn usable(cluster: &Cluster) -> usize {
    [Family::V4, Family::V6].into_iter().map(|family| cluster.usable_endpoints(family).count()).sum()
}

fn is_served(cluster: &Cluster) -> bool {
    usable(cluster) > 0
}

fn readiness(cluster: Option<&Cluster>) -> String {
    match cluster {
        None => "there is no such Service port".to_owned(),
        Some(cluster) => format!("{} of {} endpoints can be used", usable(cluster), cluster.endpoints.len()),
    }
}

fn listener(found: &Found<'_>, site: Option<&Site>) -> String {
    let place =
        site.map(|site| format!(" ({} port {})", site.scheme.as_str(), site.port)).unwrap_or_default();
    format!("{} listener {}{place}", found.door.name, found.listener.name)
}
