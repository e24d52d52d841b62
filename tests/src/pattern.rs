//! Bytes that both ends can compute, and a digest of bytes: bodies whose every byte is checked.

/// An endless, position-dependent byte stream of a seed; cheap even without optimisation.
#[derive(Debug, Clone)]
pub struct Pattern {
    seed: u64,
    offset: u64,
}

impl Pattern {
    /// From the stream's first byte.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, offset: 0 }
    }

    /// The stream's next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let within = usize::try_from(self.offset % 8).unwrap_or(0);
        let lead = if within == 0 { 0 } else { (8 - within).min(buffer.len()) };
        let (head, rest) = buffer.split_at_mut(lead);
        if let Some(left) = self.word().get(within..within + lead) {
            head.copy_from_slice(left);
        }
        self.advance(lead);
        let mut words = rest.chunks_exact_mut(8);
        for chunk in &mut words {
            chunk.copy_from_slice(&self.word());
            self.offset += 8;
        }
        let tail = words.into_remainder();
        if let Some(left) = self.word().get(..tail.len()) {
            tail.copy_from_slice(left);
        }
        let left = tail.len();
        self.advance(left);
    }

    fn advance(&mut self, by: usize) {
        self.offset += by as u64;
    }

    /// The eight bytes around the offset.
    fn word(&self) -> [u8; 8] {
        mix(self.seed.wrapping_add((self.offset / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
    }
}

/// The digest of the first `length` bytes of a seed's stream, in the form that [`Digest`] gives.
#[must_use]
pub fn digest_of(seed: u64, length: u64) -> String {
    let (mut pattern, mut digest) = (Pattern::new(seed), Digest::default());
    let mut buffer = vec![0; 1 << 16];
    let mut left = length;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if let Some(part) = buffer.get_mut(..take) {
            pattern.fill(part);
            digest.add(part);
        }
        left -= take as u64;
    }
    digest.hex()
}

/// An order-sensitive digest of a byte stream; not for security.
#[derive(Debug, Clone, Default)]
pub struct Digest {
    state: u64,
    length: u64,
    held: [u8; 8],
}

impl Digest {
    /// Takes the stream's next bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !self.length.is_multiple_of(8) && !bytes.is_empty() {
            bytes = self.hold(bytes);
        }
        let words = bytes.chunks_exact(8);
        let mut rest = words.remainder();
        for word in words {
            if let Ok(word) = <[u8; 8]>::try_from(word) {
                self.absorb(u64::from_le_bytes(word));
                self.length += 8;
            }
        }
        while !rest.is_empty() {
            rest = self.hold(rest);
        }
    }

    /// How many bytes it took.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Its value, the length included.
    #[must_use]
    pub fn hex(&self) -> String {
        let within = usize::try_from(self.length % 8).unwrap_or(0);
        let mut last = [0; 8];
        if let (Some(to), Some(from)) = (last.get_mut(..within), self.held.get(..within)) {
            to.copy_from_slice(from);
        }
        format!("{:016x}", mix(self.state ^ u64::from_le_bytes(last) ^ self.length.rotate_left(32)))
    }

    /// Takes one byte into the word under construction.
    fn hold<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some((first, rest)) = bytes.split_first() else { return bytes };
        let within = usize::try_from(self.length % 8).unwrap_or(0);
        if let Some(slot) = self.held.get_mut(within) {
            *slot = *first;
        }
        self.length += 1;
        if self.length.is_multiple_of(8) {
            self.absorb(u64::from_le_bytes(self.held));
        }
        rest
    }

    fn absorb(&mut self, word: u64) {
        self.state = (self.state.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// Small, repeatable random numbers (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from `low` up to `high`, both included, small ones as likely as large ones: the
    /// magnitude is chosen first.
    pub fn sized(&mut self, low: u64, high: u64) -> u64 {
        let bits = 64 - high.leading_zeros();
        let magnitude = 1_u64 << (self.next() % u64::from(bits.max(1)));
        (low.max(magnitude) + self.next() % magnitude).clamp(low, high)
    }
}

const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn a_pattern_does_not_depend_on_how_it_is_cut() {
        let mut whole = vec![0; 10_000];
        Pattern::new(7).fill(&mut whole);
        let (mut pieces, mut random, mut pattern) = (vec![0; 10_000], Random::new(1), Pattern::new(7));
        let mut at = 0;
        while at < pieces.len() {
            let take = usize::try_from(random.sized(1, 500)).unwrap().min(pieces.len() - at);
            pattern.fill(&mut pieces[at..at + take]);
            at += take;
        }
        assert_eq!(whole, pieces);
    }

    #[test]
    fn a_digest_does_not_depend_on_how_the_stream_is_cut() {
        let mut bytes = vec![0; 10_003];
        Pattern::new(9).fill(&mut bytes);
        let (mut digest, mut random) = (Digest::default(), Random::new(2));
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let take = usize::try_from(random.sized(1, 100)).unwrap().min(rest.len());
            digest.add(&rest[..take]);
            rest = &rest[take..];
        }
        assert_eq!(digest.hex(), digest_of(9, 10_003));
    }

    #[test]
    fn a_digest_notices_one_swapped_pair_and_one_missing_byte() {
        let hex = |bytes: &[u8]| {
            let mut digest = Digest::default();
            digest.add(bytes);
            digest.hex()
        };
        assert_ne!(hex(b"0123456789abcdefX"), hex(b"01234567a9bcdefX8"));
        assert_ne!(hex(b"0123456789abcdef\0"), hex(b"0123456789abcdef"));
    }
}
