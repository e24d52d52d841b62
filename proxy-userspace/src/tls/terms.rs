//! What one listener, or one host of an Ingress, offers in its handshakes.

use super::{ALPN, Credentials, Held, Keyring, provider};
use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use std::{fmt, sync::Arc};

/// Protocol versions, the best first.
pub(crate) const VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// See the module.
pub(crate) struct Terms {
    /// `Gateway namespace/name#listener`, or `Ingress namespace/secret`: who may be asked on a connection
    /// that was made by these terms (wire.md P17).
    pub(crate) scope: Arc<str>,
    /// The certificates, the first one for clients that any suits.
    pub(crate) held: Vec<Held>,
    pub(crate) config: Arc<ServerConfig>,
}

/// The rest follows from these.
impl PartialEq for Terms {
    fn eq(&self, other: &Self) -> bool {
        self.scope == other.scope && self.held == other.held
    }
}

impl Eq for Terms {}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms").field("scope", &self.scope).field("held", &self.held).finish()
    }
}

/// What clients get that ask for certain names; nothing where no certificate can be used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Offer(pub(crate) Option<Arc<Terms>>);

impl Terms {
    /// `None` where there is no certificate.
    pub(crate) fn new(
        scope: Arc<str>,
        held: Vec<Held>,
        keyring: &Keyring,
    ) -> Result<Option<Self>, rustls::Error> {
        let credentials: Vec<_> = held.iter().filter_map(|held| held.credentials.clone()).collect();
        if credentials.is_empty() {
            return Ok(None);
        }
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&VERSIONS)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Choice(credentials)));
        config.alpn_protocols = ALPN.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // Tickets alone: a store of sessions would be one more table to fill. 0-RTT stays off: what comes
        // early can be replayed (RFC 8446 section 8).
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(tickets) = keyring.tickets() {
            config.ticketer = tickets;
        }
        Ok(Some(Self { scope, held, config: Arc::new(config) }))
    }
}

/// Several certificates: that of the name that is asked for, of a kind that the client can verify.
#[derive(Debug)]
struct Choice(Vec<Arc<Credentials>>);

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(crate::route::host::name);
        let fits = |one: &&Arc<Credentials>| one.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = |one: &&Arc<Credentials>| name.as_deref().is_some_and(|name| one.is_for(name));
        let both = self.0.iter().find(|one| fits(one) && named(one));
        let chosen = both.or_else(|| self.0.iter().find(fits)).or_else(|| self.0.first())?;
        Some(Arc::clone(&chosen.key))
    }
}
