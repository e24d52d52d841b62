//! The automaton that reads heads, built when this crate is compiled.
//!
//! Grammar: RFC 9112 sections 3 to 5, without what it only tolerates, and RFC 9110 section 5. Bytes fall
//! into 64 classes; a transition is a next state and an action, the index of the cell that notes the byte's
//! position.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "evaluated by the compiler, where each would be an error of the build"
)]

use super::{ACTION_COUNT, Unsure, WINDOW};

/// Entries: 256 states of 64 classes.
pub(super) const TABLE_LEN: usize = 256 * CLASS_COUNT;
/// Classes of bytes, a power of two.
pub(super) const CLASS_COUNT: usize = 64;

/// The final state of a head that was read to its end; others are [`Unsure`] reasons.
pub(super) const DONE: u8 = 0;
/// The first state that is not final.
pub(super) const FIRST_LIVE: u8 = 32;

/// Actions: what their byte is.
pub(super) mod action {
    /// Nothing that matters.
    pub(in crate::head) const NONE: u32 = 0;
    /// The space after the first method of `METHODS`; the others follow.
    pub(in crate::head) const METHOD: u32 = 1;
    /// The space after the target.
    pub(in crate::head) const TARGET_END: u32 = 8;
    /// First byte of the host.
    pub(in crate::head) const HOST: u32 = 9;
    /// The byte after the host, its port not counted.
    pub(in crate::head) const HOST_END: u32 = 10;
    /// First digit of the Content-Length.
    pub(in crate::head) const LENGTH: u32 = 11;
    /// The byte after its last digit.
    pub(in crate::head) const LENGTH_END: u32 = 12;
    /// First byte of a Connection field's value.
    pub(in crate::head) const CONNECTION: u32 = 13;
    /// LF of a field.
    pub(in crate::head) const FIELD: u32 = 14;
    /// LF of the empty line.
    pub(in crate::head) const END: u32 = 15;
}

/// Actions that are counted; the first in the lowest bits.
const COUNTERS: [u32; 4] = [action::HOST, action::LENGTH, action::CONNECTION, action::FIELD];
/// Bits of a counter: it cannot flow over into the next, even if every byte of the window counted.
const COUNTER_BITS: u32 = (WINDOW as u64 + 1).next_power_of_two().trailing_zeros();
const _: () = assert!(COUNTERS.len() as u32 * COUNTER_BITS + u8::BITS <= u64::BITS);

/// What each action adds to the counts.
pub(super) static COUNTED: [u64; ACTION_COUNT] = counted();

const fn counted() -> [u64; ACTION_COUNT] {
    let mut counted = [0; ACTION_COUNT];
    let mut at = 0;
    while at < COUNTERS.len() {
        counted[COUNTERS[at] as usize] = 1 << (at as u32 * COUNTER_BITS);
        at += 1;
    }
    counted
}

/// How often `counts` says that one of [`COUNTERS`] occurred; 0 for other actions.
#[inline(always)]
pub(super) fn count_of(counts: u64, action: u32) -> u32 {
    let place = COUNTERS.iter().position(|counter| *counter == action);
    place.map_or(0, |at| (counts >> (at as u32 * COUNTER_BITS)) as u32 & ((1 << COUNTER_BITS) - 1))
}

/// Method names in the order of `policy::method`.
const METHODS: [&[u8]; 7] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"];

/// Bytes with a class of their own.
const SINGLE: &[u8] = b"\t\n\r /.?#%;\\:-_[]01ACDEGHILNOPSTUacdeghilnopstu";
/// Letters whose cases share a class: they occur in field names only.
const CASELESS: &[u8] = b"bfkmrvwxy";
/// Bytes that only ever occur together, a class a line.
const GROUPS: [&[u8]; 7] = [b"jqzJQZ", b"2345", b"6789", b"!$&'*+~", b"^`|", b"(),=@", b"\"<>{}"];
/// Bytes above 127 (obs-text). Class 0 is what is nowhere allowed: controls and DEL.
const OBS_TEXT: usize = 63;

