//! The server's side of one ADS stream as a state machine, in both variants. No I/O; time is passed in.
//!
//! In:  requests of the client, [`NodeConfig`]s (the newest wins), the time.
//! Out: [`Response`]s to send, [`Outcome`]s of requests, and whether the client has the newest generation.
//!
//! Make before break. Of a new configuration, this goes out at once: clusters and endpoints, added or changed. This is held until each
//! cluster that the client does not know yet is acknowledged and has its first endpoints, [`HOLD`] at most: listeners, route
//! configurations, virtual hosts, names. This waits until all of those are acknowledged: clusters and endpoints that are gone.
//!
//! ```text
//! clusters, endpoints --ack--> listeners, routes, virtual hosts, names --ack--> removed clusters, endpoints --ack--> settled
//! ```
//!
//! Per type one response is in flight; what changes meanwhile is merged into the next. A refused version is not sent again: the resource
//! must change first.

mod nack;
mod track;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use self::track::Track;
use crate::{
    resource::{Encoded, MAX_NAME_BYTES, NodeConfig, ResourceType},
    wire::{
        envoy::service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, ResourceError, ResourceName,
        },
        google::rpc::Status,
    },
};

/// How long listeners and routes wait, at most, for the clusters they may use.
pub const HOLD: Duration = Duration::from_secs(2);
/// The most names a client may subscribe to on one stream, over all types.
pub const MAX_NAMES: usize = 20_000;
/// The most versions a client may report in one first request.
pub const MAX_REPORTED: usize = 100_000;
/// An incremental response, or one of a type that need not be whole, is cut at this many bytes; the rest follows after the ACK. Below
/// the 4 MiB that gRPC clients accept by default.
pub const MAX_RESPONSE_BYTES: usize = 2 << 20;

/// The two ways to speak ADS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// Incremental: `DeltaAggregatedResources`.
    Delta,
    /// State of the world: `StreamAggregatedResources`.
    Sotw,
}

/// A response to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub kind: ResourceType,
    pub generation: u64,
    pub nonce: String,
    pub resources: Vec<Encoded>,
    /// Names that are gone, or were asked for and are not there. State of the world: only of types that are sent whole.
    pub removed: Vec<Arc<str>>,
}

impl Response {
    pub fn into_delta(self) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            system_version_info: self.generation.to_string(),
            resources: self.resources.iter().map(|resource| resource.to_resource(self.kind)).collect(),
            type_url: self.kind.type_url().to_owned(),
            removed_resources: self.removed.iter().map(|name| name.to_string()).collect(),
            nonce: self.nonce,
            ..DeltaDiscoveryResponse::default()
        }
    }

    /// What is left out is gone; to be told of a name that never was, a client must know `resource_errors` (gRPC: A88) or wait.
    pub fn into_sotw(self) -> DiscoveryResponse {
        DiscoveryResponse {
            resource_errors: self.removed.iter().map(|name| not_found(name)).collect(),
            version_info: self.generation.to_string(),
            resources: self.resources.iter().map(|resource| resource.to_any(self.kind)).collect(),
            type_url: self.kind.type_url().to_owned(),
            nonce: self.nonce,
            ..DiscoveryResponse::default()
        }
    }
}

/// What a request said about an earlier response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Only what is wanted.
    Asked,
    /// Of a type that is not served, or about a response that is not the last: nothing to do.
    Ignored,
    Acked {
        kind: ResourceType,
        generation: u64,
    },
    /// `names` are the refused resources as far as the message tells, else all of the response.
    Nacked {
        kind: ResourceType,
        generation: u64,
        names: Vec<Arc<str>>,
        message: String,
    },
}

/// What ends a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("more than {MAX_NAMES} resource names on one stream")]
    TooManyNames,
    #[error("more than {MAX_REPORTED} initial resource versions")]
    TooManyVersions,
    #[error("a resource name has more than {MAX_NAME_BYTES} bytes")]
    LongName,
}

/// How far the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The newest configuration's generation; 0 before the first.
    pub target: u64,
    /// Nothing is left to send or to be answered.
    pub settled: bool,
    /// Some resource of the newest configuration was refused.
    pub refused: bool,
}

/// What is in flight of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    pub generation: u64,
    pub since: Instant,
}

/// One stream of one client.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    /// Stock Envoys warm a changed cluster anew and wait for endpoints they have already.
    resend_endpoints: bool,
    target: Option<Arc<NodeConfig>>,
    tracks: BTreeMap<ResourceType, Track>,
    last_nonce: u64,
    held_since: Option<Instant>,
    /// When the client first asked for something.
    opened: Option<Instant>,
    /// Removals wait for the client to ask for listeners or routes, which may use what is gone.
    awaits_routes: bool,
    /// Clusters whose time is up: they hold nothing back any more.
    gave_up: BTreeSet<Arc<str>>,
    settled: bool,
}

