//! The style rules that rustfmt and clippy do not know. Each is a pure function over one file.

mod blank;

use anyhow::{Context, Result, bail};
use blank::Source;
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 70;
/// The kernel cuts names of programs and maps here.
const MAX_KERNEL_NAME: usize = 15;
/// Words that say nothing about what a thing is.
const BANNED_WORDS: [&str; 6] = ["util", "utils", "helper", "helpers", "manager", "misc"];
const BANNED_PREFIXES: [&str; 2] = ["handle_", "process_"];
/// The functions of the tests that may sleep: they ask for a condition until a deadline.
const POLLING_FUNCTIONS: [&str; 3] = ["eventually", "until", "throughout"];

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    text: String,
}

/// Checks every Rust file of the project; an error lists what breaks a rule.
pub(crate) fn tidy(root: &Path) -> Result<()> {
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let mut findings = Vec::new();
    let files = rust_files(root)?;
    let read = |file: &PathBuf| -> Result<Source> {
        let text = fs::read_to_string(root.join(file)).with_context(|| file.display().to_string())?;
        Ok(Source::of(&text))
    };
    let sources = files.iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut tests: Vec<PathBuf> = [
        "tests/tests",
        "proxy-userspace/tests",
        "proxy-userspace/fuzz",
        "proxy-common/tests",
        "proxy-common/fuzz",
    ]
    .map(PathBuf::from)
    .into();
    tests.extend(files.iter().zip(&sources).flat_map(|(file, source)| test_modules(file, source)));
    for (file, source) in files.iter().zip(&sources) {
        let is_test = tests.iter().any(|module| file.with_extension("").starts_with(module));
        let found = check(file, source, (!is_test).then_some(&architecture));
        findings.extend(found.into_iter().map(|finding| format!("{}:{finding}", file.display())));
    }
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings in {} files", findings.len(), files.len());
    }
    println!("tidy: {} files, no findings", files.len());
    Ok(())
}

/// The project's own sources, relative to `root`.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut directories: Vec<PathBuf> =
        ["proxy-common", "proxy-ebpf", "proxy-userspace", "tests", "xtask", "bench"]
            .map(PathBuf::from)
            .into();
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        if !root.join(&directory).is_dir() {
            continue;
        }
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// `architecture` is for files of production code.
fn check(file: &Path, source: &Source, architecture: Option<&String>) -> Vec<Finding> {
    let functions = functions(source);
    let mut findings = Vec::new();
    if let Some(architecture) = architecture {
        findings.extend(long_file(source));
        findings.extend(undrawn(file, architecture));
    }
    findings.extend(long_functions(&functions));
    findings.extend(empty_names(source));
    findings.extend(bare_unsafe(source));
    findings.extend(unfinished(source));
    // The scripted peer and API server are slow on purpose.
    let scripted = ["tests/src/bin", "tests/src/apiserver"].iter().any(|scripted| file.starts_with(scripted));
    if file.starts_with("tests") && !scripted {
        findings.extend(sleeps(source, &functions));
    }
    if file.starts_with("proxy-ebpf") {
        findings.extend(long_kernel_names(source));
    }
    findings.sort_by_key(|finding| finding.line);
    findings
}

/// Modules that exist in tests only and have files of their own, as paths without extension.
fn test_modules(file: &Path, source: &Source) -> Vec<PathBuf> {
    let root = ["lib", "main", "mod"].iter().any(|stem| file.file_stem().is_some_and(|found| found == *stem));
    let directory = if root { file.with_file_name("") } else { file.with_extension("") };
    let declared = source.code.windows(2).filter_map(|pair| match pair {
        [attribute, item] if attribute.trim() == "#[cfg(test)]" => {
            item.trim().strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name)
        }
        _ => None,
    });
    declared.map(|name| directory.join(name)).collect()
}

/// Lines of code, without blank lines, comments and the test module at the end.
fn long_file(source: &Source) -> Option<Finding> {
    let tests = source.raw.windows(2).position(|pair| match pair {
        [attribute, item] => attribute.trim() == "#[cfg(test)]" && item.trim_start().starts_with("mod "),
        _ => false,
    });
    let production = source.code.iter().take(tests.unwrap_or(usize::MAX));
    let lines = production.filter(|line| !line.trim().is_empty()).count();
    (lines > MAX_FILE_LINES)
        .then(|| finding(0, format!("{lines} lines of code in one file, {MAX_FILE_LINES} at most")))
}

