//! Kubernetes manifests for the agent, written from what a test needs.

use anyhow::{Context, Result};
use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

/// One Service port with its endpoints: a Service and one EndpointSlice per IP family.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    cluster_ips: Vec<IpAddr>,
    port: u16,
    node_port: Option<u16>,
    app_protocol: Option<String>,
    annotations: Vec<(String, String)>,
    endpoints: Vec<Endpoint>,
}

/// One endpoint of a Service.
#[derive(Debug, Clone)]
pub struct Endpoint {
    addr: SocketAddr,
    ready: bool,
    pod: Option<String>,
}

impl Endpoint {
    /// A ready endpoint.
    #[must_use]
    pub const fn new(addr: SocketAddr) -> Self {
        Self { addr, ready: true, pod: None }
    }

    /// Not ready.
    #[must_use]
    pub const fn unready(mut self) -> Self {
        self.ready = false;
        self
    }

    /// The pod behind it (`targetRef`).
    #[must_use]
    pub fn pod(mut self, name: &str) -> Self {
        self.pod = Some(name.to_owned());
        self
    }
}

impl Service {
    /// A Service `demo/NAME` with one port, without addresses or endpoints.
    #[must_use]
    pub fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            cluster_ips: Vec::new(),
            port,
            node_port: None,
            app_protocol: None,
            annotations: Vec::new(),
            endpoints: Vec::new(),
        }
    }

    /// Adds a ClusterIP.
    #[must_use]
    pub fn cluster_ip(mut self, ip: impl Into<IpAddr>) -> Self {
        self.cluster_ips.push(ip.into());
        self
    }

    /// Makes it a NodePort Service.
    #[must_use]
    pub const fn node_port(mut self, port: u16) -> Self {
        self.node_port = Some(port);
        self
    }

    /// Sets `appProtocol`.
    #[must_use]
    pub fn app_protocol(mut self, protocol: &str) -> Self {
        self.app_protocol = Some(protocol.to_owned());
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds an endpoint. All endpoints of one IP family share their port (the target port).
    #[must_use]
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Adds ready endpoints.
    #[must_use]
    pub fn endpoints(mut self, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.endpoints.extend(addrs.into_iter().map(Endpoint::new));
        self
    }

    /// Both objects as YAML documents.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut text = self.service();
        for (family, v6) in [("IPv4", false), ("IPv6", true)] {
            let members: Vec<_> =
                self.endpoints.iter().filter(|member| member.addr.is_ipv6() == v6).collect();
            if !members.is_empty() {
                text.push_str(&self.slice(family, &members));
            }
        }
        text
    }

    fn service(&self) -> String {
        let Self { name, port, .. } = self;
        let mut text =
            format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: demo\n");
        if !self.annotations.is_empty() {
            text.push_str("  annotations:\n");
            for (key, value) in &self.annotations {
                let _infallible = writeln!(text, "    {key}: {value:?}");
            }
        }
        let ips: Vec<_> = self.cluster_ips.iter().map(|ip| format!("{:?}", ip.to_string())).collect();
        let first = ips.first().map_or("None", String::as_str);
        let target = self.endpoints.first().map_or(*port, |member| member.addr.port());
        let _infallible = write!(
            text,
            "spec:\n  clusterIP: {first}\n  clusterIPs: [{}]\n  selector: {{app: {name}}}\n  ports:\n  \
             - name: main\n    protocol: TCP\n    port: {port}\n    targetPort: {target}\n",
            ips.join(", ")
        );
        if let Some(port) = self.node_port {
            text = text.replace("spec:\n", "spec:\n  type: NodePort\n");
            let _infallible = writeln!(text, "    nodePort: {port}");
        }
        if let Some(protocol) = &self.app_protocol {
            let _infallible = writeln!(text, "    appProtocol: {protocol}");
        }
        text.push_str("---\n");
        text
    }

    fn slice(&self, family: &str, members: &[&Endpoint]) -> String {
        let name = &self.name;
        let suffix = family.to_lowercase();
        let port = members.first().map_or(self.port, |member| member.addr.port());
        let mut text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{suffix}\n  \
             namespace: demo\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: {family}\n\
             ports:\n- {{name: main, protocol: TCP, port: {port}}}\nendpoints:\n"
        );
        for member in members {
            let _infallible = write!(
                text,
                "- addresses: [{:?}]\n  conditions: {{ready: {}}}\n",
                member.addr.ip().to_string(),
                member.ready
            );
            if let Some(pod) = &member.pod {
                let _infallible = writeln!(text, "  targetRef: {{kind: Pod, namespace: demo, name: {pod}}}");
            }
        }
        text.push_str("---\n");
        text
    }
}

/// A Pod `demo/NAME` with its address: what policies select. Its UID is its name: the harness names the
/// pod's cgroup after it.
#[derive(Debug, Clone)]
pub struct Pod {
    name: String,
    labels: Vec<(String, String)>,
    addresses: Vec<IpAddr>,
}

