//! An answer's head: can its client and we not disagree about where it ends?

use super::{
    Admitted, Body, Law, Oddity, Refusal,
    head::{Direction, Framing, has_control, lines},
};

/// Judges a whole head; `to_head` where the request was HEAD, `asked` where it asked for an upgrade. Bare LF has been let through: hyper writes
/// every head anew.
pub(super) fn judge(head: &[u8], (to_head, asked): (bool, bool), law: Law<'_>) -> Result<Admitted, Refusal> {
    let mut lines = lines(head);
    let (is_http_11, status) = status_line(lines.next().unwrap_or_default())?;
    let mut fields = Framing::default();
    for field in lines {
        fields.read(field, Direction::Answer, law)?;
    }
    let said = fields.body(is_http_11)?;
    let switches = status == 101;
    if switches && !(asked && is_http_11) {
        return Err(Oddity::Status.because("101 that nobody asked for"));
    }
    let is_interim = status < 200 && !switches;
    let none = to_head || status < 200 || matches!(status, 204 | 304);
    let body = if none { Body::Length(0) } else { said.unwrap_or(Body::UntilClose) };
    Ok(Admitted { body, is_last: fields.is_last(is_http_11), is_interim, switches })
}

fn status_line(line: &[u8]) -> Result<(bool, u16), Refusal> {
    let odd = Oddity::FirstLine.because("the answer does not begin with a status line");
    let (version, rest) = line.split_at_checked(9).ok_or(odd)?;
    let is_http_11 = match version {
        b"HTTP/1.1 " => true,
        b"HTTP/1.0 " => false,
        _ => return Err(odd),
    };
    let (digits, reason) = rest.split_at_checked(3).ok_or(odd)?;
    if !matches!(reason, [] | [b' ', ..]) || has_control(reason) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Oddity::Status.because("the status is not three digits"));
    }
    let status = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    match status {
        100..=599 => Ok((is_http_11, status)),
        _ => Err(Oddity::Status.because("a status below 100 or above 599")),
    }
}
