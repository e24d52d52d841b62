//! Objects of which there are many, without what nobody looks at: room that their lists were given while
//! they were read, and fields. At 10 000 pods and 100 000 endpoints it is some 60 MiB.

use k8s_openapi::api::{
    core::v1::{Container, Pod},
    discovery::v1::EndpointSlice,
};

/// Of an endpoint: its addresses, conditions, hints, node and pod.
pub(super) fn slice(slice: &mut EndpointSlice) {
    slice.endpoints.shrink_to_fit();
    for endpoint in &mut slice.endpoints {
        endpoint.addresses.shrink_to_fit();
        endpoint.deprecated_topology = None;
        endpoint.hostname = None;
        endpoint.zone = None;
    }
}

/// Of a pod's containers: their names and ports, and which of them start before the others and stay.
pub(super) fn pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    spec.volumes = None;
    spec.tolerations = None;
    spec.affinity = None;
    for containers in [Some(&mut spec.containers), spec.init_containers.as_mut()].into_iter().flatten() {
        for container in containers.iter_mut() {
            let Container { name, ports, restart_policy, .. } = std::mem::take(container);
            *container = Container { name, ports, restart_policy, ..Container::default() };
        }
        containers.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    #[test]
    fn what_is_looked_at_stays() {
        let objects = crate::source::objects(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  nodeName: n\n  containers:\n  \
             - {name: c, image: i, env: [{name: A, value: b}], ports: [{name: web, containerPort: 80}]}\n  \
             initContainers: [{name: s, restartPolicy: Always, ports: [{name: x, containerPort: 81}]}]\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\n\
             endpoints: [{addresses: [10.0.0.1], nodeName: n, zone: z, hints: {forZones: [{name: z}]}}]\n",
        );
        let spec = objects.pods[0].object.spec.as_ref().unwrap();
        assert_eq!((spec.node_name.as_deref(), spec.containers[0].name.as_str()), (Some("n"), "c"));
        assert_eq!(spec.containers[0].ports.as_ref().unwrap()[0].container_port, 80);
        assert!(spec.containers[0].env.is_none() && spec.containers[0].image.is_none());
        let sidecar = &spec.init_containers.as_ref().unwrap()[0];
        assert_eq!(
            (sidecar.restart_policy.as_deref(), sidecar.ports.as_ref().unwrap().len()),
            (Some("Always"), 1)
        );
        let endpoint = &objects.slices[0].object.endpoints[0];
        assert_eq!((endpoint.node_name.as_deref(), endpoint.zone.as_deref()), (Some("n"), None));
        assert!(endpoint.hints.is_some());
    }
}
