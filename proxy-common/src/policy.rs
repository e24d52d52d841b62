//! HTTP rules as the kernel half can match them, and the decision by them: pure, the same code in both
//! halves.
//!
//! The user half compiles the rules of one *policy* (all that is allowed at one endpoint) into path
//! nodes. A request's node is the one with the longest pattern that the request's target begins with
//! (an LPM trie); it already holds what shorter patterns would allow. Whatever cannot be said in these
//! terms makes the node *unsure*: the agent decides.

use crate::abi::abi;

/// Bytes of a target that can be matched, its terminator included; longer ones are the agent's.
pub const TARGET_MAX: usize = 124;
/// Bytes of a host that can be matched, its terminator included; longer ones are the agent's.
pub const HOST_MAX: usize = 64;
/// Rules that a node can hold; a node that needs more is unsure.
pub const CANDIDATES: usize = 6;
/// Host patterns that the kernel half can tell apart; rules with further ones are the agent's.
pub const HOST_PATTERNS: usize = 64;

/// A policy that allows everything; there are no nodes for it.
pub const POLICY_NONE: u32 = 0;

/// Bits of [`Candidate::methods`].
pub mod method {
    /// `GET`
    pub const GET: u32 = 1;
    /// `HEAD`
    pub const HEAD: u32 = 1 << 1;
    /// `POST`
    pub const POST: u32 = 1 << 2;
    /// `PUT`
    pub const PUT: u32 = 1 << 3;
    /// `DELETE`
    pub const DELETE: u32 = 1 << 4;
    /// `OPTIONS`
    pub const OPTIONS: u32 = 1 << 5;
    /// `PATCH`
    pub const PATCH: u32 = 1 << 6;
    /// Every method that the kernel half carries.
    pub const ALL: u32 = (1 << 7) - 1;
}

/// Data of an LPM key for a target: prefix length in bits counts from the policy on.
///
/// An exact pattern ends with a zero byte, and so does what is looked up; a prefix pattern does not.
/// A prefix on whole segments (`/a`) is two entries: `/a` exactly, and `/a/` as a prefix.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TargetKey {
    /// The policy's id.
    pub policy: u32,
    /// The target as sent, query included, then zeros.
    pub target: [u8; TARGET_MAX],
}
const _: () = assert!(core::mem::size_of::<TargetKey>() == 128);

/// Data of an LPM key for a host, backwards and in lower case, without port: `moc.elpmaxe`, then
/// zeros. Exact patterns end with a zero byte; suffix patterns (`.example.com`) do not.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HostKey {
    /// See the type.
    pub host: [u8; HOST_MAX],
}
const _: () = assert!(core::mem::size_of::<HostKey>() == HOST_MAX);

#[cfg(feature = "user")]
#[allow(unsafe_code)]
// SAFETY: `#[repr(C)]`, integers only, and the asserted size leaves no implicit padding.
unsafe impl aya::Pod for TargetKey {}
#[cfg(feature = "user")]
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl aya::Pod for HostKey {}

abi! {
    /// What a target may be asked for by.
    PathNode [104] {
        /// How many candidates there are.
        count: u32,
        /// 1: where no candidate matches, the agent decides; 0: the request is denied.
        unsure: u32,
        /// Any one of them allows.
        candidates: [Candidate; CANDIDATES],
    }

    /// One rule at a node.
    Candidate [16] {
        /// Host patterns that it asks for, as bits; 0: any host.
        hosts: u64,
        /// [`method`] bits.
        methods: u32,
        /// The rule's id, for the log.
        rule: u32,
    }
}

impl PathNode {
    /// Whether the decision depends on the request's host.
    #[inline(always)]
    #[must_use]
    pub fn asks_for_host(&self) -> bool {
        let mut asks = 0;
        let mut at = 0;
        while at < CANDIDATES {
            // Those beyond `count` too, which cost a look-up where they are not zero.
            asks |= self.candidates.get(at).map_or(0, |candidate| candidate.hosts);
            at += 1;
        }
        asks != 0
    }
}

/// Bits of an LPM key for a target of `len` bytes: the policy, the target, its terminator.
#[inline(always)]
#[must_use]
pub fn target_bits(len: u32) -> u32 {
    u32::BITS + (len + 1) * u8::BITS
}

/// Bits of an LPM key for a host of `len` bytes: the host and its terminator.
#[inline(always)]
#[must_use]
pub fn host_bits(len: u32) -> u32 {
    (len + 1) * u8::BITS
}

/// Lower case of each byte: a look-up, where a comparison would be one more path for the verifier.
static LOWER: [u8; 256] = lower();

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated by the compiler")]
const fn lower() -> [u8; 256] {
    let mut lower = [0; 256];
    let mut byte = 0;
    while byte < lower.len() {
        lower[byte] = (byte as u8).to_ascii_lowercase();
        byte += 1;
    }
    lower
}