impl Pod {
    /// A running pod with label `app: APP`.
    #[must_use]
    pub fn new(name: &str, app: &str) -> Self {
        let labels = vec![("app".to_owned(), app.to_owned())];
        Self { name: name.to_owned(), labels, addresses: Vec::new() }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds an address; the first is its primary one.
    #[must_use]
    pub fn address(mut self, ip: impl Into<IpAddr>) -> Self {
        self.addresses.push(ip.into());
        self
    }

    /// As a YAML document.
    #[must_use]
    pub fn yaml(&self) -> String {
        let labels: Vec<_> = self.labels.iter().map(|(key, value)| format!("{key:?}: {value:?}")).collect();
        let ips: Vec<_> = self.addresses.iter().map(|ip| format!("{{ip: {:?}}}", ip.to_string())).collect();
        let primary = self.addresses.first().map(|ip| format!("  podIP: {:?}\n", ip.to_string()));
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: demo, uid: {name}, labels: {{{labels}}}}}\n\
             spec: {{containers: [{{name: main}}]}}\nstatus:\n  phase: Running\n{primary}  podIPs: [{ips}]\n---\n",
            name = self.name,
            labels = labels.join(", "),
            primary = primary.unwrap_or_default(),
            ips = ips.join(", "),
        )
    }
}

/// A CiliumNetworkPolicy `demo/NAME` on the pods with label `app: APP`.
#[derive(Debug, Clone)]
pub struct HttpPolicy {
    name: String,
    app: String,
    port: u16,
    rules: Vec<Vec<(String, String)>>,
    more: String,
}

impl HttpPolicy {
    /// A policy for one port. It needs a rule to be valid.
    #[must_use]
    pub fn new(name: &str, app: &str, port: u16) -> Self {
        let (name, app) = (name.to_owned(), app.to_owned());
        Self { name, app, port, rules: Vec::new(), more: String::new() }
    }

    /// Adds a rule: fields of `rules.http[]` with their regular expressions.
    #[must_use]
    pub fn allow(mut self, fields: &[(&str, &str)]) -> Self {
        let owned = |(field, value): &(&str, &str)| ((*field).to_owned(), (*value).to_owned());
        self.rules.push(fields.iter().map(owned).collect());
        self
    }

    /// Adds a line below `spec`.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.more.push_str(&format!("  {line}\n"));
        self
    }

    /// As a YAML document.
    #[must_use]
    pub fn yaml(&self) -> String {
        let Self { name, app, port, more, .. } = self;
        let mut text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: demo}}\n\
             spec:\n  endpointSelector: {{matchLabels: {{app: {app}}}}}\n{more}  ingress:\n  - toPorts:\n    \
             - ports: [{{port: {:?}, protocol: TCP}}]\n      rules:\n        http:\n",
            port.to_string()
        );
        for rule in &self.rules {
            let fields: Vec<_> = rule.iter().map(|(field, value)| format!("{field}: {value:?}")).collect();
            let _infallible = writeln!(text, "        - {{{}}}", fields.join(", "));
        }
        text.push_str("---\n");
        text
    }
}

/// A Secret `demo/NAME` of type `kubernetes.io/tls`: a certificate, with what signs it, and its key, in PEM.
#[must_use]
pub fn tls_secret(name: &str, chain: &str, key: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: demo}}\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}---\n",
        block(chain),
        block(key)
    )
}

/// A ConfigMap `demo/NAME` of authorities' certificates, in PEM.
#[must_use]
pub fn authorities(name: &str, pem: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: demo}}\ndata:\n  ca.crt: |\n{}---\n",
        block(pem)
    )
}

/// The lines of a literal block (YAML 1.2 section 8.1.2).
fn block(text: &str) -> String {
    text.lines().fold(String::new(), |block, line| block + "    " + line + "\n")
}

/// A directory of manifests that the agent watches.
#[derive(Debug, Clone)]
pub struct ConfigDir {
    path: PathBuf,
}

impl ConfigDir {
    /// A new directory, with one file `services.yaml`.
    pub fn new(path: PathBuf, services: &[Service]) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let dir = Self { path };
        dir.write(services)?;
        Ok(dir)
    }

    /// A directory that exists.
    #[must_use]
    pub const fn existing(path: PathBuf) -> Self {
        Self { path }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces `services.yaml` by rename.
    pub fn write(&self, services: &[Service]) -> Result<()> {
        // Never empty: the agent takes an empty file for a write that was cut short.
        self.write_text(&services.iter().map(Service::yaml).fold("---\n".to_owned(), |all, one| all + &one))
    }

    /// Replaces `services.yaml` by rename with any text.
    pub fn write_text(&self, text: &str) -> Result<()> {
        let (next, file) = (self.path.join(".services.yaml.next"), self.path.join("services.yaml"));
        fs::write(&next, text)?;
        fs::rename(&next, &file).with_context(|| format!("write {}", file.display()))
    }
}
