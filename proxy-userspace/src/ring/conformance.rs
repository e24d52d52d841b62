//! Frames as RFC 9113 and RFC 7541 have them, and as they do not: what a client sends, and what it must get.
//! The names begin with the section.

mod framing;
mod hpack;
mod kinds;
mod messages;
mod settings;
mod states;

use super::{
    http2::{
        http1,
        peer::{Echo, Speaks},
        raw::*,
    },
    *,
};

/// What must come.
#[derive(Clone, Debug)]
pub(super) enum Expect {
    /// GOAWAY with one of these codes, or with PROTOCOL_ERROR, which hyper's engine says of all frames that it
    /// cannot read: the connection ends, and that is what counts.
    Connection(&'static [u32]),
    /// GOAWAY with this code and no other.
    Exactly(u32),
    /// RST_STREAM for this stream with one of these codes; the whole connection may end for it (section 5.4.2).
    Stream(u32, &'static [u32]),
    /// The request is malformed (section 8.1.1): a stream error, or an answer of 400 before it.
    Malformed,
    /// No request: anything but 200.
    Refused,
    /// 200 for this stream.
    Answered(u32),
    /// A frame of this kind that has all these flags.
    Frame(u8, u8),
    /// Nothing: a PING is answered next.
    Nothing,
}

/// One row.
pub(super) struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    expect: Expect,
}

pub(super) const PROTOCOL: &[u32] = &[1];
pub(super) const FLOW: &[u32] = &[3];
pub(super) const CLOSED: &[u32] = &[5];
pub(super) const SIZE: u32 = 6;
pub(super) const COMPRESSION: &[u32] = &[9];
pub(super) const WHOLE: u8 = END_STREAM | END_HEADERS;

pub(super) fn case(name: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case { name, bytes: bytes.into(), expect }
}

/// A request without a body on this stream.
pub(super) fn asks(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &get(&[]))
}

/// A request whose body is still to come.
pub(super) fn posts(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &asked("POST", &[]))
}

const MARK: [u8; 8] = *b"conform!";

impl Case {
    /// `Err` says what came instead.
    async fn run(self, ring: &Ring) -> Result<(), String> {
        let mut raw = Raw::open(ring).await;
        raw.0.send(&self.bytes).await;
        if matches!(self.expect, Expect::Nothing) {
            raw.send(PING, 0, 0, &MARK).await;
        }
        let mut seen = Vec::new();
        loop {
            let came = match tokio::time::timeout(PATIENCE, raw.next()).await {
                Ok(Some(came)) => came,
                Ok(None) => return Err(format!("the end, after {seen:?}")),
                Err(_) => return Err(format!("silence, after {seen:?}")),
            };
            match self.expect.judge(&came) {
                Some(true) => return Ok(()),
                Some(false) => return Err(format!("{came:?}, after {seen:?}")),
                None => seen.push((came.kind, came.flags, came.stream)),
            }
        }
    }
}

impl Expect {
    /// Whether this is what must come, or must not; `None` where it is neither.
    fn judge(&self, came: &Came) -> Option<bool> {
        let is_end = matches!(came.kind, GOAWAY | RST_STREAM);
        let is_answer = came.kind == HEADERS;
        match self {
            Self::Connection(codes) => (came.kind == GOAWAY).then(|| fits(codes, came)),
            Self::Exactly(code) => (came.kind == GOAWAY).then(|| came.code() == *code),
            Self::Stream(stream, codes) => {
                let ours = came.kind == GOAWAY || came.stream == *stream;
                (is_end && ours).then(|| fits(codes, came))
            }
            Self::Refused if is_answer => Some(came.payload.first() != Some(&0x88)),
            Self::Refused => is_end.then_some(true),
            Self::Malformed if is_answer => Some(came.payload.first() == Some(&0x8c)),
            Self::Malformed => is_end.then(|| PROTOCOL.contains(&came.code())),
            Self::Answered(stream) if is_answer && came.stream == *stream => {
                Some(came.payload.first() == Some(&0x88))
            }
            Self::Answered(_) => is_end.then_some(false),
            Self::Frame(kind, flags) if came.kind == *kind && came.flags & flags == *flags => Some(true),
            Self::Frame(..) => is_end.then_some(false),
            Self::Nothing if came.kind == PING && came.payload == MARK => Some(true),
            Self::Nothing => (came.kind == GOAWAY).then_some(false),
        }
    }
}

fn fits(codes: &[u32], came: &Came) -> bool {
    let unspecific = came.kind == GOAWAY && PROTOCOL.contains(&came.code());
    unspecific || codes.contains(&came.code())
}

/// Runs a table.
pub(super) async fn conforms(cases: Vec<Case>) {
    let echo = Echo::start(Speaks::Http1).await;
    let ring = Setup { cluster: http1, ..Setup::new(&[echo.addr]) }.start().await;
    let mut failed = Vec::new();
    for case in cases {
        let name = case.name;
        if let Err(instead) = case.run(&ring).await {
            failed.push(format!("{name}: {instead}"));
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn the_suite_has_at_least_140_cases_with_their_sections() {
    let all = [
        framing::cases(),
        states::cases(),
        kinds::cases(),
        settings::cases(),
        messages::cases(),
        hpack::cases(),
    ];
    let names: Vec<&str> = all.iter().flatten().map(|case| case.name).collect();
    let distinct: std::collections::BTreeSet<&str> = names.iter().copied().collect();
    assert!(names.len() >= 140 && distinct.len() == names.len(), "{} cases", names.len());
    let numbered = |name: &&str| name.split(' ').next().is_some_and(|number| number.contains('.'));
    assert_eq!(names.iter().find(|name| !numbered(name)), None);
}
