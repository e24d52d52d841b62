//! What is wrong, or worth knowing, about the configuration.

use serde::Serialize;
use std::fmt;

/// How bad a finding is. Errors come first in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object, or the named part of it, is left out.
    Error,
    /// It is used, but hardly as intended.
    Warning,
    /// Worth knowing.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// One sentence about one place. Sorts by severity, then by place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: String,
    /// The line, from 1; 0 is the whole file.
    pub line: u32,
    /// `Kind namespace/name`; empty when the file is at fault.
    pub object: String,
    /// What is wrong.
    pub text: String,
    /// What to do about it; may be empty.
    pub fix: String,
}

impl fmt::Display for Finding {
    /// `severity file:line object: text (fix)`, always one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.severity, Printable(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.object.is_empty() {
            write!(f, " {}", Printable(&self.object))?;
        }
        write!(f, ": {}", Printable(&self.text))?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, " ({})", Printable(&self.fix)) }
    }
}

/// A value from a manifest as findings quote it: escaped, and cut at 80 characters.
#[must_use]
pub fn quoted(value: &str) -> String {
    const LONGEST: usize = 80;
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", value.get(..end).unwrap_or_default()),
        None => format!("{value:?}"),
    }
}

/// Text without control characters: a manifest cannot forge a line of output.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(|c: char| c.is_control()) {
            match part.char_indices().next_back() {
                Some((at, last)) if last.is_control() => {
                    write!(f, "{}{}", part.get(..at).unwrap_or_default(), last.escape_default())?;
                }
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, line: u32) -> Finding {
        Finding {
            severity,
            file: "a.yaml".into(),
            line,
            object: "Service default/hello".into(),
            text: "no\nway".into(),
            fix: "stop".into(),
        }
    }

    #[test]
    fn a_finding_is_one_line_whatever_it_quotes() {
        assert_eq!(
            finding(Severity::Error, 3).to_string(),
            r"error a.yaml:3 Service default/hello: no\nway (stop)"
        );
        assert_eq!(quoted("a\r\nb"), r#""a\r\nb""#);
        assert_eq!(quoted(&"ä".repeat(100)), format!("{:?}...", "ä".repeat(80)));
    }

    #[test]
    fn errors_sort_before_warnings_and_lines_in_order() {
        let mut findings =
            [finding(Severity::Info, 1), finding(Severity::Error, 9), finding(Severity::Error, 2)];
        findings.sort();
        assert_eq!(
            findings.map(|f| (f.severity, f.line)),
            [(Severity::Error, 2), (Severity::Error, 9), (Severity::Info, 1)]
        );
    }
}
