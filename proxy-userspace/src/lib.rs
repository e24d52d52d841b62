//! The user half of Weir. ARCHITECTURE.md draws the way of a request; the modules below are its
//! stages, in order.

pub mod agent;
pub mod config;

mod admission;
mod answer;
mod balance;
mod body;
mod connection;
mod deadline;
mod detect;
mod downstream;
mod fields;
mod heap;
pub mod identity;
pub mod listener;
mod liveness;
mod lock;
mod muffle;
mod netns;
mod orig_dst;
mod party;
pub mod policy;
mod proxy_protocol;
mod record;
pub mod relay;
mod route;
mod server;
mod splice;
pub mod tls;
mod trailers;
mod tunnel;
mod upgrade;
mod upstream;
mod via;
mod wire;

pub mod accesslog;
pub mod admin;
pub mod datapath;
pub mod flow;
pub mod grpc;
pub mod metrics;
pub mod sharded;

pub mod snapshot;
pub mod source;
pub mod status;

pub mod cli;

#[cfg(test)]
mod ring;
#[cfg(test)]
mod testing;
