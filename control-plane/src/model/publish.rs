//! Turns changes of texts and instances into published generations, one round at a time.
//!
//! In:  [`Batch`]es of the sources, lists of instances.
//! Out: worlds and their numbers to whoever subscribes; then, when nothing is waiting, a [`Review`]; [`Event`]s for both.

use std::{collections::HashSet, sync::Arc};

use pillion_api::finding::{Finding, Severity};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    instance::Instances,
    store::{Applied, Review, Store},
    world::World,
};
use crate::{admin::history::History, app::Event, push::status::Proxies, source::change::Batch, telemetry::Metrics};

/// Findings that are logged in one round; the rest is counted.
const LOGGED: usize = 20;

/// The sending ends of everything that follows the configuration. Cheap to clone.
#[derive(Clone)]
pub struct Published {
    /// The newest world.
    pub worlds: watch::Sender<Arc<World>>,
    /// The same for the translation, which may start without one.
    pub translated: watch::Sender<Option<Arc<World>>>,
    /// Its number; never ahead of the world.
    pub generations: watch::Sender<u64>,
    pub reviews: watch::Sender<Review>,
    pub events: broadcast::Sender<Event>,
    pub history: History,
    pub metrics: Metrics,
}

impl Published {
    /// Generation 1, not yet announced to anyone.
    pub fn first(world: Arc<World>, review: Review, events: broadcast::Sender<Event>, metrics: Metrics) -> Self {
        let generation = world.generation;
        metrics.published(generation);
        metrics.reviewed(&review);
        log_findings(&review.findings);
        log_unenforced(&review);
        let history = History::default();
        history.published(generation, vec!["read at the start".into()]);
        Self {
            translated: watch::Sender::new(Some(world.clone())),
            worlds: watch::Sender::new(world),
            generations: watch::Sender::new(generation),
            reviews: watch::Sender::new(review),
            events,
            history,
            metrics,
        }
    }

    fn world(&self, world: Arc<World>, mut changes: Vec<String>, noticed: Instant, proxies: &Proxies) {
        let generation = world.generation;
        if changes.is_empty() {
            // Comments, order, indentation: places in findings move, so there is a generation, and it says why.
            changes.push("only the layout of files".into());
        }
        tracing::info!(generation, changes = changes.join(", "), "generation published");
        self.metrics.published(generation);
        self.history.published(generation, changes.clone());
        proxies.noticed(generation, noticed);
        self.worlds.send_replace(world.clone());
        // Who follows the numbers must find the world.
        self.translated.send_replace(Some(world));
        self.generations.send_replace(generation);
        self.tell(Event::Published { generation, changes: changes.into() });
    }

    fn review(&self, review: Review) {
        self.metrics.reviewed(&review);
        let before = self.reviews.send_replace(review.clone());
        let (new, fixed) = compare(&before.findings, &review.findings);
        log_findings(&new);
        if fixed > 0 {
            tracing::info!(fixed, "findings are gone");
        }
        if !new.is_empty() || fixed > 0 {
            self.tell(Event::Findings { new: new.into(), fixed });
        }
        if before.unenforced != review.unenforced {
            log_unenforced(&review);
            self.tell(Event::Unenforced { policies: review.unenforced.clone() });
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listening is no fault.
        let _ = self.events.send(event);
    }
}

/// Drives the store.
pub struct Publisher {
    pub store: Store,
    pub published: Published,
    pub proxies: Proxies,
    pub batches: mpsc::Receiver<Batch>,
    pub instances: watch::Receiver<Instances>,
}

/// What woke the publisher.
struct Round {
    noticed: Instant,
    batches: Vec<Batch>,
    instances: Option<Instances>,
}

impl Publisher {
    /// Runs until `stop`, or until every source has ended.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut review_due = false;
        loop {
            let round = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                round = self.next() => round,
                // Only when nothing else is waiting: the analysis of a large mesh must not delay an edit.
                () = std::future::ready(()), if review_due => {
                    review_due = false;
                    let Some(next) = self.off_the_runtime(|publisher| { let review = publisher.store.review(); publisher.published.review(review) }).await else {
                        return;
                    };
                    self = next.0;
                    continue;
                }
            };
            let Some(round) = round else { return };
            let Some((next, reviewable)) = self.off_the_runtime(|publisher| publisher.round(round)).await else { return };
            self = next;
            review_due |= reviewable;
        }
    }

    /// Parsing, indexing and analysing are work for a thread that may take its time.
    async fn off_the_runtime<T: Send + 'static>(mut self, work: impl FnOnce(&mut Self) -> T + Send + 'static) -> Option<(Self, T)> {
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut self);
            (self, result)
        });
        match done.await {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::error!(%error, "the configuration cannot be followed any more");
                None
            }
        }
    }

    /// Everything that is waiting, as one round.
    async fn next(&mut self) -> Option<Round> {
        let mut round = Round { noticed: Instant::now(), batches: Vec::new(), instances: None };
        tokio::select! {
            batch = self.batches.recv() => round.batches.push(batch?),
            changed = self.instances.changed() => {
                changed.ok()?;
                round.instances = Some(self.instances.borrow_and_update().clone());
            }
        }
        // The wait for it does not count.
        round.noticed = Instant::now();
        while let Ok(batch) = self.batches.try_recv() {
            round.batches.push(batch);
        }
        if self.instances.has_changed().unwrap_or(false) {
            round.instances = Some(self.instances.borrow_and_update().clone());
        }
        let earliest = round.batches.iter().map(|batch| Instant::from_std(batch.noticed)).min();
        round.noticed = earliest.map_or(round.noticed, |earliest| earliest.min(round.noticed));
        Some(round)
    }

    /// True when findings may differ now.
    fn round(&mut self, round: Round) -> bool {
        let changes = round.batches.into_iter().flat_map(|batch| batch.changes).collect();
        let Applied { world, changes, tally, reviewable } = self.store.apply(changes, round.instances);
        self.published.metrics.validated(&tally);
        if let Some(world) = world {
            self.published.world(world, changes, round.noticed, &self.proxies);
        }
        reviewable
    }
}

