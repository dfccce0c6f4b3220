//! Istio's standard metrics: series by labels, a cell per worker, summed when scraped.
//!
//! In:  label sets (rarely), observations (per request, without a lock or a look-up: see [`super::recorder`]).
//! Out: Prometheus text.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::cluster::{PeerLabels, ServiceNames};
use crate::config::listener::Direction;
use crate::http::record::{Protocol, ResponseFlags};

/// Series that are kept apart, per metric and reporter: callers choose the labels of inbound series, and shall not push out the others.
/// What comes after is counted in one series whose labels say `overflow`.
pub const MAX_SERIES: usize = 5_000;
/// gRPC's own codes end here; an application's inventions are counted as `UNKNOWN`.
const MAX_GRPC_STATUS: u16 = 16;
const UNKNOWN_GRPC_STATUS: u16 = 2;

/// Upper bounds in microseconds. Source: Envoy's default histogram buckets (0.5 ms to 1 h), which Istio keeps.
const BOUNDS_MICROS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];
/// The same as label values, in milliseconds.
const BOUNDS_TEXT: [&str; 19] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000", "300000", "600000",
    "1800000", "3600000",
];

/// All series of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Reported<RequestCell>,
    tcp: Reported<TcpCell>,
}

/// A metric's series by who reports them.
#[derive(Debug)]
struct Reported<C> {
    source: Family<C>,
    destination: Family<C>,
}

/// A series' cells, each with the worker that writes it.
type Cells<C> = Vec<(usize, Arc<C>)>;

/// The series of a label set, one cell per worker.
#[derive(Debug)]
struct Family<C> {
    series: Mutex<HashMap<Box<str>, Cells<C>>>,
}

/// One worker's part of a series of requests. Written by that worker alone, read by scrapes.
#[derive(Debug, Default)]
pub struct RequestCell {
    count: AtomicU64,
    sum_micros: AtomicU64,
    /// Not cumulative; what is above the last bound is in `count` alone.
    buckets: [AtomicU64; BOUNDS_MICROS.len()],
}

/// One worker's part of a series of TCP connections.
#[derive(Debug, Default)]
pub struct TcpCell {
    opened: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Adds without the cost of an atomic read-modify-write: a cell has one writer.
fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
}

impl RequestCell {
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        add(&self.count, 1);
        add(&self.sum_micros, micros);
        if let Some(bucket) = self.buckets.get(BOUNDS_MICROS.partition_point(|bound| *bound < micros)) {
            add(bucket, 1);
        }
    }
}

impl TcpCell {
    pub fn open(&self) {
        add(&self.opened, 1);
    }

    /// `sent` is towards the downstream.
    pub fn close(&self, received: u64, sent: u64) {
        add(&self.closed, 1);
        add(&self.received, received);
        add(&self.sent, sent);
    }
}

impl<C> Default for Family<C> {
    fn default() -> Self {
        Self { series: Mutex::default() }
    }
}

impl<C> Default for Reported<C> {
    fn default() -> Self {
        Self { source: Family::default(), destination: Family::default() }
    }
}

impl<C: Default> Reported<C> {
    fn by(&self, reporter: Direction) -> &Family<C> {
        match reporter {
            Direction::Outbound => &self.source,
            Direction::Inbound => &self.destination,
        }
    }

    fn sums<const N: usize>(&self, read: impl Fn(&C) -> [u64; N]) -> Vec<(Box<str>, [u64; N])> {
        let mut sums = self.destination.sums(&read);
        sums.extend(self.source.sums(&read));
        sums
    }

    fn series(&self) -> usize {
        self.source.series.lock().len() + self.destination.series.lock().len()
    }
}

impl<C: Default> Family<C> {
    /// The worker's cell of a series. A lock and a look-up: callers keep the cell.
    fn cell(&self, worker: usize, labels: &str, overflow: impl FnOnce() -> String) -> Arc<C> {
        let mut series = self.series.lock();
        let place = if series.contains_key(labels) || series.len() < MAX_SERIES { labels.to_owned() } else { overflow() };
        let cells = series.entry(place.into()).or_default();
        if let Some((_, cell)) = cells.iter().find(|(owner, _)| *owner == worker) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(C::default());
        cells.push((worker, Arc::clone(&cell)));
        cell
    }

    /// Labels and the sum of `read` over the workers, in the order of labels.
    fn sums<const N: usize>(&self, read: impl Fn(&C) -> [u64; N]) -> Vec<(Box<str>, [u64; N])> {
        let series = self.series.lock();
        let mut sums: Vec<_> = series
            .iter()
            .map(|(labels, cells)| {
                let mut total = [0_u64; N];
                for (_, cell) in cells {
                    total.iter_mut().zip(read(cell)).for_each(|(total, value)| *total = total.wrapping_add(value));
                }
                (labels.clone(), total)
            })
            .collect();
        drop(series);
        sums.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        sums
    }
}

