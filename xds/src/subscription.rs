//! The client's side of incremental ADS as a state machine. No I/O, no clock.
//!
//! In:  responses from the control plane; from the caller, which of their resources it cannot use.
//! Out: [`Update`]s to compile; requests to send: subscriptions, ACKs, NACKs.
//!
//! ```text
//! connect() -> requests                      on every new stream
//! receive(response) -> Update                decoded; what cannot be decoded is refused already
//! answer(update, refused) -> requests        new names to follow first, then the ACK or NACK
//! ```
//!
//! Clusters, listeners, virtual hosts and the name table are subscribed to with the wildcard. Endpoints are asked for by the names that
//! follow from accepted clusters, route configurations by those that follow from accepted listeners. Requests for such names go out
//! before the ACK that made them necessary, so that the server never thinks a proxy complete between the two.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    node::Node,
    resource::{Encoded, MAX_NAME_BYTES, ResourceMessage, ResourceType, UnpackError, pack, unpack},
    wire::{
        envoy::{
            config::{
                cluster::v3::{Cluster, cluster},
                endpoint::v3::ClusterLoadAssignment,
                listener::v3::{FilterChain, Listener, filter},
                route::v3::{RouteConfiguration, VirtualHost},
            },
            extensions::{
                filters::network::http_connection_manager::v3::{HttpConnectionManager, http_connection_manager::RouteSpecifier},
                transport_sockets::tls::v3::Secret,
            },
            service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, ResourceError, ResourceName},
        },
        google::rpc::Status,
        istio::networking::nds::v1::NameTable,
    },
};

/// The most resources, and the most removed names, in one response.
pub const MAX_RESOURCES: usize = 200_000;
/// The longest text of a NACK, in bytes.
pub const MAX_NACK_BYTES: usize = 8 << 10;
/// At most so many refused resources are named in the details of a NACK.
pub const MAX_NACK_NAMES: usize = 100;

/// gRPC's code for a NACK: `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

/// The types with the wildcard, in the order in which they are asked for.
const WILDCARDS: [ResourceType; 4] = [ResourceType::Cluster, ResourceType::Listener, ResourceType::VirtualHost, ResourceType::NameTable];

/// A decoded resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    Cluster(Box<Cluster>),
    Endpoints(Box<ClusterLoadAssignment>),
    Listener(Box<Listener>),
    Route(Box<RouteConfiguration>),
    VirtualHost(Box<VirtualHost>),
    NameTable(Box<NameTable>),
    Secret(Box<Secret>),
}

/// A resource that was added or that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// Name and version as the server says them, and the bytes, for the disk copy.
    pub encoded: Encoded,
    pub message: Decoded,
}

/// A resource that cannot be used, and why, in a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub name: Arc<str>,
    pub reason: String,
}

impl Refusal {
    pub fn new(name: impl Into<Arc<str>>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), reason: reason.into() }
    }
}

/// What one response changes. The caller compiles it and gives it back to [`Subscription::answer`].
#[derive(Clone, Debug)]
pub struct Update {
    pub kind: ResourceType,
    /// `system_version_info`; `None` from a server that does not count so.
    pub generation: Option<u64>,
    /// In the order of the response; no name twice.
    pub changed: Vec<Changed>,
    /// Names that are gone. A name that was never here may be among them: asked for, and not there.
    pub removed: Vec<Arc<str>>,
    /// Refused already: not decodable, of another type, nameless.
    pub refused: Vec<Refusal>,
    nonce: String,
}

impl Update {
    /// What did not come by a stream, but from files for example; nothing is answered.
    pub fn local(kind: ResourceType, generation: u64, changed: Vec<Changed>, removed: Vec<Arc<str>>, refused: Vec<Refusal>) -> Self {
        Self { kind, generation: Some(generation), changed, removed, refused, nonce: String::new() }
    }
}

/// A response that is no update; the request is its NACK.
#[derive(Clone, Debug)]
pub struct Refused {
    pub reason: String,
    pub request: Box<DeltaDiscoveryRequest>,
}

/// One held resource: its version, and what must be asked for because of it.
#[derive(Clone, Debug, Default)]
struct Held {
    version: Arc<str>,
    follows: Vec<Arc<str>>,
}

