//! The bounded scanner of HTTP/1.1 heads: pure, the same code in both halves.
//!
//! It answers for heads that are beyond doubt: complete, in a window of [`WINDOW`] bytes, and read the
//! same way by every parser. Everything else is [`Unsure`], never a guess.
//!
//! A byte is one step of a table-driven automaton ([`mod@table`]): a transition names the next node and an
//! *action*, for which the byte's position is noted and which is counted, whether or not anybody asks.
//! Nothing branches on a byte's value, so that the verifier follows one path through the loop. The counts
//! stay in a register: read and written back at every byte, they would take longer than all the rest.

mod table;
#[cfg(test)]
mod tests;

use crate::policy::method;
use table::{ACTIONS, ANSWER, CLASSES, COUNTED, DONE, FIRST_LIVE, NEXT, REQUEST, action, count_of, index};

/// Bytes of a head that are looked at; longer heads are the agent's.
pub const WINDOW: usize = 2048;
/// Fields of a head; more are the agent's, whose parser has the same limit (hyper's default).
pub const FIELDS_MAX: u32 = 100;
/// Digits of a Content-Length.
pub const DIGITS_MAX: u32 = 10;
/// Where a status begins: after `HTTP/1.1` and a space.
pub const STATUS_AT: usize = 9;
/// Actions of the automaton, a power of two.
const ACTION_COUNT: usize = 16;

/// Why a head is the agent's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[must_use]
pub enum Unsure {
    /// Not one of the methods of [`method`], in capitals, at the first byte.
    Method = 1,
    /// The target does not begin with a slash: absolute, authority or asterisk form.
    TargetForm,
    /// The target has a byte that is not RFC 3986's, or a semicolon in its path.
    TargetByte,
    /// The path is percent-encoded.
    PercentEncoded,
    /// The path has a segment that is empty (but the last), `.` or `..`.
    Segment,
    /// Anything but `HTTP/1.1`.
    Version,
    /// LF without CR, or CR without LF.
    LineEnd,
    /// Not a token, with an underscore, or with a space before the colon.
    FieldName,
    /// A value with a control character.
    FieldValue,
    /// A line that begins with white space.
    Fold,
    /// None, several, or not a plain name or address with perhaps a port below 60000.
    Host,
    /// There is a Transfer-Encoding.
    TransferEncoding,
    /// Several, or not a plain decimal number of at most [`DIGITS_MAX`] digits; in an answer, none.
    ContentLength,
    /// Connection says anything but `keep-alive`.
    Connection,
    /// There is an Upgrade.
    Upgrade,
    /// There is an Expect.
    Expect,
    /// There is a field that the agent would take out: TE, Trailer, `Proxy-` anything.
    HopByHop,
    /// Not three digits and a space, or not between 200 and 599.
    Status,
    /// More than [`FIELDS_MAX`] fields.
    TooManyFields,
    /// The bytes end before the head does.
    Incomplete,
    /// The head is longer than [`WINDOW`].
    BeyondWindow,
    /// The processor's scratch space was in use: a program was preempted (kernel half only).
    Busy,
}

/// A part of a head, as offsets from its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

impl Span {
    /// Its length; 0 where it ends before it starts.
    #[inline(always)]
    #[must_use]
    pub fn len(self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it has no bytes.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The head of a request beyond doubt. The connection stays open after it: HTTP/1.1, and Connection is
/// absent or `keep-alive`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHead {
    /// Bytes of the body; 0 without Content-Length.
    pub content_length: u64,
    /// One bit of [`method`].
    pub method: u32,
    /// The target in origin form, query included.
    pub target: Span,
    /// The host, without port.
    pub host: Span,
    /// Bytes of the head, its empty line included.
    pub head_len: u32,
}

/// The head of an answer beyond doubt; the connection stays open after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnswerHead {
    /// What follows the head.
    pub framing: Framing,
    /// 200 to 599.
    pub status: u32,
    /// Bytes of the head, its empty line included.
    pub head_len: u32,
}

/// What follows an answer's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// Nothing: 204, 304, or the request was HEAD.
    NoBody,
    /// So many bytes.
    Length(u64),
}

/// Where a scan is, and what it has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    node: u8,
    /// By [`count_of`].
    counts: u64,
}

impl State {
    /// Before a request.
    pub const REQUEST: Self = Self { node: REQUEST, counts: 0 };
    /// Before an answer.
    pub const ANSWER: Self = Self { node: ANSWER, counts: 0 };

