//! Heads as bytes: where one ends, its lines, and the fields that say how the message goes on.

use super::{Body, Law, Oddity, Refusal};
use crate::route::choices::HeadLimits;
use memchr::memchr;

/// Digits of a Content-Length: what every server can count.
const DIGITS_MAX: usize = 18;

/// Looks for a head's end, line by line, in bytes that come piece by piece.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct End {
    /// Bytes that have been looked through.
    seen: usize,
    /// Where the line begins that they end in.
    line: usize,
    lines: usize,
    /// Where the first line begins.
    pub(super) start: usize,
}

impl End {
    /// Nothing has been looked through.
    pub(super) fn is_fresh(&self) -> bool {
        self.seen == 0
    }

    /// Where the head ends; `None` while it does not. `bytes` are those of the last call and more. What is found
    /// depends on where it stands, never on how the bytes were cut. `strict` takes no bare LF.
    pub(super) fn find(
        &mut self,
        bytes: &[u8],
        (strict, limits): (bool, HeadLimits),
    ) -> Result<Option<usize>, Refusal> {
        let window = bytes.get(..limits.bytes).unwrap_or(bytes);
        while let Some(at) = window.get(self.seen..).and_then(|rest| memchr(b'\n', rest)) {
            let line_feed = self.seen + at;
            let line = window.get(self.line..line_feed).unwrap_or_default();
            let bare = line.last() != Some(&b'\r');
            if bare && strict {
                return Err(Oddity::LineEnd.because("LF without CR"));
            }
            let is_empty = line.len() == usize::from(!bare);
            self.seen = line_feed + 1;
            self.line = self.seen;
            if !is_empty {
                self.lines += 1;
                if self.lines > limits.fields.saturating_add(1) {
                    return Err(Oddity::FieldCount.because("too many fields"));
                }
            } else if self.lines > 0 {
                return Ok(Some(self.seen));
            } else if self.start > 0 {
                return Err(Oddity::EmptyLines.because("more than one empty line before a message"));
            } else {
                self.start = self.seen;
            }
        }
        self.seen = window.len();
        match (window.len() < limits.bytes, self.lines) {
            (true, _) => Ok(None),
            (false, 0) => Err(Oddity::TargetLength.because("the first line is longer than a head may be")),
            (false, _) => Err(Oddity::HeadLength.because("the head is too long")),
        }
    }
}

/// The lines of a whole head, without their ends, up to the empty one.
pub(super) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = head;
    std::iter::from_fn(move || {
        let (line, behind) = rest.split_at_checked(memchr(b'\n', rest)?)?;
        rest = behind.get(1..).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (!line.is_empty()).then_some(line)
    })
}

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    Request,
    Answer,
}

/// What fields say about the message itself.
#[derive(Default, Debug)]
pub(super) struct Framing<'a> {
    length: Option<u64>,
    chunked: bool,
    pub(super) host: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    /// Connection names Upgrade, and Upgrade something that is allowed.
    upgrade: (bool, bool),
}

impl<'a> Framing<'a> {
    /// Reads a field.
    pub(super) fn read(&mut self, line: &'a [u8], direction: Direction, law: Law<'_>) -> Result<(), Refusal> {
        if line.len() > law.choices.head.field {
            return Err(Oddity::HeadLength.because("a field is too long"));
        }
        let (name, value) = split(line)?;
        if has_control(value) {
            return Err(Oddity::FieldValue.because("a field has a control character"));
        }
        let is_hidden = name.iter().fold(false, |found, byte| found | (*byte == b'_'));
        if is_hidden && direction == Direction::Request {
            if !law.allows_underscores() {
                return Err(Oddity::Underscore.because("a field's name has an underscore"));
            }
            if frames_in_disguise(name) {
                return Err(Oddity::Underscore.because("a field's name frames the message for some servers"));
            }
        }
        let value = value.trim_ascii();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            6 if name.eq_ignore_ascii_case(b"expect") => expect(value, direction),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade.1 |= law.rules.upgrade(value).is_some();
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => self.connection(value, direction),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.coding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &'a [u8]) -> Result<(), Refusal> {
        match self.host.replace(value) {
            None => Ok(()),
            Some(_) => Err(Oddity::Host.because("more than one Host field")),
        }
    }

