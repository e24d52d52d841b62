//! One file's text to objects.

mod backend_tls;

use super::{
    Lines, Objects, Sourced,
    cilium::{self, CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy},
    config_map::ConfigMap,
    finding::{Finding, Severity, quoted},
    gateway::{self, Gateway, GatewayClass, HttpRoute, ReferenceGrant},
    lean,
    names::shared,
    node::{Node, Unknown, Value, line_of},
    packed::Packed,
    secret::Secret,
};
use k8s_openapi::{
    Metadata, Resource,
    api::{
        core::v1::{Namespace, Pod, Service},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass, NetworkPolicy},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_saphyr::{DuplicateKeyPolicy, options::NonFiniteFloatPolicy};
use std::sync::Arc;

/// Bytes of one file.
pub(super) const MAX_FILE_BYTES: usize = 16 << 20;
/// Nested sequences and mappings of one document.
const MAX_DEPTH: usize = 64;
/// Values of one document, aliases expanded.
const MAX_NODES: usize = 4_000_000;
/// Uses of `*alias` in one document.
const MAX_ALIASES: usize = 10_000;

/// Reads every document. Faulty objects become findings; `Err` when the text is not YAML, or
/// exceeds a limit.
pub(super) fn parse(
    file: &Arc<str>,
    mut text: &[u8],
    objects: &mut Objects,
    findings: &mut Vec<Finding>,
) -> Result<(), Finding> {
    if text.is_empty() {
        return Err(file_error(file, 0, "the file is empty", "a write was cut short? remove it otherwise"));
    }
    for document in serde_saphyr::read_with_options::<_, Node>(&mut text, limits()) {
        let document = document.map_err(|error| {
            let line = error.location().map_or(0, line_of);
            file_error(file, line, &format!("cannot be parsed: {}", first_line(&error)), "")
        })?;
        Manifest { file, objects, findings }.add(&document, None);
    }
    Ok(())
}

/// Reads one object of a kind from JSON, the way [`parse`] reads a document.
pub(super) fn add_json(
    file: &Arc<str>,
    json: &str,
    (api_version, kind): (&str, &str),
    objects: &mut Objects,
    findings: &mut Vec<Finding>,
) {
    let mut manifest = Manifest { file, objects, findings };
    let node = serde_json::from_str(json).map_err(|error| error.to_string()).and_then(|json| {
        Node::of_json(json, MAX_DEPTH).ok_or_else(|| format!("it is nested deeper than {MAX_DEPTH} levels"))
    });
    match node {
        Ok(node) => manifest.add(&node, Some(TypeMeta { api_version, kind })),
        Err(why) => manifest.findings.push(file_error(file, 0, &format!("{kind} cannot be read: {why}"), "")),
    }
}

fn limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_total_scalar_bytes: 2 * MAX_FILE_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        emit_comments: false,
        // The tree keeps duplicates; they fault their object, not the file.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // YAML 1.2: `on` and `off` are words, which `weir.dev/acceleration` relies on.
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

fn first_line(error: &serde_saphyr::Error) -> String {
    error.without_snippet().to_string().lines().next().unwrap_or_default().to_owned()
}

/// A finding about a whole file.
pub(super) fn file_error(file: &str, line: u32, text: &str, fix: &str) -> Finding {
    Finding {
        severity: Severity::Error,
        file: file.to_owned(),
        line,
        object: String::new(),
        text: text.to_owned(),
        fix: fix.to_owned(),
    }
}

/// `apiVersion` and `kind`.
#[derive(Clone, Copy)]
struct TypeMeta<'a> {
    api_version: &'a str,
    kind: &'a str,
}

struct Manifest<'a> {
    file: &'a Arc<str>,
    objects: &'a mut Objects,
    findings: &'a mut Vec<Finding>,
}