    /// Whether more bytes change nothing.
    #[inline(always)]
    #[must_use]
    pub fn is_final(self) -> bool {
        self.node < FIRST_LIVE
    }

    /// As a number, which [`Self::from_bits`] takes back: for crossing a call.
    #[inline(always)]
    #[must_use]
    pub fn bits(self) -> u64 {
        self.counts << u8::BITS | u64::from(self.node)
    }

    /// See [`Self::bits`].
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a node is a byte")]
    pub fn from_bits(bits: u64) -> Self {
        Self { node: bits as u8, counts: bits >> u8::BITS }
    }

    #[inline(always)]
    fn count(self, action: u32) -> u32 {
        count_of(self.counts, action)
    }

    /// The Content-Length of `cells`, if there is one; `number` reads its digits.
    #[inline(always)]
    fn content_length(
        self,
        cells: &Cells,
        number: impl FnOnce(Span) -> Option<u64>,
    ) -> Result<Option<u64>, Unsure> {
        if self.count(action::LENGTH) == 0 {
            return Ok(None);
        }
        let digits = Span { start: cells.at(action::LENGTH), end: cells.at(action::LENGTH_END) };
        if self.count(action::LENGTH) > 1 || digits.len() > DIGITS_MAX {
            return Err(Unsure::ContentLength);
        }
        number(digits).map(Some).ok_or(Unsure::ContentLength)
    }

    #[inline(always)]
    fn sane(self) -> Result<(), Unsure> {
        if self.count(action::CONNECTION) > 1 {
            return Err(Unsure::Connection);
        }
        if self.count(action::FIELD) > FIELDS_MAX { Err(Unsure::TooManyFields) } else { Ok(()) }
    }

    /// Whether the head was read to its end; `seen` bytes were read.
    #[inline(always)]
    fn done(self, seen: u32) -> Result<(), Unsure> {
        const REASONS: [Unsure; Unsure::Status as usize] = [
            Unsure::Method,
            Unsure::TargetForm,
            Unsure::TargetByte,
            Unsure::PercentEncoded,
            Unsure::Segment,
            Unsure::Version,
            Unsure::LineEnd,
            Unsure::FieldName,
            Unsure::FieldValue,
            Unsure::Fold,
            Unsure::Host,
            Unsure::TransferEncoding,
            Unsure::ContentLength,
            Unsure::Connection,
            Unsure::Upgrade,
            Unsure::Expect,
            Unsure::HopByHop,
            Unsure::Status,
        ];
        if self.node == DONE {
            return Ok(());
        }
        match REASONS.get(usize::from(self.node) - 1) {
            Some(reason) => Err(*reason),
            None if seen as usize >= WINDOW => Err(Unsure::BeyondWindow),
            None => Err(Unsure::Incomplete),
        }
    }
}

/// Positions that a scan leaves behind: for each action, the offset of the last byte with it. All zero
/// before it.
#[derive(Clone, Copy, Default, Debug)]
#[repr(transparent)]
pub struct Cells([u32; ACTION_COUNT]);

impl Cells {
    #[inline(always)]
    fn at(&self, action: u32) -> u32 {
        self.0.get(action as usize).copied().unwrap_or(0)
    }

    /// The method's bit and the offset of the target.
    #[inline(always)]
    fn method(&self) -> Option<(u32, u32)> {
        let mut at = 0;
        while at < method::ALL.count_ones() {
            // No method ends at the first byte.
            let end = self.at(action::METHOD + at);
            if end != 0 {
                return Some((1 << at, end + 1));
            }
            at += 1;
        }
        None
    }
}

/// Reads one byte, which lies at offset `at`.
#[inline(always)]
#[must_use]
pub fn step(state: State, byte: u8, at: u32, cells: &mut Cells) -> State {
    let class = CLASSES.get(usize::from(byte)).map_or(0, |class| *class);
    let transition = index(class, state.node);
    let action = ACTIONS.get(transition).map_or(0, |action| usize::from(*action)) & (ACTION_COUNT - 1);
    if let Some(cell) = cells.0.get_mut(action) {
        *cell = at;
    }
    let counted = COUNTED.get(action).map_or(0, |counted| *counted);
    State { node: NEXT.get(transition).map_or(0, |next| *next), counts: state.counts.wrapping_add(counted) }
}

