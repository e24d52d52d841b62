//! `cargo fuzz run frames` in `proxy-userspace`: any bytes of a client that speaks HTTP/2, behind its preface. What
//! must hold is in `src/server/http2/agreement.rs`, which the plain tests use too, over the same corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    proxy_userspace_fuzz::frames_agree(bytes);
});
