//! The strict intermediary: what is forwarded has one meaning to every server on its way (RFC 9112 section 11).
//!
//! hyper is a generous reader. Below it, on both sides, every byte goes through a [`Framer`], which judges heads
//! before hyper sees them and follows bodies to their ends. A request that is not admitted is answered by us,
//! after those before it, and its connection ends; an answer that is not admitted becomes a 502. Fails closed.

#[cfg(any(test, fuzzing))]
pub(crate) mod agreement;
mod answer;
mod by_route;
mod chunked;
mod framer;
mod head;
pub(crate) mod http2;
mod oddity;
mod request;
#[cfg(test)]
mod tests;

pub(crate) use by_route::by_route;
pub(crate) use framer::{Framer, Part};
pub(crate) use oddity::{Oddity, Refusal};

#[cfg(not(fuzzing))]
use crate::config::Config;
use crate::route::choices::Choices;
use http::HeaderMap;

/// Whether a request of HTTP/1.1 with such a head would be admitted, where its route has these choices.
pub(crate) fn check(
    method: &str,
    target: &str,
    fields: &HeaderMap,
    (rules, choices): (&Rules, Choices),
) -> Result<(), Refusal> {
    let mut head = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    for (name, value) in fields {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    // Its length and how many fields it has.
    head::End::default().find(&head, (true, choices.head))?;
    request::judge(&head, false, Law { rules, choices }).map(drop)
}

/// What one head is judged by.
#[derive(Clone, Copy, Debug)]
struct Law<'a> {
    rules: &'a Rules,
    choices: Choices,
}

impl Law<'_> {
    /// Whether a field's name may have an underscore.
    fn allows_underscores(self) -> bool {
        self.rules.underscores || self.choices.keeps_underscores
    }
}

/// What operators may choose.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Rules {
    /// Field names may have underscores.
    pub(crate) underscores: bool,
    /// Methods beside those that everybody knows.
    pub(crate) methods: Vec<String>,
    /// A bare LF in an answer's head is no end of a line (`wire.md` U6).
    pub(crate) strict_answers: bool,
    /// What a connection may be made into by Upgrade (RFC 9110 section 7.8).
    pub(crate) upgrades: Vec<String>,
}

#[cfg(not(fuzzing))]
impl From<&Config> for Rules {
    fn from(config: &Config) -> Self {
        let websocket = std::iter::once("websocket".to_owned());
        Self {
            underscores: config.allow_underscores,
            methods: config.allow_methods.clone(),
            strict_answers: config.strict_answers,
            upgrades: websocket.chain(config.allow_upgrades.iter().cloned()).collect(),
        }
    }
}

impl Rules {
    /// What a connection may be made into, of those that an Upgrade field lists: the one that is liked best.
    pub(crate) fn upgrade<'a>(&self, field: &'a [u8]) -> Option<&'a [u8]> {
        let allowed =
            |token: &&[u8]| self.upgrades.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(token));
        field.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).find(allowed)
    }
}

/// A head that is admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Admitted {
    body: Body,
    /// The connection ends with this exchange.
    is_last: bool,
    /// An answer that another one follows.
    is_interim: bool,
    /// A request that asks for another protocol on its connection, or the answer that agrees.
    switches: bool,
}

/// What follows a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}
