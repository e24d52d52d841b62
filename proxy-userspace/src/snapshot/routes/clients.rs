//! Which clients the HTTPS listeners of a Gateway let in (GEP-91: `spec.tls.frontend`). Where nobody can be
//! verified nobody is let in: such a listener is not served.

use super::{
    BuildOptions, Places,
    authorities::{self, Useless},
    backend::{Referrer, World},
};
use crate::{
    route::{host::HostPattern, table::Place},
    source::gateway::{self, CaRef, GatewaySpec, Validation},
    tls::{Clients, Mode},
};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// What a condition says: its reason, and a text for people.
type Fault = (&'static str, String);

/// What is wanted of clients at a port.
#[derive(Default)]
pub(super) struct Wanted {
    /// `None` where they are not asked for a certificate, or where nobody could be verified: see `refused`.
    pub(super) clients: Option<Arc<Clients>>,
    /// Why a reference leads to no authority: `ResolvedRefs`.
    pub(super) unresolved: Option<Fault>,
    /// Why the listener cannot be served: `Accepted`.
    pub(super) refused: Option<Fault>,
}

/// The validation in force at a port, and the way to it from `spec`: a port's own takes the place of the default
/// one, also where it is that nobody is asked.
fn validation(spec: &GatewaySpec, port: i32) -> Option<(String, &Validation)> {
    let frontend = spec.tls.as_ref()?.frontend.as_ref()?;
    let own = frontend.per_port.iter().enumerate().find(|(_, one)| one.port == port);
    let (path, tls) = match own {
        Some((index, own)) => (format!("tls.frontend.perPort[{index}].tls"), &own.tls),
        None => ("tls.frontend.default".to_owned(), &frontend.default),
    };
    Some((path, tls.validation.as_ref()?))
}

/// Reads it, for a Gateway of this namespace.
pub(super) fn of_port(
    (spec, port): (&GatewaySpec, i32),
    (world, options): (&World<'_>, &BuildOptions),
    namespace: &str,
) -> Wanted {
    let Some((path, validation)) = validation(spec, port) else { return Wanted::default() };
    let mut wanted = Wanted::default();
    let mut all = Vec::new();
    for (index, one) in validation.ca_certificate_refs.iter().enumerate() {
        match authorities_of(one, (world, options), namespace) {
            Ok(some) => all.extend(some),
            Err((reason, text)) => {
                let text = format!("{path}.validation.caCertificateRefs[{index}]: {text}");
                wanted.unresolved.get_or_insert((reason, text));
            }
        }
    }
    let mode = match validation.mode.as_deref() {
        Some("AllowInsecureFallback") => Mode::Wished,
        _ => Mode::Required,
    };
    if all.is_empty() {
        let text = format!("{path}: no authority that clients' certificates could be verified with");
        wanted.refused = Some(("NoValidCACertificate", text));
        return wanted;
    }
    match Clients::new(all, mode) {
        Ok(clients) => wanted.clients = Some(Arc::new(clients)),
        Err(error) => wanted.refused = Some(("NoValidCACertificate", format!("{path}: {error}"))),
    }
    wanted
}

/// Whether some listener takes clients whose certificate proves nothing.
pub(super) fn is_lenient(spec: &GatewaySpec) -> bool {
    let secure = spec.listeners.iter().filter(|listener| listener.protocol == "HTTPS");
    let mut modes = secure.filter_map(|listener| validation(spec, listener.port)?.1.mode.as_deref());
    modes.any(|mode| mode == "AllowInsecureFallback")
}

fn authorities_of(
    one: &CaRef,
    (world, options): (&World<'_>, &BuildOptions),
    own: &str,
) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let namespace = one.namespace.as_deref().unwrap_or(own);
    let reason = |useless: Useless| {
        let reason = match &useless {
            Useless::Kind(_) => "InvalidCACertificateKind",
            Useless::Object(_) => "InvalidCACertificateRef",
        };
        (reason, useless.text().to_owned())
    };
    let key = authorities::named((&one.group, &one.kind, &one.name), namespace).map_err(reason)?;
    let from = Referrer { group: gateway::GROUP, kind: "Gateway", namespace: own };
    if !world.permits(from, ("", "ConfigMap", namespace, &one.name)) {
        return Err(("RefNotPermitted", format!("no ReferenceGrant lets it refer to ConfigMap {key}")));
    }
    authorities::of_config_map(&key, (world.objects, options)).map_err(reason)
}

/// Hosts of a listener for which clients get the terms of somebody else, who verifies them otherwise: their
/// requests are refused here.
pub(super) fn taken_over(
    places: &Places,
    (at, host): (&[Place], &HostPattern),
    clients: &Arc<Clients>,
) -> Vec<String> {
    let mut taken = Vec::new();
    if clients.mode == Mode::Wished {
        return taken;
    }
    for place in at {
        for (offered, terms) in places.offers(*place) {
            let less = terms.clients.as_ref() != Some(clients);
            if less && (offered.intersection(host).is_some()) {
                taken.push(format!("{offered}:{} is served by {}", place.port, terms.scope));
            }
        }
    }
    taken
}
