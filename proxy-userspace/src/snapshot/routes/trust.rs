//! BackendTLSPolicies: which Service ports' endpoints are spoken to in TLS, and what they have to prove. Where a
//! policy cannot be obeyed its backends get no request at all: never one in clear text.

mod status;

use super::{
    Fault,
    authorities::{self, Useless},
    check, distinct,
};
use crate::{
    route::table::Proofs,
    snapshot::BuildOptions,
    source::{
        Objects, Sourced,
        finding::{Finding, Severity, quoted},
        gateway::{BackendTlsPolicy, BackendTlsPolicySpec, PolicyTarget},
        store::Key,
    },
    tls::{Demands, Name, Proof, Trust},
};
use k8s_openapi::api::core::v1::ServicePort;
use rustls_pki_types::CertificateDer;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

/// What holds at the ports of Services.
#[derive(Default)]
pub(super) struct Trusts<'a> {
    /// By `namespace/service:port`.
    ports: HashMap<String, Trusted>,
    /// Whose a Service, or its port of a name, is: the oldest policy's that has it for a target.
    claims: HashMap<(Key, Option<&'a str>), Key>,
    judged: Vec<Judged<'a>>,
}

struct Trusted {
    /// By the port's own name: stands above a policy for the whole Service.
    by_name: bool,
    /// `Err` is why nobody can be trusted.
    proof: Result<Arc<Proof>, Box<str>>,
}

/// A reason of the API's, and a text for people.
type Because = (&'static str, String);

/// A policy, and what became of it.
struct Judged<'a> {
    source: &'a Sourced<BackendTlsPolicy>,
    /// Why it is not accepted.
    refused: Option<Because>,
    /// Why some reference leads to no authority.
    unresolved: Option<Because>,
}

impl<'a> Trusts<'a> {
    /// Reads all policies, oldest first: of two for the same port the older one holds.
    pub(super) fn read(objects: &'a Objects, options: &BuildOptions, findings: &mut Vec<Finding>) -> Self {
        let mut trusts = Self::default();
        for source in distinct(&objects.backend_tls_policies, findings) {
            let mut read = Read::of(source, (objects, options));
            let fix = match &read.proof {
                Ok(_) => "the others hold",
                Err(_) => "requests for its backends get 500",
            };
            findings.extend(read.faults.iter().map(|fault| fault.about(source, fix)));
            let proof = read.proof.map_err(|why| {
                let text = format!("{} cannot be obeyed: {why}", source.label());
                text.into_boxed_str()
            });
            for (index, target) in source.object.spec.target_refs.iter().enumerate() {
                let place = format!("targetRefs[{index}]");
                let outcome = trusts.aim(source, target, objects, &proof);
                if let Err((reason, text)) = outcome {
                    let line = source.lines.field(&place);
                    let told = format!("{place}: {text}");
                    findings.push(source.finding(Severity::Warning, line, told.as_str(), ""));
                    read.refused.get_or_insert((reason, told));
                }
            }
            trusts.judged.push(Judged { source, refused: read.refused, unresolved: read.unresolved });
        }
        trusts
    }

    /// Lets a policy hold for a target; `Err` is why it does not.
    fn aim(
        &mut self,
        source: &Sourced<BackendTlsPolicy>,
        target: &'a PolicyTarget,
        objects: &Objects,
        proof: &Result<Arc<Proof>, Box<str>>,
    ) -> Result<(), Because> {
        let not_found = |text: String| Err(("TargetNotFound", text));
        let key = Key::new(&source.namespace, &target.name);
        let service = objects.services.get(&key).and_then(|service| service.object.open().ok());
        let Some(service) = service else { return not_found(format!("there is no Service {key}")) };
        let section = target.section_name.as_deref().filter(|name| !name.is_empty());
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let meant = |port: &&ServicePort| section.is_none() || port.name.as_deref() == section;
        let ports: Vec<_> = ports.filter(meant).map(|port| port.port).collect();
        if let (true, Some(section)) = (ports.is_empty(), section) {
            return not_found(format!("Service {key} has no port {}", quoted(section)));
        }
        let own = Key::new(&source.namespace, &source.name);
        let older = self.claims.entry((key.clone(), section)).or_insert_with(|| own.clone());
        if *older != own {
            let what = section.map(|name| format!("port {} of ", quoted(name))).unwrap_or_default();
            return Err(("Conflicted", format!("the older policy {older} holds for {what}Service {key}")));
        }
        for port in ports {
            let trusted = Trusted { by_name: section.is_some(), proof: proof.clone() };
            match self.ports.entry(format!("{key}:{port}")) {
                Entry::Vacant(free) => drop(free.insert(trusted)),
                Entry::Occupied(mut held) if trusted.by_name && !held.get().by_name => {
                    drop(held.insert(trusted));
                }
                Entry::Occupied(_) => {}
            }
        }
        Ok(())
    }