const DIGIT: &[u8] = b"0123456789";
const ALPHA: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const BLANK: u64 = set(b" \t");
const CR: u64 = set(b"\r");
const LF: u64 = set(b"\n");
const COLON: u64 = set(b":");
/// RFC 9110 `tchar` without the underscore, which some servers take for a hyphen (wire.md S7).
const TOKEN: u64 = set(DIGIT) | set(ALPHA) | set(b"!#$%&'*+-.^`|~");
/// RFC 3986 `pchar` without percent-encoding and semicolon.
const SEGMENT: u64 = set(DIGIT) | set(ALPHA) | set(b"-._~!$&'()*+,=:@");
const QUERY: u64 = SEGMENT | set(b"/?;%");
const VALUE: u64 = !(1 | LF | CR);
const LABEL: u64 = set(DIGIT) | set(ALPHA) | set(b"-_");
/// Hexadecimal digits, colon and dot.
const ADDRESS: u64 = set(b"0123456789abcdefABCDEF:.");

/// The class of each byte.
pub(super) static CLASSES: [u8; 256] = CLASS_OF;
const CLASS_OF: [u8; 256] = classes();

/// The next states, by class and state: in this order, and of one byte each, because the state's way
/// through the processor is what the scan waits for. An addition and a load are the least.
pub(super) static NEXT: [u8; TABLE_LEN] = MACHINE.next;
/// The actions of the same transitions.
pub(super) static ACTIONS: [u8; TABLE_LEN] = MACHINE.actions;
const MACHINE: Machine = machine();
/// Where a request begins.
pub(super) const REQUEST: u8 = MACHINE.request;
/// Where an answer begins.
pub(super) const ANSWER: u8 = MACHINE.answer;

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut next = 1;
    let mut at = 0;
    while at < SINGLE.len() {
        classes[SINGLE[at] as usize] = next;
        next += 1;
        at += 1;
    }
    at = 0;
    while at < CASELESS.len() {
        classes[CASELESS[at] as usize] = next;
        classes[CASELESS[at].to_ascii_uppercase() as usize] = next;
        next += 1;
        at += 1;
    }
    at = 0;
    while at < GROUPS.len() {
        let mut of = 0;
        while of < GROUPS[at].len() {
            classes[GROUPS[at][of] as usize] = next;
            of += 1;
        }
        next += 1;
        at += 1;
    }
    assert!(next as usize <= OBS_TEXT, "more classes than the table has columns");
    at = 128;
    while at < 256 {
        classes[at] = OBS_TEXT as u8;
        at += 1;
    }
    classes
}

/// The classes of these bytes; a class that has further bytes is an error.
const fn set(bytes: &[u8]) -> u64 {
    let mut set = 0;
    let mut at = 0;
    while at < bytes.len() {
        set |= 1 << CLASS_OF[bytes[at] as usize];
        at += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut listed = false;
        at = 0;
        while at < bytes.len() {
            listed |= bytes[at] as usize == byte;
            at += 1;
        }
        // A letter alone may stand for both of its cases.
        let letter = bytes.len() == 1 && bytes[0].eq_ignore_ascii_case(&(byte as u8));
        assert!(listed || letter || set & (1 << CLASS_OF[byte]) == 0, "a class is only partly in this set");
        byte += 1;
    }
    set
}

/// Where a transition lies in its table.
#[inline(always)]
pub(super) const fn index(class: u8, state: u8) -> usize {
    (class as usize & (CLASS_COUNT - 1)) << u8::BITS | state as usize
}

struct Machine {
    next: [u8; TABLE_LEN],
    actions: [u8; TABLE_LEN],
    states: usize,
    request: u8,
    answer: u8,
}

