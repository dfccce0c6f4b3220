//! One resource type on one stream: what the client wants, what it has, what is in flight.
//!
//! In:  names and answers of requests; the configuration to reach.
//! Out: the next [`Batch`] to send.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use tokio::time::Instant;

use super::{InFlight, MAX_RESPONSE_BYTES, Outcome, Variant, nack};
use crate::{
    resource::{Encoded, NodeConfig, ResourceType},
    wire::{envoy::service::discovery::v3::DeltaDiscoveryRequest, google::rpc::Status},
};

/// The name that means all resources.
const WILDCARD: &str = "*";
/// A reported version longer than this is not ours.
const MAX_VERSION_BYTES: usize = 128;

/// What the next response carries.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub resources: Vec<Encoded>,
    pub removed: Vec<Arc<str>>,
    /// Those of `resources` of which the client has an older version.
    pub rewarmed: Vec<Arc<str>>,
    /// State of the world: the whole state, so `resources` holds unchanged ones too.
    changed: Vec<(Arc<str>, Arc<str>)>,
}

/// What the client has of one name.
#[derive(Debug, Default)]
struct Held {
    /// The version last sent or reported; `None`: it was told that there is none.
    version: Option<Arc<str>>,
    /// Some version was accepted, so the client has the resource.
    accepted: bool,
    /// `version` was refused.
    refused: bool,
    /// The last accepted content, to repeat it where a response must be whole.
    good: Option<Box<Encoded>>,
}

#[derive(Debug)]
struct Sent {
    generation: u64,
    since: Instant,
    changed: Vec<(Arc<str>, Arc<str>)>,
    /// State of the world only.
    contents: Vec<Encoded>,
}

#[derive(Debug)]
pub(super) struct Track {
    kind: ResourceType,
    variant: Variant,
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// No request was seen yet.
    fresh: bool,
    /// An empty list means all only as long as no name was ever given.
    ever_named: bool,
    held: BTreeMap<Arc<str>, Held>,
    in_flight: Option<Sent>,
    nonce: String,
    /// The first request has had its response, be it empty: clients wait for it.
    answered: bool,
    acked: u64,
}

impl Track {
    pub(super) fn new(kind: ResourceType, variant: Variant) -> Self {
        Self {
            kind,
            variant,
            wildcard: false,
            names: BTreeSet::new(),
            fresh: true,
            ever_named: false,
            held: BTreeMap::new(),
            in_flight: None,
            nonce: String::new(),
            answered: false,
            acked: 0,
        }
    }

    // ---- requests

    /// An answer to a response that is not the last one: in the state-of-the-world variant the whole request is outdated.
    pub(super) fn is_stale(&self, nonce: &str) -> bool {
        !self.fresh && !nonce.is_empty() && nonce != self.nonce
    }

    /// An ACK or NACK of what is in flight.
    pub(super) fn on_answer(&mut self, nonce: &str, error: Option<&Status>) -> Outcome {
        if nonce.is_empty() {
            return Outcome::Asked;
        }
        if nonce != self.nonce {
            return Outcome::Ignored;
        }
        let Some(sent) = self.in_flight.take() else { return Outcome::Asked };
        let Some(error) = error else {
            self.accept(&sent, &BTreeSet::new());
            self.acked = sent.generation;
            return Outcome::Acked { kind: self.kind, generation: sent.generation };
        };
        let names = nack::refused_names(error, &sent.changed);
        let refused = names.iter().cloned().collect();
        self.accept(&sent, &refused);
        Outcome::Nacked { kind: self.kind, generation: sent.generation, names, message: nack::message(error) }
    }

    fn accept(&mut self, sent: &Sent, refused: &BTreeSet<Arc<str>>) {
        for (name, version) in &sent.changed {
            // Sent again, or no longer wanted, since then.
            let Some(held) = self.held.get_mut(name).filter(|held| held.version.as_ref() == Some(version)) else { continue };
            if refused.contains(name) {
                held.refused = true;
            } else {
                held.accepted = true;
            }
        }
        for content in &sent.contents {
            if let Some(held) = self.held.get_mut(&content.name).filter(|held| held.accepted && !held.refused) {
                held.good = Some(Box::new(content.clone()));
            }
        }
    }

