//! A worker under a hand-built configuration, between scripted upstreams and plain-text clients. All on loopback, all on port 0.
#![allow(dead_code, clippy::unwrap_used)] // Each test crate uses its part; all of it is test code.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pillion_proxy::config::cluster::{
    Cluster, ClusterKind, Endpoint, EndpointList, LoadBalancing, PeerLabels, ServiceNames, Transport, UpstreamProtocol,
};
use pillion_proxy::config::listener::{
    ChainMatch, Direction, FilterChain, HttpManager, Listener, ListenerTable, NetworkFilter, RouteSource,
};
use pillion_proxy::config::route_table::{
    Forward, HeaderMutations, PathMatch, RetryOn, RetryPolicy, Route, RouteAction, RouteMatch, RouteTable, VirtualHost,
};
use pillion_proxy::config::store::ConfigStore;
use pillion_proxy::config::{LocalNode, NameTable, RuntimeConfig};
use pillion_proxy::connect::resolve::Resolver;
use pillion_proxy::drain::Drain;
use pillion_proxy::http::record::{Recorder, RequestRecord, TcpRecord};
use pillion_proxy::listener::bind::{self, Sockets};
use pillion_proxy::worker::{Settings, Workers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Nothing here may take longer.
pub const SOON: Duration = Duration::from_secs(10);

/// Bounded waiting, for everything that could hang.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("it took too long")
}

/// What the recorder was told, in owned form.
#[derive(Debug, Clone)]
pub struct Seen {
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub flags: String,
    pub details: String,
    pub attempts: u32,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub route: String,
    pub peer: Option<String>,
}

struct Channel(mpsc::UnboundedSender<Seen>);

impl Recorder for Channel {
    fn request(&self, record: &RequestRecord<'_>) {
        let _ = self.0.send(Seen {
            status: record.status,
            grpc_status: record.grpc_status,
            flags: record.flags.to_string(),
            details: record.details.to_string(),
            attempts: record.attempts,
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            route: record.route_name.to_string(),
            peer: record.peer.map(|peer| peer.labels.workload.to_string()),
        });
    }

    fn tcp(&self, record: &TcpRecord<'_>) {
        let Some(closed) = &record.closed else { return };
        let _ = self.0.send(Seen {
            status: 0,
            grpc_status: None,
            flags: closed.flags.to_string(),
            details: "tcp".into(),
            attempts: 1,
            bytes_received: closed.bytes_received,
            bytes_sent: closed.bytes_sent,
            route: String::new(),
            peer: None,
        });
    }

    fn peer(&self, metadata: &[u8]) -> Option<PeerLabels> {
        Some(PeerLabels { workload: String::from_utf8_lossy(metadata).into(), ..PeerLabels::default() })
    }
}

/// A configuration to be.
#[derive(Default)]
pub struct Plan {
    pub clusters: Vec<Cluster>,
    pub hosts: Vec<VirtualHost>,
    pub manager: HttpManager,
    pub direction: Direction,
    /// `CONNECT` opens no tunnels.
    pub no_tunnels: bool,
    pub more_listeners: Vec<Listener>,
    pub names: NameTable,
    pub local: LocalNode,
}

pub fn cluster(name: &str, protocol: UpstreamProtocol, addresses: &[SocketAddr]) -> Cluster {
    let endpoint = |address: &SocketAddr| Arc::new(Endpoint { address: *address, weight: 1, peer: Arc::default(), live: Arc::default() });
    Cluster {
        name: name.into(),
        service: ServiceNames::default(),
        kind: ClusterKind::Endpoints(Arc::new(EndpointList::new(addresses.iter().map(endpoint).collect()))),
        policy: LoadBalancing::RoundRobin,
        connect_timeout: Duration::from_secs(5),
        protocol,
        http2: Default::default(),
        idle_timeout: None,
        max_requests_per_connection: 0,
        transport: Transport::default(),
        sends_peer_metadata: true,
        live: Arc::default(),
    }
}

pub fn dynamic(name: &str, kind: ClusterKind) -> Cluster {
    Cluster { kind, ..cluster(name, UpstreamProtocol::Downstream, &[]) }
}

