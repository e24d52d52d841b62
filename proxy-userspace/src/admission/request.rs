//! A request's head: has it one meaning to every server on its way?

use super::{
    Admitted, Body, Law, Oddity, Refusal, Rules,
    head::{Direction, Framing, is_token, lines},
};
use crate::route::{choices::Choices, host, path};

/// The longest target.
const TARGET_MAX: usize = 8 * 1024;

/// The methods registered with IANA (RFC 9110 section 16.1), but CONNECT TRACE and the PRI of HTTP/2; and
/// PURGE, which caches know.
const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "PURGE",
];

/// Judges a whole head, from its first line to its empty one; `is_secure` where it came over TLS.
pub(super) fn judge(head: &[u8], is_secure: bool, law: Law<'_>) -> Result<Admitted, Refusal> {
    let mut lines = lines(head);
    let line = Line::read(lines.next().unwrap_or_default(), is_secure, law.rules)?;
    let mut fields = Framing::default();
    for field in lines {
        fields.read(field, Direction::Request, law)?;
    }
    line.check_host(fields.host)?;
    line.check_path(law.choices)?;
    let body = fields.body(line.is_http_11)?.unwrap_or(Body::Length(0));
    if line.method == b"TRACE" && body != Body::Length(0) {
        return Err(Oddity::Trace.because("TRACE with a body"));
    }
    let is_last = fields.is_last(line.is_http_11);
    // With a body there would be two things behind the head; it may be ignored (RFC 9110 section 7.8).
    let switches = line.is_http_11 && !is_last && body == Body::Length(0) && fields.upgrades();
    Ok(Admitted { body, is_last, is_interim: false, switches })
}

/// A request line.
struct Line<'a> {
    method: &'a [u8],
    target: &'a [u8],
    is_http_11: bool,
    is_secure: bool,
}

impl<'a> Line<'a> {
    fn read(line: &'a [u8], is_secure: bool, rules: &Rules) -> Result<Self, Refusal> {
        let odd = Oddity::FirstLine.because("the request line is not three parts with a space between them");
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), version, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(odd);
        };
        if !is_token(method) || target.is_empty() {
            return Err(odd);
        }
        if target.len() > TARGET_MAX {
            return Err(Oddity::TargetLength.because("the target is longer than 8 KiB"));
        }
        let is_http_11 = match version {
            Some(b"HTTP/1.1") => true,
            Some(b"HTTP/1.0") => false,
            Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => {
                return Err(Oddity::Version.because("a version other than HTTP/1.0 and HTTP/1.1"));
            }
            _ => return Err(Oddity::FirstLine.because("the request line does not end with a version")),
        };
        if !target.iter().all(|byte| matches!(byte, b'!'..=b'~') && *byte != b'#') {
            return Err(Oddity::TargetForm.because("the target has a byte that is not a target's"));
        }
        let line = Self { method, target, is_http_11, is_secure };
        line.check_method(rules)?;
        Ok(line)
    }

    /// Exactly as it is registered: methods are case-sensitive (RFC 9110 section 9.1).
    fn check_method(&self, rules: &Rules) -> Result<(), Refusal> {
        if self.method == b"CONNECT" {
            return Err(match self.target.first() {
                Some(b'/') => Oddity::TargetForm.because("CONNECT with a path"),
                _ => Oddity::Connect.because("CONNECT: this is no proxy for tunnels"),
            });
        }
        let known = METHODS.iter().any(|one| one.as_bytes() == self.method);
        if known || rules.methods.iter().any(|one| one.as_bytes() == self.method) {
            return Ok(());
        }
        if self.method == b"TRACE" {
            return Err(Oddity::Trace.because("TRACE: it would say what proxies have added"));
        }
        Err(Oddity::Method.because("an unknown method"))
    }

    /// Authority and path of a URL; only the path of a path.
    fn parts(&self) -> Result<(Option<&'a [u8]>, &'a [u8]), Refusal> {
        if self.target.first() == Some(&b'/') || (self.target == b"*" && self.method == b"OPTIONS") {
            return Ok((None, self.target));
        }
        let form =
            Oddity::TargetForm.because("the target is neither a path nor a URL of the connection's scheme");
        let own: &[u8] = if self.is_secure { b"https://" } else { b"http://" };
        let (scheme, rest) = self.target.split_at_checked(own.len()).ok_or(form)?;
        if !scheme.eq_ignore_ascii_case(own) {
            return Err(form);
        }
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        match rest.split_at_checked(end) {
            Some((authority, [])) => Ok((Some(authority), b"/")),
            Some((authority, path @ [b'/', ..])) => Ok((Some(authority), path)),
            _ => Err(form),
        }
    }

    fn check_host(&self, host: Option<&[u8]>) -> Result<(), Refusal> {
        let (authority, _) = self.parts()?;
        let Some(host) = host else {
            if self.is_http_11 || authority.is_some() {
                return Err(Oddity::Host.because("no Host field"));
            }
            return Ok(());
        };
        if !host::is_authority(host) {
            return Err(Oddity::Host.because("the Host field is not a host"));
        }
        match authority {
            Some(authority) if !authority.eq_ignore_ascii_case(host) => {
                Err(Oddity::Authority.because("the target's authority is not the Host field's"))
            }
            _ => Ok(()),
        }
    }

    fn check_path(&self, choices: Choices) -> Result<(), Refusal> {
        let (_, target) = self.parts()?;
        if target == b"*" {
            return Ok(());
        }
        let mut parts = target.splitn(2, |byte| *byte == b'?');
        let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        // Nor does hyper read it (RFC 3986 section 3.4).
        if query.iter().any(|byte| b"\"<>".contains(byte)) {
            return Err(Oddity::TargetForm.because("the query has a byte that is not a target's"));
        }
        let path = std::str::from_utf8(path).map_err(|_| Oddity::Path.because("the path is not ASCII"))?;
        path::within(path, choices).map(drop).map_err(|why| Oddity::Path.because(why))
    }
}
