//! Small constructors for wire messages, so that the translation reads as what it decides.
//!
//! In:  plain values.
//! Out: the generated messages, with everything unsaid left unset.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use pillion_xds::wire::{envoy, google::protobuf as pb};
use prost::{Message, Name};

pub use envoy::config::{
    accesslog::v3 as accesslog, cluster::v3 as cluster, core::v3 as core, endpoint::v3 as endpoint, listener::v3 as listener,
    route::v3 as route,
};
pub use envoy::extensions::{
    access_loggers::file::v3 as file_log, clusters::dynamic_forward_proxy::v3 as dfp_cluster,
    common::dynamic_forward_proxy::v3 as dfp_common, filters::common::fault::v3 as fault_common, filters::http::cors::v3 as cors,
    filters::http::dynamic_forward_proxy::v3 as dfp_filter, filters::http::fault::v3 as fault, filters::http::router::v3 as router,
    filters::listener::http_inspector::v3 as http_inspector, filters::listener::original_dst::v3 as original_dst,
    filters::listener::tls_inspector::v3 as tls_inspector, filters::network::http_connection_manager::v3 as hcm,
    filters::network::tcp_proxy::v3 as tcp, retry::host::previous_hosts::v3 as previous_hosts,
    retry::priority::previous_priorities::v3 as previous_priorities, upstreams::http::v3 as upstream_http,
};
pub use envoy::r#type::{matcher::v3 as matcher, v3 as kind};
pub use pillion_xds::wire::google::protobuf::{Any, Struct};

/// A message with its type URL.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec().into() }
}

pub fn duration(value: Duration) -> pb::Duration {
    pb::Duration { seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX), nanos: value.subsec_nanos() as i32 }
}

/// For timeouts where zero means "none".
pub const ZERO: pb::Duration = pb::Duration { seconds: 0, nanos: 0 };

pub const fn uint32(value: u32) -> Option<pb::UInt32Value> {
    Some(pb::UInt32Value { value })
}

pub const fn boolean(value: bool) -> Option<pb::BoolValue> {
    Some(pb::BoolValue { value })
}

pub fn text(value: impl Into<String>) -> pb::Value {
    pb::Value { kind: Some(pb::value::Kind::StringValue(value.into())) }
}

pub fn number(value: f64) -> pb::Value {
    pb::Value { kind: Some(pb::value::Kind::NumberValue(value)) }
}

pub fn list(values: Vec<pb::Value>) -> pb::Value {
    pb::Value { kind: Some(pb::value::Kind::ListValue(pb::ListValue { values })) }
}

pub fn object<K: Into<String>>(fields: impl IntoIterator<Item = (K, pb::Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.into(), value)).collect() }
}

pub fn nested(value: Struct) -> pb::Value {
    pb::Value { kind: Some(pb::value::Kind::StructValue(value)) }
}

/// `filter_metadata` with the given sections.
pub fn metadata<const N: usize>(sections: [(&str, Struct); N]) -> core::Metadata {
    core::Metadata {
        filter_metadata: sections.into_iter().map(|(name, section)| (name.to_owned(), section)).collect(),
        typed_filter_metadata: BTreeMap::new(),
    }
}

pub fn address(value: SocketAddr) -> core::Address {
    host_port(value.ip().to_string(), value.port().into())
}

pub fn host_port(host: impl Into<String>, port: u32) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}

/// "Over the same stream as this resource"; waits for ever rather than come up without its configuration.
pub fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        initial_fetch_timeout: Some(ZERO),
        resource_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    }
}

pub fn network_filter<M: Message + Name>(name: &str, config: &M) -> listener::Filter {
    listener::Filter { name: name.to_owned(), config_type: Some(listener::filter::ConfigType::TypedConfig(any(config))) }
}

pub fn listener_filter<M: Message + Name>(name: &str, config: &M) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

pub fn http_filter<M: Message + Name>(name: &str, config: &M) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

/// Matches the whole text: RE2 regular expressions in route matches are anchored at both ends.
pub fn regex(pattern: impl Into<String>) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: pattern.into(), engine_type: None }
}

/// Hundredths of a percent of a percent: what Istio's `percentage.value` (0 to 100) becomes, truncated as there.
pub fn per_million(percent: f64) -> kind::FractionalPercent {
    kind::FractionalPercent {
        numerator: (percent.clamp(0.0, 100.0) * 10_000.0) as u32,
        denominator: kind::fractional_percent::DenominatorType::Million as i32,
    }
}

pub fn header(name: &str, value: &str, append: bool) -> core::HeaderValueOption {
    use core::header_value_option::HeaderAppendAction::{AppendIfExistsOrAdd, OverwriteIfExistsOrAdd};
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: if append { AppendIfExistsOrAdd } else { OverwriteIfExistsOrAdd } as i32,
        ..Default::default()
    }
}

/// A route match for every path.
pub fn every_path() -> route::RouteMatch {
    route::RouteMatch { path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())), ..Default::default() }
}
