//! What clients have to prove at a listener: whose signature their certificate has to have.

use super::{Secured, provider, store};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::{fmt, sync::Arc};

/// Bytes of authorities' names that a client is told, so that it can choose a certificate. With more of them it is
/// told none: they have to fit a field of 64 KiB (RFC 8446 section 4.2.4), and every handshake carries them.
const MAX_HINT_BYTES: usize = 16 * 1024;

/// What becomes of a client without a certificate of a known authority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// It gets no session: `AllowValidOnly`.
    Required,
    /// It gets one all the same: `AllowInsecureFallback`.
    Wished,
}

/// See the module.
pub(crate) struct Clients {
    authorities: Vec<CertificateDer<'static>>,
    pub(crate) mode: Mode,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// The verifier follows from the rest.
impl PartialEq for Clients {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode && self.authorities == other.authorities
    }
}

impl Eq for Clients {}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clients {{ {:?} of {} authorities }}", self.mode, self.authorities.len())
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.mode {
            Mode::Required => "have to have",
            Mode::Wished => "are asked for, and need not have,",
        };
        let number = self.authorities.len();
        let authorities = if number == 1 { "authority" } else { "authorities" };
        write!(f, "clients {word} a certificate of {number} {authorities}")
    }
}

impl Clients {
    /// `Err` where some certificate is no authority's, or there is none.
    pub(crate) fn new(mut authorities: Vec<CertificateDer<'static>>, mode: Mode) -> Result<Self, Error> {
        // The same whatever the order in which they are referred to.
        authorities.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        authorities.dedup();
        let roots: RootCertStore = store(&authorities)?;
        let hints: usize = roots.subjects().iter().map(|name| name.as_ref().len()).sum();
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        if hints > MAX_HINT_BYTES {
            builder = builder.clear_root_hint_subjects();
        }
        let verifier = builder.build().map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { authorities, mode, verifier })
    }

    /// For handshakes.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        match self.mode {
            Mode::Required => Arc::clone(&self.verifier),
            Mode::Wished => Arc::new(Lenient(Arc::clone(&self.verifier))),
        }
    }

    /// Whether some authority has signed this chain, the client's own certificate first, and it is valid now.
    pub(super) fn vouch_for(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((own, others)) = chain.split_first() else { return false };
        self.verifier.verify_client_cert(own, others, UnixTime::now()).is_ok()
    }

    /// Whether requests may come by a session: one that was made before these demands, or by those of another
    /// listener, may have proved less.
    pub(crate) fn admit(self: &Arc<Self>, session: Option<&Secured>) -> bool {
        let peer = session.and_then(|session| session.peer.as_ref());
        self.mode == Mode::Wished || peer.is_some_and(|peer| peer.is_vouched_for_by(self))
    }
}

/// Takes any certificate, and none; that the client has the certificate's key it has to prove.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    /// Whether it is valid is asked for later: see [`Clients::vouch_for`].
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
