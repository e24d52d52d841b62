//! Requests that go in circles (`wire.md` B11): Via says which intermediaries a request has passed (RFC 9110 section
//! 7.6.3), and one that has passed here too often gets 508 (RFC 5842 section 7.2).
//!
//! Only what is brought in from outside says so, at Gateways, Ingresses and node ports: a request within the cluster
//! gets no fields that the kernel half, which carries the next one, would not add.

use http::{HeaderMap, HeaderValue, header::VIA};

/// How often a request may pass. Not once: an application may send a request on with all its fields, to another
/// host of the same Gateway, and mean it.
const MOST: usize = 8;

/// What an intermediary calls itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Via {
    name: Box<str>,
    /// For what came by HTTP/1.0, 1.1 and 2.
    entries: [HeaderValue; 3],
}

/// A request that has passed here too often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Loop;

impl Via {
    /// `None` for `off`, and for what is no value of a field.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let entry = |version: &str| HeaderValue::try_from(format!("{version} {name}")).ok();
        let entries = [entry("1.0")?, entry("1.1")?, entry("2")?];
        (name != "off").then(|| Self { name: name.into(), entries })
    }

    /// Says that the request passes, which has come by `protocol` (`HTTP/1.1`).
    pub(crate) fn pass(&self, fields: &mut HeaderMap, protocol: &str) -> Result<(), Loop> {
        let values = fields.get_all(VIA).iter();
        if values.map(|value| self.passed(value.as_bytes())).sum::<usize>() >= MOST {
            return Err(Loop);
        }
        let [old, plain, second] = &self.entries;
        let entry = match protocol {
            "HTTP/1.0" => old,
            "HTTP/2" => second,
            _ => plain,
        };
        fields.append(VIA, entry.clone());
        Ok(())
    }

    /// How many of a list's entries are ours: `[NAME/]VERSION RECEIVED-BY [(COMMENT)]`.
    fn passed(&self, list: &[u8]) -> usize {
        let mut depth = 0_u32;
        let (mut escaped, mut plain) = (false, Vec::with_capacity(list.len()));
        for byte in list {
            // A comment may have commas, and other comments in it (RFC 9110 section 5.6.5).
            match byte {
                _ if std::mem::take(&mut escaped) => {}
                b'\\' if depth > 0 => escaped = true,
                b'(' => depth = depth.saturating_add(1),
                b')' => depth = depth.saturating_sub(1),
                other if depth == 0 => plain.push(*other),
                _ => {}
            }
        }
        let received_by = |entry: &&[u8]| {
            let mut words = entry.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
            let _protocol = words.next();
            words.next().is_some_and(|by| by.eq_ignore_ascii_case(self.name.as_bytes()))
        };
        plain.split(|byte| *byte == b',').filter(received_by).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn passed(said: &[&str], protocol: &str) -> Result<Vec<String>, Loop> {
        let mut fields = HeaderMap::new();
        for value in said {
            fields.append(VIA, value.parse().unwrap());
        }
        Via::named("weir").unwrap().pass(&mut fields, protocol)?;
        Ok(fields.get_all(VIA).iter().map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    /// RFC 9110 section 7.6.3.
    #[test]
    fn b11_an_entry_is_added_behind_those_before_and_says_what_the_request_came_by() {
        assert_eq!(passed(&[], "HTTP/1.1").unwrap(), ["1.1 weir"]);
        assert_eq!(
            passed(&["1.0 fred, 1.1 p.example.net"], "HTTP/2").unwrap(),
            ["1.0 fred, 1.1 p.example.net", "2 weir"]
        );
        assert_eq!(passed(&["1.1 a", "1.1 b"], "HTTP/1.0").unwrap(), ["1.1 a", "1.1 b", "1.0 weir"]);
    }

    #[test]
    fn b11_a_request_that_has_passed_eight_times_is_in_a_loop_however_it_says_so() {
        let seven = ["1.1 weir"; 7];
        assert_eq!(passed(&seven, "HTTP/1.1").unwrap().len(), 8);
        assert_eq!(passed(&["1.1 weir"; 8], "HTTP/1.1"), Err(Loop));
        let list = "1.1 weir, HTTP/2 Weir (x), 1.0\tWEIR ,,1.1  weir (a, b (1.1 \\) c) d), 2 weir";
        assert!(passed(&[list, "1.1 weir", "1.1 weir"], "HTTP/1.1").is_ok());
        assert_eq!(passed(&[list, "1.1 weir, 1.1 weir", "2 weir"], "HTTP/1.1"), Err(Loop));
    }

    #[test]
    fn b11_what_others_say_about_themselves_is_no_loop() {
        let others =
            ["1.1 weird", "1.1 weir:80", "weir", "1.1 a (1.1 weir, 1.1 weir)", "1.1", "1.1 (weir) b"];
        assert!(passed(&others.repeat(10), "HTTP/1.1").is_ok());
    }

    #[test]
    fn b11_off_says_nothing() {
        assert_eq!(Via::named("off"), None);
        assert!(Via::named("a b").is_some() && Via::named("a\r\nb").is_none());
    }
}
