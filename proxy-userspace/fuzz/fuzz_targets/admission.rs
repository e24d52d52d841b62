//! `cargo fuzz run admission` in `proxy-userspace`: any bytes of a client. What must hold is in
//! `src/admission/agreement.rs`, which the plain tests use too, over the same corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    proxy_userspace_fuzz::admission_agrees(bytes);
});
