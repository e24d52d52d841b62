//! The PROXY protocol (HAProxy's specification, versions 1 and 2): a load balancer in front of the node says in
//! the connection's first bytes whom it stands for. Only those are believed who were said to speak it
//! (`--proxy-protocol-from`), and they must: whoever guesses can be told anything.
//!
//! Whom it names is told to endpoints and to the log. Policies go by who has connected.

use crate::{admission::Oddity, downstream::Connection};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::net::TcpStream;

const V1: &[u8] = b"PROXY ";
/// The longest line of version 1, its CRLF included.
const V1_MAX: usize = 107;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What of version 2 comes before the addresses.
const V2_FIXED: usize = 16;
/// The longest header of version 2: addresses, and some hundred bytes of what we skip.
const V2_MAX: usize = 4096;
/// What is looked at at once.
const CHUNK: usize = 512;

/// What the first bytes say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// All of them are the header's, and more are to come.
    More,
    /// The header is so long, and names a client; `None` where the connection is the proxy's own, or the client
    /// is unknown to it.
    Done(usize, Option<SocketAddr>),
}

/// Reads a header; `Err` says why it is none. More bytes never change what fewer have said.
pub(crate) fn read(bytes: &[u8]) -> Result<Step, &'static str> {
    if V1.starts_with(bytes) || V2.starts_with(bytes) {
        return Ok(Step::More);
    }
    if bytes.starts_with(V1) {
        return version_1(bytes);
    }
    if bytes.starts_with(V2) {
        return version_2(bytes);
    }
    Err("no PROXY header")
}

fn version_1(bytes: &[u8]) -> Result<Step, &'static str> {
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~');
    let end = bytes.iter().position(|byte| !is_text(byte)).unwrap_or(bytes.len());
    if end + 2 > V1_MAX {
        return Err("the PROXY line is longer than 107 bytes");
    }
    let line = bytes.get(..end).unwrap_or_default();
    match bytes.get(end..) {
        Some([] | [b'\r']) => Ok(Step::More),
        Some([b'\r', b'\n', ..]) => Ok(Step::Done(end + 2, named_by_line(line)?)),
        _ => Err("the PROXY line has a control character"),
    }
}

fn named_by_line(line: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    let odd = "the PROXY line does not name two addresses and two ports";
    let text = std::str::from_utf8(line).map_err(|_| odd)?;
    let mut words = text.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let [source, target, source_port, target_port] = [(); 4].map(|()| words.next().unwrap_or_default());
    if words.next().is_some() {
        return Err(odd);
    }
    let address = |text: &str| match family {
        Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let source = address(source).zip(port(source_port)).ok_or(odd)?;
    address(target).zip(port(target_port)).ok_or(odd)?;
    Ok(Some(client(source.0, source.1)))
}

/// A decimal number without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    text.parse().ok().filter(|_| plain)
}

fn client(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

fn version_2(bytes: &[u8]) -> Result<Step, &'static str> {
    let Some(&command) = bytes.get(V2.len()) else { return Ok(Step::More) };
    if !matches!(command, 0x20 | 0x21) {
        return Err("neither LOCAL nor PROXY of version 2");
    }
    let Some(&family) = bytes.get(V2.len() + 1) else { return Ok(Step::More) };
    let addresses = match (command, family) {
        // Whatever the family: it is skipped.
        (0x20, _) | (_, 0x00) => 0,
        (_, 0x11) => 12,
        (_, 0x21) => 36,
        _ => return Err("a family or a transport other than TCP over IP"),
    };
    let Some(&[high, low]) = bytes.get(V2_FIXED - 2..V2_FIXED) else { return Ok(Step::More) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < addresses {
        return Err("the header is shorter than its addresses");
    }
    let whole = V2_FIXED + length;
    if whole > V2_MAX {
        return Err("the header is longer than 4 KiB");
    }
    let Some(behind) = bytes.get(V2_FIXED..whole) else { return Ok(Step::More) };
    let (addresses, more) = behind.split_at_checked(addresses).unwrap_or((behind, &[]));
    if !addresses.is_empty() && !are_tlvs(more) {
        return Err("what follows the addresses does not fit the header");
    }
    Ok(Step::Done(whole, named_by(addresses)))
}

/// The source, of addresses as they lie there: both, then both ports.
fn named_by(addresses: &[u8]) -> Option<SocketAddr> {
    match addresses {
        [a, b, c, d, _, _, _, _, high, low, ..] if addresses.len() == 12 => {
            Some(client(Ipv4Addr::new(*a, *b, *c, *d).into(), u16::from_be_bytes([*high, *low])))
        }
        _ => {
            let source: [u8; 16] = addresses.get(..16)?.try_into().ok()?;
            let port: [u8; 2] = addresses.get(32..34)?.try_into().ok()?;
            Some(client(Ipv6Addr::from(source).into(), u16::from_be_bytes(port)))
        }
    }
}

/// Whether these are types, lengths and values up to the last byte.
fn are_tlvs(mut bytes: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = bytes {
        let Some(behind) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return false };
        bytes = behind;
    }
    bytes.is_empty()
}

