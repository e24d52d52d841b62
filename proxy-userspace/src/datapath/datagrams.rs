//! What the kernel half needs to decide about datagrams: programs on the pods' cgroup, which are there only
//! while some policy is in force, for they see every packet; and the addresses of Services.

use super::{
    DatapathError, Kernel,
    access::protocol,
    attach::{attach_failed, cgroup_id, hold},
    cgroups,
    load::{load_failed, program},
    pins::Pins,
    services::ServiceTables,
};
use crate::{policy::access::Transport, snapshot::DatagramServices};
use anyhow::Context;
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, cgroup_skb::CgroupSkbLinkId},
};
use proxy_common::{
    abi::{LANE_PASS, Service, ServiceKey},
    addr::words_of,
};
use std::{net::SocketAddr, path::Path};

/// Senders first: what they ask is noted before answers are looked at.
const HOOKS: [(&str, CgroupSkbAttachType); 2] =
    [("weir_sent", CgroupSkbAttachType::Egress), ("weir_received", CgroupSkbAttachType::Ingress)];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    /// From here on an unknown cgroup is a new one.
    pods_known: bool,
    links: Vec<(&'static str, CgroupSkbLinkId)>,
    written: DatagramServices,
}

/// Loads the programs.
pub(super) fn load(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    HOOKS
        .iter()
        .try_for_each(|(name, _)| program::<CgroupSkb>(ebpf, name)?.load().with_context(|| load_failed(name)))
}

impl Datagrams {
    /// Nothing is attached before this.
    pub(super) fn pods_are_known(&mut self) {
        self.pods_known = true;
    }

    /// Makes the table of Services know these. What could not be written is tried again.
    pub(super) fn services(
        &mut self,
        wanted: &DatagramServices,
        tables: &impl ServiceTables,
    ) -> Result<(), DatapathError> {
        let changed: Vec<_> = wanted.differences(&self.written).into_iter().copied().collect();
        for one in changed {
            match wanted.get(&one) {
                Some(count) => {
                    let known = Service { lane: LANE_PASS, ..Service::default() };
                    tables.set_service(&key(one), &known)?;
                    self.written.insert(one, *count);
                }
                None => {
                    tables.remove_service(&key(one))?;
                    self.written.remove(&one);
                }
            }
        }
        Ok(())
    }

    fn attach(&mut self, ebpf: &mut Ebpf, pods: &Path, mut pins: Option<&mut Pins>) -> anyhow::Result<()> {
        let cgroup = cgroups::open(pods)?;
        let place = cgroup_id(&cgroup)?;
        for (name, side) in HOOKS {
            if !self.links.iter().any(|(attached, _)| *attached == name) {
                let hook: &mut CgroupSkb = program(ebpf, name)?;
                let link = hold(pins.as_deref_mut(), name, place, hook, |hook| {
                    hook.attach(&cgroup, side, CgroupAttachMode::Single)
                        .with_context(|| attach_failed(name, pods))
                })?;
                self.links.extend(link.map(|link| (name, link)));
            }
        }
        Ok(())
    }

    fn detach(&mut self, ebpf: &mut Ebpf, pins: Option<&mut Pins>) -> anyhow::Result<()> {
        if let Some(pins) = pins {
            HOOKS.iter().try_for_each(|(name, _)| pins.release(name))?;
        }
        while let Some((name, link)) = self.links.pop() {
            let hook: &mut CgroupSkb = program(ebpf, name)?;
            hook.detach(link).with_context(|| format!("cannot detach {name}"))?;
        }
        Ok(())
    }
}

impl Kernel {
    /// Attaches the programs, or takes them away, as policies are in force or not.
    pub(super) fn follow_datagrams(&self) -> anyhow::Result<()> {
        let wanted = self.settings.lock().access != 0;
        let mut datagrams = self.datagrams.lock();
        if !datagrams.pods_known {
            return Ok(());
        }
        let (mut ebpf, mut pins) = (self.ebpf.lock(), self.pins.lock());
        if wanted {
            datagrams.attach(&mut ebpf, &self.pods, pins.as_mut())
        } else {
            datagrams.detach(&mut ebpf, pins.as_mut())
        }
    }
}

fn key((addr, transport): (SocketAddr, Transport)) -> ServiceKey {
    ServiceKey { addr: words_of(addr.ip()), port: addr.port(), protocol: u16::from(protocol(transport)) }
}