impl Metrics {
    pub fn request_cell(&self, worker: usize, labels: &RequestLabels<'_>) -> Arc<RequestCell> {
        self.requests.by(labels.reporter).cell(worker, &labels.to_string(), || overflow(labels.reporter, true))
    }

    pub fn tcp_cell(&self, worker: usize, labels: &TcpLabels<'_>) -> Arc<TcpCell> {
        self.tcp.by(labels.reporter).cell(worker, &labels.to_string(), || overflow(labels.reporter, false))
    }

    /// Series kept at this time.
    pub fn series(&self) -> usize {
        self.requests.series() + self.tcp.series()
    }

    /// Appends Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let requests = self.requests.sums(|cell| {
            let mut values = [0; BOUNDS_MICROS.len() + 2];
            for (value, bucket) in values.iter_mut().zip(&cell.buckets) {
                *value = bucket.load(Ordering::Relaxed);
            }
            // Read after the buckets, which may not sum up to more.
            values[BOUNDS_MICROS.len()] = cell.sum_micros.load(Ordering::Relaxed);
            values[BOUNDS_MICROS.len() + 1] = cell.count.load(Ordering::Relaxed);
            values
        });
        if !requests.is_empty() {
            head(out, "istio_requests_total", "counter", "Requests handled by the proxy.");
            for (labels, values) in &requests {
                line(out, "istio_requests_total", labels, values[BOUNDS_MICROS.len() + 1]);
            }
            head(out, "istio_request_duration_milliseconds", "histogram", "Time from a request's head to the end of its response.");
            for (labels, values) in &requests {
                histogram(out, "istio_request_duration_milliseconds", labels, values);
            }
        }
        let read = |cell: &TcpCell| [&cell.opened, &cell.closed, &cell.sent, &cell.received].map(|value| value.load(Ordering::Relaxed));
        let tcp = self.tcp.sums(read);
        let names = [
            ("istio_tcp_connections_opened_total", "TCP connections opened."),
            ("istio_tcp_connections_closed_total", "TCP connections closed."),
            ("istio_tcp_sent_bytes_total", "Bytes sent to the downstream of TCP connections."),
            ("istio_tcp_received_bytes_total", "Bytes received from the downstream of TCP connections."),
        ];
        for (place, (name, help)) in names.into_iter().enumerate().filter(|_| !tcp.is_empty()) {
            head(out, name, "counter", help);
            for (labels, values) in &tcp {
                line(out, name, labels, values[place]);
            }
        }
    }
}

/// The two lines before a metric's series.
pub(crate) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail, here and below.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// One series; `labels` without braces, may be empty.
pub(crate) fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{labels}}} {value}") };
}

fn histogram(out: &mut String, name: &str, labels: &str, values: &[u64; BOUNDS_MICROS.len() + 2]) {
    let (sum, count) = (values[BOUNDS_MICROS.len()], values[BOUNDS_MICROS.len() + 1]);
    let mut below = 0_u64;
    for (bound, value) in BOUNDS_TEXT.iter().zip(values) {
        below = below.saturating_add(*value);
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}.{:03}", sum / 1000, sum % 1000);
    let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
}

/// Labels that HTTP and TCP share, by Istio's names. Empty values are printed `unknown`.
#[derive(Debug, Clone, Copy)]
pub struct TcpLabels<'a> {
    pub reporter: Direction,
    pub source: &'a PeerLabels,
    pub destination: &'a PeerLabels,
    /// `None`: no cluster was chosen.
    pub service: Option<&'a ServiceNames>,
    pub flags: ResponseFlags,
    pub protocol: &'static str,
}

/// Labels of an HTTP series.
#[derive(Debug, Clone, Copy)]
pub struct RequestLabels<'a> {
    pub reporter: Direction,
    pub source: &'a PeerLabels,
    pub destination: &'a PeerLabels,
    pub service: Option<&'a ServiceNames>,
    pub flags: ResponseFlags,
    pub protocol: Protocol,
    /// 0: none was sent.
    pub status: u16,
    pub grpc_status: Option<u16>,
}

impl std::fmt::Display for RequestLabels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        };
        let Self { reporter, source, destination, service, flags, .. } = *self;
        TcpLabels { reporter, source, destination, service, flags, protocol }.fmt(f)?;
        write!(f, ",response_code=\"{}\"", self.status)?;
        let known = |status| if status > MAX_GRPC_STATUS { UNKNOWN_GRPC_STATUS } else { status };
        match self.grpc_status.map(known) {
            Some(status) => write!(f, ",grpc_response_status=\"{status}\""),
            None => f.write_str(",grpc_response_status=\"\""),
        }
    }
}

