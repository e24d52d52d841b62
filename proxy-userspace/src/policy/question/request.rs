//! A request that is only talked about.

use crate::{
    admission,
    policy::Asked,
    route::{choices::Choices, path},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header::HOST};
use serde::Deserialize;

/// A request that might be sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    /// Its method.
    #[serde(default = "get")]
    pub(crate) method: String,
    /// Its target.
    #[serde(default = "slash")]
    pub(crate) path: String,
    /// Its Host field; the address where it is missing.
    #[serde(default)]
    pub(crate) host: Option<String>,
    /// Its other fields.
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
}

pub(super) fn get() -> String {
    "GET".to_owned()
}

pub(super) fn slash() -> String {
    "/".to_owned()
}

/// A request in the agent's terms.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) fields: HeaderMap,
}

impl Request {
    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked {
            method: &self.method,
            uri: &self.uri,
            version: Version::HTTP_11,
            host: self.fields.get(HOST),
            hosts: self.fields.get_all(HOST).iter().count(),
            fields: &self.fields,
        }
    }

    /// As it is forwarded where its route has these choices.
    pub(super) fn spelled(mut self, choices: Choices) -> Result<Self, String> {
        if let Some(uri) = path::one_spelling(&self.uri, choices)? {
            self.uri = uri;
        }
        Ok(self)
    }
}

impl Http {
    /// As it would be sent; `Err` says why it is not admitted, by an agent without flags for that, where routes
    /// have these choices.
    pub(crate) fn request(&self, authority: String, choices: Choices) -> Result<Request, String> {
        let method =
            Method::from_bytes(self.method.as_bytes()).map_err(|_| "the method is none".to_owned())?;
        let uri: Uri = self.path.parse().map_err(|_| "the target is none".to_owned())?;
        let mut fields = HeaderMap::new();
        let named_host = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = self.host.clone().or_else(|| (!named_host).then_some(authority));
        let host = host.map(|host| ("host".to_owned(), host));
        for (name, value) in host.iter().chain(&self.headers) {
            let name: HeaderName = name.parse().map_err(|_| format!("field {name:?} has no name"))?;
            let value = HeaderValue::from_bytes(value.as_bytes());
            fields.append(name, value.map_err(|_| "a field's value is none".to_owned())?);
        }
        let rules = admission::Rules::default();
        admission::check(&self.method, &self.path, &fields, (&rules, choices))
            .map_err(|refusal| refusal.why.to_owned())?;
        Ok(Request { method, uri, fields })
    }
}
