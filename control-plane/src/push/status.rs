//! Which proxy has what: who is connected, what each acknowledged, what it refused, who is behind.
//!
//! In:  reports of the streams; published generations.
//! Out: [`Proxies::snapshot`] for the HTTP API, [`Event`]s, metrics.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use pillion_xds::{
    node::{Node, Role},
    resource::ResourceType,
    session::{InFlight, Progress, Session, Variant},
};
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// A proxy that is behind for this long is late, and is named.
pub const LATE: Duration = Duration::from_secs(30);
/// Unfinished generations that are remembered, the newest ones.
const REMEMBERED: usize = 1024;
/// Events that a slow reader may fall behind.
const EVENTS: usize = 1024;

/// Something happened that an operator may want to read.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Connected {
        proxy: Arc<Node>,
    },
    Disconnected {
        proxy: Arc<Node>,
    },
    /// Every connected proxy has answered for this generation; `acked` of `proxies` accepted all of it. `elapsed` runs from the moment
    /// that [`Proxies::noticed`] was told.
    GenerationAcked {
        generation: u64,
        proxies: usize,
        acked: usize,
        elapsed: Duration,
    },
    /// These proxies are behind for [`LATE`]; said once for each, and once more for every later generation.
    Late {
        generation: u64,
        proxies: usize,
        acked: usize,
        late: Vec<LateProxy>,
    },
    /// A proxy refuses resources; it keeps what it had.
    Nack {
        proxy: Arc<Node>,
        kind: ResourceType,
        generation: u64,
        names: Vec<Arc<str>>,
        message: String,
    },
}

/// A proxy that is late, and the types it did not answer for.
#[derive(Clone, Debug, PartialEq)]
pub struct LateProxy {
    pub proxy: Arc<Node>,
    pub unanswered: Vec<ResourceType>,
}

/// How a proxy stands to the newest generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncState {
    /// It has everything.
    Synced,
    /// Something is to be sent or answered.
    Pending,
    /// It refused something and has the rest.
    Refused,
}

/// One connected proxy, for the HTTP API.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ProxyStatus {
    pub node: String,
    /// The replica's name; may be empty.
    pub instance: String,
    pub namespace: String,
    pub workload: String,
    pub role: Role,
    pub labels: BTreeMap<String, String>,
    /// `pillion`, `envoy`, `gRPC Go`, …, as it says.
    pub user_agent: String,
    pub version: String,
    pub pillion: bool,
    pub variant: Variant,
    pub address: Option<SocketAddr>,
    pub cluster_id: String,
    /// Where our own proxy has its admin pages, on the loopback of its machine.
    pub admin: Option<SocketAddr>,
    pub connected_since: Timestamp,
    pub state: SyncState,
    /// The newest generation that it answered for in full.
    pub generation: u64,
    /// How long it is behind the newest one, in milliseconds; 0 when it is not.
    pub lag_ms: u64,
    pub types: BTreeMap<ResourceType, TypeStatus>,
    pub last_nack: Option<NackStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TypeStatus {
    /// The generation it last acknowledged.
    pub acked: u64,
    pub resources: usize,
    /// The generation on its way, if any.
    pub in_flight: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NackStatus {
    #[serde(rename = "type")]
    pub kind: ResourceType,
    pub generation: u64,
    pub names: Vec<Arc<str>>,
    pub message: String,
    pub at: Timestamp,
}

/// Istio's names, so that its dashboards work.
#[derive(Clone, Debug)]
pub struct Metrics {
    pushes: IntCounterVec,
    rejects: IntCounterVec,
    convergence: Histogram,
    connected: IntGauge,
}

impl Metrics {
    /// Declares the metrics of this module; an error when `registry` has one of these names already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let buckets = vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
        let convergence =
            HistogramOpts::new("pilot_proxy_convergence_time", "Seconds from a change to a proxy having acknowledged it.").buckets(buckets);
        let metrics = Self {
            pushes: IntCounterVec::new(Opts::new("pilot_xds_pushes", "Responses sent, by type."), &["type"])?,
            rejects: IntCounterVec::new(Opts::new("pilot_total_xds_rejects", "Responses that a proxy refused, by type."), &["type"])?,
            convergence: Histogram::with_opts(convergence)?,
            connected: IntGauge::new("pilot_xds", "Streams of proxies that are open.")?,
        };
        registry.register(Box::new(metrics.pushes.clone()))?;
        registry.register(Box::new(metrics.rejects.clone()))?;
        registry.register(Box::new(metrics.convergence.clone()))?;
        registry.register(Box::new(metrics.connected.clone()))?;
        Ok(metrics)
    }

    /// A response of this type went out.
    pub(super) fn pushed(&self, kind: ResourceType) {
        self.pushes.with_label_values(&[kind.short()]).inc();
    }
}

