//! The client's stream over tonic: dials, keeps alive, reconnects with back-off, drives a [`Subscription`].
//!
//! In:  a [`Dial`], a [`Subscription`], a [`Handler`] that compiles updates.
//! Out: calls of the handler, for ever. Runs on whatever tokio runtime polls it; the proxy gives it its side runtime.

use std::{convert::Infallible, error::Error, fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    subscription::{Refusal, Subscription, Update},
    wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};

/// The largest response a client reads, in bytes.
pub const MAX_DECODED_BYTES: usize = 64 << 20;
/// A half-dead connection is noticed after this much silence and [`KEEP_ALIVE_TIMEOUT`].
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long dialling, and how long handing one request to a stream, may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The first pause between two attempts, before jitter.
pub const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// The longest one.
pub const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// How long to wait before the next attempt: doubled with each failure in a row (counted from 0), at most [`BACKOFF_MAX`], of which
/// `random` (0 to 1) picks between one half and the whole.
pub fn backoff(failures: u32, random: f64) -> Duration {
    let whole = BACKOFF_BASE.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    whole.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

/// Any byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection about to be.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// How to reach the control plane. Cheap to clone.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn() -> Dialling + Send + Sync>);

impl Dial {
    /// Calls `connect` for every connection.
    pub fn new<F: Future<Output = io::Result<S>> + Send + 'static, S: Io + 'static>(
        connect: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move || {
            let connecting = connect();
            Box::pin(async move { connecting.await.map(|stream| Box::new(stream) as Box<dyn Io>) })
        }))
    }

    /// Plain TCP to `host:port`; the name is resolved anew for each connection.
    pub fn tcp(address: impl Into<String>) -> Self {
        let address: String = address.into();
        Self::new(move || {
            let address = address.clone();
            async move {
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
        })
    }

    /// A connected gRPC channel with keep-alive.
    pub async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let dial = self.0.clone();
        let connector = tower::service_fn(move |_uri| {
            let dialling = dial();
            async move { dialling.await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://control-plane")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 21);
        endpoint.connect_with_connector(connector).await
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// Where the stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// The stream is open; what was held is being brought up to date.
    Open,
    /// There is no stream; the next attempt comes after `retry`.
    Lost { reason: String, retry: Duration },
}

/// What the proxy does with updates.
pub trait Handler: Send {
    /// Compiles an update and puts it in force. Returns what it refuses; the last good versions of those stay. The ACK goes out when this
    /// is done, so it should end when requests obey.
    fn apply(&mut self, update: &Update) -> impl Future<Output = Vec<Refusal>> + Send;

    /// After each answer: whether the configuration is complete, what is refused, which generation it is.
    fn answered(&mut self, subscription: &Subscription) {
        let _ = subscription;
    }

    fn connection(&mut self, connection: Connection) {
        let _ = connection;
    }
}

/// Follows the control plane for ever: a broken stream is opened again, after [`backoff`] with `random`; nothing that is held is lost.
pub async fn follow(dial: &Dial, subscription: &mut Subscription, handler: &mut impl Handler, random: fn() -> f64) -> Infallible {
    let mut failures = 0;
    loop {
        let (heard, reason) = one_stream(dial, subscription, handler).await;
        if heard {
            failures = 0;
        }
        let retry = backoff(failures, random());
        failures = failures.saturating_add(1);
        handler.connection(Connection::Lost { reason, retry });
        sleep(retry).await;
    }
}

/// One stream from its opening to its end: whether a response came, and why it ended.
async fn one_stream(dial: &Dial, subscription: &mut Subscription, handler: &mut impl Handler) -> (bool, String) {
    let mut heard = false;
    let ended = run_stream(dial, subscription, handler, &mut heard).await;
    (heard, ended.map_or_else(|status| sentence(&status), |()| "the control plane closed the stream".to_owned()))
}

async fn run_stream(dial: &Dial, subscription: &mut Subscription, handler: &mut impl Handler, heard: &mut bool) -> Result<(), Status> {
    let channel = dial.channel().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_DECODED_BYTES);
    let (sender, requests) = mpsc::channel(64);
    for request in subscription.connect() {
        send(&sender, request).await?;
    }
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
    handler.connection(Connection::Open);
    while let Some(response) = responses.message().await? {
        *heard = true;
        match subscription.receive(response) {
            Ok(update) => {
                let refused = handler.apply(&update).await;
                for request in subscription.answer(update, refused) {
                    send(&sender, request).await?;
                }
                handler.answered(subscription);
            }
            Err(refused) => {
                tracing::warn!(reason = refused.reason, "refused a response");
                send(&sender, *refused.request).await?;
            }
        }
    }
    Ok(())
}

/// Bounded: a control plane that reads no more is left.
async fn send(sender: &mpsc::Sender<DeltaDiscoveryRequest>, request: DeltaDiscoveryRequest) -> Result<(), Status> {
    match timeout(CONNECT_TIMEOUT, sender.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::unavailable("the stream is closed")),
        Err(_) => Err(Status::deadline_exceeded("the control plane does not read requests")),
    }
}

/// The status and its innermost cause, as one line.
fn sentence(status: &Status) -> String {
    let mut cause = status.source();
    while let Some(inner) = cause.and_then(Error::source) {
        cause = Some(inner);
    }
    match (cause, status.code()) {
        (Some(cause), _) => cause.to_string(),
        (None, Code::Ok) => "the control plane closed the stream".to_owned(),
        (None, code) if status.message().is_empty() => code.to_string(),
        (None, _) => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        node::Node,
        resource::{NodeConfig, ResourceType},
        testing::{Follower, Server},
        wire::envoy::config::cluster::v3::Cluster,
    };

    #[test]
    fn backoff_doubles_to_its_maximum_and_stays_between_half_and_whole() {
        let ms = Duration::from_millis;
        let cases = [
            (0, 1.0, ms(100)),
            (0, 0.0, ms(50)),
            (1, 1.0, ms(200)),
            (3, 0.5, ms(600)),
            (30, 1.0, BACKOFF_MAX),
            (u32::MAX, 0.0, BACKOFF_MAX / 2),
        ];
        for (failures, random, want) in cases {
            assert_eq!(backoff(failures, random), want, "{failures} {random}");
        }
    }

    fn config(generation: u64, names: &[&str]) -> NodeConfig {
        let mut config = NodeConfig::new(generation);
        names.iter().for_each(|name| config.add(&Cluster { name: (*name).into(), ..Cluster::default() }));
        config
    }

    fn node() -> Node {
        Node::sidecar("127.0.0.1".parse().unwrap(), "a-0", "default")
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_stream_is_opened_again_and_brings_only_the_difference() {
        let (server, dial) = Server::start(config(1, &["a", "b"]));
        let follower = Follower::start(dial, node());
        follower.until(|state| state.complete && state.names(ResourceType::Cluster) == ["a", "b"]).await;
        server.disconnect();
        server.set(config(2, &["b", "c"]));
        follower.until(|state| state.names(ResourceType::Cluster) == ["b", "c"]).await;
        let updates = follower.state().updates;
        assert!(updates.iter().any(|line| line == "cds +c"), "{updates:?}");
        server.acked(2).await;
        assert_eq!(server.seen().streams, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_control_plane_is_tried_again_and_said_so() {
        struct Seen(Arc<Mutex<Vec<Connection>>>);
        impl Handler for Seen {
            async fn apply(&mut self, _: &Update) -> Vec<Refusal> {
                Vec::new()
            }
            fn connection(&mut self, connection: Connection) {
                self.0.lock().unwrap().push(connection);
            }
        }
        let dial = Dial::new(|| async { Err::<TcpStream, _>(io::Error::other("nobody there")) });
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut handler = Seen(seen.clone());
        let mut subscription = Subscription::new(node());
        let _ = timeout(Duration::from_secs(1), follow(&dial, &mut subscription, &mut handler, || 1.0)).await;
        let seen = seen.lock().unwrap();
        let lost = |millis| Connection::Lost { reason: "nobody there".into(), retry: Duration::from_millis(millis) };
        assert_eq!(seen[..3], [lost(100), lost(200), lost(400)]);
    }
}
