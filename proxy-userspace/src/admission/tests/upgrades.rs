//! Rows S21, S22 and U8 as far as bytes decide.

use super::*;

fn rules() -> Arc<Rules> {
    Arc::new(Rules { upgrades: vec!["websocket".to_owned()], ..Rules::default() })
}

fn client() -> Framer {
    Framer::of_client(rules(), false)
}

const BEHIND: &str = "GET /admin HTTP/1.1\r\nHost: h\r\n\r\n";

/// How many requests pass of one with these fields and another behind it.
fn heads(request: &str) -> u64 {
    let fate = fate(client, format!("{request}{BEHIND}").as_bytes());
    assert_eq!(fate.refusal, None, "{request}");
    fate.heads
}

#[test]
fn s21_nothing_behind_an_upgrade_passes() {
    for fields in [
        "Connection: Upgrade\r\nUpgrade: websocket",
        "upgrade: WebSocket\r\nConnection: keep-alive,  UPGRADE ",
        "Connection: Upgrade\r\nUpgrade: h2c,websocket\r\nContent-Length: 0",
    ] {
        assert_eq!(heads(&get(fields)), 1, "{fields}");
    }
}

#[test]
fn s21_what_is_behind_passes_once_the_connection_is_known_to_stay() {
    let mut framer = client();
    let bytes = get("Connection: Upgrade\r\nUpgrade: websocket") + BEHIND;
    let passed = framer.admit(bytes.as_bytes());
    assert!(framer.is_switching() && !framer.is_between());
    assert_eq!(&bytes[passed..], BEHIND);
    assert_eq!(framer.admit(BEHIND.as_bytes()), 0);
    framer.stays();
    assert_eq!(framer.admit(BEHIND.as_bytes()), BEHIND.len());
    assert_eq!((framer.heads(), framer.is_between()), (2, true));
}

#[test]
fn s22_a_request_that_asks_for_nothing_that_is_allowed_is_followed_by_the_next() {
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Connection: Upgrade\r\nUpgrade: websocket/13",
    ] {
        assert_eq!(heads(&get(fields)), 2, "{fields}");
    }
    let with_body = post("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3") + "abc";
    assert_eq!(heads(&with_body), 2);
    let chunked = post("Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked");
    assert_eq!(heads(&(chunked + "0\r\n\r\n")), 2);
    let old = "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(heads(old), 2);
    // Its connection ends: nothing behind it is looked at.
    assert_eq!(heads(&get("Connection: close, Upgrade\r\nUpgrade: websocket")), 1);
}

#[test]
fn u8_a_101_passes_where_it_was_asked_for_and_nothing_behind_it_does() {
    let endpoint = |asked| {
        move || {
            let mut framer = Framer::of_endpoint(rules());
            framer.expect(false, asked);
            framer
        }
    };
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let bytes = format!("{head}\x00HTTP/1.1 200 OK\r\n\r\n");
    let fate_of = |asked, bytes: &str| fate(endpoint(asked), bytes.as_bytes());
    let agreed = fate_of(true, &bytes);
    assert_eq!((agreed.passed, agreed.heads, agreed.refusal), (head.len(), 1, None));
    let odd = |asked, bytes: &str| fate_of(asked, bytes).refusal.map(|(oddity, _)| oddity);
    assert_eq!(odd(false, &bytes), Some(Oddity::Status));
    assert_eq!(odd(true, &bytes.replacen("1.1", "1.0", 1)), Some(Oddity::Status));
    let early = format!("HTTP/1.1 103 Early Hints\r\n\r\n{bytes}");
    assert_eq!(fate_of(true, &early).passed, early.len() - (bytes.len() - head.len()));
    let mut framer = endpoint(true)();
    framer.admit(bytes.as_bytes());
    assert!(framer.is_over());
}
