//! `weir doctor tls`: what a client and a server agree upon. Four connections: as a client of today, the same
//! that speaks HTTP/2 alone, and one of each version of TLS.

mod handshake;

use crate::{
    config::{Output, doctor::TlsArgs},
    tls::version_name,
};
use anyhow::Context as _;
use handshake::{Session, Target};
use rustls::{
    RootCertStore, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde::Serialize;
use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

/// What a client of today offers by ALPN.
const TODAY: [&str; 2] = ["h2", "http/1.1"];

pub(super) fn tls(args: &TlsArgs) -> anyhow::Result<ExitCode> {
    let report = Report::of(args)?;
    let mut out = io::stdout().lock();
    match args.output {
        Output::Text => write!(out, "{report}")?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        }
    }
    let fine = report.session.as_ref().is_ok_and(|session| session.verified.is_ok());
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All that was found out.
#[derive(Debug, Serialize)]
struct Report {
    target: String,
    server_name: String,
    /// As a client of today.
    session: Result<Session, String>,
    /// Why both do not speak HTTP/2; absent where they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_http2: Option<String>,
    /// Each version alone: the suite, or what was said instead.
    versions: Vec<Version>,
}

#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    cipher: Result<&'static str, String>,
}

impl Report {
    fn of(args: &TlsArgs) -> anyhow::Result<Self> {
        let (host, port) = split(&args.target)?;
        let name = args.name.clone().unwrap_or_else(|| host.clone());
        let server_name =
            ServerName::try_from(name.clone()).with_context(|| format!("{name:?} is no name"))?;
        let roots = Arc::new(roots(args)?);
        let target = Target { host, port, name: server_name, roots, timeout: args.timeout };
        let session = target.connect(&TODAY, &[&TLS13, &TLS12]);
        let not_http2 = session.as_ref().ok().and_then(|session| {
            why_not_http2(session, || target.connect(&["h2"], &[&TLS13, &TLS12]).map(|session| session.alpn))
        });
        let alone = |version: &'static SupportedProtocolVersion| Version {
            version: version_name(version.version),
            cipher: target.connect(&TODAY, &[version]).map(|session| session.cipher),
        };
        Ok(Self {
            target: args.target.clone(),
            server_name: name,
            session,
            not_http2,
            versions: vec![alone(&TLS13), alone(&TLS12)],
        })
    }
}

/// `None` where it is HTTP/2; `alone` asks for that and nothing else.
fn why_not_http2(
    session: &Session,
    alone: impl FnOnce() -> Result<Option<String>, String>,
) -> Option<String> {
    match session.alpn.as_deref() {
        Some("h2") => None,
        None => Some("the server does not answer ALPN: it speaks HTTP/1.1, or does not say what".to_owned()),
        Some(other) => Some(match alone() {
            Ok(Some(h2)) if h2 == "h2" => format!("the server can, but likes {other} better"),
            Ok(_) => format!("the server takes {other} for an answer to everything"),
            Err(why) => format!("the server offers {other} and not h2 (asked for h2 alone: {why})"),
        }),
    }
}

/// HOST, HOST:PORT, [ADDRESS]:PORT or ADDRESS.
fn split(target: &str) -> anyhow::Result<(String, u16)> {
    if let Ok(ip) = target.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>() {
        return Ok((ip.to_string(), 443));
    }
    match target.rsplit_once(':') {
        None => Ok((target.to_owned(), 443)),
        Some((host, port)) => {
            let port = port.parse().with_context(|| format!("{port:?} is no port"))?;
            Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
        }
    }
}

