//! Structures that cross between the kernel half and the user half: map keys, map values, ring
//! buffer records, settings. Fixed-width integers, explicit padding, sizes asserted; no `bool`,
//! `Option` or enum fields. Decode, never transmute.

use crate::addr::AddrWords;

/// Declares `#[repr(C)]` structures with their asserted size and, in the user half, aya's `Pod`.
macro_rules! abi {
    ($($(#[$doc:meta])* $name:ident [$size:literal] { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
        const _: () = assert!(core::mem::size_of::<$name>() == $size);
        #[cfg(feature = "user")]
        #[allow(unsafe_code)]
        // SAFETY: `#[repr(C)]`, integers only, and the asserted size leaves no implicit padding.
        unsafe impl aya::Pod for $name {}
        #[cfg(feature = "user")]
        impl $name {
            /// Reads one from the front of a record; `None` when it is too short.
            #[must_use]
            #[allow(unsafe_code)]
            pub fn decode(record: &[u8]) -> Option<Self> {
                (record.len() >= $size).then(|| {
                    // SAFETY: the record is long enough, every bit pattern of the fields is valid, and
                    // the read does not ask for alignment.
                    unsafe { core::ptr::read_unaligned(record.as_ptr().cast::<Self>()) }
                })
            }
        }
    )*};
}
pub(crate) use abi;

abi! {
    /// A destination that the connect hooks know: a Service address, or an endpoint's own address.
    ServiceKey [20] {
        /// Destination address, IPv4 mapped.
        addr: AddrWords,
        /// Destination port, host order.
        port: u16,
        /// IP protocol number. Under UDP and SCTP are addresses that the cluster's own proxy serves.
        protocol: u16,
    }

    /// What to do with a connect to a [`ServiceKey`].
    Service [16] {
        /// [`LANE_STEER`] or [`LANE_PASS`].
        lane: u32,
        /// First half of an [`EndpointKey`]; [`ID_ENDPOINT`] or [`ID_GATEWAY`] where there is nothing to
        /// choose from.
        id: u32,
        /// Number of ready endpoints; 0 refuses the connect in the pass lane.
        endpoints: u32,
        /// `sessionAffinity: ClientIP`: seconds after which a silent client is a new one; 0 where there is
        /// none.
        affinity_s: u32,
    }

    /// A client of a Service with affinity. Who shares a network namespace shares its address.
    AffinityKey [16] {
        /// [`OrigDst::netns_cookie`].
        netns_cookie: u64,
        /// [`Service::id`].
        service: u32,
        /// Explicit padding.
        pad: u32,
    }

    /// The endpoint that a client had last.
    Kept [32] {
        /// As in [`Endpoint`].
        addr: AddrWords,
        /// `CLOCK_MONOTONIC` nanoseconds of its last connect.
        last_ns: u64,
        /// Where it was: see [`EndpointKey::index`].
        index: u32,
        /// As in [`Endpoint`].
        port: u16,
        /// Explicit padding.
        pad: u16,
    }

    /// The n-th ready endpoint of a service.
    EndpointKey [8] {
        /// [`Service::id`].
        service: u32,
        /// 0 up to [`Service::endpoints`].
        index: u32,
    }

    /// Where an endpoint listens.
    Endpoint [20] {
        /// Address, IPv4 mapped.
        addr: AddrWords,
        /// Port, host order.
        port: u16,
        /// Explicit padding.
        pad: u16,
    }

    /// What a client asked for, kept by its socket's cookie from connect until close.
    OrigDst [56] {
        /// The address the application called connect with.
        addr: AddrWords,
        /// Caller's cgroup v2 id: its identity.
        cgroup_id: u64,
        /// Caller's network namespace cookie.
        netns_cookie: u64,
        /// `CLOCK_MONOTONIC` nanoseconds at connect.
        connect_ns: u64,
        /// Caller's process id in the initial pid namespace.
        pid: u32,
        /// Original port, host order.
        port: u16,
        /// [`LANE_STEER`] or [`LANE_PASS`].
        lane: u16,
        /// IP version of the application's socket: 4 or 6.
        family: u32,
        /// Explicit padding.
        pad: u32,
    }

    /// One steered or upstream connection, keyed by its opener's [`crate::flow::FlowKey`].
    Flow [104] {
        /// See [`OrigDst::addr`]; for an upstream flow the endpoint.
        addr: AddrWords,
        /// Socket cookie of the opener.
        cookie: u64,
        /// Opener's cgroup v2 id; for an upstream flow the *endpoint's*, once it accepted (else 0).
        cgroup_id: u64,
        /// Opener's network namespace cookie.
        netns_cookie: u64,
        /// Start of the handshake, `CLOCK_MONOTONIC` nanoseconds.
        connect_ns: u64,
        /// End of the handshake, 0 until then.
        established_ns: u64,
        /// Bytes redirected from the opener to the acceptor.
        redirected_tx: u64,
        /// Bytes redirected from the acceptor to the opener.
        redirected_rx: u64,
        /// Bytes redirected to the opener from elsewhere: answers that the splice lane carried.
        carried: u64,
        /// See [`OrigDst::pid`]; 0 for an upstream flow.
        pid: u32,
        /// See [`OrigDst::port`].
        port: u16,
        /// [`HOP_DOWNSTREAM`] or [`HOP_UPSTREAM`].
        hop: u16,
        /// 1 while the application's end is in the socket map.
        mapped: u32,
        /// [`CLOSED_NOT`], or who began to close: a `CLOSED_*` value.
        closed_by: u32,
        /// [`CLOSE_FIN`], [`CLOSE_RESET`] or [`CLOSE_TIMEOUT`].
        close_kind: u32,
        /// `END_*` bits: what became of the two sockets. Both sides change it, atomically.
        ends: u32,
    }

    /// A connection from outside that was brought to the agent's listener, by its opener's
    /// [`crate::flow::FlowKey`] as the listener sees it.
    Inbound [32] {
        /// The address that the client sent to.
        addr: AddrWords,
        /// `CLOCK_MONOTONIC` nanoseconds of its latest packet, about.
        seen_ns: u64,
        /// The port that the client sent to, host order.
        port: u16,
        /// Explicit padding.
        pad: u16,
        /// Explicit padding.
        pad2: u32,
    }

    /// An agent socket that is about to connect to an endpoint, by cookie; the user half writes it.
    Upstream [8] {
        /// 1: join the socket map if the endpoint's socket does; 0: stay plain for ever.
        mappable: u32,
        /// Explicit padding.
        pad: u32,
    }

    /// A socket in the socket map, keyed by its own [`crate::flow::FlowKey`].
    SocketState [48] {
        /// All bytes redirected by this socket, or in its stead by the splice lane.
        redirected: u64,
        /// Bytes of answers that the splice lane redirected to this socket past its peer.
        carried: u64,
        /// Bytes redirected by this socket since its peer last spoke.
        turn_bytes: u32,
        /// What `turn_bytes` may reach.
        turn_cap: u32,
        /// 1: this socket's messages go by TCP from now on.
        plain: u32,
        /// [`ROLE_APPLICATION`] or [`ROLE_AGENT`].
        role: u32,
        /// Bytes redirected *to* this socket since it last spoke with an empty queue. While this is
        /// 0 the socket can leave the map and lose nothing.
        unread: u32,
        /// 1: the opener of its connection, 0: the acceptor.
        opener: u32,
        /// Bytes that this socket has sent to its peer, modulo 2^32: spliced ones are not among them.
        to_peer: u32,
        /// Where its pair was found last, plus one; 0: not looked for, or no pair.
        pair: u32,
    }

    /// What the kernel half saw a workload do, keyed by cgroup v2 id. Only the kernel half writes it
    /// after creation; admission is a table of its own, so that neither half overwrites the other.
    Workload [16] {
        /// 1: it tripped the wire.
        barred: u32,
        /// splice(2) calls seen.
        splices: u32,
        /// ioctl(FIONREAD) calls seen.
        fionreads: u32,
        /// Explicit padding.
        pad: u32,
    }

    /// Settings that the user half writes once before it attaches.
    Settings [136] {
        /// The agent's IPv4 listener (mapped); all zero when there is none.
        listener4: AddrWords,
        /// The agent's IPv6 listener; all zero when there is none.
        listener6: AddrWords,
        /// Port of both listeners, host order.
        listener_port: u16,
        /// 1: a connect that cannot be recorded is refused; 0: it goes to an endpoint unsteered.
        fail_closed: u16,
        /// An `ACCELERATION_*` value.
        acceleration: u32,
        /// Cap of what an application may redirect to the agent per turn (a request).
        request_cap: u32,
        /// Cap of what an endpoint may redirect to the agent per turn (an answer).
        answer_cap: u32,
        /// 1 while new connections are steered.
        steering: u32,
        /// 1: redirect only towards the agent.
        agent_only: u32,
        /// Byte offset of `sk_cgrp_data.cgroup` in `struct sock`, from this kernel's BTF.
        sock_cgroup: u32,
        /// Byte offset of `kn` in `struct cgroup`.
        cgroup_kn: u32,
        /// Byte offset of `id` in `struct kernfs_node`.
        kn_id: u32,
        /// Byte offset of `sk_user_data` in `struct sock`.
        sock_user_data: u32,
        /// Byte offset of `ingress_msg` in `struct sk_psock`.
        psock_ingress: u32,
        /// Byte offset of `sk_err` in `struct sock`.
        sock_err: u32,
        /// The agent's own process id; its syscalls are never counted against a workload.
        agent_pid: u32,
        /// 1: splice(2) on a mapped socket loses data on this kernel.
        splice_bars: u32,
        /// 1: FIONREAD on a mapped socket is wrong on this kernel.
        fionread_bars: u32,
        /// 1: a recv(2) that blocks on a mapped socket may fail with EAGAIN on this kernel.
        blocking_bars: u32,
        /// Byte offset of `sk_socket` in `struct sock`.
        sock_socket: u32,
        /// Byte offset of `file` in `struct socket`.
        socket_file: u32,
        /// Byte offset of `f_flags` in `struct file`.
        file_flags: u32,
        /// 1: armed pairs are carried in the kernel half.
        splice: u32,
        /// The generation of the snapshot in force: pairs armed by another are the agent's.
        generation: u32,
        /// 1: exchanges that are carried are handed over for the access log.
        access_log: u32,
        /// 1: policies are in force: who connects to whom is looked up.
        access: u32,
        /// How deep in the cgroup tree the pods' parent is; a pod's cgroup is one or two levels below.
        pods_level: u32,
        /// The id of the pods' parent: whoever is elsewhere is the node's.
        pods_cgroup: u64,
    }

    /// Ring buffer: a flow ended.
    FlowClosed [176] {
        /// `EVENT_FLOW_CLOSED`.
        kind: u32,
        /// Smoothed round-trip time at the end, microseconds.
        srtt_us: u32,
        /// The opener's address.
        local: AddrWords,
        /// The acceptor's address (the agent's listener for a downstream flow).
        remote: AddrWords,
        /// The opener's port.
        local_port: u16,
        /// The acceptor's port.
        remote_port: u16,
        /// Segments retransmitted by the opener.
        retransmits: u32,
        /// Bytes the opener sent, redirected ones included.
        bytes_sent: u64,
        /// Bytes the opener received, redirected ones included.
        bytes_received: u64,
        /// How long it was open, nanoseconds.
        duration_ns: u64,
        /// The flow as it was recorded.
        flow: Flow,
    }

    /// Ring buffer: a connection was refused.
    Refused [56] {
        /// `EVENT_REFUSED`.
        kind: u32,
        /// A [`crate::access::Denied`], as a number.
        denied: u32,
        /// Where it was to go.
        addr: AddrWords,
        /// Who wanted it, where it came from another node; else zero.
        client: AddrWords,
        /// Who wanted it, on this node: the cgroup v2 id.
        cgroup_id: u64,
        /// And the process.
        pid: u32,
        /// The port that it was to go to.
        port: u16,
        /// IP protocol number.
        protocol: u16,
    }

    /// Ring buffer: a workload tripped the wire.
    WorkloadBarred [24] {
        /// `EVENT_WORKLOAD_BARRED`.
        kind: u32,
        /// A `BARRED_BY_*` value.
        by: u32,
        /// The workload's cgroup v2 id.
        cgroup_id: u64,
        /// The calling process.
        pid: u32,
        /// Whether it had been admitted: tells the trip-wire (1) from probation (0).
        admitted: u32,
    }
}

/// An endpoint's own address. Connections to it from other nodes are those nodes' to steer.
pub const ID_ENDPOINT: u32 = 0;
/// An address where the agent itself serves.
pub const ID_GATEWAY: u32 = u32::MAX;

/// Steer the connection to the agent.
pub const LANE_STEER: u32 = 1;
/// Rewrite the connect to an endpoint; the agent takes no part.
pub const LANE_PASS: u32 = 2;

/// Index of the IPv4 listener's socket in its map.
pub const LISTENER4: u32 = 0;
/// Index of the IPv6 listener's socket.
pub const LISTENER6: u32 = 1;

/// Application to agent.
pub const HOP_DOWNSTREAM: u16 = 1;
/// Agent to endpoint.
pub const HOP_UPSTREAM: u16 = 2;

/// An application's socket.
pub const ROLE_APPLICATION: u32 = 1;
/// One of the agent's sockets.
pub const ROLE_AGENT: u32 = 2;

/// In [`Flow::ends`]: the acceptor's socket exists.
pub const END_ACCEPTED: u32 = 1;
/// In [`Flow::ends`]: the opener's socket is closed.
pub const END_OPENER_GONE: u32 = 2;
/// In [`Flow::ends`]: the acceptor's socket is closed.
pub const END_ACCEPTOR_GONE: u32 = 4;

/// Still open.
pub const CLOSED_NOT: u32 = 0;
/// The opener closed first.
pub const CLOSED_BY_OPENER: u32 = 1;
/// The acceptor closed first.
pub const CLOSED_BY_ACCEPTOR: u32 = 2;

/// An orderly end.
pub const CLOSE_FIN: u32 = 1;
/// A reset.
pub const CLOSE_RESET: u32 = 2;
/// The kernel gave up: `ETIMEDOUT`.
pub const CLOSE_TIMEOUT: u32 = 3;
/// The handshake never completed.
pub const CLOSE_UNCONNECTED: u32 = 4;

/// Value in the table of admitted workloads: its sockets may enter the socket map.
pub const WORKLOAD_ADMITTED: u32 = 1;
/// Value in the table of admitted workloads: never, by annotation.
pub const WORKLOAD_REFUSED: u32 = 2;

/// No socket enters the socket map.
pub const ACCELERATION_OFF: u32 = 0;
/// Workloads enter after probation.
pub const ACCELERATION_AUTO: u32 = 1;
/// Every workload that is not barred enters.
pub const ACCELERATION_ON: u32 = 2;

/// The workload called splice(2).
pub const BARRED_BY_SPLICE: u32 = 1;
/// The workload called ioctl(FIONREAD).
pub const BARRED_BY_FIONREAD: u32 = 2;

/// The workload's client sends on a socket without O_NONBLOCK.
pub const BARRED_BY_BLOCKING: u32 = 3;

/// A `BARRED_BY_*` value as metrics and logs say it.
#[must_use]
pub const fn barred_by_label(by: u32) -> &'static str {
    match by {
        BARRED_BY_SPLICE => "splice",
        BARRED_BY_FIONREAD => "fionread",
        BARRED_BY_BLOCKING => "blocking",
        _ => "unknown",
    }
}