/// Reads the header where this client must send one, and nothing behind it. False where the connection is over:
/// there was none, or a bad one.
pub(crate) async fn accept(connection: &mut Connection) -> bool {
    let relay = &connection.relay;
    if !relay.settings.proxies.iter().any(|net| net.contains(connection.client.0.ip())) {
        return true;
    }
    let patience = relay.settings.protocol_detect.unwrap_or(Duration::MAX);
    let outcome = tokio::select! {
        header = tokio::time::timeout(patience, receive(connection.wire.stream())) => header,
        () = relay.drain.aborted() => return false,
    };
    let client = connection.client.0;
    match outcome {
        Ok(Ok(Ok(named))) => {
            connection.named = named;
            return true;
        }
        Ok(Ok(Err(why))) => {
            tracing::info!(%client, why, "a proxy's connection without a PROXY header");
            relay.observer.metrics.bad_request(Oddity::ProxyHeader);
        }
        Ok(Err(error)) => tracing::debug!(%error, %client, "PROXY header"),
        Err(_) => relay.observer.metrics.downstream_refused("protocol_detect"),
    }
    false
}

/// Looks before it takes: what is behind the header is for others to read.
async fn receive(stream: &TcpStream) -> io::Result<Result<Option<SocketAddr>, &'static str>> {
    let mut header = Vec::new();
    loop {
        let mut chunk = [0; CHUNK];
        let seen = stream.peek(&mut chunk).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = header.len();
        header.extend_from_slice(chunk.get(..seen).unwrap_or_default());
        match read(&header) {
            Ok(Step::More) => take(stream, seen).await?,
            Ok(Step::Done(length, named)) => {
                take(stream, length.saturating_sub(before)).await?;
                return Ok(Ok(named));
            }
            Err(why) => return Ok(Err(why)),
        }
    }
}

