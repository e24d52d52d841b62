//! Frames (RFC 9113 section 4.1) as they pass, counted below hyper, which acknowledges as many as a peer cares
//! to send. Reads nothing but their headers.

use proxy_common::http::HTTP2_PREFACE as PREFACE;
use std::time::Duration;
use tokio::time::Instant;

/// Requests that a client may have open at once.
pub(super) const MAX_STREAMS: u32 = 100;

const HEADER: usize = 9;
/// Control frames: so many a second, and so many at once.
const CONTROL: (u32, u32) = (200, 1000);
/// Streams that a client resets: so many a second, and so many at once.
const RESETS: (u32, u32) = (100, 100);
/// Control frames that a frame of data allows its receiver beside: window updates, and pings that measure.
const FOR_DATA: u32 = 4;
/// Control frames that a new stream allows: its priority and its window.
const FOR_STREAM: u32 = 2;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const FIRST_UNKNOWN: u8 = 10;
const ACK: u8 = 1;

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    /// False where its kind has a size and it has another one (RFC 9113 sections 6.3 to 6.9).
    const fn has_its_size(self) -> bool {
        match self.kind {
            PRIORITY => self.length == 5,
            RST_STREAM | WINDOW_UPDATE => self.length == 4,
            SETTINGS if self.flags & ACK != 0 => self.length == 0,
            SETTINGS => self.length.is_multiple_of(6),
            PING => self.length == 8,
            GOAWAY => self.length >= 8,
            _ => true,
        }
    }
}

/// Finds frames in a direction's bytes.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    head: [u8; HEADER],
    /// Bytes of a header that have been seen.
    seen: usize,
    /// Bytes of the frame's payload, or of the preface, that have not.
    left: u64,
}

impl Splitter {
    /// The client's direction: a preface comes first.
    fn behind_preface() -> Self {
        Self { left: PREFACE.len() as u64, ..Self::default() }
    }

    /// Takes the next bytes; `found` gets the header of each frame that begins in them. Whether the first byte of
    /// the last frame is one of them.
    fn split(&mut self, mut bytes: &[u8], mut found: impl FnMut(Head)) -> bool {
        let mut begins = false;
        while !bytes.is_empty() {
            let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= skipped as u64;
            bytes = bytes.get(skipped..).unwrap_or_default();
            begins |= self.is_between() && !bytes.is_empty();
            let room = self.head.get_mut(self.seen..).unwrap_or_default();
            let count = room.len().min(bytes.len());
            let (taken, rest) = bytes.split_at_checked(count).unwrap_or((bytes, &[]));
            if let Some(room) = room.get_mut(..count) {
                room.copy_from_slice(taken);
            }
            self.seen += count;
            bytes = rest;
            if self.seen == HEADER {
                let [a, b, c, kind, flags, s0, s1, s2, s3] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
                (self.seen, self.left) = (0, length.into());
                found(Head { length, kind, flags, stream });
            }
        }
        begins
    }

    /// Behind a frame's header.
    fn is_in_payload(&self) -> bool {
        self.left > 0
    }

    /// Between two frames.
    pub(crate) fn is_between(&self) -> bool {
        self.seen == 0 && self.left == 0
    }
}

/// So many a second, and so many at once.
#[derive(Debug)]
struct Budget {
    per_second: u32,
    most: u32,
    /// In thousandths.
    left: u64,
    at: Instant,
}

