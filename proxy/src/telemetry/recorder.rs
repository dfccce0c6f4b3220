//! Telemetry of one worker: metrics by cached handles, and the access log.
//!
//! In:  [`RequestRecord`]s and [`TcpRecord`]s from the path's one `finish`.
//! Out: observations in this worker's cells, log lines in its buffers. On the warm path neither lock nor look-up by labels.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::Version;
use smallvec::SmallVec;

use super::access_log::LogEntry;
use super::metrics::{Metrics, RequestCell, RequestLabels, TcpCell, TcpLabels};
use super::peer;
use crate::config::cluster::{Cluster, PeerLabels, ServiceNames};
use crate::config::listener::Direction;
use crate::http::record::{Protocol, Recorder, RequestRecord, ResponseFlags, TcpRecord};

/// Handles kept in one slot; a peer with more kinds of answers than this goes through the look-up for the rest.
const MAX_HANDLES: usize = 64;

/// Implements [`Recorder`] for one worker.
#[derive(Debug)]
pub struct WorkerRecorder {
    worker: usize,
    metrics: Arc<Metrics>,
    local: Arc<PeerLabels>,
}

/// What a slot holds: the cells of everything that was seen of its endpoint, cluster, peer or connection.
#[derive(Default)]
struct Handles {
    requests: RefCell<SmallVec<[RequestHandle; 2]>>,
    tcp: RefCell<SmallVec<[TcpHandle; 1]>>,
}

type RequestHandle = (RequestKey, Arc<RequestCell>);
type TcpHandle = (TcpKey, Arc<TcpCell>);

/// What may differ between two requests of one slot.
#[derive(PartialEq)]
struct RequestKey {
    status: u16,
    grpc_status: Option<u16>,
    flags: ResponseFlags,
    protocol: Protocol,
    direction: Direction,
    service: Option<ServiceNames>,
    /// The endpoint's labels; a slot may outlive a change of them.
    endpoint: Option<Arc<PeerLabels>>,
}

#[derive(PartialEq)]
struct TcpKey {
    flags: ResponseFlags,
    direction: Direction,
    service: Option<ServiceNames>,
    endpoint: Option<Arc<PeerLabels>>,
}

impl WorkerRecorder {
    /// `local` are this proxy's own labels.
    pub fn new(worker: usize, metrics: Arc<Metrics>, local: Arc<PeerLabels>) -> Self {
        Self { worker, metrics, local }
    }

    fn observe(&self, record: &RequestRecord<'_>) {
        let slot = match record.direction {
            Direction::Outbound => record.endpoint_handles.or(record.cluster_handles),
            Direction::Inbound => record.peer.map(|peer| &peer.handles),
        };
        let handles = slot.unwrap_or(record.connection_handles).get_or_init(Handles::default);
        let service = record.cluster.map(|cluster| &cluster.service);
        let endpoint = record.endpoint.map(|endpoint| &endpoint.peer);
        let known = |key: &RequestKey| {
            (key.status, key.grpc_status, key.flags) == (record.status, record.grpc_status, record.flags)
                && (key.protocol, key.direction) == (record.protocol, record.direction)
                && same_service(key.service.as_ref(), service)
                && same_endpoint(key.endpoint.as_ref(), endpoint)
        };
        // The slot is this worker's and nothing below comes back here, so the borrow cannot fail.
        if let Some(handles) = handles
            && let Ok(entries) = handles.requests.try_borrow()
            && let Some((_, cell)) = entries.iter().find(|(key, _)| known(key))
        {
            cell.observe(record.duration);
            return;
        }
        let cell = self.metrics.request_cell(self.worker, &self.labels(record));
        cell.observe(record.duration);
        if let Some(handles) = handles
            && let Ok(mut entries) = handles.requests.try_borrow_mut()
            && entries.len() < MAX_HANDLES
        {
            let key = RequestKey {
                status: record.status,
                grpc_status: record.grpc_status,
                flags: record.flags,
                protocol: record.protocol,
                direction: record.direction,
                service: service.cloned(),
                endpoint: endpoint.cloned(),
            };
            entries.push((key, cell));
        }
    }

    fn labels<'a>(&'a self, record: &RequestRecord<'a>) -> RequestLabels<'a> {
        let (source, destination): (&PeerLabels, &PeerLabels) = match record.direction {
            Direction::Outbound => (&self.local, record.endpoint.map_or(&UNKNOWN, |endpoint| &endpoint.peer)),
            Direction::Inbound => (record.peer.map_or(&UNKNOWN, |peer| &peer.labels), &self.local),
        };
        RequestLabels {
            reporter: record.direction,
            source,
            destination,
            service: record.cluster.map(|cluster| &cluster.service),
            flags: record.flags,
            protocol: record.protocol,
            status: record.status,
            grpc_status: record.grpc_status,
        }
    }

