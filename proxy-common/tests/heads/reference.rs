//! The scanner's rules a second time, by splitting strings: slow, allocating, and not by the same hand
//! movements.

use proxy_common::head::{AnswerHead, FIELDS_MAX, Framing, RequestHead, Span, WINDOW};

/// What a request must be read as; `None` for unsure.
pub(crate) fn request(bytes: &[u8]) -> Option<RequestHead> {
    let lines = lines(bytes)?;
    let (line, fields) = lines.split_first()?;
    let [method, target, b"HTTP/1.1"] = line.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let number = super::METHODS.iter().position(|name| name.as_bytes() == method)?;
    if !canonical(target) {
        return None;
    }
    let fields = Fields::of(fields)?;
    let host_value = fields.one("host")??;
    let host = host(host_value)?;
    let start = (host.as_ptr() as usize - bytes.as_ptr() as usize) as u32;
    let target_start = method.len() as u32 + 1;
    Some(RequestHead {
        content_length: fields.content_length()?.unwrap_or(0),
        method: 1 << number,
        target: Span { start: target_start, end: target_start + target.len() as u32 },
        host: Span { start, end: start + host.len() as u32 },
        head_len: head_len(bytes)?,
    })
}

/// What an answer must be read as; `None` for unsure.
pub(crate) fn answer(bytes: &[u8], head_request: bool) -> Option<AnswerHead> {
    let lines = lines(bytes)?;
    let (line, fields) = lines.split_first()?;
    let rest = line.strip_prefix(b"HTTP/1.1 ")?;
    let (code, reason) = (rest.get(..3)?, rest.get(3..)?.strip_prefix(b" ")?);
    if !code.iter().all(u8::is_ascii_digit) || !value_bytes(reason) {
        return None;
    }
    let status: u32 = std::str::from_utf8(code).ok()?.parse().ok()?;
    let fields = Fields::of(fields)?;
    // It means nothing here; but the scanner reads the fields of requests and answers alike.
    if !fields.all("host").all(|value| host(value).is_some()) {
        return None;
    }
    let length = fields.content_length()?;
    let framing = match status {
        204 if length.is_some() => return None,
        204 | 304 => Framing::NoBody,
        200..=599 if head_request => Framing::NoBody,
        200..=599 => Framing::Length(length?),
        _ => return None,
    };
    Some(AnswerHead { framing, status, head_len: head_len(bytes)? })
}

fn head_len(bytes: &[u8]) -> Option<u32> {
    let len = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    (len <= WINDOW).then_some(len as u32)
}

fn lines(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = &bytes[..head_len(bytes)? as usize - 4];
    let mut lines = Vec::new();
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let whole = lines.iter().all(|line| !line.contains(&b'\r') && !line.contains(&b'\n'));
    whole.then_some(lines)
}

fn canonical(target: &[u8]) -> bool {
    let Some(target) = target.strip_prefix(b"/") else { return false };
    let mut halves = target.splitn(2, |byte| *byte == b'?');
    let (path, query) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    let segments: Vec<_> = path.split(|byte| *byte == b'/').collect();
    let whole = segments.split_last().is_some_and(|(_, first)| first.iter().all(|one| !one.is_empty()));
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(byte);
    whole
        && !segments.iter().any(|segment| matches!(*segment, b"." | b".."))
        && path.iter().all(|byte| plain(byte) || *byte == b'/')
        && query.iter().all(|byte| plain(byte) || b"/?;%".contains(byte))
}

fn value_bytes(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

/// The name or address of a Host field, checked, and its port cut off.
fn host(value: &[u8]) -> Option<&[u8]> {
    let (name, port) = if value.first() == Some(&b'[') {
        let end = value.iter().position(|byte| *byte == b']')? + 1;
        let inside = &value[1..end - 1];
        let address = inside.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte));
        if inside.is_empty() || !address {
            return None;
        }
        value.split_at(end)
    } else {
        let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
        let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let label = |label: &[u8]| !label.is_empty() && label.iter().all(letter);
        if !value[..end].split(|byte| *byte == b'.').all(label) {
            return None;
        }
        value.split_at(end)
    };
    if !port.is_empty() {
        let digits = std::str::from_utf8(port.strip_prefix(b":")?).ok()?;
        let number: u32 = digits.parse().ok()?;
        if digits != number.to_string() || !(1..60_000).contains(&number) {
            return None;
        }
    }
    Some(name)
}

struct Fields<'a>(Vec<(String, &'a [u8])>);

impl<'a> Fields<'a> {
    fn of(lines: &[&'a [u8]]) -> Option<Self> {
        let mut fields = Vec::new();
        for line in lines {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(byte);
            if name.is_empty() || !name.iter().all(letter) || !value_bytes(value) {
                return None;
            }
            let name = String::from_utf8(name.to_ascii_lowercase()).ok()?;
            fields.push((name, trim(value)));
        }
        let fields = Self(fields);
        let refused = ["transfer-encoding", "upgrade", "expect", "te", "trailer", "max-forwards"];
        let odd = fields.0.iter().any(|(name, _)| refused.contains(&&**name) || name.starts_with("proxy-"));
        let kept = fields.one("connection")?.is_none_or(|value| value.eq_ignore_ascii_case(b"keep-alive"));
        (!odd && kept && fields.0.len() <= FIELDS_MAX as usize).then_some(fields)
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| *value)
    }

    /// The value of a field; `None` where there are several.
    fn one(&self, name: &str) -> Option<Option<&'a [u8]>> {
        let mut named = self.all(name);
        let first = named.next();
        named.next().is_none().then_some(first)
    }

    fn content_length(&self) -> Option<Option<u64>> {
        let Some(value) = self.one("content-length")? else { return Some(None) };
        let text = std::str::from_utf8(value).ok()?;
        let number: u64 = text.parse().ok()?;
        (text == number.to_string() && text.len() <= 10).then_some(Some(number))
    }
}

/// Without the white space around it that RFC 9110 calls OWS.
fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| b" \t".contains(byte);
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |at| at + 1);
    &value[start..end]
}
