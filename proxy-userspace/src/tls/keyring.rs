//! Certificates that are in use, by where they are used: one that gets broken is not let go of. And what endpoints
//! have to prove, which stays the same as long as the demands do. Keeps what a reading of the objects cannot know,
//! as long as something refers to it.

use super::{Credentials, Demands, Flaw, Proof};
use crate::{
    route::host::HostPattern,
    source::{Sourced, secret::Secret, store::Key},
};
use parking_lot::Mutex;
use rustls::server::ProducesTickets;
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

/// See the module.
#[derive(Default)]
pub struct Keyring {
    used: Mutex<HashMap<Use, Slot>>,
    tickets: OnceLock<Option<Arc<dyn ProducesTickets>>>,
    proofs: Mutex<HashMap<Demands, Demanded>>,
    authorities: Mutex<BTreeSet<Key>>,
}

/// What becomes of demands.
struct Demanded {
    proof: Arc<Proof>,
    /// Somebody has asked for it in this reading.
    wanted: bool,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

/// A Secret, and the hosts that it is for.
type Use = (Key, HostPattern);

#[derive(Default)]
struct Slot {
    /// What the last reading saw.
    read: Option<Arc<Sourced<Secret>>>,
    credentials: Option<Arc<Credentials>>,
    flaw: Option<Flaw>,
    is_old: bool,
    /// Somebody has asked for it in this reading.
    wanted: bool,
}

/// What is to be used for a reference, and what is wrong with what it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    /// `None` where there never was a certificate that can be used.
    pub(crate) credentials: Option<Arc<Credentials>>,
    /// Of what there is now; where `credentials` are others, these are from before.
    pub(crate) flaw: Option<Flaw>,
    /// The Secret has something else by now, which cannot be used.
    pub(crate) is_old: bool,
}

impl Keyring {
    /// Begins a reading: what nobody asks for from here on is let go of at [`Keyring::settle`].
    pub(crate) fn begin(&self) {
        self.used.lock().values_mut().for_each(|slot| slot.wanted = false);
        self.proofs.lock().values_mut().for_each(|demanded| demanded.wanted = false);
        self.authorities.lock().clear();
    }

    /// Forgets what nothing refers to any more.
    pub(crate) fn settle(&self) {
        self.used.lock().retain(|_, slot| slot.wanted);
        self.proofs.lock().retain(|_, demanded| {
            if !demanded.wanted {
                demanded.proof.retire();
            }
            demanded.wanted
        });
    }

    /// What endpoints have to prove: for the same demands the same, and so their connections and sessions.
    /// `Err` is why nobody could.
    pub(crate) fn proof(&self, demands: Demands) -> Result<Arc<Proof>, String> {
        let mut proofs = self.proofs.lock();
        if let Some(demanded) = proofs.get_mut(&demands) {
            demanded.wanted = true;
            return Ok(Arc::clone(&demanded.proof));
        }
        let proof = Arc::new(Proof::new(demands.clone())?);
        proofs.insert(demands, Demanded { proof: Arc::clone(&proof), wanted: true });
        Ok(proof)
    }

    /// The same with a certificate of our own, for endpoints that ask for one.
    pub(crate) fn showing(&self, proof: &Proof, shown: &Arc<Credentials>) -> Arc<Proof> {
        let demands = Demands { shown: Some(Arc::clone(shown)), ..proof.demands.clone() };
        let mut proofs = self.proofs.lock();
        let make = || Demanded { proof: Arc::new(proof.showing(shown)), wanted: true };
        let demanded = proofs.entry(demands).or_insert_with(make);
        demanded.wanted = true;
        Arc::clone(&demanded.proof)
    }

    /// A ConfigMap with certificates of authorities is referred to.
    pub(crate) fn want_authorities(&self, config_map: &Key) {
        self.authorities.lock().insert(config_map.clone());
    }

    /// The ConfigMaps that are referred to, whether they are there or not.
    pub(crate) fn wanted_authorities(&self) -> BTreeSet<Key> {
        self.authorities.lock().clone()
    }

    /// The Secrets that are referred to, whether they are there or not.
    pub(crate) fn wanted(&self) -> BTreeSet<Key> {
        self.used.lock().keys().map(|(secret, _)| secret.clone()).collect()
    }

    /// The certificate for these hosts: the Secret's, or the last one of it that could be used.
    pub(crate) fn take(
        &self,
        key: &Key,
        secret: Option<&Arc<Sourced<Secret>>>,
        host: &HostPattern,
        now: SystemTime,
    ) -> Held {
        let mut used = self.used.lock();
        let slot = used.entry((key.clone(), host.clone())).or_default();
        slot.wanted = true;
        let same = match (&slot.read, secret) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            _ => false,
        };
        if !same {
            let name: Arc<str> = key.as_str().into();
            let read = match secret {
                Some(secret) => Credentials::read(&name, &secret.object).map(Arc::new),
                None => Err(Flaw::Missing(name)),
            };
            slot.read = secret.cloned();
            slot.see(read, host, now);
        }
        Held { credentials: slot.credentials.clone(), flaw: slot.flaw.clone(), is_old: slot.is_old }
    }

    /// What encrypts session tickets, for all listeners: its keys live 6 hours, and open tickets for 6 more.
    /// `None` where there was no randomness to begin with: then nothing is resumed.
    pub(crate) fn tickets(&self) -> Option<Arc<dyn ProducesTickets>> {
        let make = || match rustls::crypto::ring::Ticketer::new() {
            Ok(tickets) => Some(tickets),
            Err(error) => {
                tracing::error!(%error, "no session tickets: TLS sessions are not resumed");
                None
            }
        };
        self.tickets.get_or_init(make).clone()
    }
}

impl Slot {
    /// The Secret has this now. One with a flaw that clients would not bear does not follow one without.
    fn see(&mut self, read: Result<Arc<Credentials>, Flaw>, host: &HostPattern, now: SystemTime) {
        self.is_old = self.credentials.is_some();
        match read {
            Err(flaw) => self.flaw = Some(flaw),
            Ok(new) => {
                self.flaw = new.flaw(host, now);
                let better = self.credentials.as_ref().is_some_and(|old| old.flaw(host, now).is_none());
                if self.flaw.is_none() || !better {
                    self.credentials = Some(new);
                    self.is_old = false;
                }
            }
        }
    }
}
