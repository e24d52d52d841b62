//! What TLS listeners offer, for `weir check`.

use super::ciphers::Cipher;
use crate::{
    snapshot::Snapshot,
    tls::{self, Held, Terms, cipher_name, provider, version_name},
};
use rustls::SupportedCipherSuite;
use serde::Serialize;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// One listener, or one certificate of Ingresses, and what it offers.
#[derive(Debug, Serialize)]
pub(super) struct Offered {
    /// `Gateway namespace/name#listener`, or `Ingress namespace/secret`.
    pub(super) listener: String,
    /// Hosts, and the ports where they are served.
    hosts: Vec<String>,
    versions: Vec<&'static str>,
    /// In the order of the server's liking; a client's own order counts.
    suites: Vec<&'static str>,
    alpn: Vec<&'static str>,
    certificates: Vec<Certificate>,
    /// What clients have to prove; absent where they are not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<String>,
    /// Those that are offered, and those that are not.
    pub(super) ciphers: Vec<Cipher>,
}

#[derive(Debug, Serialize)]
struct Certificate {
    secret: String,
    /// `ECDSA`, `RSA`, `ED25519`: decides which suites of TLS 1.2 are left.
    key: String,
    not_after: String,
    /// Why clients may refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    flaw: Option<String>,
}

impl Certificate {
    /// `None` where none can be used.
    fn of(held: &Held) -> Option<Self> {
        let credentials = held.credentials.as_ref()?;
        Some(Self {
            secret: credentials.secret.to_string(),
            key: format!("{:?}", credentials.key.key.algorithm()),
            not_after: credentials.last_day(),
            flaw: held.flaw.as_ref().map(ToString::to_string),
        })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret, key, not_after, flaw } = self;
        write!(f, "{key} certificate of {secret} until {not_after}")?;
        flaw.as_ref().map_or(Ok(()), |flaw| write!(f, " ({flaw})"))
    }
}

/// What endpoints that ask for a certificate get to see of a Gateway.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// `Gateway namespace/name`
    gateway: String,
    certificate: Certificate,
}

impl Shown {
    pub(super) fn all(snapshot: &Snapshot) -> Vec<Self> {
        let all = snapshot.routes.shown.iter();
        all.filter_map(|(gateway, held)| {
            Some(Self { gateway: gateway.to_string(), certificate: Certificate::of(held)? })
        })
        .collect()
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to endpoints: {}", self.gateway, self.certificate)
    }
}

impl Offered {
    pub(super) fn all(snapshot: &Snapshot) -> Vec<Self> {
        let mut all: BTreeMap<Arc<str>, (Arc<Terms>, Vec<String>)> = BTreeMap::new();
        for (place, site) in &snapshot.routes.sites {
            for (host, offer) in site.offers.iter() {
                let Some(terms) = &offer.0 else { continue };
                let entry =
                    all.entry(Arc::clone(&terms.scope)).or_insert_with(|| (Arc::clone(terms), Vec::new()));
                entry.1.push(format!("{host}:{}", place.port));
            }
        }
        all.into_values().map(|(terms, hosts)| Self::of(&terms, hosts)).collect()
    }

    fn of(terms: &Terms, mut hosts: Vec<String>) -> Self {
        hosts.sort();
        hosts.dedup();
        let certificates: Vec<_> = terms.held.iter().filter_map(Certificate::of).collect();
        let usable = |suite: &&SupportedCipherSuite| certificates.iter().any(|one| fits(suite, &one.key));
        let provider = provider();
        let usable = provider.cipher_suites.iter().filter(usable);
        let suites: Vec<_> = usable.map(|suite| cipher_name(suite.suite())).collect();
        Self {
            listener: terms.scope.to_string(),
            hosts,
            versions: tls::VERSIONS.iter().map(|version| version_name(version.version)).collect(),
            ciphers: Cipher::all(&suites),
            suites,
            alpn: tls::ALPN.to_vec(),
            certificates,
            clients: terms.clients.as_ref().map(ToString::to_string),
        }
    }
}

/// Whether a key can sign in a suite: in TLS 1.3 suites do not say how (RFC 8446 section 4.2.3).
fn fits(suite: &SupportedCipherSuite, key: &str) -> bool {
    let name = cipher_name(suite.suite());
    match suite {
        SupportedCipherSuite::Tls13(_) => true,
        SupportedCipherSuite::Tls12(_) if key == "RSA" => name.contains("_RSA_"),
        SupportedCipherSuite::Tls12(_) => name.contains("_ECDSA_"),
    }
}

impl fmt::Display for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, hosts, versions, suites, alpn, certificates, clients, .. } = self;
        write!(
            f,
            "{listener} ({}): {}; {}; ALPN {}",
            hosts.join(", "),
            versions.join(", "),
            suites.join(", "),
            alpn.join(", ")
        )?;
        for certificate in certificates {
            write!(f, "; {certificate}")?;
        }
        if let Some(clients) = clients {
            write!(f, "; {clients}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::{
        snapshot,
        source::objects,
        testing::certificates::{Authority, config_map},
    };

    #[test]
    fn a_listener_offers_what_its_certificate_can_sign_in() {
        let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  \
             gatewayClassName: weir\n  listeners:\n  - {name: s, port: 443, protocol: HTTPS, hostname: a.test, \
             tls: {certificateRefs: [{name: s}]}}\n";
        let objects = objects(&(gateway.to_owned() + &Authority::new().pair(&["a.test"]).secret("s")));
        let all = Offered::all(&snapshot::build(&objects, &snapshot::BuildOptions::default(), 1).0);
        let shown = all[0].to_string();
        assert_eq!(all.len(), 1);
        assert!(
            shown.starts_with("Gateway default/g#s (a.test:443): TLSv1.3, TLSv1.2; TLS_AES_256"),
            "{shown}"
        );
        assert!(shown.contains("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"), "{shown}");
        assert!(!shown.contains("_RSA_"), "{shown}");
        assert!(shown.contains("ECDSA certificate of default/s until 4096-01-01"), "{shown}");
    }

    #[test]
    fn a_listener_says_what_its_clients_have_to_prove() {
        let authority = Authority::new();
        for (mode, said) in [
            ("AllowValidOnly", "; clients have to have a certificate of 1 authority"),
            (
                "AllowInsecureFallback",
                "; clients are asked for, and need not have, a certificate of 1 authority",
            ),
        ] {
            let gateway = format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  \
                 gatewayClassName: weir\n  listeners:\n  - {{name: s, port: 443, protocol: HTTPS, \
                 tls: {{certificateRefs: [{{name: s}}]}}}}\n  tls: {{frontend: {{default: {{validation: {{mode: {mode}, \
                 caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]}}}}}}}}\n{}{}",
                authority.pair(&["a.test"]).secret("s"),
                config_map("ca", authority.pem())
            );
            let snapshot = snapshot::build(&objects(&gateway), &snapshot::BuildOptions::default(), 1).0;
            let shown = Offered::all(&snapshot)[0].to_string();
            assert!(shown.ends_with(said), "{shown}");
        }
    }
}
