//! RFC 9113 sections 6.1 to 6.4 and 6.6 to 6.10: the kinds of frames but SETTINGS.

use super::*;

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub(super) fn cases() -> Vec<Case> {
    [data(), headers(), resets(), pings(), windows(), continuations()].into_iter().flatten().collect()
}

fn padded(pad: u8, rest: &[u8]) -> Vec<u8> {
    [&[pad][..], rest].concat()
}

fn data() -> Vec<Case> {
    vec![
        case("6.1 DATA on stream 0 is an error", frame(DATA, 0, 0, b"a"), Expect::Connection(PROTOCOL)),
        case(
            "6.1 padding as long as the payload is an error",
            [posts(1), frame(DATA, PADDED | END_STREAM, 1, &padded(5, &[0; 4]))].concat(),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "6.1 padding without a length is an error",
            [posts(1), frame(DATA, PADDED | END_STREAM, 1, &[])].concat(),
            Expect::Connection(&[1, 6]),
        ),
        case(
            "6.1 padding is taken off",
            [posts(1), frame(DATA, PADDED | END_STREAM, 1, &padded(3, b"ab\0\0\0"))].concat(),
            Expect::Answered(1),
        ),
        case(
            "6.1 padding of no length is taken",
            [posts(1), frame(DATA, PADDED | END_STREAM, 1, &padded(0, b"ab"))].concat(),
            Expect::Answered(1),
        ),
        case(
            "6.1 nothing but padding is taken",
            [posts(1), frame(DATA, PADDED | END_STREAM, 1, &padded(4, &[0; 4]))].concat(),
            Expect::Answered(1),
        ),
        case(
            "6.1 an empty frame ends a body",
            [posts(1), frame(DATA, 0, 1, b"a"), frame(DATA, END_STREAM, 1, &[])].concat(),
            Expect::Answered(1),
        ),
    ]
}

fn headers() -> Vec<Case> {
    let block = get(&[]);
    vec![
        case(
            "6.2 padding as long as the payload of HEADERS is an error",
            frame(HEADERS, WHOLE | PADDED, 1, &padded(250, &block)),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "6.2 padded HEADERS are taken",
            frame(HEADERS, WHOLE | PADDED, 1, &[&[2][..], &block, &[0, 0]].concat()),
            Expect::Answered(1),
        ),
        case(
            "6.2 HEADERS with a priority are taken",
            frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[&[0, 0, 0, 0, 16][..], &block].concat()),
            Expect::Answered(1),
        ),
        case(
            "6.2 HEADERS with padding and a priority are taken",
            frame(
                HEADERS,
                WHOLE | WITH_PRIORITY | PADDED,
                1,
                &[&[1, 0, 0, 0, 0, 16][..], &block, &[0]].concat(),
            ),
            Expect::Answered(1),
        ),
        case(
            "6.2 HEADERS too short for their priority are an error",
            frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[0, 0]),
            Expect::Connection(&[1, 6]),
        ),
        case(
            "6.2 PADDED HEADERS without a length are an error",
            frame(HEADERS, WHOLE | PADDED, 1, &[]),
            Expect::Connection(&[1, 6]),
        ),
    ]
}

