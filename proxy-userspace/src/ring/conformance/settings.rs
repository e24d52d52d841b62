//! RFC 9113 sections 6.5 and 6.9.2: SETTINGS, and what they change.

use super::*;

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

fn set(settings: &[(u16, u32)]) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &settings.iter().flat_map(|(id, value)| setting(*id, *value)).collect::<Vec<u8>>())
}

const TABLE: u16 = 1;
const PUSH: u16 = 2;
const STREAMS: u16 = 3;
const WINDOW: u16 = 4;
const FRAME: u16 = 5;
const LIST: u16 = 6;

pub(super) fn cases() -> Vec<Case> {
    [values(), frames()].into_iter().flatten().collect()
}

fn values() -> Vec<Case> {
    let taken = || Expect::Frame(SETTINGS, ACK);
    vec![
        case("6.5.2 ENABLE_PUSH above 1 is an error", set(&[(PUSH, 2)]), Expect::Connection(PROTOCOL)),
        case("6.5.2 ENABLE_PUSH of 0 is taken", set(&[(PUSH, 0)]), taken()),
        case("6.5.2 ENABLE_PUSH of 1 is taken", set(&[(PUSH, 1)]), taken()),
        case(
            "6.5.2 a window above the largest is an error",
            set(&[(WINDOW, 1 << 31)]),
            Expect::Connection(FLOW),
        ),
        case("6.5.2 the largest window is taken", set(&[(WINDOW, 0x7fff_ffff)]), taken()),
        case("6.5.2 no window is taken", set(&[(WINDOW, 0)]), taken()),
        case(
            "6.5.2 a frame size below the least is an error",
            set(&[(FRAME, 16_383)]),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "6.5.2 a frame size above the largest is an error",
            set(&[(FRAME, 1 << 24)]),
            Expect::Connection(PROTOCOL),
        ),
        case("6.5.2 the least frame size is taken", set(&[(FRAME, 16_384)]), taken()),
        case("6.5.2 the largest frame size is taken", set(&[(FRAME, (1 << 24) - 1)]), taken()),
        case("6.5.2 no table is taken", [set(&[(TABLE, 0)]), asks(1)].concat(), taken()),
        case("6.5.2 the largest table is taken", set(&[(TABLE, u32::MAX)]), taken()),
        case("6.5.2 no streams are taken", set(&[(STREAMS, 0)]), taken()),
        case("6.5.2 any list size is taken", set(&[(LIST, u32::MAX)]), taken()),
        case("6.5.2 an unknown setting is ignored", set(&[(0xff, 1), (0, 0)]), taken()),
    ]
}

fn frames() -> Vec<Case> {
    let taken = || Expect::Frame(SETTINGS, ACK);
    vec![
        case(
            "6.5 an acknowledgement with a payload is an error",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Expect::Exactly(SIZE),
        ),
        case(
            "6.5 SETTINGS on a stream are an error",
            frame(SETTINGS, 0, 1, &[]),
            Expect::Connection(PROTOCOL),
        ),
        case("6.5 SETTINGS of 1 byte are an error", frame(SETTINGS, 0, 0, &[0]), Expect::Exactly(SIZE)),
        case("6.5 SETTINGS of 5 bytes are an error", frame(SETTINGS, 0, 0, &[0; 5]), Expect::Exactly(SIZE)),
        case("6.5 SETTINGS of 7 bytes are an error", frame(SETTINGS, 0, 0, &[0; 7]), Expect::Exactly(SIZE)),
        case(
            "6.5.1 the last of two values holds",
            [set(&[(WINDOW, 0), (WINDOW, 65_535)]), asks(1)].concat(),
            Expect::Answered(1),
        ),
        case("6.5.3 empty SETTINGS are acknowledged", set(&[]), taken()),
        case(
            "6.5.3 many settings are acknowledged once",
            set(&[(TABLE, 100), (WINDOW, 100), (FRAME, 20_000), (LIST, 9)]),
            taken(),
        ),
        case(
            "6.9.2 a window that SETTINGS make too large is an error",
            [
                posts(1),
                frame(WINDOW_UPDATE, 0, 1, &0x7fff_0000_u32.to_be_bytes()),
                set(&[(WINDOW, 0x7fff_ffff)]),
            ]
            .concat(),
            Expect::Connection(FLOW),
        ),
    ]
}

#[tokio::test]
async fn rfc9113_6_5_settings() {
    conforms(cases()).await;
}

#[tokio::test]
async fn rfc9113_6_9_2_a_changed_window_holds_for_open_streams() {
    let echo = Echo::start(Speaks::Http1).await;
    let ring = Setup { cluster: http1, ..Setup::new(&[echo.addr]) }.start().await;
    let mut raw = Raw::open_with(&ring, &setting(WINDOW, 0)).await;
    raw.0.send([posts(1), frame(DATA, END_STREAM, 1, b"abcdef")].concat()).await;
    raw.until(|came| came.kind == HEADERS).await.unwrap();
    // Nothing of the body may come before there is a window.
    raw.send(PING, 0, 0, &[9; 8]).await;
    let next = raw.until(|came| matches!(came.kind, PING | DATA)).await.unwrap();
    assert_eq!(next.kind, PING);
    raw.0.send(set(&[(WINDOW, 2)])).await;
    assert_eq!(raw.until(|came| came.kind == DATA).await.unwrap().payload, b"ab");
    raw.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 3]).await;
    assert_eq!(raw.until(|came| came.kind == DATA).await.unwrap().payload, b"cde");
    raw.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 3]).await;
    assert_eq!(raw.until(|came| came.kind == DATA).await.unwrap().payload, b"f");
}

#[tokio::test]
async fn rfc9113_6_9_1_no_more_is_sent_than_the_connections_window_allows() {
    let echo = Echo::start(Speaks::Http1).await;
    let ring = Setup { cluster: http1, ..Setup::new(&[echo.addr]) }.start().await;
    let mut raw = Raw::open_with(&ring, &setting(WINDOW, 1 << 20)).await;
    raw.0.send(posts(1)).await;
    for _ in 0..5 {
        raw.send(DATA, 0, 1, &[1; 16_000]).await;
    }
    raw.send(DATA, END_STREAM, 1, &[]).await;
    let mut got = 0;
    while got < 65_535 {
        got += raw.until(|came| came.kind == DATA).await.unwrap().payload.len();
    }
    assert_eq!(got, 65_535);
    raw.send(WINDOW_UPDATE, 0, 0, &30_000_u32.to_be_bytes()).await;
    while got < 80_000 {
        got += raw.until(|came| came.kind == DATA).await.unwrap().payload.len();
    }
    assert_eq!(got, 80_000);
}

#[tokio::test]
async fn rfc9113_6_5_2_our_settings_say_our_limits() {
    let echo = Echo::start(Speaks::Http1).await;
    let ring = Setup { cluster: http1, ..Setup::new(&[echo.addr]) }.start().await;
    let mut raw = Raw(ring.client().await);
    raw.0.send([PREFACE, &set(&[])].concat()).await;
    let ours = raw.until(|came| came.kind == SETTINGS).await.unwrap();
    let told: std::collections::BTreeMap<u16, u32> = ours
        .payload
        .chunks(6)
        .map(|one| {
            (u16::from_be_bytes([one[0], one[1]]), u32::from_be_bytes([one[2], one[3], one[4], one[5]]))
        })
        .collect();
    assert_eq!((told.get(&STREAMS), told.get(&LIST)), (Some(&100), Some(&(16 << 10))));
    assert_eq!(told.get(&WINDOW), Some(&(64 << 10)));
}
