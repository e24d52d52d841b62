//! `cargo xtask test`: everything, in two rings. What needs root runs under sudo; everything is
//! built as the user who asks.

use crate::{
    build, exec,
    setup::{self, Group},
};
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader, IsTerminal, Write},
    process::{Command, Stdio},
};
use weir_tests::requirements;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `host` (pure and in-process tests), `kernel` (programs, namespaces, the real agent: needs
    /// root), or a part of a test's name.
    #[arg(long, value_name = "RING|NAME")]
    only: Option<String>,
}

/// Which tests a run is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ring {
    Host,
    Kernel,
}

/// What became of the tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Totals {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// Runs the tests and prints the totals; an error when one failed, or none ran.
pub(crate) fn test(args: &Args) -> Result<()> {
    let (rings, filter) = match args.only.as_deref() {
        None => (vec![Ring::Host, Ring::Kernel], None),
        Some("host") => (vec![Ring::Host], None),
        Some("kernel") => (vec![Ring::Kernel], None),
        Some(name) => (vec![Ring::Host, Ring::Kernel], Some(name)),
    };
    let mut totals = Totals::default();
    let mut not_run = None;
    for ring in rings {
        if ring == Ring::Kernel
            && let Some(reason) = unable()?
        {
            not_run = Some(reason);
            continue;
        }
        totals.add(run(ring, filter)?);
    }
    if let Some(reason) = not_run {
        println!("kernel ring skipped: {reason}");
    }
    println!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    if totals.failed > 0 || totals.passed == 0 {
        bail!("{}", if totals.failed > 0 { "tests failed" } else { "no test ran" });
    }
    Ok(())
}

/// Prepares the kernel ring. Why it cannot run, where that is allowed; an error where it must.
fn unable() -> Result<Option<String>> {
    let prepared = setup::ensure(&[Group::Kernel, Group::Network, Group::Peers, Group::Schemas])
        .and_then(|()| build::build(&build::Args::default()));
    let mut lacks = requirements::missing();
    if !exec::is_root() {
        let sudo = Command::new("sudo").arg("--validate").status();
        if sudo.is_ok_and(|status| status.success()) {
            lacks.retain(|lack| !lack.starts_with("root"));
        }
    }
    if let Err(error) = prepared {
        lacks.push(format!("{error:#}"));
    }
    if lacks.is_empty() {
        return Ok(None);
    }
    let reason = lacks.join("; ");
    if requirements::required() {
        bail!("the kernel ring is required here, and this machine lacks: {reason}");
    }
    Ok(Some(reason))
}

fn run(ring: Ring, filter: Option<&str>) -> Result<Totals> {
    let nextest = exec::which("cargo-nextest").is_some();
    let mut command = exec::cargo(if nextest { "nextest" } else { "test" });
    if nextest {
        command.args(["run", "--no-fail-fast", "--no-tests=pass", "--status-level=slow"]);
        command.args(["--color", if std::io::stdout().is_terminal() { "always" } else { "never" }]);
    } else {
        command.arg("--no-fail-fast");
    }
    // Tests beside the code need nothing; those in a `tests` directory meet the kernel.
    command.arg("--workspace").args(match ring {
        Ring::Host => ["--lib", "--bins"],
        Ring::Kernel => ["--test", "*"],
    });
    if ring == Ring::Kernel && !exec::is_root() {
        command.env(runner_variable()?, "sudo --preserve-env=CI,PATH,WEIR_REQUIRE_KERNEL,RUST_BACKTRACE");
    }
    command.args(filter);
    println!("{} ring:", if ring == Ring::Host { "host" } else { "kernel" });
    let (totals, succeeded) =
        watch(&mut command, if nextest { Totals::of_nextest } else { Totals::of_cargo })?;
    if !succeeded && totals.failed == 0 {
        bail!("the tests could not be run");
    }
    Ok(totals)
}

/// The variable by which cargo and nextest learn what to start test programs with.
fn runner_variable() -> Result<String> {
    let host = build::host_triple()?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_")))
}

/// Runs the tests, shows what they print as they print it, and counts.
fn watch(command: &mut Command, count: impl Fn(&str) -> Option<Totals>) -> Result<(Totals, bool)> {
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .context("cannot start cargo")?;
    // The command keeps our copies of the pipe's end open: without this the reader never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut totals = Totals::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(std::io::stdout(), "{line}")?;
        if let Some(counted) = count(&without_colour(&line)) {
            totals.add(counted);
        }
    }
    Ok((totals, child.wait()?.success()))
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Reads the line in which nextest sums up. What a name filter leaves out is not counted as
    /// skipped.
    fn of_nextest(line: &str) -> Option<Self> {
        let counts = line.trim_start().strip_prefix("Summary [")?.split_once(" run: ")?.1;
        let failed = [" failed", " timed out", " exec failed"].map(|what| number_before(counts, what));
        Some(Self {
            passed: number_before(counts, " passed")?,
            failed: failed.into_iter().flatten().sum(),
            skipped: 0,
        })
    }

    /// Reads the line in which one of cargo's test programs sums up.
    fn of_cargo(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?;
        Some(Self {
            passed: number_before(counts, " passed")?,
            failed: number_before(counts, " failed")?,
            skipped: number_before(counts, " ignored")?,
        })
    }
}

fn number_before(text: &str, what: &str) -> Option<u32> {
    let (before, _) = text.split_once(what)?;
    before.rsplit([' ', '(']).next()?.parse().ok()
}

/// Terminal colours are `ESC [ ... m`.
fn without_colour(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    plain.extend(parts.map(|part| part.split_once('m').map_or("", |(_, text)| text)));
    plain
}

#[cfg(test)]
mod tests {
    use super::{Totals, without_colour};

    #[test]
    fn nextests_summary_is_counted() {
        let line = "     Summary [   0.010s] 22 tests run: 20 passed (1 slow), 2 failed, 7 skipped";
        assert_eq!(Totals::of_nextest(line), Some(Totals { passed: 20, failed: 2, skipped: 0 }));
        let line = "     Summary [ 9s] 3 tests run: 1 passed, 1 failed, 1 timed out, 0 skipped";
        assert_eq!(Totals::of_nextest(line), Some(Totals { passed: 1, failed: 2, skipped: 0 }));
    }

    #[test]
    fn what_a_test_program_says_within_nextest_is_not_counted() {
        assert_eq!(Totals::of_nextest("    test result: FAILED. 0 passed; 1 failed; 0 ignored"), None);
    }

    #[test]
    fn cargos_result_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 10 filtered out";
        assert_eq!(Totals::of_cargo(line), Some(Totals { passed: 12, failed: 2, skipped: 1 }));
        assert_eq!(Totals::of_cargo("12 passed; 2 failed"), None);
    }

    #[test]
    fn colours_do_not_hide_a_summary() {
        assert_eq!(without_colour("\u{1b}[31;1mSummary\u{1b}[0m [ 9s]"), "Summary [ 9s]");
    }
}
