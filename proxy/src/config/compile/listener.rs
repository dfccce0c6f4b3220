//! Listeners and their filter chains.
//!
//! In:  `envoy.config.listener.v3.Listener`.
//! Out: [`Listener`]s.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pillion_xds::resource::is;
use pillion_xds::wire::envoy::config::core::v3::{TrafficDirection, TransportSocket, transport_socket};
use pillion_xds::wire::envoy::config::listener::v3 as wire;
use pillion_xds::wire::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use pillion_xds::wire::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy as WireTcpProxy, tcp_proxy};
use pillion_xds::wire::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use pillion_xds::wire::google::protobuf::Any;

use super::access_log::access_log;
use super::at::{At, Compiled, note_set, refuse_set};
use super::http_manager::http_manager;
use super::value::{bounded, enumeration, flag, resource_name, socket_address, timeout, type_name, unpack};
use crate::config::cluster::ClusterName;
use crate::config::listener::{ChainMatch, Direction, FilterChain, Listener, NetworkFilter, TcpClusters, TcpProxy, TransportMatch};

/// Source: `listener_filters_timeout`.
const SNIFF_TIMEOUT: Duration = Duration::from_secs(15);
/// Source: `TcpProxy.idle_timeout`.
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Chains of one listener; more are not chosen among in bounded time.
const MAX_CHAINS: usize = 10_000;

/// Listener filters whose work is done anyway, where it is needed.
const LISTENER_FILTERS: [&str; 3] =
    ["envoy.filters.listener.tls_inspector", "envoy.filters.listener.http_inspector", "envoy.filters.listener.original_dst"];
/// Network filters that do here what they do there without being configured.
const NETWORK_FILTERS: [&str; 2] = ["istio.stats", "istio.metadata_exchange"];

pub(super) fn listener(at: &At<'_>, wire: &wire::Listener) -> Compiled<Listener> {
    refuse_set!(
        wire,
        at,
        [additional_addresses, fcds_config, filter_chain_matcher, udp_listener_config, api_listener, listener_specifier, enable_mptcp,]
    );
    note_set!(
        wire,
        at,
        [transparent, freebind, socket_options, tcp_fast_open_queue_length, access_log, tcp_keepalive, connection_balance_config]
    );
    resource_name(&at.field("name"), &wire.name)?;
    for (index, filter) in wire.listener_filters.iter().enumerate() {
        if !LISTENER_FILTERS.contains(&filter.name.as_str()) {
            return Err(at.index("listener_filters", index).refuse(format_args!("filter {} is not supported", filter.name)));
        }
    }
    if wire.filter_chains.len() > MAX_CHAINS {
        return Err(at.field("filter_chains").refuse(format_args!("has at most {MAX_CHAINS}")));
    }
    let mut names = HashSet::new();
    let mut chains = Vec::with_capacity(wire.filter_chains.len());
    for (index, chain) in wire.filter_chains.iter().enumerate() {
        let at = at.index("filter_chains", index);
        let chain = filter_chain(&at, chain, || format!("chain-{index}"))?;
        if !names.insert(Arc::clone(&chain.name)) {
            return Err(at.field("name").refuse(format_args!("{:?} is another chain's", chain.name)));
        }
        chains.push(Arc::new(chain));
    }
    let default_chain = match &wire.default_filter_chain {
        Some(chain) => Some(Arc::new(filter_chain(&at.field("default_filter_chain"), chain, || "default".to_owned())?)),
        None => None,
    };
    let use_original_dst = flag(wire.use_original_dst.as_ref(), false);
    if chains.is_empty() && default_chain.is_none() && !use_original_dst {
        return Err(at.refuse("has no filter chain"));
    }
    let old_bind = wire.deprecated_v1.as_ref().and_then(|old| old.bind_to_port.as_ref());
    Ok(Listener {
        name: wire.name.as_str().into(),
        address: socket_address(&at.field("address"), wire.address.as_ref())?,
        bind: flag(wire.bind_to_port.as_ref().or(old_bind), true),
        direction: match enumeration::<TrafficDirection>(&at.field("traffic_direction"), wire.traffic_direction)? {
            TrafficDirection::Inbound => Direction::Inbound,
            TrafficDirection::Unspecified | TrafficDirection::Outbound => Direction::Outbound,
        },
        use_original_dst,
        chains,
        default_chain,
        sniff_timeout: timeout(&at.field("listener_filters_timeout"), wire.listener_filters_timeout.as_ref(), Some(SNIFF_TIMEOUT))?,
        continue_on_sniff_timeout: wire.continue_on_listener_filters_timeout,
    })
}

fn filter_chain(at: &At<'_>, chain: &wire::FilterChain, unnamed: impl FnOnce() -> String) -> Compiled<FilterChain> {
    if flag(chain.use_proxy_proto.as_ref(), false) {
        return Err(at.field("use_proxy_proto").unsupported());
    }
    plaintext(&at.field("transport_socket"), chain.transport_socket.as_ref())?;
    let name = if chain.name.is_empty() { unnamed() } else { chain.name.clone() };
    let matches = match &chain.filter_chain_match {
        Some(matches) => chain_match(&at.field("filter_chain_match"), matches)?,
        None => ChainMatch::default(),
    };
    Ok(FilterChain { name: name.into(), matches, filter: network_filter(at, &chain.filters)? })
}

/// Refuses a transport socket that is not plaintext.
pub(super) fn plaintext(at: &At<'_>, socket: Option<&TransportSocket>) -> Compiled<()> {
    match socket.map(|socket| socket.config_type.as_ref()) {
        None | Some(None) => Ok(()),
        Some(Some(transport_socket::ConfigType::TypedConfig(any))) if is::<RawBuffer>(any) => Ok(()),
        Some(Some(transport_socket::ConfigType::TypedConfig(any))) => {
            Err(at.field("typed_config").refuse(format_args!("transport socket {} is not supported yet", type_name(any))))
        }
    }
}