/// What the client holds and has asked for. Survives its streams.
#[derive(Clone, Debug)]
pub struct Subscription {
    node: Node,
    held: BTreeMap<ResourceType, BTreeMap<Arc<str>, Held>>,
    /// Endpoints and route configurations asked for by name on this stream.
    asked: BTreeMap<ResourceType, BTreeSet<Arc<str>>>,
    /// Names refused in the version last sent, with the reason.
    refused: BTreeMap<(ResourceType, Arc<str>), String>,
    answered: BTreeSet<ResourceType>,
    generation: Option<u64>,
}

impl Subscription {
    pub fn new(node: Node) -> Self {
        Self { node, held: BTreeMap::new(), asked: BTreeMap::new(), refused: BTreeMap::new(), answered: BTreeSet::new(), generation: None }
    }

    /// Takes over what a disk copy holds, so that the server sends only the difference. Before the first `connect`.
    pub fn restore(&mut self, kind: ResourceType, resources: impl IntoIterator<Item = Encoded>) {
        for encoded in resources {
            if let Ok(message) = decode_body(kind, &encoded) {
                self.hold(&encoded, kind, &message);
            }
        }
    }

    /// The newest generation that a response carried and the client answered. Every type is acknowledged for it unless
    /// [`Self::refused`] says otherwise.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// Whether this stream has answered every type with the wildcard, and holds (or was told the absence of) every name it follows: the
    /// first complete configuration.
    pub fn is_complete(&self) -> bool {
        WILDCARDS.iter().all(|kind| self.answered.contains(kind))
            && [ResourceType::Endpoint, ResourceType::Route].iter().all(|kind| self.missing(*kind).is_empty())
    }

    /// Names of this type that were asked for and did not come (or were refused at their first coming).
    pub fn missing(&self, kind: ResourceType) -> Vec<Arc<str>> {
        let held = self.held.get(&kind);
        let asked = self.asked.get(&kind).into_iter().flatten();
        asked
            .filter(|name| !held.is_some_and(|held| held.contains_key(*name)) && !self.refused.contains_key(&(kind, Arc::clone(name))))
            .cloned()
            .collect()
    }

    /// Resources whose last version was refused, with the reason; their last good version is in force.
    pub fn refused(&self) -> impl Iterator<Item = (ResourceType, &str, &str)> {
        self.refused.iter().map(|((kind, name), reason)| (*kind, &**name, reason.as_str()))
    }

    /// Name and version of everything accepted of this type.
    pub fn held(&self, kind: ResourceType) -> impl Iterator<Item = (&str, &str)> {
        self.held.get(&kind).into_iter().flatten().map(|(name, held)| (&**name, &*held.version))
    }

