//! Rules of WorkloadGroup. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use super::check::Check;
use super::workload_entry;
use crate::code;
use crate::kinds::workload_group::{GroupProbe, WorkloadGroup};
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &WorkloadGroup) {
    match &body.template {
        None => cx.error(code::REQUIRED, &path.field("template"), "a WorkloadGroup needs a template", ""),
        Some(template) => {
            let path = path.field("template");
            workload_entry::settings(cx, &path, template);
            if !template.labels.is_empty() {
                cx.error(
                    code::ENDPOINT,
                    &path.field("labels"),
                    "labels of a template are not read",
                    "put them under `metadata.labels` of the group",
                );
            }
        }
    }
    if let Some(metadata) = &body.metadata {
        cx.labels(&path.field("metadata").field("labels"), &metadata.labels);
    }
    if let Some(body) = &body.probe {
        probe(cx, &path.field("probe"), body);
    }
}

/// Also of a proxy's own settings.
pub(super) fn probe(cx: &mut Check<'_>, path: &Path<'_>, probe: &GroupProbe) {
    let times = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (name, number) in times {
        cx.not_negative(&path.field(name), number);
    }
    if let Some(get) = &probe.http_get {
        let path = path.field("httpGet");
        cx.required_port(&path.field("port"), get.port);
        if !matches!(get.scheme.as_str(), "" | "HTTP" | "HTTPS") {
            cx.error(code::PROBE, &path.field("scheme"), format!("`{}` is not a scheme", get.scheme), "HTTP or HTTPS");
        }
    } else if let Some(socket) = &probe.tcp_socket {
        cx.required_port(&path.field("tcpSocket").field("port"), socket.port);
    } else if let Some(exec) = &probe.exec {
        if exec.command.is_empty() {
            cx.error(code::PROBE, &path.field("exec").field("command"), "the command is empty", "");
        }
    } else if probe.grpc.is_none() {
        cx.error(code::PROBE, path, "this probe checks nothing", "give httpGet, tcpSocket, exec or grpc");
    }
}
