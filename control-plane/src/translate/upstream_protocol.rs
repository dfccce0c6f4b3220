//! Which HTTP an upstream is spoken to in.
//!
//! In:  what the port declares, the DestinationRule's connection pool, the mesh's `h2UpgradePolicy`.
//! Out: the cluster's `HttpProtocolOptions`, or none where they say nothing.
//!
//! Source: Istio's `setUpstreamProtocol`, `applyConnectionPool` and `shouldH2Upgrade`, in the order in which they overrule each other.

use std::collections::BTreeMap;

use pillion_api::{
    effective::{Mesh, Policy, Protocol},
    kinds::{
        destination_rule::{H2UpgradePolicy, HttpSettings},
        mesh_config::MeshH2UpgradePolicy,
    },
};

use super::wire::{
    Any, any, core,
    upstream_http::{
        HttpProtocolOptions,
        http_protocol_options::{
            ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
        },
    },
};

const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Of a cluster towards a service. `gateway`: what is not declared is not taken over from clients, whose TLS always offers HTTP/2.
pub fn outbound(mesh: &Mesh, protocol: Protocol, policy: &Policy<'_>, gateway: bool) -> BTreeMap<String, Any> {
    let settings = http_settings(policy);
    let upgrade = match settings.map(|settings| settings.h2_upgrade_policy).unwrap_or_default() {
        // The author answers for it that the port is HTTP.
        H2UpgradePolicy::Upgrade => true,
        H2UpgradePolicy::DoNotUpgrade => false,
        H2UpgradePolicy::Default => protocol.is_http() && mesh.config.h2_upgrade_policy == MeshH2UpgradePolicy::Upgrade,
    };
    match settings {
        Some(settings) if settings.use_client_protocol => options(downstream()),
        _ if upgrade => options(http2()),
        _ => declared(protocol, gateway),
    }
}

/// Of a cluster towards the application, which is never upgraded: its sidecar takes both and speaks what the port declares.
pub fn inbound(protocol: Protocol, policy: Option<&Policy<'_>>) -> BTreeMap<String, Any> {
    match policy.and_then(http_settings) {
        Some(settings) if settings.use_client_protocol => options(downstream()),
        _ => declared(protocol, false),
    }
}

/// Of the clusters for destinations of which nothing is declared.
pub fn unknown() -> BTreeMap<String, Any> {
    options(downstream())
}

fn http_settings<'a>(policy: &Policy<'a>) -> Option<&'a HttpSettings> {
    policy.connection_pool.and_then(|pool| pool.http.as_ref())
}

/// What the port says. Bytes that nobody reads need nothing.
fn declared(protocol: Protocol, gateway: bool) -> BTreeMap<String, Any> {
    if protocol.is_sniffed() && !gateway {
        options(downstream())
    } else if protocol.is_http2() {
        options(http2())
    } else if protocol.may_be_http() {
        options(explicit(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())))
    } else {
        BTreeMap::new()
    }
}

fn http2() -> UpstreamProtocolOptions {
    explicit(ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default()))
}

fn explicit(config: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) })
}

fn downstream() -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(core::Http1ProtocolOptions::default()),
        http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
        ..Default::default()
    })
}

fn options(protocol: UpstreamProtocolOptions) -> BTreeMap<String, Any> {
    let options = HttpProtocolOptions { upstream_protocol_options: Some(protocol), ..Default::default() };
    BTreeMap::from([(PROTOCOL_OPTIONS.to_owned(), any(&options))])
}
