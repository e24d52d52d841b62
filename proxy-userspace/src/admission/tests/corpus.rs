//! Generated heads, and corpora: what is admitted is read the same way by httparse, and by
//! the kernel half's scanner, which admits no head that is refused here (invariant I1).

#[path = "../../../../proxy-common/tests/heads/generator.rs"]
mod heads;

use super::super::agreement::agrees;
use heads::Heads;
use std::path::PathBuf;

/// Generated heads.
const CASES: usize = 100_000;

#[test]
fn i1_p16_generated_heads_that_are_admitted_are_read_in_one_way() {
    let mut heads = Heads::new(5);
    let admitted = (0..CASES).filter(|_| agrees(&heads.request())).count();
    assert!(admitted > CASES / 100, "{admitted} of {CASES}");
}

#[test]
fn the_corpus_is_read_in_one_way() {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut read = 0;
    for folder in ["../proxy-common/fuzz/corpus/head", "fuzz/corpus/admission"] {
        for entry in std::fs::read_dir(manifest.join(folder)).unwrap() {
            agrees(&std::fs::read(entry.unwrap().path()).unwrap());
            read += 1;
        }
    }
    assert!(read > 100, "{read}");
}
