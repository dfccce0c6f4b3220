//! Rules of Workload.
//!
//! In:  the body. Out: findings.

use super::check::Check;
use super::core::{port_name, probe};
use crate::code;
use crate::decode::IntOrString;
use crate::kinds::workload::{Workload, WorkloadPort};
use crate::path::Path;

const MAX_REPLICAS: u32 = 1000;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &Workload) {
    let ports = path.field("ports");
    for (index, port) in body.ports.iter().enumerate() {
        workload_port(cx, &ports.index(index), port);
    }
    let names = body.ports.iter().map(|port| port.name.as_str()).enumerate().filter(|(_, name)| !name.is_empty());
    cx.unique(names, |index| ports.index(index).field("name").to_string(), "port name");
    cx.unique(
        body.ports.iter().map(|port| port.container_port).enumerate(),
        |index| ports.index(index).field("containerPort").to_string(),
        "containerPort",
    );
    let replicas = body.replicas.unwrap_or(1);
    if replicas > MAX_REPLICAS {
        cx.error(code::WORKLOAD, &path.field("replicas"), format!("{replicas} replicas are more than {MAX_REPLICAS}"), "");
    }
    if replicas > 1 {
        fixed_ports(cx, path, body, replicas);
    }
    if !body.service_account.is_empty() {
        cx.dns_label(&path.field("serviceAccount"), &body.service_account, "service account");
    }
    if body.command.first().is_some_and(String::is_empty) {
        cx.error(code::WORKLOAD, &path.field("command").index(0), "the program is empty", "");
    }
    environment(cx, &path.field("env"), body);
    if let Some(readiness) = &body.readiness_probe {
        readiness_probe(cx, &path.field("readinessProbe"), body, readiness);
    }
    if body.gateway && !body.command.is_empty() {
        let message = "a gateway has no program of its own";
        cx.error(code::WORKLOAD, &path.field("command"), message, "remove `command`, or `gateway: true`");
    }
    if let Some(proxy) = &body.proxy
        && proxy.outbound_port.is_some()
        && proxy.outbound_port == proxy.inbound_port
    {
        cx.error(code::WORKLOAD, &path.field("proxy").field("inboundPort"), "outboundPort and inboundPort are the same port", "");
    }
}

/// Replicas of one machine cannot share a port.
fn fixed_ports(cx: &mut Check<'_>, path: &Path<'_>, body: &Workload, replicas: u32) {
    let help = "remove it: the program is told its port in $PORT";
    for (index, port) in body.ports.iter().enumerate() {
        if let Some(local) = port.local_port {
            let message = format!("{replicas} replicas cannot all listen on {local}");
            cx.error(code::WORKLOAD, &path.field("ports").index(index).field("localPort"), message, help);
        }
    }
    let Some(proxy) = &body.proxy else { return };
    for (name, port) in [("outboundPort", proxy.outbound_port), ("inboundPort", proxy.inbound_port)] {
        if let Some(port) = port {
            let message = format!("the sidecars of {replicas} replicas cannot all listen on {port}");
            cx.error(code::WORKLOAD, &path.field("proxy").field(name), message, "remove it");
        }
    }
}

fn workload_port(cx: &mut Check<'_>, path: &Path<'_>, port: &WorkloadPort) {
    cx.required_port(&path.field("containerPort"), port.container_port);
    if !port.name.is_empty() {
        port_name(cx, &path.field("name"), &port.name);
    }
    if port.local_port == Some(0) {
        cx.error(code::PORT, &path.field("localPort"), "0 is not a port: 1 to 65535", "leave it out to have one picked");
    }
}

fn environment(cx: &mut Check<'_>, path: &Path<'_>, body: &Workload) {
    for (index, variable) in body.env.iter().enumerate() {
        let path = path.index(index);
        if cx.required(&path.field("name"), &variable.name, "the name of a variable") && variable.name.contains(['=', '\0']) {
            cx.error(code::WORKLOAD, &path.field("name"), format!("`{}` is not the name of a variable", variable.name), "");
        }
        if variable.value.contains('\0') {
            cx.error(code::WORKLOAD, &path.field("value"), "a variable cannot hold a zero byte", "");
        }
    }
    cx.unique(
        body.env.iter().map(|variable| variable.name.as_str()).enumerate(),
        |index| path.index(index).field("name").to_string(),
        "variable",
    );
}

fn readiness_probe(cx: &mut Check<'_>, path: &Path<'_>, body: &Workload, readiness: &crate::kinds::deployment::Probe) {
    probe(cx, path, readiness);
    let http = readiness.http_get.as_ref().map(|get| ("httpGet", get.port.as_ref()));
    let tcp = readiness.tcp_socket.as_ref().map(|socket| ("tcpSocket", socket.port.as_ref()));
    let Some((name, Some(IntOrString::String(wanted)))) = http.or(tcp) else { return };
    if body.deployment.is_empty() && !body.ports.iter().any(|port| port.name == *wanted) {
        let close = crate::decode::suggestions(wanted, body.ports.iter().map(|port| port.name.as_str()));
        let help = close.first().map_or(String::new(), |close| format!("did you mean `{close}`?"));
        cx.error(code::PROBE, &path.field(name).field("port"), format!("the Workload has no port `{wanted}`"), help);
    }
}
