//! The ADS service, both variants: one `xds::session` per stream.
//!
//! In:  requests of proxies, pushes of the queue, configurations.
//! Out: responses; reports to [`super::status`].
//!
//! A stream is driven by whoever reads it: the next response is made when the last one has been written. So a client that reads slowly
//! has at most one response waiting per type, and what changes meanwhile is merged; nothing queues up.

use std::{collections::VecDeque, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use pillion_xds::{
    node::Node,
    session::{Outcome, Response as Push, Session, Variant, Violation},
    wire::envoy::{
        config::core::v3::Node as WireNode,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
        },
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::server};

use super::{
    Configs, scope,
    status::{Entry, Proxies},
};

/// The most streams at once, over all clients.
pub const MAX_STREAMS: usize = 10_000;
/// The most streams on one connection.
const MAX_STREAMS_PER_CONNECTION: u32 = 100;
/// The largest request, in bytes: a reconnecting proxy reports the version of everything it holds.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// A stream must say who it is within this time.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A connection that is silent for this long, and does not answer a ping in the next time, is dead.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The service; cheap to clone.
#[derive(Clone)]
pub struct Ads {
    configs: Arc<dyn Configs>,
    proxies: Proxies,
    pushes: watch::Receiver<u64>,
    shutdown: CancellationToken,
    streams: Arc<Semaphore>,
    /// Configurations are made by as many threads as there are cores.
    makers: Arc<Semaphore>,
}

impl Ads {
    /// `pushes` is the other end of what [`super::queue::run`] gets. `shutdown` ends every stream with `UNAVAILABLE`.
    pub fn new(configs: Arc<dyn Configs>, proxies: Proxies, pushes: watch::Receiver<u64>, shutdown: CancellationToken) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { configs, proxies, pushes, shutdown, streams: Arc::new(Semaphore::new(MAX_STREAMS)), makers: Arc::new(Semaphore::new(cores)) }
    }

    /// As a service for a tonic router, with limits.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// Limits and keep-alive of the connections that carry it.
    pub fn limit(server: server::Server) -> server::Server {
        server
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .max_concurrent_streams(Some(MAX_STREAMS_PER_CONNECTION))
            .tcp_nodelay(true)
    }

    #[allow(clippy::result_large_err)] // tonic's own error type
    fn open<P: Protocol>(&self, request: Request<Streaming<P::Request>>) -> Result<Response<BoxStream<P::Response>>, Status> {
        let slot = self.streams.clone().try_acquire_owned().map_err(|_| Status::resource_exhausted("too many streams"))?;
        let address = request.remote_addr();
        let driver = Driver::<P> {
            ads: self.clone(),
            requests: request.into_inner(),
            session: None,
            waiting: VecDeque::new(),
            entry: None,
            address,
            opened: Instant::now(),
            ended: false,
            _slot: slot,
        };
        Ok(Response::new(Box::pin(stream::unfold(driver, Driver::step))))
    }
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = BoxStream<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = BoxStream<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<Sotw>(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request)
    }
}

/// What the two variants differ in.
trait Protocol: Send + 'static {
    type Request: Send + Sync + 'static;
    type Response: Send + 'static;
    const VARIANT: Variant;
    fn node(request: &Self::Request) -> Option<&WireNode>;
    fn take(session: &mut Session, request: &Self::Request) -> Result<Outcome, Violation>;
    fn response(push: Push) -> Self::Response;
}

struct Delta;
impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;
    fn node(request: &Self::Request) -> Option<&WireNode> {
        request.node.as_ref()
    }
    fn take(session: &mut Session, request: &Self::Request) -> Result<Outcome, Violation> {
        session.on_delta(request)
    }
    fn response(push: Push) -> Self::Response {
        push.into_delta()
    }
}

struct Sotw;
impl Protocol for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const VARIANT: Variant = Variant::Sotw;
    fn node(request: &Self::Request) -> Option<&WireNode> {
        request.node.as_ref()
    }
    fn take(session: &mut Session, request: &Self::Request) -> Result<Outcome, Violation> {
        session.on_sotw(request)
    }
    fn response(push: Push) -> Self::Response {
        push.into_sotw()
    }
}

/// One stream at work.
struct Driver<P: Protocol> {
    ads: Ads,
    requests: Streaming<P::Request>,
    /// From the first request on.
    session: Option<Session>,
    /// Made by one poll of the session: at most one per type.
    waiting: VecDeque<Push>,
    entry: Option<Entry>,
    address: Option<SocketAddr>,
    opened: Instant,
    ended: bool,
    _slot: OwnedSemaphorePermit,
}

/// What a stream wakes up for.
enum Wake<R> {
    Request(Result<Option<R>, Status>),
    Push,
    Deadline,
    End(Status),
}