/// Findings that were not there before, and how many are gone. A finding that only moved within its file is the same.
fn compare(old: &[Finding], new: &[Finding]) -> (Vec<Finding>, usize) {
    type Key<'a> = (Severity, &'a str, &'a str, &'a str, &'a str, &'a str);
    fn key(finding: &Finding) -> Key<'_> {
        (finding.severity, finding.code, &finding.object, &finding.path, &finding.message, &finding.place.file)
    }
    let (before, now): (HashSet<Key<'_>>, HashSet<Key<'_>>) = (old.iter().map(key).collect(), new.iter().map(key).collect());
    let added = new.iter().filter(|finding| !before.contains(&key(finding))).cloned().collect();
    (added, before.difference(&now).count())
}

fn log_findings(findings: &[Finding]) {
    let (serious, notes): (Vec<&Finding>, Vec<&Finding>) = findings.iter().partition(|finding| finding.severity > Severity::Note);
    for finding in serious.iter().take(LOGGED) {
        let place = format!("{}:{}:{}", finding.place.file, finding.place.line, finding.place.column);
        let help = finding.help.as_deref().unwrap_or_default();
        let Finding { object, path, code, .. } = finding;
        // The operator's fault, not ours: an error of theirs is a warning of this program.
        tracing::warn!(severity = ?finding.severity, place, object, path, code, help, "{}", finding.message);
    }
    if serious.len() > LOGGED {
        tracing::warn!(more = serious.len() - LOGGED, "more findings: see `pillion status` or /api/v1/findings");
    }
    if !notes.is_empty() {
        tracing::info!(notes = notes.len(), "notes on the configuration: see /api/v1/findings");
    }
}

fn log_unenforced(review: &Review) {
    for policy in review.unenforced.iter() {
        let place = format!("{}:{}", policy.place.file, policy.place.line);
        let object = format!("{} {}/{}", policy.kind, policy.namespace, policy.name);
        tracing::warn!(
            place,
            object,
            consequence = policy.consequence,
            "NOT ENFORCED: this version accepts the policy and does not act on it"
        );
    }
}

#[cfg(test)]
mod tests {
    use pillion_api::finding::Place;

    use super::*;

    fn finding(file: &str, line: u32, message: &str) -> Finding {
        let place = Place { file: file.into(), line, ..Place::default() };
        let text = String::new;
        Finding {
            severity: Severity::Error,
            code: "PLN0",
            istio: None,
            object: text(),
            path: text(),
            message: message.into(),
            help: None,
            place,
            related: Vec::new(),
        }
    }

    #[test]
    fn a_finding_that_only_moved_is_not_new() {
        let old = [finding("a", 1, "x"), finding("a", 2, "y")];
        let new = [finding("a", 5, "x"), finding("b", 1, "y")];
        let (added, fixed) = compare(&old, &new);
        assert_eq!((added, fixed), (vec![finding("b", 1, "y")], 1));
    }
}
