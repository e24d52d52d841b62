#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::{table::*, *};

fn answer(head: &str) -> Result<AnswerHead, Unsure> {
    scan_answer(head.replace('~', "\r\n").as_bytes(), false)
}

/// An answer with this line.
fn with_line(line: &str) -> Result<AnswerHead, Unsure> {
    answer(&format!("HTTP/1.1 200 OK~Content-Length: 1~{line}~~"))
}

#[test]
fn a_plain_request_is_read_whole() {
    let bytes = b"GET /a/b?c=%20d HTTP/1.1\r\nHost: web.example:8080\r\nAccept: */*\r\n\r\nrest";
    let head = scan_request(bytes).unwrap();
    assert_eq!(head.method, method::GET);
    assert_eq!(&bytes[head.target.start as usize..head.target.end as usize], b"/a/b?c=%20d");
    assert_eq!(&bytes[head.host.start as usize..head.host.end as usize], b"web.example");
    assert_eq!(head.content_length, 0);
    assert_eq!(&bytes[head.head_len as usize..], b"rest");
}

#[test]
fn a_plain_answer_is_read_whole() {
    let found = answer("HTTP/1.1 200 OK~Content-Length: 12~~HTTP/1.1 404 Not~~");
    assert_eq!(found, Ok(AnswerHead { framing: Framing::Length(12), status: 200, head_len: 39 }));
}

#[test]
fn answers_without_a_body_are_framed_without_one() {
    let framing =
        |head: &str, to_head| scan_answer(head.replace('~', "\r\n").as_bytes(), to_head).map(|it| it.framing);
    assert_eq!(framing("HTTP/1.1 204 No Content~~", false), Ok(Framing::NoBody));
    assert_eq!(framing("HTTP/1.1 304 Not Modified~Content-Length: 9~~", false), Ok(Framing::NoBody));
    assert_eq!(framing("HTTP/1.1 200 OK~Content-Length: 9~~", true), Ok(Framing::NoBody));
    assert_eq!(framing("HTTP/1.1 200 OK~~", true), Ok(Framing::NoBody));
    assert_eq!(framing("HTTP/1.1 204 No Content~Content-Length: 0~~", false), Err(Unsure::ContentLength));
}

#[test]
fn an_answer_of_unknown_length_is_unsure() {
    assert_eq!(answer("HTTP/1.1 200 OK~~"), Err(Unsure::ContentLength));
    assert_eq!(with_line("Content-Length: 1"), Err(Unsure::ContentLength));
    assert_eq!(with_line("Transfer-Encoding: chunked"), Err(Unsure::TransferEncoding));
}

#[test]
fn an_answer_that_ends_or_changes_the_connection_is_unsure() {
    assert_eq!(with_line("Connection: close"), Err(Unsure::Connection));
    assert_eq!(with_line("Upgrade: websocket"), Err(Unsure::Upgrade));
    assert_eq!(with_line("Trailer: x"), Err(Unsure::HopByHop));
    assert!(with_line("Connection: keep-alive~Keep-Alive: timeout=5").is_ok());
}

#[test]
fn informational_and_unknown_statuses_are_unsure() {
    for status in [
        "100 Continue",
        "101 Switching",
        "103 Early",
        "600 x",
        "099 x",
        "20 x",
        "2000 x",
        "200",
        "2x0 x",
        " 200 x",
    ] {
        let found = answer(&format!("HTTP/1.1 {status}~Content-Length: 0~~"));
        assert_eq!(found, Err(Unsure::Status), "{status}");
    }
    for status in ["200 ", "299 a b", "302 Found", "599 \u{e9}"] {
        let found =
            answer(&format!("HTTP/1.1 {status}~Content-Length: 0~~")).map(|head| head.status.to_string());
        assert_eq!(found.as_deref(), Ok(&status[..3]));
    }
}

#[test]
fn other_versions_and_line_ends_of_answers_are_unsure() {
    for head in
        ["HTTP/1.0 200 OK~Content-Length: 0~~", "HTTP/2 200 OK~~", "ICY 200 OK~~", "~HTTP/1.1 200 OK~~"]
    {
        assert_eq!(answer(head), Err(Unsure::Version), "{head}");
    }
    let heads = [
        "HTTP/1.1 200 OK\nContent-Length: 0~~",
        "HTTP/1.1 200 OK~Content-Length: 0\n~",
        "HTTP/1.1 200 O\rK~~",
    ];
    for head in heads {
        assert_eq!(answer(head), Err(Unsure::LineEnd), "{head}");
    }
}

#[test]
fn final_states_stay_final_and_note_nothing() {
    for state in 0..FIRST_LIVE {
        let final_state = State { node: state, counts: 0 };
        assert!(final_state.is_final());
        for byte in 0..=u8::MAX {
            let mut cells = Cells::default();
            assert_eq!(step(final_state, byte, 7, &mut cells), final_state);
            assert!((1..16).all(|action| cells.at(action) == 0));
        }
    }
}

#[test]
fn a_state_crosses_a_call_with_all_that_it_counted() {
    let counters = [action::HOST, action::LENGTH, action::CONNECTION, action::FIELD];
    let counts = counters.iter().map(|counter| COUNTED[*counter as usize] * WINDOW as u64).sum();
    let state = State::from_bits(State { node: u8::MAX, counts }.bits());
    assert_eq!(state, State { node: u8::MAX, counts });
    assert!(counters.iter().all(|counter| state.count(*counter) as usize == WINDOW));
    assert_eq!(COUNTED[action::NONE as usize], 0);
}

#[test]
fn every_state_names_states_and_actions_that_exist() {
    for state in FIRST_LIVE..=u8::MAX {
        for class in 0..CLASS_COUNT {
            let at = index(u8::try_from(class).unwrap(), state);
            let next = NEXT[at];
            assert!(next <= Unsure::Status as u8 || next >= FIRST_LIVE, "{next} is no reason");
            assert!(u32::from(ACTIONS[at]) <= action::END);
        }
    }
}
