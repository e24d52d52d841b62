//! Has a client that sent FIN gone away, or has it only closed its writing half?
//!
//! On the wire both look the same. But the client is on this node: its own socket, in its own
//! network namespace, has no owner any more once it is closed. The kernel's socket diagnosis
//! (`sock_diag(7)`) tells.

use crate::{
    downstream::Downstream,
    netns::{Lease, Namespaces, NoSocket},
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// When to look after the FIN, at first and at most. A socket loses its owner a moment after it has
/// sent FIN; and one that is half closed may be closed wholly later, without a packet.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_secs(2));

/// Completes when the client's socket has no owner; never, where that cannot be known.
pub(crate) async fn client_is_gone(downstream: &Downstream) {
    let Some(lease) = &downstream.lease else { return std::future::pending().await };
    let namespaces = &downstream.relay.namespaces;
    let mut pause = LOOK.0;
    loop {
        tokio::time::sleep(pause).await;
        match has_owner(namespaces, lease, downstream.client.0, downstream.local).await {
            Ok(true) => pause = (pause * 4).min(LOOK.1),
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(client = %downstream.client.0, %error, "cannot look at a client's socket");
                return std::future::pending().await;
            }
        }
    }
}

/// Whether a process holds the socket in the lease's namespace with these addresses, its own first.
async fn has_owner(
    namespaces: &Namespaces,
    lease: &Lease,
    own: SocketAddr,
    peer: SocketAddr,
) -> Result<bool, NoSocket> {
    let question = question(own, peer);
    let answer = namespaces.inside(lease, move || ask(&question)).await??;
    Ok(owned(&answer)?)
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const ENOENT: i32 = 2;
const TCP: u8 = 6;
const LISTEN: u8 = 10;

/// `struct nlmsghdr`, `struct inet_diag_req_v2`: the one socket with these addresses.
fn question(own: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family = if own.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut bytes = Vec::with_capacity(72);
    bytes.extend_from_slice(&72_u32.to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port of the sender: there is one question a socket.
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[u8::try_from(family.as_raw()).unwrap_or_default(), TCP, 0, 0]);
    // In any state.
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
    bytes.extend_from_slice(&own.port().to_be_bytes());
    bytes.extend_from_slice(&peer.port().to_be_bytes());
    for ip in [own.ip(), peer.ip()] {
        match ip {
            IpAddr::V4(v4) => {
                bytes.extend_from_slice(&v4.octets());
                bytes.extend_from_slice(&[0; 12]);
            }
            IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
        }
    }
    // On any interface, whatever its cookie.
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&[0xff; 8]);
    bytes
}

/// The kernel answers within `send`.
fn ask(question: &[u8]) -> io::Result<Vec<u8>> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    send(&socket, question, SendFlags::empty())?;
    let mut answer = vec![0; 4096];
    let (_, size) = recv(&socket, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
    answer.truncate(size);
    Ok(answer)
}

/// `struct nlmsghdr`, then `struct inet_diag_msg` or `struct nlmsgerr`.
fn owned(answer: &[u8]) -> io::Result<bool> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let kind = answer.get(4..6).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes);
    let message = answer.get(16..).ok_or_else(short)?;
    match kind {
        Some(SOCK_DIAG_BY_FAMILY) => {
            let state = *message.get(1).ok_or_else(short)?;
            let inode = message.get(68..72).ok_or_else(short)?;
            // A listener answers where there is no connection any more.
            Ok(state != LISTEN && inode != [0; 4])
        }
        Some(NLMSG_ERROR) => {
            let error = message.get(..4).and_then(|four| four.try_into().ok()).map(i32::from_ne_bytes);
            match error.map(i32::wrapping_neg) {
                Some(ENOENT) => Ok(false),
                Some(error) => Err(io::Error::from_raw_os_error(error)),
                None => Err(short()),
            }
        }
        _ => Err(short()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
    };

    #[tokio::test]
    async fn a_socket_has_an_owner_until_it_is_closed_not_half_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (own, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let is_owned = || owned(&ask(&question(own, peer)).unwrap()).unwrap();
        assert!(is_owned());
        client.shutdown().await.unwrap();
        assert!(is_owned());
        drop(client);
        assert!(!is_owned());
        drop(server);
    }
}
