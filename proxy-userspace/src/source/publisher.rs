//! Objects to the snapshot in force, whichever source they come from.

use super::{
    Objects,
    finding::{Finding, Severity},
    freshness::Freshness,
    store::Key,
};
use crate::{
    heap,
    snapshot::{BuildOptions, Builder, Snapshot},
    status::Board,
};
use arc_swap::ArcSwap;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;

/// Findings of one state that are logged.
const MAX_LOGGED: usize = 50;
/// Errors of one state that the status names.
const MAX_SUMMED: usize = 5;

/// What must know of a snapshot before it is in force.
type Herald = Box<dyn Fn(&Snapshot) + Send>;

/// Builds snapshots, puts them in force and tells who waits for them.
pub struct Publisher {
    builder: Builder,
    board: Arc<Board>,
    current: Arc<ArcSwap<Snapshot>>,
    published: watch::Sender<u64>,
    herald: Option<Herald>,
    /// What was logged last: the same is not logged again.
    said: String,
}

impl Publisher {
    /// Nothing is in force yet: generation 0.
    #[must_use]
    pub fn new(options: BuildOptions, board: Arc<Board>) -> Self {
        Self {
            builder: Builder::new(options),
            board,
            current: Arc::default(),
            published: watch::Sender::new(0),
            herald: None,
            said: String::new(),
        }
    }

    /// How old the source's state is, for the source to write.
    #[must_use]
    pub(super) fn freshness(&self) -> Arc<Freshness> {
        Arc::clone(self.board.metrics().freshness())
    }

    /// What the agent knows about itself.
    pub(super) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// What the builder found, worst first.
    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.builder.findings()
    }

    /// The Secrets that the objects refer to.
    pub(super) fn wanted_secrets(&self) -> BTreeSet<Key> {
        self.builder.wanted_secrets()
    }

    /// The same of ConfigMaps.
    pub(super) fn wanted_config_maps(&self) -> BTreeSet<Key> {
        self.builder.wanted_config_maps()
    }

    /// The snapshot in force; the same cell for ever.
    #[must_use]
    pub fn snapshot(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.current)
    }

    /// Calls `herald` with every later snapshot before it is in force.
    pub fn announce_to(&mut self, herald: impl Fn(&Snapshot) + Send + 'static) {
        self.herald = Some(Box::new(herald));
    }

    /// Generations, as they come into force.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Puts a state in force; `findings` are those of its reading. Costs what changed since the last one.
    pub(super) fn publish(&mut self, objects: &Objects, mut findings: Vec<Finding>) {
        let old = self.current.load_full();
        let changes = self.builder.apply(objects);
        let mut snapshot = Snapshot { generation: old.generation, ..self.builder.snapshot().clone() };
        findings.sort();
        let error = self.tell(&findings);
        if old.generation > 0 && snapshot == *old {
            return self.board.config_applied(old, error);
        }
        snapshot.generation += 1;
        if let Some(herald) = &self.herald {
            herald(&snapshot);
        }
        tracing::info!(
            generation = snapshot.generation,
            clusters = snapshot.clusters.len(),
            frontends = snapshot.by_frontend.len(),
            "configuration in force"
        );
        let snapshot = Arc::new(snapshot);
        self.current.store(Arc::clone(&snapshot));
        self.board.config_applied(Arc::clone(&snapshot), error);
        self.published.send_replace(snapshot.generation);
        drop(old);
        if changes >= heap::MANY {
            heap::give_back();
        }
    }

    /// Logs what is new of these findings and the builder's, which are sorted; the first errors, for
    /// the status.
    fn tell(&mut self, findings: &[Finding]) -> Option<String> {
        let of_reading = findings.iter().take(MAX_LOGGED);
        let mut first: Vec<_> = of_reading.chain(self.builder.findings().take(MAX_LOGGED)).cloned().collect();
        first.sort();
        first.truncate(MAX_LOGGED);
        let (total, errors) = self.builder.finding_counts();
        self.log(&first, total + findings.len());
        // Errors come first.
        summary(&first, errors + errors_of(findings).count())
    }

    /// The last good snapshot stays, because of these findings.
    pub(super) fn reject(&mut self, findings: &[Finding]) {
        if self.log(findings.get(..MAX_LOGGED).unwrap_or(findings), findings.len()) {
            let generation = self.current.load().generation;
            tracing::error!(generation, "the configuration cannot be read; the last good one stays");
        }
        self.board.config_rejected(summary(findings, errors_of(findings).count()).unwrap_or_default());
    }

    /// False if the same was logged last time.
    fn log(&mut self, logged: &[Finding], total: usize) -> bool {
        if !self.is_news(&logged.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")) {
            return false;
        }
        for finding in logged {
            match finding.severity {
                Severity::Error => tracing::error!("{finding}"),
                Severity::Warning => tracing::warn!("{finding}"),
                Severity::Info => tracing::debug!("{finding}"),
            }
        }
        if total > logged.len() {
            tracing::warn!("{} more findings; see weir check", total - logged.len());
        }
        true
    }

    fn is_news(&mut self, text: &str) -> bool {
        let news = self.said != text;
        text.clone_into(&mut self.said);
        news
    }
}

fn errors_of(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings.iter().filter(|finding| finding.severity == Severity::Error)
}

/// The first errors of so many, for the status; `None` if there is none.
fn summary(findings: &[Finding], errors: usize) -> Option<String> {
    let first: Vec<_> = errors_of(findings).take(MAX_SUMMED).map(ToString::to_string).collect();
    let more = errors.saturating_sub(first.len());
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    (!first.is_empty()).then(|| first.join("; ") + &tail)
}