    fn tcp_cell(&self, record: &TcpRecord<'_>) -> Arc<TcpCell> {
        let flags = record.closed.as_ref().map_or(ResponseFlags::NONE, |closed| closed.flags);
        let service = record.cluster.map(|cluster| &cluster.service);
        let endpoint = record.endpoint.map(|endpoint| &endpoint.peer);
        let handles = record.endpoint_handles.and_then(|slot| slot.get_or_init(Handles::default));
        if let Some(handles) = handles
            && let Ok(entries) = handles.tcp.try_borrow()
            && let Some((_, cell)) = entries.iter().find(|(key, _)| {
                key.flags == flags
                    && key.direction == record.direction
                    && same_service(key.service.as_ref(), service)
                    && same_endpoint(key.endpoint.as_ref(), endpoint)
            })
        {
            return Arc::clone(cell);
        }
        let peer: &PeerLabels = endpoint.map_or(&UNKNOWN, |peer| peer);
        let (source, destination): (&PeerLabels, &PeerLabels) = match record.direction {
            Direction::Outbound => (&self.local, peer),
            Direction::Inbound => (&UNKNOWN, &self.local),
        };
        let labels = TcpLabels { reporter: record.direction, source, destination, service, flags, protocol: "tcp" };
        let cell = self.metrics.tcp_cell(self.worker, &labels);
        if let Some(handles) = handles
            && let Ok(mut entries) = handles.tcp.try_borrow_mut()
            && entries.len() < MAX_HANDLES
        {
            let key = TcpKey { flags, direction: record.direction, service: service.cloned(), endpoint: endpoint.cloned() };
            entries.push((key, Arc::clone(&cell)));
        }
        cell
    }
}

/// Whoever is not known.
static UNKNOWN: std::sync::LazyLock<PeerLabels> = std::sync::LazyLock::new(PeerLabels::default);

/// Names are shared by all requests of a cluster: the same allocations nearly always.
fn same_service(kept: Option<&ServiceNames>, now: Option<&ServiceNames>) -> bool {
    match (kept, now) {
        (Some(kept), Some(now)) => {
            let same = |a: &Arc<str>, b: &Arc<str>| Arc::ptr_eq(a, b) || a == b;
            same(&kept.host, &now.host) && same(&kept.name, &now.name) && same(&kept.namespace, &now.namespace)
        }
        (None, None) => true,
        _ => false,
    }
}

fn same_endpoint(kept: Option<&Arc<PeerLabels>>, now: Option<&Arc<PeerLabels>>) -> bool {
    match (kept, now) {
        (Some(kept), Some(now)) => Arc::ptr_eq(kept, now) || kept == now,
        (None, None) => true,
        _ => false,
    }
}

impl Recorder for WorkerRecorder {
    fn request(&self, record: &RequestRecord<'_>) {
        self.observe(record);
        let log = &record.manager.access_log;
        let Some(facts) = record.log.filter(|_| !log.is_off()) else { return };
        let (method, uri) = facts.line.as_ref().map(|(method, uri)| (method, uri)).unzip();
        let path = uri.and_then(http::Uri::path_and_query).map(http::uri::PathAndQuery::as_str);
        log.write(&LogEntry {
            duration: record.duration,
            response_duration: record.upstream_service_time,
            method: method.map(http::Method::as_str),
            path,
            authority: facts.authority.as_ref().and_then(|value| value.to_str().ok()).or_else(|| Some(uri?.authority()?.as_str())),
            scheme: Some(uri.and_then(http::Uri::scheme_str).unwrap_or("http")),
            protocol: Some(protocol(record.version)),
            request_headers: Some(&facts.request_headers),
            response_headers: Some(&facts.response_headers),
            response_trailers: Some(&facts.response_trailers),
            response_code: record.status,
            response_flags: record.flags,
            response_code_details: some(record.details),
            upstream_transport_failure_reason: some(record.upstream_failure),
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            upstream_host: record.endpoint.map(|endpoint| endpoint.address),
            upstream_local_address: record.upstream_local,
            upstream_cluster: record.cluster.map(cluster_name),
            attempts: record.attempts,
            downstream_local_address: Some(record.downstream_local),
            downstream_remote_address: Some(record.downstream_remote),
            downstream_direct_remote_address: Some(record.downstream_remote),
            route_name: some(record.route_name),
            ..LogEntry::at(SystemTime::now() - record.duration)
        });
    }

