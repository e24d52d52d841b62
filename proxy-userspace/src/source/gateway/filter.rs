//! What an `HTTPRoute` does to requests and answers on their way.

use super::BackendRef;
use serde::Deserialize;

/// `filters[]` of a rule or a backend: the one that `type` says.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Which of the others it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// `RequestHeaderModifier`
    pub request_header_modifier: Option<HeaderFilter>,
    /// `ResponseHeaderModifier`
    pub response_header_modifier: Option<HeaderFilter>,
    /// `RequestMirror`
    pub request_mirror: Option<Mirror>,
    /// `RequestRedirect`
    pub request_redirect: Option<Redirect>,
    /// `URLRewrite`
    pub url_rewrite: Option<UrlRewrite>,
    /// `CORS`
    pub cors: Option<Cors>,
    /// `ExtensionRef`
    pub extension_ref: Option<ExtensionRef>,
}

/// A filter that somebody else defines.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct ExtensionRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// Changes to a head, in this order: set, add, remove.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct HeaderFilter {
    /// Overwritten.
    #[serde(default)]
    pub set: Vec<HttpHeader>,
    /// Appended.
    #[serde(default)]
    pub add: Vec<HttpHeader>,
    /// Taken out.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A field of a head.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct HttpHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A copy of requests for somebody else, whose answers nobody sees.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Who gets it.
    pub backend_ref: BackendRef,
    /// Of how many requests in a hundred.
    pub percent: Option<i32>,
    /// The same, finer.
    pub fraction: Option<Fraction>,
}

/// A part of requests.
#[derive(Clone, Copy, PartialEq, Debug, Default, Deserialize)]
pub struct Fraction {
    /// So many ...
    pub numerator: i32,
    /// ... of so many.
    #[serde(default = "hundred")]
    pub denominator: i32,
}

/// An answer that names another place.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
    /// The port.
    pub port: Option<i32>,
    /// 301, 302, 303, 307 or 308; 302 where it is absent.
    pub status_code: Option<i32>,
}

/// What a request becomes before it is forwarded.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct UrlRewrite {
    /// The Host field.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
}

/// How a path changes.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The whole path.
    pub replace_full_path: Option<String>,
    /// What stands for the prefix that was matched.
    pub replace_prefix_match: Option<String>,
}

/// Who may call from a page of another origin.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Origins.
    #[serde(default)]
    pub allow_origins: Vec<String>,
    /// Whether with credentials.
    pub allow_credentials: Option<bool>,
    /// Methods.
    #[serde(default)]
    pub allow_methods: Vec<String>,
    /// Fields of requests.
    #[serde(default)]
    pub allow_headers: Vec<String>,
    /// Fields of answers.
    #[serde(default)]
    pub expose_headers: Vec<String>,
    /// For how many seconds a preflight holds.
    pub max_age: Option<i32>,
}

fn hundred() -> i32 {
    100
}
