//! Rules of Sidecar. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use std::net::SocketAddr;

use super::check::{Check, host_problem, is_dns_label};
use super::destination_rule::connection_pool;
use super::gateway::protocol;
use super::selector::match_labels;
use super::tls;
use super::virtual_service::destination;
use crate::code;
use crate::kinds::sidecar::{CaptureMode, IstioEgressListener, IstioIngressListener, Sidecar, SidecarPort};
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &Sidecar) {
    if let Some(selector) = &body.workload_selector {
        match_labels(cx, &path.field("workloadSelector").field("labels"), &selector.labels);
    }
    let listeners = path.field("ingress");
    for (index, listener) in body.ingress.iter().enumerate() {
        ingress(cx, &listeners.index(index), listener);
    }
    let numbers = body.ingress.iter().map(|listener| listener.port.as_ref().map_or(0, |port| port.number)).enumerate();
    cx.unique(numbers.filter(|(_, n)| *n != 0), |index| listeners.index(index).field("port").to_string(), "port");
    egress_listeners(cx, &path.field("egress"), &body.egress);
    if let Some(pool) = &body.inbound_connection_pool {
        connection_pool(cx, &path.field("inboundConnectionPool"), pool);
    }
    if let Some(policy) = &body.outbound_traffic_policy {
        let path = path.field("outboundTrafficPolicy");
        if policy.egress_proxy.is_some() {
            destination(cx, &path.field("egressProxy"), policy.egress_proxy.as_ref());
        }
        if !cx.has(&path.field("mode")) {
            cx.warning(code::INEFFECTIVE, &path, "without `mode` this block means REGISTRY_ONLY: unknown hosts get 502", "write the mode");
        }
    }
}

fn ingress(cx: &mut Check<'_>, path: &Path<'_>, listener: &IstioIngressListener) {
    match &listener.port {
        Some(port) => listener_port(cx, &path.field("port"), port),
        None => cx.error(code::REQUIRED, &path.field("port"), "an ingress listener needs a port", ""),
    }
    bind(cx, path, &listener.bind, listener.capture_mode);
    let endpoint = &listener.default_endpoint;
    if !endpoint.is_empty() {
        let address = endpoint.parse::<SocketAddr>().is_ok_and(|a| (a.ip().is_loopback() || a.ip().is_unspecified()) && a.port() != 0);
        if !address && !endpoint.starts_with("unix:///") {
            let help = "127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, or unix:///path";
            cx.error(code::LISTENER, &path.field("defaultEndpoint"), format!("`{endpoint}` is not an endpoint of this workload"), help);
        }
        if !address && endpoint.starts_with("unix://") {
            cx.not_enforced(&path.field("defaultEndpoint"), "for our own proxy, a Unix socket as the application");
        }
    }
    if let Some(settings) = &listener.tls {
        tls::server(cx, &path.field("tls"), settings);
    }
    if let Some(pool) = &listener.connection_pool {
        connection_pool(cx, &path.field("connectionPool"), pool);
    }
}

fn listener_port(cx: &mut Check<'_>, path: &Path<'_>, port: &SidecarPort) {
    cx.required_port(&path.field("number"), port.number);
    if !port.protocol.is_empty() {
        protocol(cx, &path.field("protocol"), &port.protocol);
    }
}

fn bind(cx: &mut Check<'_>, path: &Path<'_>, bind: &str, mode: CaptureMode) {
    if bind.is_empty() {
        return;
    }
    if bind.starts_with("unix://") {
        if mode == CaptureMode::Iptables {
            cx.error(code::LISTENER, &path.field("captureMode"), "a socket cannot be captured", "use NONE, or remove it");
        }
    } else {
        cx.address(&path.field("bind"), bind, false);
    }
}

fn egress_listeners(cx: &mut Check<'_>, path: &Path<'_>, listeners: &[IstioEgressListener]) {
    for (index, listener) in listeners.iter().enumerate() {
        let path = path.index(index);
        match &listener.port {
            Some(port) => {
                listener_port(cx, &path.field("port"), port);
                if port.protocol.eq_ignore_ascii_case("HTTP_PROXY") {
                    cx.not_enforced(&path.field("port").field("protocol"), "the protocol HTTP_PROXY of an egress listener");
                }
            }
            None => {
                if index + 1 < listeners.len() {
                    let help = "move it to the end: it takes all traffic that no other listener takes";
                    cx.error(code::LISTENER, &path, "an egress listener without a port must be the last one, and the only one", help);
                }
                if !listener.bind.is_empty() {
                    cx.error(code::LISTENER, &path.field("bind"), "`bind` needs a port", "add `port:`, or remove it");
                }
            }
        }
        bind(cx, &path, &listener.bind, listener.capture_mode);
        if listener.hosts.is_empty() {
            cx.error(code::REQUIRED, &path.field("hosts"), "an egress listener needs hosts", "add `hosts: [\"./*\"]`");
        }
        for (index, host) in listener.hosts.iter().enumerate() {
            let path = path.field("hosts");
            egress_host(cx, &path.index(index), host);
        }
    }
    let places =
        listeners.iter().enumerate().filter_map(|(index, l)| l.port.as_ref().map(|port| (index, format!("{}:{}", l.bind, port.number))));
    cx.unique(places, |index| path.index(index).field("port").to_string(), "address");
}

/// `namespace/host`, where the namespace may be `*`, `.`, `~` or start with `~` to exclude.
fn egress_host(cx: &mut Check<'_>, path: &Path<'_>, host: &str) {
    let Some((namespace, name)) = host.split_once('/') else {
        let help = format!("write `*/{host}` for any namespace, `./{host}` for its own");
        return cx.error(code::HOST_NAME, path, format!("`{host}` has no namespace"), help);
    };
    let plain = namespace.strip_prefix('~').unwrap_or(namespace);
    if !matches!(namespace, "*" | "." | "~") && !is_dns_label(plain) {
        cx.error(code::HOST_NAME, path, format!("`{namespace}` is not a namespace"), "a name, `*`, `.` or `~`");
    }
    if let Some(problem) = host_problem(name, true) {
        cx.error(code::HOST_NAME, path, format!("`{name}` is not a host name: {problem}"), "");
    }
}
