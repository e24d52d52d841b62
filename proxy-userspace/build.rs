//! Embeds the kernel half, which `cargo xtask build` makes before. Where it has not been built,
//! an empty placeholder takes its place: host crates build anywhere, and loading refuses it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Where `cargo xtask build` leaves the object, below the workspace's root.
const BUILT: &str = "target/bpf/bpfel-unknown-none/release/weir-ebpf";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=WEIR_EBPF_OBJECT");
    let embedded = required("OUT_DIR")?.join("weir-ebpf");
    match env::var_os("WEIR_EBPF_OBJECT") {
        Some(object) => embed(Path::new(&object), &embedded),
        None => {
            let root = required("CARGO_MANIFEST_DIR")?.join("..");
            let object = root.join(BUILT);
            if object.exists() { embed(&object, &embedded) } else { placeholder(&root, &embedded) }
        }
    }
}

fn embed(object: &Path, embedded: &Path) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", object.display());
    fs::copy(object, embedded)
        .map(drop)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot embed {}: {error}", object.display())))
}

/// Watches the directory in which the object will appear: watching a missing file would rebuild
/// the agent every time.
fn placeholder(root: &Path, embedded: &Path) -> io::Result<()> {
    let directory = root.join("target/bpf");
    fs::create_dir_all(&directory)?;
    println!("cargo::rerun-if-changed={}", directory.display());
    fs::write(embedded, [])
}

fn required(name: &str) -> io::Result<PathBuf> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(format!("cargo did not set {name}")))
}
