//! The load: a generator and a server that run as processes of their own, each in its pod.

pub(crate) mod client;
mod connection;
mod message;
mod pace;
pub(crate) mod server;