/// Writes the first `len` bytes of `host`, which are fewer than [`HOST_MAX`], and their terminator into
/// `key`. What is behind stays: no lookup of [`host_bits`] reads it.
#[inline(always)]
pub fn fill_host(key: &mut HostKey, host: &[u8; HOST_MAX], len: u32) {
    let len = len as usize;
    let mut at = 0;
    while at < len && at < HOST_MAX - 1 {
        // The mask is for the verifier, which knows of no difference.
        let byte = host.get(len.wrapping_sub(at + 1) & (HOST_MAX - 1)).map_or(0, |byte| *byte);
        if let (Some(slot), Some(lower)) = (key.host.get_mut(at), LOWER.get(usize::from(byte))) {
            *slot = *lower;
        }
        at += 1;
    }
    if let Some(slot) = key.host.get_mut(at) {
        *slot = 0;
    }
}

/// What is decided about a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// The rule allows it.
    Allow {
        /// Its id; 0 where there is no policy.
        rule: u32,
    },
    /// No rule allows it.
    Deny,
    /// The agent must decide.
    Unsure,
}

/// Decides by the node of the request's target. `method` is one [`method`] bit, `hosts` are the host
/// patterns that the request's host matches.
#[inline(always)]
pub fn decide(node: Option<&PathNode>, method: u32, hosts: u64) -> Verdict {
    let Some(node) = node else { return Verdict::Unsure };
    let mut at = 0;
    while at < CANDIDATES {
        if at >= node.count as usize {
            break;
        }
        let Some(candidate) = node.candidates.get(at) else { break };
        if candidate.methods & method != 0 && (candidate.hosts == 0 || candidate.hosts & hosts != 0) {
            return Verdict::Allow { rule: candidate.rule };
        }
        at += 1;
    }
    if node.unsure != 0 { Verdict::Unsure } else { Verdict::Deny }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(unsure: u32, candidates: &[Candidate]) -> PathNode {
        let mut node = PathNode { unsure, ..PathNode::default() };
        for (slot, candidate) in node.candidates.iter_mut().zip(candidates) {
            *slot = *candidate;
            node.count += 1;
        }
        node
    }

    fn host_key(host: &str) -> (u32, HostKey) {
        let (mut raw, mut key) = ([0; HOST_MAX], HostKey { host: [0xff; HOST_MAX] });
        raw.iter_mut().zip(host.bytes()).for_each(|(slot, byte)| *slot = byte);
        let len = host.len().try_into().unwrap_or(u32::MAX);
        fill_host(&mut key, &raw, len);
        (host_bits(len), key)
    }

    #[test]
    fn a_host_is_written_backwards_in_lower_case_with_its_terminator() {
        let (bits, key) = host_key("Web.Example_1");
        assert_eq!(key.host.split_at(14).0, b"1_elpmaxe.bew\0");
        assert_eq!(bits, 14 * 8);
        assert_eq!(key.host.last(), Some(&0xff), "what is behind stays");
    }

    #[test]
    fn the_shortest_and_the_longest_host_fit() {
        assert_eq!(host_key("").1.host.first(), Some(&0));
        let (bits, key) = host_key(&"a".repeat(HOST_MAX - 1));
        assert_eq!(bits as usize, HOST_MAX * 8);
        assert_eq!(key.host.split_last(), Some((&0, &[b'a'; HOST_MAX - 1][..])));
    }

    #[test]
    fn the_bits_of_a_target_count_policy_and_terminator() {
        assert_eq!(target_bits(1), 32 + 16);
        assert_eq!(target_bits(123) as usize, size_of::<TargetKey>() * 8);
    }

    #[test]
    fn a_target_without_a_node_is_unsure() {
        assert_eq!(decide(None, method::GET, 0), Verdict::Unsure);
    }

    #[test]
    fn any_candidate_allows_by_method_and_host() {
        let reads = Candidate { methods: method::GET | method::HEAD, rule: 1, ..Candidate::default() };
        let writes = Candidate { methods: method::PUT, hosts: 0b110, rule: 2 };
        for (unsure, otherwise) in [(0, Verdict::Deny), (1, Verdict::Unsure)] {
            let node = node(unsure, &[reads, writes]);
            assert_eq!(decide(Some(&node), method::HEAD, 0), Verdict::Allow { rule: 1 });
            assert_eq!(decide(Some(&node), method::PUT, 0b010), Verdict::Allow { rule: 2 });
            assert_eq!(decide(Some(&node), method::PUT, 0b001), otherwise);
            assert_eq!(decide(Some(&node), method::POST, u64::MAX), otherwise);
        }
    }

    #[test]
    fn candidates_beyond_the_count_do_not_count() {
        let any = Candidate { methods: method::ALL, rule: 9, ..Candidate::default() };
        let mut node = node(0, &[any; CANDIDATES]);
        assert_eq!(decide(Some(&node), method::GET, 0), Verdict::Allow { rule: 9 });
        node.count = 0;
        assert_eq!(decide(Some(&node), method::GET, 0), Verdict::Deny);
        node.count = u32::MAX;
        assert_eq!(decide(Some(&node), method::GET, 0), Verdict::Allow { rule: 9 });
    }

    #[test]
    fn a_node_asks_for_the_host_where_a_candidate_does() {
        let any = Candidate { methods: method::ALL, ..Candidate::default() };
        assert!(!node(0, &[any, any]).asks_for_host());
        assert!(node(0, &[any, Candidate { hosts: 1 << 63, ..any }]).asks_for_host());
    }
}