/// A function with a body.
struct Function {
    name: String,
    first: usize,
    last: usize,
}

/// Every function with a body, nested ones included; lines count from 0.
fn functions(source: &Source) -> Vec<Function> {
    let mut found = Vec::new();
    for (first, line) in source.code.iter().enumerate() {
        let Some((name, column)) = function_name(line) else { continue };
        if let Some(last) = body_end(source, first, column) {
            found.push(Function { name, first, last });
        }
    }
    found
}

fn function_name(line: &str) -> Option<(String, usize)> {
    let column = line.match_indices("fn ").map(|(at, _)| at).find(|&at| {
        line.get(..at).is_some_and(|before| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
    })?;
    let name: String =
        line.get(column + 3..)?.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some((name, column))
}

/// The line of the brace that closes the body which begins after (`first`, `column`); `None` for
/// a function without one.
fn body_end(source: &Source, first: usize, column: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut brackets = 0_usize;
    for (number, line) in source.code.iter().enumerate().skip(first) {
        let from = if number == first { column } else { 0 };
        for c in line.get(from..)?.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 1 => return Some(number),
                '}' => depth = depth.checked_sub(1)?,
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets = brackets.saturating_sub(1),
                ';' if depth == 0 && brackets == 0 => return None,
                _ => {}
            }
        }
    }
    None
}

fn long_functions(functions: &[Function]) -> Vec<Finding> {
    functions
        .iter()
        .filter(|function| function.last - function.first >= MAX_FUNCTION_LINES)
        .map(|function| {
            let lines = function.last - function.first + 1;
            let text = format!("fn {} has {lines} lines, {MAX_FUNCTION_LINES} at most", function.name);
            finding(function.first, text)
        })
        .collect()
}

/// Names given here (not names used) that say nothing.
fn empty_names(source: &Source) -> Vec<Finding> {
    const GIVES_A_NAME: [&str; 9] =
        ["fn", "mod", "struct", "enum", "trait", "type", "const", "static", "macro_rules"];
    let mut findings = Vec::new();
    for (number, line) in source.code.iter().enumerate() {
        let words: Vec<&str> = line
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .collect();
        for pair in words.windows(2) {
            let [keyword, name] = pair else { continue };
            if GIVES_A_NAME.contains(keyword) && says_nothing(name) {
                findings.push(finding(number, format!("the name `{name}` does not say what it is")));
            }
        }
    }
    findings
}

fn says_nothing(name: &str) -> bool {
    let snake: String = name
        .chars()
        .enumerate()
        .flat_map(|(at, c)| {
            let gap = (at > 0 && c.is_uppercase() && name.contains(char::is_lowercase)).then_some('_');
            gap.into_iter().chain(c.to_lowercase())
        })
        .collect();
    BANNED_PREFIXES.iter().any(|prefix| snake.starts_with(prefix))
        || snake.split('_').any(|word| BANNED_WORDS.contains(&word))
}

/// Every `unsafe` has its reason above it: `SAFETY:`, or `# Safety` in the docs of an unsafe fn.
fn bare_unsafe(source: &Source) -> Vec<Finding> {
    let is_unsafe = |line: &str| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe")
            && !line.contains("unsafe(")
    };
    let numbers =
        source.code.iter().enumerate().filter(|(_, line)| is_unsafe(line)).map(|(number, _)| number);
    numbers
        .filter(|&number| !has_reason(source, number))
        .map(|at| finding(at, "unsafe without SAFETY"))
        .collect()
}

/// Looks at the line itself and upwards to the end of the statement before.
fn has_reason(source: &Source, number: usize) -> bool {
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    let mut above = source.raw.iter().zip(&source.code).take(number + 1).rev();
    if above.next().is_some_and(|(raw, _)| says(raw)) {
        return true;
    }
    above
        .take_while(|(raw, code)| !raw.trim().is_empty() && !code.trim_end().ends_with([';', '}']))
        .any(|(raw, _)| says(raw))
}

