//! Arguments, and the [`Config`] that the rest of the agent reads.

pub mod doctor;
pub mod policy;
pub mod route;

use crate::{policy::access::Net, source::kubernetes::Access};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// HTTP services on Kubernetes, steered and relayed through eBPF, timed and explained.
#[derive(Parser, Debug)]
#[command(name = "weir", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the node agent until SIGTERM; SIGHUP reloads its configuration.
    Run(Box<Config>),
    /// Validate a directory of manifests offline: one line a finding, exit 1 on errors.
    Check(CheckArgs),
    /// Ask the running agent what it does: programs, maps, lanes, clusters, what is degraded.
    Status(StatusArgs),
    /// Ask who may connect to whom, and ask for what.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Ask where requests go, by host and path.
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// Look at something from here, as a client would.
    #[command(subcommand)]
    Doctor(doctor::DoctorCommand),
    /// Take away what an agent with --pin-dir left in the kernel: then nothing is denied without an agent.
    Unpin(UnpinArgs),
    /// Print shell completions.
    Completions(CompletionArgs),
}

/// Arguments of `weir check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Directory of Kubernetes manifests.
    #[arg(long, env = "WEIR_CONFIG", value_name = "DIR")]
    pub config: PathBuf,
    /// Ports that carry HTTP.
    #[arg(long, env = "WEIR_HTTP_PORTS", value_delimiter = ',', default_value = "8080")]
    pub http_ports: Vec<u16>,
    /// For each listener with TLS, explain which cipher suites clients get, and why not the others.
    #[arg(long)]
    pub ciphers: bool,
    /// How to print findings.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `weir unpin`.
#[derive(Args, Debug)]
pub struct UnpinArgs {
    /// As the agent's.
    #[arg(long, env = "WEIR_PIN_DIR", value_name = "DIR")]
    pub pin_dir: PathBuf,
}

/// Arguments of `weir status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The running agent's admin listener.
    #[arg(long, env = "WEIR_ADMIN_ADDR", default_value = "127.0.0.1:15020")]
    pub admin_addr: SocketAddr,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `weir completions`.
#[derive(Args, Debug)]
pub struct CompletionArgs {
    /// The shell to write for.
    pub shell: clap_complete::Shell,
}

/// Output format of read commands.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// When sockets are redirected past the TCP stack.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Acceleration {
    /// Never: plain TCP on both hops.
    Off,
    /// Only what applications send to the agent, after probation; what it sends them goes by TCP.
    AgentOnly,
    /// Both ways, for workloads that passed probation.
    #[default]
    Auto,
    /// Both ways, without probation; a workload that trips the wire is still taken out.
    On,
}

/// How connections reach the agent.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Steering {
    /// The kernel half's connect hooks.
    #[default]
    Ebpf,
    /// Somebody's iptables REDIRECT; the agent asks conntrack for the original destination.
    Iptables,
}

/// What a connect gets that cannot be recorded (table full).
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FailurePolicy {
    /// It goes straight to an endpoint, without the agent.
    #[default]
    Open,
    /// It is refused.
    Closed,
}

