//! `BackendTLSPolicy`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use std::collections::BTreeMap;

/// How Gateways speak TLS to the endpoints of Services.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct BackendTlsPolicy {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: BackendTlsPolicySpec,
    /// Why it may mean more than what was read: then it is not half obeyed.
    #[serde(skip)]
    pub unclear: Option<String>,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "status")]
    _status: Option<serde_json::Value>,
}

/// `spec` of a BackendTLSPolicy.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsPolicySpec {
    /// The Services that it is for, in its own namespace.
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    /// What their endpoints have to prove.
    #[serde(default)]
    pub validation: BackendValidation,
    /// Somebody's own.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// `spec.targetRefs[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTarget {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// `Service`
    #[serde(default)]
    pub kind: String,
    /// Name.
    #[serde(default)]
    pub name: String,
    /// The port of this name alone.
    pub section_name: Option<String>,
}

/// `spec.validation`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendValidation {
    /// Who may have signed endpoints' certificates.
    #[serde(default)]
    pub ca_certificate_refs: Vec<LocalRef>,
    /// `System`: whom the machine trusts.
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<String>,
    /// The name that endpoints are asked for, and that certificates are for where `subject_alt_names` is empty.
    #[serde(default)]
    pub hostname: String,
    /// Names, one of which a certificate has to have.
    #[serde(default)]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// An object of the same namespace.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct LocalRef {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default)]
    pub kind: String,
    /// Name.
    #[serde(default)]
    pub name: String,
}

/// `spec.validation.subjectAltNames[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// For `Hostname`; `*.` may begin it.
    #[serde(default)]
    pub hostname: String,
    /// For `URI`.
    #[serde(default)]
    pub uri: String,
}
