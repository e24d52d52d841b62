//! What a client asked for, and who it is.

use crate::{
    config::Steering,
    datapath::{Datapath, DatapathError, Steered},
};
use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::net::TcpStream;

/// The address that a client called connect with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct OrigDstAddr(pub(crate) SocketAddr);

/// A client's own address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct DownstreamAddr(pub(crate) SocketAddr);

/// Who knows the original destination.
#[derive(Clone, Debug)]
pub(crate) enum OrigDstSource {
    /// The kernel half.
    Kernel,
    /// Connection tracking.
    Conntrack,
    /// Always the same one.
    #[cfg(test)]
    Fixed(SocketAddr, Option<Steered>),
}

impl From<Steering> for OrigDstSource {
    fn from(steering: Steering) -> Self {
        match steering {
            Steering::Ebpf => Self::Kernel,
            Steering::Iptables => Self::Conntrack,
        }
    }
}

impl OrigDstSource {
    pub(crate) fn is_kernel(&self) -> bool {
        matches!(self, Self::Kernel)
    }
}

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    /// Nobody steered it: it came to the listener's own address.
    #[error("no record of an original destination")]
    NoRecord,
    /// The client reset the connection before it was accepted, and its record went with it.
    #[error("the client is gone")]
    ClientGone,
    /// Connection tracking says that it was meant for the listener itself.
    #[error("sent to the listener itself")]
    Loop,
    /// The kernel half's tables could not be read.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Connection tracking could not be asked.
    #[error("SO_ORIGINAL_DST: {0}")]
    Conntrack(#[from] io::Error),
}

impl Unknown {
    /// The label under which the refused connection is counted.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NoRecord => "no_record",
            Self::ClientGone => "client_gone",
            Self::Loop => "loop",
            Self::Datapath(_) | Self::Conntrack(_) => "lookup_failed",
        }
    }
}

impl OrigDstSource {
    /// Asks for an accepted connection.
    pub(crate) fn find(
        &self,
        datapath: &Datapath,
        stream: &TcpStream,
        (client, local): (DownstreamAddr, SocketAddr),
    ) -> Result<(OrigDstAddr, Option<Steered>), Unknown> {
        match self {
            Self::Kernel => {
                if let Some(steered) = datapath.steered(client.0, local)? {
                    return Ok((OrigDstAddr(steered.orig_dst), Some(steered)));
                }
                let inbound = datapath.inbound(client.0, local)?.ok_or_else(|| no_record(stream))?;
                Ok((OrigDstAddr(inbound), None))
            }
            Self::Conntrack => Ok((conntrack(stream, local)?, None)),
            #[cfg(test)]
            Self::Fixed(addr, identity) => Ok((OrigDstAddr(*addr), identity.clone())),
        }
    }
}

/// Why the kernel half knows nothing of a connection.
fn no_record(stream: &TcpStream) -> Unknown {
    match stream.take_error() {
        Ok(Some(error)) if error.kind() == io::ErrorKind::ConnectionReset => Unknown::ClientGone,
        _ => Unknown::NoRecord,
    }
}

/// The destination before somebody's REDIRECT rule, which leaves no entry where it did not apply.
fn conntrack(stream: &TcpStream, local: SocketAddr) -> Result<OrigDstAddr, Unknown> {
    let found = match local.ip() {
        IpAddr::V4(_) => ip_original_dst(stream).map(SocketAddr::V4),
        IpAddr::V6(_) => ipv6_original_dst(stream).map(SocketAddr::V6),
    };
    match found {
        Ok(addr) if addr == local => Err(Unknown::Loop),
        Ok(addr) => Ok(OrigDstAddr(addr)),
        Err(rustix::io::Errno::NOENT) => Err(Unknown::NoRecord),
        Err(error) => Err(Unknown::Conntrack(error.into())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_connection_to_the_listener_itself_is_never_served() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let _client = TcpStream::connect(local).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        for source in [OrigDstSource::Kernel, OrigDstSource::Conntrack] {
            let found = source.find(&Datapath::plain(), &stream, (DownstreamAddr(peer), local));
            assert!(found.is_err(), "{source:?}");
        }
    }
}
