//! One handshake of `weir doctor tls`: what both agree upon, what the server shows, and what it asks for.

use crate::tls::{cipher_name, names_of, provider, version_name};
use parking_lot::Mutex;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Serialize;
use std::{
    io,
    net::{TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A session that came about.
#[derive(Debug, Serialize)]
pub(super) struct Session {
    pub(super) address: String,
    pub(super) version: &'static str,
    pub(super) cipher: &'static str,
    pub(super) alpn: Option<String>,
    /// `Err` says why a client would refuse the certificate.
    pub(super) verified: Result<(), String>,
    /// The server sent an OCSP response.
    pub(super) stapled: bool,
    /// The server asked for a certificate of the client; it got none. With TLS 1.3 it may refuse the client for that
    /// only when the session has come about.
    pub(super) asks_for_certificate: bool,
    pub(super) chain: Vec<Certificate>,
}

#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) subject: String,
    pub(super) issuer: String,
    /// Of the server's own alone.
    pub(super) names: Vec<String>,
    pub(super) not_before: String,
    pub(super) not_after: String,
}

/// Where to connect, and for whom.
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) name: ServerName<'static>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) timeout: Duration,
}

impl Target {
    pub(super) fn connect(
        &self,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Session, String> {
        let (verdict, asked) = (Arc::new(Mutex::new(None)), Arc::new(Asked::default()));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Witness {
                inner: self.verifier(),
                verdict: Arc::clone(&verdict),
            }))
            .with_client_cert_resolver(Arc::clone(&asked) as Arc<dyn ResolvesClientCert>);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        let mut stream = self.open().map_err(|error| error.to_string())?;
        let address = stream.peer_addr().map_err(|error| error.to_string())?.to_string();
        let mut session =
            ClientConnection::new(Arc::new(config), self.name.clone()).map_err(|error| error.to_string())?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).map_err(|error| error.to_string())?;
        }
        session.send_close_notify();
        if let Err(error) = session.complete_io(&mut stream) {
            tracing::debug!(%error, "the end of a session");
        }
        let (verified, stapled) =
            verdict.lock().take().unwrap_or((Err("the server sent no certificate".to_owned()), false));
        Ok(Session {
            address,
            version: session.protocol_version().map_or("unknown", version_name),
            cipher: session.negotiated_cipher_suite().map_or("unknown", |suite| cipher_name(suite.suite())),
            alpn: session.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
            verified,
            stapled,
            asks_for_certificate: asked.0.load(Relaxed),
            chain: session.peer_certificates().unwrap_or_default().iter().map(Certificate::of).collect(),
        })
    }

    /// To the first of its addresses that takes a connection.
    fn open(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for addr in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&addr, self.timeout) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(self.timeout))?;
                    stream.set_write_timeout(Some(self.timeout))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn verifier(&self) -> Option<Arc<WebPkiServerVerifier>> {
        // Without a root there is nothing to build; everything is refused then.
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider()).build().ok()
    }
}

/// Whether a client would accept the certificate, and whether an OCSP response came with it.
type Verdict = (Result<(), String>, bool);

/// Goes on with a certificate that a client would refuse, and remembers why it would.
#[derive(Debug)]
struct Witness {
    inner: Option<Arc<WebPkiServerVerifier>>,
    verdict: Arc<Mutex<Option<Verdict>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = match &self.inner {
            Some(inner) => inner.verify_server_cert(own, others, name, ocsp, now).map(|_| ()),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        *self.verdict.lock() = Some((verified.map_err(|error| error.to_string()), !ocsp.is_empty()));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Has no certificate for a server that asks for one, and remembers that it did.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

impl Certificate {
    fn of(der: &CertificateDer<'_>) -> Self {
        match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Self {
                subject: certificate.subject().to_string(),
                issuer: certificate.issuer().to_string(),
                names: names_of(&certificate).into_iter().map(Into::into).collect(),
                not_before: certificate.validity().not_before.to_string(),
                not_after: certificate.validity().not_after.to_string(),
            },
            Err(error) => Self {
                subject: format!("cannot be read: {error}"),
                issuer: String::new(),
                names: Vec::new(),
                not_before: String::new(),
                not_after: String::new(),
            },
        }
    }
}