/// All connected proxies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proxies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    changes: watch::Sender<u64>,
    deadlines: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    streams: BTreeMap<u64, Stream>,
    /// Generations that some stream may still have to reach, and when each change was noticed; ascending.
    published: VecDeque<(u64, Instant)>,
    noticed: BTreeMap<u64, Instant>,
    announced: u64,
    newest: u64,
}

#[derive(Debug)]
struct Stream {
    node: Arc<Node>,
    variant: Variant,
    address: Option<SocketAddr>,
    since: Timestamp,
    connected: Instant,
    /// Ends the stream when a newer one of the same proxy is there.
    superseded: CancellationToken,
    progress: Progress,
    /// The newest generation it answered for in full.
    done: u64,
    acked: BTreeMap<ResourceType, u64>,
    sizes: BTreeMap<ResourceType, usize>,
    in_flight: BTreeMap<ResourceType, InFlight>,
    nack: Option<NackStatus>,
    /// The newest generation it was said to be late for; 0 when it is not late.
    late_said: u64,
}

impl Proxies {
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
            changes: watch::Sender::new(0),
            deadlines: Notify::new(),
            metrics,
        }))
    }

    /// What happens from now on. A slow reader loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Every open stream, by node id.
    pub fn snapshot(&self) -> Vec<ProxyStatus> {
        let now = Instant::now();
        let state = self.0.state.lock();
        let mut all: Vec<_> = state.streams.values().map(|stream| state.status(stream, now)).collect();
        all.sort_by(|a, b| a.node.cmp(&b.node).then(a.connected_since.cmp(&b.connected_since)));
        all
    }

    /// Waits until `test` holds for [`Self::snapshot`]; for ever if it never does.
    pub async fn until(&self, mut test: impl FnMut(&[ProxyStatus]) -> bool) -> Vec<ProxyStatus> {
        let mut changes = self.0.changes.subscribe();
        loop {
            let all = self.snapshot();
            if test(&all) {
                return all;
            }
            if changes.changed().await.is_err() {
                return all;
            }
        }
    }

    /// When the change that led to this generation was noticed, where that is known better than by its publication. The first word
    /// counts.
    pub fn noticed(&self, generation: u64, at: Instant) {
        let mut state = self.0.state.lock();
        state.noticed.entry(generation).or_insert(at);
        while state.noticed.len() > REMEMBERED {
            state.noticed.pop_first();
        }
    }

    /// A generation is on its way to every proxy.
    pub(super) fn published(&self, generation: u64, now: Instant) {
        let mut state = self.0.state.lock();
        // Changes that were merged into this generation: the oldest of them counts.
        let later = state.noticed.split_off(&(generation + 1));
        let merged = std::mem::replace(&mut state.noticed, later);
        let noticed = merged.into_values().min().unwrap_or(now);
        state.newest = generation;
        state.published.push_back((generation, noticed));
        if state.published.len() > REMEMBERED {
            state.published.pop_front();
        }
        drop(state);
        self.touch();
    }

    /// A stream has said who it is. Of our own proxies, which open one stream each, an older stream ends: it is dead or about to be.
    pub(super) fn connect(&self, node: Node, variant: Variant, address: Option<SocketAddr>) -> Entry {
        let node = Arc::new(node);
        let superseded = CancellationToken::new();
        let mut state = self.0.state.lock();
        let older: Vec<u64> = if node.is_pillion() {
            state.streams.iter().filter(|(_, other)| other.node.id == node.id).map(|(id, _)| *id).collect()
        } else {
            Vec::new()
        };
        let older: Vec<Stream> = older.iter().filter_map(|id| state.streams.remove(id)).collect();
        let id = state.next;
        state.next += 1;
        let stream = Stream {
            node: node.clone(),
            variant,
            address,
            since: Timestamp::now(),
            connected: Instant::now(),
            superseded: superseded.clone(),
            progress: Progress { target: 0, settled: false, refused: false },
            done: 0,
            acked: BTreeMap::new(),
            sizes: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            nack: None,
            late_said: 0,
        };
        state.streams.insert(id, stream);
        drop(state);
        for other in older {
            other.superseded.cancel();
            self.gone(other.node);
        }
        self.0.metrics.connected.inc();
        self.emit(Event::Connected { proxy: node.clone() });
        self.touch();
        Entry { proxies: self.clone(), id, node, superseded }
    }

    /// When the next proxy becomes late.
    pub(super) fn next_late(&self) -> Option<Instant> {
        let state = self.0.state.lock();
        state.streams.values().filter_map(|stream| state.late_at(stream)).min()
    }

    /// Resolves when [`Self::next_late`] may have moved.
    pub(super) async fn changed(&self) {
        self.0.deadlines.notified().await;
    }

    /// Names who has become late.
    pub(super) fn tell_late(&self, now: Instant) {
        let mut state = self.0.state.lock();
        let is_late = |stream: &Stream| state.late_at(stream).is_some_and(|at| at <= now);
        let ids: Vec<u64> = state.streams.iter().filter(|(_, stream)| is_late(stream)).map(|(id, _)| *id).collect();
        let Some((generation, _)) = state.published.back().copied().filter(|_| !ids.is_empty()) else { return };
        let mut late = Vec::new();
        for id in ids {
            let Some(stream) = state.streams.get_mut(&id) else { continue };
            stream.late_said = generation;
            let unanswered: Vec<_> = stream.in_flight.keys().copied().collect();
            tracing::warn!(proxy = stream.node.id, generation, ?unanswered, "proxy is late");
            late.push(LateProxy { proxy: stream.node.clone(), unanswered });
        }
        let (proxies, acked) = state.counts(generation);
        drop(state);
        self.emit(Event::Late { generation, proxies, acked, late });
    }

    fn gone(&self, proxy: Arc<Node>) {
        self.0.metrics.connected.dec();
        self.emit(Event::Disconnected { proxy });
    }

    fn emit(&self, event: Event) {
        // Nobody listening is no fault.
        let _ = self.0.events.send(event);
    }

    fn touch(&self) {
        self.0.changes.send_modify(|count| *count += 1);
        self.0.deadlines.notify_one();
    }

    /// Announces what every connected proxy has answered for by now.
    fn announce(&self, state: &mut State, now: Instant) {
        let Some(slowest) = state.streams.values().map(|stream| stream.done).min() else { return };
        while let Some((generation, noticed)) = state.published.front().copied().filter(|(generation, _)| *generation <= slowest) {
            state.published.pop_front();
            if generation <= state.announced {
                continue;
            }
            state.announced = generation;
            let (proxies, acked) = state.counts(generation);
            self.emit(Event::GenerationAcked { generation, proxies, acked, elapsed: now.duration_since(noticed) });
        }
    }
}