/// Arguments of `weir run`: the agent's whole configuration.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Read objects from this directory of Kubernetes manifests; watched for changes, and read at once on
    /// SIGHUP.
    #[arg(long, env = "WEIR_CONFIG", value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Read objects from the Kubernetes API, as the Pod's service account or as KUBECONFIG says. The default
    /// where there is either and no --config. SIGHUP lists all of them again.
    #[arg(long, env = "WEIR_KUBERNETES")]
    pub kubernetes: bool,
    /// Read objects from the Kubernetes API that this file names.
    #[arg(long, env = "WEIR_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// This node's name in Kubernetes: whose endpoints a traffic policy Local means, and whose pods this node
    /// may always reach. Without it such policies are not kept, and every pod may be reached. Towards the API the host's name
    /// stands in for it.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Node address to listen on, one per IP family; found by default.
    #[arg(long, env = "WEIR_LISTEN_ADDR", value_name = "IP", value_delimiter = ',')]
    pub listen_addr: Vec<IpAddr>,
    /// Port to listen on.
    #[arg(long, env = "WEIR_LISTEN_PORT", default_value_t = 15001)]
    pub listen_port: u16,
    /// Where /metrics, /livez, /readyz and /status are served.
    #[arg(long, env = "WEIR_ADMIN_ADDR", default_value = "127.0.0.1:15020")]
    pub admin_addr: SocketAddr,
    /// This node's zone: endpoints that are meant for other zones are left alone while all are meant for
    /// some, and one for this.
    #[arg(long, env = "WEIR_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,
    /// Ports that carry HTTP: connects to them are steered to the agent.
    #[arg(long, env = "WEIR_HTTP_PORTS", value_delimiter = ',', default_value = "8080")]
    pub http_ports: Vec<u16>,
    /// How connections reach the agent.
    #[arg(long, env = "WEIR_STEERING", value_enum, default_value_t)]
    pub steering: Steering,
    /// Parent cgroup (v2) of all pods; found by default (kubepods).
    #[arg(long, env = "WEIR_POD_CGROUP", value_name = "DIR")]
    pub pod_cgroup: Option<PathBuf>,
    /// Interfaces that connections from outside come in by; by default those that hold the default route
    /// or an address of the node, but for bridges without the default route.
    #[arg(long, env = "WEIR_UPLINK", value_name = "IFACE", value_delimiter = ',')]
    pub uplink: Vec<String>,
    /// Steer host processes too (kubelet probes, hostNetwork system daemons).
    #[arg(long, env = "WEIR_STEER_HOST")]
    pub steer_host: bool,
    /// A directory of a BPF file system (root's alone; made if need be) where what carries verdicts is kept:
    /// then who may connect to whom holds while there is no agent, also after SIGTERM, until `weir unpin`.
    #[arg(long, env = "WEIR_PIN_DIR", value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// What a connect gets that cannot be recorded because a table is full, that is of a pod that is not known,
    /// or, with --pin-dir, whose requests are to be decided about while there is no agent.
    #[arg(long, env = "WEIR_FAILURE_POLICY", value_enum, default_value_t)]
    pub failure_policy: FailurePolicy,
    /// When sockets are redirected past the TCP stack.
    #[arg(long, env = "WEIR_ACCELERATION", value_enum, default_value_t)]
    pub acceleration: Acceleration,
    /// Requests of a workload that are watched before its sockets may be redirected into.
    #[arg(long, env = "WEIR_PROBATION_REQUESTS", default_value_t = 100)]
    pub probation_requests: u32,
    /// Largest request, in bytes, that may be redirected; larger ones go by TCP.
    #[arg(long, env = "WEIR_REDIRECT_REQUEST_CAP", default_value_t = 64 * 1024)]
    pub redirect_request_cap: u32,
    /// Largest answer, in bytes, that may be redirected; larger ones go by TCP.
    #[arg(long, env = "WEIR_REDIRECT_ANSWER_CAP", default_value_t = 256 * 1024)]
    pub redirect_answer_cap: u32,
    /// Connections that the kernel half can remember at once.
    #[arg(long, env = "WEIR_MAX_FLOWS", default_value_t = 65_536)]
    pub max_flows: u32,
    /// Connections whose requests the kernel half may carry by itself (the splice lane); 0 turns it off.
    #[arg(long, env = "WEIR_SPLICE_PAIRS", default_value_t = 4096)]
    pub splice_pairs: u32,
    /// Part of the connections fit for the splice lane that stays in relay, for comparison.
    #[arg(long, env = "WEIR_SPLICE_CONTROL", value_name = "PERCENT", value_parser = percent, default_value = "1%")]
    pub splice_control: f64,
    /// Port of this node's addresses where Ingresses are served.
    #[arg(long, env = "WEIR_INGRESS_HTTP_PORT", default_value_t = 80)]
    pub ingress_http_port: u16,
    /// Port of this node's addresses where Ingresses with `tls` are served.
    #[arg(long, env = "WEIR_INGRESS_HTTPS_PORT", default_value_t = 443)]
    pub ingress_https_port: u16,
    /// TLS handshakes at once; more wait for their turn, each until its own timeout.
    #[arg(long, env = "WEIR_MAX_HANDSHAKES", default_value_t = 1024)]
    pub max_handshakes: u32,
    /// A TLS handshake, from accept to its last message.
    #[arg(long, env = "WEIR_TIMEOUT_TLS_HANDSHAKE", value_parser = humantime::parse_duration, default_value = "10s")]
    pub timeout_tls_handshake: Duration,
    /// Service and endpoint addresses that the kernel half can hold.
    #[arg(long, env = "WEIR_MAX_SERVICES", default_value_t = 262_144)]
    pub max_services: u32,
    /// Downstream connections at once; more are accepted and reset at once [default: half of
    /// RLIMIT_NOFILE, less 256].
    #[arg(long, env = "WEIR_MAX_CONNECTIONS")]
    pub max_connections: Option<u32>,
    /// Downstream connections at once from one client address; more are reset at once.
    #[arg(long, env = "WEIR_MAX_CONNECTIONS_PER_CLIENT", default_value_t = 4096)]
    pub max_connections_per_client: u32,
    /// How long to wait for a client's first byte before the server may speak first.
    #[arg(long, env = "WEIR_DETECT_TIMEOUT", value_parser = humantime::parse_duration, default_value = "50ms")]
    pub detect_timeout: Duration,
    /// Proxies in front of Gateways and Ingresses whose X-Forwarded-For, -Proto and -Host are believed; what
    /// other clients say there is dropped.
    #[arg(long, env = "WEIR_TRUSTED_HOPS", default_value_t = 0)]
    pub trusted_hops: u8,
    /// Tell endpoints behind Gateways and Ingresses in Forwarded (RFC 7239) too who asks.
    #[arg(long, env = "WEIR_FORWARDED")]
    pub forwarded: bool,
    /// Addresses whose connections to Gateways and Ingresses begin with a PROXY protocol header, of version 1 or 2:
    /// the client that it names goes into X-Forwarded-For and the log, policies go by who has connected. Without
    /// the header such a connection is closed; others' are taken as they are.
    #[arg(long, env = "WEIR_PROXY_PROTOCOL_FROM", value_name = "CIDR", value_delimiter = ',', value_parser = Net::parse)]
    pub proxy_protocol_from: Vec<Net>,
    /// Bytes a second that a request's body must bring while it is waited for, after ten seconds: 408 otherwise.
    /// 0 turns it off.
    #[arg(long, env = "WEIR_MIN_BODY_RATE", default_value_t = 240)]
    pub min_body_rate: u32,
    /// Bytes a second that an answer's body must bring while the endpoint is waited for, after ten seconds, where the
    /// answer says how long it is (what streams does not): the answer is cut short otherwise. 0 turns it off.
    #[arg(long, env = "WEIR_MIN_RESPONSE_BODY_RATE", default_value_t = 240)]
    pub min_response_body_rate: u32,
    /// The name by which requests to Gateways, Ingresses and node ports say in Via that they passed here, the same
    /// on every node: one that has eight times gets 508. `off`: they do not say so, and no loop is noticed.
    #[arg(long, env = "WEIR_VIA", value_name = "NAME", value_parser = pseudonym, default_value = "weir")]
    pub via: String,
    /// Accept field names with underscores, which some servers take for hyphens: 400 otherwise.
    #[arg(long, env = "WEIR_ALLOW_UNDERSCORES")]
    pub allow_underscores: bool,
    /// Answer 502 where an endpoint ends lines of an answer's head with a bare LF, instead of repairing them.
    #[arg(long, env = "WEIR_STRICT_ANSWERS")]
    pub strict_answers: bool,
    /// Accept this method although IANA has not registered it (501 otherwise), or TRACE (405). May be given more
    /// than once.
    #[arg(long = "allow-method", env = "WEIR_ALLOW_METHOD", value_name = "METHOD", value_delimiter = ',', value_parser = method)]
    pub allow_methods: Vec<String>,
    /// Let connections be made into this by Upgrade, beside websocket; what else is asked for is not passed on.
    /// May be given more than once.
    #[arg(long = "allow-upgrade", env = "WEIR_ALLOW_UPGRADE", value_name = "PROTOCOL", value_delimiter = ',', value_parser = upgrade)]
    pub allow_upgrades: Vec<String>,
    /// Timeouts, for every Service that does not set its own.
    #[command(flatten)]
    pub timeouts: TimeoutArgs,
    /// TCP keep-alive of the agent's own sockets; 0s turns it off.
    #[arg(long, env = "WEIR_TCP_KEEPALIVE", value_parser = humantime::parse_duration, default_value = "60s")]
    pub tcp_keepalive: Duration,
    /// Where the access log goes: `-` (standard output), `off`, or a file.
    #[arg(long, env = "WEIR_ACCESS_LOG", default_value = "-")]
    pub access_log: String,
    /// Access-log lines that may wait for the writer; more are dropped and counted.
    #[arg(long, env = "WEIR_ACCESS_LOG_QUEUE", default_value_t = 8192)]
    pub access_log_queue: usize,
    /// How long SIGTERM waits for connections to end.
    #[arg(long, env = "WEIR_DRAIN_TIMEOUT", value_parser = humantime::parse_duration, default_value = "30s")]
    pub drain_timeout: Duration,
    /// Directory of the single-instance lock, and of a copy of the Kubernetes API's objects (objects.json) that a
    /// start is served from while the API server is away.
    #[arg(long, env = "WEIR_RUN_DIR", default_value = "/run/weir")]
    pub run_dir: PathBuf,
    /// Threads that carry traffic [default: one per CPU].
    #[arg(long, env = "WEIR_WORKERS")]
    pub workers: Option<usize>,
}

