//! Follows the control plane: updates in, configurations in force.
//!
//! In:  the xDS stream, the last good configuration on disk, the time.
//! Out: one swap of the [`ConfigStore`] per update; ACKs and NACKs; [`SyncState`] for admin; the disk copy.
//!
//! ```text
//! nothing --first complete configuration--> serving --stream lost--> serving, stale --stream complete--> serving
//!    \--control plane away, disk copy there--> serving, stale --/
//! ```

mod folder;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use pillion_xds::node::Node;
use pillion_xds::resource::ResourceType;
use pillion_xds::subscription::{Changed, Decoded, Refusal, Subscription, Update};
use pillion_xds::transport::{Connection, Dial, Handler, follow};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::compile::{Compiler, Verdict, WARMING};
use super::disk::Copy;
use super::journal::Journal;
use super::store::ConfigStore;
use crate::listener::bind::{BindError, Sockets, bind};
use crate::telemetry::stats::ProxyStats;

/// How long a start waits for the control plane before it serves what is on disk.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often an address that could not be had is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(1);
/// At most one write to disk in this time; the first change is written at once, so that a proxy which dies young leaves a copy.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How long an ACK waits for workers, which all the while serve requests.
const TAKE_LIMIT: Duration = Duration::from_secs(1);
/// Different notes that are logged; the first of a kind says enough.
const MAX_NOTES: usize = 200;

/// The types that every stream answers, so that a first configuration is complete.
const FIRST: [ResourceType; 4] = [ResourceType::Cluster, ResourceType::Listener, ResourceType::VirtualHost, ResourceType::NameTable];

/// Where the proxy stands with its configuration.
#[derive(Debug, Clone, Default)]
pub struct SyncState {
    /// A configuration is in force.
    pub ready: bool,
    /// It came from disk and nothing newer has come since.
    pub from_disk: bool,
    /// The generation in force.
    pub generation: u64,
    /// A stream is open.
    pub connected: bool,
    /// The stream has brought everything up to date.
    pub complete: bool,
    /// Why the last stream ended, or could not be opened.
    pub trouble: Option<String>,
    /// Since when there is no stream.
    pub away_since: Option<SystemTime>,
    /// Resources whose last version was refused: (type, name, reason).
    pub refused: Vec<(ResourceType, String, String)>,
    /// Listeners whose address could not be had: (name, reason).
    pub unbound: BTreeMap<Arc<str>, String>,
}

impl SyncState {
    /// The configuration in force is not known to be current.
    pub fn is_stale(&self) -> bool {
        self.ready && !(self.connected && self.complete)
    }
}

/// What the follower needs.
#[derive(Debug)]
pub struct Settings {
    pub node: Node,
    pub state_dir: Option<PathBuf>,
    pub stats: Arc<ProxyStats>,
    /// Sockets bound before any configuration.
    pub sockets: Sockets,
    /// Workers that follow the store; an ACK waits for them.
    pub workers: u32,
}

/// The configuration task.
#[derive(Debug)]
pub struct Subscriber {
    shared: Arc<Shared>,
    subscription: Subscription,
}

#[derive(Debug)]
struct Shared {
    engine: Mutex<Engine>,
    store: ConfigStore,
    state: watch::Sender<SyncState>,
    /// The next deadline may be another one.
    replan: Notify,
    /// There is something to write to disk.
    dirty: Notify,
    stats: Arc<ProxyStats>,
    node: Node,
    state_dir: Option<PathBuf>,
    workers: u32,
}

/// What is behind the lock; it is never held across an await.
#[derive(Debug)]
struct Engine {
    compiler: Compiler,
    sockets: Sockets,
    generation: u64,
    /// Accepted resources as they came, for the disk and for dumps.
    copy: Copy,
    /// When, and what was refused; for dumps.
    journal: Journal,
    /// Types answered on this stream.
    answered: BTreeSet<ResourceType>,
    /// Names that were asked for and are not there, or were refused at their first coming.
    absent: BTreeSet<(ResourceType, Arc<str>)>,
    published: bool,
    /// When what there is goes in force although it is not complete.
    publish_by: Option<Instant>,
    bind_again: Option<Instant>,
    notes: HashSet<String>,
}

