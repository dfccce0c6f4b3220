//! Rules of VirtualService. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use std::net::IpAddr;

use super::check::{Check, host_problem, is_dns_label, is_dns_subdomain};
use super::http_route;
use super::selector::match_labels;
use crate::code;
use crate::kinds::virtual_service::{
    Destination, L4MatchAttributes, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute, VirtualService,
};
use crate::meta::Labels;
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &VirtualService) {
    let in_mesh = body.gateways.is_empty() || body.gateways.iter().any(|gateway| gateway == "mesh");
    if body.hosts.is_empty() {
        delegate(cx, path, body);
    }
    hosts(cx, &path.field("hosts"), &body.hosts, in_mesh);
    gateways(cx, &path.field("gateways"), &body.gateways);
    cx.export_to(&path.field("exportTo"), &body.export_to, false);
    if body.http.is_empty() && body.tls.is_empty() && body.tcp.is_empty() {
        cx.error(code::REQUIRED, path, "a VirtualService needs http, tls or tcp routes", "add `http:` with a route");
    }
    for (index, route) in body.http.iter().enumerate() {
        http_route::check(cx, &path.field("http").index(index), route, body.hosts.is_empty());
    }
    for (index, route) in body.tls.iter().enumerate() {
        tls(cx, &path.field("tls").index(index), route, &body.hosts);
    }
    for (index, route) in body.tcp.iter().enumerate() {
        tcp(cx, &path.field("tcp").index(index), route);
    }
}

/// No hosts: others delegate to it, which restricts what it can say.
fn delegate(cx: &mut Check<'_>, path: &Path<'_>, body: &VirtualService) {
    if !body.gateways.is_empty() {
        let help = "add hosts, or remove the gateways of a delegate";
        cx.error(
            code::DELEGATE,
            &path.field("gateways"),
            "a VirtualService without hosts is a delegate and has no gateways of its own",
            help,
        );
    }
    if !body.tls.is_empty() || !body.tcp.is_empty() {
        let field = if body.tls.is_empty() { "tcp" } else { "tls" };
        cx.error(code::DELEGATE, &path.field(field), "a VirtualService without hosts is a delegate and routes only http", "add hosts");
    }
}

fn hosts(cx: &mut Check<'_>, path: &Path<'_>, hosts: &[String], in_mesh: bool) {
    for (index, host) in hosts.iter().enumerate() {
        let path = path.index(index);
        if host == "*" && in_mesh {
            let help = "name the hosts, or list only gateways under `gateways`";
            cx.error(code::HOST_NAME, &path, "`*` would catch all traffic of the mesh, and is allowed for gateways only", help);
        } else if host.parse::<IpAddr>().is_ok() {
            if in_mesh {
                let help = "list only gateways under `gateways`, or name a host";
                cx.error(code::HOST_NAME, &path, format!("the address {host} is allowed for gateways only"), help);
            }
        } else {
            cx.host(&path, host, true);
        }
    }
    cx.unique(hosts.iter().map(|host| host.to_ascii_lowercase()).enumerate(), |index| path.index(index).to_string(), "host");
}

/// `mesh`, `name` or `namespace/name`.
pub(super) fn gateways(cx: &mut Check<'_>, path: &Path<'_>, gateways: &[String]) {
    for (index, gateway) in gateways.iter().enumerate() {
        let path = path.index(index);
        let good = match gateway.split_once('/') {
            Some((namespace, name)) => (is_dns_label(namespace) || namespace == ".") && is_dns_subdomain(name),
            None => is_dns_subdomain(gateway),
        };
        if !good {
            cx.error(code::GATEWAY_NAME, &path, format!("`{gateway}` is not the name of a gateway"), "`mesh`, `name` or `namespace/name`");
        }
    }
    cx.unique(gateways.iter().enumerate(), |index| path.index(index).to_string(), "gateway");
}

pub(super) fn destination(cx: &mut Check<'_>, path: &Path<'_>, destination: Option<&Destination>) {
    let Some(destination) = destination else {
        return cx.error(code::REQUIRED, path, "a destination is required", "add `destination: {host: …}`");
    };
    let host = path.field("host");
    if cx.required(&host, &destination.host, "the host of a destination") {
        if destination.host == "*" {
            cx.error(code::HOST_NAME, &host, "`*` is not a destination", "name a service");
        } else if destination.host.parse::<IpAddr>().is_err() {
            cx.host(&host, &destination.host, true);
        }
    }
    if !destination.subset.is_empty() {
        subset_name(cx, &path.field("subset"), &destination.subset);
    }
    if let Some(port) = &destination.port {
        cx.required_port(&path.field("port").field("number"), port.number);
    }
}