impl State {
    /// Connected proxies, and how many of them accepted everything of this generation or a newer one.
    fn counts(&self, generation: u64) -> (usize, usize) {
        let accepted = self.streams.values().filter(|stream| stream.done >= generation && !stream.progress.refused);
        (self.streams.len(), accepted.count())
    }

    /// When the oldest change was noticed that this stream did not answer for; when it connected, if that was later.
    fn behind_since(&self, stream: &Stream) -> Option<Instant> {
        if stream.done >= self.newest {
            return None;
        }
        let noticed = self.published.iter().find(|(generation, _)| *generation > stream.done).map(|(_, noticed)| *noticed);
        Some(noticed.map_or(stream.connected, |noticed| noticed.max(stream.connected)))
    }

    /// When it is to be said that this stream is late: once for as long as it is, and once for every later generation, whose editor waits for a
    /// line, too.
    fn late_at(&self, stream: &Stream) -> Option<Instant> {
        let since = self.behind_since(stream)?;
        if stream.late_said == 0 {
            return Some(since + LATE);
        }
        let (generation, noticed) = *self.published.back()?;
        (generation > stream.late_said).then_some(noticed + LATE)
    }

    fn status(&self, stream: &Stream, now: Instant) -> ProxyStatus {
        let node = &stream.node;
        let behind = self.behind_since(stream);
        let types = stream.acked.iter().map(|(kind, acked)| {
            let resources = stream.sizes.get(kind).copied().unwrap_or_default();
            (*kind, TypeStatus { acked: *acked, resources, in_flight: stream.in_flight.get(kind).map(|sent| sent.generation) })
        });
        let state = match stream.progress {
            _ if behind.is_some() => SyncState::Pending,
            Progress { settled: false, .. } => SyncState::Pending,
            Progress { refused: true, .. } => SyncState::Refused,
            Progress { .. } => SyncState::Synced,
        };
        ProxyStatus {
            node: node.id.clone(),
            instance: node.instance.clone(),
            namespace: node.namespace.clone(),
            workload: node.workload.clone(),
            role: node.role,
            labels: node.labels.clone(),
            user_agent: node.user_agent.clone(),
            version: node.pillion_version.clone().unwrap_or_else(|| node.user_agent_version.clone()),
            pillion: node.is_pillion(),
            variant: stream.variant,
            address: stream.address,
            cluster_id: node.cluster_id.clone(),
            admin: node.admin,
            connected_since: stream.since,
            state,
            generation: stream.done,
            lag_ms: behind.map_or(0, |since| u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX)),
            types: types.collect(),
            last_nack: stream.nack.clone(),
        }
    }
}