    fn length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let plain = match value {
            [b'0'] => true,
            [b'1'..=b'9', rest @ ..] => rest.len() < DIGITS_MAX && rest.iter().all(u8::is_ascii_digit),
            _ => false,
        };
        let number =
            if plain { std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) } else { None };
        let number =
            number.ok_or(Oddity::ContentLength.because("Content-Length is no plain decimal number"))?;
        match self.length.replace(number) {
            None => Ok(()),
            Some(_) => Err(Oddity::ContentLength.because("more than one Content-Length")),
        }
    }

    fn coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.chunked, true) {
            return Err(Oddity::TransferEncoding.because("more than one Transfer-Encoding"));
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            return Ok(());
        }
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let others = |coding: &[u8]| is_token(coding) && !coding.eq_ignore_ascii_case(b"identity");
        match codings.next_back() {
            Some(last) if is_chunked(last) && codings.all(|one| others(one) && !is_chunked(one)) => {
                Err(Oddity::TransferCoding.because("a transfer coding beside chunked"))
            }
            _ => Err(Oddity::TransferEncoding.because("Transfer-Encoding is not chunked, once and alone")),
        }
    }

    fn connection(&mut self, value: &[u8], direction: Direction) -> Result<(), Refusal> {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.is_empty() {
                continue;
            }
            if !is_token(option) && direction == Direction::Request {
                return Err(Oddity::Connection.because("Connection is no list of names"));
            }
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.upgrade.0 |= option.eq_ignore_ascii_case(b"upgrade");
            if direction == Direction::Request && must_stay(option) {
                return Err(Oddity::Connection.because("Connection names a field that every hop needs"));
            }
        }
        Ok(())
    }

    /// What follows the head by its fields; `None` where they do not say.
    pub(super) fn body(&self, is_http_11: bool) -> Result<Option<Body>, Refusal> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Oddity::BothLengths.because("both Content-Length and Transfer-Encoding")),
            (true, None) if !is_http_11 => {
                Err(Oddity::TransferEncoding.because("Transfer-Encoding in HTTP/1.0"))
            }
            (true, None) => Ok(Some(Body::Chunked)),
            (false, length) => Ok(length.map(Body::Length)),
        }
    }

    /// Whether they ask for an upgrade that is allowed.
    pub(super) fn upgrades(&self) -> bool {
        self.upgrade == (true, true)
    }

    /// Whether the connection ends with this exchange.
    pub(super) fn is_last(&self, is_http_11: bool) -> bool {
        self.close || !(is_http_11 || self.keep_alive)
    }
}

fn expect(value: &[u8], direction: Direction) -> Result<(), Refusal> {
    if direction == Direction::Answer || value.eq_ignore_ascii_case(b"100-continue") {
        return Ok(());
    }
    Err(Oddity::Expect.because("an expectation other than 100-continue"))
}

/// A field that says what the message is for everybody on its way: no hop may take it out.
fn must_stay(name: &[u8]) -> bool {
    let needed: [&[u8]; 5] = [b"host", b"content-length", b"transfer-encoding", b"authorization", b"cookie"];
    needed.iter().any(|one| name.eq_ignore_ascii_case(one))
        || name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"x-weir-"))
}

/// Name and value of a line.
fn split(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let length = line.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(line.len());
    match line.split_at_checked(length) {
        Some((name, [b':', value @ ..])) if !name.is_empty() => Ok((name, value)),
        Some(([], [b' ' | b'\t', ..])) => Err(Oddity::Fold.because("a line begins with white space")),
        _ => Err(Oddity::FieldName.because("a field's name is no token with a colon behind it")),
    }
}

/// Whether a field would say where the message ends to a server that takes underscores for hyphens: neither this
/// agent nor hyper reads it so.
fn frames_in_disguise(name: &[u8]) -> bool {
    let fold = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    let called = |wanted: &[u8]| name.iter().map(fold).eq(wanted.iter().copied());
    called(b"content-length") || called(b"transfer-encoding")
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

fn is_token_byte(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).is_some_and(|is_one| *is_one)
}

/// By a byte's value: a look-up is faster than the comparisons.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "256 entries")]
        {
            table[byte] = (byte as u8).is_ascii_alphanumeric()
                || matches!(
                    byte as u8,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
        }
        byte += 1;
    }
    table
};

/// Without a branch a byte, so that it takes many bytes at once.
pub(super) fn has_control(value: &[u8]) -> bool {
    value.iter().fold(false, |found, byte| found | ((*byte < b' ') & (*byte != b'\t')) | (*byte == 0x7f))
}
