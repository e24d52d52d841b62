//! RFC 9113 section 5: streams and their states.

use super::*;

fn after_request(then: Vec<u8>) -> Vec<u8> {
    [asks(1), then].concat()
}

fn after_reset(then: Vec<u8>) -> Vec<u8> {
    [posts(1), frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()), then].concat()
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub(super) fn cases() -> Vec<Case> {
    [idle(), half_closed(), closed(), others()].into_iter().flatten().collect()
}

fn idle() -> Vec<Case> {
    vec![
        case(
            "5.1 DATA on an idle stream is an error",
            frame(DATA, END_STREAM, 1, b"a"),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "5.1 RST_STREAM on an idle stream is an error",
            frame(RST_STREAM, 0, 1, &[0; 4]),
            Expect::Connection(PROTOCOL),
        ),
        case("5.1 WINDOW_UPDATE on an idle stream is an error", update(1, 1), Expect::Connection(PROTOCOL)),
        case(
            "5.1 CONTINUATION on an idle stream is an error",
            frame(CONTINUATION, END_HEADERS, 1, &get(&[])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "5.1 PRIORITY on an idle stream is none",
            frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 1]),
            Expect::Nothing,
        ),
    ]
}

fn half_closed() -> Vec<Case> {
    vec![
        case(
            "5.1 DATA on a half-closed stream is an error",
            after_request(frame(DATA, END_STREAM, 1, b"a")),
            Expect::Stream(1, CLOSED),
        ),
        case(
            "5.1 HEADERS on a half-closed stream is an error",
            after_request(asks(1)),
            Expect::Stream(1, CLOSED),
        ),
        case(
            "5.1 CONTINUATION on a half-closed stream is an error",
            after_request(frame(CONTINUATION, END_HEADERS, 1, &[])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "5.1 WINDOW_UPDATE on a half-closed stream is none",
            after_request(update(1, 1)),
            Expect::Answered(1),
        ),
        case(
            "5.1 PRIORITY on a half-closed stream is none",
            after_request(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
            Expect::Answered(1),
        ),
        case(
            "5.1 RST_STREAM on a half-closed stream is none",
            after_request(frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())),
            Expect::Nothing,
        ),
    ]
}

fn closed() -> Vec<Case> {
    vec![
        case(
            "5.1 PRIORITY on a closed stream is none",
            after_reset(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
            Expect::Nothing,
        ),
        case(
            "5.1 a second RST_STREAM is none",
            after_reset(frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())),
            Expect::Nothing,
        ),
        case("5.1 WINDOW_UPDATE on a closed stream is none", after_reset(update(1, 1)), Expect::Nothing),
        case("5.1 another request after a reset one is answered", after_reset(asks(3)), Expect::Answered(3)),
        case(
            "5.1 HEADERS on a stream that its client reset is an error",
            after_reset(asks(1)),
            Expect::Stream(1, &[1, 5]),
        ),
        case(
            "5.1 DATA on a stream that its client reset is an error",
            after_reset(frame(DATA, END_STREAM, 1, b"a")),
            Expect::Stream(1, &[1, 5]),
        ),
    ]
}

fn others() -> Vec<Case> {
    vec![
        case(
            "5.1.1 a stream of an even number is an error",
            frame(HEADERS, WHOLE, 2, &get(&[])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "5.1.1 stream 0 has no request",
            frame(HEADERS, WHOLE, 0, &get(&[])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "5.1.1 a number below that of a stream before is an error",
            [asks(5), asks(3)].concat(),
            Expect::Connection(&[1, 5]),
        ),
        case("5.1.1 numbers may be left out", [asks(5), asks(101)].concat(), Expect::Answered(101)),
        case(
            "5.1.1 the highest number is taken",
            frame(HEADERS, WHOLE, 0x7fff_ffff, &get(&[])),
            Expect::Answered(0x7fff_ffff),
        ),
        case(
            "5.1.1 the reserved bit is not part of the number",
            frame(HEADERS, WHOLE, 1 | 1 << 31, &get(&[])),
            Expect::Answered(1),
        ),
        case(
            "5.1.2 streams at once are answered",
            (0..50).flat_map(|n| asks(2 * n + 1)).collect::<Vec<u8>>(),
            Expect::Answered(99),
        ),
        case(
            "5.3.2 a priority that depends on a stream never seen is taken",
            frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[&[0, 0, 0, 99, 255][..], &get(&[])].concat()),
            Expect::Answered(1),
        ),
        case(
            "5.5 an unknown kind within a field section is an error",
            [
                frame(HEADERS, END_STREAM, 1, &get(&[])),
                frame(0x42, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ]
            .concat(),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "5.5 an unknown kind between requests is ignored",
            [frame(0x42, 0, 0, b"x"), asks(1)].concat(),
            Expect::Answered(1),
        ),
    ]
}

#[tokio::test]
async fn rfc9113_5_streams() {
    conforms(cases()).await;
}
