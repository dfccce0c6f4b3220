//! Rules of Gateway. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::check::{Check, host_problem, is_dns_label};
use super::selector::match_labels;
use super::tls;
use crate::code;
use crate::kinds::gateway::{Gateway, GatewayServer, ServerTlsMode};
use crate::path::Path;

/// Protocols of servers and of service ports, upper case.
const PROTOCOLS: &[&str] =
    &["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "HTTP_PROXY", "TCP", "TLS", "UDP", "MONGO", "MYSQL", "REDIS", "HBONE", "AUTO"];

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &Gateway) {
    let servers = path.field("servers");
    if body.servers.is_empty() {
        cx.error(code::REQUIRED, &servers, "a Gateway needs a server", "add `servers:` with a port and hosts");
    }
    for (index, one) in body.servers.iter().enumerate() {
        server(cx, &servers.index(index), one);
    }
    match_labels(cx, &path.field("selector"), &body.selector);
    if body.selector.is_empty() {
        let help = "add the labels of the gateway workloads, such as `istio: ingressgateway`";
        cx.warning(code::INEFFECTIVE, &path.field("selector"), "without a selector every gateway workload serves this", help);
    }
    let names = body
        .servers
        .iter()
        .map(|server| server.port.as_ref().map_or("", |port| port.name.as_str()))
        .enumerate()
        .filter(|(_, name)| !name.is_empty());
    cx.unique(names, |index| servers.index(index).field("port").field("name").to_string(), "port name");
    conflicts(cx, &servers, &body.servers);
}

/// Servers on one port and address must speak the same.
fn conflicts(cx: &mut Check<'_>, path: &Path<'_>, servers: &[GatewayServer]) {
    let mut first: BTreeMap<(u32, &str), (usize, String)> = BTreeMap::new();
    for (index, server) in servers.iter().enumerate() {
        let Some(port) = &server.port else { continue };
        let family = family(&port.protocol);
        let (earlier, spoken) = first.entry((port.number, server.bind.as_str())).or_insert_with(|| (index, family.to_owned()));
        if spoken != family {
            let (earlier, message) = (*earlier, format!("port {} speaks {spoken} and {family}", port.number));
            cx.error(code::SERVER_CONFLICT, &path.index(index).field("port").field("protocol"), message, "use another port");
            cx.related(&path.index(earlier).field("port").field("protocol"), "the other server");
        }
    }
}

fn family(protocol: &str) -> &'static str {
    match protocol.to_ascii_uppercase().as_str() {
        "HTTP" | "GRPC" | "GRPC-WEB" | "HTTP2" | "HTTP_PROXY" => "HTTP",
        "HTTPS" | "TLS" => "TLS",
        _ => "TCP",
    }
}

/// The protocol of a port; false when there is none of that name.
pub(super) fn protocol(cx: &mut Check<'_>, path: &Path<'_>, protocol: &str) -> bool {
    let upper = protocol.to_ascii_uppercase();
    let known = PROTOCOLS.contains(&upper.as_str());
    if !known {
        let close = crate::decode::suggestions(&upper, PROTOCOLS.iter().copied());
        let help = close.first().map_or_else(|| format!("one of {}", PROTOCOLS.join(", ")), |name| format!("did you mean `{name}`?"));
        cx.error(code::PROTOCOL, path, format!("`{protocol}` is not a protocol"), help);
    }
    known
}

fn server(cx: &mut Check<'_>, path: &Path<'_>, server: &GatewayServer) {
    if let Some(port) = &server.port {
        let path = path.field("port");
        cx.required_port(&path.field("number"), port.number);
        cx.required(&path.field("name"), &port.name, "the name of the port");
        if cx.required(&path.field("protocol"), &port.protocol, "the protocol of the port")
            && protocol(cx, &path.field("protocol"), &port.protocol)
        {
            server_tls(cx, &path, server, &port.protocol);
        }
    } else {
        cx.error(code::REQUIRED, &path.field("port"), "a server needs a port", "add `port: {number: 80, protocol: HTTP, name: http}`");
    }
    if server.hosts.is_empty() {
        cx.error(code::REQUIRED, &path.field("hosts"), "a server needs hosts", "add `hosts: [\"*\"]` for any");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        let path = path.field("hosts");
        server_host(cx, &path.index(index), host);
    }
    if !server.bind.is_empty() && !server.bind.starts_with("unix://") {
        cx.address(&path.field("bind"), &server.bind, false);
    }
    if let Some(settings) = &server.tls {
        tls::server(cx, &path.field("tls"), settings);
    }
}

/// TLS settings stand there if and only if the protocol is TLS.
fn server_tls(cx: &mut Check<'_>, port: &Path<'_>, server: &GatewayServer, protocol: &str) {
    let path = port.field("protocol");
    let terminates = matches!(protocol.to_ascii_uppercase().as_str(), "HTTPS" | "TLS");
    let redirects = server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
    match &server.tls {
        None if terminates => {
            cx.error(code::SERVER_TLS, &path, format!("{protocol} needs `tls` settings"), "add `tls: {mode: SIMPLE, credentialName: …}`");
        }
        Some(_) if redirects && terminates => {
            cx.error(code::SERVER_TLS, &path, format!("httpsRedirect is for plain HTTP, not {protocol}"), "use protocol HTTP");
        }
        Some(tls) if !terminates && !redirects && tls.mode != ServerTlsMode::Passthrough => {
            cx.error(code::SERVER_TLS, &path, format!("`tls` settings do not go with {protocol}"), "use HTTPS or TLS, or remove `tls`");
        }
        _ => {}
    }
    if family(protocol) != "HTTP" {
        cx.not_enforced(&path, &format!("the protocol {protocol} of a gateway"));
    }
}

/// `[namespace/]host`.
fn server_host(cx: &mut Check<'_>, path: &Path<'_>, host: &str) {
    let (namespace, name) = host.split_once('/').unwrap_or(("*", host));
    if !matches!(namespace, "*" | "." | "~") && !is_dns_label(namespace) {
        cx.error(code::HOST_NAME, path, format!("`{namespace}` is not a namespace"), "`namespace/host`, `./host` or `*/host`");
    }
    if name.parse::<IpAddr>().is_ok() {
        return;
    }
    if let Some(problem) = host_problem(name, true) {
        cx.error(code::HOST_NAME, path, format!("`{name}` is not a host name: {problem}"), "");
    }
}