/// The types that wait for clusters.
const AFTER_CLUSTERS: [ResourceType; 4] = [ResourceType::Listener, ResourceType::Route, ResourceType::VirtualHost, ResourceType::NameTable];

impl Session {
    /// `resend_endpoints`: for clients other than our own.
    pub fn new(variant: Variant, resend_endpoints: bool) -> Self {
        Self {
            variant,
            resend_endpoints,
            target: None,
            tracks: BTreeMap::new(),
            last_nonce: 0,
            held_since: None,
            opened: None,
            awaits_routes: false,
            gave_up: BTreeSet::new(),
            settled: false,
        }
    }

    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The configuration to bring the client to. Replaces one that is not there yet.
    pub fn set_config(&mut self, config: Arc<NodeConfig>) {
        self.gave_up.retain(|name| config.get(ResourceType::Cluster, name).is_some());
        self.settled = false;
        self.target = Some(config);
    }

    pub fn config(&self) -> Option<&Arc<NodeConfig>> {
        self.target.as_ref()
    }

    /// Takes an incremental request. [`Self::poll`] afterwards.
    pub fn on_delta(&mut self, request: &DeltaDiscoveryRequest) -> Result<Outcome, Violation> {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else { return Ok(Outcome::Ignored) };
        check_names(&request.resource_names_subscribe)?;
        if request.initial_resource_versions.len() > MAX_REPORTED {
            return Err(Violation::TooManyVersions);
        }
        let track = self.tracks.entry(kind).or_insert_with(|| Track::new(kind, self.variant));
        let outcome = track.on_answer(&request.response_nonce, request.error_detail.as_ref());
        track.on_delta_names(request);
        self.after_request()?;
        Ok(outcome)
    }

    /// Takes a state-of-the-world request. [`Self::poll`] afterwards.
    pub fn on_sotw(&mut self, request: &DiscoveryRequest) -> Result<Outcome, Violation> {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else { return Ok(Outcome::Ignored) };
        check_names(&request.resource_names)?;
        let track = self.tracks.entry(kind).or_insert_with(|| Track::new(kind, self.variant));
        if track.is_stale(&request.response_nonce) {
            return Ok(Outcome::Ignored);
        }
        let outcome = track.on_answer(&request.response_nonce, request.error_detail.as_ref());
        track.on_sotw_names(&request.resource_names);
        self.after_request()?;
        Ok(outcome)
    }

    fn after_request(&mut self) -> Result<(), Violation> {
        self.settled = false;
        let names: usize = self.tracks.values().map(Track::name_count).sum();
        if names > MAX_NAMES { Err(Violation::TooManyNames) } else { Ok(()) }
    }

    /// What to send now, in order. Call after every request, configuration and [`Self::deadline`].
    pub fn poll(&mut self, now: Instant) -> Vec<Response> {
        let Some(target) = self.target.clone() else { return Vec::new() };
        if self.settled || self.tracks.is_empty() {
            return Vec::new();
        }
        let open = self.gate(&target, now);
        let removals = self.may_remove(&target, now);
        let mut responses = Vec::new();
        for kind in ResourceType::ALL {
            let after_clusters = AFTER_CLUSTERS.contains(&kind);
            let may_remove = match kind {
                ResourceType::Cluster | ResourceType::Endpoint => removals,
                _ => !after_clusters || open,
            };
            let Some(track) = self.tracks.get_mut(&kind) else { continue };
            if after_clusters && !open {
                continue;
            }
            let Some(batch) = track.take_batch(&target, may_remove) else { continue };
            self.last_nonce += 1;
            let nonce = self.last_nonce.to_string();
            track.sent(&batch, &nonce, target.generation, now);
            if kind == ResourceType::Cluster && self.resend_endpoints {
                self.forget_endpoints(&batch.rewarmed);
            }
            let removed = if self.variant == Variant::Delta || kind.is_whole_state() { batch.removed } else { Vec::new() };
            responses.push(Response { kind, generation: target.generation, nonce, resources: batch.resources, removed });
        }
        self.settled = responses.is_empty() && open && !self.awaits_routes && self.tracks.values().all(|track| !track.is_in_flight());
        if self.settled {
            self.tracks.values_mut().for_each(|track| track.settle(target.generation));
        }
        responses
    }

