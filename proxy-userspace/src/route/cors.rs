//! `CORS`: which pages of other origins may call, and what browsers are told about it.

use super::target::Target;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The filter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cors {
    /// `*`, or origins whose host may begin with `*.`.
    pub(crate) origins: Vec<Box<str>>,
    pub(crate) credentials: bool,
    /// `*`, or methods.
    pub(crate) methods: Vec<Box<str>>,
    /// `*`, or names of fields.
    pub(crate) headers: Vec<Box<str>>,
    pub(crate) exposed: Vec<Box<str>>,
    /// Seconds.
    pub(crate) max_age: u32,
}

impl Cors {
    /// The head of the answer to a preflight; `None` where the request is none. An origin that is not
    /// allowed gets an answer without a word.
    pub(crate) fn preflight(&self, target: &Target<'_>) -> Option<HeaderMap> {
        let method = target.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = target.headers.get(header::ORIGIN)?;
        if target.method != "OPTIONS" {
            return None;
        }
        let mut head = HeaderMap::new();
        head.insert(header::VARY, HeaderValue::from_static("Origin"));
        if !self.allow_origin(origin, &mut head) {
            return Some(head);
        }
        let methods = named(&self.methods, || Some(method.clone()));
        let wanted = || target.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let fields = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, named(&self.headers, wanted)),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, self.exposes()),
            (header::ACCESS_CONTROL_MAX_AGE, Some(self.max_age.into())),
        ];
        head.extend(fields.into_iter().filter_map(|(name, value)| Some((name, value?))));
        Some(head)
    }

    /// Adds to an answer what its client's browser must know.
    pub(crate) fn answer(&self, origin: Option<&HeaderValue>, head: &mut HeaderMap) {
        let Some(origin) = origin else { return };
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            head.remove(name);
        }
        head.append(header::VARY, HeaderValue::from_static("Origin"));
        if self.allow_origin(origin, head)
            && let Some(exposed) = self.exposes()
        {
            head.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }

    /// Says that the origin may; `false` where it may not.
    fn allow_origin(&self, origin: &HeaderValue, head: &mut HeaderMap) -> bool {
        let allowed = origin.to_str().is_ok_and(|text| self.origins.iter().any(|one| allows(one, text)));
        if allowed {
            head.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            if self.credentials {
                let name: HeaderName = header::ACCESS_CONTROL_ALLOW_CREDENTIALS;
                head.insert(name, HeaderValue::from_static("true"));
            }
        }
        allowed
    }

    /// A star means nothing to a browser that sends credentials.
    fn exposes(&self) -> Option<HeaderValue> {
        let star = self.exposed.iter().any(|one| &**one == "*");
        if star && self.credentials { None } else { list(&self.exposed) }
    }
}

/// What is allowed by name; for `*`, what was asked for.
fn named(names: &[Box<str>], asked: impl FnOnce() -> Option<HeaderValue>) -> Option<HeaderValue> {
    if names.iter().any(|one| &**one == "*") { asked() } else { list(names) }
}

fn list(names: &[Box<str>]) -> Option<HeaderValue> {
    if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() }
}

/// `https://*.example.com` is for every host below example.com.
fn allows(pattern: &str, origin: &str) -> bool {
    if pattern == "*" || pattern.eq_ignore_ascii_case(origin) {
        return true;
    }
    let Some((scheme, rest)) = pattern.split_once("://*") else { return false };
    let Some(host) = origin.strip_prefix(scheme).and_then(|host| host.strip_prefix("://")) else {
        return false;
    };
    // A star alone stands for any host, with the port that stands behind it or with none.
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let suffix = rest.to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    host.strip_suffix(suffix.as_str()).is_some_and(|labels| !labels.is_empty() && labels.chars().all(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::{Method, Uri};

    #[test]
    fn origins_are_exact_or_below_a_wildcard() {
        for (pattern, origin, expected) in [
            ("*", "https://any", true),
            ("https://www.foo.com", "https://www.foo.com", true),
            ("https://www.foo.com", "http://www.foo.com", false),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://xpto.www.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://evil.com/.bar.com", false),
            ("https://*.bar.com", "https://www.bar.com:8443", false),
            ("https://*.bar.com:8443", "https://www.bar.com:8443", true),
            ("https://*", "https://x.y", true),
        ] {
            assert_eq!(allows(pattern, origin), expected, "{pattern} {origin}");
        }
    }

    #[test]
    fn a_preflight_is_answered_and_a_foreign_origin_learns_nothing() {
        let cors = Cors {
            origins: vec!["https://a.com".into()],
            credentials: true,
            methods: vec!["*".into()],
            headers: vec!["x-1".into(), "x-2".into()],
            exposed: vec!["*".into()],
            max_age: 60,
        };
        let uri = Uri::from_static("/");
        let ask = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
            let target = Target::new(None, &Method::OPTIONS, &uri, &headers).unwrap();
            cors.preflight(&target).unwrap()
        };
        let head = ask("https://a.com");
        let field = |name: HeaderName| head.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(field(header::ACCESS_CONTROL_ALLOW_ORIGIN), Some("https://a.com"));
        assert_eq!(field(header::ACCESS_CONTROL_ALLOW_METHODS), Some("PUT"));
        assert_eq!(field(header::ACCESS_CONTROL_ALLOW_HEADERS), Some("x-1, x-2"));
        assert_eq!(field(header::ACCESS_CONTROL_EXPOSE_HEADERS), None);
        assert_eq!(field(header::ACCESS_CONTROL_MAX_AGE), Some("60"));
        assert!(!ask("https://b.com").contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        let headers = HeaderMap::new();
        let plain = Target::new(None, &Method::OPTIONS, &uri, &headers).unwrap();
        assert!(cors.preflight(&plain).is_none());
    }
}
