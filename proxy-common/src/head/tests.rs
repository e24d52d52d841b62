#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
use super::*;

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
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n";
    let head = scan_answer(bytes, false).unwrap();
    assert_eq!(head, AnswerHead { framing: Framing::Length(12), status: 200, head_len: 39 });
}
