//! `/stats` and `/stats/prometheus`: one list of what is counted, in both spellings.
//!
//! In:  counters of the process, live state of clusters, request metrics.
//! Out: text. Clusters that nothing was sent to are left out: a sidecar knows thousands of them.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use http::StatusCode;
use pillion_xds::resource::ResourceType;
use serde_json::json;

use super::{AdminState, Query, Reply, clusters, open_connections, server_state};
use crate::telemetry::metrics::{Escaped, head, line};

/// One metric: its names, what it is, and its values.
struct Family {
    /// In Prometheus.
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: Vec<Sample>,
}

/// One value: Prometheus' labels, and the flat name.
struct Sample {
    labels: String,
    flat: String,
    value: i64,
}

pub(super) fn page(state: &AdminState, query: Query<'_>) -> Reply {
    let format = query.get("format");
    if format.as_deref() == Some("prometheus") {
        return prometheus(state);
    }
    let filter = match query.get("filter").map(|filter| regex::RegexBuilder::new(&filter).size_limit(1 << 18).build()) {
        Some(Ok(filter)) => Some(filter),
        Some(Err(_)) => return Reply::error(StatusCode::BAD_REQUEST, "filter is no regular expression\n"),
        None => None,
    };
    let mut flat: Vec<(String, i64)> =
        families(state).into_iter().flat_map(|family| family.samples).map(|sample| (sample.flat, sample.value)).collect();
    flat.retain(|(name, _)| filter.as_ref().is_none_or(|filter| filter.is_match(name)));
    flat.sort_unstable();
    if format.as_deref() == Some("json") {
        let stats: Vec<_> = flat.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        return Reply::json(&json!({ "stats": stats }));
    }
    Reply::text(flat.into_iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {value}");
        text
    }))
}

pub(super) fn prometheus(state: &AdminState) -> Reply {
    let mut body = String::with_capacity(16 << 10);
    state.metrics.render(&mut body);
    for family in families(state).into_iter().filter(|family| !family.samples.is_empty()) {
        head(&mut body, family.name, family.kind, family.help);
        for sample in family.samples {
            line(&mut body, family.name, &sample.labels, sample.value);
        }
    }
    process(&mut body);
    Reply { status: StatusCode::OK, content_type: "text/plain; version=0.0.4; charset=utf-8", body }
}

fn families(state: &AdminState) -> Vec<Family> {
    let mut families = of_the_server(state);
    families.extend(of_the_stream(state));
    families.extend(of_clusters(state));
    families
}

fn single(name: &'static str, kind: &'static str, help: &'static str, flat: &str, value: i64) -> Family {
    Family { name, kind, help, samples: vec![Sample { labels: String::new(), flat: flat.to_owned(), value }] }
}

fn of_the_server(state: &AdminState) -> Vec<Family> {
    let sync = state.sync.borrow().clone();
    let snapshot = state.store.snapshot();
    let build = format!("component=\"proxy\",tag=\"{}\"", env!("CARGO_PKG_VERSION"));
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let total = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    vec![
        Family {
            name: "istio_build",
            kind: "gauge",
            help: "What runs here.",
            samples: vec![Sample { labels: build, flat: "istio_build".into(), value: 1 }],
        },
        single("envoy_server_live", "gauge", "1 when it serves.", "server.live", i64::from(server_state(state) == "LIVE")),
        single("envoy_server_uptime", "gauge", "Seconds since the start.", "server.uptime", total(state.started.elapsed().as_secs())),
        single("envoy_server_concurrency", "gauge", "Worker threads.", "server.concurrency", count(state.bootstrap.workers)),
        single(
            "envoy_server_total_connections",
            "gauge",
            "Downstream HTTP connections open.",
            "server.total_connections",
            open_connections(state).into(),
        ),
        single(
            "envoy_listener_manager_total_listeners_active",
            "gauge",
            "Listeners, bound or not.",
            "listener_manager.total_listeners_active",
            count(snapshot.listeners.iter().count()),
        ),
        single(
            "envoy_cluster_manager_active_clusters",
            "gauge",
            "Clusters.",
            "cluster_manager.active_clusters",
            count(snapshot.clusters.len()),
        ),
        single("pillion_generation", "gauge", "Generation of the configuration in force.", "pillion.generation", total(sync.generation)),
        single(
            "pillion_config_stale",
            "gauge",
            "1 while the configuration in force is not known to be current.",
            "pillion.config_stale",
            state.stats.config_stale.get(),
        ),
        single(
            "pillion_config_swaps_total",
            "counter",
            "Configurations put in force.",
            "pillion.config_swaps",
            total(state.stats.config_swaps.get()),
        ),
        single(
            "pillion_listeners_unbound",
            "gauge",
            "Listeners whose address could not be had.",
            "pillion.listeners_unbound",
            state.stats.listeners_unbound.get(),
        ),
        single(
            "pillion_panics_total",
            "counter",
            "Tasks that panicked; each ended one connection.",
            "pillion.panics",
            total(state.panics.get()),
        ),
        single(
            "pillion_access_log_dropped_total",
            "counter",
            "Access log lines lost because the reader was too slow.",
            "pillion.access_log_dropped",
            total(state.sinks.dropped()),
        ),
        single(
            "pillion_metric_series",
            "gauge",
            "Series of request and TCP metrics.",
            "pillion.metric_series",
            count(state.metrics.series()),
        ),
    ]
}