/// What a scan from [`State::REQUEST`] found in `seen` bytes. `number` reads the digits of a span.
///
/// # Errors
/// The reason why the head is the agent's.
#[inline(always)]
pub fn request_head(
    state: State,
    seen: u32,
    cells: &Cells,
    number: impl FnOnce(Span) -> Option<u64>,
) -> Result<RequestHead, Unsure> {
    state.done(seen)?;
    state.sane()?;
    if state.count(action::HOST) != 1 {
        return Err(Unsure::Host);
    }
    let content_length = state.content_length(cells, number)?.unwrap_or(0);
    let (method, target) = cells.method().ok_or(Unsure::Method)?;
    Ok(RequestHead {
        content_length,
        method,
        target: Span { start: target, end: cells.at(action::TARGET_END) },
        host: Span { start: cells.at(action::HOST), end: cells.at(action::HOST_END) },
        head_len: cells.at(action::END) + 1,
    })
}

/// What a scan from [`State::ANSWER`] found in `seen` bytes. `status` reads the bytes at [`STATUS_AT`],
/// `number` the digits of a span.
///
/// # Errors
/// The reason why the head is the agent's.
#[inline(always)]
pub fn answer_head(
    state: State,
    seen: u32,
    cells: &Cells,
    head_request: bool,
    status: impl FnOnce() -> Option<[u8; 3]>,
    number: impl FnOnce(Span) -> Option<u64>,
) -> Result<AnswerHead, Unsure> {
    const NO_CONTENT: u32 = 204;
    const NOT_MODIFIED: u32 = 304;
    state.done(seen)?;
    state.sane()?;
    let status =
        status().ok_or(Unsure::Status)?.iter().fold(0, |status, digit| status * 10 + u32::from(digit & 15));
    let length = state.content_length(cells, number)?;
    let framing = match (status, length) {
        // RFC 9110 section 8.6 forbids it, and parsers differ.
        (NO_CONTENT, Some(_)) => return Err(Unsure::ContentLength),
        (NO_CONTENT | NOT_MODIFIED, _) => Framing::NoBody,
        _ if head_request => Framing::NoBody,
        (_, Some(length)) => Framing::Length(length),
        (_, None) => return Err(Unsure::ContentLength),
    };
    Ok(AnswerHead { framing, status, head_len: cells.at(action::END) + 1 })
}

/// The value of the first `len` digits.
#[inline(always)]
#[must_use]
pub fn decimal(digits: &[u8; DIGITS_MAX as usize], len: u32) -> u64 {
    let mut value: u64 = 0;
    let mut at = 0;
    while at < DIGITS_MAX && at < len {
        let digit = digits.get(at as usize).map_or(0, |digit| u64::from(digit & 15));
        value = value.wrapping_mul(10).wrapping_add(digit);
        at += 1;
    }
    value
}

/// Reads the head of the request that begins with the first of these bytes.
///
/// # Errors
/// The reason why the head is the agent's.
pub fn scan_request(bytes: &[u8]) -> Result<RequestHead, Unsure> {
    let (state, seen, cells) = scan(bytes, State::REQUEST);
    request_head(state, seen, &cells, |digits| number(bytes, digits))
}

/// Reads the head of the answer that begins with the first of these bytes, to a HEAD request or another.
///
/// # Errors
/// The reason why the head is the agent's.
pub fn scan_answer(bytes: &[u8], head_request: bool) -> Result<AnswerHead, Unsure> {
    let (state, seen, cells) = scan(bytes, State::ANSWER);
    let status = || bytes.get(STATUS_AT..)?.first_chunk().copied();
    answer_head(state, seen, &cells, head_request, status, |digits| number(bytes, digits))
}

fn scan(bytes: &[u8], start: State) -> (State, u32, Cells) {
    let (mut state, mut seen, mut cells) = (start, 0, Cells::default());
    for byte in bytes.iter().take(WINDOW) {
        state = step(state, *byte, seen, &mut cells);
        seen += 1;
        if state.is_final() {
            break;
        }
    }
    (state, seen, cells)
}

fn number(bytes: &[u8], span: Span) -> Option<u64> {
    let found = bytes.get(span.start as usize..span.end as usize)?;
    let mut digits = [0; DIGITS_MAX as usize];
    digits.get_mut(..found.len())?.copy_from_slice(found);
    Some(decimal(&digits, span.len()))
}
