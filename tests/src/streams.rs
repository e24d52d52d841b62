//! Generated request streams: what a client may say on one connection, well-formed and not.

use crate::pattern::{Pattern, Random};

/// One stream.
#[derive(Debug, Clone)]
pub struct Stream {
    /// What the client sends.
    pub bytes: Vec<u8>,
    /// The requests' methods: an answer each, if all goes well.
    pub methods: Vec<&'static str>,
    /// The agent may end the connection within it: the client closes its sending side after it, and reads
    /// to the end.
    pub doubtful: bool,
    /// The client sends ahead of an answer: its connection is not armed again.
    pub ahead: bool,
}

/// Streams whose end is not foreseen, of a hundred.
const DOUBTFUL: u64 = 12;
/// Streams of more than one request, of a hundred.
const PIPELINED: u64 = 15;

const METHODS: [&str; 10] = ["GET", "GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"];

/// Below `/api` everything is allowed by the policy of the corpus, of `/ro` GET, and `/exact` alone.
const TARGETS: [&str; 40] = [
    "/api/a",
    "/api/a",
    "/api/b/c",
    "/api/b?x=1&y=2",
    "/api/",
    "/api",
    "/apix",
    "/Api/a",
    "/exact",
    "/exact",
    "/exact/",
    "/exact?q",
    "/exact%3fq",
    "/ro/1",
    "/ro/1",
    "/ro/2?z",
    "/ro",
    "/",
    "/",
    "/admin",
    "/admin/a",
    "/admin?/api/a",
    "/api/%61",
    "/api/a%20b",
    "/api/../admin",
    "/api/./a",
    "/api/..",
    "//api/a",
    "/api//a",
    "/api/a;b",
    "/api/a\\b",
    "/api/%2e%2e/admin",
    "/api/%2fadmin",
    "/api/%252e%252e/admin",
    "/api/a~b-c_d.e!$'()*+,=:@",
    "/api/?",
    "/admin/../api/a",
    "http://demo/api/a",
    "http://other/api/a",
    "/api/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

const HOSTS: [&str; 10] = [
    "demo",
    "demo",
    "demo",
    "demo:8080",
    "DEMO",
    "10.96.0.10",
    "other.example",
    "demo.",
    "[fd00::1]",
    "demo:80",
];

const FIELDS: [&str; 24] = [
    "Accept: */*",
    "User-Agent: corpus/1",
    "accept-encoding: gzip, br",
    "X-A: 1",
    "X-A: 2",
    "x-a: 3",
    "X-Empty:",
    "X-Space:  \t two  ",
    "Cookie: a=b; c=d",
    "Cookie: e=f",
    "Authorization: Bearer abc",
    "Via: 1.1 other",
    "Forwarded: for=192.0.2.1",
    "X-Forwarded-For: 192.0.2.1",
    "Connection: keep-alive",
    "connection: Keep-Alive",
    "Connection: close",
    "Connection: X-A",
    "Keep-Alive: timeout=5",
    "TE: trailers",
    "Range: bytes=0-4",
    "Expect: 100-continue",
    "Proxy-Authorization: Basic x",
    "If-None-Match: \"x\"",
];

/// How the endpoint answers; see `weir-peer recorder`.
const ANSWERS: [&str; 12] =
    ["length", "length", "length", "length", "length", "chunked", "204", "304", "404", "500", "103", "close"];

/// Heads and bodies that the agent must not let pass, or in its own reading only; from RFC 9112 and what
/// has been used to smuggle. `POST /api/x HTTP/1.1` and Host come before those that begin with a field.
const ODD_FIELDS: [&str; 36] = [
    "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: identity\r\n\r\n",
    "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    " Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding:\tchunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "Transfer-Encoding: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "Transfer_Encoding: chunked\r\nContent-Length: 1\r\n\r\na",
    "Content_Length: 5\r\n\r\n",
    "Content-Length: +3\r\n\r\nabc",
    "Content-Length: -3\r\n\r\nabc",
    "Content-Length: 0x3\r\n\r\nabc",
    "Content-Length: 3 3\r\n\r\nabc",
    "Content-Length:\r\n\r\n",
    "Content-Length: 1_0\r\n\r\nabc",
    "Content-Length: 18446744073709551616\r\n\r\n",
    "Content-Length: 3, 4\r\n\r\nabc",
    "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "Content-Length: 003\r\n\r\nabc",
    "Content-Length: 3, 3\r\n\r\nabc",
    "Content-Length: 38\r\n\r\nGET /admin HTTP/1.1\r\nHost: h\r\nX: 12\r\n\r\n",
    "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /admin HTTP/1.1\r\nHost: demo\r\n\r\n",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n\r\n",
    "Expect: 200-ok\r\n\r\n",
    "Host: other\r\n\r\n",
    "Host: demo\r\n\r\n",
    "X: a\rb\r\n\r\n",
    "X: a\u{0}b\r\n\r\n",
    ": v\r\n\r\n",
    "No colon\r\n\r\n",
    "X: 1\r\n folded\r\n\r\n",
];

/// Whole heads of that kind.
const ODD_HEADS: [&str; 22] = [
    "GET /api/a HTTP/1.1\nHost: demo\n\n",
    "GET /api/a HTTP/1.1\r\nHost: demo\n\r\n",
    "GET /api/a HTTP/1.1\r\n\r\n",
    "GET /api/a HTTP/1.1\r\nHost:\r\n\r\n",
    "GET /api/a HTTP/1.1\r\nHost: a b\r\n\r\n",
    "GET /api/a HTTP/1.1\r\nHost: demo\r\nHost: demo\r\n\r\n",
    "GET /api/a HTTP/1.0\r\nHost: demo\r\n\r\n",
    "GET /api/a HTTP/1.0\r\n\r\n",
    "GET /api/a HTTP/1.2\r\nHost: demo\r\n\r\n",
    "GET /api/a http/1.1\r\nHost: demo\r\n\r\n",
    "get /api/a HTTP/1.1\r\nHost: demo\r\n\r\n",
    "BREW /api/a HTTP/1.1\r\nHost: demo\r\n\r\n",
    "GET  /api/a HTTP/1.1\r\nHost: demo\r\n\r\n",
    "GET /api/a  HTTP/1.1\r\nHost: demo\r\n\r\n",
    "GET\t/api/a HTTP/1.1\r\nHost: demo\r\n\r\n",
    "GET api/a HTTP/1.1\r\nHost: demo\r\n\r\n",
    "GET /api/a#b HTTP/1.1\r\nHost: demo\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: demo\r\n\r\n",
    "GET /api/a%zz HTTP/1.1\r\nHost: demo\r\n\r\n",
    "GET /api/a%00b HTTP/1.1\r\nHost: demo\r\n\r\n",
    "\r\nGET /api/a HTTP/1.1\r\nHost: demo\r\n\r\n",
    "CONNECT demo:80 HTTP/1.1\r\nHost: demo:80\r\n\r\n",
];

impl Stream {
    /// The stream of a number; always the same.
    #[must_use]
    pub fn generate(number: u64) -> Self {
        let mut random = Random::new(number);
        let mut stream = Self { bytes: Vec::new(), methods: Vec::new(), doubtful: false, ahead: false };
        let kind = random.next() % 100;
        if kind < DOUBTFUL {
            stream.odd(&mut random);
            return stream;
        }
        let count = if kind < DOUBTFUL + PIPELINED { 2 + random.next() % 2 } else { 1 };
        for _ in 0..count {
            stream.request(&mut random);
        }
        stream.ahead = count > 1;
        stream
    }

    fn odd(&mut self, random: &mut Random) {
        self.doubtful = true;
        if random.next().is_multiple_of(3) {
            self.request(random);
        }
        let head = one(random, &ODD_HEADS);
        let fields = one(random, &ODD_FIELDS);
        if random.next().is_multiple_of(2) {
            self.bytes.extend_from_slice(head.as_bytes());
        } else {
            self.bytes.extend_from_slice(b"POST /api/x HTTP/1.1\r\nHost: demo\r\n");
            self.bytes.extend_from_slice(fields.as_bytes());
        }
        self.methods.push("GET");
    }

    fn request(&mut self, random: &mut Random) {
        let method = one(random, &METHODS);
        let answer = one(random, &ANSWERS);
        let head = format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\nX-Answer: {answer}\r\n",
            one(random, &TARGETS),
            one(random, &HOSTS)
        );
        self.bytes.extend_from_slice(head.as_bytes());
        for _ in 0..random.next() % 4 {
            let field = one(random, &FIELDS);
            // Who ends the connection, or waits, does so alone.
            self.doubtful |= field.ends_with("close");
            self.bytes.extend_from_slice(field.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.doubtful |= answer == "close";
        let has_body = matches!(method, "POST" | "PUT") || random.next().is_multiple_of(10);
        self.body(random, has_body);
        self.methods.push(method);
    }

    fn body(&mut self, random: &mut Random, has_body: bool) {
        let length = if has_body { random.next() % 40 } else { 0 };
        let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
        Pattern::new(random.next()).fill(&mut body);
        if has_body && random.next().is_multiple_of(4) {
            self.bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(15) {
                self.bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                self.bytes.extend_from_slice(piece);
                self.bytes.extend_from_slice(b"\r\n");
            }
            self.bytes.extend_from_slice(b"0\r\n\r\n");
            return;
        }
        if has_body {
            self.bytes.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes.extend_from_slice(&body);
    }

    /// Where it can be cut in two.
    #[must_use]
    pub fn cuts(&self) -> std::ops::Range<usize> {
        1..self.bytes.len()
    }
}

fn one(random: &mut Random, of: &[&'static str]) -> &'static str {
    let index = usize::try_from(random.next() % of.len() as u64).unwrap_or(0);
    of.get(index).copied().unwrap_or_default()
}
