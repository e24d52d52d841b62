//! What an object's status is to say: a merge patch, or nothing where it says so already.

use crate::snapshot::conditions::{
    AncestorStatus, Condition, ListenerStatus, ObjectStatus, ParentStatus, Says,
};
use serde_json::{Value, json};
use std::net::IpAddr;

/// How our entries among a route's parents are told from others'.
const CONTROLLER: &str = "weir.dev/gateway";
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Entries of `status.ancestors` that the API takes, whoever's they are.
const MAX_ANCESTORS: usize = 16;
/// Conditions of a Gateway that are said as long as they hold: afterwards they are taken away.
const PASSING: [&str; 2] = ["InsecureFrontendValidationMode", "ResolvedRefs"];

/// The patch that makes an object's status say it; `nodes` is where Ingresses and Gateways are reached,
/// `now` is RFC 3339. It holds for this version of the object only: what others write meanwhile is not lost.
pub(super) fn patch(wanted: &ObjectStatus, object: &Value, nodes: &[IpAddr], now: &str) -> Option<Value> {
    let known = object.get("status").unwrap_or(&Value::Null);
    let conditions = |ours: &[Condition]| merged(known.get("conditions"), ours, now);
    let of_gateway = |ours: &[Condition]| {
        let is_over = |one: &Value| {
            let kind = one.get("type").and_then(Value::as_str);
            kind.is_some_and(|kind| PASSING.contains(&kind) && !ours.iter().any(|ours| ours.kind == kind))
        };
        let mut all = conditions(ours);
        all.retain(|one| !is_over(one));
        all
    };
    let status = match &wanted.says {
        Says::Class(ours) => json!({"conditions": conditions(ours)}),
        Says::Gateway { conditions: ours, listeners, addresses } => {
            let addresses = if addresses.is_empty() { nodes } else { addresses };
            let addresses = addresses.iter().map(|ip| json!({"type": "IPAddress", "value": ip.to_string()}));
            json!({
                "conditions": of_gateway(ours),
                "addresses": addresses.collect::<Vec<_>>(),
                "listeners": listeners.iter().map(|one| listener(one, known, now)).collect::<Vec<_>>(),
            })
        }
        Says::Policy(ours) => {
            let ancestors = ancestors(ours, known, now);
            if ancestors.is_empty() && known.get("ancestors").is_none() {
                return None;
            }
            json!({"ancestors": ancestors})
        }
        Says::Route(ours) => json!({"parents": parents(ours, object, known, now)}),
        // Before it is known where, nothing is said.
        Says::Ingress if nodes.is_empty() => return None,
        Says::Ingress => {
            let ingress: Vec<_> = nodes.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
            json!({"loadBalancer": {"ingress": ingress}})
        }
    };
    let fields = status.as_object()?;
    if fields.iter().all(|(key, value)| known.get(key).unwrap_or(&Value::Null) == value) {
        return None;
    }
    let version = object.pointer("/metadata/resourceVersion");
    Some(json!({"metadata": {"resourceVersion": version}, "status": status}))
}

fn listener(wanted: &ListenerStatus, status: &Value, now: &str) -> Value {
    let all = status.get("listeners").and_then(Value::as_array);
    let known =
        all.into_iter().flatten().find(|one| one.get("name").is_some_and(|name| *name == *wanted.name));
    let kinds = wanted.supported_kinds.iter().map(|kind| json!({"group": GATEWAY_GROUP, "kind": kind}));
    json!({
        "name": wanted.name,
        "supportedKinds": kinds.collect::<Vec<_>>(),
        "attachedRoutes": wanted.attached_routes,
        "conditions": merged(known.and_then(|known| known.get("conditions")), &wanted.conditions, now),
    })
}

/// Others' entries as they are, then ours.
fn parents(wanted: &[ParentStatus], object: &Value, status: &Value, now: &str) -> Vec<Value> {
    let all = status.get("parents").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_ours = |one: &&Value| one.get("controllerName").is_some_and(|name| *name == CONTROLLER);
    let mut parents: Vec<_> = all.iter().filter(|one| !is_ours(one)).cloned().collect();
    for one in wanted {
        let Some(reference) = object.pointer(&format!("/spec/parentRefs/{}", one.parent)) else { continue };
        let known = all.iter().filter(is_ours).find(|known| known.get("parentRef") == Some(reference));
        parents.push(json!({
            "parentRef": reference,
            "controllerName": CONTROLLER,
            "conditions": merged(known.and_then(|known| known.get("conditions")), &one.conditions, now),
        }));
    }
    parents
}

