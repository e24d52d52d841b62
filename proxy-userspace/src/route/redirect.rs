//! `RequestRedirect`: the answer is another place.

use super::{rewrite::PathChange, rule::PathPattern, table::Scheme, target::Target};
use http::StatusCode;

/// The place; what is absent stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Redirect {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) host: Option<Box<str>>,
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<PathChange>,
    pub(crate) status: StatusCode,
}

impl Redirect {
    /// The value of Location for a request that came by `scheme` to `port` and matched `matched`.
    pub(crate) fn location(
        &self,
        target: &Target<'_>,
        matched: &PathPattern,
        (scheme, port): (Scheme, u16),
    ) -> String {
        let to = self.scheme.unwrap_or(scheme);
        let host = self.host.as_deref().or(target.host.as_deref()).unwrap_or_default();
        // Without a port of its own, another scheme means that scheme's, and the same one the listener's.
        let port = self.port.unwrap_or_else(|| self.scheme.map_or(port, Scheme::default_port));
        let path = match &self.path {
            Some(change) => change.apply(&target.path, matched),
            None => target.path.to_string(),
        };
        let query = target.query.map(|query| format!("?{query}")).unwrap_or_default();
        let place = if port == to.default_port() { host.to_owned() } else { format!("{host}:{port}") };
        format!("{}://{place}{path}{query}", to.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::{HeaderMap, Method, Uri};

    fn location(redirect: &Redirect, from: (Scheme, u16), uri: &'static str) -> String {
        let (headers, uri) = (HeaderMap::new(), Uri::from_static(uri));
        let target = Target::new(Some("Example.com:8080"), &Method::GET, &uri, &headers).unwrap();
        redirect.location(&target, &PathPattern::prefix("/a"), from)
    }

    #[test]
    fn what_a_redirect_does_not_name_stays_and_well_known_ports_are_not_said() {
        let none = Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND };
        let http = (Scheme::Http, 80);
        assert_eq!(location(&none, http, "/a/b?c=d"), "http://example.com/a/b?c=d");
        assert_eq!(location(&none, (Scheme::Http, 8080), "/a"), "http://example.com:8080/a");
        let https = Redirect { scheme: Some(Scheme::Https), ..none.clone() };
        assert_eq!(location(&https, (Scheme::Http, 8080), "/a"), "https://example.com/a");
        let port = Redirect { port: Some(8083), host: Some("example.org".into()), ..none.clone() };
        assert_eq!(location(&port, http, "/a"), "http://example.org:8083/a");
        let odd = Redirect { port: Some(80), scheme: Some(Scheme::Https), ..none.clone() };
        assert_eq!(location(&odd, http, "/a"), "https://example.com:80/a");
        let path = Redirect { path: Some(PathChange::Prefix("/x".into())), ..none };
        assert_eq!(location(&path, http, "/a/b"), "http://example.com/x/b");
    }
}
