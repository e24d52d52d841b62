//! `RequestMirror`: copies of requests for another cluster. Nobody waits for them or sees their answers; a copy
//! that cannot be made costs nothing but the copy.

use crate::{
    balance,
    body::RequestBody,
    datapath::UpstreamLane,
    downstream::Downstream,
    record::{Draft, Failure},
    route::{
        Route,
        decision::Forward,
        rule::{Limits, Mirror},
    },
    snapshot::{Family, Snapshot},
    upstream::{Birthplace, Key, Speech},
};
use bytes::Bytes;
use http::Request;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// The largest body that is kept for copies; larger requests are not copied.
const MAX_BODY: u64 = 64 << 10;
/// How long a copy may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Sends what copies the rule asks for, and gives the request back.
pub(super) async fn copy(
    downstream: &Arc<Downstream>,
    draft: &mut Draft,
    (plan, snapshot): (&Forward<'_>, &Snapshot),
    request: Request<RequestBody>,
) -> Result<Request<RequestBody>, Failure> {
    let mirrors = plan.filters().into_iter().flat_map(|filters| &filters.mirrors);
    let wanted: Vec<&Mirror> = mirrors.filter(|mirror| is_wanted(mirror, balance::random())).collect();
    if wanted.is_empty() {
        return Ok(request);
    }
    if request.body().size_hint().upper().is_none_or(|size| size > MAX_BODY) {
        tracing::debug!(client = %downstream.client.0, "the request's body is too large for a copy");
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    let body = if body.is_end_stream() {
        Bytes::new()
    } else {
        let read = downstream.deadline.guard(body.collect()).await?;
        read.map_err(|cut| Failure::from(cut.0))?.to_bytes()
    };
    for mirror in wanted {
        let Some(cluster) = snapshot.cluster(&mirror.cluster) else { continue };
        let copy = Request::from_parts(head.clone(), RequestBody::whole(body.clone()));
        // A copy goes nowhere that its client could not go itself.
        let family = Family::of(downstream.orig_dst.0.ip());
        let route = Route::by_rule((cluster, snapshot, plan.found.door), family, Limits::default());
        match endpoint(downstream, draft, &route, &copy) {
            Some(endpoint) => send(downstream, route, endpoint, copy),
            None => tracing::debug!(cluster = %cluster.name, "no endpoint for a copy"),
        }
    }
    Ok(Request::from_parts(head, RequestBody::whole(body)))
}

/// Whether a random number is one of the mirror's part.
fn is_wanted(mirror: &Mirror, number: u64) -> bool {
    let drawn = (u128::from(number) * u128::from(mirror.denominator)) >> 64;
    drawn < u128::from(mirror.numerator)
}

fn endpoint(
    downstream: &Downstream,
    draft: &mut Draft,
    route: &Route,
    copy: &Request<RequestBody>,
) -> Option<SocketAddr> {
    let endpoint = balance::pick(route, &balance::Client::of(downstream, route), None)?;
    let passage = downstream.passage(endpoint);
    draft.admit((endpoint, &passage), copy).is_ok().then_some(endpoint.addr)
}

fn send(downstream: &Arc<Downstream>, route: Route, endpoint: SocketAddr, copy: Request<RequestBody>) {
    let downstream = Arc::clone(downstream);
    tokio::spawn(async move {
        let cluster = &route.cluster.name;
        match tokio::time::timeout(PATIENCE, exchange(&downstream, (endpoint, &route), copy)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, %cluster, "a copy"),
            Err(_) => tracing::debug!(%cluster, "a copy took too long"),
        }
    });
}

/// One copy, on a connection of its own, from the node's address.
async fn exchange(
    downstream: &Downstream,
    (endpoint, route): (SocketAddr, &Route),
    copy: Request<RequestBody>,
) -> anyhow::Result<()> {
    let connector = &downstream.relay.connector;
    let socket = connector.socket(endpoint)?;
    let speech = Speech::of(route, false, UpstreamLane::Plain);
    let mut connected = connector.connect(socket, endpoint, UpstreamLane::Plain).await?;
    if let Some(proof) = &route.proof {
        connector.secure(&mut connected, proof, speech).await?;
    }
    let proof = route.proof.as_ref().map(|proof| proof.id);
    let key = Key { born: Birthplace::NodeInstead, endpoint, proof };
    let mut upstream = match connected.agrees_on(speech) {
        Speech::Http2 => connector.stream(connected, key).await?,
        _ => connector.handshake(connected, key, None).await?,
    };
    let muffle = crate::muffle::Muffle::new();
    let answer = upstream.send(copy, &muffle).await.map_err(|failed| failed.error)?;
    upstream.drive_apart();
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_gets_its_part_of_the_requests() {
        let part = |numerator, denominator| {
            let mirror = Mirror { cluster: "a/b:80".into(), numerator, denominator };
            (0..1000_u64).filter(|step| is_wanted(&mirror, step * (u64::MAX / 1000))).count()
        };
        assert_eq!((part(0, 100), part(1, 1), part(100, 100)), (0, 1000, 1000));
        assert!(
            part(20, 100).abs_diff(200) <= 2 && (1..=2).contains(&part(1, 1000)),
            "{} {}",
            part(20, 100),
            part(1, 1000)
        );
    }
}
