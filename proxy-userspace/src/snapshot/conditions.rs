//! What is to be said about routes where the API has a place for it, as data: the source that can write it
//! back does. Types and reasons are the specification's.

use serde::Serialize;
use std::net::IpAddr;

/// One condition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `Programmed`, ...
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether it is so.
    #[serde(serialize_with = "as_word")]
    pub status: bool,
    /// One word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The generation that was read; absent where it is not known (files).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    pub(super) fn new(
        kind: &'static str,
        status: bool,
        reason: &'static str,
        message: impl Into<String>,
        observed_generation: Option<i64>,
    ) -> Self {
        Self { kind, status, reason, message: message.into(), observed_generation }
    }
}

fn as_word<S: serde::Serializer>(status: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *status { "True" } else { "False" })
}

/// All that is to be said about one object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ObjectStatus {
    /// `GatewayClass`, `Gateway`, `HTTPRoute`, `BackendTLSPolicy` or `Ingress`.
    pub kind: &'static str,
    /// Its namespace; empty where the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is said.
    pub says: Says,
}

/// By kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Says {
    /// `status.conditions` of a GatewayClass.
    Class(Vec<Condition>),
    /// `status` of a Gateway.
    Gateway {
        /// `conditions`
        conditions: Vec<Condition>,
        /// `listeners`
        listeners: Vec<ListenerStatus>,
        /// `addresses`: of the Gateway itself; none where it is reached at the nodes'.
        addresses: Vec<IpAddr>,
    },
    /// `status.parents` of a route.
    Route(Vec<ParentStatus>),
    /// `status.ancestors` of a policy: the Gateways where it holds, or would.
    Policy(Vec<AncestorStatus>),
    /// `status.loadBalancer` of an Ingress that is served: at the nodes' addresses.
    Ingress,
}

/// `status.listeners[]` of a Gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Which.
    pub name: String,
    /// Kinds of routes that may attach; all of the Gateway API's group.
    pub supported_kinds: Vec<&'static str>,
    /// How many have.
    pub attached_routes: i32,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// `status.ancestors[]` of a policy: a Gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is said of the policy there.
    pub conditions: Vec<Condition>,
}

/// `status.parents[]` of a route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// Which of the route's `parentRefs`.
    pub parent: usize,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}
