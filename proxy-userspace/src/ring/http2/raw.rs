//! A peer of frames: writes any, reads what comes back.

use super::*;

pub(in crate::ring) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(in crate::ring) const DATA: u8 = 0;
pub(in crate::ring) const HEADERS: u8 = 1;
pub(in crate::ring) const PRIORITY: u8 = 2;
pub(in crate::ring) const RST_STREAM: u8 = 3;
pub(in crate::ring) const SETTINGS: u8 = 4;
pub(in crate::ring) const PUSH_PROMISE: u8 = 5;
pub(in crate::ring) const PING: u8 = 6;
pub(in crate::ring) const GOAWAY: u8 = 7;
pub(in crate::ring) const WINDOW_UPDATE: u8 = 8;
pub(in crate::ring) const CONTINUATION: u8 = 9;

pub(in crate::ring) const ACK: u8 = 1;
pub(in crate::ring) const END_STREAM: u8 = 1;
pub(in crate::ring) const END_HEADERS: u8 = 4;
pub(in crate::ring) const PADDED: u8 = 8;
pub(in crate::ring) const WITH_PRIORITY: u8 = 32;

/// A frame's bytes.
pub(in crate::ring) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field section (RFC 7541): literals without indexing, without Huffman's code.
pub(in crate::ring) fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(&mut bytes, name.as_bytes());
        string(&mut bytes, value);
    }
    bytes
}

pub(in crate::ring) fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    integer(bytes, 0, 7, text.len());
    bytes.extend(text);
}

/// RFC 7541 section 5.1.
pub(in crate::ring) fn integer(bytes: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        bytes.push(first | u8::try_from(value).unwrap());
        return;
    }
    bytes.push(first | u8::try_from(most).unwrap());
    let mut left = value - most;
    while left >= 128 {
        bytes.push(u8::try_from(left % 128).unwrap() | 128);
        left /= 128;
    }
    bytes.push(u8::try_from(left).unwrap());
}

/// A request's pseudo-header fields, and others.
pub(in crate::ring) fn get(others: &[(&str, &[u8])]) -> Vec<u8> {
    asked("GET", others)
}

pub(in crate::ring) fn asked(method: &str, others: &[(&str, &[u8])]) -> Vec<u8> {
    let mut fields: Vec<(&str, &[u8])> =
        vec![(":method", method.as_bytes()), (":scheme", b"http"), (":authority", b"web"), (":path", b"/a")];
    fields.extend(others);
    block(&fields)
}

/// One that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) struct Came {
    pub(in crate::ring) kind: u8,
    pub(in crate::ring) flags: u8,
    pub(in crate::ring) stream: u32,
    pub(in crate::ring) payload: Vec<u8>,
}

impl Came {
    /// The error code of RST_STREAM or GOAWAY.
    pub(in crate::ring) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A connection whose preface has been exchanged.
pub(in crate::ring) struct Raw(pub(in crate::ring) Peer);

impl Raw {
    pub(in crate::ring) async fn open(ring: &Ring) -> Self {
        Self::open_with(ring, &[]).await
    }

    /// With these settings.
    pub(in crate::ring) async fn open_with(ring: &Ring, settings: &[u8]) -> Self {
        let mut raw = Self(ring.client().await);
        raw.0.send([PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        raw.send(SETTINGS, ACK, 0, &[]).await;
        let acknowledged = |came: &Came| came.kind == SETTINGS && came.flags & ACK != 0;
        raw.until(acknowledged).await.expect("settings acknowledged");
        raw
    }

    pub(in crate::ring) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.send(frame(kind, flags, stream, payload)).await;
    }

    /// The next frame; `None` at the end.
    pub(in crate::ring) async fn next(&mut self) -> Option<Came> {
        let mut head = [0; 9];
        within(self.0.0.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        within(self.0.0.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Came { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads up to a frame that is so.
    pub(in crate::ring) async fn until(&mut self, so: impl Fn(&Came) -> bool) -> Option<Came> {
        loop {
            let came = self.next().await?;
            if so(&came) {
                return Some(came);
            }
        }
    }
}
