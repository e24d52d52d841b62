//! RFC 9113 section 4: frames, their sizes, and field sections.

use super::*;

fn half() -> Vec<u8> {
    frame(HEADERS, END_STREAM, 1, &get(&[]))
}

fn between(other: Vec<u8>) -> Vec<u8> {
    [half(), other, frame(CONTINUATION, END_HEADERS, 1, &[])].concat()
}

pub(super) fn cases() -> Vec<Case> {
    [ignored(), sizes(), sections()].into_iter().flatten().collect()
}

fn ignored() -> Vec<Case> {
    vec![
        case("4.1 an unknown kind of frame is ignored", frame(0x10, 0, 0, b"abc"), Expect::Nothing),
        case("4.1 an unknown kind with all flags is ignored", frame(0xff, 0xff, 0, &[]), Expect::Nothing),
        case(
            "4.1 an unknown kind on an idle stream is ignored",
            frame(0x20, 0, 7, &[0; 100]),
            Expect::Nothing,
        ),
        case(
            "4.1 flags that mean nothing are ignored",
            frame(PING, 0xfe, 0, &[1; 8]),
            Expect::Frame(PING, ACK),
        ),
        case("4.1 the reserved bit is ignored", frame(PING, 0, 1 << 31, &[1; 8]), Expect::Frame(PING, ACK)),
        case(
            "4.1 flags that mean nothing on HEADERS are ignored",
            frame(HEADERS, WHOLE | 0x50, 1, &get(&[])),
            Expect::Answered(1),
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let large = vec![0; 16_385];
    vec![
        case(
            "4.2 a frame of the largest size is taken",
            [posts(1), frame(DATA, END_STREAM, 1, &[7; 16_384])].concat(),
            Expect::Answered(1),
        ),
        case(
            "4.2 DATA above the largest size is an error",
            [posts(1), frame(DATA, END_STREAM, 1, &large)].concat(),
            Expect::Exactly(SIZE),
        ),
        case(
            "4.2 HEADERS above the largest size is an error",
            frame(HEADERS, WHOLE, 1, &large),
            Expect::Exactly(SIZE),
        ),
        case(
            "4.2 SETTINGS above the largest size is an error",
            frame(SETTINGS, 0, 0, &[0; 16_386]),
            Expect::Exactly(SIZE),
        ),
        case(
            "4.2 an unknown kind above the largest size is an error",
            frame(0x30, 0, 0, &large),
            Expect::Exactly(SIZE),
        ),
        case(
            "4.2 CONTINUATION above the largest size is an error",
            [half(), frame(CONTINUATION, END_HEADERS, 1, &large)].concat(),
            Expect::Exactly(SIZE),
        ),
    ]
}

fn sections() -> Vec<Case> {
    vec![
        case(
            "4.3 a field section that ends within a field is an error",
            frame(HEADERS, WHOLE, 1, &[0x82, 0x86, 0x84, 0x41, 10, b'a']),
            Expect::Connection(COMPRESSION),
        ),
        case(
            "4.3 a field section of trailers that cannot be read is an error",
            [posts(1), frame(HEADERS, WHOLE, 1, &[0x80])].concat(),
            Expect::Connection(COMPRESSION),
        ),
        case(
            "4.3 PRIORITY within a field section is an error",
            between(frame(PRIORITY, 0, 1, &[0; 5])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "4.3 HEADERS within a field section is an error",
            between(asks(3)),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "4.3 DATA within a field section is an error",
            between(frame(DATA, 0, 1, b"a")),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "4.3 PING within a field section is an error",
            between(frame(PING, 0, 0, &[0; 8])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "4.3 SETTINGS within a field section is an error",
            between(frame(SETTINGS, 0, 0, &[])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "4.3 WINDOW_UPDATE within a field section is an error",
            between(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "4.3 RST_STREAM within a field section is an error",
            between(frame(RST_STREAM, 0, 1, &[0; 4])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "4.3 GOAWAY within a field section is an error",
            between(frame(GOAWAY, 0, 0, &[0; 8])),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "4.3 another stream's CONTINUATION is an error",
            [half(), frame(CONTINUATION, END_HEADERS, 3, &[])].concat(),
            Expect::Connection(PROTOCOL),
        ),
    ]
}

#[tokio::test]
async fn rfc9113_4_frames() {
    conforms(cases()).await;
}
