//! Rules of WorkloadEntry, also as an endpoint of a ServiceEntry. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use std::net::IpAddr;

use super::check::{Check, host_problem};
use crate::code;
use crate::kinds::workload_entry::WorkloadEntry;
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &WorkloadEntry) {
    if body.address.is_empty() && body.network.is_empty() {
        cx.error(code::REQUIRED, &path.field("address"), "an address is required", "an IP address, a host name, or unix:///path");
    }
    settings(cx, path, body);
}

/// Everything but the need of an address: a template has none.
pub(super) fn settings(cx: &mut Check<'_>, path: &Path<'_>, body: &WorkloadEntry) {
    let address = path.field("address");
    if let Some(socket) = body.address.strip_prefix("unix://") {
        if !socket.starts_with(['/', '@']) || socket.ends_with('/') {
            cx.error(code::ENDPOINT, &address, format!("`{}` is not a socket", body.address), "an absolute path: unix:///var/run/app.sock");
        }
        if !body.ports.is_empty() {
            cx.error(code::ENDPOINT, &path.field("ports"), "a socket has no ports", "remove them");
        }
    } else if !body.address.is_empty()
        && body.address.parse::<IpAddr>().is_err()
        && let Some(problem) = host_problem(&body.address, false)
    {
        let help = if body.address.contains(':') { "ports go under `ports`" } else { "an IP address, a host name, or unix:///path" };
        cx.error(code::ADDRESS, &address, format!("`{}` is not an address: {problem}", body.address), help);
    }
    for (name, port) in &body.ports {
        let path = path.field("ports");
        let path = path.key(name);
        if host_problem(name, false).is_some() || name.contains('.') {
            cx.error(code::LABEL, &path, format!("`{name}` is not the name of a port"), "");
        }
        cx.port(&path, *port);
    }
    cx.labels(&path.field("labels"), &body.labels);
    if body.locality.split('/').count() > 3 || body.locality.starts_with('/') || body.locality.contains("//") {
        cx.error(code::LOCALITY, &path.field("locality"), format!("`{}` is not a locality", body.locality), "region/zone/subzone");
    }
}