impl Manifest<'_> {
    /// Adds one document, or one item of a list; `implied` is what a typed list says of its items.
    fn add(&mut self, node: &Node, implied: Option<TypeMeta<'_>>) {
        let Some(meta) = type_meta(node, implied) else {
            let fix = "every document starts with apiVersion and kind";
            return self.report(Severity::Error, node, "", "not a Kubernetes object".into(), fix);
        };
        if let Some(kind) = item_kind(meta) {
            return self.add_items(node, Some(TypeMeta { kind, ..meta }));
        }
        match (meta.kind, group(meta.api_version)) {
            ("List", "") => self.add_items(node, None),
            ("Ingress", "networking.k8s.io") => {
                let read = self.read::<Ingress>(node, meta).map(|read| deep(read, node));
                self.objects.ingresses.extend(read);
            }
            ("IngressClass", "networking.k8s.io") => {
                let read = self.read::<IngressClass>(node, meta);
                self.objects.ingress_classes.extend(read);
            }
            (
                "GatewayClass" | "Gateway" | "HTTPRoute" | "ReferenceGrant" | "BackendTLSPolicy",
                gateway::GROUP,
            ) => {
                self.add_of_gateway_api(node, meta);
            }
            ("Service", group) if !is_foreign(group) => {
                let read = self.read::<Service>(node, meta).and_then(|read| self.packed(read));
                self.objects.services.extend(read);
            }
            ("EndpointSlice", group) if !is_foreign(group) => {
                let read = self.read::<EndpointSlice>(node, meta).map(lean::slice);
                self.objects.slices.extend(read);
            }
            ("Pod", group) if !is_foreign(group) => {
                let read = self.read::<Pod>(node, meta).map(lean::pod);
                self.objects.pods.extend(read);
            }
            ("Namespace", group) if !is_foreign(group) => {
                let read = self.read::<Namespace>(node, meta);
                self.objects.namespaces.extend(read);
            }
            ("Secret", group) if !is_foreign(group) => {
                let mut read = self.read::<Secret>(node, meta);
                read.iter_mut().for_each(|read| read.object.keep_what_is_read());
                self.objects.secrets.extend(read);
            }
            ("ConfigMap", group) if !is_foreign(group) => {
                let mut read = self.read::<ConfigMap>(node, meta);
                read.iter_mut().for_each(|read| read.object.keep_what_is_read());
                self.objects.config_maps.extend(read);
            }
            ("NetworkPolicy", "networking.k8s.io")
            | ("CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy", "cilium.io") => {
                self.add_policy(node, meta);
            }
            _ => {
                let text = format!("{} is not used by Weir", quoted(meta.api_version));
                self.report(Severity::Info, node, meta.kind, text, "");
            }
        }
    }

    fn add_policy(&mut self, node: &Node, meta: TypeMeta<'_>) {
        match meta.kind {
            "CiliumNetworkPolicy" => {
                let read = self.read_policy::<CiliumNetworkPolicy>(node, meta);
                self.objects.policies.extend(read);
            }
            "CiliumClusterwideNetworkPolicy" => {
                let read = self.read_policy::<CiliumClusterwideNetworkPolicy>(node, meta);
                self.objects.clusterwide_policies.extend(read);
            }
            _ => {
                let read = self.read_policy::<NetworkPolicy>(node, meta).and_then(|read| self.packed(read));
                self.objects.network_policies.extend(read);
            }
        }
    }

    /// What does not need to be at hand is kept packed.
    fn packed<T>(&mut self, source: Sourced<T>) -> Option<Sourced<Packed<T>>>
    where
        T: Resource + Metadata<Ty = ObjectMeta> + Serialize,
    {
        match Packed::new(&source.object) {
            Ok(packed) => Some(source.map(|_| packed)),
            Err(error) => {
                let text = format!("cannot be kept: {error}");
                self.findings.push(source.finding(Severity::Error, source.lines.object, text, ""));
                None
            }
        }
    }

    /// Two versions of the same, where the object says nothing that only one of them has.
    fn add_of_gateway_api(&mut self, node: &Node, meta: TypeMeta<'_>) {
        let alike = ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
        let as_if = |ours| TypeMeta {
            api_version: if alike.contains(&meta.api_version) { ours } else { meta.api_version },
            kind: meta.kind,
        };
        match meta.kind {
            "GatewayClass" => {
                let read = self.read::<GatewayClass>(node, as_if(GatewayClass::API_VERSION));
                self.objects.gateway_classes.extend(read);
            }
            "Gateway" => {
                let read = self.read::<Gateway>(node, as_if(Gateway::API_VERSION));
                self.objects.gateways.extend(read.map(|read| deep(read, node)));
            }
            "HTTPRoute" => {
                let read = self.read::<HttpRoute>(node, as_if(HttpRoute::API_VERSION));
                self.objects.http_routes.extend(read.map(|read| deep(read, node)));
            }
            "BackendTLSPolicy" => {
                let read = self.read_backend_tls_policy(node, meta);
                self.objects.backend_tls_policies.extend(read.map(|read| deep(read, node)));
            }
            _ => {
                let read = self.read::<ReferenceGrant>(node, as_if(ReferenceGrant::API_VERSION));
                self.objects.reference_grants.extend(read.map(|read| deep(read, node)));
            }
        }
    }

    fn add_items(&mut self, list: &Node, implied: Option<TypeMeta<'_>>) {
        match list.get("items").map(|items| &items.value) {
            Some(Value::List(items)) => {
                for item in items {
                    self.add(item, implied);
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => {
                self.report(Severity::Error, list, "List", "items is not a sequence".into(), "");
            }
        }
    }

    fn read<T>(&mut self, node: &Node, meta: TypeMeta<'_>) -> Option<Sourced<T>>
    where
        T: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned,
    {
        let (object, unknown) = self.read_strictly(node, meta)?;
        for field in unknown {
            let text = format!("field {} is unknown and ignored", quoted(&field.key));
            let fix = "check its spelling and indentation";
            self.report_at(Severity::Warning, field.line, node, T::KIND, text, fix);
        }
        Some(object)
    }

    /// A policy; `None` where it has a field that is not enforced, or one more would be ignored.
    fn read_policy<T>(&mut self, node: &Node, meta: TypeMeta<'_>) -> Option<Sourced<T>>
    where
        T: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned,
    {
        let (mut policy, unknown) = self.read_strictly::<T>(node, meta)?;
        for field in &unknown {
            let known = T::GROUP == CiliumNetworkPolicy::GROUP && cilium::is_known_elsewhere(&field.key);
            let (what, fix) = if known {
                ("is not enforced by Weir", "remove the field, or the policy")
            } else {
                ("is unknown", "check its spelling and indentation")
            };
            let text = format!("field {} {what}: the policy is left out", quoted(&field.key));
            self.report_at(Severity::Error, field.line, node, T::KIND, text, fix);
        }
        for (key, spec) in node.entries() {
            match key.as_str() {
                "spec" => cilium::deep_lines(spec, "", &mut policy.lines.fields),
                "specs" => cilium::deep_lines(spec, "specs", &mut policy.lines.fields),
                _ => {}
            }
        }
        unknown.is_empty().then_some(policy)
    }

    /// A typed object, and what of it the type does not have; reports what else is wrong.
    fn read_strictly<T>(&mut self, node: &Node, meta: TypeMeta<'_>) -> Option<(Sourced<T>, Vec<Unknown>)>
    where
        T: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned,
    {
        if meta.api_version != T::API_VERSION {
            let text = format!("apiVersion {} is unknown", quoted(meta.api_version));
            let fix = format!("write apiVersion: {}", T::API_VERSION);
            self.report(Severity::Error, node, T::KIND, text, &fix);
            return None;
        }
        let (object, unknown) = match node.read::<T>() {
            Ok(read) => read,
            Err(fault) => {
                self.report_at(Severity::Error, fault.line, node, T::KIND, fault.to_string(), "");
                return None;
            }
        };
        let Some(sourced) = Sourced::new(object, Arc::clone(self.file), lines(node)) else {
            self.report(Severity::Error, node, T::KIND, "metadata.name is missing".into(), "name the object");
            return None;
        };
        if let Some(bad) =
            [&sourced.namespace, &sourced.name].into_iter().find(|name| !is_name(name) && !name.is_empty())
        {
            let text = format!("{} is not a valid name", quoted(bad));
            self.report(Severity::Error, node, T::KIND, text, "use lower-case letters, digits, - and .");
            return None;
        }
        Some((sourced, unknown))
    }

    fn report(&mut self, severity: Severity, node: &Node, kind: &str, text: String, fix: &str) {
        self.report_at(severity, node.line, node, kind, text, fix);
    }

    fn report_at(
        &mut self,
        severity: Severity,
        line: u32,
        object: &Node,
        kind: &str,
        text: String,
        fix: &str,
    ) {
        self.findings.push(Finding {
            severity,
            file: self.file.to_string(),
            line,
            object: label(object, kind),
            text,
            fix: fix.to_owned(),
        });
    }
}

fn type_meta<'a>(node: &'a Node, implied: Option<TypeMeta<'a>>) -> Option<TypeMeta<'a>> {
    let text = |key| node.get(key).and_then(Node::text);
    let api_version = text("apiVersion").or(implied.map(|implied| implied.api_version))?;
    let kind = text("kind").or(implied.map(|implied| implied.kind))?;
    matches!(node.value, Value::Map(_)).then_some(TypeMeta { api_version, kind })
}

/// What a typed list is a list of.
fn item_kind(list: TypeMeta<'_>) -> Option<&str> {
    let kind = list.kind.strip_suffix("List")?;
    let known = matches!(
        (group(list.api_version), kind),
        ("", "Service" | "Pod" | "Namespace" | "Secret" | "ConfigMap")
            | ("discovery.k8s.io", "EndpointSlice")
            | ("cilium.io", "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy")
            | ("networking.k8s.io", "NetworkPolicy" | "Ingress" | "IngressClass")
            | (
                gateway::GROUP,
                "GatewayClass" | "Gateway" | "HTTPRoute" | "ReferenceGrant" | "BackendTLSPolicy"
            )
    );
    known.then_some(kind)
}

/// The group of an apiVersion; empty for the core group.
fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Somebody else's kind of the same name (`serving.knative.dev` has a Service), rather than ours
/// in a wrong version.
fn is_foreign(group: &str) -> bool {
    group.contains('.') && !group.ends_with(".k8s.io")
}

fn label(node: &Node, kind: &str) -> String {
    let metadata = node.get("metadata");
    let text = |key| metadata.and_then(|metadata| metadata.get(key)).and_then(Node::text);
    match text("name") {
        Some(name) => super::label(kind, text("namespace").unwrap_or("default"), name),
        None => kind.to_owned(),
    }
}

/// What Kubernetes allows of a name (a DNS subdomain), loosely.
fn is_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// With the lines of everything below `spec`.
fn deep<T>(mut sourced: Sourced<T>, node: &Node) -> Sourced<T> {
    cilium::deep_lines(node.get("spec").unwrap_or(node), "", &mut sourced.lines.fields);
    sourced
}

fn lines(node: &Node) -> Lines {
    if node.line == 0 {
        // It came from the API.
        return Lines::default();
    }
    let body = node.get("spec").unwrap_or(node);
    let annotations = node.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let fields = body.entries().iter().chain(annotations.map_or(&[][..], Node::entries));
    let items = |key| body.get(key).map_or(&[][..], Node::items).iter().map(|item| item.line).collect();
    Lines {
        object: node.line,
        fields: fields.map(|(key, value)| (shared(key), value.line)).collect(),
        ports: items("ports"),
        endpoints: items("endpoints"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn parsed(text: &str) -> (Objects, Vec<String>) {
        let (mut objects, mut findings) = (Objects::default(), Vec::new());
        parse(&"f.yaml".into(), text.as_bytes(), &mut objects, &mut findings).unwrap();
        (objects, findings.iter().map(ToString::to_string).collect())
    }

    fn broken(text: &[u8]) -> String {
        let (mut objects, mut findings) = (Objects::default(), Vec::new());
        parse(&"f.yaml".into(), text, &mut objects, &mut findings).unwrap_err().to_string()
    }

    fn names(objects: &Objects) -> Vec<String> {
        let services = objects.services.iter().map(|one| (one.lines.object, one.label()));
        let slices = objects.slices.iter().map(|one| (one.lines.object, one.label()));
        let mut names: Vec<_> = services.chain(slices).collect();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn every_document_of_a_file_is_read_with_its_line() {
        let (objects, findings) = parsed(
            "# two\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: a\n---\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: b, namespace: x}\n\
             addressType: IPv4\nendpoints: []\n",
        );
        assert_eq!(names(&objects), ["Service default/a", "EndpointSlice x/b"]);
        assert_eq!((objects.services[0].lines.object, objects.slices[0].lines.object), (3, 9));
        assert_eq!(objects.slices[0].lines.field("addressType"), 12);
        assert!(findings.is_empty(), "{findings:?}");
    }

    #[test]
    fn json_is_read_as_well_tabs_and_escapes_included() {
        let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\n\t\t\"name\": \"a\",\n\
                    \t\t\"annotations\": {\"x\": \"\\u00e4\\/\\ud83d\\ude00\"}\n\t},\n\t\"spec\": {\"ports\": [{\"port\": 80}]}\n}\n";
        let (objects, findings) = parsed(text);
        assert!(findings.is_empty(), "{findings:?}");
        let annotations = objects.services[0].object.open().unwrap().metadata.annotations.unwrap();
        assert_eq!(annotations["x"], "\u{e4}/\u{1f600}");
        assert_eq!(objects.services[0].lines.port(0), 8);
    }

    #[test]
    fn lists_are_read_typed_or_not() {
        let (objects, findings) = parsed(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n---\n\
             apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: b}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems:\n\
             - {metadata: {name: c}, addressType: IPv4, endpoints: []}\n",
        );
        assert_eq!(names(&objects), ["Service default/a", "Service default/b", "EndpointSlice default/c"]);
        assert!(findings.is_empty(), "{findings:?}");
    }

    #[test]
    fn other_kinds_are_ignored_and_said_so() {
        let (objects, findings) = parsed(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\n\
             apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\n",
        );
        assert!(names(&objects).is_empty());
        assert_eq!(
            findings,
            [
                r#"info f.yaml:1 Deployment default/web: "apps/v1" is not used by Weir"#,
                r#"info f.yaml:5 Service default/k: "serving.knative.dev/v1" is not used by Weir"#,
            ]
        );
    }

    #[test]
    fn a_known_kind_in_an_unknown_version_is_an_error() {
        let (objects, findings) = parsed(
            "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}\n---\n\
             apiVersion: v2\nkind: Service\nmetadata: {name: b}\n",
        );
        assert!(names(&objects).is_empty());
        assert!(
            findings[0].starts_with("error f.yaml:1 EndpointSlice default/a: apiVersion"),
            "{findings:?}"
        );
        assert!(findings[1].contains("(write apiVersion: v1)"), "{findings:?}");
    }

    #[test]
    fn an_invalid_object_names_its_field_and_line_and_affects_itself_alone() {
        let (objects, findings) = parsed(
            "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec:\n  ports:\n  - port: 80\n  - port: http\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: good}\n",
        );
        assert_eq!(names(&objects), ["Service default/good"]);
        assert_eq!(findings.len(), 1);
        assert!(
            findings[0].starts_with("error f.yaml:7 Service default/bad: spec.ports[1].port: invalid type"),
            "{findings:?}"
        );
    }

    #[test]
    fn a_duplicate_key_faults_its_object_alone() {
        let (objects, findings) = parsed(
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  type: ClusterIP\n  type: NodePort\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: b}\n",
        );
        assert_eq!(names(&objects), ["Service default/b"]);
        assert_eq!(findings, ["error f.yaml:6 Service default/a: spec.type: duplicate key"]);
    }

    #[test]
    fn an_unknown_field_is_a_warning() {
        let (objects, findings) =
            parsed("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  clusterIp: 10.0.0.1\n");
        assert_eq!(names(&objects), ["Service default/a"]);
        assert_eq!(
            findings,
            [
                r#"warning f.yaml:5 Service default/a: field "clusterIp" is unknown and ignored (check its spelling and indentation)"#
            ]
        );
    }

    #[test]
    fn an_object_without_type_or_name_is_an_error() {
        let (_, findings) = parsed(
            "- 1\n---\nkind: Service\n---\napiVersion: v1\nkind: Service\n---\n\
                                    {apiVersion: v1, kind: Service, metadata: {name: \"A B\"}}\n",
        );
        assert_eq!(findings.len(), 4);
        assert!(findings[0].starts_with("error f.yaml:1: not a Kubernetes object"), "{findings:?}");
        assert!(findings[1].starts_with("error f.yaml:3: not a Kubernetes object"), "{findings:?}");
        assert!(findings[2].starts_with("error f.yaml:5 Service: metadata.name is missing"), "{findings:?}");
        assert!(findings[3].contains("is not a valid name"), "{findings:?}");
    }

    #[test]
    fn on_and_off_are_words() {
        let (objects, findings) = parsed(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  annotations:\n    weir.dev/acceleration: off\n",
        );
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(
            objects.services[0].object.open().unwrap().metadata.annotations.as_ref().unwrap()["weir.dev/acceleration"],
            "off"
        );
        assert_eq!(objects.services[0].lines.field("weir.dev/acceleration"), 6);
    }

    #[test]
    fn a_file_that_does_not_parse_names_the_line() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a\nspec: [\n";
        let finding = broken(text.as_bytes());
        assert!(finding.starts_with("error f.yaml:") && finding.contains("cannot be parsed"), "{finding}");
        assert!(broken(b"apiVersion: v1\n kind: x\n  y").starts_with("error f.yaml:2"), "line 2");
        assert!(broken(b"a: \xff\xfe\n").contains("cannot be parsed"));
        assert_eq!(
            broken(b""),
            "error f.yaml: the file is empty (a write was cut short? remove it otherwise)"
        );
    }

    #[test]
    fn a_file_of_comments_is_valid() {
        assert!(names(&parsed("# nothing yet\n---\n").0).is_empty());
    }

    #[test]
    fn kinds_of_the_gateway_api_are_read_in_both_versions_with_their_defaults() {
        let (objects, findings) = parsed(
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n\
             \x20 parentRefs:\n  - name: g\n  rules:\n  - backendRefs:\n    - name: web\n      port: 80\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrantList\nitems:\n\
             - {metadata: {name: a}, spec: {from: [], to: []}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: x}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: Gateway\nmetadata: {name: old}\n",
        );
        let route = &objects.http_routes[0];
        assert_eq!(route.lines.field("rules[0].backendRefs[0].port"), 10);
        let spec = &route.object.spec;
        assert_eq!((spec.parent_refs[0].kind.as_str(), spec.rules[0].backend_refs[0].weight), ("Gateway", 1));
        assert_eq!(spec.rules[0].matches[0].path.kind, "PathPrefix");
        assert_eq!((objects.reference_grants.len(), objects.gateways.len()), (1, 0));
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].starts_with("info f.yaml:17 GRPCRoute default/x:"), "{findings:?}");
        assert!(findings[1].contains("(write apiVersion: gateway.networking.k8s.io/v1)"), "{findings:?}");
    }

    #[test]
    fn an_unknown_field_of_a_route_has_its_line() {
        let (objects, findings) = parsed(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n\
             \x20 rules:\n  - backendRefs:\n    - name: web\n      prot: 80\n",
        );
        assert_eq!(objects.http_routes.len(), 1);
        assert!(
            findings[0].starts_with("warning f.yaml:8 HTTPRoute default/r: field \"prot\""),
            "{findings:?}"
        );
    }
}