impl<P: Protocol> Driver<P> {
    /// The next item of the response stream.
    async fn step(mut self) -> Option<(Result<P::Response, Status>, Self)> {
        if self.ended {
            return None;
        }
        match self.next().await {
            Ok(Some(push)) => {
                self.ads.proxies.metrics().pushed(push.kind);
                Some((Ok(P::response(push)), self))
            }
            // The client has ended the stream.
            Ok(None) => None,
            Err(status) => {
                self.ended = true;
                self.entry = None;
                Some((Err(status), self))
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Push>, Status> {
        loop {
            if let Some(push) = self.waiting.pop_front() {
                return Ok(Some(push));
            }
            match self.wake().await {
                Wake::Request(Ok(Some(request))) => self.on_request(&request).await?,
                Wake::Request(Ok(None) | Err(_)) => return Ok(None),
                Wake::Push => self.configure().await,
                Wake::Deadline => {}
                Wake::End(status) => return Err(status),
            }
            self.poll();
        }
    }

    async fn wake(&mut self) -> Wake<P::Request> {
        let Some(entry) = &self.entry else {
            return tokio::select! {
                request = self.requests.message() => Wake::Request(request),
                () = sleep_until(self.opened + FIRST_REQUEST) => Wake::End(Status::deadline_exceeded("no request came")),
                () = self.ads.shutdown.cancelled() => Wake::End(goodbye()),
            };
        };
        let deadline = self.session.as_ref().and_then(Session::deadline);
        tokio::select! {
            request = self.requests.message() => Wake::Request(request),
            pushed = self.ads.pushes.changed() => match pushed {
                Ok(()) => Wake::Push,
                Err(_) => Wake::End(goodbye()),
            },
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => Wake::Deadline,
            () = self.ads.shutdown.cancelled() => Wake::End(goodbye()),
            () = entry.superseded().cancelled() => Wake::End(Status::aborted("the proxy has opened a newer stream")),
        }
    }

    async fn on_request(&mut self, request: &P::Request) -> Result<(), Status> {
        if self.entry.is_none() {
            let wire = P::node(request).ok_or_else(|| Status::invalid_argument("the first request must have a node"))?;
            let node = Node::from_wire(wire);
            tracing::info!(proxy = node.id, variant = ?P::VARIANT, user_agent = node.user_agent, "proxy connected");
            // Our own proxy and gRPC keep the endpoints of a cluster that changes; others wait for them.
            self.session = Some(Session::new(P::VARIANT, !node.is_pillion() && !node.is_grpc()));
            self.entry = Some(self.ads.proxies.connect(node, P::VARIANT, self.address));
            self.configure().await;
        }
        let (Some(session), Some(entry)) = (&mut self.session, &self.entry) else { return Ok(()) };
        match P::take(session, request).map_err(|violation| Status::resource_exhausted(violation.to_string()))? {
            Outcome::Nacked { kind, generation, names, message } => entry.nack(kind, generation, names, message),
            Outcome::Acked { kind, generation } => tracing::debug!(proxy = entry.node().id, %kind, generation, "acknowledged"),
            Outcome::Asked | Outcome::Ignored => {}
        }
        Ok(())
    }

    /// Brings the session to the newest configuration; keeps the old one when making it fails.
    async fn configure(&mut self) {
        let (Some(session), Some(entry)) = (&mut self.session, &self.entry) else { return };
        if *self.ads.pushes.borrow_and_update() == 0 {
            return;
        }
        let Ok(permit) = self.ads.makers.clone().acquire_owned().await else { return };
        let (configs, node) = (self.ads.configs.clone(), entry.node().clone());
        let made = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            configs.config(&node)
        });
        match made.await {
            Ok(config) => {
                if let Some(before) = session.config() {
                    let touched = scope::touched(before, &config);
                    tracing::debug!(proxy = entry.node().id, generation = config.generation, ?touched, "next configuration");
                }
                session.set_config(config);
            }
            Err(error) => tracing::error!(proxy = entry.node().id, %error, "cannot make a configuration; the last one stays"),
        }
    }

    fn poll(&mut self) {
        let (Some(session), Some(entry)) = (&mut self.session, &self.entry) else { return };
        let now = Instant::now();
        self.waiting.extend(session.poll(now));
        entry.report(session, now);
    }
}

impl<P: Protocol> Drop for Driver<P> {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            tracing::info!(proxy = entry.node().id, "proxy disconnected");
        }
    }
}

fn goodbye() -> Status {
    Status::unavailable("the control plane ends")
}

/// The three parts that the application wires up: the service, and the queue to run beside it.
pub fn assemble(
    configs: Arc<dyn Configs>,
    proxies: &Proxies,
    shutdown: CancellationToken,
) -> (Ads, impl Future<Output = ()> + Send + use<>) {
    let (sender, pushes) = watch::channel(0);
    let queue = super::queue::run(configs.clone(), proxies.clone(), sender);
    (Ads::new(configs, proxies.clone(), pushes, shutdown), queue)
}