/// [`FlowClosed`]
pub const EVENT_FLOW_CLOSED: u32 = 1;
/// [`WorkloadBarred`]
pub const EVENT_WORKLOAD_BARRED: u32 = 2;
/// [`Refused`]
pub const EVENT_REFUSED: u32 = 3;

/// Indices into the per-CPU counters; the names are the metric labels.
pub mod counter {
    /// Declares the counters with their index and name.
    macro_rules! counters {
        ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
            #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
            #[repr(u32)]
            enum Index { $($name,)* COUNT }
            $($(#[$doc])* pub const $name: u32 = Index::$name as u32;)*
            /// How many there are.
            pub const COUNT: u32 = Index::COUNT as u32;
            /// Their names, by index.
            pub const NAMES: [&str; COUNT as usize] = [$($label,)*];
        };
    }
    counters! {
        /// Connects steered to the agent.
        STEERED = "steered",
        /// Connections refused by the policies of who connects.
        REFUSED_EGRESS = "refused_egress",
        /// Connections refused by the policies of who is connected to.
        REFUSED_INGRESS = "refused_ingress",
        /// Connections refused because who connects is not known.
        REFUSED_UNKNOWN = "refused_unknown",
        /// Connections from outside brought to the agent.
        INBOUND = "inbound",
        /// Connections from outside that could not be told from another of the same client: not steered.
        INBOUND_CLASH = "inbound_clash",
        /// Connects rewritten to an endpoint.
        BALANCED = "balanced",
        /// Connects to a Service without a ready endpoint, refused.
        NO_ENDPOINT = "no_endpoint",
        /// Connects that could not be recorded and went to an endpoint unsteered.
        TABLE_FULL_OPEN = "table_full_open",
        /// Connects that could not be recorded and were refused.
        TABLE_FULL_CLOSED = "table_full_closed",
        /// Flow records that did not fit.
        FLOW_TABLE_FULL = "flow_table_full",
        /// Sockets that joined the socket map.
        MAPPED = "mapped",
        /// Sockets that should have joined but could not.
        MAP_FAILED = "map_failed",
        /// Messages redirected.
        REDIRECTED = "redirected",
        /// Bytes redirected.
        REDIRECTED_BYTES = "redirected_bytes",
        /// Directions that went from redirect to TCP: over the cap, or pipelined.
        WENT_PLAIN = "went_plain",
        /// Requests carried from client to endpoint.
        SPLICED = "spliced",
        /// Answers to carried requests that went to the agent.
        TURNED = "turned",
        /// Exchanges that were counted without their route, method and status, for want of room.
        SERIES_FULL = "series_full",
        /// Carried exchanges that are missing in the access log: its ring buffer was full.
        ACCESS_LOG_LOST = "access_log_lost",
        /// Ring buffer records that did not fit.
        EVENTS_LOST = "events_lost",
    }
}
