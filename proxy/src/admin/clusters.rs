//! `/clusters`: clusters, their endpoints, and what was counted of them.
//!
//! In:  the snapshot and its live state.
//! Out: Envoy's text lines, or its `ClusterStatuses` as JSON.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::{AdminState, Query, Reply};
use crate::config::Snapshot;
use crate::config::cluster::{Cluster, ClusterKind, Endpoint, EndpointList};

pub(super) fn page(state: &AdminState, query: Query<'_>) -> Reply {
    let snapshot = state.store.snapshot();
    if query.get("format").as_deref() == Some("json") {
        let statuses: Vec<_> = sorted(&snapshot).into_iter().map(|cluster| status(cluster)).collect();
        return Reply::json(&json!({ "cluster_statuses": statuses }));
    }
    let mut body = String::new();
    for cluster in sorted(&snapshot) {
        lines(cluster, &mut body);
    }
    Reply::text(body)
}

/// By name.
pub(super) fn sorted(snapshot: &Snapshot) -> Vec<&Arc<Cluster>> {
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_unstable_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    clusters
}

pub(super) fn endpoints(cluster: &Cluster) -> Arc<EndpointList> {
    match &cluster.kind {
        ClusterKind::Endpoints(list) => Arc::clone(list),
        ClusterKind::Dns(dns) => dns.resolved.load_full(),
        ClusterKind::OriginalDestination { .. } | ClusterKind::DynamicForwardProxy => Arc::default(),
    }
}

fn kind(cluster: &Cluster) -> &'static str {
    match &cluster.kind {
        ClusterKind::Endpoints(_) => "endpoints",
        ClusterKind::Dns(_) => "dns",
        ClusterKind::OriginalDestination { .. } => "original_dst",
        ClusterKind::DynamicForwardProxy => "dynamic_forward_proxy",
    }
}

/// Name, kind and value of what is counted of an endpoint, in Envoy's words.
fn counted(endpoint: &Endpoint) -> [(&'static str, &'static str, u64); 4] {
    let live = &endpoint.live;
    [
        ("cx_active", "GAUGE", live.connections.load(Ordering::Relaxed).into()),
        ("rq_active", "GAUGE", live.open_requests.load(Ordering::Relaxed).into()),
        ("rq_error", "COUNTER", live.errors.load(Ordering::Relaxed)),
        ("rq_total", "COUNTER", live.requests.load(Ordering::Relaxed)),
    ]
}

fn lines(cluster: &Cluster, out: &mut String) {
    let name = &cluster.name;
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name}::observability_name::{name}");
    let _ = writeln!(out, "{name}::type::{}", kind(cluster));
    let _ = writeln!(out, "{name}::added_via_api::true");
    for endpoint in &endpoints(cluster).endpoints {
        let at = endpoint.address;
        for (counter, _, value) in counted(endpoint) {
            let _ = writeln!(out, "{name}::{at}::{counter}::{value}");
        }
        let _ = writeln!(out, "{name}::{at}::health_flags::healthy");
        let _ = writeln!(out, "{name}::{at}::weight::{}", endpoint.weight);
        if !endpoint.peer.workload.is_empty() {
            let _ = writeln!(out, "{name}::{at}::workload::{}.{}", endpoint.peer.workload, endpoint.peer.namespace);
        }
    }
}

fn status(cluster: &Cluster) -> serde_json::Value {
    let hosts: Vec<_> = endpoints(cluster).endpoints.iter().map(|endpoint| host(endpoint)).collect();
    json!({
        "name": cluster.name.as_str(),
        "observability_name": cluster.name.as_str(),
        "added_via_api": true,
        "type": kind(cluster),
        "service": { "host": &*cluster.service.host, "name": &*cluster.service.name, "namespace": &*cluster.service.namespace, "subset": &*cluster.service.subset },
        "host_statuses": hosts,
    })
}

fn host(endpoint: &Endpoint) -> serde_json::Value {
    let stats: Vec<_> = counted(endpoint)
        .into_iter()
        .map(|(name, kind, value)| json!({ "name": name, "type": kind, "value": value.to_string() }))
        .collect();
    json!({
        "address": { "socket_address": { "address": endpoint.address.ip().to_string(), "port_value": endpoint.address.port() } },
        "stats": stats,
        "health_status": { "eds_health_status": "HEALTHY" },
        "weight": endpoint.weight,
        "workload": { "name": endpoint.peer.workload, "namespace": endpoint.peer.namespace, "instance": endpoint.peer.instance },
    })
}
