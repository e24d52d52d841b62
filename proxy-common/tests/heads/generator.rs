//! Heads out of a seed, and what to read them by; the tests of the user half include this file too.
#![allow(dead_code, reason = "each user takes what it needs")]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

use proxy_common::{head::Span, policy::method};

/// Method names in the order of their bits.
pub(crate) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// The bytes of a span.
pub(crate) fn part(bytes: &[u8], span: Span) -> &[u8] {
    &bytes[span.start as usize..span.end as usize]
}

/// The name of a method's bit.
pub(crate) fn method_name(bit: u32) -> &'static str {
    assert!(bit.is_power_of_two() && bit & method::ALL != 0, "{bit}");
    METHODS[bit.trailing_zeros() as usize]
}

/// Heads out of a seed (splitmix64): cheap, and the same everywhere.
pub(crate) struct Heads(u64);

/// Bytes that a parser may trip over.
const ODD: &[u8] = b"\0\t\n\r \x0b\x7f\x80\xff:;,./\\?#%_-\"@[]{}<>|^`~()=&+*!$'019azAZkK";
const PATHS: [&str; 14] = [
    "/",
    "/a",
    "/admin",
    "/api/v1/items",
    "/a/b/",
    "/.well-known/x",
    "/a..b/...",
    "/%2e%2e/admin",
    "/a/../b",
    "//a",
    "/a;b",
    "*",
    "http://h/a",
    "/a/.",
];
const QUERIES: [&str; 6] = ["", "?", "?a=b&c=%20", "?a/../b//", "?a;b?c", "?a#b"];
const FIELDS: [&str; 27] = [
    "Accept: */*",
    "User-Agent: curl/8.5.0",
    "X-Request-Id: 0",
    "Cookie: a=b; c=\"d\"",
    "Hosting: a",
    "Content-Type: text/plain",
    "Content-Length: 0",
    "content-length:17",
    "CONTENT-LENGTH: \t 1234567890 ",
    "Content-Length: 012",
    "Content-Length: 12345678901",
    "Connection: keep-alive",
    "connection:Keep-Alive\t",
    "Connection: close",
    "Keep-Alive: timeout=5",
    "Transfer-Encoding: chunked",
    "Te: trailers",
    "Max-Forwards: 0",
    "Tea: green",
    "Trailer: x",
    "Trailers: x",
    "Upgrade: websocket",
    "Expect: 100-continue",
    "Expectation: none",
    "Proxy-Connection: keep-alive",
    "X_Y: z",
    "X: caf\u{e9}",
];
const HOSTS: [&str; 14] = [
    "web",
    "web.example",
    "web.example:8080",
    "WEB-1.a_b:1",
    "10.0.0.1:59999",
    "[fd00::1]",
    "[fd00::1]:80",
    "web:60000",
    "web:0",
    "web:",
    "a..b",
    "a/b",
    "",
    "web. ",
];

impl Heads {
    /// The heads of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Mostly one of the first: the usual, to leave room for one oddity at a time.
    fn usually<T: Copy>(&mut self, all: &[T], usual: usize) -> T {
        if self.below(8) == 0 { self.one_of(all) } else { self.one_of(&all[..usual]) }
    }

    /// A request, perhaps a hostile one, perhaps with something behind it.
    pub(crate) fn request(&mut self) -> Vec<u8> {
        let method = if self.below(20) == 0 {
            self.one_of(&["get", "CONNECT", "TRACE", "G", ""])
        } else {
            self.one_of(&METHODS)
        };
        let (path, query) = (self.usually(&PATHS, 7), self.usually(&QUERIES, 5));
        let version = self.usually(&["HTTP/1.1", "HTTP/1.0", "http/1.1", "HTTP/2.0"], 1);
        let mut head = format!("{method} {path}{query} {version}\r\n").into_bytes();
        let host = self.usually(&HOSTS, 7);
        let name = self.one_of(&["Host: ", "host:", "HOST:\t "]);
        let host = format!("{name}{host}");
        self.fields(&mut head, &host);
        self.mutate(&mut head);
        head
    }

    /// An answer, perhaps an odd one.
    pub(crate) fn answer(&mut self) -> Vec<u8> {
        let version = self.usually(&["HTTP/1.1", "HTTP/1.0", "HTTP/1.2"], 1);
        let status = self.usually(
            &[
                "200 OK",
                "404 Not Found",
                "503 ",
                "204 No",
                "304 Not",
                "200",
                "100 C",
                "101 S",
                "600 x",
                "0 a",
            ],
            5,
        );
        let mut head = format!("{version} {status}\r\n").into_bytes();
        let length =
            self.one_of(&["Content-Length: 5", "content-length: 0", "Content-Length: 100000", "A: b"]);
        self.fields(&mut head, length);
        self.mutate(&mut head);
        head
    }

    fn fields(&mut self, head: &mut Vec<u8>, first: &str) {
        let count = self.below(6);
        let place = self.below(count + 1);
        for at in 0..=count {
            if at == place {
                head.extend_from_slice(first.as_bytes());
            } else {
                let field = if self.below(6) == 0 { self.one_of(&FIELDS) } else { self.one_of(&FIELDS[..6]) };
                let framing =
                    self.one_of(&[field, field, field, "Content-Length: 3", "Connection: Keep-Alive"]);
                head.extend_from_slice(framing.as_bytes());
            }
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        if self.below(4) == 0 {
            head.extend_from_slice(b"GET /admin HTTP/1.1\r\nHost: b\r\n\r\n");
        }
    }

    fn mutate(&mut self, head: &mut Vec<u8>) {
        for _ in 0..[0, 0, 1, 1, 1, 2, 3, 6][self.below(8)] {
            if head.is_empty() {
                return;
            }
            let at = self.below(head.len());
            let byte = if self.below(4) == 0 { self.next() as u8 } else { self.one_of(ODD) };
            match self.below(7) {
                0 => head[at] = byte,
                1 => head[at] ^= 1 << self.below(8),
                2 => head.insert(at, byte),
                3 => drop(head.remove(at)),
                4 => head.truncate(at.max(1)),
                5 => {
                    let copied = head[at..(at + self.below(24)).min(head.len())].to_vec();
                    let to = self.below(head.len());
                    head.splice(to..to, copied);
                }
                _ => head[at] = head[at].to_ascii_uppercase() ^ (self.next() as u8 & 32),
            }
        }
    }
}
