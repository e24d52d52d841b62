//! `cargo fuzz run head` in `proxy-common`: any bytes, as a request and as an answer. What must agree is in
//! `tests/heads`, which the plain tests use too, over the same corpus.
#![no_main]

#[path = "../../tests/heads/mod.rs"]
mod heads;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    heads::request_agrees(bytes);
    heads::request_is_whole(bytes, 0..bytes.len());
    for head_request in [false, true] {
        heads::answer_agrees(bytes, head_request);
        heads::answer_is_whole(bytes, head_request, 0..bytes.len());
    }
});
