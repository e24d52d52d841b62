//! BackendTLSPolicies, also those that cannot be read.

use super::{Manifest, Node, Sourced, TypeMeta, lines, quoted};
use crate::source::gateway::{BackendTlsPolicy, PolicyTarget};
use k8s_openapi::Resource as _;
use std::sync::Arc;

impl Manifest<'_> {
    /// One that cannot be read is there all the same, without anything but its targets: they must not be spoken to
    /// in clear text because of a slip of somebody's pen.
    pub(super) fn read_backend_tls_policy(
        &mut self,
        node: &Node,
        meta: TypeMeta<'_>,
    ) -> Option<Sourced<BackendTlsPolicy>> {
        let is_old = meta.api_version == "gateway.networking.k8s.io/v1alpha3";
        let api_version = if is_old { BackendTlsPolicy::API_VERSION } else { meta.api_version };
        if let Some((mut read, unknown)) =
            self.read_strictly::<BackendTlsPolicy>(node, TypeMeta { api_version, ..meta })
        {
            let unclear = unknown.first().map(|field| format!("field {} is unknown", quoted(&field.key)));
            read.object.unclear = unclear;
            return Some(read);
        }
        let metadata = node.get("metadata");
        let text = |key| Some(metadata?.get(key)?.text()?.to_owned());
        let targets = node.get("spec").and_then(|spec| spec.get("targetRefs")).map_or(&[][..], Node::items);
        let named = targets.iter().filter_map(|target| target.get("name")?.text());
        let target_refs = named.map(|name| PolicyTarget { name: name.to_owned(), ..PolicyTarget::default() });
        let mut policy = BackendTlsPolicy::default();
        (policy.metadata.name, policy.metadata.namespace) = (text("name"), text("namespace"));
        policy.spec.target_refs = target_refs.collect();
        policy.unclear = Some("it cannot be read".to_owned());
        Sourced::new(policy, Arc::clone(self.file), lines(node))
    }
}
