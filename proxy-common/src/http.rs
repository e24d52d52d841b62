//! The bounded look at the first bytes of a connection (and, later, the bounded head scanner).
//! Pure and total: the kernel half can run the same code.

/// What the first bytes of a steered connection say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// A method token, a space and the beginning of a request target (RFC 9112 section 3).
    Http1,
    /// The whole connection preface of HTTP/2 (RFC 9113 section 3.4).
    Http2,
    /// Can become neither any more: carried as opaque TCP.
    Opaque,
    /// Could still become any of them; more bytes are needed.
    Unsure,
}

/// No method registered with IANA is longer (UPDATEREDIRECTREF has 17 characters).
pub const LONGEST_METHOD: usize = 24;

/// What a client's connection begins with that speaks HTTP/2 (RFC 9113 section 3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Classifies the first bytes that a client sent. One CRLF in front is allowed
/// (RFC 9112 section 2.2). PRI is no method but the beginning of the preface of HTTP/2.
#[must_use]
pub fn opening(bytes: &[u8]) -> Opening {
    if bytes.starts_with(HTTP2_PREFACE) {
        return Opening::Http2;
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Opening::Unsure;
    }
    let bytes = match bytes {
        [] | [b'\r'] => return Opening::Unsure,
        [b'\r', b'\n', rest @ ..] => rest,
        other => other,
    };
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'A'..=b'Z' | b'-' | b'_' if at < LONGEST_METHOD => {}
            b'0'..=b'9' if at > 0 && at < LONGEST_METHOD => {}
            b' ' if at > 0 => return after_method(bytes, at),
            _ => return Opening::Opaque,
        }
    }
    Opening::Unsure
}

fn after_method(bytes: &[u8], space: usize) -> Opening {
    let (method, target) = bytes.split_at_checked(space).unwrap_or((bytes, &[]));
    match (method, target.get(1)) {
        (_, None) => Opening::Unsure,
        (b"PRI", Some(_)) => Opening::Opaque,
        (b"CONNECT", Some(_)) | (_, Some(b'/' | b'*' | b'h' | b'H')) => Opening::Http1,
        _ => Opening::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::{HTTP2_PREFACE, Opening, opening};

    #[test]
    fn requests_open_as_http1() {
        for line in
            ["GET / HTTP/1.1\r\n", "\r\nPOST /a", "OPTIONS *", "GET http://h/", "CONNECT a:80", "M0 /x"]
        {
            assert_eq!(opening(line.as_bytes()), Opening::Http1, "{line}");
        }
    }

    #[test]
    fn other_protocols_open_as_opaque() {
        for bytes in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"PRI * HTTP/2.1\r\n",
            b"PRI /a HTTP/1.1\r\n",
            b"PING\r\n",
            b"GET key\r\n",
            b"\x00\x00\x00\x08",
            b" GET /",
        ] {
            assert_eq!(opening(bytes), Opening::Opaque, "{bytes:?}");
        }
    }

    #[test]
    fn d2_a_prefix_of_the_preface_is_unsure_and_the_whole_of_it_is_http2() {
        for cut in 0..HTTP2_PREFACE.len() {
            assert_eq!(opening(HTTP2_PREFACE.get(..cut).unwrap_or_default()), Opening::Unsure, "{cut}");
        }
        assert_eq!(opening(HTTP2_PREFACE), Opening::Http2);
        assert_eq!(opening(&[HTTP2_PREFACE, &[0, 0, 0, 4]].concat()), Opening::Http2);
    }

    #[test]
    fn a_prefix_of_a_request_is_unsure_and_never_opaque() {
        let line = b"DELETE /x HTTP/1.1\r\n";
        for cut in 0..8 {
            assert_eq!(opening(line.get(..cut).unwrap_or_default()), Opening::Unsure, "{cut}");
        }
    }
}
