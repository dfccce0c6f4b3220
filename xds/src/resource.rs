//! The resources that travel: their types, their encoded form, and what one node sees. No I/O, no clock.
//!
//! In:  wire messages to encode, or `Any`s from a peer.
//! Out: [`Encoded`] resources and [`NodeConfig`]s for the session; decoded messages, within [`MAX_RESOURCE_BYTES`], for the client.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use prost::{Message, Name};

use crate::wire::{
    envoy::{
        config::{
            cluster::v3::Cluster,
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener,
            route::v3::{RouteConfiguration, VirtualHost},
        },
        extensions::transport_sockets::tls::v3::Secret,
        service::discovery::v3::Resource,
    },
    google::protobuf::Any,
    istio::networking::nds::v1::NameTable,
};

/// The largest single resource either side accepts, in bytes: some 50,000 endpoints.
pub const MAX_RESOURCE_BYTES: usize = 16 << 20;

/// The longest resource name either side accepts, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// What kind of resource a message on the stream carries. Declared, and so ordered, in push order: a cluster goes before its
/// endpoints, both before the listener and the routes that use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// VHDS, Pillion nodes only.
    VirtualHost,
    /// NDS, Pillion nodes only.
    NameTable,
    /// SDS.
    Secret,
}

impl ResourceType {
    /// Every type, in push order.
    pub const ALL: [Self; 7] =
        [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route, Self::VirtualHost, Self::NameTable, Self::Secret];

    /// The type URL of its messages.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::NameTable => "type.googleapis.com/istio.networking.nds.v1.NameTable",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type of a type URL; `None` for one that we do not serve.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The short name that logs and metrics use, as Istio's: `cds`, `eds`, ….
    pub const fn short(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
            Self::VirtualHost => "vhds",
            Self::NameTable => "nds",
            Self::Secret => "sds",
        }
    }

    /// Whether a state-of-the-world response must name every resource, because what it leaves out is gone (xDS protocol, "Grouping
    /// resources into responses"). The others may be sent one by one.
    pub const fn is_whole_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// A wire message that is a resource by itself.
pub trait ResourceMessage: Message + Name + Default {
    const TYPE: ResourceType;
    /// The name inside the message. A virtual host's resource name is another one (`<route config>/<name>`), see [`crate::names`].
    fn own_name(&self) -> &str;
}

macro_rules! resource_message {
    ($($message:ty => $kind:ident, |$this:ident| $name:expr;)*) => {$(
        impl ResourceMessage for $message {
            const TYPE: ResourceType = ResourceType::$kind;
            fn own_name(&self) -> &str {
                let $this = self;
                $name
            }
        }
    )*};
}
resource_message! {
    Cluster => Cluster, |m| &m.name;
    ClusterLoadAssignment => Endpoint, |m| &m.cluster_name;
    Listener => Listener, |m| &m.name;
    RouteConfiguration => Route, |m| &m.name;
    VirtualHost => VirtualHost, |m| &m.name;
    Secret => Secret, |m| &m.name;
    NameTable => NameTable, |_m| NAME_TABLE;
}

/// The resource name of the one [`NameTable`] of a node.
pub const NAME_TABLE: &str = "name-table";

/// A resource as it goes on the wire: encoded once, shared by every stream that carries it. Cheap to clone.
#[derive(Clone)]
pub struct Encoded {
    pub name: Arc<str>,
    /// xxh3-128 of `body` in 32 hex digits: equal content has an equal version, in every process and at every time.
    pub version: Arc<str>,
    /// The message, without the `Any` around it.
    pub body: Bytes,
}

impl Encoded {
    /// Encodes `message`. Its maps are ordered, so equal messages give equal bytes.
    pub fn new(name: impl Into<Arc<str>>, message: &impl Message) -> Self {
        Self::from_bytes(name, message.encode_to_vec())
    }

    /// Encodes `message` under the name it carries.
    pub fn of<M: ResourceMessage>(message: &M) -> Self {
        Self::new(message.own_name(), message)
    }

    /// Takes a message that is encoded already, from the disk copy for example.
    pub fn from_bytes(name: impl Into<Arc<str>>, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let version = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&body)).into();
        Self { name: name.into(), version, body }
    }

    /// The `Any` of state-of-the-world responses.
    pub fn to_any(&self, kind: ResourceType) -> Any {
        Any { type_url: kind.type_url().to_owned(), value: self.body.clone() }
    }

    /// The entry of incremental responses.
    pub fn to_resource(&self, kind: ResourceType) -> Resource {
        Resource {
            name: self.name.to_string(),
            version: self.version.to_string(),
            resource: Some(self.to_any(kind)),
            ..Resource::default()
        }
    }

    /// Decodes the body again; for tests, dumps and the disk copy.
    pub fn decode<M: ResourceMessage>(&self) -> Result<M, UnpackError> {
        decode(&self.body)
    }
}

/// By name and version; the version stands for the body.
impl PartialEq for Encoded {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.name == other.name
    }
}
impl Eq for Encoded {}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} @{} {} B)", self.name, self.version.get(..8).unwrap_or(&self.version), self.body.len())
    }
}

/// The resources of one type by name.
pub type ResourceMap = BTreeMap<Arc<str>, Encoded>;