/// Where objects come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A directory of manifests.
    Directory(PathBuf),
    /// The Kubernetes API.
    Kubernetes(Access),
}

impl Config {
    /// Where objects come from: what the arguments say or else, where they say nothing, what the
    /// environment does; `variable` reads that.
    pub fn origin(&self, variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Origin> {
        let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
        let found = || match (is_set("KUBECONFIG"), is_set("KUBERNETES_SERVICE_HOST")) {
            (true, _) => Some(Access::Kubectl),
            (false, true) => Some(Access::InCluster),
            (false, false) => None,
        };
        let asked = self.kubernetes || self.kubeconfig.is_some();
        match (&self.config, &self.kubeconfig) {
            (Some(_), _) if asked => anyhow::bail!("--config and --kubernetes are two sources: give one"),
            (Some(dir), _) => Ok(Origin::Directory(dir.clone())),
            (None, Some(file)) => Ok(Origin::Kubernetes(Access::File(file.clone()))),
            (None, None) => match found() {
                Some(access) => Ok(Origin::Kubernetes(access)),
                None if asked => Ok(Origin::Kubernetes(Access::Kubectl)),
                None => anyhow::bail!(
                    "nothing to read objects from: give --config DIR, or --kubernetes (there is neither \
                     KUBECONFIG nor a service account)"
                ),
            },
        }
    }
}

/// A method's name (RFC 9110 section 9.1), but CONNECT.
fn method(text: &str) -> Result<String, String> {
    match http::Method::from_bytes(text.as_bytes()) {
        Ok(http::Method::CONNECT) | Err(_) => Err("a method other than CONNECT is wanted".to_owned()),
        Ok(method) => Ok(method.to_string()),
    }
}

/// What Upgrade may name (RFC 9110 section 7.8), but HTTP/2: a server that took it would be reached by requests
/// that nobody has decided about.
fn upgrade(text: &str) -> Result<String, String> {
    let name = text.split('/').next().unwrap_or_default();
    if ["h2c", "h2", "http", "tls"].iter().any(|one| name.eq_ignore_ascii_case(one)) {
        return Err("a protocol other than HTTP and TLS is wanted".to_owned());
    }
    let is_token = |part: &str| http::HeaderName::from_bytes(part.as_bytes()).is_ok();
    if text.splitn(2, '/').all(is_token) { Ok(text.to_owned()) } else { Err("no protocol's name".to_owned()) }
}

/// What Via may call an intermediary (RFC 9110 section 7.6.3).
fn pseudonym(text: &str) -> Result<String, String> {
    match http::HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("a name of letters, digits and - _ . is wanted, or off".to_owned()),
    }
}