fn chain_match(at: &At<'_>, matches: &wire::FilterChainMatch) -> Compiled<ChainMatch> {
    refuse_set!(matches, at, [address_suffix, suffix_len, direct_source_prefix_ranges, source_type, source_prefix_ranges, source_ports,]);
    let destination_port = match bounded(&at.field("destination_port"), matches.destination_port.as_ref(), 0, 1..=65_535)? {
        0 => None,
        // Bounded just above.
        port => u16::try_from(port).ok(),
    };
    let mut destination_ranges = Vec::with_capacity(matches.prefix_ranges.len());
    for (index, range) in matches.prefix_ranges.iter().enumerate() {
        let at = at.index("prefix_ranges", index);
        let at_prefix = at.field("address_prefix");
        let network: IpAddr =
            range.address_prefix.parse().map_err(|_| at_prefix.refuse(format_args!("{:?} is no IP address", range.address_prefix)))?;
        let longest = if network.is_ipv4() { 32 } else { 128 };
        let length = bounded(&at.field("prefix_len"), range.prefix_len.as_ref(), 0, 0..=longest)?;
        destination_ranges.push((network, u8::try_from(length).unwrap_or(u8::MAX)));
    }
    let transport = match matches.transport_protocol.as_str() {
        "" => TransportMatch::Any,
        "tls" => TransportMatch::Tls,
        "raw_buffer" => TransportMatch::RawBuffer,
        other => return Err(at.field("transport_protocol").refuse(format_args!("{other:?} is neither tls nor raw_buffer"))),
    };
    Ok(ChainMatch {
        destination_port,
        destination_ranges,
        server_names: matches.server_names.iter().map(|name| name.to_ascii_lowercase().into()).collect(),
        transport,
        application_protocols: matches.application_protocols.iter().map(|name| name.as_str().into()).collect(),
    })
}

/// The terminal filter, which is the only one that is not built in.
fn network_filter(at: &At<'_>, filters: &[wire::Filter]) -> Compiled<NetworkFilter> {
    let mut terminal = None;
    for (index, filter) in filters.iter().enumerate() {
        let at = at.index("filters", index);
        if terminal.is_some() {
            return Err(at.refuse(format_args!("filter {} comes after the terminal one", filter.name)));
        }
        if NETWORK_FILTERS.contains(&filter.name.as_str()) {
            continue;
        }
        let at_config = at.field("typed_config");
        match &filter.config_type {
            Some(wire::filter::ConfigType::TypedConfig(any)) => terminal = terminal_filter(&at_config, any)?,
            Some(wire::filter::ConfigType::ConfigDiscovery(_)) => return Err(at.field("config_discovery").unsupported()),
            None => return Err(at_config.refuse("is missing")),
        }
    }
    terminal.ok_or_else(|| at.field("filters").refuse("has no terminal filter"))
}

fn terminal_filter(at: &At<'_>, any: &Any) -> Compiled<Option<NetworkFilter>> {
    if is::<HttpConnectionManager>(any) {
        return Ok(Some(NetworkFilter::Http(Arc::new(http_manager(at, unpack(at, any)?)?))));
    }
    if is::<WireTcpProxy>(any) {
        return Ok(Some(NetworkFilter::Tcp(Arc::new(tcp(at, &unpack(at, any)?)?))));
    }
    Err(at.refuse(format_args!("filter {} is not supported", type_name(any))))
}

fn tcp(at: &At<'_>, proxy: &WireTcpProxy) -> Compiled<TcpProxy> {
    refuse_set!(proxy, at, [on_demand, metadata_match, hash_policy, tunneling_config, proxy_protocol_tlvs, upstream_connect_mode]);
    note_set!(
        proxy,
        at,
        [
            downstream_idle_timeout,
            upstream_idle_timeout,
            backoff_options,
            max_downstream_connection_duration,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            max_early_data_bytes,
        ]
    );
    let cluster = |at: &At<'_>, name: &str| resource_name(at, name).map(|()| ClusterName::new(name));
    let clusters = match proxy.cluster_specifier.as_ref().ok_or_else(|| at.refuse("has no cluster"))? {
        tcp_proxy::ClusterSpecifier::Cluster(name) => TcpClusters::Single(cluster(&at.field("cluster"), name)?),
        tcp_proxy::ClusterSpecifier::WeightedClusters(weighted) => {
            let at = at.field("weighted_clusters");
            let mut total = 0_u32;
            let mut entries = Vec::with_capacity(weighted.clusters.len());
            for (index, entry) in weighted.clusters.iter().enumerate() {
                let at = at.index("clusters", index);
                refuse_set!(entry, at, [metadata_match]);
                total = total.checked_add(entry.weight).ok_or_else(|| at.field("weight").refuse("the sum of weights is too large"))?;
                entries.push((total, cluster(&at.field("name"), &entry.name)?));
            }
            if total == 0 {
                return Err(at.field("clusters").refuse("the sum of weights is 0"));
            }
            TcpClusters::Weighted(entries)
        }
    };
    Ok(TcpProxy {
        stat_prefix: proxy.stat_prefix.as_str().into(),
        clusters,
        idle_timeout: timeout(&at.field("idle_timeout"), proxy.idle_timeout.as_ref(), Some(TCP_IDLE_TIMEOUT))?,
        max_connect_attempts: bounded(&at.field("max_connect_attempts"), proxy.max_connect_attempts.as_ref(), 1, 1..=100)?,
        access_log: access_log(at, &proxy.access_log)?,
    })
}
