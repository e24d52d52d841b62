//! BackendTLSPolicies: which Service ports' endpoints are spoken to in TLS, and what they have to prove. Where a
//! policy cannot be obeyed its backends get no request at all: never one in clear text.

use super::{Fault, authorities, check, distinct};
use crate::{
    route::table::Proofs,
    snapshot::BuildOptions,
    source::{
        Objects, Sourced,
        finding::{Finding, Severity, quoted},
        gateway::{BackendTlsPolicy, PolicyTarget},
        store::Key,
    },
    tls::{Demands, Name, Proof, Trust},
};
use k8s_openapi::api::core::v1::ServicePort;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

/// What holds at the ports of Services, by `namespace/service:port`.
#[derive(Default)]
pub(super) struct Trusts(HashMap<String, Trusted>);

struct Trusted {
    /// By the port's own name: stands above a policy for the whole Service.
    by_name: bool,
    /// `Err` is why nobody can be trusted.
    proof: Result<Arc<Proof>, Box<str>>,
}

impl Trusts {
    /// Reads all policies, oldest first: of two for the same port the older one holds.
    pub(super) fn read(objects: &Objects, options: &BuildOptions, findings: &mut Vec<Finding>) -> Self {
        let mut trusts = Self::default();
        for source in distinct(&objects.backend_tls_policies, findings) {
            let mut faults = Vec::new();
            let proof = proof(source, (objects, options), &mut faults).map_err(|why| {
                let text = format!("{} cannot be obeyed: {why}", source.label());
                faults.push(why);
                text.into_boxed_str()
            });
            let fix = match &proof {
                Ok(_) => "the others hold",
                Err(_) => "requests for its backends get 500",
            };
            findings.extend(faults.iter().map(|fault| fault.about(source, fix)));
            for (index, target) in source.object.spec.target_refs.iter().enumerate() {
                let place = format!("targetRefs[{index}]");
                let outcome = trusts.aim(source, target, objects, &proof);
                if let Err(text) = outcome {
                    let line = source.lines.field(&place);
                    findings.push(source.finding(Severity::Warning, line, format!("{place}: {text}"), ""));
                }
            }
        }
        trusts
    }

    /// Lets a policy hold for a target; `Err` is why it does not.
    fn aim(
        &mut self,
        source: &Sourced<BackendTlsPolicy>,
        target: &PolicyTarget,
        objects: &Objects,
        proof: &Result<Arc<Proof>, Box<str>>,
    ) -> Result<(), String> {
        let key = Key::new(&source.namespace, &target.name);
        let service = objects.services.get(&key).and_then(|service| service.object.open().ok());
        let Some(service) = service else { return Err(format!("there is no Service {key}")) };
        let section = target.section_name.as_deref().filter(|name| !name.is_empty());
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let meant = |port: &&ServicePort| section.is_none() || port.name.as_deref() == section;
        let (mut any, mut older) = (false, None);
        for port in ports.filter(meant) {
            any = true;
            let trusted = Trusted { by_name: section.is_some(), proof: proof.clone() };
            match self.0.entry(format!("{key}:{}", port.port)) {
                Entry::Vacant(free) => {
                    free.insert(trusted);
                }
                Entry::Occupied(mut held) if trusted.by_name && !held.get().by_name => {
                    held.insert(trusted);
                }
                Entry::Occupied(held) if held.get().by_name == trusted.by_name => older = Some(port.port),
                Entry::Occupied(_) => {}
            }
        }
        match (any, section, older) {
            (false, Some(section), _) => Err(format!("Service {key} has no port {}", quoted(section))),
            (_, _, Some(port)) => Err(format!("an older policy holds for port {port} of Service {key}")),
            _ => Ok(()),
        }
    }

    /// Whether a policy is about a cluster, one that can be obeyed or not.
    pub(super) fn concern(&self, cluster: &str) -> bool {
        self.0.contains_key(cluster)
    }

    /// Why no request may go to a cluster, whatever rules say.
    pub(super) fn forbids(&self, cluster: &str) -> Option<&str> {
        self.0.get(cluster)?.proof.as_ref().err().map(|why| &**why)
    }

    /// What endpoints have to prove, by cluster.
    pub(super) fn proofs(&self) -> Proofs {
        let good = |(cluster, trusted): (&String, &Trusted)| {
            Some((Arc::from(cluster.as_str()), Arc::clone(trusted.proof.as_ref().ok()?)))
        };
        self.0.iter().filter_map(good).collect()
    }
}

/// What a policy demands; `Err` is why it cannot be obeyed, `faults` are what it can be obeyed without.
fn proof(
    source: &Sourced<BackendTlsPolicy>,
    (objects, options): (&Objects, &BuildOptions),
    faults: &mut Vec<Fault>,
) -> Result<Arc<Proof>, Fault> {
    let BackendTlsPolicy { spec, unclear, .. } = &source.object;
    let whole = |text: String| Fault { path: String::new(), text };
    if let Some(why) = unclear {
        return Err(whole(why.clone()));
    }
    let mut wrong = check::backend_tls_policy(spec);
    if !wrong.is_empty() {
        return Err(wrong.remove(0));
    }
    let validation = &spec.validation;
    let trust = if validation.ca_certificate_refs.is_empty() {
        Trust::System
    } else {
        let mut all = Vec::new();
        for (index, one) in validation.ca_certificate_refs.iter().enumerate() {
            let named = authorities::named((&one.group, &one.kind, &one.name), &source.namespace);
            match named.and_then(|key| authorities::of_config_map(&key, (objects, options))) {
                Ok(some) => all.extend(some),
                Err(useless) => {
                    let path = format!("validation.caCertificateRefs[{index}]");
                    faults.push(Fault { path, text: useless.text().to_owned() });
                }
            }
        }
        if all.is_empty() {
            return Err(faults.pop().unwrap_or_else(|| whole("there is no authority".to_owned())));
        }
        Trust::These(all)
    };
    let names = validation.subject_alt_names.iter().map(|one| match one.kind.as_str() {
        "URI" => Name::Uri(one.uri.as_str().into()),
        _ => Name::Host(one.hostname.to_ascii_lowercase().into()),
    });
    let demands = Demands {
        policy: source.label().into(),
        host: validation.hostname.to_ascii_lowercase().into(),
        names: names.collect(),
        trust,
        shown: None,
    };
    options.keyring.proof(demands).map_err(whole)
}
