//! A certificate with its key, read and looked at: what can be known to be wrong is found before a client
//! gets it.

use crate::{
    route::host::{self, HostPattern},
    source::secret::{self, Secret},
};
use rustls::{crypto::ring::sign, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// Certificates of one chain.
const MAX_CHAIN: usize = 16;
/// Bytes of one chain: it has to fit a handshake message of TLS 1.2, and clients hardly read more.
const MAX_CHAIN_BYTES: usize = 64 * 1024;
/// Names of one certificate that are looked at.
const MAX_NAMES: usize = 1024;

/// See the module.
pub(crate) struct Credentials {
    /// `namespace/name` of its Secret.
    pub(crate) secret: Arc<str>,
    pub(crate) key: Arc<CertifiedKey>,
    /// The names that the certificate is for, in lower case; `*.` begins a wildcard.
    names: Vec<Box<str>>,
    /// Unix time in seconds.
    not_before: i64,
    /// The same.
    pub(crate) not_after: i64,
}

/// Two are the same if clients see the same: the key follows from the certificate.
impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret && self.key.cert == other.key.cert && self.key.ocsp == other.key.ocsp
    }
}

impl Eq for Credentials {}

impl Hash for Credentials {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.secret.hash(state);
        self.key.cert.hash(state);
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret, names, not_after, .. } = self;
        write!(f, "Credentials {{ {secret} for {names:?} until {not_after} }}")
    }
}

/// What is wrong with a certificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("there is no Secret {0}")]
    Missing(Arc<str>),
    #[error("Secret {secret} is of type {kind:?}, not kubernetes.io/tls")]
    Type { secret: Arc<str>, kind: String },
    #[error("Secret {secret} has no {key}")]
    NoValue { secret: Arc<str>, key: &'static str },
    #[error("{key} of Secret {secret} cannot be read: {why}")]
    Unreadable { secret: Arc<str>, key: &'static str, why: String },
    #[error(
        "tls.crt of Secret {0} is too large: {MAX_CHAIN} certificates and {MAX_CHAIN_BYTES} bytes are the most"
    )]
    Oversized(Arc<str>),
    #[error("tls.key of Secret {0} is not the key of the certificate in tls.crt")]
    Mismatch(Arc<str>),
    #[error("the certificate of Secret {secret} has expired ({since})")]
    Expired { secret: Arc<str>, since: String },
    #[error("the certificate of Secret {secret} is not valid before {from}")]
    Early { secret: Arc<str>, from: String },
    #[error("the certificate of Secret {secret} is not for {host}, but for {names}")]
    Names { secret: Arc<str>, host: String, names: String },
}

impl Credentials {
    /// Reads a Secret; its name is for whoever reads what is wrong.
    pub(crate) fn read(name: &Arc<str>, secret: &Secret) -> Result<Self, Flaw> {
        let secret_name = || Arc::clone(name);
        if secret.type_ != secret::TLS {
            return Err(Flaw::Type { secret: secret_name(), kind: secret.type_.clone() });
        }
        let value = |key| secret.value(key).ok_or_else(|| Flaw::NoValue { secret: secret_name(), key });
        let unreadable = |key, why: String| Flaw::Unreadable { secret: secret_name(), key, why };
        let chain = chain(value(secret::CHAIN)?).map_err(|why| match why {
            Unchained::TooLarge => Flaw::Oversized(secret_name()),
            Unchained::Unreadable(why) => unreadable(secret::CHAIN, why),
        })?;
        let key = PrivateKeyDer::from_pem_slice(value(secret::KEY)?);
        // What the reader says of a key is left out: no part of one may come into a log.
        let key = key.map_err(|_| unreadable(secret::KEY, "it is no private key in PEM".to_owned()))?;
        let signer = sign::any_supported_type(&key)
            .map_err(|_| unreadable(secret::KEY, "it is of no kind that is supported".to_owned()))?;
        let mut key = CertifiedKey::new(chain, signer);
        key.ocsp = secret.value(secret::STAPLE).map(<[u8]>::to_vec);
        key.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Flaw::Mismatch(secret_name()),
            other => unreadable(secret::CHAIN, other.to_string()),
        })?;
        let own = key.end_entity_cert().map_err(|error| unreadable(secret::CHAIN, error.to_string()))?;
        let (_, certificate) = X509Certificate::from_der(own)
            .map_err(|error| unreadable(secret::CHAIN, format!("it is no certificate: {error}")))?;
        let (names, validity) = (names_of(&certificate), certificate.validity());
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self { secret: secret_name(), names, not_before, not_after, key: Arc::new(key) })
    }

    /// What is wrong with it for these hosts at this time, though it can be used.
    pub(crate) fn flaw(&self, host: &HostPattern, now: SystemTime) -> Option<Flaw> {
        let secret = || Arc::clone(&self.secret);
        let now =
            i64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
        if self.not_after < now {
            return Some(Flaw::Expired { secret: secret(), since: date(self.not_after) });
        }
        if self.not_before > now {
            return Some(Flaw::Early { secret: secret(), from: date(self.not_before) });
        }
        (!self.is_for_any_of(host)).then(|| Flaw::Names {
            secret: secret(),
            host: host.to_string(),
            names: if self.names.is_empty() { "no name".to_owned() } else { self.names.join(", ") },
        })
    }

    /// When it ends, for people.
    pub(crate) fn last_day(&self) -> String {
        date(self.not_after)
    }

    /// Whether some of these hosts are the certificate's.
    fn is_for_any_of(&self, host: &HostPattern) -> bool {
        let mut patterns = self.names.iter().map(|name| HostPattern::of_ingress(name));
        match host {
            HostPattern::Any => true,
            HostPattern::Exact(name) => self.is_for(name),
            HostPattern::OneLabel(suffix) | HostPattern::Wildcard(suffix) => patterns.any(|own| match &own {
                HostPattern::Exact(name) => host.matches(Some(name)),
                HostPattern::OneLabel(own) => {
                    own == suffix || HostPattern::Wildcard(suffix.clone()).matches(Some(own))
                }
                HostPattern::Wildcard(_) | HostPattern::Any => false,
            }),
        }
    }

    /// Whether a client that asks for this name accepts the certificate.
    pub(crate) fn is_for(&self, name: &str) -> bool {
        self.names.iter().any(|own| HostPattern::of_ingress(own).matches(Some(name)))
    }
}

/// Why there is no chain.
enum Unchained {
    TooLarge,
    Unreadable(String),
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unchained> {
    let (mut chain, mut bytes) = (Vec::new(), 0);
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| Unchained::Unreadable(error.to_string()))?;
        bytes += certificate.len();
        chain.push(certificate);
        if chain.len() > MAX_CHAIN || bytes > MAX_CHAIN_BYTES {
            return Err(Unchained::TooLarge);
        }
    }
    if chain.is_empty() {
        return Err(Unchained::Unreadable("there is no certificate in it".to_owned()));
    }
    Ok(chain)
}

/// DNS names alone: SNI knows no others (RFC 6066 section 3), and the common name counts no more.
pub(crate) fn names_of(certificate: &X509Certificate<'_>) -> Vec<Box<str>> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let all = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let dns = all.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(host::name(name).into_boxed_str()),
        _ => None,
    });
    dns.take(MAX_NAMES).collect()
}

/// A day and a time, for people.
fn date(seconds: i64) -> String {
    let since = u64::try_from(seconds).unwrap_or_default();
    let time = UNIX_EPOCH.checked_add(std::time::Duration::from_secs(since)).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}