impl Subscriber {
    /// Starts from what is on disk, if anything; nothing is in force yet.
    pub fn new(settings: Settings, compiler: Compiler, store: ConfigStore, now: Instant) -> Self {
        let Settings { node, state_dir, stats, sockets, workers } = settings;
        let subscription = Subscription::new(node.clone());
        let engine = Engine {
            compiler,
            sockets,
            generation: 0,
            copy: Copy::default(),
            journal: Journal::default(),
            answered: BTreeSet::new(),
            absent: BTreeSet::new(),
            published: false,
            publish_by: None,
            bind_again: None,
            notes: HashSet::new(),
        };
        let shared = Shared {
            engine: Mutex::new(engine),
            store,
            state: watch::Sender::new(SyncState::default()),
            replan: Notify::new(),
            dirty: Notify::new(),
            stats,
            node,
            state_dir,
            workers,
        };
        let mut subscriber = Self { shared: Arc::new(shared), subscription };
        subscriber.restore(now);
        subscriber
    }

    pub fn state(&self) -> watch::Receiver<SyncState> {
        self.shared.state.subscribe()
    }

    /// What is kept of the configuration.
    pub fn kept(&self) -> Kept {
        Kept(Arc::clone(&self.shared))
    }

    fn restore(&mut self, now: Instant) {
        let Some(folder) = &self.shared.state_dir else { return };
        let copy = match Copy::read(folder, &self.shared.node) {
            Ok(Some(copy)) => copy,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = %crate::bootstrap::chain(&error), "the last good configuration cannot be used");
                return;
            }
        };
        let mut engine = self.shared.engine.lock();
        for (kind, resources) in &copy.resources {
            let decoded = resources.values().filter_map(|encoded| {
                let message = Decoded::from_encoded(*kind, encoded).ok()?;
                Some(Changed { encoded: encoded.clone(), message })
            });
            let changed: Vec<Changed> = decoded.collect();
            let verdict = engine.compiler.take(*kind, &changed, &[], now);
            // What does not compile any more (this program may be an older one) is asked for again.
            let refused: BTreeSet<&str> = verdict.refused.iter().map(|refusal| &*refusal.name).collect();
            self.subscription.restore(*kind, changed.iter().map(|changed| changed.encoded.clone()).filter(|e| !refused.contains(&*e.name)));
        }
        engine.generation = copy.generation;
        engine.publish_by = Some(now + PATIENCE);
        engine.journal.restored(&copy, SystemTime::now());
        engine.copy = copy;
        self.shared.state.send_modify(|state| state.from_disk = true);
    }

    /// Follows the control plane for ever. Runs on the side runtime.
    pub async fn run(self, dial: Dial) -> Infallible {
        let Self { shared, mut subscription } = self;
        let mut handler = Follower { shared: Arc::clone(&shared) };
        tokio::select! {
            never = follow(&dial, &mut subscription, &mut handler, fastrand::f64) => never,
            never = keep_time(&shared) => never,
            never = keep_copy(&shared) => never,
        }
    }
}

/// The resources as they came, for dumps. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kept(Arc<Shared>);

impl Kept {
    /// All of it as of now; bodies are shared, not copied.
    pub fn get(&self) -> (Copy, Journal) {
        let engine = self.0.engine.lock();
        (Copy { generation: engine.generation, ..engine.copy.clone() }, engine.journal.clone())
    }
}

/// The xDS client's view of us.
struct Follower {
    shared: Arc<Shared>,
}

impl Handler for Follower {
    async fn apply(&mut self, update: &Update) -> Vec<Refusal> {
        let before = self.shared.store.snapshot();
        let refused = self.shared.apply(update, Instant::now());
        let now = self.shared.store.snapshot();
        // A worker that is that late is stuck in something else; the control plane shall not wait for it.
        if !Arc::ptr_eq(&before, &now) && timeout(TAKE_LIMIT, now.taken.by(self.shared.workers)).await.is_err() {
            tracing::warn!(generation = now.generation, "not every worker has the new configuration");
        }
        refused
    }

    fn answered(&mut self, subscription: &Subscription) {
        self.shared.answered(subscription);
    }

    fn connection(&mut self, connection: Connection) {
        self.shared.connection(connection, Instant::now());
    }
}

