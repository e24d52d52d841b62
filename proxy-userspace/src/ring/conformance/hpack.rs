//! RFC 7541: how fields are compressed.

use super::*;

/// `GET http://web/` from the static table, but for the host.
const BASE: &[u8] = &[0x82, 0x86, 0x84, 0x41, 3, b'w', b'e', b'b'];

fn of(name: &'static str, block: &[u8], expect: Expect) -> Case {
    case(name, frame(HEADERS, WHOLE, 1, block), expect)
}

fn base(name: &'static str, more: &[u8], expect: Expect) -> Case {
    of(name, &[BASE, more].concat(), expect)
}

fn bad() -> Expect {
    Expect::Connection(COMPRESSION)
}

/// A literal with a new name, of this representation.
fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    string(&mut bytes, name);
    string(&mut bytes, value);
    bytes
}

pub(super) fn cases() -> Vec<Case> {
    [integers(), strings(), tables(), sizes()].into_iter().flatten().collect()
}

fn integers() -> Vec<Case> {
    let long = {
        let mut bytes = vec![0x00, 1, b'x'];
        integer(&mut bytes, 0, 7, 300);
        bytes.extend([b'a'; 300]);
        bytes
    };
    vec![
        base("5.1 an integer of many bytes is read", &long, Expect::Answered(1)),
        base(
            "5.1 an index that does not end is an error",
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
            bad(),
        ),
        base(
            "5.1 a length that is too large is an error",
            &[0x00, 1, b'x', 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            bad(),
        ),
        base("5.1 an integer that breaks off is an error", &[0xff, 0x80], bad()),
    ]
}

fn strings() -> Vec<Case> {
    vec![
        // "www.example.com", as appendix C.4.1 has it.
        of(
            "5.2 Huffman's code is read",
            &[
                0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90,
                0xf4, 0xff,
            ],
            Expect::Answered(1),
        ),
        base("5.2 a name that is longer than the section is an error", &[0x00, 9, b'x'], bad()),
        base("5.2 a value that is longer than the section is an error", &[0x00, 1, b'x', 9, b'y'], bad()),
        base("5.2 padding of more than seven bits is an error", &[0x00, 1, b'x', 0x82, 0x1f, 0xff], bad()),
        base("5.2 padding that is not of ones is an error", &[0x00, 1, b'x', 0x81, 0x18], bad()),
        base(
            "5.2 the end-of-string symbol is an error",
            &[0x00, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff],
            bad(),
        ),
        base("5.2 an empty string by Huffman's code is read", &[0x00, 1, b'x', 0x80], Expect::Answered(1)),
    ]
}

fn tables() -> Vec<Case> {
    let indexed = literal(0x40, b"x-a", b"1");
    let later = |block: &[u8]| {
        [frame(HEADERS, WHOLE, 1, &[BASE, &indexed].concat()), frame(HEADERS, WHOLE, 3, block)].concat()
    };
    // The host is the first entry (63), the field the one before it (62).
    let again: &[u8] = &[0x82, 0x86, 0x84, 0xbf, 0xbe];
    vec![
        base("2.3.1 entries of the static table are read", &[0x90, 0x93], Expect::Answered(1)),
        case(
            "2.3.2 entries of the dynamic table hold for the next section",
            later(again),
            Expect::Answered(3),
        ),
        case("2.3.3 an index above both tables is an error", later(&[0x82, 0x86, 0x84, 0xbf, 0xc0]), bad()),
        case(
            "2.2 sections are read in the order of their frames",
            [later(again), frame(HEADERS, WHOLE, 5, again)].concat(),
            Expect::Answered(5),
        ),
        of("6.1 index 0 is an error", &[0x80], bad()),
        of("6.1 an index above the static table is an error", &[0xbe], bad()),
        of("6.1 an index far above it is an error", &[0xff, 0xff, 0x03], bad()),
        base("6.2.1 a literal that is remembered is read", &literal(0x40, b"x-a", b"1"), Expect::Answered(1)),
        base("6.2.1 a name by its index is read", &[0x7a, 1, b'a'], Expect::Answered(1)),
        base("6.2.1 a name by an index above the tables is an error", &[0x7f, 0x20, 1, b'a'], bad()),
        base(
            "6.2.2 a literal that is not remembered is read",
            &literal(0x00, b"x-a", b"1"),
            Expect::Answered(1),
        ),
        base(
            "6.2.2 a name by its index, not remembered, is read",
            &[0x0f, 0x04, 1, b'a'],
            Expect::Answered(1),
        ),
        base(
            "6.2.2 a name by an index above the tables, not remembered, is an error",
            &[0x0f, 0x7f, 1, b'a'],
            bad(),
        ),
        base(
            "6.2.3 a literal that is never remembered is read",
            &literal(0x10, b"x-a", b"1"),
            Expect::Answered(1),
        ),
        case(
            "6.2.3 it is not remembered",
            [
                frame(
                    HEADERS,
                    WHOLE,
                    1,
                    &[&[0x82, 0x86, 0x84][..], &literal(0x10, b":authority", b"web")].concat(),
                ),
                frame(HEADERS, WHOLE, 3, &[0x82, 0x86, 0x84, 0xbe]),
            ]
            .concat(),
            bad(),
        ),
        base(
            "6.2.3 a name by its index, never remembered, is read",
            &[0x1f, 0x04, 1, b'a'],
            Expect::Answered(1),
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let update = |size| {
        let mut bytes = Vec::new();
        integer(&mut bytes, 0x20, 5, size);
        bytes
    };
    let first = |more: Vec<u8>| [more, BASE.to_vec()].concat();
    let large = literal(0x40, b"x", &[b'a'; 4096]);
    vec![
        of("6.3 a size of 0 at the beginning is taken", &first(update(0)), Expect::Answered(1)),
        of("6.3 the size that was allowed is taken", &first(update(4096)), Expect::Answered(1)),
        of("6.3 a size above that is an error", &first(update(4097)), bad()),
        of("6.3 a size far above that is an error", &first(update(1 << 30)), bad()),
        base("4.2 a size behind a field is an error", &update(0), bad()),
        of(
            "4.2 two sizes at the beginning are taken",
            &first([update(0), update(4096)].concat()),
            Expect::Answered(1),
        ),
        case(
            "4.3 a table that was made empty has no entries",
            [
                frame(HEADERS, WHOLE, 1, BASE),
                frame(HEADERS, WHOLE, 3, &[&update(0)[..], &[0x82, 0x86, 0x84, 0xbe]].concat()),
            ]
            .concat(),
            bad(),
        ),
        case(
            "4.4 an entry larger than the table empties it",
            [
                frame(HEADERS, WHOLE, 1, &[BASE, &large].concat()),
                frame(HEADERS, WHOLE, 3, &[0x82, 0x86, 0x84, 0xbe]),
            ]
            .concat(),
            bad(),
        ),
        case(
            "4.4 such an entry is a field all the same",
            frame(HEADERS, WHOLE, 1, &[BASE, &large].concat()),
            Expect::Answered(1),
        ),
    ]
}

#[tokio::test]
async fn rfc7541_compression() {
    conforms(cases()).await;
}
