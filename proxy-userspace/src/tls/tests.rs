//! `wire.md` C13: what becomes of a certificate whose Secret breaks.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{
    route::host::HostPattern,
    source::{Objects, objects, store::Key},
    testing::certificates::{Authority, Pair, secret},
};
use std::time::SystemTime;

/// What a Secret of this text leads to; none where the text is empty.
fn taken(keyring: &Keyring, text: &str, host: &str) -> Held {
    let objects = if text.is_empty() { Objects::default() } else { objects(text) };
    let host = if host.is_empty() { HostPattern::Any } else { HostPattern::of_gateway(host) };
    keyring.take(&Key::new("default", "s"), objects.secrets.get("default/s"), &host, SystemTime::now())
}

fn is(held: &Held, pair: &Pair) -> bool {
    let chain = &held.credentials.as_ref().unwrap().key.cert;
    pair.is(chain.first().unwrap())
}

fn flaw(held: &Held) -> String {
    held.flaw.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn c13_a_pair_that_breaks_leaves_the_old_one_in_use_and_says_what_is_wrong() {
    let authority = Authority::new();
    let (good, other) = (authority.pair(&["a.test"]), authority.pair(&["a.test"]));
    let long = good.chain.repeat(17);
    let broken = [
        (String::new(), "there is no Secret default/s"),
        (good.secret("s").replace("kubernetes.io/tls", "Opaque"), "is of type \"Opaque\""),
        (secret("s", TLS, &[("tls.crt", &good.chain)]), "has no tls.key"),
        (secret("s", TLS, &[("tls.key", &good.key)]), "has no tls.crt"),
        (
            secret("s", TLS, &[("tls.crt", "nothing"), ("tls.key", &good.key)]),
            "there is no certificate in it",
        ),
        (
            secret("s", TLS, &[("tls.crt", &good.chain), ("tls.key", "nothing")]),
            "it is no private key in PEM",
        ),
        (
            secret("s", TLS, &[("tls.crt", &good.chain), ("tls.key", &other.key)]),
            "is not the key of the certificate",
        ),
        (secret("s", TLS, &[("tls.crt", &long), ("tls.key", &good.key)]), "is too large"),
        (authority.expired(&["a.test"]).secret("s"), "has expired (2021-01-01"),
        (authority.pair(&["b.test"]).secret("s"), "is not for a.test, but for b.test"),
    ];
    for (text, said) in broken {
        let keyring = Keyring::default();
        let first = taken(&keyring, &good.secret("s"), "a.test");
        assert!(is(&first, &good) && first.flaw.is_none() && !first.is_old);
        let then = taken(&keyring, &text, "a.test");
        assert!(is(&then, &good) && then.is_old, "{said}");
        assert!(flaw(&then).contains(said), "{:?} is not {said:?}", flaw(&then));
        let healed = taken(&keyring, &other.secret("s"), "a.test");
        assert!(is(&healed, &other) && healed.flaw.is_none() && !healed.is_old, "{said}");
    }
}

const TLS: &str = crate::source::secret::TLS;

#[test]
fn c13_without_an_old_one_what_clients_may_still_take_is_used_and_the_rest_is_not() {
    let authority = Authority::new();
    let expired = taken(&Keyring::default(), &authority.expired(&["a.test"]).secret("s"), "a.test");
    assert!(expired.credentials.is_some() && !expired.is_old && flaw(&expired).contains("has expired"));
    let misnamed = taken(&Keyring::default(), &authority.pair(&["b.test"]).secret("s"), "a.test");
    assert!(misnamed.credentials.is_some() && flaw(&misnamed).contains("is not for a.test"));
    let missing = taken(&Keyring::default(), "", "a.test");
    assert_eq!((missing.credentials, missing.is_old), (None, false));
}

#[test]
fn c13_what_nothing_refers_to_any_more_is_let_go_of() {
    let (keyring, pair) = (Keyring::default(), Authority::new().pair(&["a.test"]));
    keyring.begin();
    taken(&keyring, &pair.secret("s"), "a.test");
    keyring.settle();
    assert_eq!(keyring.wanted().into_iter().collect::<Vec<_>>(), [Key::new("default", "s")]);
    keyring.begin();
    keyring.settle();
    assert!(keyring.wanted().is_empty());
    assert_eq!(taken(&keyring, "", "a.test").credentials, None, "it is not remembered either");
}

#[test]
fn a_certificate_is_for_its_names_and_for_hosts_that_some_of_them_are_among() {
    let pair = Authority::new().pair(&["a.test", "*.wild.test"]);
    let fits = |host: &str| taken(&Keyring::default(), &pair.secret("s"), host).flaw.is_none();
    for host in ["", "a.test", "x.wild.test", "*.wild.test", "*.test"] {
        assert!(fits(host), "{host}");
    }
    for host in ["b.test", "x.y.wild.test", "wild.test", "*.a.test", "*.other"] {
        assert!(!fits(host), "{host}");
    }
}

#[test]
fn an_ocsp_response_in_the_secret_is_stapled() {
    let (keyring, pair) = (Keyring::default(), Authority::new().pair(&["a.test"]));
    assert_eq!(taken(&keyring, &pair.secret("s"), "a.test").credentials.unwrap().key.ocsp, None);
    let values = [("tls.crt", &*pair.chain), ("tls.key", &pair.key), ("tls.ocsp-staple", "response")];
    let stapled = taken(&keyring, &secret("s", TLS, &values), "a.test").credentials.unwrap();
    assert_eq!(stapled.key.ocsp.as_deref(), Some(&b"response\n"[..]));
}

#[test]
fn nothing_that_is_printed_has_a_key_in_it() {
    let (keyring, pair) = (Keyring::default(), Authority::new().pair(&["a.test"]));
    let held = taken(&keyring, &pair.secret("s"), "a.test");
    let terms = Terms::new("x".into(), (vec![held], None), &keyring).unwrap().unwrap();
    let line = pair.key.lines().nth(1).unwrap();
    let shown = format!("{terms:?} {keyring:?}");
    assert!(!shown.contains(line) && shown.contains("default/s for [\"a.test\"]"), "{shown}");
}
