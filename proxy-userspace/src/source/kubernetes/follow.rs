//! Follows one kind: lists it, then watches it from there, for ever.
//!
//! kube's own watcher would do most of this, but tells nobody about bookmarks and watches that were
//! opened again, so how stale our state is could not be known, and it takes events as they come.

use super::{
    document::{Document, Raw},
    kind::Kind,
    retry::{Backoff, Refusal},
};
use crate::source::store::Key;
use futures_util::{Stream, StreamExt as _};
use kube::{
    Client,
    core::{
        Request, WatchEvent,
        params::{ListParams, WatchParams},
    },
};
use serde::Deserialize;
use std::{pin::pin, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// How long one page may take, and how long the head of a watch's answer.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the API server lets a watch live, in seconds: between these, so that not all end at once.
const WATCH_SECONDS: (u64, u64) = (240, 300);
/// A watch that is this much older than it may be is dead.
const OVERDUE: Duration = Duration::from_secs(30);
/// A watch that lived so long was none that fails at once.
const LIVED: Duration = Duration::from_secs(1);
/// Failures in a row after which the position is doubted: the server may have lost what it had (a backup
/// of its store was restored), and answer a version it has not reached yet with 504 for ever.
const MAX_FAILURES: u32 = 4;
/// How often a kind that the cluster lacks is looked for.
const ABSENT_RETRY: Duration = Duration::from_secs(30);
/// How long a kind of which there were objects has to be missing before they are taken for gone: an API
/// server that starts up may not know its CRDs yet.
const ABSENT_AFTER: Duration = Duration::from_secs(90);

/// What is seen of one kind.
#[derive(Debug)]
pub(super) enum Seen {
    /// All objects there are.
    All(Vec<Document>),
    /// An object is new or different.
    Set(Document),
    /// An object is gone.
    Gone(Document),
    /// The cluster has no such kind.
    Absent,
    /// The watch is open: what was seen is what there is.
    InSync,
    /// Nothing happened: a bookmark.
    Heard,
    /// The watch is not open, and why.
    Away(String),
}

/// A [`Seen`], and of which kind: an index into [`KINDS`](super::kind::KINDS).
pub(super) type Sighting = (usize, Seen);

/// One kind's way to the API server and to who wants to know.
pub(super) struct Follower {
    pub(super) client: Client,
    pub(super) kind: &'static Kind,
    /// The only object of it that is followed, where it is one.
    pub(super) object: Option<Key>,
    /// Whether the kind's older version is asked for.
    pub(super) is_older: bool,
    pub(super) index: usize,
    pub(super) sightings: mpsc::Sender<Sighting>,
    /// Changes when everything is to be listed again.
    pub(super) relist: watch::Receiver<u64>,
}

/// A list, page by page.
#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Option<Vec<Raw>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

/// How far a kind is known.
struct Position {
    /// The version to watch from.
    version: String,
    /// The same as a number, where it is one. What comes from before is late, or comes again.
    number: Option<u64>,
}

impl Position {
    fn at(version: String) -> Self {
        Self { number: version.parse().ok(), version }
    }

    /// False if this was known already. Of one resource, an API server counts versions up.
    fn advance(&mut self, version: &str) -> bool {
        let next = version.parse().ok();
        if let (Some(next), Some(number)) = (next, self.number)
            && next <= number
        {
            return false;
        }
        if !version.is_empty() {
            *self = Self { version: version.to_owned(), number: next };
        }
        true
    }
}

/// Whoever listens to us is gone.
struct Unheard;

/// Why a watch ended.
enum End {
    /// Its time was over, or the connection was.
    Over,
    /// It failed.
    Failed(Refusal),
    /// Somebody wants a list.
    Wanted,
}

impl Follower {
    /// Returns when nobody listens any more.
    pub(super) async fn follow(mut self) {
        // Both only say that the receiver is gone.
        let (Ok(()) | Err(Unheard)) = self.run().await;
    }

    async fn run(&mut self) -> Result<(), Unheard> {
        let mut backoff = Backoff::default();
        let mut absent_since = None;
        loop {
            self.relist.mark_unchanged();
            match self.list().await {
                Ok((documents, version)) => {
                    absent_since = None;
                    self.tell(Seen::All(documents)).await?;
                    let position = Position::at(version);
                    self.watch(position, &mut backoff).await?;
                }
                Err(Refusal::Absent(_)) if self.kind.is_extension => {
                    // What one version is not served in may be served in the other.
                    self.is_older = !self.is_older && self.kind.older.is_some();
                    if self.is_older {
                        continue;
                    }
                    let since = *absent_since.get_or_insert_with(Instant::now);
                    self.is_absent(since).await?;
                }
                Err(refusal) => {
                    self.away(&refusal).await?;
                    self.pause(backoff.next()).await?;
                }
            }
        }
    }

    /// Where the collection is.
    fn path(&self) -> String {
        let older = self.kind.as_older().filter(|_| self.is_older);
        let kind = older.as_ref().unwrap_or(self.kind);
        match &self.object {
            Some(key) => kind.path_in(key.namespace()),
            None => kind.path(),
        }
    }

    /// What of it is asked for. A role that names an object allows to list and to watch it like that.
    fn field_selector(&self) -> Option<String> {
        match &self.object {
            Some(key) => Some(format!("metadata.name={}", key.name())),
            None => self.kind.field_selector.map(String::from),
        }
    }

    /// Lists everything, in pages of one version of the whole.
    async fn list(&self) -> Result<(Vec<Document>, String), Refusal> {
        let request = Request::new(self.path());
        let mut params =
            ListParams { field_selector: self.field_selector(), limit: Some(PAGE), ..ListParams::default() };
        let mut documents = Vec::new();
        loop {
            let page = request.list(&params).map_err(Refusal::unsendable)?;
            let answer = timeout(PAGE_TIMEOUT, self.client.request::<List>(page)).await;
            let list = match answer.map_err(|_| Refusal::slow("a list", PAGE_TIMEOUT))? {
                Ok(list) => list,
                // The pages of this version are gone already: all of them in one, then.
                Err(kube::Error::Api(status)) if status.code == 410 && params.limit.is_some() => {
                    documents.clear();
                    (params.limit, params.continue_token) = (None, None);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            documents.extend(list.items.into_iter().flatten().map(|raw| raw.strip(self.kind.kind)));
            params.continue_token = list.metadata.r#continue.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok((documents, list.metadata.resource_version.unwrap_or_default()));
            }
        }
    }

    /// Watches, again and again, until everything has to be listed anew.
    async fn watch(&mut self, mut position: Position, backoff: &mut Backoff) -> Result<(), Unheard> {
        loop {
            let begun = Instant::now();
            let end = self.watch_once(&mut position).await?;
            let lived = begun.elapsed() >= LIVED;
            if lived {
                *backoff = Backoff::default();
            }
            match end {
                End::Wanted => return Ok(()),
                End::Over if lived => {}
                End::Over => {
                    self.away(&Refusal::Broken("the watch ended at once".to_owned())).await?;
                    self.pause(backoff.next()).await?;
                }
                End::Failed(refusal) => {
                    self.away(&refusal).await?;
                    self.pause(backoff.next()).await?;
                    if refusal.needs_list() || backoff.failures() >= MAX_FAILURES {
                        return Ok(());
                    }
                }
            }
            if self.relist.has_changed().unwrap_or(false) {
                return Ok(());
            }
        }
    }

    async fn watch_once(&mut self, position: &mut Position) -> Result<End, Unheard> {
        let (least, most) = WATCH_SECONDS;
        let seconds = least + crate::balance::random() % (most - least);
        let params = WatchParams {
            field_selector: self.field_selector(),
            timeout: u32::try_from(seconds).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = match Request::new(self.path()).watch(&params, &position.version) {
            Ok(request) => request,
            Err(error) => return Ok(End::Failed(Refusal::unsendable(error))),
        };
        let events = match timeout(HEAD_TIMEOUT, self.client.request_events::<Raw>(request)).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return Ok(End::Failed(error.into())),
            Err(_) => return Ok(End::Failed(Refusal::slow("the head of a watch", HEAD_TIMEOUT))),
        };
        self.tell(Seen::InSync).await?;
        let until = Instant::now() + Duration::from_secs(seconds) + OVERDUE;
        self.read(events, position, until).await
    }

    async fn read(
        &mut self,
        events: impl Stream<Item = kube::Result<WatchEvent<Raw>>>,
        position: &mut Position,
        until: Instant,
    ) -> Result<End, Unheard> {
        let mut events = pin!(events);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = tokio::time::sleep_until(until) => {
                    return Ok(End::Failed(Refusal::Broken("the watch is overdue".to_owned())));
                }
                wanted = self.relist.changed() => {
                    return if wanted.is_ok() { Ok(End::Wanted) } else { Err(Unheard) };
                }
            };
            match event {
                None => return Ok(End::Over),
                Some(Err(error)) => return Ok(End::Failed(error.into())),
                Some(Ok(WatchEvent::Error(status))) => return Ok(End::Failed((*status).into())),
                Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                    position.advance(&bookmark.metadata.resource_version);
                    self.tell(Seen::Heard).await?;
                }
                Some(Ok(WatchEvent::Added(raw) | WatchEvent::Modified(raw))) => {
                    self.change(position, raw, Seen::Set).await?;
                }
                Some(Ok(WatchEvent::Deleted(raw))) => {
                    self.change(position, raw, Seen::Gone).await?;
                }
            }
        }
    }

    async fn change(
        &self,
        position: &mut Position,
        raw: Raw,
        seen: fn(Document) -> Seen,
    ) -> Result<(), Unheard> {
        let document = raw.strip(self.kind.kind);
        if !position.advance(&document.version) {
            let Document { namespace, name, version, .. } = &document;
            tracing::debug!(kind = self.kind.kind, namespace, name, version, "a late event, left out");
            return Ok(());
        }
        self.tell(seen(document)).await
    }

    /// There is no such kind (any more).
    async fn is_absent(&mut self, since: Instant) -> Result<(), Unheard> {
        self.tell(if since.elapsed() >= ABSENT_AFTER { Seen::All(Vec::new()) } else { Seen::Absent }).await?;
        self.pause(ABSENT_RETRY).await
    }

    async fn away(&self, why: &Refusal) -> Result<(), Unheard> {
        self.tell(Seen::Away(why.to_string())).await
    }

    async fn tell(&self, seen: Seen) -> Result<(), Unheard> {
        self.sightings.send((self.index, seen)).await.map_err(|_| Unheard)
    }

    /// Sleeps, but not against a wish to list.
    async fn pause(&mut self, pause: Duration) -> Result<(), Unheard> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            wanted = self.relist.changed() => wanted.map_err(|_| Unheard),
        }
    }
}