    /// Whether a policy is about a cluster, one that can be obeyed or not.
    pub(super) fn concern(&self, cluster: &str) -> bool {
        self.ports.contains_key(cluster)
    }

    /// Why no request may go to a cluster, whatever rules say.
    pub(super) fn forbids(&self, cluster: &str) -> Option<&str> {
        self.ports.get(cluster)?.proof.as_ref().err().map(|why| &**why)
    }

    /// What endpoints have to prove, by cluster.
    pub(super) fn proofs(&self) -> Proofs {
        let good = |(cluster, trusted): (&String, &Trusted)| {
            Some((Arc::from(cluster.as_str()), Arc::clone(trusted.proof.as_ref().ok()?)))
        };
        self.ports.iter().filter_map(good).collect()
    }
}

/// What a policy demands.
struct Read {
    /// `Err` is why it cannot be obeyed.
    proof: Result<Arc<Proof>, Fault>,
    /// All that is wrong.
    faults: Vec<Fault>,
    refused: Option<Because>,
    unresolved: Option<Because>,
}

impl Read {
    fn of(source: &Sourced<BackendTlsPolicy>, (objects, options): (&Objects, &BuildOptions)) -> Self {
        let BackendTlsPolicy { spec, unclear, .. } = &source.object;
        let whole = |text: String| Fault { path: String::new(), text };
        let mut wrong = check::backend_tls_policy(spec);
        if let Some(why) = unclear {
            return Self::invalid(whole(why.clone()));
        }
        if !wrong.is_empty() {
            return Self::invalid(wrong.remove(0));
        }
        let (all, faults, unresolved) = authorities_of(spec, &source.namespace, (objects, options));
        let trust = if spec.validation.ca_certificate_refs.is_empty() {
            Trust::System
        } else if all.is_empty() {
            let why = faults.last().cloned().unwrap_or_else(|| whole("there is no authority".to_owned()));
            let refused = Some(("NoValidCACertificate", why.to_string()));
            return Self { proof: Err(why), faults, refused, unresolved };
        } else {
            Trust::These(all)
        };
        match options.keyring.proof(demands(source, trust)) {
            Ok(proof) => Self { proof: Ok(proof), faults, refused: None, unresolved },
            Err(why) => Self { unresolved, ..Self::invalid(whole(why)) },
        }
    }

    fn invalid(why: Fault) -> Self {
        let refused = Some(("Invalid", why.to_string()));
        Self { proof: Err(why.clone()), faults: vec![why], refused, unresolved: None }
    }
}

fn demands(source: &Sourced<BackendTlsPolicy>, trust: Trust) -> Demands {
    let validation = &source.object.spec.validation;
    let names = validation.subject_alt_names.iter().map(|one| match one.kind.as_str() {
        "URI" => Name::Uri(one.uri.as_str().into()),
        _ => Name::Host(one.hostname.to_ascii_lowercase().into()),
    });
    Demands {
        policy: source.label().into(),
        host: validation.hostname.to_ascii_lowercase().into(),
        names: names.collect(),
        trust,
        shown: None,
    }
}

/// The authorities of a policy, and why some references lead to none.
fn authorities_of(
    spec: &BackendTlsPolicySpec,
    namespace: &str,
    (objects, options): (&Objects, &BuildOptions),
) -> (Vec<CertificateDer<'static>>, Vec<Fault>, Option<Because>) {
    let (mut all, mut faults, mut unresolved) = (Vec::new(), Vec::new(), None);
    for (index, one) in spec.validation.ca_certificate_refs.iter().enumerate() {
        let named = authorities::named((&one.group, &one.kind, &one.name), namespace);
        match named.and_then(|key| authorities::of_config_map(&key, (objects, options))) {
            Ok(some) => all.extend(some),
            Err(useless) => {
                let path = format!("validation.caCertificateRefs[{index}]");
                let fault = Fault { path, text: useless.text().to_owned() };
                let reason = match useless {
                    Useless::Kind(_) => "InvalidKind",
                    Useless::Object(_) => "InvalidCACertificateRef",
                };
                unresolved.get_or_insert((reason, fault.to_string()));
                faults.push(fault);
            }
        }
    }
    (all, faults, unresolved)
}
