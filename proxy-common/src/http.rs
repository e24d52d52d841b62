//! The bounded look at the first bytes of a connection (and, later, the bounded head scanner).
//! Pure and total: the kernel half can run the same code.

/// What the first bytes of a steered connection say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// A method token, a space and the beginning of a request target (RFC 9112 section 3).
    Http1,
    /// Cannot become an HTTP/1 request line any more: carried as opaque TCP.
    Opaque,
    /// Could still become either; more bytes are needed.
    Unsure,
}

/// No method registered with IANA is longer (UPDATEREDIRECTREF has 17 characters).
pub const LONGEST_METHOD: usize = 24;

/// Classifies the first bytes that a client sent. One CRLF in front is allowed
/// (RFC 9112 section 2.2). `PRI * HTTP/2.0` (RFC 9113 section 3.4) is opaque.
#[must_use]
pub fn opening(bytes: &[u8]) -> Opening {
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
    use super::{Opening, opening};

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
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"PING\r\n",
            b"GET key\r\n",
            b"\x00\x00\x00\x08",
            b" GET /",
        ] {
            assert_eq!(opening(bytes), Opening::Opaque, "{bytes:?}");
        }
    }

    #[test]
    fn a_prefix_of_a_request_is_unsure_and_never_opaque() {
        let line = b"DELETE /x HTTP/1.1\r\n";
        for cut in 0..8 {
            assert_eq!(opening(line.get(..cut).unwrap_or_default()), Opening::Unsure, "{cut}");
        }
    }
}