pub fn route(name: &str, path: PathMatch, action: RouteAction) -> Route {
    Route {
        name: name.into(),
        matches: RouteMatch { path, case_sensitive: true, headers: vec![], query: vec![], grpc: false, fraction: None },
        action,
        fault: None,
        cors: None,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
    }
}

pub fn host(domain: &str, routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: domain.into(),
        domains: vec![domain.into()],
        routes: routes.into_iter().map(Arc::new).collect(),
        attempt_count_to_upstream: true,
        ..VirtualHost::default()
    }
}

pub fn retry(words: &str, retries: u32) -> Arc<RetryPolicy> {
    Arc::new(RetryPolicy {
        retries,
        on: RetryOn::parse(words).0,
        back_off_base: Duration::from_millis(1),
        avoid_previous_hosts: true,
        host_selection_attempts: 5,
        ..RetryPolicy::default()
    })
}

pub fn http_listener(name: &str, address: &str, bind: bool, manager: HttpManager, direction: Direction) -> Listener {
    let chain = FilterChain { name: "http".into(), matches: ChainMatch::default(), filter: NetworkFilter::Http(Arc::new(manager)) };
    Listener {
        name: name.into(),
        address: address.parse().unwrap(),
        bind,
        direction,
        use_original_dst: false,
        chains: vec![Arc::new(chain)],
        default_chain: None,
        sniff_timeout: None,
        continue_on_sniff_timeout: false,
    }
}

impl Plan {
    /// Everything goes to one cluster `c`.
    pub fn to(protocol: UpstreamProtocol, addresses: &[SocketAddr], change: impl FnOnce(&mut Forward)) -> Self {
        let mut forward = Forward::to("c");
        change(&mut forward);
        Self {
            clusters: vec![cluster("c", protocol, addresses)],
            hosts: vec![host("*", vec![route("all", PathMatch::Any, RouteAction::Forward(forward))])],
            ..Self::default()
        }
    }

    pub fn config(self, sockets: &Sockets) -> RuntimeConfig {
        let mut config = RuntimeConfig::default();
        let hosts = self.hosts.into_iter().map(Arc::new).collect();
        config.routes.insert("routes".into(), Arc::new(RouteTable::new("routes", hosts).unwrap()));
        config.clusters = self.clusters.into_iter().map(|cluster| (cluster.name.clone(), Arc::new(cluster))).collect();
        let manager =
            HttpManager { routes: RouteSource::Named("routes".into()), fault: true, cors: true, connect: !self.no_tunnels, ..self.manager };
        let main = http_listener("main", "127.0.0.1:0", true, manager, self.direction);
        config.listeners = ListenerTable::new(self.more_listeners.into_iter().chain([main]).map(Arc::new));
        config.names = Arc::new(self.names);
        config.local = Arc::new(self.local);
        let (sockets, errors) = bind::bind(sockets, &config.listeners);
        assert!(errors.is_empty(), "{errors:?}");
        config.sockets = sockets;
        config
    }

    pub fn start(self) -> Proxy {
        Proxy::start(self)
    }
}