/// States that every field needs.
#[derive(Clone, Copy)]
struct Fields {
    /// A line begins.
    line: u8,
    /// CR of a field was read.
    line_end: u8,
    /// The name of a field without meaning here.
    name: u8,
    /// Its value.
    value: u8,
}

const fn machine() -> Machine {
    let mut machine = Machine {
        next: [0; TABLE_LEN],
        actions: [0; TABLE_LEN],
        states: FIRST_LIVE as usize,
        request: 0,
        answer: 0,
    };
    let mut done = 0;
    while done < FIRST_LIVE {
        machine.on(done, !0, done, action::NONE);
        done += 1;
    }
    let fields = machine.fields();
    machine.known_fields(fields);
    let line_end = machine.state(Unsure::LineEnd);
    machine.on(line_end, LF, fields.line, action::NONE);
    machine.request_line(line_end);
    machine.status_line(line_end);
    machine
}

impl Machine {
    /// A new state, in which everything ends the scan with this reason.
    const fn state(&mut self, otherwise: Unsure) -> u8 {
        assert!(self.states < 256, "more states than the table has rows");
        let state = self.states as u8;
        self.states += 1;
        self.on(state, !0, otherwise as u8, action::NONE);
        self.on(state, LF, Unsure::LineEnd as u8, action::NONE);
        state
    }

    /// In this state, bytes of these classes lead there.
    const fn on(&mut self, state: u8, classes: u64, next: u8, action: u32) {
        let mut class = 0;
        while class < CLASS_COUNT {
            if classes >> class & 1 != 0 {
                let at = index(class as u8, state);
                self.next[at] = next;
                self.actions[at] = action as u8;
            }
            class += 1;
        }
    }

    /// A chain of states for these very bytes; the last of them.
    const fn word(&mut self, from: u8, word: &[u8], otherwise: Unsure) -> u8 {
        let mut state = from;
        let mut at = 0;
        while at < word.len() {
            let next = self.state(otherwise);
            self.on(state, set(&[word[at]]), next, action::NONE);
            state = next;
            at += 1;
        }
        state
    }

    const fn next(&self, state: u8, byte: u8) -> u8 {
        self.next[index(CLASS_OF[byte as usize], state)]
    }

    const fn request_line(&mut self, line_end: u8) {
        self.request = self.state(Unsure::Method);
        let target = self.state(Unsure::TargetForm);
        let mut at = 0;
        while at < METHODS.len() {
            self.method(METHODS[at], target, action::METHOD + at as u32);
            at += 1;
        }
        let slash = self.state(Unsure::TargetByte);
        let dot = self.state(Unsure::TargetByte);
        let dots = self.state(Unsure::TargetByte);
        let segment = self.state(Unsure::TargetByte);
        let query = self.state(Unsure::TargetByte);
        let version = self.state(Unsure::Version);
        self.on(target, set(b"/"), slash, action::NONE);
        let states = [slash, dot, dots, segment];
        at = 0;
        while at < states.len() {
            let state = states[at];
            self.on(state, SEGMENT, segment, action::NONE);
            self.on(state, set(b"%"), Unsure::PercentEncoded as u8, action::NONE);
            let ends_whole = state == slash || state == segment;
            let bad = Unsure::Segment as u8;
            self.on(state, set(b"/"), if state == segment { slash } else { bad }, action::NONE);
            self.on(state, set(b"?"), if ends_whole { query } else { bad }, action::NONE);
            self.on(state, set(b" "), if ends_whole { version } else { bad }, action::TARGET_END);
            at += 1;
        }
        self.on(slash, set(b"."), dot, action::NONE);
        self.on(dot, set(b"."), dots, action::NONE);
        self.on(query, QUERY, query, action::NONE);
        self.on(query, set(b" "), version, action::TARGET_END);
        let read = self.word(version, b"HTTP/1.1", Unsure::Version);
        self.on(read, CR, line_end, action::NONE);
    }

