//! The user half of Weir. ARCHITECTURE.md draws the way of a request; the modules below are its
//! stages, in order.

pub mod agent;
pub mod config;

pub mod accesslog;
pub mod admin;
pub mod datapath;
pub mod flow;
pub mod metrics;
pub mod snapshot;
pub mod source;
pub mod status;

pub mod cli;
