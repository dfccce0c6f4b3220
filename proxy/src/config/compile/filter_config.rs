//! HTTP filters: which ones a connection manager may name, and what routes say to them.
//!
//! In:  `http_filters`, `typed_per_filter_config`.
//! Out: which built-in stages are on; [`Fault`]s and [`Cors`] policies.

use std::collections::BTreeMap;

use http::StatusCode;
use pillion_xds::resource::is;
use pillion_xds::wire::envoy::config::route::v3::FilterConfig;
use pillion_xds::wire::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use pillion_xds::wire::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use pillion_xds::wire::envoy::extensions::filters::http::fault::v3::{FaultAbort as WireAbort, HttpFault, fault_abort::ErrorType};
use pillion_xds::wire::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use pillion_xds::wire::google::protobuf::Any;

use super::at::{At, Compiled, note_set, refuse_set};
use super::cors;
use super::value::{duration, fraction, header_match, unpack};
use crate::config::route_table::{Cors, Fault, FaultAbort, Fraction};

pub(super) const FAULT: &str = "envoy.filters.http.fault";
const CORS: &str = "envoy.filters.http.cors";
const ROUTER: &str = "envoy.filters.http.router";

/// Filters that do here what they do there without being configured (metrics, peer metadata), or nothing until a route speaks to them.
const BUILT_IN: [&str; 6] = [
    "envoy.filters.http.dynamic_forward_proxy",
    "envoy.filters.http.grpc_stats",
    "envoy.filters.http.upstream_codec",
    "istio.stats",
    "istio.metadata_exchange",
    "istio.alpn",
];

/// Which stages a connection manager has.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) fault: bool,
    pub(super) cors: bool,
}

/// What a route, virtual host or weighted cluster says to filters.
#[derive(Debug, Default)]
pub(super) struct PerRoute {
    fault: Option<Box<HttpFault>>,
    cors: Option<Box<CorsPolicy>>,
}

/// Reads the chain, which ends with the router. A filter that we do not know is refused unless it is optional: skipping one that
/// authorizes would be worse than no listener.
pub(super) fn chain(at: &At<'_>, filters: &[hcm::HttpFilter]) -> Compiled<Filters> {
    let mut found = Filters::default();
    let enabled: Vec<_> = filters.iter().enumerate().filter(|(_, filter)| !filter.disabled).collect();
    for (index, filter) in &enabled {
        let at = at.index("http_filters", *index);
        match filter.name.as_str() {
            FAULT => found.fault = true,
            CORS => found.cors = true,
            ROUTER => {}
            name if BUILT_IN.contains(&name) => {}
            name if filter.is_optional => at.note(format_args!("optional filter {name} is skipped")),
            name => return Err(at.refuse(format_args!("filter {name} is not supported"))),
        }
    }
    match enabled.last() {
        Some((_, last)) if last.name == ROUTER => Ok(found),
        _ => Err(at.field("http_filters").refuse(format_args!("do not end with {ROUTER}"))),
    }
}

pub(super) fn per_route(at: &At<'_>, configs: &BTreeMap<String, Any>) -> Compiled<PerRoute> {
    let mut found = PerRoute::default();
    for (name, any) in configs {
        let at = at.key("typed_per_filter_config", name);
        let wrapped: Option<FilterConfig> = if is::<FilterConfig>(any) { Some(unpack(&at, any)?) } else { None };
        let (any, optional) = match &wrapped {
            Some(config) if config.disabled => continue,
            Some(config) => (config.config.as_ref(), config.is_optional),
            None => (Some(any), false),
        };
        match (name.as_str(), any) {
            (FAULT, Some(any)) => found.fault = Some(Box::new(unpack(&at, any)?)),
            (CORS, Some(any)) => found.cors = Some(Box::new(unpack(&at, any)?)),
            (_, None) => {}
            _ if optional => at.note("is skipped"),
            _ => return Err(at.unsupported()),
        }
    }
    Ok(found)
}

impl PerRoute {
    pub(super) fn is_empty(&self) -> bool {
        self.fault.is_none() && self.cors.is_none()
    }

    /// This one's word, or the other's where this one says nothing.
    pub(super) fn fault(&self, at: &At<'_>, outer: &Self) -> Compiled<Option<Fault>> {
        let wire = self.fault.as_ref().or(outer.fault.as_ref());
        wire.map(|wire| fault(&at.key("typed_per_filter_config", FAULT), wire)).transpose()
    }

    /// This one's fields, and the other's where this one leaves them out.
    pub(super) fn cors(&self, at: &At<'_>, outer: &Self) -> Compiled<Option<Box<Cors>>> {
        cors::policy(&at.key("typed_per_filter_config", CORS), self.cors.as_deref(), outer.cors.as_deref())
    }
}

fn fault(at: &At<'_>, wire: &HttpFault) -> Compiled<Fault> {
    refuse_set!(wire, at, [upstream_cluster, downstream_nodes, response_rate_limit]);
    note_set!(wire, at, [max_active_faults]);
    let share = |at: &At<'_>, share: Option<&_>| share.map_or(Ok(Fraction { numerator: 0, denominator: 100 }), |share| fraction(at, share));
    let delay = match &wire.delay {
        Some(delay) => {
            let at = at.field("delay");
            let Some(FaultDelaySecifier::FixedDelay(time)) = &delay.fault_delay_secifier else {
                return Err(at.refuse("only fixed_delay is supported"));
            };
            Some((share(&at.field("percentage"), delay.percentage.as_ref())?, duration(&at.field("fixed_delay"), time)?))
        }
        None => None,
    };
    let abort = match &wire.abort {
        Some(abort) => {
            let at = at.field("abort");
            Some((share(&at.field("percentage"), abort.percentage.as_ref())?, fault_abort(&at, abort)?))
        }
        None => None,
    };
    let headers = wire.headers.iter().enumerate().map(|(index, matcher)| header_match(&at.index("headers", index), matcher));
    Ok(Fault { delay, abort, headers: headers.collect::<Compiled<_>>()? })
}

fn fault_abort(at: &At<'_>, abort: &WireAbort) -> Compiled<FaultAbort> {
    note_set!(abort, at, [response_body]);
    match &abort.error_type {
        Some(ErrorType::HttpStatus(status)) => {
            let known = u16::try_from(*status).ok().filter(|status| (200..600).contains(status));
            let status = known.and_then(|status| StatusCode::from_u16(status).ok());
            let at = at.field("http_status");
            status.map(FaultAbort::Http).ok_or_else(|| at.refuse("is not within 200 and 599"))
        }
        Some(ErrorType::GrpcStatus(status)) => {
            let known = u16::try_from(*status).ok().filter(|status| *status <= 16);
            known.map(FaultAbort::Grpc).ok_or_else(|| at.field("grpc_status").refuse(format_args!("{status} is no gRPC status")))
        }
        Some(ErrorType::HeaderAbort(_)) => Err(at.field("header_abort").unsupported()),
        None => Err(at.refuse("has no error_type")),
    }
}
