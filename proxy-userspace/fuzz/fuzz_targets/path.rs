//! `cargo fuzz run path` in `proxy-userspace`: any bytes as a request's target. What must hold is in
//! `src/route/path/agreement.rs`, which the plain tests use too, over the same corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    proxy_userspace_fuzz::path_agrees(bytes);
});