/// Takes bytes that have been seen.
async fn take(stream: &TcpStream, mut count: usize) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    while count > 0 {
        stream.readable().await?;
        match stream.try_read(chunk.get_mut(..count).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(taken) => count = count.saturating_sub(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// What a header says, which is the same however it is cut, whatever follows it.
    fn said(header: &[u8]) -> Result<Step, &'static str> {
        let whole = [header, b"GET / HTTP/1.1\r\n"].concat();
        let verdict = read(&whole);
        let first = (0..=whole.len()).map(|end| read(&whole[..end])).find(|step| *step != Ok(Step::More));
        assert_eq!(first, Some(verdict), "{}", String::from_utf8_lossy(header));
        if let Ok(Step::Done(length, _)) = verdict {
            assert_eq!(length, header.len());
            assert_eq!(read(&whole[..length - 1]), Ok(Step::More), "not before it is whole");
        }
        verdict
    }

    fn names(header: &[u8]) -> Option<String> {
        match said(header).unwrap() {
            Step::Done(_, named) => Some(named.map_or("nobody".to_owned(), |named| named.to_string())),
            Step::More => None,
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, rest].concat()
    }

    const OVER_IPV4: [u8; 12] = [192, 0, 2, 9, 10, 0, 0, 1, 0xdd, 0xd5, 0, 80];

    #[test]
    fn version_1_names_a_client() {
        assert_eq!(names(b"PROXY TCP4 192.0.2.9 10.0.0.1 56789 80\r\n").unwrap(), "192.0.2.9:56789");
        assert_eq!(names(b"PROXY TCP6 2001:db8::9 fd00::1 56789 80\r\n").unwrap(), "[2001:db8::9]:56789");
        assert_eq!(names(b"PROXY TCP6 ::ffff:192.0.2.9 ::1 1 0\r\n").unwrap(), "192.0.2.9:1");
        assert_eq!(names(b"PROXY UNKNOWN\r\n").unwrap(), "nobody");
        let longest = [&b"PROXY UNKNOWN "[..], &[b'f'; V1_MAX - 16], b"\r\n"].concat();
        assert_eq!(names(&longest).unwrap(), "nobody");
    }

    #[test]
    fn k7_a_bad_line_of_version_1_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.9 10.0.0.1 56789 80\n",
            "PROXY TCP4 192.0.2.9 10.0.0.1 56789 80\r \n",
            "PROXY TCP4 192.0.2.9 10.0.0.1 56789\r\n",
            "PROXY TCP4 192.0.2.9 10.0.0.1 56789 80 1\r\n",
            "PROXY TCP4 192.0.2.9  10.0.0.1 56789 80\r\n",
            "PROXY TCP4 192.0.2.09 10.0.0.1 56789 80\r\n",
            "PROXY TCP4 2001:db8::9 fd00::1 56789 80\r\n",
            "PROXY TCP6 192.0.2.9 10.0.0.1 56789 80\r\n",
            "PROXY TCP4 192.0.2.9 10.0.0.1 65536 80\r\n",
            "PROXY TCP4 192.0.2.9 10.0.0.1 +1 80\r\n",
            "PROXY TCP4 192.0.2.9 10.0.0.1 01 80\r\n",
            "PROXY UDP4 192.0.2.9 10.0.0.1 1 80\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.9 10.0.0.1 1 \x0080\r\n",
            "proxy TCP4 192.0.2.9 10.0.0.1 1 80\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert!(said(line.as_bytes()).is_err(), "{line:?}");
        }
        let long = [&b"PROXY UNKNOWN "[..], &[b'f'; V1_MAX - 15], b"\r\n"].concat();
        assert!(said(&long).is_err());
        assert!(read(&[b"PROXY ".as_slice(), &[b'1'; 100]].concat()).is_err(), "without waiting for its end");
    }

    #[test]
    fn version_2_names_a_client_and_what_else_it_says_is_skipped() {
        assert_eq!(names(&v2(0x21, 0x11, &OVER_IPV4)).unwrap(), "192.0.2.9:56789");
        let tlvs = [&OVER_IPV4[..], &[1, 0, 2, b'h', b'2', 4, 0, 0, 0xe2, 0, 1, 7]].concat();
        assert_eq!(names(&v2(0x21, 0x11, &tlvs)).unwrap(), "192.0.2.9:56789");
        let mut over_ipv6 = [0; 36];
        over_ipv6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        over_ipv6[32..].copy_from_slice(&[0xdd, 0xd5, 0, 80]);
        assert_eq!(names(&v2(0x21, 0x21, &over_ipv6)).unwrap(), "[2001:db8::]:56789");
    }

    #[test]
    fn version_2_names_nobody_for_a_proxy_of_its_own_accord() {
        assert_eq!(names(&v2(0x20, 0x00, &[])).unwrap(), "nobody");
        assert_eq!(names(&v2(0x20, 0x11, &OVER_IPV4)).unwrap(), "nobody");
        assert_eq!(names(&v2(0x20, 0xff, &[9; 300])).unwrap(), "nobody");
        assert_eq!(names(&v2(0x21, 0x00, &[1, 2, 3])).unwrap(), "nobody");
    }

    #[test]
    fn k7_a_bad_header_of_version_2_is_refused() {
        for (command, family, rest) in [
            (0x11, 0x11, &OVER_IPV4[..]),
            (0x22, 0x11, &OVER_IPV4),
            (0x21, 0x12, &OVER_IPV4),
            (0x21, 0x31, &[0; 216]),
            (0x21, 0x11, &OVER_IPV4[..11]),
            (0x21, 0x21, &OVER_IPV4),
            (0x21, 0x11, &[OVER_IPV4.as_slice(), &[1, 0, 9, 0]].concat()),
            (0x21, 0x11, &[OVER_IPV4.as_slice(), &[1, 0]].concat()),
            (0x20, 0x00, &[0; V2_MAX]),
        ] {
            assert!(said(&v2(command, family, rest)).is_err(), "{command:x} {family:x} {rest:?}");
        }
        let mut other = v2(0x20, 0, &[]);
        other[4] = 1;
        assert!(said(&other).is_err());
    }
}
