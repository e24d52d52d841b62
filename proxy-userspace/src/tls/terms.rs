//! What one listener, or one host of an Ingress, offers in its handshakes.

use super::{ALPN, Clients, Credentials, Held, Keyring, provider};
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
    /// What clients have to prove; `None` where they are not asked.
    pub(crate) clients: Option<Arc<Clients>>,
    pub(crate) config: Arc<ServerConfig>,
}

/// The rest follows from these.
impl PartialEq for Terms {
    fn eq(&self, other: &Self) -> bool {
        self.scope == other.scope && self.held == other.held && self.clients == other.clients
    }
}

impl Eq for Terms {}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, held, clients, .. } = self;
        let mut shown = f.debug_struct("Terms");
        shown.field("scope", scope).field("held", held).field("clients", clients).finish_non_exhaustive()
    }
}

/// What clients get that ask for certain names; nothing where no certificate can be used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Offer(pub(crate) Option<Arc<Terms>>);

impl Terms {
    /// `None` where there is no certificate.
    pub(crate) fn new(
        scope: Arc<str>,
        (held, clients): (Vec<Held>, Option<Arc<Clients>>),
        keyring: &Keyring,
    ) -> Result<Option<Self>, rustls::Error> {
        let credentials: Vec<_> = held.iter().filter_map(|held| held.credentials.clone()).collect();
        if credentials.is_empty() {
            return Ok(None);
        }
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS)?;
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients.verifier()),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Choice(credentials)));
        config.alpn_protocols = ALPN.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // Tickets alone: a store of sessions would be one more table to fill. 0-RTT stays off: what comes
        // early can be replayed (RFC 8446 section 8).
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A session that is resumed proves nothing anew: rustls asks neither whether its client was asked for a
        // certificate, nor by which demands, nor whether that certificate is still good. Who has to prove something
        // proves it in each handshake.
        match keyring.tickets() {
            Some(tickets) if clients.is_none() => config.ticketer = tickets,
            _ => config.send_tls13_tickets = 0,
        }
        Ok(Some(Self { scope, held, clients, config: Arc::new(config) }))
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