/// A running worker.
pub struct Proxy {
    pub address: SocketAddr,
    store: ConfigStore,
    workers: Option<Workers>,
    pub drain: Arc<Drain>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Proxy {
    fn start(plan: Plan) -> Self {
        let config = plan.config(&Sockets::default());
        let main: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let address = config.sockets[&main].local_addr().unwrap();
        let store = ConfigStore::new(config);
        let (sender, seen) = mpsc::unbounded_channel();
        let settings = Settings {
            workers: 1,
            hostname: "test".into(),
            seed: Some(1),
            recorder: Arc::new(move |_| Rc::new(Channel(sender.clone()))),
            resolver: Resolver::new(tokio::runtime::Handle::current()),
        };
        let workers = Workers::start(&settings, &store).unwrap();
        Self { address, store, drain: workers.drain(), workers: Some(workers), seen }
    }

    /// Another configuration; the main socket stays.
    pub fn swap(&self, plan: Plan) {
        let sockets = Arc::clone(&self.store.snapshot().sockets);
        self.store.publish(plan.config(&sockets));
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The next record.
    pub async fn seen(&mut self) -> Seen {
        soon(self.seen.recv()).await.expect("the worker is gone")
    }

    pub fn nothing_seen(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }

    /// One request on a connection of its own; the whole answer.
    pub async fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        ask(&mut stream, request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n")).await
    }

    pub async fn post(&self, body: &str) -> Answer {
        self.ask(&format!("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await
    }

    /// Wait for the end of the workers' threads.
    pub async fn join(mut self) {
        let workers = self.workers.take().unwrap();
        soon(tokio::task::spawn_blocking(move || workers.join())).await.unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.drain.stop(Duration::ZERO);
    }
}

/// A response as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Send a request and read its whole answer.
pub async fn ask(stream: &mut TcpStream, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_answer(stream).await
}

/// Read a head, and the body that it announces.
pub async fn read_answer(stream: &mut TcpStream) -> Answer {
    let head = soon(read_head(stream)).await.expect("no response");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status in {head:?}"));
    let answer = Answer { status, head, body: String::new() };
    let mut body = Vec::new();
    if let Some(length) = answer.header("content-length") {
        body.resize(length.parse().unwrap(), 0);
        soon(stream.read_exact(&mut body)).await.unwrap();
    } else if answer.header("transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            let read = soon(stream.read_buf(&mut body)).await.unwrap();
            assert!(read > 0, "the body broke off: {:?}", String::from_utf8_lossy(&body));
        }
    }
    Answer { body: String::from_utf8(body).unwrap(), ..answer }
}

/// A head with its blank line; `None` when the connection ends instead.
pub async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}

/// Read to the end of the connection.
pub async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An upstream that runs a script per connection.
pub struct Upstream {
    pub address: SocketAddr,
    /// Connections so far.
    pub connections: Arc<AtomicUsize>,
    /// Requests read by [`request`] so far.
    pub requests: Arc<AtomicUsize>,
}

impl Upstream {
    pub async fn start<F: Future<Output = ()> + Send + 'static>(script: impl Fn(Peer) -> F + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, counted) = (Arc::clone(&connections), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = seen.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(Peer { stream, number, requests: Arc::clone(&counted) }));
            }
        });
        Self { address, connections, requests }
    }

    /// Answers every request with the same bytes.
    pub async fn answering(answer: &'static str) -> Self {
        Self::start(move |mut peer| async move {
            while peer.request().await.is_some() {
                peer.send(answer).await;
            }
        })
        .await
    }

    /// Answers one request per connection, then closes.
    pub async fn answering_once(answer: &'static str) -> Self {
        Self::start(move |mut peer| async move {
            peer.request().await;
            peer.send(answer).await;
        })
        .await
    }

    /// Answers with the request itself (head and body), as text.
    pub async fn mirror() -> Self {
        Self::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{request}", request.len())).await;
            }
        })
        .await
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// The upstream's end of a connection.
pub struct Peer {
    pub stream: TcpStream,
    /// Of the connections, from 0.
    pub number: usize,
    requests: Arc<AtomicUsize>,
}

impl Peer {
    /// Read a request with its body; `None` at the end.
    pub async fn request(&mut self) -> Option<String> {
        let head = read_head(&mut self.stream).await?;
        self.requests.fetch_add(1, Ordering::SeqCst);
        let lower = head.to_ascii_lowercase();
        let mut body = Vec::new();
        if let Some(length) = lower.lines().find_map(|line| line.strip_prefix("content-length: ")) {
            body.resize(length.trim().parse().unwrap(), 0);
            self.stream.read_exact(&mut body).await.ok()?;
        } else if lower.contains("transfer-encoding: chunked") {
            while !body.ends_with(b"0\r\n\r\n") {
                if self.stream.read_buf(&mut body).await.ok()? == 0 {
                    return None;
                }
            }
        }
        Some(head + &String::from_utf8(body).unwrap())
    }

    pub async fn send(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes()).await;
    }
}

/// An address that refuses connections.
pub async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
