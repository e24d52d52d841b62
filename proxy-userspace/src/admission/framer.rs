//! Follows the bytes of one direction of a connection from message to message, and lets none pass that the
//! next hop could read in another way. Pure: whoever has the bytes keeps back what is not admitted yet.
//!
//! A head is judged when it is whole, so that its verdict cannot depend on how it was cut; bodies pass as they
//! come.

use super::{Admitted, Body, Law, Oddity, Refusal, Rules, answer, chunked::Chunked, head::End, request};
use crate::route::choices::Choices;
use std::sync::Arc;

/// Interim answers before the answer.
const INTERIM_MAX: u8 = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Framer {
    rules: Arc<Rules>,
    choices: Choices,
    side: Side,
    state: State,
    refusal: Option<(Refusal, Part)>,
    heads: u64,
}

/// Whose messages they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Client {
        is_last: bool,
        is_secure: bool,
    },
    /// An endpoint, and what it is to answer.
    Endpoint {
        to_head: bool,
        /// The request asked for an upgrade.
        asked: bool,
        interim: u8,
    },
}

#[derive(Debug)]
enum State {
    /// Nothing may come: no request was sent.
    Silent,
    Head(End),
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
    /// What comes is a request, or another protocol's: the answer to the request before will tell.
    Switching,
    /// Nothing that comes now is looked at: the connection ends with the message before, or is another
    /// protocol's.
    Over,
}

/// Where in a message something was odd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// Nothing of the message has been admitted.
    Head,
    /// Its head has, and perhaps some of the body.
    Body,
}

impl Framer {
    /// For what a client sends; `is_secure` where that comes over TLS.
    pub(crate) fn of_client(rules: Arc<Rules>, is_secure: bool) -> Self {
        let (side, state) = (Side::Client { is_last: false, is_secure }, State::Head(End::default()));
        Self { rules, choices: Choices::default(), side, state, refusal: None, heads: 0 }
    }

    /// The same, letting through what one route or another admits.
    pub(crate) fn admitting(self, choices: Choices) -> Self {
        Self { choices, ..self }
    }

    /// For what an endpoint sends.
    pub(crate) fn of_endpoint(rules: Arc<Rules>) -> Self {
        let side = Side::Endpoint { to_head: false, asked: false, interim: 0 };
        Self { rules, choices: Choices::default(), side, state: State::Silent, refusal: None, heads: 0 }
    }

    /// A request is being sent to the endpoint; `to_head` where it is HEAD, `asked` where it asks for an upgrade.
    pub(crate) fn expect(&mut self, to_head: bool, asked: bool) {
        if matches!(self.state, State::Silent) {
            self.side = Side::Endpoint { to_head, asked, interim: 0 };
            self.state = State::Head(End::default());
        }
    }

    /// How many bytes, from the first, may pass. `bytes` begin with those that did not pass the last time.
    pub(crate) fn admit(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.refusal.is_none()
            && let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty())
        {
            let passed = self.step(rest);
            at += passed.unwrap_or_default();
            if passed.is_none() {
                break;
            }
        }
        at
    }

    /// Passes what the current state can; `None` where it needs more bytes, or wants none.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        let strict = self.rules.strict_answers || matches!(self.side, Side::Client { .. });
        match &mut self.state {
            State::Head(end) => match end.find(bytes, (strict, self.choices.head)) {
                Ok(found) => {
                    let (start, end) = (end.start, found?);
                    self.head(bytes.get(start..end).unwrap_or_default());
                    self.refusal.is_none().then_some(end)
                }
                Err(refusal) => self.refuse(refusal, Part::Head),
            },
            State::Length(left) => {
                let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= passed as u64;
                if *left == 0 {
                    self.ends();
                }
                Some(passed)
            }
            State::Chunked(chunked) => match chunked.read(bytes) {
                Ok((passed, ends)) => {
                    if ends {
                        self.ends();
                    }
                    Some(passed)
                }
                Err((passed, refusal)) => {
                    self.refuse(refusal, Part::Body);
                    Some(passed)
                }
            },
            State::UntilClose => Some(bytes.len()),
            State::Silent => self.refuse(Oddity::Unasked.because("bytes behind the answer"), Part::Head),
            State::Switching | State::Over => None,
        }
    }

    /// Judges a whole head.
    fn head(&mut self, head: &[u8]) {
        let law = Law { rules: &self.rules, choices: self.choices };
        let judged = match self.side {
            Side::Client { is_secure, .. } => request::judge(head, is_secure, law),
            Side::Endpoint { to_head, asked, .. } => answer::judge(head, (to_head, asked), law),
        };
        match judged {
            Ok(admitted) => self.begins(admitted),
            Err(refusal) => {
                self.refuse(refusal, Part::Head);
            }
        }
    }

    fn begins(&mut self, admitted: Admitted) {
        match &mut self.side {
            Side::Client { is_last, .. } => *is_last = admitted.is_last,
            Side::Endpoint { interim, .. } if admitted.is_interim => {
                *interim += 1;
                if *interim > INTERIM_MAX {
                    self.refuse(Oddity::Interim.because("more than 16 interim answers"), Part::Head);
                    return;
                }
                self.state = State::Head(End::default());
                return;
            }
            Side::Endpoint { .. } => {}
        }
        self.heads += 1;
        if admitted.switches {
            let by_client = matches!(self.side, Side::Client { .. });
            self.state = if by_client { State::Switching } else { State::Over };
            return;
        }
        match admitted.body {
            Body::Length(0) => self.ends(),
            Body::Length(length) => self.state = State::Length(length),
            Body::Chunked => self.state = State::Chunked(Box::new(Chunked::new())),
            Body::UntilClose => self.state = State::UntilClose,
        }
    }

    fn ends(&mut self) {
        self.state = match self.side {
            Side::Client { is_last: true, .. } => State::Over,
            Side::Client { is_last: false, .. } => State::Head(End::default()),
            Side::Endpoint { .. } => State::Silent,
        };
    }

    fn refuse(&mut self, refusal: Refusal, part: Part) -> Option<usize> {
        self.refusal = Some((refusal, part));
        None
    }

    /// The last request asked for an upgrade: nothing passes until its answer is known.
    pub(crate) fn is_switching(&self) -> bool {
        matches!(self.state, State::Switching)
    }

    /// The upgrade has not come about: what comes is the next request.
    pub(crate) fn stays(&mut self) {
        if self.is_switching() {
            self.ends();
        }
    }

    /// Why nothing passes any more.
    pub(crate) fn refusal(&self) -> Option<(Refusal, Part)> {
        self.refusal
    }

    /// The last message has ended: what comes behind it is none.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// One message has ended, and no byte of the next has been seen.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self.state, State::Head(end) if end.is_fresh()) || matches!(self.state, State::Silent)
    }

    /// The next byte belongs to a head.
    pub(crate) fn awaits_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// What of a message is awaited: "head", "length", "chunked" or another word.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn awaits(&self) -> &'static str {
        match self.state {
            State::Head(_) => "head",
            State::Length(_) => "length",
            State::Chunked(_) => "chunked",
            State::Silent | State::UntilClose | State::Switching | State::Over => "other",
        }
    }

    /// Messages that have begun, interim answers apart.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }
}
