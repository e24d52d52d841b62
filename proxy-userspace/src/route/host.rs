//! Hosts: what a request names, and tables of names and wildcards.

use http::{HeaderValue, Uri, Version, uri::Scheme};
use std::collections::HashMap;

/// The longest name that DNS knows, a dot at its end included.
const MAX_NAME: usize = 254;

/// `Example.COM:80`, `example.com.` and `[::1]:80` as tables have them: no port, no dot at the end,
/// lower case.
pub(crate) fn name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The one host that a request is for, in lower case; `None` only for HTTP/1.0. `host` is the first of
/// `hosts` Host fields. `Err` says why there is no such host.
pub(crate) fn of_request(
    uri: &Uri,
    version: Version,
    (host, hosts): (Option<&HeaderValue>, usize),
) -> Result<Option<String>, &'static str> {
    if hosts > 1 {
        return Err("more than one Host field");
    }
    let Some(host) = host else {
        let old = version == Version::HTTP_10 && uri.authority().is_none();
        return if old { Ok(None) } else { Err("no Host field") };
    };
    if !is_authority(host.as_bytes()) {
        return Err("the Host field is not a host");
    }
    let host = host.to_str().map_err(|_| "the Host field is not ASCII")?.to_ascii_lowercase();
    if let Some(authority) = uri.authority() {
        // RFC 9112 section 3.2.2: the target's own authority counts, and not every server knows.
        let web = uri.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        if !web || !authority.as_str().eq_ignore_ascii_case(&host) {
            return Err("the target's authority is not the Host field's");
        }
    }
    Ok(Some(host))
}

/// A name or an address, perhaps with a port: what one may ask a server for (RFC 9110 section 7.2), but nothing
/// percent-encoded, which no name of DNS is.
pub(crate) fn is_authority(host: &[u8]) -> bool {
    let bracket = host.iter().position(|byte| *byte == b']').map_or(0, |at| at + 1);
    let colon = host.get(bracket..).and_then(|rest| rest.iter().position(|byte| *byte == b':'));
    let (name, port) = match colon.and_then(|colon| host.split_at_checked(bracket + colon)) {
        Some((name, port)) => (name, port.get(1..)),
        None => (host, None),
    };
    let is_name = match name {
        // No more than the kernel half's scanner asks for, which cannot count groups of digits.
        [b'[', address @ .., b']'] => {
            !address.is_empty()
                && address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        name => {
            !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte))
        }
    };
    is_name && port.is_none_or(is_port)
}

fn is_port(port: &[u8]) -> bool {
    let digits = port.iter().all(u8::is_ascii_digit);
    digits && std::str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok())
}

/// Something for each of many hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hosts<T> {
    exact: HashMap<Box<str>, T>,
    /// By what is behind `*.`.
    wildcard: HashMap<Box<str>, T>,
    /// The same, where the star stands for one label.
    one_label: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), one_label: HashMap::new(), any: None }
    }
}

/// Which hosts an entry is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum HostPattern {
    /// All of them, and requests that name none.
    Any,
    /// `*.example.com`: one label more, as Ingress means it.
    OneLabel(Box<str>),
    /// `*.example.com`: one label or several more, as the Gateway API means it.
    Wildcard(Box<str>),
    /// This one.
    Exact(Box<str>),
}

impl HostPattern {
    /// A host of the Gateway API.
    pub(crate) fn of_gateway(host: &str) -> Self {
        match host.strip_prefix("*.") {
            Some(suffix) => Self::Wildcard(name(suffix).into()),
            None => Self::Exact(name(host).into()),
        }
    }

    /// A host of an Ingress.
    pub(crate) fn of_ingress(host: &str) -> Self {
        match host.strip_prefix("*.") {
            Some(suffix) => Self::OneLabel(name(suffix).into()),
            None => Self::Exact(name(host).into()),
        }
    }

    /// How special it is: the characters that are no wildcard, then all of them.
    pub(crate) fn speciality(&self) -> (usize, usize) {
        match self {
            Self::Any => (0, 0),
            Self::OneLabel(suffix) | Self::Wildcard(suffix) => (0, suffix.len() + 2),
            Self::Exact(name) => (name.len().max(1), name.len()),
        }
    }

    /// Whether it is for this host.
    pub(crate) fn matches(&self, host: Option<&str>) -> bool {
        let labels = |suffix: &str| {
            let labels = host?.strip_suffix(suffix)?.strip_suffix('.')?;
            (!labels.is_empty() && !labels.starts_with('.')).then_some(labels)
        };
        match self {
            Self::Any => true,
            Self::Exact(name) => host == Some(&**name),
            Self::Wildcard(suffix) => labels(suffix).is_some(),
            Self::OneLabel(suffix) => labels(suffix).is_some_and(|labels| !labels.contains('.')),
        }
    }

    /// The hosts that both are for; `None` where there are none.
    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        let (wide, narrow) =
            if self.speciality() <= other.speciality() { (self, other) } else { (other, self) };
        let within = match (wide, narrow) {
            (Self::Any, _) => true,
            (_, Self::Exact(name)) => wide.matches(Some(name)),
            (Self::Wildcard(wide), Self::Wildcard(narrow)) => {
                narrow.strip_suffix(&**wide).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            _ => wide == narrow,
        };
        within.then(|| narrow.clone())
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::OneLabel(suffix) | Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Exact(name) => f.write_str(name),
        }
    }
}

