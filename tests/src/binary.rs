//! Where the built binaries are.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// The workspace's directory.
#[must_use]
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The agent: `WEIR_BIN`, or the newest built one.
pub fn weir() -> Result<PathBuf> {
    find("weir", "WEIR_BIN", "cargo xtask build")
}

/// The scripted peer: `WEIR_PEER`, or the newest built one.
pub fn weir_peer() -> Result<PathBuf> {
    find("weir-peer", "WEIR_PEER", "cargo build -p weir-tests --bin weir-peer")
}

fn find(name: &str, variable: &str, built_by: &str) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(variable) {
        return Ok(given.into());
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let age = |path: &PathBuf| path.metadata().and_then(|found| found.modified()).ok();
    let newest = ["debug", "release"]
        .map(|profile| target.join(profile).join(name))
        .into_iter()
        .filter(|path| age(path).is_some())
        .max_by_key(age);
    match newest {
        Some(path) => Ok(path),
        None => bail!("{name} is not built below {}: run `{built_by}`, or set {variable}", target.display()),
    }
}
