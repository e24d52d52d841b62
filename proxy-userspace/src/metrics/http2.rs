//! HTTP/2 with clients: what is open, and how connections end.

use super::Words;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Http2 {
    connections: Gauge,
    streams: Gauge,
    ended: Words<1>,
}

impl Http2 {
    pub(super) fn register(&self, all: &mut Registry) {
        all.register(
            "weir_http2_connections",
            "Open HTTP/2 connections from clients",
            self.connections.clone(),
        );
        all.register("weir_http2_streams", "Open streams on them", self.streams.clone());
        let help = "HTTP/2 connections from clients that have ended, by what ended them";
        all.register("weir_http2_connections_ended", help, self.ended.clone());
    }

    pub(crate) fn opened(&self) {
        self.connections.inc();
    }

    /// `why` is a word of ours.
    pub(crate) fn ended(&self, why: &'static str) {
        self.connections.dec();
        self.ended.get_or_create(&[("reason", why)]).inc();
    }

    pub(crate) fn stream_opened(&self) {
        self.streams.inc();
    }

    pub(crate) fn stream_closed(&self) {
        self.streams.dec();
    }
}
