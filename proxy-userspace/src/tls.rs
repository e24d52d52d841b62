//! TLS that ends here: which certificate a client gets, the handshake, and what both sides agreed upon. And TLS
//! that begins here: what endpoints have to prove.

mod accept;
mod clients;
mod credentials;
pub(crate) mod hello;
mod keyring;
mod peer;
mod proof;
mod terms;

pub(crate) use accept::accept;
pub(crate) use clients::{Clients, Mode};
pub(crate) use credentials::{Credentials, Flaw, names_of};
pub(crate) use keyring::Held;
pub use keyring::Keyring;
pub use peer::Peer;
pub(crate) use proof::{Demands, Name, Proof, ProofId, Tongue, Trust, store};
pub(crate) use terms::{Offer, Terms, VERSIONS};

use rustls::{CipherSuite, CommonState, ProtocolVersion, crypto::CryptoProvider};
use std::sync::{Arc, LazyLock};

/// The cryptography: ring's, whoever else in the process may have installed another.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// What is offered by ALPN, the best first.
pub(crate) const ALPN: [&str; 2] = ["h2", "http/1.1"];

/// What became of a handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Secured {
    /// `TLSv1.3`
    pub version: &'static str,
    /// The suite's name at IANA.
    pub cipher: &'static str,
    /// The protocol that both speak; `None` where the client did not ask.
    pub alpn: Option<&'static str>,
    /// The name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// Whose certificate it got: `Gateway namespace/name#listener`, or `Ingress namespace/secret`; of a session
    /// with an endpoint, who demands it: `BackendTLSPolicy namespace/name`.
    pub scope: Arc<str>,
    /// The client, where it was asked for a certificate and has shown one.
    pub peer: Option<Arc<Peer>>,
}

impl Secured {
    /// What a session's two ends agreed upon.
    fn of(session: &CommonState, server_name: Option<Box<str>>, scope: &Arc<str>) -> Self {
        let alpn = session.alpn_protocol();
        Self {
            version: session.protocol_version().map_or("unknown", version_name),
            cipher: session.negotiated_cipher_suite().map_or("unknown", |suite| cipher_name(suite.suite())),
            alpn: alpn.and_then(|alpn| ALPN.into_iter().find(|known| known.as_bytes() == alpn)),
            server_name,
            scope: Arc::clone(scope),
            peer: None,
        }
    }

    /// The same of a session that a client has by these terms.
    fn with_client(session: &CommonState, server_name: Option<Box<str>>, terms: &Terms) -> Self {
        let shown = terms.clients.as_ref().zip(session.peer_certificates());
        let peer = shown.map(|(clients, chain)| Arc::new(Peer::of(chain, clients)));
        Self { peer, ..Self::of(session, server_name, &terms.scope) }
    }

    /// The same of a session with an endpoint.
    pub(crate) fn with_endpoint(session: &CommonState, proof: &Proof) -> Self {
        Self::of(session, Some(proof.demands.host.clone()), &proof.demands.policy)
    }
}

/// As Envoy logs it.
pub(crate) fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        other => other.as_str().unwrap_or("unknown"),
    }
}

/// As IANA registers it; rustls has its own spelling for those of TLS 1.3.
pub(crate) fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

#[cfg(test)]
mod tests;
