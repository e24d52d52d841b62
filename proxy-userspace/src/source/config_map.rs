//! ConfigMaps, as far as Weir reads them: certificates of authorities.

use k8s_openapi::{
    Metadata, NamespaceResourceScope, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Certificates of authorities (PEM): what is kept of a ConfigMap.
pub const AUTHORITIES: &str = "ca.crt";

/// A ConfigMap.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMap {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// Values by key.
    #[serde(default)]
    data: BTreeMap<String, String>,
    /// Other values, in base64.
    #[serde(default)]
    binary_data: BTreeMap<String, String>,
    #[serde(rename = "immutable")]
    _immutable: Option<bool>,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
}

impl ConfigMap {
    /// Its certificates of authorities, as text.
    #[must_use]
    pub fn authorities(&self) -> Option<&str> {
        self.data.get(AUTHORITIES).map(String::as_str)
    }

    /// Drops what nobody reads.
    pub(super) fn keep_what_is_read(&mut self) {
        self.metadata.annotations = None;
        self.metadata.managed_fields = None;
        self.data.retain(|key, _| key == AUTHORITIES);
        self.binary_data.clear();
    }
}

impl Resource for ConfigMap {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "ConfigMap";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "configmaps";
    type Scope = NamespaceResourceScope;
}

impl Metadata for ConfigMap {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    #[test]
    fn of_a_config_map_its_authorities_are_kept_and_nothing_else() {
        let objects = crate::source::objects(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca, annotations: {copy: large}}\n\
             data: {ca.crt: certificates, other: large}\nbinaryData: {more: bGFyZ2U=}\n",
        );
        let map = &objects.config_maps.get("default/ca").unwrap().object;
        assert_eq!(map.authorities(), Some("certificates"));
        assert!(!format!("{map:?}").contains("large"), "{map:?}");
    }
}
