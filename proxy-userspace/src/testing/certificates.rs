//! Certificates, made when a test runs.

#![allow(clippy::unwrap_used, dead_code, reason = "tests")]

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// A Secret of this type with these values.
pub(crate) fn secret(name: &str, kind: &str, values: &[(&str, &str)]) -> String {
    let value = |(key, value): &(&str, &str)| {
        let lines: String = value.lines().map(|line| format!("    {line}\n")).collect();
        format!("  {key}: |\n{lines}")
    };
    let values: String = values.iter().map(value).collect();
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: {kind}\nstringData:\n{values}"
    )
}

/// A ConfigMap with certificates of authorities.
pub(crate) fn config_map(name: &str, pem: &str) -> String {
    let lines: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n{lines}")
}

/// The common name of a certificate's subject.
pub(crate) fn common_name(certificate: &[u8]) -> String {
    let (_, read) = X509Certificate::from_der(certificate).unwrap();
    read.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
}

/// Who signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A certificate with its key.
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
    der: (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>),
}

impl Pair {
    /// Whether this is its certificate.
    pub(crate) fn is(&self, certificate: &[u8]) -> bool {
        *self.der.0 == *certificate
    }

    /// Its certificate.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.der.0.clone()
    }

    /// As a Secret.
    pub(crate) fn secret(&self, name: &str) -> String {
        secret(name, "kubernetes.io/tls", &[("tls.crt", &self.chain), ("tls.key", &self.key)])
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Weir's tests");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its own certificate.
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The same as text.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// For these names, and valid.
    pub(crate) fn pair(&self, names: &[&str]) -> Pair {
        self.pair_with(names, |_| {})
    }

    /// One that has expired a while ago.
    pub(crate) fn expired(&self, names: &[&str]) -> Pair {
        self.pair_with(names, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    /// Of this common name alone.
    pub(crate) fn named(&self, name: &str) -> Pair {
        self.pair_with(&[], |params| {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        })
    }

    pub(crate) fn pair_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            der: (certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    /// A client that trusts it.
    pub(crate) fn client(&self) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS)
    }

    /// The same, of these versions alone.
    pub(crate) fn client_of(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
        self.client_with(versions, None)
    }

    /// The same, with a certificate of its own.
    pub(crate) fn client_with(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        own: Option<&Pair>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let Some(own) = own else { return builder.with_no_client_auth() };
        // Shown whoever's the server asks for.
        let key = PrivateKeyDer::Pkcs8(own.der.1.clone_key());
        let key = ring::sign::any_supported_type(&key).unwrap();
        let key = rustls::sign::CertifiedKey::new(vec![own.der.0.clone()], key);
        builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
    }

    /// A server that has a certificate for these names.
    pub(crate) fn server(&self, names: &[&str]) -> ServerConfig {
        self.serving(&self.pair(names), &[])
    }

    /// The same, whose clients have to have a certificate of one of these authorities.
    pub(crate) fn demanding(&self, pair: &Pair, alpn: &[&str], clients: &[&Authority]) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        clients.iter().for_each(|one| roots.add(one.certificate.clone()).unwrap());
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let (certificate, key) = (pair.der.0.clone(), pair.der.1.clone_key());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    /// A server that has this certificate, whoever has signed it, and offers these protocols.
    pub(crate) fn serving(&self, pair: &Pair, alpn: &[&str]) -> ServerConfig {
        let (certificate, key) = (pair.der.0.clone(), pair.der.1.clone_key());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}
