//! Files of test cases: YAML documents, each a case or a list of them; JSON; one JSON object a line.

use anyhow::Context;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::{
    fs,
    io::{self, Read},
    path::Path,
};

/// Cases of one file.
const MAX_BYTES: u64 = 1 << 30;

/// Reads a file's cases, in order; `-` is standard input.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let mut text = String::new();
    let outcome = if path == Path::new("-") {
        io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
    };
    outcome.with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

/// The same of a file's text.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> anyhow::Result<Vec<T>> {
    let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let is_json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    if lines().next().is_some_and(|(_, first)| first.trim_start().starts_with('{') && is_json(first)) {
        let read = |(index, line)| serde_json::from_str(line).with_context(|| format!("line {}", index + 1));
        return lines().map(read).collect();
    }
    if text.trim_start().starts_with(['[', '{']) && is_json(text) {
        return cases(serde_json::from_str(text)?, 0);
    }
    documents(text)
}

/// One case, or a list of them, behind `before` others.
fn cases<T: DeserializeOwned>(value: serde_json::Value, before: usize) -> anyhow::Result<Vec<T>> {
    let items = match value {
        serde_json::Value::Array(items) => items,
        one => vec![one],
    };
    let numbered = (before + 1..).zip(items);
    let read = |(number, item)| serde_json::from_value(item).with_context(|| format!("case {number}"));
    numbered.map(read).collect()
}

fn documents<T: DeserializeOwned>(text: &str) -> anyhow::Result<Vec<T>> {
    let mut bytes = text.as_bytes();
    let mut cases = Vec::new();
    // As in manifests: `n`, `off` and the like are words.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    for document in serde_saphyr::read_with_options::<_, Option<serde_json::Value>>(&mut bytes, options) {
        let document = document.map_err(|error| anyhow::anyhow!("{error}"))?;
        if let Some(document) = document {
            cases.extend(self::cases(document, cases.len())?);
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[derive(serde::Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Case {
        name: String,
    }

    fn names(text: &str) -> Vec<String> {
        parse::<Case>(text).unwrap().into_iter().map(|case| case.name).collect()
    }

    #[test]
    fn cases_come_as_documents_lists_json_or_lines() {
        assert_eq!(names("name: a\n---\nname: n\n"), ["a", "n"]);
        assert_eq!(names("# two\n- name: a\n- name: b\n---\n- {name: c}\n"), ["a", "b", "c"]);
        assert_eq!(names("{\"name\": \"a\"}\n\n{\"name\": \"b\"}\n"), ["a", "b"]);
        assert_eq!(names("[{\"name\": \"a\"},\n {\"name\": \"b\"}]"), ["a", "b"]);
        assert_eq!(names("{\n \"name\": \"a\"\n}"), ["a"]);
        assert!(names("").is_empty());
    }

    #[test]
    fn a_case_that_is_none_says_where() {
        let wrong = |text| format!("{:#}", parse::<Case>(text).unwrap_err());
        assert!(wrong("- name: a\n- nam: b\n").contains("case 2"));
        assert!(wrong("{\"name\": \"a\"}\n{\"nam\": 1}\n").contains("line 2"));
    }
}
