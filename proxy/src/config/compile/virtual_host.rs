//! Virtual hosts and route configurations.
//!
//! In:  `VirtualHost` (inline, or a resource of its own by VHDS), `RouteConfiguration`.
//! Out: [`VirtualHost`]s and [`RouteSettings`]; `table` puts them together.

use std::sync::Arc;

use pillion_xds::wire::envoy::config::route::v3 as wire;

use super::at::{At, Compiled, note_set, refuse_set};
use super::filter_config;
use super::route::{HostDefaults, buffer_limit, route};
use super::value::{REQUEST, RESPONSE, mutations, resource_name};
use crate::config::route_table::{DuplicateDomain, HeaderMutations, RouteTable, VirtualHost};

/// Virtual hosts, domains and routes of one resource.
const MAX_ITEMS: usize = 100_000;

/// A route configuration without the virtual hosts that come as resources of their own.
#[derive(Debug)]
pub(super) struct RouteSettings {
    pub(super) inline: Vec<Arc<VirtualHost>>,
    /// The rest comes by VHDS.
    pub(super) vhds: bool,
    ignore_port: bool,
    request_headers: HeaderMutations,
    response_headers: HeaderMutations,
}

impl RouteSettings {
    pub(super) fn compile(at: &At<'_>, mut wire: wire::RouteConfiguration) -> Compiled<Self> {
        refuse_set!(
            wire,
            at,
            [
                cluster_specifier_plugins,
                request_mirror_policies,
                vhost_header,
                route_specifiers,
                most_specific_header_mutations_wins,
                ignore_path_parameters_in_path_matching,
            ]
        );
        if !filter_config::per_route(at, &wire.typed_per_filter_config)?.is_empty() {
            return Err(at.field("typed_per_filter_config").unsupported());
        }
        note_set!(wire, at, [internal_only_headers]);
        let hosts = std::mem::take(&mut wire.virtual_hosts);
        if hosts.len() > MAX_ITEMS {
            return Err(at.field("virtual_hosts").refuse(format_args!("has at most {MAX_ITEMS}")));
        }
        let inline = hosts.iter().enumerate().map(|(index, host)| virtual_host(&at.index("virtual_hosts", index), host).map(Arc::new));
        Ok(Self {
            inline: inline.collect::<Compiled<_>>()?,
            vhds: wire.vhds.is_some(),
            ignore_port: wire.ignore_port_in_host_matching,
            request_headers: mutations(at, REQUEST, &wire.request_headers_to_add, &wire.request_headers_to_remove)?,
            response_headers: mutations(at, RESPONSE, &wire.response_headers_to_add, &wire.response_headers_to_remove)?,
        })
    }

    /// The table of these virtual hosts (the inline ones are not added here).
    pub(super) fn table(&self, name: &Arc<str>, hosts: Vec<Arc<VirtualHost>>) -> Result<RouteTable, DuplicateDomain> {
        let mut table = RouteTable::new(Arc::clone(name), hosts)?;
        table.ignore_port = self.ignore_port;
        table.request_headers = self.request_headers.clone();
        table.response_headers = self.response_headers.clone();
        Ok(table)
    }
}

/// A table whose virtual hosts are all inline.
pub(super) fn inline_table(at: &At<'_>, wire: wire::RouteConfiguration) -> Compiled<RouteTable> {
    refuse_set!(wire, at, [vhds]);
    let name: Arc<str> = wire.name.as_str().into();
    let settings = RouteSettings::compile(at, wire)?;
    let hosts = settings.inline.clone();
    settings.table(&name, hosts).map_err(|error| at.field("virtual_hosts").refuse(error))
}

pub(super) fn virtual_host(at: &At<'_>, host: &wire::VirtualHost) -> Compiled<VirtualHost> {
    refuse_set!(
        host,
        at,
        [matcher, require_tls, rate_limits, cors, retry_policy_typed_config, hedge_policy, request_mirror_policies, route_specifiers,]
    );
    note_set!(host, at, [virtual_clusters, include_is_timeout_retry_header]);
    resource_name(&at.field("name"), &host.name)?;
    if host.domains.is_empty() || host.domains.len() > MAX_ITEMS {
        return Err(at.field("domains").refuse(format_args!("has 1 to {MAX_ITEMS}")));
    }
    if host.routes.len() > MAX_ITEMS {
        return Err(at.field("routes").refuse(format_args!("has at most {MAX_ITEMS}")));
    }
    for (index, domain) in host.domains.iter().enumerate() {
        if domain.is_empty() || domain.len() > 512 {
            return Err(at.index("domains", index).refuse("has 1 to 512 bytes"));
        }
    }
    let per_filter = filter_config::per_route(at, &host.typed_per_filter_config)?;
    let defaults = HostDefaults {
        retry: host.retry_policy.as_ref(),
        buffer_limit: buffer_limit(host.request_body_buffer_limit.as_ref().map(|limit| limit.value), host.per_request_buffer_limit_bytes),
        per_filter: &per_filter,
    };
    let routes = host.routes.iter().enumerate().map(|(index, wire)| route(&at.index("routes", index), wire, &defaults).map(Arc::new));
    Ok(VirtualHost {
        name: host.name.as_str().into(),
        domains: host.domains.iter().map(|domain| domain.as_str().into()).collect(),
        routes: routes.collect::<Compiled<_>>()?,
        request_headers: mutations(at, REQUEST, &host.request_headers_to_add, &host.request_headers_to_remove)?,
        response_headers: mutations(at, RESPONSE, &host.response_headers_to_add, &host.response_headers_to_remove)?,
        attempt_count_to_upstream: host.include_request_attempt_count,
        attempt_count_to_downstream: host.include_attempt_count_in_response,
    })
}
