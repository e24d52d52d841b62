//! A flow: one TCP connection as one of its two sockets sees it.

use crate::addr::AddrWords;

/// Names a socket by its own view of its connection. The peer's socket is [`FlowKey::reversed`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// The socket's own address, network order, IPv4 mapped.
    pub local: AddrWords,
    /// The address at the other end.
    pub remote: AddrWords,
    /// The socket's own port, host order.
    pub local_port: u16,
    /// The port at the other end, host order.
    pub remote_port: u16,
}

impl FlowKey {
    /// The same connection as the other end sees it.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
        }
    }
}

const _: () = assert!(core::mem::size_of::<FlowKey>() == 36);

#[cfg(feature = "user")]
#[allow(unsafe_code)]
// SAFETY: `#[repr(C)]`, integers only, and the asserted size leaves no implicit padding.
unsafe impl aya::Pod for FlowKey {}

#[cfg(feature = "user")]
impl FlowKey {
    /// The key of a socket with these two addresses.
    #[must_use]
    pub fn new(local: std::net::SocketAddr, remote: std::net::SocketAddr) -> Self {
        Self {
            local: crate::addr::words_of(local.ip()),
            remote: crate::addr::words_of(remote.ip()),
            local_port: local.port(),
            remote_port: remote.port(),
        }
    }
}
