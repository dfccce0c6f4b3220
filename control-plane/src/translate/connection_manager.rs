//! The HTTP connection manager of every listener that reads requests.
//!
//! In:  the direction, the name of the routes (or the routes themselves), what all listeners of a client share.
//! Out: one network filter.

use pillion_api::kinds::mesh_config::PathNormalization;
use pillion_xds::wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
    http_connection_manager::{ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier, UpgradeConfig},
};

use super::wire::{self, ads, boolean, core, dfp_common, dfp_filter, fault, http_filter, listener, route, router};
use super::{cors, listeners::Common};

/// The name by which Istio's proxies introduce themselves in `server`.
const SERVER_NAME: &str = "istio-envoy";
const FILTER: &str = "envoy.filters.network.http_connection_manager";
/// Also the key of per-route fault configuration.
pub const FAULT_FILTER: &str = "envoy.filters.http.fault";

/// Which way requests go through the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the application to other services.
    Outbound,
    /// To the application.
    Inbound,
    /// From outside of the mesh, at a gateway.
    Gateway,
}

/// What differs between connection managers.
pub struct Manager<'a> {
    pub direction: Direction,
    pub stat_prefix: String,
    pub routes: Routes,
    pub common: &'a Common,
    /// Absolute-form targets (`GET http://host/`), as clients of a proxy send them.
    pub absolute_url: bool,
    /// `CONNECT` is let through: only our own proxy can resolve it by the name table.
    pub connect: bool,
    /// Unknown hosts are resolved by the proxy, so the filter that waits for that is in the chain.
    pub dynamic_forward_proxy: bool,
}

/// Where the routes are.
pub enum Routes {
    Rds(String),
    Inline(Box<route::RouteConfiguration>),
}

/// The connection manager as a network filter.
pub fn filter(manager: Manager<'_>) -> listener::Filter {
    wire::network_filter(FILTER, &build(manager))
}

fn build(manager: Manager<'_>) -> HttpConnectionManager {
    let gateway = manager.direction == Direction::Gateway;
    // Outbound it is Envoy's own name, `envoy`. Source: Istio's `GetProxyHeadersFromProxyConfig`.
    let server = if manager.direction == Direction::Outbound { "" } else { SERVER_NAME };
    let client_certificate = match manager.direction {
        Direction::Outbound => ForwardClientCertDetails::Sanitize,
        Direction::Inbound => ForwardClientCertDetails::AppendForward,
        Direction::Gateway => ForwardClientCertDetails::SanitizeSet,
    };
    let paths = manager.common.paths;
    let escaped_slashes = match paths {
        PathNormalization::DecodeAndMergeSlashes => PathWithEscapedSlashesAction::UnescapeAndForward,
        _ => PathWithEscapedSlashesAction::ImplementationSpecificDefault,
    };
    let mut upgrades = vec![upgrade("websocket")];
    if manager.connect {
        upgrades.push(upgrade("CONNECT"));
    }
    HttpConnectionManager {
        http_filters: filters(&manager),
        access_log: manager.common.access_log.clone(),
        stat_prefix: manager.stat_prefix,
        route_specifier: Some(match manager.routes {
            Routes::Rds(name) => RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: name }),
            Routes::Inline(configuration) => RouteSpecifier::RouteConfig(*configuration),
        }),
        use_remote_address: boolean(gateway),
        stream_idle_timeout: Some(wire::ZERO),
        normalize_path: boolean(paths != PathNormalization::None),
        merge_slashes: matches!(paths, PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes),
        path_with_escaped_slashes_action: escaped_slashes as i32,
        server_name: server.to_owned(),
        forward_client_cert_details: client_certificate as i32,
        upgrade_configs: upgrades,
        http_protocol_options: manager
            .absolute_url
            .then(|| core::Http1ProtocolOptions { allow_absolute_url: boolean(true), ..Default::default() }),
        ..Default::default()
    }
}

fn upgrade(kind: &str) -> UpgradeConfig {
    UpgradeConfig { upgrade_type: kind.to_owned(), ..Default::default() }
}

/// Fault first, so that an injected answer is never retried; then, as in Istio, what browsers ask; the router last.
fn filters(manager: &Manager<'_>) -> Vec<HttpFilter> {
    let mut filters = Vec::with_capacity(4);
    if manager.direction != Direction::Inbound {
        filters.push(http_filter(FAULT_FILTER, &fault::HttpFault::default()));
        filters.push(cors::filter());
    }
    if manager.dynamic_forward_proxy {
        let config = dfp_filter::FilterConfig {
            implementation_specifier: Some(dfp_filter::filter_config::ImplementationSpecifier::DnsCacheConfig(dns_cache())),
            ..Default::default()
        };
        filters.push(http_filter("envoy.filters.http.dynamic_forward_proxy", &config));
    }
    filters.push(http_filter("envoy.filters.http.router", &router::Router::default()));
    filters
}

/// The cache of names that the proxy resolves itself; filter and cluster must name the same one, with the same settings.
pub fn dns_cache() -> dfp_common::DnsCacheConfig {
    use wire::cluster::cluster::DnsLookupFamily;
    dfp_common::DnsCacheConfig {
        name: "passthrough".to_owned(),
        dns_lookup_family: DnsLookupFamily::V4Preferred as i32,
        ..Default::default()
    }
}