impl std::fmt::Display for TcpLabels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reporter = reporter(self.reporter);
        write!(f, "reporter=\"{reporter}\"")?;
        let (source, destination) = (self.source, self.destination);
        label(f, "source_workload", &source.workload)?;
        label(f, "source_canonical_service", &source.canonical_service)?;
        label(f, "source_canonical_revision", or(&source.canonical_revision, "latest"))?;
        label(f, "source_workload_namespace", &source.namespace)?;
        label(f, "source_principal", "")?;
        label(f, "source_app", &source.app)?;
        label(f, "source_version", &source.version)?;
        label(f, "source_cluster", &source.cluster)?;
        label(f, "destination_workload", &destination.workload)?;
        label(f, "destination_workload_namespace", &destination.namespace)?;
        label(f, "destination_principal", "")?;
        label(f, "destination_app", &destination.app)?;
        label(f, "destination_version", &destination.version)?;
        let (host, name, namespace) = self.service();
        label(f, "destination_service", host)?;
        label(f, "destination_canonical_service", &destination.canonical_service)?;
        label(f, "destination_canonical_revision", or(&destination.canonical_revision, "latest"))?;
        label(f, "destination_service_name", name)?;
        label(f, "destination_service_namespace", namespace)?;
        label(f, "destination_cluster", &destination.cluster)?;
        write!(f, ",request_protocol=\"{}\",response_flags=\"{}\"", self.protocol, self.flags)?;
        // Only the server's side knows. Source: Istio's stats filter.
        let security = if self.reporter == Direction::Inbound { "none" } else { "unknown" };
        write!(f, ",connection_security_policy=\"{security}\"")
    }
}

impl<'a> TcpLabels<'a> {
    /// Host, short name and namespace of the service asked for. A server without a service is known by its canonical name.
    fn service(&self) -> (&'a str, &'a str, &'a str) {
        let (host, name, namespace) = match self.service {
            Some(service) => (&*service.host, &*service.name, &*service.namespace),
            None => ("", "", ""),
        };
        match self.reporter {
            Direction::Outbound => (host, or(name, host), or(namespace, &self.destination.namespace)),
            Direction::Inbound => {
                let canonical = &*self.destination.canonical_service;
                (or(host, canonical), or(name, canonical), or(namespace, &self.destination.namespace))
            }
        }
    }
}

fn or<'a>(value: &'a str, fallback: &'a str) -> &'a str {
    if value.is_empty() { fallback } else { value }
}

fn reporter(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "source",
        Direction::Inbound => "destination",
    }
}

/// `,name="value"`, with the escapes of the text format; empty is `unknown`.
fn label(f: &mut std::fmt::Formatter<'_>, name: &str, value: &str) -> std::fmt::Result {
    write!(f, ",{name}=\"{}\"", Escaped(or(value, "unknown")))
}

/// A label value in Prometheus' text format.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['"', '\\', '\n']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'"' => "\\\"",
                b'\\' => "\\\\",
                _ => "\\n",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