/// Everything one node sees at one generation.
#[derive(Clone, Debug, Default)]
pub struct NodeConfig {
    /// Counted from 1; sent as `system_version_info`.
    pub generation: u64,
    /// Shared between nodes that see the same resources of a type.
    pub resources: BTreeMap<ResourceType, Arc<ResourceMap>>,
}

impl NodeConfig {
    /// An empty configuration of this generation.
    pub fn new(generation: u64) -> Self {
        Self { generation, resources: BTreeMap::new() }
    }

    /// Adds a resource, or replaces the one of the same name.
    pub fn insert(&mut self, kind: ResourceType, resource: Encoded) {
        Arc::make_mut(self.resources.entry(kind).or_default()).insert(resource.name.clone(), resource);
    }

    /// Encodes `message` under its own name and adds it.
    pub fn add<M: ResourceMessage>(&mut self, message: &M) {
        self.insert(M::TYPE, Encoded::of(message));
    }

    /// The resources of one type; empty when there are none.
    pub fn of(&self, kind: ResourceType) -> &ResourceMap {
        static NONE: ResourceMap = ResourceMap::new();
        self.resources.get(&kind).map_or(&NONE, |map| map)
    }

    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Encoded> {
        self.resources.get(&kind)?.get(name)
    }

    /// Whether the two hold the same resources, whatever their generations.
    pub fn same_resources(&self, other: &Self) -> bool {
        ResourceType::ALL.into_iter().all(|kind| {
            let (ours, theirs) = (self.of(kind), other.of(kind));
            std::ptr::eq(ours, theirs) || ours == theirs
        })
    }
}

/// Wraps a message for a field of type `Any`.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec().into() }
}

/// Why an `Any` cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    #[error("expected {expected}, found type {found}")]
    Type { expected: String, found: String },
    #[error("{bytes} bytes are more than the limit of {MAX_RESOURCE_BYTES}")]
    Size { bytes: usize },
    #[error("cannot decode {expected}: {reason}")]
    Decode { expected: String, reason: String },
    #[error("no resource inside")]
    Missing,
}

/// Reads an `Any` of a known type. A payload shares the memory of the message around it.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, UnpackError> {
    if !is::<M>(any) {
        let found = any.type_url.chars().take(MAX_NAME_BYTES).collect();
        return Err(UnpackError::Type { expected: M::type_url(), found });
    }
    decode(&any.value)
}

/// Whether `any` holds an `M`: by the part after the last slash, as protobuf says; the host before it does not count.
pub fn is<M: Name>(any: &Any) -> bool {
    any.type_url.rsplit('/').next() == Some(M::full_name().as_str())
}

fn decode<M: Message + Name + Default>(body: &Bytes) -> Result<M, UnpackError> {
    if body.len() > MAX_RESOURCE_BYTES {
        return Err(UnpackError::Size { bytes: body.len() });
    }
    M::decode(body.clone()).map_err(|error| UnpackError::Decode { expected: M::full_name(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> Cluster {
        Cluster { name: name.into(), ..Cluster::default() }
    }

    #[test]
    fn type_urls_are_those_of_the_messages() {
        let cases = [
            (ResourceType::Cluster, Cluster::type_url()),
            (ResourceType::Endpoint, ClusterLoadAssignment::type_url()),
            (ResourceType::Listener, Listener::type_url()),
            (ResourceType::Route, RouteConfiguration::type_url()),
            (ResourceType::VirtualHost, VirtualHost::type_url()),
            (ResourceType::NameTable, NameTable::type_url()),
            (ResourceType::Secret, Secret::type_url()),
        ];
        for (kind, url) in cases {
            assert_eq!(kind.type_url(), url);
            assert_eq!(ResourceType::from_type_url(&url), Some(kind));
        }
        assert_eq!(ResourceType::from_type_url("type.googleapis.com/x.Y"), None);
    }

    #[test]
    fn all_types_are_listed_in_push_order() {
        assert!(ResourceType::ALL.is_sorted());
    }

    #[test]
    fn equal_messages_have_equal_versions_and_others_do_not() {
        let (a, b, c) = (Encoded::of(&cluster("a")), Encoded::of(&cluster("a")), Encoded::of(&cluster("c")));
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!(a.version.len(), 32);
        assert_eq!(a.decode::<Cluster>().unwrap(), cluster("a"));
    }

    #[test]
    fn unpack_refuses_another_type_and_garbage() {
        let any = pack(&cluster("a"));
        assert_eq!(unpack::<Cluster>(&any).unwrap(), cluster("a"));
        assert!(matches!(unpack::<Listener>(&any), Err(UnpackError::Type { .. })));
        let garbage = Any { type_url: Cluster::type_url(), value: Bytes::from_static(&[0xff, 0xff, 0xff]) };
        assert!(matches!(unpack::<Cluster>(&garbage), Err(UnpackError::Decode { .. })));
        let huge = Any { type_url: Cluster::type_url(), value: vec![0; MAX_RESOURCE_BYTES + 1].into() };
        assert!(matches!(unpack::<Cluster>(&huge), Err(UnpackError::Size { .. })));
    }

    #[test]
    fn generations_with_equal_resources_are_recognised() {
        let (mut one, mut two) = (NodeConfig::new(1), NodeConfig::new(2));
        one.add(&cluster("a"));
        assert!(!one.same_resources(&two));
        two.add(&cluster("a"));
        assert!(one.same_resources(&two));
        two.add(&cluster("b"));
        assert!(!one.same_resources(&two));
    }
}