    const fn method(&mut self, name: &[u8], target: u8, action: u32) {
        let mut state = self.request;
        let mut at = 0;
        while at < name.len() {
            let mut next = self.next(state, name[at]);
            if next < FIRST_LIVE {
                next = self.state(Unsure::Method);
                self.on(state, set(&[name[at]]), next, action::NONE);
            }
            state = next;
            at += 1;
        }
        self.on(state, set(b" "), target, action);
    }

    const fn status_line(&mut self, line_end: u8) {
        self.answer = self.state(Unsure::Version);
        let status = self.word(self.answer, b"HTTP/1.1 ", Unsure::Version);
        let second = self.state(Unsure::Status);
        let third = self.state(Unsure::Status);
        let space = self.state(Unsure::Status);
        let reason = self.state(Unsure::Status);
        // What `word` left for the byte after it was the version's affair.
        self.on(status, !LF, Unsure::Status as u8, action::NONE);
        self.on(status, set(b"2345"), second, action::NONE);
        self.on(second, set(DIGIT), third, action::NONE);
        self.on(third, set(DIGIT), space, action::NONE);
        self.on(space, set(b" "), reason, action::NONE);
        self.on(reason, VALUE, reason, action::NONE);
        self.on(reason, CR, line_end, action::NONE);
    }

    const fn fields(&mut self) -> Fields {
        let line = self.state(Unsure::FieldName);
        let name = self.state(Unsure::FieldName);
        let value = self.state(Unsure::FieldValue);
        let line_end = self.state(Unsure::LineEnd);
        let last = self.state(Unsure::LineEnd);
        self.on(line, TOKEN, name, action::NONE);
        self.on(line, BLANK, Unsure::Fold as u8, action::NONE);
        self.on(line, CR, last, action::NONE);
        self.on(name, TOKEN, name, action::NONE);
        self.on(name, COLON, value, action::NONE);
        self.on(value, VALUE, value, action::NONE);
        self.on(value, CR, line_end, action::NONE);
        self.on(line_end, LF, line, action::FIELD);
        self.on(last, LF, DONE, action::END);
        Fields { line, line_end, name, value }
    }

    const fn known_fields(&mut self, fields: Fields) {
        let host = self.host(fields);
        let length = self.length(fields);
        let connection = self.connection(fields);
        self.name(fields, b"host", host);
        self.name(fields, b"content-length", length);
        self.name(fields, b"connection", connection);
        self.name(fields, b"transfer-encoding", Unsure::TransferEncoding as u8);
        self.name(fields, b"upgrade", Unsure::Upgrade as u8);
        self.name(fields, b"expect", Unsure::Expect as u8);
        self.name(fields, b"te", Unsure::HopByHop as u8);
        self.name(fields, b"trailer", Unsure::HopByHop as u8);
        self.name(fields, b"max-forwards", Unsure::HopByHop as u8);
        let proxy = self.name(fields, b"proxy-", Unsure::HopByHop as u8);
        self.on(proxy, TOKEN, proxy, action::NONE);
    }

    /// A field name in either case, whose value is read by that state; the name's last state.
    const fn name(&mut self, fields: Fields, name: &[u8], value: u8) -> u8 {
        let mut state = fields.line;
        let mut at = 0;
        while at < name.len() {
            let mut next = self.next(state, name[at]);
            if next == fields.name {
                next = self.state(Unsure::FieldName);
                self.on(next, TOKEN, fields.name, action::NONE);
                self.on(next, COLON, fields.value, action::NONE);
                self.on_letter(state, name[at], next, action::NONE);
            }
            state = next;
            at += 1;
        }
        self.on(state, COLON, value, action::NONE);
        state
    }

    const fn on_letter(&mut self, state: u8, letter: u8, next: u8, action: u32) {
        self.on(state, set(&[letter]), next, action);
        self.on(state, set(&[letter.to_ascii_uppercase()]), next, action);
    }