    /// When to poll again although nothing came.
    pub fn deadline(&self) -> Option<Instant> {
        let awaited = self.opened.filter(|_| self.awaits_routes);
        [self.held_since, awaited].into_iter().flatten().min().map(|since| since + HOLD)
    }

    /// How far the client is, as of the last poll.
    pub fn progress(&self) -> Progress {
        Progress {
            target: self.target.as_ref().map_or(0, |target| target.generation),
            settled: self.settled,
            refused: self.tracks.values().any(Track::has_refused),
        }
    }

    /// The generation that the client last acknowledged, for each type it asked for.
    pub fn acked(&self) -> BTreeMap<ResourceType, u64> {
        self.tracks.iter().map(|(kind, track)| (*kind, track.acked())).collect()
    }

    /// What was sent and is not answered yet.
    pub fn in_flight(&self) -> BTreeMap<ResourceType, InFlight> {
        self.tracks.iter().filter_map(|(kind, track)| Some((*kind, track.in_flight()?))).collect()
    }

    /// How many resources of each type the client holds, or is about to.
    pub fn sizes(&self) -> BTreeMap<ResourceType, usize> {
        self.tracks.iter().map(|(kind, track)| (*kind, track.size())).collect()
    }

    /// Whether listeners and routes may go out now.
    fn gate(&mut self, target: &NodeConfig, now: Instant) -> bool {
        let waiting = AFTER_CLUSTERS.iter().any(|kind| self.tracks.get(kind).is_some_and(|track| track.has_pending(target)));
        let blockers = if waiting { self.blockers(target) } else { Vec::new() };
        if blockers.is_empty() {
            self.held_since = None;
            return true;
        }
        let since = *self.held_since.get_or_insert(now);
        if now.duration_since(since) < HOLD {
            return false;
        }
        self.gave_up.extend(blockers);
        self.held_since = None;
        true
    }

    /// The clusters that the client was to learn of and that are not ready there: unanswered, or without first endpoints.
    fn blockers(&self, target: &NodeConfig) -> Vec<Arc<str>> {
        let Some(clusters) = self.tracks.get(&ResourceType::Cluster) else { return Vec::new() };
        let endpoints = self.tracks.get(&ResourceType::Endpoint);
        let in_scope = target.of(ResourceType::Cluster).keys().filter(|name| clusters.wants(name) && !self.gave_up.contains(*name));
        in_scope
            .filter(|name| {
                let has_endpoints = || {
                    let needs = target.get(ResourceType::Endpoint, name).is_some();
                    !needs || endpoints.is_some_and(|endpoints| endpoints.is_answered(name))
                };
                let known = clusters.is_answered(name);
                !known || !(clusters.is_refused(name) || has_endpoints())
            })
            .cloned()
            .collect()
    }

    /// Whether clusters and endpoints may be removed: no route can lead to them, because listeners and routes are sent and accepted. A
    /// client that reconnects asks for clusters first, and has routes although it did not ask for them yet.
    fn may_remove(&mut self, target: &NodeConfig, now: Instant) -> bool {
        let opened = *self.opened.get_or_insert(now);
        let mut after = AFTER_CLUSTERS.iter().filter_map(|kind| self.tracks.get(kind)).peekable();
        let knows_routes = after.peek().is_some();
        let settled = after.all(|track| !track.is_in_flight() && !track.has_refused() && !track.has_pending(target));
        let removable = [ResourceType::Cluster, ResourceType::Endpoint].iter().filter_map(|kind| self.tracks.get(kind));
        self.awaits_routes =
            !knows_routes && now.duration_since(opened) < HOLD && removable.into_iter().any(|track| track.has_gone(target));
        settled && !self.awaits_routes
    }

    fn forget_endpoints(&mut self, names: &[Arc<str>]) {
        if let Some(endpoints) = self.tracks.get_mut(&ResourceType::Endpoint) {
            names.iter().for_each(|name| endpoints.forget(name));
        }
    }
}

fn not_found(name: &str) -> ResourceError {
    /// `google.rpc.Code`.
    const NOT_FOUND: i32 = 5;
    ResourceError {
        resource_name: Some(ResourceName { name: name.to_owned(), ..ResourceName::default() }),
        error_detail: Some(Status { code: NOT_FOUND, message: format!("{name} does not exist"), ..Status::default() }),
    }
}

fn check_names(names: &[String]) -> Result<(), Violation> {
    if names.len() > MAX_NAMES {
        return Err(Violation::TooManyNames);
    }
    if names.iter().any(|name| name.len() > MAX_NAME_BYTES) { Err(Violation::LongName) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