    /// A new stream: forgets the old one's state and gives the first requests, in the order to send.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.asked.clear();
        self.answered.clear();
        // A refused version was not reported as held, so it comes again if it is still there.
        self.refused.clear();
        let mut requests = Vec::new();
        for kind in WILDCARDS {
            // `*` where the empty list does not mean it to every server.
            let subscribe = if kind == ResourceType::VirtualHost { vec!["*".to_owned()] } else { Vec::new() };
            requests.push(DeltaDiscoveryRequest {
                resource_names_subscribe: subscribe,
                initial_resource_versions: self.versions(kind),
                ..self.request(kind)
            });
            requests.extend(self.follow(kind));
        }
        if let Some(first) = requests.first_mut() {
            first.node = Some(self.node.to_wire());
        }
        requests
    }

    /// Reads a response. Nothing is held before [`Self::answer`].
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Result<Update, Refused> {
        let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
            let type_url: String = response.type_url.chars().take(MAX_NAME_BYTES).collect();
            return Err(refuse(response.type_url, response.nonce, format!("unknown type {type_url}")));
        };
        if response.resources.len().max(response.removed_resources.len()) > MAX_RESOURCES {
            let reason = format!("more than {MAX_RESOURCES} resources in one response");
            return Err(refuse(response.type_url, response.nonce, reason));
        }
        let mut update = Update {
            kind,
            generation: response.system_version_info.parse().ok(),
            changed: Vec::with_capacity(response.resources.len()),
            removed: response.removed_resources.into_iter().map(Arc::from).collect(),
            refused: Vec::new(),
            nonce: response.nonce,
        };
        let mut seen = BTreeSet::new();
        for resource in response.resources {
            // A heartbeat: the name alone prolongs a time to live, which we do not count.
            if resource.resource.is_none() && resource.ttl.is_some() {
                continue;
            }
            let name: Arc<str> = resource_name(&resource).into();
            let fault = if name.is_empty() || name.len() > MAX_NAME_BYTES {
                Some(format!("a resource name has 1 to {MAX_NAME_BYTES} bytes"))
            } else if !seen.insert(name.clone()) {
                Some("named twice in one response".to_owned())
            } else {
                None
            };
            let decoded = match fault {
                Some(reason) => Err(reason),
                None => decode(kind, &name, resource).map_err(|error| error.to_string()),
            };
            match decoded {
                Ok(changed) => update.changed.push(changed),
                Err(reason) => update.refused.push(Refusal { name, reason }),
            }
        }
        Ok(update)
    }

    /// Takes the caller's verdict on an update: holds what it accepts, and gives what to send, in order. A removal cannot be refused.
    pub fn answer(&mut self, update: Update, refused: Vec<Refusal>) -> Vec<DeltaDiscoveryRequest> {
        let Update { kind, generation, changed, removed, refused: undecoded, nonce } = update;
        let mut refusals = undecoded;
        refusals.extend(refused);
        let names: BTreeSet<&str> = refusals.iter().map(|refusal| &*refusal.name).collect();
        for Changed { encoded, message } in &changed {
            if !names.contains(&*encoded.name) {
                self.hold(encoded, kind, message);
                self.refused.remove(&(kind, encoded.name.clone()));
            }
        }
        for name in removed {
            self.held.entry(kind).or_default().remove(&name);
            self.refused.remove(&(kind, name.clone()));
            // Asked for, and the answer is "not there": an empty version counts as an answer and is not reported on reconnect.
            if self.asked.get(&kind).is_some_and(|asked| asked.contains(&name)) {
                self.held.entry(kind).or_default().insert(name, Held::default());
            }
        }
        let mut ack = DeltaDiscoveryRequest { response_nonce: nonce, ..self.request(kind) };
        if !refusals.is_empty() {
            ack.error_detail = Some(nack(&refusals));
        }
        for refusal in refusals {
            self.refused.insert((kind, refusal.name), refusal.reason);
        }
        self.answered.insert(kind);
        self.generation = self.generation.max(generation);
        let mut requests: Vec<_> = self.follow(kind).into_iter().collect();
        requests.push(ack);
        requests
    }

    fn hold(&mut self, encoded: &Encoded, kind: ResourceType, message: &Decoded) {
        let held = Held { version: encoded.version.clone(), follows: follows(message) };
        self.held.entry(kind).or_default().insert(encoded.name.clone(), held);
    }

    /// The request that brings what is asked for by name in line with what is held of `kind`; `None` when it is already.
    fn follow(&mut self, kind: ResourceType) -> Option<DeltaDiscoveryRequest> {
        let wanted_kind = match kind {
            ResourceType::Cluster => ResourceType::Endpoint,
            ResourceType::Listener => ResourceType::Route,
            _ => return None,
        };
        let wanted: BTreeSet<Arc<str>> =
            self.held.get(&kind).into_iter().flatten().flat_map(|(_, held)| held.follows.iter().cloned()).collect();
        let first = !self.asked.contains_key(&wanted_kind);
        let asked = self.asked.get(&wanted_kind).cloned().unwrap_or_default();
        let subscribe: Vec<String> = wanted.difference(&asked).map(|name| name.to_string()).collect();
        let unsubscribe: Vec<String> = asked.difference(&wanted).map(|name| name.to_string()).collect();
        if let Some(held) = self.held.get_mut(&wanted_kind) {
            held.retain(|name, _| wanted.contains(name));
        }
        self.refused.retain(|(kind, name), _| *kind != wanted_kind || wanted.contains(name));
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        self.asked.insert(wanted_kind, wanted);
        let initial_resource_versions = if first { self.versions(wanted_kind) } else { BTreeMap::new() };
        Some(DeltaDiscoveryRequest {
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions,
            ..self.request(wanted_kind)
        })
    }

    fn versions(&self, kind: ResourceType) -> BTreeMap<String, String> {
        let held = self.held(kind).filter(|(_, version)| !version.is_empty());
        held.map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
    }

    fn request(&self, kind: ResourceType) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..DeltaDiscoveryRequest::default() }
    }
}

impl Decoded {
    /// Reads the bytes of a resource of this type, from the disk copy for example.
    pub fn from_encoded(kind: ResourceType, encoded: &Encoded) -> Result<Self, UnpackError> {
        decode_body(kind, encoded)
    }
}