    /// White space after a value, then the line's end.
    const fn tail(&mut self, fields: Fields, otherwise: Unsure) -> u8 {
        let tail = self.state(otherwise);
        self.on(tail, BLANK, tail, action::NONE);
        self.on(tail, CR, fields.line_end, action::NONE);
        tail
    }

    /// Labels joined by single dots, or an address in brackets; then perhaps a port.
    const fn host(&mut self, fields: Fields) -> u8 {
        let start = self.state(Unsure::Host);
        let label = self.state(Unsure::Host);
        let dot = self.state(Unsure::Host);
        let bracket = self.state(Unsure::Host);
        let address = self.state(Unsure::Host);
        let bracketed = self.state(Unsure::Host);
        let port = self.state(Unsure::Host);
        let tail = self.tail(fields, Unsure::Host);
        self.on(start, BLANK, start, action::NONE);
        self.on(start, LABEL, label, action::HOST);
        self.on(start, set(b"["), bracket, action::HOST);
        self.on(label, LABEL, label, action::NONE);
        self.on(label, set(b"."), dot, action::NONE);
        self.on(dot, LABEL, label, action::NONE);
        self.on(bracket, ADDRESS, address, action::NONE);
        self.on(address, ADDRESS, address, action::NONE);
        self.on(address, set(b"]"), bracketed, action::NONE);
        let ends = [label, bracketed];
        let mut at = 0;
        while at < ends.len() {
            self.on(ends[at], COLON, port, action::HOST_END);
            self.on(ends[at], BLANK, tail, action::HOST_END);
            self.on(ends[at], CR, fields.line_end, action::HOST_END);
            at += 1;
        }
        self.port(fields, port, tail);
        start
    }

    /// Up to five digits, the first not zero, and not 60000 or above: 65535 is the largest.
    const fn port(&mut self, fields: Fields, port: u8, tail: u8) {
        let mut more = Unsure::Host as u8;
        let mut left = 0;
        while left < 5 {
            let digit = self.state(Unsure::Host);
            self.on(digit, set(DIGIT), more, action::NONE);
            self.on(digit, BLANK, tail, action::NONE);
            self.on(digit, CR, fields.line_end, action::NONE);
            if left == 3 {
                self.on(port, set(b"6789"), digit, action::NONE);
            }
            more = digit;
            left += 1;
        }
        self.on(port, set(b"12345"), more, action::NONE);
    }

    const fn length(&mut self, fields: Fields) -> u8 {
        let start = self.state(Unsure::ContentLength);
        let zero = self.state(Unsure::ContentLength);
        let digits = self.state(Unsure::ContentLength);
        let tail = self.tail(fields, Unsure::ContentLength);
        self.on(start, BLANK, start, action::NONE);
        self.on(start, set(b"0"), zero, action::LENGTH);
        self.on(start, set(b"123456789"), digits, action::LENGTH);
        self.on(digits, set(DIGIT), digits, action::NONE);
        let ends = [zero, digits];
        let mut at = 0;
        while at < ends.len() {
            self.on(ends[at], BLANK, tail, action::LENGTH_END);
            self.on(ends[at], CR, fields.line_end, action::LENGTH_END);
            at += 1;
        }
        start
    }

    const fn connection(&mut self, fields: Fields) -> u8 {
        const KEEP_ALIVE: &[u8] = b"keep-alive";
        let start = self.state(Unsure::Connection);
        let tail = self.tail(fields, Unsure::Connection);
        self.on(start, BLANK, start, action::NONE);
        let mut state = start;
        let mut at = 0;
        while at < KEEP_ALIVE.len() {
            let next = self.state(Unsure::Connection);
            let action = if at == 0 { action::CONNECTION } else { action::NONE };
            self.on_letter(state, KEEP_ALIVE[at], next, action);
            state = next;
            at += 1;
        }
        self.on(state, BLANK, tail, action::NONE);
        self.on(state, CR, fields.line_end, action::NONE);
        start
    }
}
