//! Rules of ServiceEntry. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use std::net::IpAddr;

use super::check::{Check, host_problem};
use super::gateway::protocol;
use super::selector::match_labels;
use super::workload_entry;
use crate::code;
use crate::kinds::service_entry::{Resolution, ServiceEntry};
use crate::path::Path;

const MAX_HOSTS: usize = 256;
const MAX_ADDRESSES: usize = 256;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &ServiceEntry) {
    hosts(cx, &path.field("hosts"), body);
    addresses(cx, &path.field("addresses"), body);
    ports(cx, &path.field("ports"), body);
    resolution(cx, path, body);
    endpoints(cx, &path.field("endpoints"), body);
    if let Some(selector) = &body.workload_selector {
        match_labels(cx, &path.field("workloadSelector").field("labels"), &selector.labels);
        if !body.endpoints.is_empty() {
            let message = "`endpoints` and `workloadSelector` exclude each other";
            cx.error(code::ENDPOINT, &path.field("workloadSelector"), message, "keep one of them");
        }
    }
    cx.export_to(&path.field("exportTo"), &body.export_to, true);
    if body.addresses.is_empty() && body.ports.iter().any(|port| is_opaque(&port.protocol)) {
        let message = "TCP traffic to this host cannot be told from other traffic to the same port: the entry has no address";
        cx.warning(code::ADDRESS_REQUIRED, &path.field("hosts"), message, "add `addresses:`");
        cx.istio("IST0134");
    }
}

fn is_opaque(protocol: &str) -> bool {
    matches!(protocol.to_ascii_uppercase().as_str(), "TCP" | "MONGO" | "MYSQL" | "REDIS")
}

fn hosts(cx: &mut Check<'_>, path: &Path<'_>, body: &ServiceEntry) {
    if body.hosts.is_empty() {
        cx.error(code::REQUIRED, path, "a ServiceEntry needs a host", "");
    }
    if body.hosts.len() > MAX_HOSTS {
        cx.error(code::HOST_NAME, path, format!("at most {MAX_HOSTS} hosts are allowed"), "");
    }
    for (index, host) in body.hosts.iter().enumerate() {
        let path = path.index(index);
        if host == "*" {
            cx.error(code::HOST_NAME, &path, "`*` would be every host", "name a domain: `*.example.com`");
        } else if cx.host(&path, host, true)
            && host.starts_with('*')
            && !matches!(body.resolution, Resolution::None | Resolution::DynamicDns)
        {
            let message = format!("a wildcard cannot be resolved by {}", body.resolution.as_str());
            cx.error(code::RESOLUTION, &path, message, "use NONE or DYNAMIC_DNS, or name the hosts");
        }
    }
    cx.unique(body.hosts.iter().map(|host| host.to_ascii_lowercase()).enumerate(), |index| path.index(index).to_string(), "host");
}

fn addresses(cx: &mut Check<'_>, path: &Path<'_>, body: &ServiceEntry) {
    if body.addresses.len() > MAX_ADDRESSES {
        cx.error(code::ADDRESS, path, format!("at most {MAX_ADDRESSES} addresses are allowed"), "");
    }
    for (index, address) in body.addresses.iter().enumerate() {
        let path = path.index(index);
        cx.address(&path, address, true);
        if address.contains('/') && !matches!(body.resolution, Resolution::None | Resolution::Static) {
            cx.error(code::RESOLUTION, &path, format!("a CIDR does not go with {}", body.resolution.as_str()), "use NONE or STATIC");
        }
    }
}

fn ports(cx: &mut Check<'_>, path: &Path<'_>, body: &ServiceEntry) {
    for (index, port) in body.ports.iter().enumerate() {
        let path = path.index(index);
        cx.required_port(&path.field("number"), port.number);
        if cx.required(&path.field("name"), &port.name, "the name of a port") {
            cx.dns_label(&path.field("name"), &port.name.to_ascii_lowercase(), "port");
        }
        if port.target_port != 0 {
            cx.port(&path.field("targetPort"), port.target_port);
        }
        if !port.protocol.is_empty() {
            protocol(cx, &path.field("protocol"), &port.protocol);
        }
    }
    cx.unique(body.ports.iter().map(|port| port.number).enumerate(), |index| path.index(index).field("number").to_string(), "port");
    let names = body.ports.iter().map(|port| port.name.as_str()).enumerate().filter(|(_, name)| !name.is_empty());
    cx.unique(names, |index| path.index(index).field("name").to_string(), "port name");
}

