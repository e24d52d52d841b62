//! The handshake of a connection that came to a listener with TLS.

use super::Secured;
use crate::{
    downstream::Connection,
    flow::Reason,
    metrics::{Handshake, Outcome},
    record::Failure,
    relay::Relay,
    route::{host, table::Site},
    wire::{Role, View, Wire},
};
use rustls::{HandshakeKind, server::Acceptor};
use std::{io, sync::Arc};
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// A fatal alert `unrecognized_name` (RFC 6066 section 3), in a record of its own.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Why a handshake has no good end.
enum Broken {
    /// Nobody has a certificate for the name.
    Nameless(Option<String>),
    Failed(io::Error),
    Late,
    Draining,
}

/// Shakes hands; from here on the connection's bytes are those of the session. What the client reads is never
/// redirected: it would not know it for a message.
pub(crate) async fn accept(connection: &mut Connection, site: &Site) -> Result<(), Failure> {
    connection.leave_map();
    let relay = Arc::clone(&connection.relay);
    let begun = Instant::now();
    let shake = timeout(relay.settings.handshake_timeout, shake_hands(&relay, &connection.wire, site));
    let shaken = tokio::select! {
        shaken = shake => shaken.unwrap_or(Err(Broken::Late)),
        () = relay.drain.aborted() => Err(Broken::Draining),
    };
    let metrics = &relay.observer.metrics;
    match shaken {
        Ok((stream, secured, outcome)) => {
            let (version, alpn) = (secured.version, secured.alpn.unwrap_or("none"));
            metrics.tls_handshake(&Handshake { version, alpn, outcome, duration: begun.elapsed() });
            connection.wire.secure(stream.into(), Role::Server, secured);
            Ok(())
        }
        Err(broken) => {
            let (outcome, failure) = broken.told();
            let duration = begun.elapsed();
            metrics.tls_handshake(&Handshake { version: "none", alpn: "none", outcome, duration });
            part(&connection.wire, &failure).await;
            Err(failure)
        }
    }
}

async fn shake_hands(
    relay: &Relay,
    wire: &Wire,
    site: &Site,
) -> Result<(TlsStream<View>, Secured, Outcome), Broken> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), wire.view()).await.map_err(Broken::Failed)?;
    let name = hello.client_hello().server_name().map(host::name);
    let Some(terms) = site.terms(name.as_deref()) else {
        if let Err(error) = wire.view().write_all(&UNRECOGNIZED_NAME).await {
            tracing::debug!(%error, "alert");
        }
        return Err(Broken::Nameless(name));
    };
    // From here on it costs work: a client that only sends half a greeting takes nobody's turn.
    let _turn = relay.handshakes.acquire().await;
    let stream = hello.into_stream(Arc::clone(&terms.config)).await.map_err(Broken::Failed)?;
    let (_, session) = stream.get_ref();
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let secured = Secured::with_client(session, name.map(Into::into), terms);
    Ok((stream, secured, if resumed { Outcome::Resumed } else { Outcome::Full }))
}

impl Broken {
    fn told(self) -> (Outcome, Failure) {
        match self {
            Self::Nameless(name) => {
                let name = name.unwrap_or_else(|| "a client that names no host".to_owned());
                let text = format!("no certificate for {name}");
                (Outcome::NoCertificate, Failure::new(Reason::TlsHandshake, &text))
            }
            Self::Failed(error) => (outcome_of(&error), Failure::new(Reason::TlsHandshake, &error)),
            Self::Late => (Outcome::TimedOut, Reason::TlsTimeout.into()),
            Self::Draining => (Outcome::Failed, Reason::Draining.into()),
        }
    }
}

/// What a client has done wrong, where it was for want of a good certificate.
fn outcome_of(error: &io::Error) -> Outcome {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoCertificatesPresented) => Outcome::NoClientCertificate,
        Some(rustls::Error::InvalidCertificate(_)) => Outcome::Untrusted,
        _ => Outcome::Failed,
    }
}

/// Lets an alert arrive: a close with something unread would overtake it.
async fn part(wire: &Wire, failure: &Failure) {
    if failure.reason != Reason::TlsHandshake {
        return;
    }
    match wire.shut_write().await {
        Ok(()) => wire.discard().await,
        Err(error) => tracing::debug!(%error, "FIN after an alert"),
    }
}
