//! What becomes of a request that has its rule: a pure decision, the same for traffic and for
//! `weir route`.

use super::{
    choices::Choices,
    path,
    rule::{Backend, Destination, Filters, PathPattern},
    table::{Found, Site},
    target::Target,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::sync::Arc;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Act<'a> {
    /// 404: no rule is for it.
    NoMatch,
    /// 400: its rule does not admit what is doubtful about its path.
    NotAdmitted(&'static str),
    /// 500: its rule cannot be followed.
    Broken(&'a str),
    /// 503: its rule leads to nothing that is there.
    Unavailable(&'a str),
    /// It asked what pages of other origins may do.
    Preflight(HeaderMap),
    /// It is answered with another place.
    Redirect {
        /// The answer's status.
        status: StatusCode,
        /// The answer's Location.
        location: String,
    },
    /// To a cluster.
    Forward(Forward<'a>),
}

/// Where a request goes, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward<'a> {
    /// The cluster's name.
    pub(crate) cluster: &'a Arc<str>,
    pub(crate) found: Found<'a>,
    pub(crate) backend: &'a Backend,
}

/// The rule's decision where `backend` is the one that was chosen.
pub(crate) fn act<'a>(
    site: &Site,
    found: Found<'a>,
    target: &Target<'_>,
    backend: Option<&'a Backend>,
) -> Act<'a> {
    let rule = &*found.candidate.rule;
    if let Some(outcome) = spelled(target, found.candidate.choices()) {
        return outcome;
    }
    if let Some(why) = &rule.broken {
        return Act::Broken(why);
    }
    let own = &rule.filters;
    let preflight = own.cors.as_ref().or_else(|| backend?.filters.cors.as_ref());
    if let Some(head) = preflight.and_then(|cors| cors.preflight(target)) {
        return Act::Preflight(head);
    }
    let redirect = own.redirect.as_ref().or_else(|| match backend?.to {
        Destination::Cluster(_) => backend?.filters.redirect.as_ref(),
        _ => None,
    });
    if let Some(redirect) = redirect {
        let location = redirect.location(target, &found.candidate.path, (site.scheme, site.port));
        return Act::Redirect { status: redirect.status, location };
    }
    let Some(backend) = backend else {
        return if rule.backends.is_empty() {
            Act::Broken("the rule has no backend")
        } else {
            Act::Unavailable("no backend has any weight")
        };
    };
    match &backend.to {
        Destination::Cluster(cluster) => Act::Forward(Forward { cluster, found, backend }),
        Destination::Missing(why) => Act::Unavailable(why),
        Destination::Invalid(why) => Act::Broken(why),
    }
}

/// What becomes of a request that no rule is for: what the strict choices say, whatever other rules admit.
pub(crate) fn unmatched(target: &Target<'_>) -> Act<'static> {
    spelled(target, Choices::default()).unwrap_or(Act::NoMatch)
}

/// What becomes of a request because of how its path is spelled, if anything does.
fn spelled(target: &Target<'_>, choices: Choices) -> Option<Act<'static>> {
    if let Err(why) = choices.admit(target.doubts) {
        return Some(Act::NotAdmitted(why));
    }
    choices.redirects(target.doubts).then(|| match path::unescaped(&target.path) {
        Ok(path) => {
            let location = target.query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
            Act::Redirect { status: StatusCode::TEMPORARY_REDIRECT, location }
        }
        Err(why) => Act::NotAdmitted(why),
    })
}

/// Everything that can become of a request, once for every backend that may be chosen.
pub(crate) fn acts<'a>(site: &'a Site, target: &Target<'_>) -> (Option<Found<'a>>, Vec<Act<'a>>) {
    let Some(found) = site.find(target) else { return (None, vec![unmatched(target)]) };
    let backends = found.candidate.rule.backends.iter().filter(|backend| backend.weight > 0);
    let mut acts: Vec<_> = backends.map(|backend| act(site, found, target, Some(backend))).collect();
    if acts.is_empty() {
        acts.push(act(site, found, target, None));
    }
    (Some(found), acts)
}

impl Forward<'_> {
    /// The filters of the rule, then of the backend.
    pub(crate) fn filters(&self) -> [&Filters; 2] {
        [&self.found.candidate.rule.filters, &self.backend.filters]
    }

    /// What was matched of the path.
    fn matched(&self) -> &PathPattern {
        &self.found.candidate.path
    }

    /// Path and query as they are forwarded.
    pub(crate) fn path_and_query(&self, target: &Target<'_>) -> String {
        let changes = self.filters().into_iter().rev();
        let change = changes.filter_map(|filters| filters.rewrite.as_ref()?.path.as_ref()).next();
        match (change, target.query) {
            (None, _) => target.path_and_query(),
            (Some(change), None) => change.apply(&target.path, self.matched()),
            (Some(change), Some(query)) => format!("{}?{query}", change.apply(&target.path, self.matched())),
        }
    }

    /// Changes a request's head as it is forwarded.
    pub(crate) fn change_request(&self, head: &mut HeaderMap) {
        for filters in self.filters() {
            filters.request.apply(head);
            if let Some(host) = filters.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_ref()) {
                head.insert(header::HOST, host.clone());
            }
        }
    }

    /// Changes an answer's head as its client gets it. `origin` is the request's.
    pub(crate) fn change_answer(&self, origin: Option<&HeaderValue>, head: &mut HeaderMap) {
        for filters in self.filters().into_iter().rev() {
            if let Some(cors) = &filters.cors {
                cors.answer(origin, head);
            }
            filters.answer.apply(head);
        }
    }
}