impl<T> Hosts<T> {
    /// The entry of a pattern, made where there is none.
    pub(crate) fn entry(&mut self, pattern: &HostPattern) -> &mut T
    where
        T: Default,
    {
        match pattern {
            HostPattern::Any => self.any.get_or_insert_default(),
            HostPattern::OneLabel(suffix) => self.one_label.entry(suffix.clone()).or_default(),
            HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.clone()).or_default(),
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
        }
    }

    /// What is for this host, the most special first. `host` is a [`name`].
    pub(crate) fn matching<'a, 'h>(
        &'a self,
        host: Option<&'h str>,
    ) -> impl Iterator<Item = &'a T> + use<'a, 'h, T> {
        let known = host.filter(|host| host.len() < MAX_NAME);
        let exact = known.and_then(|host| self.exact.get(host));
        let parents = std::iter::successors(known.and_then(parent), |host| parent(host));
        let parents = parents.enumerate().flat_map(|(depth, suffix)| {
            let one_label = if depth == 0 { self.one_label.get(suffix) } else { None };
            one_label.into_iter().chain(self.wildcard.get(suffix))
        });
        exact.into_iter().chain(parents).chain(&self.any)
    }

    /// All of it, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (HostPattern, &T)> {
        let exact = self.exact.iter().map(|(name, one)| (HostPattern::Exact(name.clone()), one));
        let wildcard = self.wildcard.iter().map(|(name, one)| (HostPattern::Wildcard(name.clone()), one));
        let label = self.one_label.iter().map(|(name, one)| (HostPattern::OneLabel(name.clone()), one));
        exact.chain(wildcard).chain(label).chain(self.any.iter().map(|one| (HostPattern::Any, one)))
    }

    /// All of it, to be changed.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let wildcards = self.wildcard.values_mut().chain(self.one_label.values_mut());
        self.exact.values_mut().chain(wildcards).chain(&mut self.any)
    }
}

/// `b.c` of `a.b.c`; not where the label before it is empty.
fn parent(host: &str) -> Option<&str> {
    host.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn c7_a_request_names_its_host_in_one_way() {
        for (sent, one) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("example.com:8080", "example.com"),
            ("example.com.:80", "example.com"),
            ("[FD00::1]:80", "[fd00::1]"),
            ("[fd00::1]", "[fd00::1]"),
            ("XN--MNCHEN-3YA.de", "xn--mnchen-3ya.de"),
        ] {
            assert_eq!(name(sent), one);
        }
    }

    #[test]
    fn c7_a_wildcard_is_one_label_for_an_ingress_and_a_suffix_for_a_gateway() {
        let cases = [
            ("a.example.com", true, true),
            ("a.b.example.com", false, true),
            ("example.com", false, false),
            (".example.com", false, false),
            ("aexample.com", false, false),
            ("a.example.org", false, false),
        ];
        for (host, ingress, gateway) in cases {
            let (one, many) = ("*.Example.com", "*.example.com");
            assert_eq!(HostPattern::of_ingress(one).matches(Some(host)), ingress, "{host}");
            assert_eq!(HostPattern::of_gateway(many).matches(Some(host)), gateway, "{host}");
            let mut hosts = Hosts::<u8>::default();
            *hosts.entry(&HostPattern::of_ingress(one)) = 1;
            *hosts.entry(&HostPattern::of_gateway(many)) = 2;
            let found: Vec<u8> = hosts.matching(Some(host)).copied().collect();
            assert_eq!((found.contains(&1), found.contains(&2)), (ingress, gateway), "{host}");
        }
        assert!(!HostPattern::of_gateway("*.example.com").matches(None));
        assert!(HostPattern::Any.matches(None));
    }

    #[test]
    fn the_most_special_host_comes_first() {
        let mut hosts = Hosts::<String>::default();
        let any = HostPattern::Any;
        let all = ["*.com", "*.example.com", "a.example.com", "*.b.example.com", "example.com"];
        for pattern in all.map(HostPattern::of_gateway).iter().chain([&any]) {
            *hosts.entry(pattern) = pattern.to_string();
        }
        let of = |host: Option<&str>| hosts.matching(host).cloned().collect::<Vec<_>>();
        assert_eq!(of(Some("a.example.com")), ["a.example.com", "*.example.com", "*.com", "*"]);
        assert_eq!(of(Some("c.b.example.com")), ["*.b.example.com", "*.example.com", "*.com", "*"]);
        assert_eq!(of(Some("org")), ["*"]);
        assert_eq!(of(Some(&"a.".repeat(200))), ["*"]);
        assert_eq!(of(None), ["*"]);
        assert_eq!(hosts.iter().count(), 6);
    }

    #[test]
    fn hosts_that_listener_and_route_share_are_the_narrower_ones() {
        let of = HostPattern::of_gateway;
        let both = |a: &str, b: &str| of(a).intersection(&of(b)).map(|both| both.to_string());
        assert_eq!(both("*.example.com", "a.example.com").as_deref(), Some("a.example.com"));
        assert_eq!(both("a.example.com", "*.example.com").as_deref(), Some("a.example.com"));
        assert_eq!(both("*.example.com", "*.b.example.com").as_deref(), Some("*.b.example.com"));
        assert_eq!(both("*.example.com", "*.example.com").as_deref(), Some("*.example.com"));
        assert_eq!(both("*.example.com", "example.com"), None);
        assert_eq!(both("*.example.com", "*.bexample.com"), None);
        assert_eq!(both("a.com", "b.com"), None);
        assert_eq!(HostPattern::Any.intersection(&of("*.com")).unwrap().to_string(), "*.com");
    }
}
