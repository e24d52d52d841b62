//! Arguments of `weir route`.

use super::Output;
use clap::{Args, Subcommand};
use std::{net::SocketAddr, path::PathBuf};

/// What to ask about routes.
#[derive(Subcommand, Debug)]
pub enum RouteCommand {
    /// Check expectations against a directory of manifests: one line a mismatch, exit 1 on any.
    ///
    /// A case is {name, host, path, method, headers: [[name, value], ...], expect: [namespace/service:port or a
    /// status, ...]}, and may have a scheme (http), a port (the scheme's) and a gateway (namespace/name, or
    /// ingress). Any of `expect` is right; where requests are spread, each backend is an outcome.
    Test(RouteTestArgs),
    /// Say where a request goes and why: by a directory of manifests, or by the running agent.
    Explain(RouteExplainArgs),
}

/// Arguments of `weir route test`.
#[derive(Args, Debug)]
pub struct RouteTestArgs {
    /// Directory of Kubernetes manifests.
    #[arg(long, env = "WEIR_CONFIG", value_name = "DIR")]
    pub config: PathBuf,
    /// Port of the nodes' addresses where Ingresses are served.
    #[arg(long, env = "WEIR_INGRESS_HTTP_PORT", default_value_t = 80)]
    pub ingress_http_port: u16,
    /// Files of cases: YAML documents or lists, JSON, or one JSON object a line; - is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `weir route explain`.
#[derive(Args, Debug)]
pub struct RouteExplainArgs {
    /// Directory of Kubernetes manifests; without it the running agent is asked.
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// The running agent's admin listener.
    #[arg(long, env = "WEIR_ADMIN_ADDR", default_value = "127.0.0.1:15020")]
    pub admin_addr: SocketAddr,
    /// Port of the nodes' addresses where Ingresses are served.
    #[arg(long, env = "WEIR_INGRESS_HTTP_PORT", default_value_t = 80)]
    pub ingress_http_port: u16,
    /// The request.
    #[command(flatten)]
    pub request: RouteRequestArgs,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// A request, as it may be asked about.
#[derive(Args, Debug)]
pub struct RouteRequestArgs {
    /// The Host field.
    #[arg(long)]
    pub host: Option<String>,
    /// Path and query.
    #[arg(long, default_value = "/")]
    pub path: String,
    /// The method.
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// A field, as NAME:VALUE; several times.
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = field)]
    pub headers: Vec<(String, String)>,
    /// http or https.
    #[arg(long, default_value = "http", value_parser = ["http", "https"])]
    pub scheme: String,
    /// The port [default: the scheme's].
    #[arg(long)]
    pub port: Option<u16>,
    /// The Gateway, namespace/name, or ingress [default: all at that port].
    #[arg(long)]
    pub gateway: Option<String>,
}

/// `Name: value`.
fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("NAME:VALUE is wanted")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
