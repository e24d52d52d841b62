//! Arguments of `weir policy`.

use super::Output;
use clap::{Args, Subcommand};
use std::{net::SocketAddr, path::PathBuf};

/// What to ask about policies.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Check expectations against a directory of manifests: one line a mismatch, exit 1 on any, 2 on a case
    /// that cannot be understood.
    ///
    /// A case is {name, from, to, port, protocol (TCP), family (4 or 6), http: {method, path, host, headers:
    /// [[name, value], ...]}, expect: [allow | forbidden | drop | bad-request | redirect, ...]}. From and to are
    /// namespace/pod, an address, host or remote-node; to may be a Service's address, or a Gateway's (host is the
    /// nodes'), where a route may redirect the request. Any of `expect` is right.
    Test(PolicyTestArgs),
    /// Say what policies decide and why, and which rule would have allowed it if not: by a directory of
    /// manifests, or by the running agent.
    Explain(PolicyExplainArgs),
    /// Say what would change for the requests of an access log under the policies of a directory.
    Replay(PolicyReplayArgs),
}

/// Arguments of `weir policy test`.
#[derive(Args, Debug)]
pub struct PolicyTestArgs {
    /// Directory of Kubernetes manifests.
    #[arg(long, env = "WEIR_CONFIG", value_name = "DIR")]
    pub config: PathBuf,
    /// Files of cases: YAML documents or lists, JSON, or one JSON object a line; - is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `weir policy explain`.
#[derive(Args, Debug)]
pub struct PolicyExplainArgs {
    /// Directory of Kubernetes manifests; without it the running agent is asked.
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// The running agent's admin listener.
    #[arg(long, env = "WEIR_ADMIN_ADDR", default_value = "127.0.0.1:15020")]
    pub admin_addr: SocketAddr,
    /// The connection, or the request.
    #[command(flatten)]
    pub question: PolicyQuestionArgs,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// A connection, or a request, as it may be asked about.
#[derive(Args, Clone, Debug)]
pub struct PolicyQuestionArgs {
    /// Who connects: [pod/]NAMESPACE/NAME, an address, host or remote-node.
    #[arg(long)]
    pub from: String,
    /// To whom: likewise, or svc/NAMESPACE/NAME.
    #[arg(long)]
    pub to: String,
    /// Which port; of a Service, the Service's.
    #[arg(long, default_value_t = 80)]
    pub port: u16,
    /// TCP, UDP or SCTP.
    #[arg(long, default_value = "TCP")]
    pub protocol: String,
    /// The request's method; with any of the following a request is asked about.
    #[arg(long)]
    pub method: Option<String>,
    /// The request's target.
    #[arg(long)]
    pub path: Option<String>,
    /// The request's Host field.
    #[arg(long)]
    pub host: Option<String>,
    /// A field of the request, `Name: value`; may be given several times.
    #[arg(long = "header", value_name = "FIELD")]
    pub headers: Vec<String>,
}

/// Arguments of `weir policy replay`.
#[derive(Args, Debug)]
pub struct PolicyReplayArgs {
    /// The access log: one JSON object a line; - is standard input.
    #[arg(value_name = "LOG")]
    pub log: PathBuf,
    /// Directory of Kubernetes manifests with the policies in question.
    #[arg(long, value_name = "DIR")]
    pub against: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}