/// The series of everything that has no series of its own any more.
fn overflow(direction: Direction, http: bool) -> String {
    let words = [
        "source_workload",
        "source_workload_namespace",
        "source_app",
        "destination_workload",
        "destination_workload_namespace",
        "destination_app",
        "destination_service",
        "destination_service_name",
        "destination_service_namespace",
    ];
    let mut labels = format!("reporter=\"{}\"", reporter(direction));
    for word in words.into_iter().chain(http.then_some("response_code")) {
        let _ = write!(labels, ",{word}=\"overflow\"");
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(workload: &str) -> PeerLabels {
        PeerLabels {
            workload: workload.into(),
            namespace: "shop".into(),
            app: "app".into(),
            version: "v1".into(),
            canonical_service: "canonical".into(),
            canonical_revision: "v1".into(),
            cluster: "Kubernetes".into(),
            ..PeerLabels::default()
        }
    }

    fn labels<'a>(reporter: Direction, source: &'a PeerLabels, destination: &'a PeerLabels) -> RequestLabels<'a> {
        RequestLabels {
            reporter,
            source,
            destination,
            service: None,
            flags: ResponseFlags::NONE,
            protocol: Protocol::Http,
            status: 200,
            grpc_status: None,
        }
    }

    #[test]
    fn labels_are_istios_with_istios_fallbacks() {
        let (order, product, nobody) = (peer("order"), peer("product"), PeerLabels::default());
        let service = ServiceNames {
            host: "product.shop.svc.cluster.local".into(),
            name: "product".into(),
            namespace: "shop".into(),
            subset: "".into(),
        };
        let known = RequestLabels { service: Some(&service), ..labels(Direction::Outbound, &order, &product) };
        let want = "reporter=\"source\",source_workload=\"order\",source_canonical_service=\"canonical\",source_canonical_revision=\"v1\",\
            source_workload_namespace=\"shop\",source_principal=\"unknown\",source_app=\"app\",source_version=\"v1\",\
            source_cluster=\"Kubernetes\",destination_workload=\"product\",destination_workload_namespace=\"shop\",\
            destination_principal=\"unknown\",destination_app=\"app\",destination_version=\"v1\",\
            destination_service=\"product.shop.svc.cluster.local\",destination_canonical_service=\"canonical\",\
            destination_canonical_revision=\"v1\",destination_service_name=\"product\",destination_service_namespace=\"shop\",\
            destination_cluster=\"Kubernetes\",request_protocol=\"http\",response_flags=\"-\",connection_security_policy=\"unknown\",\
            response_code=\"200\",grpc_response_status=\"\"";
        assert_eq!(known.to_string(), want);
        let cases = [
            ("client without a cluster", labels(Direction::Outbound, &order, &nobody), "destination_service=\"unknown\""),
            ("server without a service", labels(Direction::Inbound, &nobody, &product), "destination_service=\"canonical\""),
            ("server's namespace", labels(Direction::Inbound, &nobody, &product), "destination_service_namespace=\"shop\""),
            ("unknown client", labels(Direction::Inbound, &nobody, &product), "source_workload=\"unknown\""),
            ("server knows security", labels(Direction::Inbound, &nobody, &product), "connection_security_policy=\"none\""),
            (
                "gRPC status",
                RequestLabels { protocol: Protocol::Grpc, grpc_status: Some(14), ..known },
                "request_protocol=\"grpc\",response_flags=\"-\",connection_security_policy=\"unknown\",response_code=\"200\",grpc_response_status=\"14\"",
            ),
            ("invented gRPC status", RequestLabels { grpc_status: Some(777), ..known }, "grpc_response_status=\"2\""),
            ("flags", RequestLabels { flags: ResponseFlags::NO_ROUTE_FOUND, status: 404, ..known }, "response_flags=\"NR\""),
        ];
        for (name, labels, want) in cases {
            assert!(labels.to_string().contains(want), "{name}: {labels}");
        }
    }

    #[test]
    fn workers_are_summed_and_buckets_are_cumulative() {
        let metrics = Metrics::default();
        let (order, product) = (peer("order"), peer("product"));
        let labels = labels(Direction::Outbound, &order, &product);
        for (worker, micros) in [(0, 500), (1, 501), (0, 7_000_000_000), (1, 24_999)] {
            metrics.request_cell(worker, &labels).observe(Duration::from_micros(micros));
        }
        let mut text = String::new();
        metrics.render(&mut text);
        let cases = [
            ("istio_requests_total{", " 4"),
            ("_bucket{", "le=\"0.5\"} 1"),
            ("_bucket{", "le=\"1\"} 2"),
            ("_bucket{", "le=\"25\"} 3"),
            ("_bucket{", "le=\"3600000\"} 3"),
            ("_bucket{", "le=\"+Inf\"} 4"),
            ("_sum{", " 7000026.000"),
            ("_count{", " 4"),
        ];
        for (start, end) in cases {
            assert!(text.lines().any(|line| line.contains(start) && line.ends_with(end)), "{start} {end}\n{text}");
        }
        assert_eq!(text.matches("# TYPE").count(), 2);
        assert_eq!(metrics.series(), 1);
    }

    #[test]
    fn series_are_bounded() {
        let metrics = Metrics::default();
        let nobody = PeerLabels::default();
        for number in 0..MAX_SERIES + 50 {
            let workload = peer(&number.to_string());
            metrics
                .tcp_cell(
                    0,
                    &TcpLabels {
                        reporter: Direction::Inbound,
                        source: &workload,
                        destination: &nobody,
                        service: None,
                        flags: ResponseFlags::NONE,
                        protocol: "tcp",
                    },
                )
                .open();
        }
        assert_eq!(metrics.series(), MAX_SERIES + 1);
        let mut text = String::new();
        metrics.render(&mut text);
        let overflow = text.lines().find(|line| line.contains("overflow")).unwrap();
        assert!(overflow.starts_with("istio_tcp_connections_opened_total{reporter=\"destination\"") && overflow.ends_with(" 50"));
    }

    #[test]
    fn label_values_cannot_end_their_quotation() {
        assert_eq!(Escaped("a\"b\\c\nd").to_string(), "a\\\"b\\\\c\\nd");
    }
}
