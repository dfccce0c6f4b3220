//! Configuration as the workers see it: compiled, immutable, swapped whole.
//!
//! In:  xDS resources, by `subscribe` and `compile`.
//! Out: [`RuntimeConfig`]s in a [`store::ConfigStore`]; every worker builds its own `worker::WorkerView` of each.

pub mod cluster;
pub mod compile;
pub mod disk;
pub mod expression;
pub mod files;
pub mod journal;
pub mod listener;
pub mod route_table;
pub mod store;
pub mod subscribe;
pub mod view;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;

use cluster::{Cluster, ClusterMap};
use listener::ListenerTable;
use route_table::RouteTable;

use crate::listener::bind::Sockets;

/// Everything a connection or request may look up. Never changed after `compile` returns it.
#[derive(Debug, Default)]
pub struct RuntimeConfig {
    /// The control plane's generation this snapshot answers to. Source: `system_version_info`.
    pub generation: u64,
    pub listeners: ListenerTable,
    /// By route configuration name.
    pub routes: HashMap<Arc<str>, Arc<RouteTable>, foldhash::fast::RandomState>,
    pub clusters: ClusterMap<Arc<Cluster>>,
    pub names: Arc<NameTable>,
    pub local: Arc<LocalNode>,
    /// Bound sockets, by `listener::bind` after `compile` and before the swap.
    pub sockets: Sockets,
    /// Who sees it already.
    pub taken: Arc<store::Taken>,
}

/// One compiled configuration, shared by all workers.
pub type Snapshot = Arc<RuntimeConfig>;

/// Addresses of the mesh's hosts. Source: NDS `istio.networking.nds.v1.NameTable`.
#[derive(Debug, Default)]
pub struct NameTable {
    /// Host names in lower case, without a trailing dot, to addresses.
    pub hosts: HashMap<Box<str>, Vec<IpAddr>, foldhash::fast::RandomState>,
}

impl NameTable {
    /// The first address of a host; an address literal is itself. Letter case and a trailing dot do not matter.
    pub fn resolve(&self, host: &str) -> Option<IpAddr> {
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        if let Ok(address) = host.parse() {
            return Some(address);
        }
        let found = match self.hosts.get(host) {
            Some(found) => found,
            None => self.hosts.get(&*host.to_ascii_lowercase())?,
        };
        found.first().copied()
    }
}

/// What this proxy says of itself to other proxies, prebuilt.
#[derive(Debug, Clone, Default)]
pub struct LocalNode {
    /// Value of `x-envoy-peer-metadata`: base64 of a `google.protobuf.Struct`.
    pub peer_metadata: Option<HeaderValue>,
    /// Value of `x-envoy-peer-metadata-id`: the node id.
    pub peer_metadata_id: Option<HeaderValue>,
    /// What `CONNECT` to a host that no listener serves does. Source: MeshConfig `outboundTrafficPolicy`.
    pub outbound_policy: OutboundPolicy,
}

/// Source: MeshConfig `outboundTrafficPolicy.mode`. `compile` reads it off the catch-all virtual host: `allow_any` or `block_all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutboundPolicy {
    #[default]
    AllowAny,
    RegistryOnly,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_resolve_to_their_mesh_address() {
        let mut names = NameTable::default();
        names.hosts.insert("product.default.svc".into(), vec![IpAddr::from([240, 240, 0, 1])]);
        let cases = [
            ("product.default.svc", Some("240.240.0.1")),
            ("Product.default.svc.", Some("240.240.0.1")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("[::1]", Some("::1")),
            ("unknown", None),
        ];
        for (host, want) in cases {
            assert_eq!(names.resolve(host), want.map(|address| address.parse().unwrap()), "{host}");
        }
    }
}