/// The same of a policy; no more than the API takes.
fn ancestors(wanted: &[AncestorStatus], status: &Value, now: &str) -> Vec<Value> {
    let all = status.get("ancestors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_ours = |one: &&Value| one.get("controllerName").is_some_and(|name| *name == CONTROLLER);
    let mut ancestors: Vec<_> = all.iter().filter(|one| !is_ours(one)).cloned().collect();
    for one in wanted {
        let reference = json!({
            "group": GATEWAY_GROUP,
            "kind": "Gateway",
            "namespace": one.namespace,
            "name": one.name,
        });
        let known = all.iter().filter(is_ours).find(|known| known.get("ancestorRef") == Some(&reference));
        let conditions = merged(known.and_then(|known| known.get("conditions")), &one.conditions, now);
        ancestors.push(json!({
            "ancestorRef": reference,
            "controllerName": CONTROLLER,
            // The entry is ours alone: what we do not say any more is over.
            "conditions": conditions.into_iter().take(one.conditions.len()).collect::<Vec<_>>(),
        }));
    }
    ancestors.truncate(MAX_ANCESTORS);
    ancestors
}

/// Conditions of ours, with the time since when they are so; types that are not ours stay.
fn merged(known: Option<&Value>, ours: &[Condition], now: &str) -> Vec<Value> {
    let known = known.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).map(String::from);
    let is = |one: &Value, kind: &str| text(one, "type").as_deref() == Some(kind);
    let others = known.iter().filter(|one| !ours.iter().any(|ours| is(one, ours.kind))).cloned();
    let ours = ours.iter().filter_map(|condition| {
        let mut value = serde_json::to_value(condition).ok()?;
        let before = known.iter().find(|one| is(one, condition.kind));
        let before = before.filter(|before| before.get("status") == value.get("status"));
        let since =
            before.and_then(|before| text(before, "lastTransitionTime")).unwrap_or_else(|| now.to_owned());
        value.as_object_mut()?.insert("lastTransitionTime".to_owned(), json!(since));
        Some(value)
    });
    ours.chain(others).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn accepted(status: bool) -> Condition {
        Condition {
            kind: "Accepted",
            status,
            reason: "Accepted",
            message: String::new(),
            observed_generation: Some(2),
        }
    }

    fn wanted(says: Says) -> ObjectStatus {
        ObjectStatus { kind: "HTTPRoute", namespace: "n".into(), name: "a".into(), says }
    }

    fn route(status: bool) -> ObjectStatus {
        wanted(Says::Route(vec![ParentStatus { parent: 0, conditions: vec![accepted(status)] }]))
    }

    /// The object after a patch.
    fn patched(object: &Value, patch: &Value) -> Value {
        let mut object = object.clone();
        object["status"] = patch["status"].clone();
        object
    }

    #[test]
    fn a_routes_parents_of_other_controllers_stay_and_ours_are_replaced() {
        let object = json!({
            "metadata": {"resourceVersion": "7"},
            "spec": {"parentRefs": [{"name": "gw", "port": 80}]},
            "status": {"parents": [
                {"parentRef": {"name": "x"}, "controllerName": "other", "conditions": []},
                {"parentRef": {"name": "old"}, "controllerName": CONTROLLER, "conditions": []},
            ]},
        });
        let first = patch(&route(true), &object, &[], "t1").unwrap();
        let condition = json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                               "observedGeneration": 2, "lastTransitionTime": "t1"});
        let expected = json!({"metadata": {"resourceVersion": "7"}, "status": {"parents": [
            {"parentRef": {"name": "x"}, "controllerName": "other", "conditions": []},
            {"parentRef": {"name": "gw", "port": 80}, "controllerName": CONTROLLER, "conditions": [condition]},
        ]}});
        assert_eq!(first, expected);
        let object = patched(&object, &first);
        assert_eq!(patch(&route(true), &object, &[], "t2"), None, "the same is not said again");
        let second = patch(&route(false), &object, &[], "t3").unwrap();
        assert_eq!(second["status"]["parents"][1]["conditions"][0]["lastTransitionTime"], "t3");
    }

    #[test]
    fn a_policy_is_told_at_gateways_beside_what_others_say_and_as_far_as_there_is_room() {
        let at = |name: &str| AncestorStatus {
            namespace: "n".into(),
            name: name.into(),
            conditions: vec![accepted(true)],
        };
        let says = |names: &[&str]| wanted(Says::Policy(names.iter().map(|name| at(name)).collect()));
        let object = json!({"metadata": {"resourceVersion": "7"}});
        assert_eq!(patch(&says(&[]), &object, &[], "t"), None, "it is nobody's");
        let first = patch(&says(&["a"]), &object, &[], "t1").unwrap();
        let reference = json!({"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": "n", "name": "a"});
        let entry = &first["status"]["ancestors"][0];
        assert_eq!((&entry["ancestorRef"], &entry["controllerName"]), (&reference, &json!(CONTROLLER)));
        let mut object = patched(&object, &first);
        assert_eq!(patch(&says(&["a"]), &object, &[], "t2"), None, "the same is not said again");
        // What we said once and do not say any more goes, and so does the entry.
        let conditions = object["status"]["ancestors"][0]["conditions"].as_array_mut().unwrap();
        conditions.push(json!({"type": "ResolvedRefs", "status": "False"}));
        let again = patch(&says(&["a"]), &object, &[], "t2").unwrap();
        let conditions = again["status"]["ancestors"][0]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[0]["lastTransitionTime"]), (1, &json!("t1")));
        let over = patch(&says(&[]), &object, &[], "t2").unwrap();
        assert_eq!(over["status"]["ancestors"], json!([]));
        let others: Vec<_> = (0..15)
            .map(|at| json!({"ancestorRef": {"name": format!("g{at}")}, "controllerName": "other", "conditions": []}))
            .collect();
        let object = json!({"metadata": {}, "status": {"ancestors": others}});
        let full = patch(&says(&["a", "b"]), &object, &[], "t").unwrap();
        let all = full["status"]["ancestors"].as_array().unwrap();
        assert_eq!((all.len(), &all[15]["ancestorRef"]["name"]), (16, &json!("a")));
    }

    #[test]
    fn a_condition_that_changes_only_in_words_keeps_its_time_and_others_conditions_stay() {
        let known = json!([{"type": "Accepted", "status": "True", "reason": "Old", "lastTransitionTime": "t0"},
                           {"type": "Theirs", "status": "True"}]);
        let merged = merged(Some(&known), &[accepted(true)], "t1");
        assert_eq!(merged[0]["lastTransitionTime"], "t0");
        assert_eq!(merged[0]["reason"], "Accepted");
        assert_eq!(merged[1]["type"], "Theirs");
    }

    #[test]
    fn an_ingress_is_at_the_nodes_once_they_are_known() {
        let object = json!({"metadata": {"resourceVersion": "1"}, "status": {"loadBalancer": {}}});
        assert_eq!(patch(&wanted(Says::Ingress), &object, &[], ""), None);
        let nodes = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let patch_ = patch(&wanted(Says::Ingress), &object, &nodes, "").unwrap();
        let expected = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}});
        assert_eq!(patch_["status"], expected);
        assert_eq!(patch(&wanted(Says::Ingress), &patched(&object, &patch_), &nodes, ""), None);
    }

    #[test]
    fn a_condition_of_a_gateway_that_has_passed_is_taken_away_and_others_stay() {
        let known = json!([{"type": "Theirs", "status": "True"},
                           {"type": "InsecureFrontendValidationMode", "status": "True"},
                           {"type": "ResolvedRefs", "status": "False"}]);
        let object = json!({"metadata": {}, "status": {"conditions": known}});
        let says = Says::Gateway {
            conditions: vec![accepted(true)],
            listeners: Vec::new(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
        };
        let patch = patch(&wanted(says), &object, &[], "t").unwrap();
        let kinds: Vec<_> =
            patch["status"]["conditions"].as_array().unwrap().iter().map(|one| one["type"].clone()).collect();
        assert_eq!(kinds, ["Accepted", "Theirs"]);
    }

    #[test]
    fn a_gateway_without_an_address_of_its_own_is_at_the_nodes() {
        let listener = ListenerStatus {
            name: "http".into(),
            supported_kinds: vec!["HTTPRoute"],
            attached_routes: 3,
            conditions: vec![accepted(true)],
        };
        let says = |addresses| Says::Gateway {
            conditions: vec![accepted(true)],
            listeners: vec![listener.clone()],
            addresses,
        };
        let object = json!({"metadata": {"resourceVersion": "1"}});
        let node = "10.0.0.1".parse().unwrap();
        let status = patch(&wanted(says(Vec::new())), &object, &[node], "t").unwrap()["status"].clone();
        assert_eq!(status["addresses"], json!([{"type": "IPAddress", "value": "10.0.0.1"}]));
        assert_eq!(status["listeners"][0]["attachedRoutes"], 3);
        assert_eq!(
            status["listeners"][0]["supportedKinds"],
            json!([{"group": GATEWAY_GROUP, "kind": "HTTPRoute"}])
        );
        let own = "192.0.2.1".parse().unwrap();
        let status = patch(&wanted(says(vec![own])), &object, &[node], "t").unwrap()["status"].clone();
        assert_eq!(status["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.1"}]));
    }
}