impl Budget {
    fn new((per_second, most): (u32, u32), now: Instant) -> Self {
        Self { per_second, most, left: u64::from(most) * 1000, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let micros = now.saturating_duration_since(self.at).as_micros();
        let earned = micros.saturating_mul(self.per_second.into()) / 1000;
        if earned > 0 {
            self.at = now;
            self.grant(u64::try_from(earned).unwrap_or(u64::MAX));
        }
    }

    fn grant(&mut self, thousandths: u64) {
        self.left = self.left.saturating_add(thousandths).min(u64::from(self.most) * 1000);
    }

    /// False where it is used up.
    fn spend(&mut self, now: Instant) -> bool {
        self.refill(now);
        let left = self.left.checked_sub(1000);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// What is too much, or wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Excess {
    /// PING, SETTINGS, PRIORITY, WINDOW_UPDATE and unknown frames.
    Control,
    /// RST_STREAM.
    Resets,
    /// The first frame is not SETTINGS (RFC 9113 section 3.4).
    Preface,
    /// A frame is not of its kind's size. hyper knows it too, but calls it a PROTOCOL_ERROR.
    Size,
}

/// Both directions of one connection.
#[derive(Debug)]
pub(crate) struct Frames {
    read: Splitter,
    written: Splitter,
    control: Budget,
    resets: Budget,
    excess: Option<Excess>,
    last_stream: u32,
    acknowledged: bool,
    begun: bool,
    /// The last frame that began is one of data: that may take its time, as long as it comes.
    is_data: bool,
    /// When the frame that is not complete yet began to arrive.
    half_since: Option<Instant>,
}

impl Frames {
    /// Of a connection whose preface is still to be read.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            read: Splitter::behind_preface(),
            written: Splitter::default(),
            control: Budget::new(CONTROL, now),
            resets: Budget::new(RESETS, now),
            excess: None,
            last_stream: 0,
            acknowledged: false,
            begun: false,
            is_data: false,
            half_since: None,
        }
    }

    /// The client's next bytes.
    pub(crate) fn read(&mut self, bytes: &[u8], now: Instant) {
        let Self { read, control, resets, excess, last_stream, acknowledged, begun, is_data, .. } = self;
        let begins = read.split(bytes, |head| {
            *is_data = head.kind == DATA;
            let within = match head.kind {
                kind if !std::mem::replace(begun, true) && kind != SETTINGS => Err(Excess::Preface),
                _ if !head.has_its_size() => Err(Excess::Size),
                RST_STREAM => resets.spend(now).then_some(()).ok_or(Excess::Resets),
                SETTINGS if head.flags & ACK != 0 && !*acknowledged => {
                    *acknowledged = true;
                    Ok(())
                }
                PRIORITY | SETTINGS | PING | WINDOW_UPDATE | FIRST_UNKNOWN.. => {
                    control.spend(now).then_some(()).ok_or(Excess::Control)
                }
                HEADERS => {
                    if head.stream > *last_stream {
                        *last_stream = head.stream;
                        control.grant(u64::from(FOR_STREAM) * 1000);
                    }
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(what) = within {
                excess.get_or_insert(what);
            }
        });
        // By what arrives when, never by how it was cut.
        if self.read.is_between() {
            self.half_since = None;
        } else if begins || (self.is_data && self.read.is_in_payload()) || self.half_since.is_none() {
            self.half_since = Some(now);
        }
    }

    /// What has been written to the client.
    pub(crate) fn written(&mut self, bytes: &[u8]) {
        let Self { written, control, .. } = self;
        written.split(bytes, |head| {
            if head.kind == DATA {
                control.grant(u64::from(FOR_DATA) * 1000);
            }
        });
    }

    /// What there was too much of, or what was wrong.
    pub(crate) fn excess(&self) -> Option<Excess> {
        self.excess
    }

    /// The client knows our settings.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// When a frame must be complete that has begun, if it may take so long.
    pub(crate) fn half_until(&self, timeout: Duration) -> Option<Instant> {
        self.half_since.map(|since| since + timeout)
    }

    /// A frame that ends the connection, for where nothing else is written any more; `None` within another one.
    pub(crate) fn goaway(&self, code: u32) -> Option<[u8; 17]> {
        if !self.written.is_between() {
            return None;
        }
        let mut frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let payload = self.last_stream.to_be_bytes().into_iter().chain(code.to_be_bytes());
        frame.iter_mut().skip(HEADER).zip(payload).for_each(|(to, from)| *to = from);
        Some(frame)
    }
}

#[cfg(test)]
mod tests;