/// The name of a subset stands in cluster names: Istio allows a DNS label, upper case included.
pub(super) fn subset_name(cx: &mut Check<'_>, path: &Path<'_>, name: &str) {
    if host_problem(name, false).is_some() || name.contains('.') {
        let help = "letters, digits and `-`, at most 63";
        cx.error(code::LABEL, path, format!("`{name}` is not the name of a subset"), help);
    }
}

/// Weights of several destinations: not negative, and not all zero.
pub(super) fn weights(cx: &mut Check<'_>, path: &Path<'_>, weights: &[i32]) {
    for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight < 0) {
        cx.error(code::WEIGHT, &path.index(index).field("weight"), format!("the weight {weight} is negative"), "");
    }
    let sum: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
    if weights.len() > 1 && sum == 0 {
        let help = "give at least one destination a weight above 0; a missing weight is 0 among several";
        cx.error(code::WEIGHT, path, "all weights are 0: no destination would be chosen", help);
    }
    if sum > i64::from(u32::MAX) {
        cx.error(code::WEIGHT, path, format!("the weights add up to {sum}, more than {}", u32::MAX), "");
    }
}

/// What a match says of the client.
pub(super) fn source(cx: &mut Check<'_>, path: &Path<'_>, labels: &Labels, namespace: &str, list: &[String], port: u32) {
    match_labels(cx, &path.field("sourceLabels"), labels);
    gateways(cx, &path.field("gateways"), list);
    if !namespace.is_empty() {
        cx.dns_label(&path.field("sourceNamespace"), namespace, "namespace");
    }
    if port != 0 {
        cx.port(&path.field("port"), port);
    }
}

fn tls(cx: &mut Check<'_>, path: &Path<'_>, route: &TlsRoute, hosts: &[String]) {
    if route.r#match.is_empty() {
        cx.error(code::REQUIRED, &path.field("match"), "a tls route needs a match with sniHosts", "");
    }
    for (index, attributes) in route.r#match.iter().enumerate() {
        tls_match(cx, &path.field("match").index(index), attributes, hosts);
    }
    routes(cx, path, &route.route);
}

fn tls_match(cx: &mut Check<'_>, path: &Path<'_>, attributes: &TlsMatchAttributes, hosts: &[String]) {
    let sni = path.field("sniHosts");
    if attributes.sni_hosts.is_empty() {
        cx.error(code::REQUIRED, &sni, "sniHosts are required", "name the hosts that TLS clients ask for");
    }
    for (index, host) in attributes.sni_hosts.iter().enumerate() {
        let path = sni.index(index);
        if cx.host(&path, host, true) && !hosts.iter().any(|own| covers(own, host)) {
            let message = format!("no host of this VirtualService covers the SNI host `{host}`");
            cx.error(code::SNI, &path, message, "add it to `hosts`");
        }
    }
    for (index, subnet) in attributes.destination_subnets.iter().enumerate() {
        cx.address(&path.field("destinationSubnets").index(index), subnet, true);
    }
    source(cx, path, &attributes.source_labels, &attributes.source_namespace, &attributes.gateways, attributes.port);
}

/// Whether every name that `host` stands for also belongs to `own`.
fn covers(own: &str, host: &str) -> bool {
    match own.strip_prefix('*') {
        Some(suffix) => host.strip_prefix('*').unwrap_or(host).to_ascii_lowercase().ends_with(&suffix.to_ascii_lowercase()),
        None => own.eq_ignore_ascii_case(host),
    }
}

fn tcp(cx: &mut Check<'_>, path: &Path<'_>, route: &TcpRoute) {
    for (index, attributes) in route.r#match.iter().enumerate() {
        l4_match(cx, &path.field("match").index(index), attributes);
    }
    routes(cx, path, &route.route);
}

fn l4_match(cx: &mut Check<'_>, path: &Path<'_>, attributes: &L4MatchAttributes) {
    for (index, subnet) in attributes.destination_subnets.iter().enumerate() {
        cx.address(&path.field("destinationSubnets").index(index), subnet, true);
    }
    if !attributes.source_subnet.is_empty() {
        cx.address(&path.field("sourceSubnet"), &attributes.source_subnet, true);
    }
    source(cx, path, &attributes.source_labels, &attributes.source_namespace, &attributes.gateways, attributes.port);
}

fn routes(cx: &mut Check<'_>, path: &Path<'_>, routes: &[RouteDestination]) {
    let path = path.field("route");
    if routes.is_empty() {
        cx.error(code::REQUIRED, &path, "a route needs a destination", "add `route:`");
    }
    for (index, route) in routes.iter().enumerate() {
        destination(cx, &path.index(index).field("destination"), route.destination.as_ref());
    }
    let all: Vec<i32> = routes.iter().map(|route| route.weight).collect();
    weights(cx, &path, &all);
}