fn of_the_stream(state: &AdminState) -> Vec<Family> {
    let stats = &state.stats;
    let per_type = |flat: &'static str, value: &dyn Fn(ResourceType) -> u64| -> Vec<Sample> {
        let samples = ResourceType::ALL.into_iter().map(|kind| Sample {
            labels: format!("type=\"{}\"", kind.short()),
            flat: format!("pillion.xds.{}.{flat}", kind.short()),
            value: i64::try_from(value(kind)).unwrap_or(i64::MAX),
        });
        samples.filter(|sample| sample.value > 0).collect()
    };
    vec![
        single(
            "envoy_control_plane_connected_state",
            "gauge",
            "1 while a stream to the control plane is open.",
            "control_plane.connected_state",
            stats.xds_connected.get(),
        ),
        single(
            "pillion_xds_streams_total",
            "counter",
            "Streams opened to the control plane.",
            "pillion.xds.streams",
            i64::try_from(stats.xds_streams.get()).unwrap_or(i64::MAX),
        ),
        Family {
            name: "pillion_xds_updates_total",
            kind: "counter",
            help: "Responses of the control plane.",
            samples: per_type("updates", &|kind| stats.updates(kind).get()),
        },
        Family {
            name: "pillion_xds_refused_total",
            kind: "counter",
            help: "Resources refused; their last good versions stay.",
            samples: per_type("refused", &|kind| stats.refused(kind).get()),
        },
    ]
}

/// A counter of a cluster: Prometheus' name, kind, help, flat name, and where it is.
type ClusterCounter = (&'static str, &'static str, &'static str, &'static str, fn(&Activity) -> u64);

/// What was counted of a cluster.
struct Activity {
    requests: u64,
    retries: u64,
    connect_failures: u64,
    timeouts: u64,
    open_requests: u64,
    connections: u64,
    endpoints: u64,
}

fn of_clusters(state: &AdminState) -> Vec<Family> {
    const COUNTERS: [ClusterCounter; 7] = [
        ("envoy_cluster_upstream_rq_total", "counter", "Requests sent.", "upstream_rq_total", |a| a.requests),
        ("envoy_cluster_upstream_rq_retry", "counter", "Tries after the first.", "upstream_rq_retry", |a| a.retries),
        ("envoy_cluster_upstream_rq_timeout", "counter", "Requests that took too long.", "upstream_rq_timeout", |a| a.timeouts),
        ("envoy_cluster_upstream_cx_connect_fail", "counter", "Connections not made.", "upstream_cx_connect_fail", |a| a.connect_failures),
        ("envoy_cluster_upstream_rq_active", "gauge", "Requests open.", "upstream_rq_active", |a| a.open_requests),
        ("envoy_cluster_upstream_cx_active", "gauge", "Connections open.", "upstream_cx_active", |a| a.connections),
        ("envoy_cluster_membership_total", "gauge", "Endpoints.", "membership_total", |a| a.endpoints),
    ];
    let snapshot = state.store.snapshot();
    let rows: Vec<(&str, Activity)> = clusters::sorted(&snapshot)
        .into_iter()
        .filter_map(|cluster| {
            let live = &cluster.live;
            let list = clusters::endpoints(cluster);
            let sum = |read: fn(&crate::config::cluster::EndpointLive) -> u64| list.endpoints.iter().map(|e| read(&e.live)).sum();
            let activity = Activity {
                requests: live.requests.load(Ordering::Relaxed),
                retries: live.retries.load(Ordering::Relaxed),
                connect_failures: live.connect_failures.load(Ordering::Relaxed),
                timeouts: live.timeouts.load(Ordering::Relaxed),
                open_requests: sum(|live| live.open_requests.load(Ordering::Relaxed).into()),
                connections: sum(|live| live.connections.load(Ordering::Relaxed).into()),
                endpoints: list.endpoints.len() as u64,
            };
            (activity.requests + activity.connect_failures + activity.connections > 0).then(|| (cluster.name.as_str(), activity))
        })
        .collect();
    let family = |(name, kind, help, flat, read): ClusterCounter| {
        let samples = rows.iter().map(|(cluster, activity)| Sample {
            labels: format!("cluster_name=\"{}\"", Escaped(cluster)),
            flat: format!("cluster.{cluster}.{flat}"),
            value: i64::try_from(read(activity)).unwrap_or(i64::MAX),
        });
        Family { name, kind, help, samples: samples.collect() }
    };
    COUNTERS.into_iter().map(family).collect()
}

/// Prometheus' usual facts about a process, as far as `/proc` tells.
fn process(out: &mut String) {
    let page = rustix::param::page_size() as u64;
    if let Some(resident) = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()) {
        head(out, "process_resident_memory_bytes", "gauge", "Resident memory.");
        line(out, "process_resident_memory_bytes", "", resident * page);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        head(out, "process_open_fds", "gauge", "Open file descriptors.");
        line(out, "process_open_fds", "", files.count());
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the command's name, which may have spaces: field 14 and 15 are user and system time.
    let times = stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()));
    if let Some(ticks) = times.map(Iterator::sum::<u64>) {
        let per_second = rustix::param::clock_ticks_per_second();
        head(out, "process_cpu_seconds_total", "counter", "User and system time.");
        line(out, "process_cpu_seconds_total", "", ticks as f64 / per_second as f64);
    }
}
