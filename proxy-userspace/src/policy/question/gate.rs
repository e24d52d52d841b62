//! Requests to a Gateway or an Ingress: their rule answers them, or leads to endpoints, where policies decide.

use super::{Answer, Fate, Request, There, Told, connection};
use crate::{
    policy::access::{Party, Transport},
    route::{
        decision::{Act, Forward, acts},
        host,
        table::{Found, Site},
        target::Target,
    },
    snapshot::{Cluster, Family, Snapshot},
};
use http::{Version, header::HOST};

/// What becomes of a request to a listener, for every backend that its rule may choose.
pub(super) fn requested(
    snapshot: &Snapshot,
    (client, gate): (&Party, &There),
    (site, family): (&Site, Option<Family>),
    request: Result<&Request, &String>,
) -> Vec<Told> {
    let own = |fate, because: String| {
        vec![Told {
            answer: Answer { at: gate.name.clone(), fate, because },
            there: None,
            request: None,
            by_rule: true,
        }]
    };
    let (fate, because) = connection(&snapshot.access, client, gate, Transport::Tcp);
    if fate == Fate::Drop {
        return own(fate, because);
    }
    let request = match request {
        Ok(request) => request,
        Err(why) => return own(Fate::BadRequest, why.clone()),
    };
    let hosts = (request.fields.get(HOST), request.fields.get_all(HOST).iter().count());
    let host = host::of_request(&request.uri, Version::HTTP_11, hosts);
    let target =
        host.and_then(|host| Target::new(host.as_deref(), &request.method, &request.uri, &request.fields));
    let target = match target {
        Ok(target) => target,
        Err(why) => return own(Fate::BadRequest, why.to_owned()),
    };
    if target.is_about_the_server() {
        return own(Fate::Allow, "it is about the server, which answers 204".to_owned());
    }
    let (found, acts) = acts(site, &target);
    let rule = found.map_or_else(|| "no rule is for it".to_owned(), |found| named(&found));
    let asking = Asking { snapshot, client, request, target: &target, rule: &rule, family };
    let told = acts.into_iter().flat_map(|act| match act {
        Act::Redirect { status, location } => {
            own(Fate::Redirect, format!("{rule} answers {} with location {location}", status.as_u16()))
        }
        Act::NoMatch => own(Fate::Allow, format!("{rule}: it is answered 404")),
        Act::NotAdmitted(why) => own(Fate::BadRequest, why.to_owned()),
        Act::Broken(why) => own(Fate::Allow, format!("{rule} answers 500: {why}")),
        Act::Unavailable(why) => own(Fate::Allow, format!("{rule} answers 503: {why}")),
        Act::Preflight(_) => own(Fate::Allow, format!("{rule} answers 204, what other origins may do")),
        Act::Forward(forward) => match asking.forwarded(&forward) {
            Ok(told) => told,
            Err((fate, why)) => own(fate, why),
        },
    });
    told.collect()
}

fn named(found: &Found<'_>) -> String {
    found.candidate.rule.name.to_string()
}

struct Asking<'a> {
    snapshot: &'a Snapshot,
    client: &'a Party,
    request: &'a Request,
    target: &'a Target<'a>,
    rule: &'a str,
    family: Option<Family>,
}

impl Asking<'_> {
    /// At each endpoint of the backend. `Err` is what becomes of it where it reaches none.
    fn forwarded(&self, forward: &Forward<'_>) -> Result<Vec<Told>, (Fate, String)> {
        let uri = forward.path_and_query(self.target).parse();
        let uri = uri.map_err(|_| (Fate::BadRequest, "the target cannot be rewritten".to_owned()))?;
        let mut request = Request { uri, ..self.request.clone() };
        forward.change_request(&mut request.fields);
        let cluster = self.snapshot.cluster(forward.cluster);
        let endpoints = cluster.map(|cluster| self.endpoints(cluster)).unwrap_or_default();
        if endpoints.is_empty() {
            let why =
                format!("{} answers 503: {} has no endpoint that can be used", self.rule, forward.cluster);
            return Err((Fate::Allow, why));
        }
        let told = endpoints.into_iter().map(|there| {
            let (fate, why) = super::requested(&self.snapshot.access, self.client, &there, Ok(&request));
            // The connection is to the listener: it stays open, and the request is answered.
            let fate = if fate == Fate::Drop { Fate::Forbidden } else { fate };
            let answer = Answer { at: there.name.clone(), fate, because: format!("{}: {why}", self.rule) };
            Told { answer, there: Some(there), request: Some(request.clone()), by_rule: true }
        });
        Ok(told.collect())
    }

    fn endpoints(&self, cluster: &Cluster) -> Vec<There> {
        // Of the client's family where there is one.
        let first = self.family.unwrap_or(Family::V4);
        let usable = |family| cluster.usable_endpoints(family);
        let of_first = usable(first).count() > 0;
        usable(if of_first { first } else { first.other() })
            .map(|one| There::at(&self.snapshot.access, one.addr, one.workload.as_deref()))
            .collect()
    }
}

#[cfg(test)]
mod tests;
