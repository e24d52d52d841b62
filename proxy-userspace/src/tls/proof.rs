//! What an endpoint has to prove before it gets a request: who has signed its certificate, and for which names; and
//! what it gets to see of us.

use super::{ALPN, Credentials, names_of, provider};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    server::ParsedCertificate,
    sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// What a policy demands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Demands {
    /// Whose demands they are: `BackendTLSPolicy namespace/name`.
    pub(crate) policy: Arc<str>,
    /// The name that endpoints are asked for (SNI).
    pub(crate) host: Box<str>,
    /// The certificate has to be for one of these; where there are none, for `host`.
    pub(crate) names: Vec<Name>,
    pub(crate) trust: Trust,
    /// Our own certificate, for endpoints that ask for one.
    pub(crate) shown: Option<Arc<Credentials>>,
}

/// A name that a certificate may be for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Name {
    /// A DNS name; one that begins with `*.` stands for itself.
    Host(Box<str>),
    /// A URI, as SPIFFE has them: the same to the byte.
    Uri(Box<str>),
}

/// Whose signatures count.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// The authorities that this machine's system trusts, as they were when they were first asked for.
    System,
    /// These.
    These(Vec<CertificateDer<'static>>),
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::These(all) => write!(f, "{} authorities", all.len()),
        }
    }
}

/// What to speak in a session, by ALPN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tongue {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 alone.
    Http2,
    /// HTTP/2 where the endpoint wants it, otherwise HTTP/1.1.
    Either,
}

/// Tells the connections of one [`Proof`] from those of others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ProofId(u64);

impl ProofId {
    fn next() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self(COUNT.fetch_add(1, Relaxed))
    }
}

/// See the module.
pub(crate) struct Proof {
    pub(crate) demands: Demands,
    pub(crate) id: ProofId,
    pub(crate) server_name: ServerName<'static>,
    /// In force no more: connections that were made by it get no further request.
    retired: AtomicBool,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
}

/// The rest follows from it.
impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Proof {}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("demands", &self.demands).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Proof {
    /// `Err` is why nobody could ever meet the demands. Endpoints get to see nothing of us.
    pub(crate) fn new(demands: Demands) -> Result<Self, String> {
        let host = String::from(&*demands.host);
        let server_name = ServerName::try_from(host).map_err(|_| format!("{:?} is no host", demands.host))?;
        let roots = match &demands.trust {
            Trust::System => system()?,
            Trust::These(all) => Arc::new(store(all).map_err(|error| error.to_string())?),
        };
        let names = match &*demands.names {
            [] => vec![Name::Host(demands.host.clone())],
            names => names.to_vec(),
        };
        let offering = |protocols: &[&str]| {
            let verifier = Arc::new(Verifier { roots: Arc::clone(&roots), names: names.clone() });
            let mut config = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&super::VERSIONS)
                .map_err(|error| error.to_string())?
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
            Ok::<_, String>(Arc::new(config))
        };
        let [h2, http1] = ALPN;
        Ok(Self {
            server_name,
            retired: AtomicBool::new(false),
            http1: offering(&[http1])?,
            http2: offering(&[h2])?,
            either: offering(&ALPN)?,
            id: ProofId::next(),
            demands,
        })
    }

    /// The same demands of endpoints that get to see this certificate. No connection, and no session of one, is
    /// both's.
    pub(crate) fn showing(&self, shown: &Arc<Credentials>) -> Self {
        let like = |config: &Arc<ClientConfig>| {
            let mut config = ClientConfig::clone(config);
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&shown.key)));
            config.resumption = Resumption::default();
            Arc::new(config)
        };
        Self {
            demands: Demands { shown: Some(Arc::clone(shown)), ..self.demands.clone() },
            id: ProofId::next(),
            server_name: self.server_name.clone(),
            retired: AtomicBool::new(false),
            http1: like(&self.http1),
            http2: like(&self.http2),
            either: like(&self.either),
        }
    }

    /// For a new connection.
    pub(crate) fn config(&self, tongue: Tongue) -> &Arc<ClientConfig> {
        match tongue {
            Tongue::Http1 => &self.http1,
            Tongue::Http2 => &self.http2,
            Tongue::Either => &self.either,
        }
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Others take its place.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }
}

/// These certificates as authorities; `Err` where one is none.
pub(crate) fn store(all: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    all.iter().try_for_each(|one| store.add(one.clone()))?;
    Ok(store)
}

fn system() -> Result<Arc<RootCertStore>, String> {
    static STORE: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut store = RootCertStore::empty();
        let loaded = rustls_native_certs::load_native_certs();
        for error in &loaded.errors {
            tracing::warn!(%error, "certificates of this system's authorities");
        }
        store.add_parsable_certificates(loaded.certs);
        Arc::new(store)
    });
    if STORE.is_empty() {
        return Err("this system trusts no authority: there are no certificates of any".to_owned());
    }
    Ok(Arc::clone(&STORE))
}

/// Asks for a chain to an authority, and for one of several names.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    /// Never empty.
    names: Vec<Name>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = provider().signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, others, now, algorithms)?;
        let mut why = Error::from(CertificateError::NotValidForName);
        for name in &self.names {
            match verify_name(own, &certificate, name) {
                Ok(()) => return Ok(ServerCertVerified::assertion()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn verify_name(
    own: &CertificateDer<'_>,
    certificate: &ParsedCertificate<'_>,
    name: &Name,
) -> Result<(), Error> {
    let not_for = || Error::from(CertificateError::NotValidForName);
    match name {
        Name::Host(host) if !host.starts_with("*.") => {
            let host = ServerName::try_from(&**host).map_err(|_| not_for())?;
            verify_server_name(certificate, &host)
        }
        // rustls knows neither of these as names of a server.
        Name::Host(wildcard) => {
            let (_, parsed) = X509Certificate::from_der(own).map_err(|_| CertificateError::BadEncoding)?;
            if names_of(&parsed).contains(wildcard) { Ok(()) } else { Err(not_for()) }
        }
        Name::Uri(uri) => {
            let (_, parsed) = X509Certificate::from_der(own).map_err(|_| CertificateError::BadEncoding)?;
            let alternatives = parsed.subject_alternative_name().ok().flatten();
            let mut all = alternatives.iter().flat_map(|extension| &extension.value.general_names);
            let is_it = |one: &GeneralName<'_>| matches!(one, GeneralName::URI(own) if **own == **uri);
            if all.any(is_it) { Ok(()) } else { Err(not_for()) }
        }
    }
}
