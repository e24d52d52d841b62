//! HTTP rules of one of Cilium's policies.

use super::Reader;
use crate::{
    policy::{Allows, FieldTest, Otherwise, Pattern, Rule},
    source::{
        cilium::{HttpRule, Rules},
        finding::quoted,
    },
};
use std::sync::Arc;

impl Reader<'_> {
    pub(super) fn http_rules(&mut self, path: &str, name: &str, rules: &Rules) -> Vec<Arc<Rule>> {
        let http = rules.http.as_deref().unwrap_or_default();
        if http.is_empty() {
            let fix = "write `- {}` to allow every request, or leave out rules to allow every byte";
            self.fault(&format!("{path}.rules.http"), "is missing or empty", fix);
        }
        let rule = |(index, rule): (usize, &HttpRule)| {
            let allows = self.http_rule(&format!("{path}.rules.http[{index}]"), rule)?;
            Some(Arc::new(Rule::new(format!("{name}.http{index}").into(), allows, self.register)))
        };
        http.iter().enumerate().filter_map(rule).collect()
    }

    fn http_rule(&mut self, path: &str, rule: &HttpRule) -> Option<Allows> {
        let method = self.pattern(&format!("{path}.method"), rule.method.as_deref());
        let target = self.pattern(&format!("{path}.path"), rule.path.as_deref());
        let host = self.pattern(&format!("{path}.host"), rule.host.as_deref());
        let mut fields = Vec::new();
        for (index, text) in rule.headers.iter().flatten().enumerate() {
            match FieldTest::literal(text) {
                Ok(test) => fields.push(test),
                Err(why) => self.fault(&format!("{path}.headers[{index}]"), why, "Name, or Name: value"),
            }
        }
        for (index, one) in rule.header_matches.iter().flatten().enumerate() {
            let path = format!("{path}.headerMatches[{index}]");
            let otherwise = match one.mismatch.as_deref() {
                None | Some("") => Otherwise::NoMatch,
                Some("LOG") => Otherwise::Log,
                Some("ADD") => Otherwise::Add,
                Some("DELETE") => Otherwise::Delete,
                Some("REPLACE") => Otherwise::Replace,
                Some(other) => {
                    let text = format!("{} is unknown", quoted(other));
                    self.fault(&format!("{path}.mismatch"), text, "LOG, ADD, DELETE or REPLACE");
                    continue;
                }
            };
            match FieldTest::new(&one.name, one.value.as_deref(), otherwise) {
                Ok(test) => fields.push(test),
                Err(why) => self.fault(&path, why, ""),
            }
        }
        Some(Allows::Http { method: method?, path: target?, host: host?, fields })
    }

    /// The outer `None`: it cannot be read.
    fn pattern(&mut self, path: &str, text: Option<&str>) -> Option<Option<Arc<Pattern>>> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Some(None) };
        match self.register.pattern(text) {
            Ok(pattern) => Some(Some(pattern)),
            Err(why) => {
                let text = format!("{} is not usable: {why}", quoted(text));
                self.fault(path, text, "a POSIX extended regular expression");
                None
            }
        }
    }
}
