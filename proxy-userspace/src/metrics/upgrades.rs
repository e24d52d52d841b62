//! Connections that became another protocol's by Upgrade.

use super::Words;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Upgrades {
    open: Gauge,
    asked: Words<1>,
}

impl Upgrades {
    pub(super) fn register(&self, all: &mut Registry) {
        let help = "Open connections that have been upgraded to another protocol";
        all.register("weir_upgraded_connections", help, self.open.clone());
        let help = "Requests for an upgrade that is allowed, by what became of it: switched, or declined by an \
                    endpoint or by us";
        all.register("weir_upgrades", help, self.asked.clone());
    }

    /// A client is told that its connection is upgraded.
    pub(super) fn switched(&self) -> Upgraded {
        self.asked.get_or_create(&[("result", "switched")]).inc();
        self.open.inc();
        Upgraded(self.open.clone())
    }

    pub(super) fn declined(&self) {
        self.asked.get_or_create(&[("result", "declined")]).inc();
    }
}

/// An upgraded connection, until it is dropped.
pub(crate) struct Upgraded(Gauge);

impl Drop for Upgraded {
    fn drop(&mut self) {
        self.0.dec();
    }
}