/// One stream's place in [`Proxies`]; dropping it says that the stream is gone.
#[derive(Debug)]
pub(super) struct Entry {
    proxies: Proxies,
    id: u64,
    node: Arc<Node>,
    superseded: CancellationToken,
}

impl Entry {
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn superseded(&self) -> &CancellationToken {
        &self.superseded
    }

    /// The session moved.
    pub(super) fn report(&self, session: &Session, now: Instant) {
        let proxies = &self.proxies;
        let mut state = proxies.0.state.lock();
        let progress = session.progress();
        let caught_up = progress.settled && state.streams.get(&self.id).is_some_and(|stream| stream.done < progress.target);
        if caught_up {
            // Only of what happened while it was connected: a late joiner was not slow.
            let behind = state.streams.get(&self.id).filter(|stream| stream.done > 0).and_then(|stream| state.behind_since(stream));
            if let Some(since) = behind {
                proxies.0.metrics.convergence.observe(now.duration_since(since).as_secs_f64());
            }
        }
        let Some(stream) = state.streams.get_mut(&self.id) else { return };
        stream.progress = progress;
        stream.acked = session.acked();
        stream.sizes = session.sizes();
        stream.in_flight = session.in_flight();
        if caught_up {
            stream.done = progress.target;
            stream.late_said = 0;
            proxies.announce(&mut state, now);
        }
        drop(state);
        proxies.touch();
    }

    /// The proxy refused something. Loud: an operator must see it.
    pub(super) fn nack(&self, kind: ResourceType, generation: u64, names: Vec<Arc<str>>, message: String) {
        tracing::warn!(proxy = self.node.id, %kind, generation, ?names, message, "proxy refuses resources");
        let proxies = &self.proxies;
        proxies.0.metrics.rejects.with_label_values(&[kind.short()]).inc();
        if let Some(stream) = proxies.0.state.lock().streams.get_mut(&self.id) {
            stream.nack = Some(NackStatus { kind, generation, names: names.clone(), message: message.clone(), at: Timestamp::now() });
        }
        proxies.emit(Event::Nack { proxy: self.node.clone(), kind, generation, names, message });
        proxies.touch();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let proxies = &self.proxies;
        let mut state = proxies.0.state.lock();
        // A newer stream of the proxy may have taken its place.
        let Some(stream) = state.streams.remove(&self.id) else { return };
        // It may have been the last one that the others waited for.
        proxies.announce(&mut state, Instant::now());
        drop(state);
        proxies.gone(stream.node);
        proxies.touch();
    }
}
