//! A policy of any kind, checked: what [`AccessBuilder`](super::AccessBuilder) takes.

use super::{Direction, Transport, peer::Peer, selector::Selector};
use crate::policy::Rule;
use std::{fmt, sync::Arc};

/// A policy, or one `spec` of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AccessPolicy {
    /// `namespace/name`, or `name` where it has no namespace; what logs name.
    pub name: Arc<str>,
    /// Which pods it is about.
    pub subject: Selector,
    /// What it says about connections to them, if anything.
    pub ingress: Option<DirectionRules>,
    /// What it says about connections from them, if anything.
    pub egress: Option<DirectionRules>,
    /// It denies nothing: what it would deny is told. What it allows is allowed.
    pub audit: bool,
}

impl AccessPolicy {
    /// What it says about a direction.
    #[must_use]
    pub fn of(&self, direction: Direction) -> Option<&DirectionRules> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// One direction of a policy.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct DirectionRules {
    /// What no policy allows is denied.
    pub default_deny: bool,
    /// Pods that are named by labels must have these too, in all policies of the pod (`fromRequires`).
    pub requires: Vec<Selector>,
    /// The same, for entries that deny.
    pub requires_deny: Vec<Selector>,
    /// Each allows or denies by itself.
    pub rules: Vec<Arc<AccessRule>>,
}

/// One entry of a policy.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AccessRule {
    /// `namespace/policy#ingress0.ports0`, for logs.
    pub name: Arc<str>,
    /// Any of them; nobody where there is none.
    pub peers: Vec<Peer>,
    /// Any of them; none where there is none.
    pub ports: Vec<Ports>,
    /// What is done about such connections.
    pub action: Action,
    /// Where it stands, for findings.
    pub line: u32,
}

/// See [`AccessRule::action`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Whatever allows them.
    Deny,
    /// Every byte of them.
    Allow,
    /// Requests that any of these allows; of TCP alone.
    AllowHttp(Vec<Arc<Rule>>),
}

/// Ports of the pod that is reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ports {
    /// Of these protocols.
    pub transports: Transports,
    /// Which.
    pub span: Span,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.span)?;
        if self.transports == Transports::ALL { Ok(()) } else { write!(f, " of {:?}", self.transports) }
    }
}

/// See [`Ports`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Span {
    /// From the one to the other, both included.
    Numbers(u16, u16),
    /// What containers call a port.
    Named(Arc<str>),
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers(0, u16::MAX) => f.write_str("any"),
            Self::Numbers(first, last) if first == last => write!(f, "{first}"),
            Self::Numbers(first, last) => write!(f, "{first}-{last}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl Span {
    /// Every port.
    pub const ALL: Self = Self::Numbers(0, u16::MAX);
}

/// A set of [`Transport`]s.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Transports(u8);

impl Transports {
    /// Every one.
    pub const ALL: Self = Self(0b111);

    /// Only this one.
    #[must_use]
    pub const fn only(transport: Transport) -> Self {
        Self(1 << transport as u8)
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn contains(self, transport: Transport) -> bool {
        self.0 & (1 << transport as u8) != 0
    }
}

impl fmt::Debug for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(Transport::ALL.iter().filter(|one| self.contains(**one))).finish()
    }
}
