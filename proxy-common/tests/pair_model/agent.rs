//! The agent: reads what comes to it, relays it, arms the pair and takes it back.

use crate::world::{ENDPOINTS, Kind, NOBODY, Net, Part, Reply, World};
use proxy_common::pair::{self, ANSWER_OPEN, REQUEST_OPEN, TURNED};
use shuttle::{sync::atomic::Ordering::SeqCst, thread};

pub(crate) fn agent(world: &World) {
    let mut agent =
        Agent { world, upstream: None, next: 0, read: 0, armed: false, waits: false, apart: false };
    while agent.step() {}
    let word = agent.world.word.load(SeqCst);
    agent.world.word.store(pair::freed(word), SeqCst);
    agent.world.change(|net| net.left = [true; ENDPOINTS]);
}

struct Agent<'a> {
    world: &'a World,
    /// The endpoint's connection that is kept for the pair.
    upstream: Option<usize>,
    /// The next one to be opened.
    next: usize,
    read: u32,
    armed: bool,
    waits: bool,
    apart: bool,
}

/// What the agent woke for.
enum Woken {
    Client,
    ClientGone,
    Endpoint,
    Late,
}

impl Agent<'_> {
    /// False at the end of the connection.
    fn step(&mut self) -> bool {
        if self.waits && self.take_back() {
            return true;
        }
        let Some(woken) = self.woken() else {
            // The timer that looks again.
            thread::yield_now();
            return true;
        };
        match woken {
            Woken::Late => self.late(),
            Woken::Endpoint => self.disturbed(),
            Woken::ClientGone if self.world.change(|net| net.cut) => false,
            // With `waits` set, the next look is the timer's.
            Woken::Client | Woken::ClientGone if !self.take_back() => true,
            Woken::ClientGone => false,
            Woken::Client if self.is_astray() => self.cut(),
            Woken::Client => {
                let part = self.next_part();
                self.relay(part)
            }
        }
    }

    /// Waits for something to do; `None` when it must look at the word again instead.
    fn woken(&mut self) -> Option<Woken> {
        let (armed, waits, upstream) = (self.armed, self.waits, self.upstream);
        let woken = |net: &mut Net| {
            if armed && std::mem::take(&mut net.rings) {
                return Some(Woken::Late);
            }
            if armed && upstream.is_some_and(|at| net.gone[at] || !net.from_endpoint[at].is_empty()) {
                return Some(Woken::Endpoint);
            }
            if !net.to_agent.is_empty() {
                return Some(Woken::Client);
            }
            net.client_gone.then_some(Woken::ClientGone)
        };
        if waits {
            return self
                .world
                .change(woken)
                .filter(|woken| !matches!(woken, Woken::Client | Woken::ClientGone));
        }
        Some(self.world.until(woken))
    }

    fn transition(&self, transition: impl Fn(u64) -> Option<u64>) -> bool {
        self.world.word.fetch_update(SeqCst, SeqCst, transition).is_ok()
    }

    fn take_back(&mut self) -> bool {
        if self.armed {
            self.armed = !self.transition(pair::taken);
            self.waits = self.armed;
        }
        !self.armed
    }

    fn disturbed(&mut self) -> bool {
        let word = || self.world.word.load(SeqCst);
        let turned = self.transition(pair::turned) || word() & TURNED != 0;
        if turned && self.transition(pair::resumed) {
            let id = self.resume();
            return self.pass_answer_on(id) && self.arm();
        }
        if self.take_back() {
            self.drop_upstream();
            return true;
        }
        let word = word();
        if pair::is_half_done(word) {
            return !self.cut_short(word);
        }
        // The timer that looks again.
        thread::yield_now();
        true
    }

    fn late(&mut self) -> bool {
        let Some((word, started)) = self.world.carried() else { return true };
        if Some(started) != self.world.scenario.late {
            return true;
        }
        if !self.transition(|now| pair::given_up(now).filter(|_| pair::is_same_exchange(now, word))) {
            let open = word & ANSWER_OPEN != 0 && self.world.word.load(SeqCst) == word;
            return !open || !self.cut_short(word);
        }
        let id = self.resume();
        assert_eq!(Some(id), self.world.scenario.late, "an exchange that is not late was given up");
        self.drop_upstream();
        self.reply(Reply { id, left: 0, large: false, genuine: false });
        // With its body open the connection ends after the answer.
        if word & REQUEST_OPEN == 0 { true } else { self.cut() }
    }

    /// The request that the kernel half began is the agent's.
    fn resume(&mut self) -> u32 {
        self.armed = false;
        self.waits = false;
        self.apart = self.world.word.load(SeqCst) & REQUEST_OPEN != 0;
        self.world.head.read()
    }

    /// The rest of a body that the endpoint does not get any more.
    fn is_astray(&mut self) -> bool {
        self.apart = self.apart && self.world.word.load(SeqCst) & REQUEST_OPEN != 0;
        self.apart
    }

    fn next_part(&mut self) -> Part {
        self.read += 1;
        self.world.until(|net| net.to_agent.pop_front())
    }

    fn relay(&mut self, first: Part) -> bool {
        assert!(first.first, "a body was read as a request");
        let mut parts = vec![first];
        while parts.last().is_some_and(|part| !part.last) {
            parts.push(self.next_part());
        }
        if first.kind == Kind::Denied {
            self.reply(Reply { id: first.id, left: 0, large: false, genuine: false });
            return self.arm();
        }
        let kept = self.upstream.filter(|at| self.world.change(|net| !net.gone[*at]));
        let at = kept.unwrap_or_else(|| {
            self.drop_upstream();
            self.connect()
        });
        self.world.change(|net| {
            if !net.gone[at] {
                net.to_endpoint[at].extend(parts);
            }
        });
        self.pass_answer_on(first.id) && self.arm()
    }

    /// A new connection, joined to the pair.
    fn connect(&mut self) -> usize {
        let at = self.next;
        self.next += 1;
        self.world.endpoint.write(u32::try_from(at).unwrap());
        self.upstream = Some(at);
        at
    }

    fn drop_upstream(&mut self) {
        let Some(at) = self.upstream.take() else { return };
        self.world.endpoint.write(NOBODY);
        self.world.change(|net| net.left[at] = true);
    }

    /// False at the end of the connection.
    fn pass_answer_on(&mut self, id: u32) -> bool {
        let Some(at) = self.upstream else { return self.cut() };
        let mut begun = false;
        loop {
            let next = |net: &mut Net| match net.from_endpoint[at].pop_front() {
                Some(reply) => Some(Some(reply)),
                None => net.gone[at].then_some(None),
            };
            let Some(reply) = self.world.until(next) else {
                if begun {
                    return self.cut();
                }
                self.drop_upstream();
                self.reply(Reply { id, left: 0, large: false, genuine: false });
                return true;
            };
            assert_eq!(reply.id, id, "an answer to another request");
            begun = true;
            self.reply(reply);
            if reply.left == 0 {
                return true;
            }
        }
    }

    fn reply(&self, reply: Reply) {
        self.world.change(|net| net.to_client.push_back(reply));
    }

    fn arm(&mut self) -> bool {
        let seen = self.read;
        self.armed = self.upstream.is_some() && self.transition(|word| pair::armed(word, seen));
        true
    }

    /// Ends the exchange of this word, which the kernel half carries; false where it has come to its end
    /// meanwhile.
    fn cut_short(&self, of: u64) -> bool {
        let is_under_way = |word| pair::is_busy(word) && pair::is_same_exchange(of, word);
        while !self.transition(|word| pair::cut(word).filter(|_| is_under_way(word))) {
            if !is_under_way(self.world.word.load(SeqCst)) {
                return false;
            }
            thread::yield_now();
        }
        let id = self.world.started.load(SeqCst);
        self.world.change(|net| net.reported.push(id));
        !self.cut()
    }

    fn cut(&self) -> bool {
        self.world.change(|net| net.cut = true);
        false
    }
}