impl Shared {
    fn apply(&self, update: &Update, now: Instant) -> Vec<Refusal> {
        self.stats.updates(update.kind).increment();
        let mut engine = self.engine.lock();
        let verdict = engine.compiler.apply(update, now);
        engine.generation = update.generation.unwrap_or(engine.generation);
        let mut refused = engine.settle(update, verdict);
        if engine.published {
            let unbound = self.publish(&mut engine, now);
            let names: BTreeSet<&str> = update.changed.iter().map(|changed| &*changed.encoded.name).collect();
            if update.kind == ResourceType::Listener {
                let new = unbound.iter().filter(|error| names.contains(&*error.listener));
                let unbound: Vec<Refusal> =
                    new.map(|error| Refusal::new(Arc::clone(&error.listener), crate::bootstrap::chain(error))).collect();
                engine.journal.refuse(update, &unbound, SystemTime::now());
                refused.extend(unbound);
            }
        } else if engine.is_complete() {
            self.publish(&mut engine, now);
        } else if engine.publish_by.is_none() {
            engine.publish_by = Some(now + WARMING);
        }
        drop(engine);
        self.replan.notify_one();
        self.stats.refused(update.kind).add(refused.len() as u64);
        for refusal in &refused {
            tracing::warn!(kind = %update.kind, name = %refusal.name, reason = refusal.reason, "refused a resource; its last good version stays");
        }
        refused
    }

    /// Puts in force what is compiled. Sockets are bound before, so that whoever sees the configuration can connect.
    fn publish(&self, engine: &mut Engine, now: Instant) -> Vec<BindError> {
        let mut config = engine.compiler.config(engine.generation, now);
        let (sockets, unbound) = bind(&engine.sockets, &config.listeners);
        engine.sockets = Arc::clone(&sockets);
        config.sockets = sockets;
        engine.bind_again = (!unbound.is_empty()).then_some(now + BIND_AGAIN);
        engine.published = true;
        engine.publish_by = None;
        self.store.publish(config);
        self.stats.config_swaps.increment();
        self.stats.listeners_unbound.set(unbound.len() as i64);
        let generation = engine.generation;
        let named: BTreeMap<Arc<str>, String> =
            unbound.iter().map(|error| (Arc::clone(&error.listener), crate::bootstrap::chain(error))).collect();
        self.change(|state| {
            for (name, reason) in named.iter().filter(|(name, _)| !state.unbound.contains_key(*name)) {
                tracing::error!(listener = %name, reason, "a listener has no socket; trying again");
            }
            for name in state.unbound.keys().filter(|name| !named.contains_key(*name)) {
                tracing::info!(listener = %name, "the listener has its socket now, or is gone");
            }
            state.ready = true;
            state.generation = generation;
            state.unbound = named;
        });
        unbound
    }

    fn answered(&self, subscription: &Subscription) {
        let complete = subscription.is_complete();
        let refused: Vec<_> = subscription.refused().map(|(kind, name, reason)| (kind, name.to_owned(), reason.to_owned())).collect();
        if complete {
            let mut engine = self.engine.lock();
            for kind in [ResourceType::Endpoint, ResourceType::Route] {
                let held: BTreeSet<&str> = subscription.held(kind).map(|(name, _)| name).collect();
                engine.copy.retain(kind, |name| held.contains(name));
                engine
                    .journal
                    .retain(kind, |name| held.contains(name) || refused.iter().any(|(of, other, _)| *of == kind && other == name));
            }
            drop(engine);
            self.dirty.notify_one();
        }
        self.change(|state| {
            let first = complete && !state.complete;
            state.complete = complete;
            state.refused = refused;
            if first && state.ready {
                state.from_disk = false;
                tracing::info!(generation = state.generation, "the configuration is up to date");
            }
        });
    }

