//! Every kind that Pillion reads, one file each. A field, its decoder and its row of the table are one declaration.
//!
//! In:  the body of an object. Out: plain data: no places, no defaults applied beyond proto3's zero values.

pub mod authorization_policy;
pub mod config_map;
pub mod deployment;
pub mod destination_rule;
pub mod gateway;
pub mod mesh_config;
pub mod mesh_proxy_config;
pub mod namespace;
pub mod peer_authentication;
pub mod proxy_config;
pub mod request_authentication;
pub mod secret;
pub mod selector;
pub mod service;
pub mod service_account;
pub mod service_entry;
pub mod sidecar;
pub mod telemetry;
pub mod virtual_service;
pub mod workload;
pub mod workload_entry;
pub mod workload_group;

pub use authorization_policy::AuthorizationPolicy;
pub use config_map::ConfigMap;
pub use deployment::Deployment;
pub use destination_rule::DestinationRule;
pub use gateway::Gateway;
pub use mesh_config::MeshConfig;
pub use namespace::Namespace;
pub use peer_authentication::PeerAuthentication;
pub use proxy_config::ProxyConfig;
pub use request_authentication::RequestAuthentication;
pub use secret::Secret;
pub use service::Service;
pub use service_account::ServiceAccount;
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use telemetry::Telemetry;
pub use virtual_service::VirtualService;
pub use workload::Workload;
pub use workload_entry::WorkloadEntry;
pub use workload_group::WorkloadGroup;
