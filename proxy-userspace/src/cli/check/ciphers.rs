//! Which cipher suites clients get at a listener with TLS, and why not the others: `weir check --ciphers`.

use super::tls::Offered;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Suites that clients and other proxies' settings name, the best first: as IANA registers them, and as OpenSSL
/// calls them.
const KNOWN: [(&str, &str); 24] = [
    ("TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    ("TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
    ("TLS_DHE_RSA_WITH_AES_256_GCM_SHA384", "DHE-RSA-AES256-GCM-SHA384"),
    ("TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", "DHE-RSA-AES128-GCM-SHA256"),
    ("TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "DHE-RSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", "ECDHE-ECDSA-AES256-SHA384"),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", "ECDHE-ECDSA-AES128-SHA256"),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", "ECDHE-RSA-AES256-SHA384"),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", "ECDHE-RSA-AES128-SHA256"),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", "ECDHE-RSA-AES256-SHA"),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "ECDHE-RSA-AES128-SHA"),
    ("TLS_RSA_WITH_AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
    ("TLS_RSA_WITH_AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
    ("TLS_RSA_WITH_AES_256_CBC_SHA", "AES256-SHA"),
    ("TLS_RSA_WITH_AES_128_CBC_SHA", "AES128-SHA"),
    ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", "DES-CBC3-SHA"),
    ("TLS_RSA_WITH_RC4_128_SHA", "RC4-SHA"),
];

/// A suite at a listener.
#[derive(Debug, Serialize)]
pub(super) struct Cipher {
    suite: &'static str,
    openssl: &'static str,
    version: &'static str,
    offered: bool,
    /// Whether HTTP/2 may be spoken in it (RFC 9113 appendix A).
    http2: bool,
    why: &'static str,
}

impl Cipher {
    /// All that are known, at a listener that offers `suites`.
    pub(super) fn all(suites: &[&'static str]) -> Vec<Self> {
        let one = |(suite, openssl): (&'static str, &'static str)| {
            let offered = suites.contains(&suite);
            let version = if is_of_tls13(suite) { "TLSv1.3" } else { "TLSv1.2" };
            Self { suite, openssl, version, offered, http2: http2(suite), why: why(suite, offered) }
        };
        KNOWN.into_iter().map(one).collect()
    }
}

/// TLS 1.3 names neither key exchange nor signature in a suite (RFC 8446 section 4.1.2).
fn is_of_tls13(suite: &str) -> bool {
    !suite.contains("_WITH_")
}

/// RFC 9113 appendix A forbids what has no ephemeral keys, and what is no AEAD.
fn http2(suite: &str) -> bool {
    is_of_tls13(suite) || (is_ephemeral(suite) && is_aead(suite))
}

fn is_ephemeral(suite: &str) -> bool {
    suite.starts_with("TLS_ECDHE_") || suite.starts_with("TLS_DHE_")
}

fn is_aead(suite: &str) -> bool {
    suite.contains("_GCM_") || suite.contains("_POLY1305_")
}

fn why(suite: &str, offered: bool) -> &'static str {
    match () {
        () if offered && is_of_tls13(suite) => "any certificate will do",
        () if offered => "a certificate of the listener can sign in it",
        () if !is_ephemeral(suite) && !is_of_tls13(suite) => {
            "no forward secrecy: who gets the key later reads what was said"
        }
        () if !is_aead(suite) => "CBC: open to padding oracles",
        () if suite.starts_with("TLS_DHE_") => "finite-field groups: slow, and often weak",
        () if suite.contains("_ECDSA_") => "the listener has no ECDSA certificate",
        () => "the listener has no RSA certificate",
    }
}

/// For people: which client gets what.
pub(super) fn table(listener: &Offered) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["suite", "OpenSSL's name", "version", "offered", "HTTP/2", "why"]);
    let yes = |yes| if yes { "yes" } else { "no" };
    for Cipher { suite, openssl, version, offered, http2, why } in &listener.ciphers {
        table.add_row([suite, openssl, version, yes(*offered), yes(*http2), why]);
    }
    format!(
        "{}\n{table}\nOf those that are offered a client gets the first in its own order. One that has none of them \
         gets the alert handshake_failure, and no HTTP/1.1 instead: HTTP/2 is never lost over a suite here.\n",
        listener.listener
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::tls::{cipher_name, provider};

    #[test]
    fn every_suite_that_can_be_offered_is_known_and_good_enough_for_http2() {
        for suite in &provider().cipher_suites {
            let name = cipher_name(suite.suite());
            assert!(KNOWN.iter().any(|(known, _)| *known == name), "{name}");
            assert!(http2(name), "{name}");
        }
    }

    #[test]
    fn rfc9113_appendix_a_forbids_what_has_no_ephemeral_keys_or_is_no_aead() {
        for (suite, may) in [
            ("TLS_AES_128_GCM_SHA256", true),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", true),
            ("TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", true),
            ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", false),
            ("TLS_RSA_WITH_AES_128_GCM_SHA256", false),
            ("TLS_RSA_WITH_RC4_128_SHA", false),
        ] {
            assert_eq!(http2(suite), may, "{suite}");
        }
    }

    #[test]
    fn what_is_not_offered_says_what_is_missing() {
        let all = Cipher::all(&["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]);
        let why = |openssl: &str| {
            let one = all.iter().find(|one| one.openssl == openssl).unwrap();
            (one.offered, one.why)
        };
        assert_eq!(why("TLS_AES_128_GCM_SHA256"), (true, "any certificate will do"));
        assert_eq!(
            why("ECDHE-ECDSA-AES128-GCM-SHA256"),
            (true, "a certificate of the listener can sign in it")
        );
        assert_eq!(why("ECDHE-RSA-AES128-GCM-SHA256"), (false, "the listener has no RSA certificate"));
        assert_eq!(why("ECDHE-RSA-AES128-SHA256"), (false, "CBC: open to padding oracles"));
        assert_eq!(why("DHE-RSA-AES128-GCM-SHA256"), (false, "finite-field groups: slow, and often weak"));
        let forward = "no forward secrecy: who gets the key later reads what was said";
        assert_eq!(why("AES128-GCM-SHA256"), (false, forward));
    }
}