/// Work that was put off, and tests that do not run.
fn unfinished(source: &Source) -> Vec<Finding> {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let mut findings = Vec::new();
    for (number, (raw, code)) in source.raw.iter().zip(&source.code).enumerate() {
        let mut words = raw.split(|c: char| !c.is_alphanumeric());
        if let Some(word) = words.find(|word| marks.iter().any(|mark| mark == word)) {
            findings.push(finding(number, format!("{word}: do it, or file an issue")));
        }
        if code.trim_start().starts_with("#[ignore") {
            findings.push(finding(number, "an ignored test proves nothing"));
        }
    }
    findings
}

/// Tests wait for conditions, not for time to pass.
fn sleeps(source: &Source, functions: &[Function]) -> Vec<Finding> {
    let polls = |number: usize| {
        functions.iter().any(|function| {
            (function.first..=function.last).contains(&number)
                && POLLING_FUNCTIONS.contains(&function.name.as_str())
        })
    };
    let numbers = source.code.iter().enumerate().filter(|(_, line)| line.contains("sleep("));
    numbers
        .filter(|&(number, _)| !polls(number))
        .map(|(number, _)| finding(number, format!("sleep outside of {}", POLLING_FUNCTIONS.join(", "))))
        .collect()
}

/// Programs and maps: the item below an attribute of aya's, or the name that the attribute gives.
fn long_kernel_names(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, pair) in source.code.windows(2).enumerate() {
        let [attribute, item] = pair else { continue };
        if !attribute.trim_start().starts_with("#[") {
            continue;
        }
        let raw = source.raw.get(number).map_or("", String::as_str);
        let given = raw
            .split_once("name = \"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(name, _)| name.to_owned());
        let of_map = ["#[map", "#[btf_map"].iter().any(|map| attribute.trim_start().starts_with(map));
        let name = if of_map { given.or_else(|| static_name(item)) } else { program_name(item) };
        if let Some(name) = name.filter(|name| name.len() > MAX_KERNEL_NAME) {
            let text = format!("the kernel cuts `{name}` at {MAX_KERNEL_NAME} bytes");
            findings.push(finding(number + 1, text));
        }
    }
    findings
}