/// `1%` or `1` as 0.01.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("a percentage from 0% to 100% is wanted".to_owned()),
    }
}

/// Global timeouts; `0s` disables one.
#[derive(Args, Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeoutArgs {
    /// TCP handshake with an endpoint: 503, flag UF.
    #[arg(long, env = "WEIR_TIMEOUT_CONNECT", value_parser = humantime::parse_duration, default_value = "5s")]
    pub timeout_connect: Duration,
    /// A request's head, from its first byte: 408.
    #[arg(long, env = "WEIR_TIMEOUT_REQUEST_HEAD", value_parser = humantime::parse_duration, default_value = "10s")]
    pub timeout_request_head: Duration,
    /// Silence within a request's body: 408.
    #[arg(long, env = "WEIR_TIMEOUT_REQUEST_BODY_IDLE", value_parser = humantime::parse_duration, default_value = "30s")]
    pub timeout_request_body_idle: Duration,
    /// From the request's end to the answer's head, per try: 504, flag UT.
    #[arg(long, env = "WEIR_TIMEOUT_RESPONSE_HEAD", value_parser = humantime::parse_duration, default_value = "15s")]
    pub timeout_response_head: Duration,
    /// The whole request, all tries: 504. A streaming answer that has begun is exempt.
    #[arg(long, env = "WEIR_TIMEOUT_REQUEST", value_parser = humantime::parse_duration, default_value = "15s")]
    pub timeout_request: Duration,
    /// Silence within an answer's body: the connection is aborted.
    #[arg(long, env = "WEIR_TIMEOUT_RESPONSE_BODY_IDLE", value_parser = humantime::parse_duration, default_value = "300s")]
    pub timeout_response_body_idle: Duration,
    /// What a client says first where it must speak first (Gateways, Ingresses, Services whose appProtocol is HTTP):
    /// its first byte, or the rest of a PROXY header or of HTTP/2's preface. The connection is closed, and counted.
    #[arg(long, env = "WEIR_TIMEOUT_PROTOCOL_DETECT", value_parser = humantime::parse_duration, default_value = "10s")]
    pub timeout_protocol_detect: Duration,
    /// Silence both ways on a connection that is not HTTP, or by Upgrade is not any more: the connection is reset.
    #[arg(long, env = "WEIR_TIMEOUT_TUNNEL_IDLE", value_parser = humantime::parse_duration, default_value = "300s")]
    pub timeout_tunnel_idle: Duration,
    /// A client that takes nothing of its answer: its connection is reset.
    #[arg(long, env = "WEIR_TIMEOUT_WRITE_IDLE", value_parser = humantime::parse_duration, default_value = "30s")]
    pub timeout_write_idle: Duration,
    /// A client's connection without a request: closed.
    #[arg(long, env = "WEIR_TIMEOUT_DOWNSTREAM_IDLE", value_parser = humantime::parse_duration, default_value = "60s")]
    pub timeout_downstream_idle: Duration,
    /// A pooled connection to an endpoint without a request: closed.
    #[arg(long, env = "WEIR_TIMEOUT_UPSTREAM_IDLE", value_parser = humantime::parse_duration, default_value = "3s")]
    pub timeout_upstream_idle: Duration,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn origin(arguments: &[&str], environment: &[&str]) -> Result<Origin, String> {
        let arguments = ["weir", "run"].iter().chain(arguments);
        let Command::Run(config) = Cli::parse_from(arguments).command else { panic!("not run") };
        let variable = |name: &str| environment.contains(&name).then(|| OsString::from("x"));
        config.origin(variable).map_err(|error| error.to_string())
    }

    #[test]
    fn objects_come_from_where_the_arguments_say_or_the_environment_if_they_say_nothing() {
        let directory = Ok(Origin::Directory("/x".into()));
        let cluster = ["KUBERNETES_SERVICE_HOST"];
        assert_eq!(origin(&["--config=/x"], &[]), directory);
        assert_eq!(origin(&["--config=/x"], &cluster), directory);
        let api = |access| Ok(Origin::Kubernetes(access));
        assert_eq!(origin(&[], &cluster), api(Access::InCluster));
        assert_eq!(origin(&["--kubernetes"], &cluster), api(Access::InCluster));
        assert_eq!(origin(&[], &["KUBECONFIG", "KUBERNETES_SERVICE_HOST"]), api(Access::Kubectl));
        assert_eq!(origin(&["--kubernetes"], &[]), api(Access::Kubectl));
        assert_eq!(origin(&["--kubeconfig=/f"], &cluster), api(Access::File("/f".into())));
        assert!(origin(&[], &[]).unwrap_err().contains("--config DIR"));
        assert!(origin(&["--config=/x", "--kubernetes"], &[]).unwrap_err().contains("two sources"));
    }
}