fn resets() -> Vec<Case> {
    vec![
        case(
            "6.3 PRIORITY on stream 0 is an error",
            frame(PRIORITY, 0, 0, &[0; 5]),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "6.3 a short PRIORITY is an error",
            [asks(1), frame(PRIORITY, 0, 1, &[0; 4])].concat(),
            Expect::Exactly(SIZE),
        ),
        case(
            "6.3 a long PRIORITY is an error",
            [asks(1), frame(PRIORITY, 0, 1, &[0; 6])].concat(),
            Expect::Exactly(SIZE),
        ),
        case(
            "6.4 RST_STREAM on stream 0 is an error",
            frame(RST_STREAM, 0, 0, &[0; 4]),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "6.4 a short RST_STREAM is an error",
            [posts(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            Expect::Exactly(SIZE),
        ),
        case(
            "6.4 a long RST_STREAM is an error",
            [posts(1), frame(RST_STREAM, 0, 1, &[0; 5])].concat(),
            Expect::Exactly(SIZE),
        ),
        case(
            "6.4 an unknown code in RST_STREAM is none",
            [posts(1), frame(RST_STREAM, 0, 1, &[0xff; 4])].concat(),
            Expect::Nothing,
        ),
        case(
            "6.6 PUSH_PROMISE of a client is an error",
            [posts(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &get(&[])].concat())]
                .concat(),
            Expect::Connection(PROTOCOL),
        ),
    ]
}

fn pings() -> Vec<Case> {
    vec![
        case("6.7 PING is answered", frame(PING, 0, 0, b"12345678"), Expect::Frame(PING, ACK)),
        case(
            "6.7 an answer that nobody asked for is ignored",
            frame(PING, ACK, 0, b"12345678"),
            Expect::Nothing,
        ),
        case("6.7 PING on a stream is an error", frame(PING, 0, 1, &[0; 8]), Expect::Connection(PROTOCOL)),
        case("6.7 an empty PING is an error", frame(PING, 0, 0, &[]), Expect::Exactly(SIZE)),
        case("6.7 a short PING is an error", frame(PING, 0, 0, &[0; 7]), Expect::Exactly(SIZE)),
        case("6.7 a long PING is an error", frame(PING, 0, 0, &[0; 9]), Expect::Exactly(SIZE)),
        case(
            "6.8 GOAWAY on a stream is an error",
            frame(GOAWAY, 0, 1, &[0; 8]),
            Expect::Connection(PROTOCOL),
        ),
        case("6.8 a short GOAWAY is an error", frame(GOAWAY, 0, 0, &[0; 7]), Expect::Exactly(SIZE)),
        case(
            "6.8 what was asked before GOAWAY is answered",
            [asks(1), frame(GOAWAY, 0, 0, &[0; 8])].concat(),
            Expect::Answered(1),
        ),
        case(
            "6.8 GOAWAY may have something to say",
            [asks(1), frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0bye")].concat(),
            Expect::Answered(1),
        ),
    ]
}

fn windows() -> Vec<Case> {
    vec![
        case(
            "6.9 an update of the connection by nothing is an error",
            update(0, 0),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "6.9 an update of a stream by nothing is an error",
            [posts(1), update(1, 0)].concat(),
            Expect::Stream(1, PROTOCOL),
        ),
        case(
            "6.9 a short WINDOW_UPDATE is an error",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Expect::Exactly(SIZE),
        ),
        case(
            "6.9 a long WINDOW_UPDATE is an error",
            frame(WINDOW_UPDATE, 0, 0, &[0; 5]),
            Expect::Exactly(SIZE),
        ),
        case(
            "6.9 the reserved bit of an update is ignored",
            [asks(1), update(1, 1 | 1 << 31)].concat(),
            Expect::Answered(1),
        ),
        case(
            "6.9.1 a window of the connection above the largest is an error",
            [update(0, 0x7fff_ffff), update(0, 1)].concat(),
            Expect::Connection(FLOW),
        ),
        case(
            "6.9.1 a window of a stream above the largest is an error",
            [posts(1), update(1, 0x7fff_ffff), update(1, 1)].concat(),
            Expect::Stream(1, FLOW),
        ),
        case(
            "6.9.1 the largest window of the connection is none",
            [update(0, 0x7fff_ffff - 65_535), asks(1)].concat(),
            Expect::Answered(1),
        ),
    ]
}

fn continuations() -> Vec<Case> {
    let block = get(&[]);
    let (first, second) = block.split_at(10);
    let half = frame(HEADERS, END_STREAM, 1, first);
    let pieces = block.iter().map(|byte| frame(CONTINUATION, 0, 1, &[*byte]));
    let one_by_one: Vec<u8> =
        std::iter::once(frame(HEADERS, END_STREAM, 1, &[])).chain(pieces.take(3)).flatten().collect();
    let rest = frame(CONTINUATION, END_HEADERS, 1, &block[3..]);
    vec![
        case(
            "6.10 CONTINUATION goes on with HEADERS",
            [half.clone(), frame(CONTINUATION, END_HEADERS, 1, second)].concat(),
            Expect::Answered(1),
        ),
        case("6.10 a field may be cut anywhere", [one_by_one, rest].concat(), Expect::Answered(1)),
        case(
            "6.10 an empty CONTINUATION may end it",
            [frame(HEADERS, END_STREAM, 1, &block), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            Expect::Answered(1),
        ),
        case(
            "6.10 CONTINUATION on stream 0 is an error",
            [half.clone(), frame(CONTINUATION, END_HEADERS, 0, second)].concat(),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "6.10 CONTINUATION behind END_HEADERS is an error",
            [posts(1), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "6.10 CONTINUATION behind another's end is an error",
            [half, frame(CONTINUATION, END_HEADERS, 1, second), frame(CONTINUATION, END_HEADERS, 1, &[])]
                .concat(),
            Expect::Connection(PROTOCOL),
        ),
        case(
            "6.10 CONTINUATION behind DATA is an error",
            [posts(1), frame(DATA, 0, 1, b"a"), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            Expect::Connection(PROTOCOL),
        ),
    ]
}

#[tokio::test]
async fn rfc9113_6_kinds_of_frames() {
    conforms(cases()).await;
}