    fn tcp(&self, record: &TcpRecord<'_>) {
        let Some(closed) = &record.closed else {
            self.tcp_cell(record).open();
            return;
        };
        self.tcp_cell(record).close(closed.bytes_received, closed.bytes_sent);
        let log = &record.proxy.access_log;
        if log.is_off() {
            return;
        }
        log.write(&LogEntry {
            duration: closed.duration,
            response_flags: closed.flags,
            upstream_transport_failure_reason: some(closed.upstream_failure),
            bytes_received: closed.bytes_received,
            bytes_sent: closed.bytes_sent,
            upstream_host: record.endpoint.map(|endpoint| endpoint.address),
            upstream_local_address: record.upstream_local,
            upstream_cluster: record.cluster.map(cluster_name),
            downstream_local_address: Some(record.downstream_local),
            downstream_remote_address: Some(record.downstream_remote),
            downstream_direct_remote_address: Some(record.downstream_remote),
            ..LogEntry::at(SystemTime::now() - closed.duration)
        });
    }

    fn peer(&self, metadata: &[u8]) -> Option<PeerLabels> {
        peer::parse(metadata)
    }
}

/// Puts a recorder where each worker asks for one.
pub fn make_recorder(metrics: Arc<Metrics>, local: Arc<PeerLabels>) -> crate::http::record::MakeRecorder {
    Arc::new(move |worker| Rc::new(WorkerRecorder::new(worker, Arc::clone(&metrics), Arc::clone(&local))) as Rc<dyn Recorder>)
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn cluster_name(cluster: &Cluster) -> &str {
    cluster.name.as_str()
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::config::cluster::{ClusterKind, ClusterName, Endpoint, EndpointLive, LoadBalancing, Transport, UpstreamProtocol};
    use crate::config::listener::{Http2Settings, HttpManager, Listener};
    use crate::http::record::{HandleSlot, LogFacts, Peer};
    use crate::telemetry::access_log::{AccessLog, DEFAULT_TEXT, LogFormat};
    use crate::telemetry::log_sink::LogSinks;

    fn listener(direction: Direction) -> Listener {
        Listener {
            name: "l".into(),
            address: "127.0.0.1:80".parse().unwrap(),
            bind: true,
            direction,
            use_original_dst: false,
            chains: vec![],
            default_chain: None,
            sniff_timeout: None,
            continue_on_sniff_timeout: false,
        }
    }

    fn cluster(name: &str, host: &str) -> Cluster {
        Cluster {
            name: ClusterName::new(name),
            service: ServiceNames { host: host.into(), name: "product".into(), namespace: "shop".into(), subset: "".into() },
            kind: ClusterKind::OriginalDestination { port: None },
            policy: LoadBalancing::default(),
            connect_timeout: Duration::from_secs(1),
            protocol: UpstreamProtocol::Http1,
            http2: Http2Settings::default(),
            idle_timeout: None,
            max_requests_per_connection: 0,
            transport: Transport::default(),
            sends_peer_metadata: true,
            live: Arc::default(),
        }
    }

    fn endpoint(workload: &str) -> Endpoint {
        let peer = PeerLabels { workload: workload.into(), ..PeerLabels::default() };
        Endpoint { address: "127.0.0.1:9080".parse().unwrap(), weight: 1, peer: Arc::new(peer), live: Arc::<EndpointLive>::default() }
    }

    fn record<'a>(listener: &'a Listener, manager: &'a HttpManager, connection: &'a HandleSlot) -> RequestRecord<'a> {
        RequestRecord {
            direction: listener.direction,
            listener,
            manager,
            protocol: Protocol::Http,
            version: Version::HTTP_11,
            status: 200,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            details: "via_upstream",
            upstream_failure: "",
            bytes_received: 1,
            bytes_sent: 2,
            started: Instant::now(),
            duration: Duration::from_millis(3),
            upstream_service_time: None,
            attempts: 1,
            route_name: "default",
            cluster: None,
            endpoint: None,
            endpoint_handles: None,
            cluster_handles: None,
            peer: None,
            connection_handles: connection,
            downstream_remote: "127.0.0.1:4242".parse().unwrap(),
            downstream_local: "127.0.0.1:80".parse().unwrap(),
            upstream_local: None,
            log: None,
        }
    }

    fn recorder(metrics: &Arc<Metrics>) -> WorkerRecorder {
        let local = PeerLabels { workload: "order".into(), canonical_service: "order".into(), ..PeerLabels::default() };
        WorkerRecorder::new(0, Arc::clone(metrics), Arc::new(local))
    }

    fn requests(metrics: &Metrics) -> Vec<String> {
        let mut text = String::new();
        metrics.render(&mut text);
        text.lines().filter(|line| line.starts_with("istio_requests_total")).map(str::to_owned).collect()
    }

    #[test]
    fn a_slot_knows_its_series_by_what_differs() {
        let metrics = Arc::new(Metrics::default());
        let recorder = recorder(&metrics);
        let (listener, manager) = (listener(Direction::Outbound), HttpManager::default());
        let (connection, slot) = (HandleSlot::default(), HandleSlot::default());
        let (cluster, v1, v2) = (cluster("c", "product.shop"), endpoint("v1"), endpoint("v2"));
        let base = || RequestRecord {
            cluster: Some(&cluster),
            endpoint: Some(&v1),
            endpoint_handles: Some(&slot),
            ..record(&listener, &manager, &connection)
        };
        recorder.request(&base());
        recorder.request(&base());
        recorder.request(&RequestRecord { status: 503, ..base() });
        recorder.request(&RequestRecord { flags: ResponseFlags::UPSTREAM_CONNECTION_FAILURE, status: 503, ..base() });
        recorder.request(&RequestRecord { protocol: Protocol::Grpc, grpc_status: Some(0), ..base() });
        recorder.request(&RequestRecord { endpoint: Some(&v2), ..base() });
        let lines = requests(&metrics);
        assert_eq!(lines.len(), 5, "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("destination_workload=\"v1\"") && line.ends_with(" 2")));
        assert!(lines.iter().all(|line| line.contains("source_workload=\"order\"")));
        let entries = slot.get_or_init(Handles::default).unwrap().requests.borrow().len();
        assert_eq!(entries, 5);
        assert!(connection.get_or_init(Handles::default).unwrap().requests.borrow().is_empty());
    }

    #[test]
    fn inbound_requests_are_labelled_with_the_connections_peer() {
        let metrics = Arc::new(Metrics::default());
        let recorder = recorder(&metrics);
        let (listener, manager, connection) = (listener(Direction::Inbound), HttpManager::default(), HandleSlot::default());
        let peer =
            Rc::new(Peer { labels: PeerLabels { workload: "user".into(), ..PeerLabels::default() }, handles: HandleSlot::default() });
        recorder.request(&RequestRecord { peer: Some(&peer), ..record(&listener, &manager, &connection) });
        recorder.request(&record(&listener, &manager, &connection));
        let lines = requests(&metrics);
        let find = |text: &str| lines.iter().any(|line| line.contains(text) && line.contains("destination_workload=\"order\""));
        assert!(lines.len() == 2 && find("source_workload=\"user\"") && find("source_workload=\"unknown\""), "{lines:#?}");
    }

    #[test]
    fn the_access_log_gets_the_facts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let sinks = LogSinks::default();
        let mut log = AccessLog::default();
        log.add(sinks.open(path.to_str().unwrap()).unwrap(), &LogFormat::Text(DEFAULT_TEXT.into()), None).unwrap();
        let manager = HttpManager { access_log: Arc::new(log), ..HttpManager::default() };
        let (listener, connection) = (listener(Direction::Outbound), HandleSlot::default());
        let cluster = cluster("outbound|80||product", "product");
        let facts = LogFacts {
            line: Some((http::Method::GET, "http://product/a?b".parse().unwrap())),
            authority: Some(http::HeaderValue::from_static("product")),
            request_headers: manager.access_log.capture_request(&http::HeaderMap::new()),
            response_headers: Default::default(),
            response_trailers: Default::default(),
        };
        let metrics = Arc::new(Metrics::default());
        recorder(&metrics).request(&RequestRecord {
            cluster: Some(&cluster),
            log: Some(&facts),
            ..record(&listener, &manager, &connection)
        });
        sinks.flush();
        let text = std::fs::read_to_string(path).unwrap();
        let want = "\"GET /a?b HTTP/1.1\" 200 - via_upstream - \"-\" 1 2 3 - \"-\" \"-\" \"-\" \"product\" \"-\" outbound|80||product - \
            127.0.0.1:80 127.0.0.1:4242 - default\n";
        assert!(text.ends_with(want), "{text}");
    }
}