/// Old servers leave `name` empty and say it in `resource_name`.
fn resource_name(resource: &Resource) -> &str {
    match &resource.resource_name {
        Some(name) if resource.name.is_empty() => &name.name,
        _ => &resource.name,
    }
}

fn decode(kind: ResourceType, name: &Arc<str>, resource: Resource) -> Result<Changed, UnpackError> {
    let any = resource.resource.ok_or(UnpackError::Missing)?;
    if any.type_url != kind.type_url() {
        let found = any.type_url.chars().take(MAX_NAME_BYTES).collect();
        return Err(UnpackError::Type { expected: kind.type_url().to_owned(), found });
    }
    let encoded = Encoded { name: name.clone(), version: resource.version.into(), body: any.value };
    let message = decode_body(kind, &encoded)?;
    Ok(Changed { encoded, message })
}

fn decode_body(kind: ResourceType, encoded: &Encoded) -> Result<Decoded, UnpackError> {
    fn boxed<M: ResourceMessage>(encoded: &Encoded, into: fn(Box<M>) -> Decoded) -> Result<Decoded, UnpackError> {
        Ok(into(Box::new(encoded.decode::<M>()?)))
    }
    match kind {
        ResourceType::Cluster => boxed(encoded, Decoded::Cluster),
        ResourceType::Endpoint => boxed(encoded, Decoded::Endpoints),
        ResourceType::Listener => boxed(encoded, Decoded::Listener),
        ResourceType::Route => boxed(encoded, Decoded::Route),
        ResourceType::VirtualHost => boxed(encoded, Decoded::VirtualHost),
        ResourceType::NameTable => boxed(encoded, Decoded::NameTable),
        ResourceType::Secret => boxed(encoded, Decoded::Secret),
    }
}

/// The names that must be asked for because of this resource.
fn follows(message: &Decoded) -> Vec<Arc<str>> {
    match message {
        Decoded::Cluster(cluster) => endpoints_of(cluster).map(Arc::from).into_iter().collect(),
        Decoded::Listener(listener) => {
            let names: BTreeSet<String> = routes_of(listener).into_iter().collect();
            names.into_iter().map(Arc::from).collect()
        }
        _ => Vec::new(),
    }
}

/// The `ClusterLoadAssignment` this cluster waits for; `None` when it is not of type EDS.
pub fn endpoints_of(cluster: &Cluster) -> Option<&str> {
    match &cluster.cluster_discovery_type {
        Some(cluster::ClusterDiscoveryType::Type(kind)) if *kind == cluster::DiscoveryType::Eds as i32 => {}
        _ => return None,
    }
    let service_name = cluster.eds_cluster_config.as_ref().map(|config| config.service_name.as_str());
    Some(service_name.filter(|name| !name.is_empty()).unwrap_or(&cluster.name))
}

/// The route configurations this listener takes over RDS, from all its filter chains.
pub fn routes_of(listener: &Listener) -> Vec<String> {
    let chains = listener.filter_chains.iter().chain(listener.default_filter_chain.as_ref());
    chains
        .flat_map(|chain: &FilterChain| &chain.filters)
        .filter_map(|filter| {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { return None };
            match unpack::<HttpConnectionManager>(any).ok()?.route_specifier? {
                RouteSpecifier::Rds(rds) if !rds.route_config_name.is_empty() => Some(rds.route_config_name),
                _ => None,
            }
        })
        .collect()
}

fn nack(refusals: &[Refusal]) -> Status {
    let sentences: Vec<String> = refusals.iter().map(|refusal| format!("{}: {}", refusal.name, refusal.reason)).collect();
    let mut message = sentences.join("; ");
    message.truncate(message.floor_char_boundary(MAX_NACK_BYTES));
    let details = refusals.iter().take(MAX_NACK_NAMES).map(|refusal| {
        let name = ResourceName { name: refusal.name.to_string(), ..ResourceName::default() };
        pack(&ResourceError { resource_name: Some(name), error_detail: Some(status(&refusal.reason)) })
    });
    Status { details: details.collect(), ..status(&message) }
}

fn status(message: &str) -> Status {
    Status { code: INVALID_ARGUMENT, message: message.to_owned(), details: Vec::new() }
}

fn refuse(type_url: String, nonce: String, reason: String) -> Refused {
    let error_detail = Some(status(&reason));
    let request = DeltaDiscoveryRequest { type_url, response_nonce: nonce, error_detail, ..DeltaDiscoveryRequest::default() };
    Refused { reason, request: Box::new(request) }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