fn resolution(cx: &mut Check<'_>, path: &Path<'_>, body: &ServiceEntry) {
    let endpoints = path.field("endpoints");
    match body.resolution {
        Resolution::None => {
            if !body.endpoints.is_empty() {
                let missing = !cx.has(&path.field("resolution"));
                let message =
                    if missing { "without `resolution`, which means NONE, endpoints are not used" } else { "NONE does not use endpoints" };
                cx.error(code::RESOLUTION, &endpoints, message, "use `resolution: STATIC` for addresses, DNS for names");
            }
        }
        Resolution::Static => {
            if body.endpoints.is_empty() && body.workload_selector.is_none() {
                cx.error(code::RESOLUTION, &path.field("resolution"), "STATIC needs endpoints", "add `endpoints:`, or use DNS");
            }
        }
        Resolution::DnsRoundRobin if body.endpoints.len() > 1 => {
            cx.error(code::RESOLUTION, &endpoints, "DNS_ROUND_ROBIN takes one endpoint", "use DNS");
        }
        Resolution::DynamicDns if !body.endpoints.is_empty() => {
            cx.error(code::RESOLUTION, &endpoints, "DYNAMIC_DNS resolves the hosts that are asked for, not endpoints", "remove them");
        }
        Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns => {}
    }
    if body.resolution == Resolution::DynamicDns {
        dynamic_dns(cx, path, body);
    }
}

/// Source: Istio's `ValidateServiceEntry`.
fn dynamic_dns(cx: &mut Check<'_>, path: &Path<'_>, body: &ServiceEntry) {
    for (index, _) in body.hosts.iter().enumerate().filter(|(_, host)| !host.starts_with('*')) {
        let message = "DYNAMIC_DNS is for wildcards";
        cx.error(code::RESOLUTION, &path.field("hosts").index(index), message, "use `resolution: DNS` for a host that is known");
    }
    if !body.addresses.is_empty() {
        let message = "DYNAMIC_DNS goes by the host that is asked for, and has no addresses";
        cx.error(code::RESOLUTION, &path.field("addresses"), message, "remove them");
    }
    let known = |protocol: &str| ["HTTP", "HTTP2", "GRPC", "TLS"].iter().any(|known| known.eq_ignore_ascii_case(protocol));
    for (index, _) in body.ports.iter().enumerate().filter(|(_, port)| !known(&port.protocol)) {
        let message = "DYNAMIC_DNS needs a protocol that says the host";
        cx.error(code::RESOLUTION, &path.field("ports").index(index).field("protocol"), message, "one of HTTP, HTTP2, GRPC, TLS");
    }
    if body.workload_selector.is_some() {
        let message = "a workloadSelector does not go with DYNAMIC_DNS";
        cx.error(code::RESOLUTION, &path.field("workloadSelector"), message, "use `resolution: STATIC`");
    }
}

fn endpoints(cx: &mut Check<'_>, path: &Path<'_>, body: &ServiceEntry) {
    let by_name = matches!(body.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    for (index, endpoint) in body.endpoints.iter().enumerate() {
        let path = path.index(index);
        workload_entry::check(cx, &path, endpoint);
        let address = &endpoint.address;
        let literal = address.parse::<IpAddr>().is_ok() || address.starts_with("unix://") || address.is_empty();
        if body.resolution == Resolution::Static && !literal && host_problem(address, false).is_none() {
            let message = format!("STATIC needs addresses, and `{address}` is a name");
            cx.error(code::ENDPOINT, &path.field("address"), message, "use an IP address, or `resolution: DNS`");
        }
        if by_name && address.starts_with("unix://") {
            cx.error(
                code::ENDPOINT,
                &path.field("address"),
                format!("a socket cannot be resolved by {}", body.resolution.as_str()),
                "use STATIC",
            );
        }
        for name in endpoint.ports.keys().filter(|name| !body.ports.iter().any(|port| port.name == **name)) {
            let close = crate::decode::suggestions(name, body.ports.iter().map(|port| port.name.as_str()));
            let help = close.first().map_or(String::new(), |close| format!("did you mean `{close}`?"));
            cx.error(code::ENDPOINT, &path.field("ports").key(name), format!("the ServiceEntry has no port `{name}`"), help);
        }
    }
}