fn roots(args: &TlsArgs) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match &args.ca {
        Some(file) => {
            let all = CertificateDer::pem_file_iter(file).with_context(|| file.display().to_string())?;
            for certificate in all {
                roots.add(certificate.with_context(|| file.display().to_string())?)?;
            }
        }
        None => {
            // Those that cannot be read are not trusted.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, server_name, session, not_http2, versions } = self;
        writeln!(f, "{}, asked for {}", printable(target), printable(server_name))?;
        match session {
            Err(why) => writeln!(f, "  no session: {}", printable(why))?,
            Ok(session) => write!(f, "{session}")?,
        }
        if let Some(why) = not_http2 {
            writeln!(f, "  not HTTP/2: {}", printable(why))?;
        }
        for Version { version, cipher } in versions {
            match cipher {
                Ok(cipher) => writeln!(f, "  {version} alone: {cipher}")?,
                Err(why) => writeln!(f, "  {version} alone: no session: {}", printable(why))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, version, cipher, alpn, verified, stapled, asks_for_certificate, chain } = self;
        writeln!(f, "  {version} with {cipher} at {address}")?;
        writeln!(f, "  ALPN: {}", alpn.as_deref().map_or("none".to_owned(), printable))?;
        match verified {
            Ok(()) => writeln!(
                f,
                "  certificate: verified{}",
                if *stapled { ", with an OCSP response" } else { "" }
            )?,
            Err(why) => writeln!(f, "  certificate: a client would refuse it: {}", printable(why))?,
        }
        if *asks_for_certificate {
            writeln!(f, "  client certificate: the server asks for one (it may refuse who has none)")?;
        }
        for one in chain {
            let names = one.names.join(", ");
            writeln!(
                f,
                "    {} by {}, {} to {} {}",
                printable(&one.subject),
                printable(&one.issuer),
                one.not_before,
                one.not_after,
                printable(&names)
            )?;
        }
        Ok(())
    }
}

/// What came from outside, without what moves a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::testing::certificates::Authority;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use std::{net::TcpListener, time::Duration};

    /// A server that shakes hands four times at most; its port.
    fn server(config: ServerConfig) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(config);
        std::thread::spawn(move || {
            for stream in listener.incoming().take(4) {
                let session = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(session, stream.unwrap());
                // Where it fails the client is told, which is what is looked at.
                let _ = io::copy(&mut stream, &mut io::sink());
            }
        });
        port
    }

    fn report(config: ServerConfig, authority: &Authority, name: &str) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        Report::of(&TlsArgs {
            target: format!("127.0.0.1:{}", server(config)),
            name: Some(name.to_owned()),
            ca: Some(ca),
            timeout: Duration::from_secs(10),
            output: Output::Text,
        })
        .unwrap()
    }

    #[test]
    fn what_both_agree_upon_is_shown_and_why_it_is_not_http2() {
        let authority = Authority::new();
        for (offered, alpn, why) in [
            (&["h2", "http/1.1"][..], Some("h2"), None),
            (&["http/1.1", "h2"], Some("http/1.1"), Some("likes http/1.1 better")),
            (&["http/1.1"], Some("http/1.1"), Some("offers http/1.1 and not h2")),
            (&[], None, Some("does not answer ALPN")),
        ] {
            let mut config = authority.server(&["web.test"]);
            config.alpn_protocols = offered.iter().map(|one| one.as_bytes().to_vec()).collect();
            let report = report(config, &authority, "web.test");
            let session = report.session.as_ref().unwrap();
            assert_eq!((session.alpn.as_deref(), session.verified.as_ref()), (alpn, Ok(&())), "{offered:?}");
            assert_eq!(session.version, "TLSv1.3");
            assert_eq!(session.chain.len(), 1);
            let said = report.not_http2.clone().unwrap_or_default();
            assert!(why.map_or(said.is_empty(), |why| said.contains(why)), "{offered:?}: {said}");
            assert!(report.to_string().contains("web.test"), "{report}");
        }
    }

    #[test]
    fn a_certificate_that_clients_refuse_is_shown_with_the_reason() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let refused = |report: &Report| report.session.as_ref().unwrap().verified.clone().unwrap_err();
        let misnamed = report(authority.server(&["web.test"]), &authority, "other.test");
        assert!(refused(&misnamed).contains("not valid for name"), "{misnamed}");
        let unknown = report(stranger.server(&["web.test"]), &authority, "web.test");
        // Both authorities have one name: the signature tells.
        assert!(refused(&unknown).contains("BadSignature"), "{unknown}");
    }

    #[test]
    fn a_server_that_asks_for_a_clients_certificate_is_shown_to_ask() {
        let authority = Authority::new();
        let open = report(authority.server(&["web.test"]), &authority, "web.test");
        assert!(!open.session.as_ref().unwrap().asks_for_certificate, "{open}");
        let config = authority.demanding(&authority.pair(&["web.test"]), &["h2"], &[&authority]);
        let strict = report(config, &authority, "web.test");
        assert!(strict.session.as_ref().unwrap().asks_for_certificate, "{strict}");
        assert!(strict.to_string().contains("client certificate: the server asks for one"), "{strict}");
        let old = strict.versions.iter().find(|one| one.version == "TLSv1.2").unwrap();
        assert!(old.cipher.is_err(), "{strict}");
    }

    #[test]
    fn targets_have_port_443_unless_they_say_otherwise() {
        for (target, host, port) in [
            ("a.test", "a.test", 443),
            ("a.test:8443", "a.test", 8443),
            ("10.0.0.1:8443", "10.0.0.1", 8443),
            ("::1", "::1", 443),
            ("[::1]:8443", "::1", 8443),
            ("[::1]", "::1", 443),
        ] {
            assert_eq!(split(target).unwrap(), (host.to_owned(), port));
        }
        assert!(split("a.test:x").is_err());
    }
}
