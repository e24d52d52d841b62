//! What is admitted, row by row of the list of hostile input; each head also cut at every position and byte by
//! byte.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod answers;
mod bodies;
mod corpus;
mod framing;
mod targets;
mod upgrades;

use super::{
    agreement::{Fate, Way, strict},
    *,
};
use std::sync::Arc;

/// The fate of bytes, which is the same however they are cut.
fn fate(framer: impl Fn() -> Framer, bytes: &[u8]) -> Fate {
    let of = |pieces: &[&[u8]]| {
        let mut way = Way::new(framer());
        pieces.iter().for_each(|piece| way.read(piece));
        way.fate()
    };
    let whole = of(&[bytes]);
    let text = String::from_utf8_lossy(bytes);
    for at in 0..bytes.len() {
        let (one, two) = bytes.split_at(at);
        assert_eq!(of(&[one, two]), whole, "cut at {at}: {text:?}");
    }
    let single: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(of(&single), whole, "byte by byte: {text:?}");
    whole
}

/// Why a client's bytes are refused within their first head.
fn refused(bytes: impl AsRef<[u8]>) -> Option<Oddity> {
    let fate = fate(strict, bytes.as_ref());
    let refusal = fate.refusal.map(|(oddity, part)| {
        assert_eq!((fate.passed, fate.heads, part), (0, 0, Part::Head), "{fate:?}");
        oddity
    });
    assert!(refusal.is_some() || fate.heads > 0, "neither admitted nor refused: {fate:?}");
    refusal
}

/// A GET with these fields beside Host.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")
}

/// A POST with these fields beside Host.
fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")
}

/// A GET of this target.
fn target(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}