    /// The names of an incremental request.
    pub(super) fn on_delta_names(&mut self, request: &DeltaDiscoveryRequest) {
        let first = mem::take(&mut self.fresh);
        if first {
            self.wildcard = request.resource_names_subscribe.is_empty() && has_empty_wildcard(self.kind);
            for (name, version) in &request.initial_resource_versions {
                if version.len() <= MAX_VERSION_BYTES {
                    let held = Held { version: Some(version.as_str().into()), accepted: true, ..Held::default() };
                    self.held.insert(name.as_str().into(), held);
                }
            }
        }
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                self.wildcard = true;
                continue;
            }
            self.names.insert(name.as_str().into());
            // A name that is asked for again is sent again, even unchanged (xDS protocol, "Subscribing to resources").
            if !(first && request.initial_resource_versions.contains_key(name)) {
                self.held.remove(name.as_str());
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
                continue;
            }
            self.names.remove(name.as_str());
            // Under a wildcard the client forgets it only by this answer.
            if let Some(held) = self.held.get_mut(name.as_str()) {
                held.version = Some(Arc::default());
            }
        }
        if !self.wildcard {
            let names = &self.names;
            self.held.retain(|name, _| names.contains(name));
        }
    }

    /// The names of a state-of-the-world request: always the whole list.
    pub(super) fn on_sotw_names(&mut self, names: &[String]) {
        self.fresh = false;
        self.ever_named |= !names.is_empty();
        self.wildcard =
            if names.is_empty() { has_empty_wildcard(self.kind) && !self.ever_named } else { names.iter().any(|n| n == WILDCARD) };
        let names: BTreeSet<Arc<str>> = names.iter().filter(|name| *name != WILDCARD).map(|name| name.as_str().into()).collect();
        if !self.wildcard {
            self.held.retain(|name, _| names.contains(name));
        }
        self.names = names;
    }

    /// Forgets that the client has this, so that it is sent again.
    pub(super) fn forget(&mut self, name: &str) {
        self.held.remove(name);
    }

    // ---- what is to be sent

    /// The next response, or `None`: one is in flight, or nothing is to be said. `may_remove`: whether removals may go out.
    pub(super) fn take_batch(&self, target: &NodeConfig, may_remove: bool) -> Option<Batch> {
        if self.in_flight.is_some() || !self.is_subscribed() {
            return None;
        }
        match self.variant {
            Variant::Delta => self.delta_batch(target, may_remove),
            Variant::Sotw if self.kind.is_whole_state() => self.whole_batch(target, may_remove),
            Variant::Sotw => self.partial_batch(target),
        }
    }

    fn delta_batch(&self, target: &NodeConfig, may_remove: bool) -> Option<Batch> {
        let mut batch = self.changed_batch(target);
        batch.removed = self.absent(target).collect();
        if may_remove {
            batch.removed.extend(self.gone(target));
        }
        let empty = batch.resources.is_empty() && batch.removed.is_empty();
        (!empty || !self.answered).then_some(batch)
    }

    /// Types of which a response may carry a part: what changed, without a word for what is gone.
    fn partial_batch(&self, target: &NodeConfig) -> Option<Batch> {
        let mut batch = self.changed_batch(target);
        let must_answer = !self.answered && self.wildcard;
        if batch.resources.is_empty() && !must_answer {
            return None;
        }
        batch.removed = self.absent(target).chain(self.gone(target)).collect();
        Some(batch)
    }

    /// Types of which a response says everything.
    fn whole_batch(&self, target: &NodeConfig, may_remove: bool) -> Option<Batch> {
        let mut batch = Batch::default();
        for resource in self.in_scope(target) {
            let held = self.held.get(&resource.name);
            if self.is_current(resource) {
                // A refused version would be refused again, and with it perhaps the whole response: repeat the good one.
                let repeat = held.filter(|held| held.refused).map_or(Some(resource), |held| held.good.as_deref());
                batch.resources.extend(repeat.cloned());
            } else {
                batch.push(resource, held);
            }
        }
        let gone: Vec<_> = self.gone(target).collect();
        let absent: Vec<_> = self.absent(target).collect();
        let news = !batch.changed.is_empty() || !absent.is_empty() || (may_remove && !gone.is_empty()) || !self.answered;
        if may_remove {
            batch.removed = gone;
        } else {
            // Not gone yet: leaving it out would remove it.
            batch.resources.extend(gone.iter().filter_map(|name| self.held.get(name)?.good.as_deref().cloned()));
        }
        batch.removed.extend(absent);
        news.then_some(batch)
    }

    /// What changed, up to a size; the rest follows after the ACK.
    fn changed_batch(&self, target: &NodeConfig) -> Batch {
        let mut batch = Batch::default();
        let mut bytes = 0;
        for resource in self.in_scope(target).filter(|resource| !self.is_current(resource)) {
            bytes += resource.body.len() + resource.name.len() + 128;
            if bytes > MAX_RESPONSE_BYTES && !batch.resources.is_empty() {
                break;
            }
            batch.push(resource, self.held.get(&resource.name));
        }
        batch
    }

    /// Notes what went out.
    pub(super) fn sent(&mut self, batch: &Batch, nonce: &str, generation: u64, now: Instant) {
        for name in &batch.removed {
            // A wildcard client has forgotten it; one that asked by name was told and is not told again.
            self.held.remove(name);
            if self.names.contains(name) {
                self.held.insert(name.clone(), Held::default());
            }
        }
        for (name, version) in &batch.changed {
            let held = self.held.entry(name.clone()).or_default();
            held.version = Some(version.clone());
            held.refused = false;
        }
        let contents = if self.variant == Variant::Sotw && self.kind.is_whole_state() { batch.resources.clone() } else { Vec::new() };
        self.in_flight = Some(Sent { generation, since: now, changed: batch.changed.clone(), contents });
        nonce.clone_into(&mut self.nonce);
        self.answered = true;
    }

    /// Whether the client lacks something of the target, removals included; what is in flight counts as there.
    pub(super) fn has_pending(&self, target: &NodeConfig) -> bool {
        if !self.is_subscribed() {
            return false;
        }
        let changed = self.in_scope(target).any(|resource| !self.is_current(resource));
        // What the variant cannot say, or need not, holds nothing up.
        let unsaid = self.variant == Variant::Sotw && !self.kind.is_whole_state();
        let must_answer = !self.answered && (self.variant == Variant::Delta || self.wildcard || !unsaid);
        changed || must_answer || (!unsaid && (self.absent(target).next().is_some() || self.gone(target).next().is_some()))
    }

    /// Whether the client has something that the target does not.
    pub(super) fn has_gone(&self, target: &NodeConfig) -> bool {
        self.gone(target).next().is_some()
    }

    fn is_subscribed(&self) -> bool {
        self.wildcard || !self.names.is_empty()
    }

    fn in_scope<'a>(&'a self, target: &'a NodeConfig) -> impl Iterator<Item = &'a Encoded> {
        let all = self.wildcard.then(|| target.of(self.kind).values()).into_iter().flatten();
        let named = (!self.wildcard).then_some(&self.names).into_iter().flatten();
        all.chain(named.filter_map(|name| target.get(self.kind, name)))
    }

    fn is_current(&self, resource: &Encoded) -> bool {
        self.held.get(&resource.name).is_some_and(|held| held.version.as_ref() == Some(&resource.version))
    }

    /// Names that the client has and the target does not.
    fn gone<'a>(&'a self, target: &'a NodeConfig) -> impl Iterator<Item = Arc<str>> + 'a {
        let held = self.held.iter().filter(|(name, held)| held.version.is_some() && target.get(self.kind, name).is_none());
        held.map(|(name, _)| name.clone())
    }

    /// Names that were asked for, are not there, and of which that was not said yet.
    fn absent<'a>(&'a self, target: &'a NodeConfig) -> impl Iterator<Item = Arc<str>> + 'a {
        self.names.iter().filter(|name| !self.held.contains_key(*name) && target.get(self.kind, name).is_none()).cloned()
    }

    // ---- what is known

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether the client has some version of it, or has said that it takes none.
    pub(super) fn is_answered(&self, name: &str) -> bool {
        self.held.get(name).is_some_and(|held| held.accepted || held.refused || held.version.is_none())
    }

    pub(super) fn is_refused(&self, name: &str) -> bool {
        self.held.get(name).is_some_and(|held| held.refused && !held.accepted)
    }

    pub(super) fn has_refused(&self) -> bool {
        self.held.values().any(|held| held.refused)
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(super) fn in_flight(&self) -> Option<InFlight> {
        self.in_flight.as_ref().map(|sent| InFlight { generation: sent.generation, since: sent.since })
    }

    pub(super) fn name_count(&self) -> usize {
        self.names.len()
    }

    pub(super) fn size(&self) -> usize {
        self.held.values().filter(|held| held.version.is_some()).count()
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// Nothing is left of this generation; a type with a refused resource stays where it was.
    pub(super) fn settle(&mut self, generation: u64) {
        if self.is_subscribed() && !self.has_refused() {
            self.acked = generation;
        }
    }
}

impl Batch {
    fn push(&mut self, resource: &Encoded, held: Option<&Held>) {
        if held.is_some_and(|held| held.accepted) {
            self.rewarmed.push(resource.name.clone());
        }
        self.changed.push((resource.name.clone(), resource.version.clone()));
        self.resources.push(resource.clone());
    }
}

/// Types of which a first request without names means all (xDS protocol: LDS and CDS; Istio: NDS).
fn has_empty_wildcard(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Cluster | ResourceType::Listener | ResourceType::NameTable)
}
