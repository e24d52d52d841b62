//! Secrets, as far as Weir reads them: what TLS needs of them. What is secret in them is neither printed nor
//! left behind in memory that is freed.

use k8s_openapi::{
    ByteString, Metadata, NamespaceResourceScope, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{collections::BTreeMap, fmt};
use zeroize::Zeroizing;

/// The type of a certificate with its key.
pub const TLS: &str = "kubernetes.io/tls";
/// A chain of certificates, the server's own first (PEM).
pub const CHAIN: &str = "tls.crt";
/// Its private key (PEM).
pub const KEY: &str = "tls.key";
/// An OCSP response to staple (DER), where there is one.
pub const STAPLE: &str = "tls.ocsp-staple";
/// What is kept of a Secret.
const KEPT: [&str; 3] = [CHAIN, KEY, STAPLE];

/// A Secret.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is in it: [`TLS`], or something that is nothing to Weir.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// Values by key.
    #[serde(default)]
    data: BTreeMap<String, Encoded>,
    /// The same as text, in manifests; stands above `data`.
    #[serde(default)]
    string_data: BTreeMap<String, Hidden>,
    #[serde(rename = "immutable")]
    _immutable: Option<bool>,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
}

impl Secret {
    /// The value of a key; one without a byte is none.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        let text = self.string_data.get(key).map(|hidden| hidden.0.as_slice());
        let value = text.or_else(|| self.data.get(key).map(|encoded| encoded.0.0.as_slice()));
        value.filter(|value| !value.is_empty())
    }

    /// Drops what nobody reads: annotations may repeat all of it.
    pub(super) fn keep_what_is_read(&mut self) {
        self.metadata.annotations = None;
        self.metadata.managed_fields = None;
        let of_tls = self.type_ == TLS;
        self.data.retain(|key, _| of_tls && KEPT.contains(&key.as_str()));
        self.string_data.retain(|key, _| of_tls && KEPT.contains(&key.as_str()));
    }
}

impl Resource for Secret {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Secret";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "secrets";
    type Scope = NamespaceResourceScope;
}

impl Metadata for Secret {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Bytes that are not shown, and overwritten when they are let go of.
#[derive(Clone, PartialEq, Default)]
struct Hidden(Zeroizing<Vec<u8>>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // What serde would say of a wrong type may quote the value.
        let text = String::deserialize(deserializer).map_err(|_| D::Error::custom("not text"))?;
        Ok(Self(Zeroizing::new(text.into_bytes())))
    }
}

/// The same, in base64.
#[derive(Clone, PartialEq, Debug, Default)]
struct Encoded(Hidden);

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = ByteString::deserialize(deserializer).map_err(|_| D::Error::custom("not base64"))?;
        Ok(Self(Hidden(Zeroizing::new(bytes.0))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\n\
         metadata: {name: s, annotations: {copy: c2VjcmV0}}\n\
         data: {tls.crt: Y2hhaW4=, tls.key: c2VjcmV0, other: b3RoZXI=}\nstringData: {tls.crt: newer}\n";

    #[test]
    fn a_secret_is_read_without_what_nobody_needs_and_shows_nothing() {
        let objects = crate::source::objects(MANIFEST);
        let secret = &objects.secrets.get("default/s").unwrap().object;
        assert_eq!(secret.value(CHAIN), Some(&b"newer"[..]));
        assert_eq!(secret.value(KEY), Some(&b"secret"[..]));
        assert_eq!(secret.value("other"), None);
        let shown = format!("{objects:?}");
        assert!(!shown.contains("secret\"") && !shown.contains("115, 101, 99"), "{shown}");
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
    }

    #[test]
    fn what_cannot_be_read_is_not_quoted() {
        let broken = MANIFEST.replace("c2VjcmV0, other", "'-----private-----', other");
        let (objects, findings) = crate::source::objects_and_findings(&broken);
        assert!(objects.secrets.iter().next().is_none());
        let said = findings.iter().map(ToString::to_string).collect::<String>();
        assert!(said.contains("not base64") && !said.contains("private"), "{said}");
    }

    #[test]
    fn of_other_types_only_the_name_is_kept() {
        let objects = crate::source::objects(&MANIFEST.replace("kubernetes.io/tls", "Opaque"));
        let secret = &objects.secrets.get("default/s").unwrap().object;
        assert_eq!((secret.type_.as_str(), secret.value(KEY)), ("Opaque", None));
    }
}