    fn connection(&self, connection: Connection, now: Instant) {
        match connection {
            Connection::Open => {
                self.stats.xds_streams.increment();
                let mut engine = self.engine.lock();
                engine.answered.clear();
                engine.absent.clear();
                drop(engine);
                self.change(|state| {
                    state.connected = true;
                    state.complete = false;
                    state.trouble = None;
                    state.away_since = None;
                });
                tracing::info!("connected to the control plane");
            }
            Connection::Lost { reason, retry } => {
                let mut engine = self.engine.lock();
                // Away, as far as one can tell: what is on disk serves.
                if !engine.published && self.state_dir.is_some() && !engine.compiler.is_empty() {
                    self.publish(&mut engine, now);
                    tracing::warn!(generation = engine.generation, "serving the last good configuration from disk");
                }
                drop(engine);
                self.replan.notify_one();
                self.change(|state| {
                    let retry = retry.as_millis();
                    // The first failure is for the operator, its repetitions are not.
                    if state.trouble.as_deref() == Some(&reason) {
                        tracing::debug!(reason, retry, "still no stream to the control plane");
                    } else {
                        tracing::warn!(
                            reason,
                            retry,
                            ready = state.ready,
                            "no stream to the control plane; going on with what is in force"
                        );
                    }
                    state.connected = false;
                    state.complete = false;
                    state.trouble = Some(reason);
                    state.away_since.get_or_insert_with(SystemTime::now);
                });
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut SyncState)) {
        self.state.send_modify(change);
        let state = self.state.borrow();
        self.stats.xds_connected.set(state.connected.into());
        self.stats.config_stale.set(state.is_stale().into());
    }

    /// What is due at this time; when to come again.
    fn tick(&self, now: Instant) -> Option<Instant> {
        let mut engine = self.engine.lock();
        if engine.publish_by.is_some_and(|by| by <= now) {
            engine.publish_by = None;
            if !engine.compiler.is_empty() {
                tracing::warn!(generation = engine.generation, "serving a configuration that is not known to be complete");
                self.publish(&mut engine, now);
            }
        }
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if engine.published && (due(engine.bind_again) || due(engine.compiler.next_deadline())) {
            self.publish(&mut engine, now);
        }
        let warming = if engine.published { engine.compiler.next_deadline() } else { None };
        [engine.publish_by, engine.bind_again, warming].into_iter().flatten().min()
    }

    fn write_copy(self: &Arc<Self>) -> Option<impl FnOnce() + Send + use<>> {
        self.state_dir.as_ref()?;
        let copy = self.engine.lock().copy.clone();
        let shared = Arc::clone(self);
        Some(move || {
            let Some(folder) = &shared.state_dir else { return };
            match copy.write(folder, &shared.node) {
                Ok(()) => tracing::debug!(generation = copy.generation, "wrote the last good configuration"),
                Err(error) => tracing::warn!(%error, folder = %folder.display(), "cannot write the last good configuration"),
            }
        })
    }
}

impl Engine {
    /// What is refused, after the bookkeeping that follows from it.
    fn settle(&mut self, update: &Update, verdict: Verdict) -> Vec<Refusal> {
        let Verdict { refused, notes, .. } = verdict;
        for note in notes {
            // The same field of another resource says nothing new.
            let kind = note.split_once(": ").map_or(note.as_str(), |(_, rest)| rest);
            if self.notes.len() < MAX_NOTES && self.notes.insert(without_indexes(kind)) {
                tracing::warn!(note, "a field has no effect");
            }
        }
        self.copy.take(update, |name| refused.iter().any(|refusal| &*refusal.name == name));
        self.journal.take(update, &refused, SystemTime::now());
        self.answered.insert(update.kind);
        for changed in &update.changed {
            self.absent.remove(&(update.kind, Arc::clone(&changed.encoded.name)));
        }
        let away = update.removed.iter().chain(refused.iter().chain(&update.refused).map(|refusal| &refusal.name));
        self.absent.extend(away.map(|name| (update.kind, Arc::clone(name))));
        refused
    }

    /// Every type was answered on this stream, and every name that is followed is there or known not to be.
    fn is_complete(&self) -> bool {
        FIRST.iter().all(|kind| self.answered.contains(kind)) && self.compiler.missing().iter().all(|missing| self.absent.contains(missing))
    }
}

/// `filter_chains[3].x` and `filter_chains[4].x` are one note.
fn without_indexes(path: &str) -> String {
    path.chars().filter(|character| !character.is_ascii_digit()).collect()
}

/// Does what is due when nothing comes from the control plane.
async fn keep_time(shared: &Shared) -> Infallible {
    loop {
        match shared.tick(Instant::now()) {
            Some(deadline) => {
                tokio::select! {
                    () = sleep_until(deadline) => {}
                    () = shared.replan.notified() => {}
                }
            }
            None => shared.replan.notified().await,
        }
    }
}

/// Keeps the disk copy up to date.
async fn keep_copy(shared: &Arc<Shared>) -> Infallible {
    loop {
        shared.dirty.notified().await;
        if let Some(write) = shared.write_copy()
            && tokio::task::spawn_blocking(write).await.is_err()
        {
            tracing::error!("writing the last good configuration panicked");
        }
        sleep(WRITE_EVERY).await;
    }
}