fn static_name(item: &str) -> Option<String> {
    let (_, rest) = item.split_once("static ")?;
    Some(rest.trim_start_matches("mut ").chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

/// Programs are the functions named `weir_*`.
fn program_name(item: &str) -> Option<String> {
    function_name(item).map(|(name, _)| name).filter(|name| name.starts_with("weir_"))
}

/// ARCHITECTURE.md draws every file of the three product crates.
fn undrawn(file: &Path, architecture: &str) -> Option<Finding> {
    let mut parts = file.iter();
    let product = parts.next()?.to_str()?.starts_with("proxy-") && parts.next()?.to_str()? == "src";
    let name = parts.as_path().to_str()?;
    let drawn = architecture.match_indices(name).any(|(at, _)| {
        !architecture.get(..at).unwrap_or_default().ends_with(|c: char| c.is_alphanumeric() || c == '_')
    });
    (product && !drawn).then(|| finding(0, format!("ARCHITECTURE.md does not name {name}")))
}

fn finding(number: usize, text: impl Into<String>) -> Finding {
    Finding { line: number + 1, text: text.into() }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::{Path, PathBuf, Source, check, test_modules};

    /// What is found in `text` as production code in `file`, without line numbers.
    fn found(file: &str, text: &str) -> Vec<String> {
        let architecture = "main.rs".to_owned();
        let findings = check(Path::new(file), &Source::of(text), Some(&architecture));
        findings.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn modules_of_tests_are_told_from_others() {
        let source =
            Source::of("mod a;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) mod ring;\nmod b;");
        let under = |file: &str| test_modules(Path::new(file), &source);
        assert_eq!(under("x/src/lib.rs"), [PathBuf::from("x/src/tests"), PathBuf::from("x/src/ring")]);
        assert_eq!(under("x/src/a.rs"), [PathBuf::from("x/src/a/tests"), PathBuf::from("x/src/a/ring")]);
    }

    #[test]
    fn a_file_may_have_400_lines_of_code_beside_comments_and_tests() {
        let code = "use a::b;\n".repeat(400);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "use a::b;\n".repeat(300));
        assert!(found("xtask/src/a.rs", &format!("// one\n\n{code}{tests}")).is_empty());
        assert_eq!(found("xtask/src/a.rs", &format!("use c;\n{code}")).len(), 1);
        let test = Source::of(&format!("use c;\n{code}"));
        assert!(check(Path::new("tests/tests/a.rs"), &test, None).is_empty());
    }

    #[test]
    fn a_function_may_have_70_lines() {
        let fits = format!("fn long(\n) {{\n{}}}\n", "    a();\n".repeat(67));
        assert!(found("xtask/src/a.rs", &fits).is_empty());
        let long = format!("impl A {{\nasync fn long(\n) {{\n{}}}\n}}\n", "    a(\"{\");\n".repeat(68));
        assert_eq!(found("xtask/src/a.rs", &long), ["fn long has 71 lines, 70 at most"]);
    }

    #[test]
    fn a_declaration_without_a_body_has_no_length() {
        let text = format!("trait A {{\nfn short(a: [u8; 4]);\n{}}}\n", "type B;\n".repeat(80));
        assert!(found("xtask/src/a.rs", &text).is_empty());
    }

    #[test]
    fn names_that_say_nothing_are_found_where_they_are_given() {
        assert_eq!(found("xtask/src/a.rs", "fn handle_request() {}").len(), 1);
        assert_eq!(found("xtask/src/a.rs", "struct FlowManager;\nmod http_utils;").len(), 2);
        assert!(
            found("xtask/src/a.rs", "use tokio_util::sync;\nfn processed() {}\nconst UTIL_X_Y: u8 = 1;")
                .len()
                == 1
        );
        assert!(found("xtask/src/a.rs", "use hyper_util::rt;\nstruct Handle;").is_empty());
    }

    #[test]
    fn unsafe_needs_its_reason_right_above() {
        assert_eq!(found("xtask/src/a.rs", "fn a() {\n    unsafe { b() }\n}"), ["unsafe without SAFETY"]);
        assert!(
            found(
                "xtask/src/a.rs",
                "fn a() {\n    // SAFETY: b is fine\n    let x =\n        unsafe { b() };\n}"
            )
            .is_empty()
        );
        assert_eq!(found("xtask/src/a.rs", "// SAFETY: of a\na();\nunsafe { b() }").len(), 1);
        assert!(found("xtask/src/a.rs", "#[unsafe(no_mangle)]\nstatic A: u8 = 0;").is_empty());
        assert!(
            found("xtask/src/a.rs", "/// # Safety\n/// never\n#[inline]\npub unsafe fn a() {}").is_empty()
        );
    }

    #[test]
    fn sleeping_tests_are_found_but_not_polling_ones() {
        assert_eq!(found("tests/tests/a.rs", "fn a() { thread::sleep(x); }").len(), 1);
        assert!(found("tests/src/a.rs", "fn eventually() {\n    thread::sleep(x);\n}").is_empty());
        assert!(found("xtask/src/a.rs", "fn a() { thread::sleep(x); }").is_empty());
    }

    #[test]
    fn work_put_off_is_found() {
        let mark = ["TO", "DO"].concat();
        assert_eq!(found("xtask/src/a.rs", &format!("// {mark}: later\n#[ignore]\nfn a() {{}}")).len(), 2);
    }

    #[test]
    fn kernel_names_fit_in_15_bytes() {
        let text = "#[map]\nstatic WEIR_SERVICES_4X: A = B;\n#[sk_msg]\npub fn weir_sk_message_x(c: C) -> u32 { 0 }\n";
        assert_eq!(found("proxy-ebpf/src/main.rs", text).len(), 2);
        let fits = "#[map(name = \"SHORT\")]\nstatic WEIR_SERVICES_4X: A = B;\n#[sk_msg]\npub fn weir_msg(c: C) -> u32 { 0 }\n";
        assert!(found("proxy-ebpf/src/main.rs", fits).is_empty());
    }

    #[test]
    fn every_product_file_is_drawn() {
        assert_eq!(found("proxy-common/src/a.rs", "")[0], "ARCHITECTURE.md does not name a.rs");
        assert_eq!(found("proxy-common/src/ain.rs", "").len(), 1);
        assert!(found("proxy-common/src/main.rs", "").is_empty());
        assert!(found("proxy-common/build.rs", "").is_empty());
    }
}
