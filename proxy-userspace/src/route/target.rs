//! What of a request routes look at.

use super::{
    host,
    path::{self, Doubts, Spelling},
};
use http::{HeaderMap, Method, Uri};
use std::borrow::Cow;

/// A request as routes match it.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    /// As [`host::name`] makes it; `None` for a request of HTTP/1.0 without one.
    pub(crate) host: Option<String>,
    /// In its one spelling.
    pub(crate) path: Cow<'a, str>,
    /// What its rule must admit.
    pub(crate) doubts: Doubts,
    /// As it was sent.
    pub(crate) query: Option<&'a str>,
    /// As it was sent.
    pub(crate) method: &'a str,
    /// All fields.
    pub(crate) headers: &'a HeaderMap,
}

impl<'a> Target<'a> {
    /// `Err` says why the target cannot be routed. `host` is the Host field's value, checked.
    pub(crate) fn new(
        host: Option<&str>,
        method: &'a Method,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> Result<Self, &'static str> {
        let Spelling { path: asked, doubts } = match uri.path() {
            "*" if *method == Method::OPTIONS => {
                Spelling { path: Cow::Borrowed("*"), doubts: Doubts::default() }
            }
            path => path::read(path)?,
        };
        Ok(Self {
            host: host.map(host::name),
            path: asked,
            doubts,
            query: uri.query(),
            method: method.as_str(),
            headers,
        })
    }

    /// `OPTIONS *`: whoever reads it answers for itself.
    pub(crate) fn is_about_the_server(&self) -> bool {
        self.path == "*"
    }

    /// Path and query in their one spelling.
    pub(crate) fn path_and_query(&self) -> String {
        match self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_string(),
        }
    }
}
