//! Generated heads, and corpora: what is admitted is read the same way by httparse, and by
//! the kernel half's scanner, which admits no head that is refused here (invariant I1).

#[path = "../../../../proxy-common/tests/heads/generator.rs"]
mod heads;

use super::super::agreement::agrees;
use crate::{
    route::path::agreement::agrees as path_agrees, server::http2::agreement::agrees as frames_agree,
};
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

/// What the files in folders beside this crate's manifest are answered with.
fn replayed<T>(folders: &[&str], mut ask: impl FnMut(&[u8]) -> T) -> Vec<T> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(manifest.join(folder)).unwrap());
    files.map(|entry| ask(&std::fs::read(entry.unwrap().path()).unwrap())).collect()
}

#[test]
fn the_corpus_is_read_in_one_way() {
    let replayed = replayed(&["../proxy-common/fuzz/corpus/head", "fuzz/corpus/admission"], agrees);
    let admitted = replayed.iter().filter(|admitted| **admitted).count();
    assert!(admitted > 10 && replayed.len() > admitted + 10, "{admitted} of {}", replayed.len());
}

#[test]
fn i10_p16_targets_of_the_corpus_are_forwarded_as_they_are_matched() {
    let replayed = replayed(&["fuzz/corpus/path"], path_agrees);
    let admitted = replayed.iter().filter(|admitted| **admitted).count();
    assert!(admitted > 10 && replayed.len() > admitted + 10, "{admitted} of {}", replayed.len());
}

#[test]
fn frames_of_the_corpus_are_counted_however_they_are_cut() {
    let replayed = replayed(&["fuzz/corpus/frames"], frames_agree);
    let with_requests = replayed.iter().filter(|requests| **requests > 0).count();
    assert!(with_requests > 10, "{with_requests} of {}", replayed.len());
}
