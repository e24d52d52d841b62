//! One agent of the cluster writes: the one that holds the Lease `weir`.
//!
//! Others look at it now and then, and take it when it has not changed for as long as it says, by their
//! own clock: the clocks of nodes are not compared.

use super::{
    retry::Refusal,
    write::{Failure, Writer},
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How long it holds without being renewed,
const HOLDS: Duration = Duration::from_secs(30);
/// how often its holder renews it,
const RENEW: Duration = Duration::from_secs(10);
/// and how often others look: this and up to half as much more. A thousand nodes ask less than 30 times
/// a second.
const LOOK: Duration = Duration::from_secs(25);
const NAME: &str = "weir";

/// This agent's part in it.
pub(super) struct Leadership {
    writer: Writer,
    /// The collection.
    path: String,
    namespace: String,
    /// Who we are: the node's name.
    me: String,
    /// The version that somebody else's Lease had when we looked, and when it first had it.
    seen: Option<(String, Instant)>,
    /// Until when we hold it, whatever happens.
    held_until: Option<Instant>,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Create,
    /// It is ours, or nobody's any more.
    Take(Value),
    /// It is somebody else's.
    Leave,
}

impl Leadership {
    pub(super) fn new(writer: Writer, namespace: &str, me: &str) -> Self {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        let (namespace, me) = (namespace.to_owned(), me.to_owned());
        Self { writer, path, namespace, me, seen: None, held_until: None }
    }

    /// Whether this agent may write now.
    pub(super) fn holds(&self) -> bool {
        self.held_until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes, renews or looks at the Lease; when to do so again. An error where it is unknown whose it is.
    pub(super) async fn step(&mut self) -> (Duration, Result<(), Refusal>) {
        let begun = Instant::now();
        let outcome = self.try_step(begun).await;
        match outcome {
            Ok(true) => self.held_until = Some(begun + HOLDS),
            Ok(false) => self.held_until = None,
            // Until it runs out it is ours.
            Err(_) => {}
        }
        let jitter = crate::balance::random() % 1000;
        let spread = LOOK.mul_f64(0.5) * u32::try_from(jitter).unwrap_or(0) / 1000;
        let again = if self.holds() { RENEW } else { LOOK + spread };
        (again, outcome.map(drop))
    }

    async fn try_step(&mut self, now: Instant) -> Result<bool, Refusal> {
        let path = format!("{}/{NAME}", self.path);
        let known = match self.writer.get_at(&path).await {
            Ok(lease) => Some(lease),
            Err(Failure::Missing) => None,
            Err(Failure::Conflict) => return Ok(false),
            Err(Failure::Other(refusal)) => return Err(refusal),
        };
        let written = match decide(known, &self.me, &mut self.seen, now) {
            Step::Leave => return Ok(false),
            Step::Create => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": NAME, "namespace": self.namespace},
                    "spec": self.spec(None),
                });
                self.writer.create(&self.path, &lease).await
            }
            Step::Take(mut lease) => {
                let spec = self.spec(lease.get("spec"));
                if let Some(lease) = lease.as_object_mut() {
                    lease.insert("spec".to_owned(), spec);
                }
                self.writer.replace(&path, &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody was faster.
            Err(Failure::Conflict | Failure::Missing) => Ok(false),
            Err(Failure::Other(refusal)) => Err(refusal),
        }
    }

    /// Ours from now on; `old` is what it was.
    fn spec(&self, old: Option<&Value>) -> Value {
        let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let text = |key: &str| old.and_then(|old| old.get(key)).and_then(Value::as_str);
        let transitions =
            old.and_then(|old| old.get("leaseTransitions")).and_then(Value::as_u64).unwrap_or(0);
        let is_ours = text("holderIdentity") == Some(&*self.me);
        let since = text("acquireTime").filter(|_| is_ours).map_or_else(|| now.clone(), String::from);
        json!({
            "holderIdentity": self.me,
            "leaseDurationSeconds": HOLDS.as_secs(),
            "leaseTransitions": if is_ours || old.is_none() { transitions } else { transitions + 1 },
            "acquireTime": since,
            "renewTime": now,
        })
    }
}

/// `seen` is what we know of somebody else's Lease.
fn decide(lease: Option<Value>, me: &str, seen: &mut Option<(String, Instant)>, now: Instant) -> Step {
    let Some(lease) = lease else { return Step::Create };
    let text = |path: &str| lease.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let holder = text("/spec/holderIdentity");
    if holder == me || holder.is_empty() {
        *seen = None;
        return Step::Take(lease);
    }
    let version = text("/metadata/resourceVersion");
    let seconds = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64);
    let holds = seconds.map_or(HOLDS, Duration::from_secs);
    match seen {
        Some((known, since)) if known == version => {
            if now.saturating_duration_since(*since) > holds {
                Step::Take(lease)
            } else {
                Step::Leave
            }
        }
        other => {
            *other = Some((version.to_owned(), now));
            Step::Leave
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Option<Value> {
        Some(json!({"metadata": {"resourceVersion": version},
                    "spec": {"holderIdentity": holder, "leaseDurationSeconds": 30}}))
    }

    #[test]
    fn a_lease_is_taken_when_there_is_none_or_it_is_ours_or_nobodys() {
        let now = Instant::now();
        assert_eq!(decide(None, "a", &mut None, now), Step::Create);
        assert!(matches!(decide(lease("a", "1"), "a", &mut None, now), Step::Take(_)));
        assert!(matches!(decide(lease("", "1"), "a", &mut None, now), Step::Take(_)));
    }

    #[test]
    fn anothers_lease_is_taken_only_when_it_has_not_changed_for_as_long_as_it_says() {
        let (now, mut seen) = (Instant::now(), None);
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(decide(lease("b", "1"), "a", &mut seen, now), Step::Leave);
        assert_eq!(decide(lease("b", "1"), "a", &mut seen, after(29)), Step::Leave);
        assert_eq!(decide(lease("b", "2"), "a", &mut seen, after(31)), Step::Leave, "it was renewed");
        assert_eq!(decide(lease("b", "2"), "a", &mut seen, after(60)), Step::Leave);
        assert!(matches!(decide(lease("b", "2"), "a", &mut seen, after(62)), Step::Take(_)));
    }
}
