//! Arguments of `weir doctor`.

use super::Output;
use clap::{Args, Subcommand};
use std::{path::PathBuf, time::Duration};

/// What to look at.
#[derive(Subcommand, Debug)]
pub enum DoctorCommand {
    /// Connect to a server as a client would, and print what both agree upon: version, suite, protocol,
    /// certificates, and why it is not HTTP/2. Exit 1 where no session comes about, or a client would refuse it.
    Tls(TlsArgs),
}

/// Arguments of `weir doctor tls`.
#[derive(Args, Debug)]
pub struct TlsArgs {
    /// The server, HOST or HOST:PORT ([ADDRESS]:PORT for IPv6); port 443 by default. Connections go there alone.
    #[arg(value_name = "HOST[:PORT]")]
    pub target: String,
    /// The name to ask for [default: HOST].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Certificates to trust (PEM) [default: the system's].
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How long each of its connections may take.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    pub timeout: Duration,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}
