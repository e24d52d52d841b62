//! A request that came to a Gateway or an Ingress: which rule it is for decides where it goes.

use super::{
    Answer, Own, admit,
    forward::{forward, limits, pass, towards_endpoint, wanted_lane},
    takes_hop,
};
use crate::{
    admission::Oddity,
    balance::random,
    downstream::Downstream,
    fields,
    flow::Reason,
    record::{Draft, Failure},
    route::{
        Route,
        choices::Choices,
        decision::{Act, Forward, act, unmatched},
        host,
        table::Site,
        target::Target,
    },
    snapshot::{Family, Snapshot},
};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use hyper::body::Incoming;
use std::sync::Arc;

/// Follows the request's rule.
pub(super) async fn relay(
    downstream: &Arc<Downstream>,
    draft: &mut Draft,
    (site, snapshot): (&Site, &Arc<Snapshot>),
    mut request: Request<Incoming>,
) -> Result<Answer, Failure> {
    let (plan, target) = match plan(downstream, draft, site, &request)? {
        Plan::Own(own) => return Ok(Answer::Own(own)),
        Plan::Forward(plan, target) => (plan, target),
    };
    if !takes_hop(&mut request)? {
        return Ok(Answer::Own(Own::of_the_last_hop(request.method())));
    }
    let cluster = snapshot.cluster(plan.cluster).ok_or(Reason::NoEndpoint)?;
    draft.cluster = Some(Arc::clone(cluster));
    let family = Family::of(downstream.orig_dst.0.ip());
    let rule = plan.found.candidate.rule.timeouts;
    let mut route = Route::by_rule((cluster, snapshot, plan.found.door), family, rule);
    route.timeouts = limits(cluster.timeouts, rule, request.headers());
    downstream.deadline.whole(downstream.first_byte(), route.timeouts.request);
    let origin = request.headers().get(header::ORIGIN).cloned();
    let wanted = wanted_lane(downstream, &request);
    let mut request = towards_endpoint(downstream, route.timeouts, request);
    let who = (downstream.asker().ip(), site.scheme.as_str());
    fields::say_who_asks(request.headers_mut(), who, downstream.relay.settings.telling);
    pass(downstream, draft, request.headers_mut())?;
    plan.change_request(request.headers_mut());
    *request.uri_mut() = target;
    let request = super::mirror::copy(downstream, draft, (&plan, snapshot), request).await?;
    let (mut head, body, upstream) = forward(downstream, draft, &route, request, wanted).await?;
    plan.change_answer(origin.as_ref(), &mut head.headers);
    Ok(Answer::Endpoint(Box::new(head), body, upstream))
}

/// What is to be done.
enum Plan<'a> {
    Own(Own),
    /// With this target.
    Forward(Forward<'a>, Uri),
}

fn plan<'a>(
    downstream: &Downstream,
    draft: &mut Draft,
    site: &'a Site,
    request: &Request<Incoming>,
) -> Result<Plan<'a>, Failure> {
    let refuse = |why: &'static str| Failure::new(Reason::BadRequest, &why);
    let fields = request.headers();
    let hosts = (fields.get(header::HOST), fields.get_all(header::HOST).iter().count());
    let host = host::of_request(request.uri(), request.version(), hosts).map_err(refuse)?;
    let secured = downstream.wire.secured().map(|secured| &**secured);
    if site.misdirects(secured, host.as_deref()) {
        return Err(Reason::Misdirected.into());
    }
    let target = Target::new(host.as_deref(), request.method(), request.uri(), fields).map_err(refuse)?;
    if target.is_about_the_server() {
        return Ok(Plan::Own(Own::of_the_last_hop(request.method())));
    }
    let Some(found) = site.find(&target) else {
        admit(downstream, request, Choices::default())?;
        return Err(match unmatched(&target) {
            Act::NotAdmitted(why) => Oddity::Path.because(why).into(),
            _ => Reason::NoRoute.into(),
        });
    };
    if !found.listener.admits(secured) {
        return Err(Reason::Misdirected.into());
    }
    let rule = &found.candidate.rule;
    draft.route = Some(Arc::clone(&rule.name));
    admit(downstream, request, found.candidate.choices())?;
    let mut fields = HeaderMap::new();
    match act(site, found, &target, rule.choose(random())) {
        Act::NoMatch => Err(Reason::NoRoute.into()),
        Act::NotAdmitted(why) => Err(Oddity::Path.because(why).into()),
        Act::Broken(why) => Err(Failure::new(Reason::RouteInvalid, &why)),
        Act::Unavailable(why) => Err(Failure::new(Reason::NoEndpoint, &why)),
        Act::Preflight(fields) => Ok(Plan::Own(Own { status: StatusCode::NO_CONTENT, fields })),
        Act::Redirect { status, location } => {
            let location =
                HeaderValue::try_from(location).map_err(|_| refuse("the target is no Location"))?;
            fields.insert(header::LOCATION, location);
            Ok(Plan::Own(Own { status, fields }))
        }
        Act::Forward(forward) => {
            let uri = forward.path_and_query(&target).parse::<Uri>();
            let uri = uri.map_err(|_| refuse("the target cannot be rewritten"))?;
            Ok(Plan::Forward(forward, uri))
        }
    }
}
