//! Rules of Service and Deployment, as far as the mesh depends on them. Source: Kubernetes' validation.
//!
//! In:  the bodies. Out: findings.

use std::net::IpAddr;

use super::check::{Check, is_dns_label};
use crate::code;
use crate::decode::IntOrString;
use crate::kinds::deployment::{ContainerPort, Deployment, Probe};
use crate::kinds::service::Service;
use crate::meta::selects;
use crate::path::Path;

const TYPES: &[&str] = &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

pub(super) fn service(cx: &mut Check<'_>, path: &Path<'_>, body: &Service) {
    if !body.r#type.is_empty() && !TYPES.contains(&body.r#type.as_str()) {
        cx.error(code::SERVICE, &path.field("type"), format!("`{}` is not a type of Service", body.r#type), TYPES.join(", "));
    }
    let ports = path.field("ports");
    if body.r#type == "ExternalName" {
        if cx.required(&path.field("externalName"), &body.external_name, "the name that the service stands for") {
            cx.host(&path.field("externalName"), &body.external_name, false);
        }
    } else if body.ports.is_empty() && body.cluster_ip != "None" {
        cx.error(code::SERVICE, &ports, "a Service needs a port", "add `ports: [{port: 80}]`");
    }
    if !matches!(body.cluster_ip.as_str(), "" | "None") && body.cluster_ip.parse::<IpAddr>().is_err() {
        cx.error(code::ADDRESS, &path.field("clusterIP"), format!("`{}` is not an IP address", body.cluster_ip), "an address, or None");
    }
    for (index, port) in body.ports.iter().enumerate() {
        let path = ports.index(index);
        cx.required_port(&path.field("port"), port.port);
        if body.ports.len() > 1 && port.name.is_empty() {
            cx.error(code::REQUIRED, &path.field("name"), "one of several ports needs a name", "");
        }
        if !port.name.is_empty() {
            cx.dns_label(&path.field("name"), &port.name, "port");
        }
        if !matches!(port.protocol.as_str(), "" | "TCP" | "UDP" | "SCTP") {
            let help = "TCP; say what is spoken with `appProtocol`, or a prefix of the name such as `grpc-`";
            cx.error(code::PROTOCOL, &path.field("protocol"), format!("`{}` is not a protocol of a Service", port.protocol), help);
        }
        port_reference(cx, &path.field("targetPort"), port.target_port.as_ref());
    }
    let names = body.ports.iter().map(|port| port.name.as_str()).enumerate().filter(|(_, name)| !name.is_empty());
    cx.unique(names, |index| ports.index(index).field("name").to_string(), "port name");
    let protocol = |protocol: &str| if protocol.is_empty() { "TCP".to_owned() } else { protocol.to_owned() };
    let pairs = body.ports.iter().map(|port| format!("{}/{}", port.port, protocol(&port.protocol))).enumerate();
    cx.unique(pairs, |index| ports.index(index).field("port").to_string(), "port");
    cx.labels(&path.field("selector"), &body.selector);
}

fn port_reference(cx: &mut Check<'_>, path: &Path<'_>, port: Option<&IntOrString>) {
    match port {
        Some(IntOrString::Int(number)) => cx.port(path, u32::try_from(*number).unwrap_or(0)),
        Some(IntOrString::String(name)) => port_name(cx, path, name),
        None => {}
    }
}

/// The name of a container's port (IANA_SVC_NAME): at most 15.
pub(super) fn port_name(cx: &mut Check<'_>, path: &Path<'_>, name: &str) {
    if !is_dns_label(name) || name.len() > 15 || !name.bytes().any(|b| b.is_ascii_lowercase()) {
        let help = "lower-case letters, digits and `-`, at most 15, with a letter";
        cx.error(code::PORT, path, format!("`{name}` is not the name of a port"), help);
    }
}

pub(super) fn deployment(cx: &mut Check<'_>, path: &Path<'_>, body: &Deployment) {
    let Some(template) = &body.template else {
        return cx.error(code::WORKLOAD, &path.field("template"), "a Deployment needs a template", "");
    };
    let labels = template.metadata.as_ref().map(|metadata| &metadata.labels);
    let template_path = path.field("template");
    if let (Some(selector), Some(labels)) = (&body.selector, labels) {
        if !selects(&selector.match_labels, labels) {
            let message = "the selector does not select the template's own labels";
            cx.error(code::WORKLOAD, &path.field("selector").field("matchLabels"), message, "make them equal");
            cx.related(&template_path.field("metadata").field("labels"), "labels of the template");
        }
        cx.labels(&template_path.field("metadata").field("labels"), labels);
    }
    let Some(spec) = &template.spec else { return };
    let spec_path = template_path.field("spec");
    for (index, container) in spec.containers.iter().enumerate() {
        let path = spec_path.field("containers");
        let path = path.index(index);
        container_ports(cx, &path.field("ports"), &container.ports);
        if let Some(body) = &container.readiness_probe {
            probe(cx, &path.field("readinessProbe"), body);
        }
    }
}

fn container_ports(cx: &mut Check<'_>, path: &Path<'_>, ports: &[ContainerPort]) {
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        cx.required_port(&path.field("containerPort"), port.container_port);
        if !port.name.is_empty() {
            port_name(cx, &path.field("name"), &port.name);
        }
    }
}

/// A probe of Kubernetes' kinds and of Workload.
pub(super) fn probe(cx: &mut Check<'_>, path: &Path<'_>, probe: &Probe) {
    if let Some(get) = &probe.http_get {
        let path = path.field("httpGet");
        if get.port.is_none() {
            cx.error(code::REQUIRED, &path.field("port"), "the port of a probe is required", "");
        }
        port_reference(cx, &path.field("port"), get.port.as_ref());
        if !matches!(get.scheme.as_str(), "" | "HTTP" | "HTTPS") {
            cx.error(code::PROBE, &path.field("scheme"), format!("`{}` is not a scheme", get.scheme), "HTTP or HTTPS");
        }
    } else if let Some(socket) = &probe.tcp_socket {
        if socket.port.is_none() {
            cx.error(code::REQUIRED, &path.field("tcpSocket").field("port"), "the port of a probe is required", "");
        }
        port_reference(cx, &path.field("tcpSocket").field("port"), socket.port.as_ref());
    } else if let Some(grpc) = &probe.grpc {
        cx.required_port(&path.field("grpc").field("port"), grpc.port);
    } else if probe.exec.is_none() {
        cx.error(code::PROBE, path, "this probe checks nothing", "give httpGet, tcpSocket or grpc");
    }
}
