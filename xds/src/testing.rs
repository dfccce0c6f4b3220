//! The other side for tests, in memory: a server for tests of proxies, clients for tests of control planes.
//!
//! In:  configurations or scripted messages.
//! Out: [`Server`] (keeps clients at a configuration), [`ScriptedServer`] (sends what the test says), [`Follower`] (a client that accepts
//!      or refuses and remembers), [`DeltaStream`] and [`SotwStream`] (send what the test says).
//!
//! Everything waits at most [`PATIENCE`] and then panics with what it waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::server::Router};

use crate::{
    node::Node,
    resource::{Encoded, NodeConfig, ResourceMessage, ResourceType},
    session::{Outcome, Session, Variant},
    subscription::{Refusal, Subscription, Update},
    transport::{Dial, Handler, MAX_DECODED_BYTES, follow},
    wire::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
};

/// How long anything here waits.
pub const PATIENCE: Duration = Duration::from_secs(10);

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves `router` over in-memory connections; the dial makes one for each call.
pub fn serve(router: Router) -> Dial {
    let (sender, incoming) = mpsc::unbounded_channel::<io::Result<DuplexStream>>();
    tokio::spawn(router.serve_with_incoming(UnboundedReceiverStream::new(incoming)));
    Dial::new(move || {
        let (client, server) = tokio::io::duplex(1 << 20);
        let sent = sender.send(Ok(server)).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused));
        async move { sent.map(|()| client) }
    })
}

async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

// ---- servers

/// The requests of one stream, and where its responses go.
struct Accepted {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

/// Hands every incremental stream to the test.
struct Handover(mpsc::UnboundedSender<Accepted>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Handover {
    type StreamAggregatedResourcesStream = BoxStream<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = BoxStream<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only the incremental variant"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outgoing) = mpsc::channel(64);
        let accepted = Accepted { requests: request.into_inner(), responses };
        self.0.send(accepted).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

fn handover() -> (mpsc::UnboundedReceiver<Accepted>, Dial) {
    let (sender, accepted) = mpsc::unbounded_channel();
    let service = AggregatedDiscoveryServiceServer::new(Handover(sender)).max_decoding_message_size(MAX_DECODED_BYTES);
    (accepted, serve(tonic::transport::Server::builder().add_service(service)))
}

/// A control plane of one configuration for everybody, incremental variant.
pub struct Server {
    config: watch::Sender<Arc<NodeConfig>>,
    seen: watch::Receiver<Seen>,
    disconnect: watch::Sender<u64>,
}

/// What a [`Server`] knows of its clients.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The newest generation of which some client acknowledged everything.
    pub acked: u64,
    /// Refusals so far: type, names, message.
    pub nacks: Vec<(ResourceType, Vec<Arc<str>>, String)>,
    /// The node that connected last.
    pub node: Option<Node>,
    /// Streams so far.
    pub streams: usize,
}

impl Server {
    /// Starts serving; connect with the dial.
    pub fn start(config: NodeConfig) -> (Self, Dial) {
        let (mut accepted, dial) = handover();
        let (config, configs) = watch::channel(Arc::new(config));
        let (disconnect, disconnected) = watch::channel(0);
        let (seen_sender, seen) = watch::channel(Seen::default());
        let seen_sender = Arc::new(seen_sender);
        tokio::spawn(async move {
            while let Some(stream) = accepted.recv().await {
                seen_sender.send_modify(|seen| seen.streams += 1);
                tokio::spawn(keep_at(stream, configs.clone(), disconnected.clone(), seen_sender.clone()));
            }
        });
        (Self { config, seen, disconnect }, dial)
    }

    /// Brings every client to this configuration.
    pub fn set(&self, config: NodeConfig) {
        self.config.send_replace(Arc::new(config));
    }

    /// Ends every stream.
    pub fn disconnect(&self) {
        self.disconnect.send_modify(|count| *count += 1);
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until what is known of the clients satisfies `test`.
    pub async fn until(&self, what: &str, test: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.clone();
        patiently(what, async { seen.wait_for(test).await.expect("the server runs").clone() }).await
    }

    /// Waits until some client has acknowledged everything of this generation or a newer one.
    pub async fn acked(&self, generation: u64) {
        self.until(&format!("the ACK of generation {generation}"), |seen| seen.acked >= generation).await;
    }
}

async fn keep_at(
    mut stream: Accepted,
    mut configs: watch::Receiver<Arc<NodeConfig>>,
    mut disconnect: watch::Receiver<u64>,
    seen: Arc<watch::Sender<Seen>>,
) {
    let mut session = Session::new(Variant::Delta, false);
    session.set_config(configs.borrow_and_update().clone());
    disconnect.mark_unchanged();
    loop {
        let deadline = session.deadline();
        tokio::select! {
            // What a test says first happens first.
            biased;
            _ = disconnect.changed() => return,
            request = stream.requests.message() => {
                let Ok(Some(request)) = request else { return };
                if let Some(node) = &request.node {
                    seen.send_modify(|seen| seen.node = Some(Node::from_wire(node)));
                }
                if let Ok(Outcome::Nacked { kind, names, message, .. }) = session.on_delta(&request) {
                    seen.send_modify(|seen| seen.nacks.push((kind, names, message)));
                }
            }
            changed = configs.changed() => {
                if changed.is_err() {
                    return;
                }
                session.set_config(configs.borrow_and_update().clone());
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
        }
        for response in session.poll(Instant::now()) {
            if stream.responses.send(Ok(response.into_delta())).await.is_err() {
                return;
            }
        }
        let progress = session.progress();
        if progress.settled && !progress.refused {
            seen.send_if_modified(|seen| std::mem::replace(&mut seen.acked, progress.target) != progress.target);
        }
    }
}

/// A control plane that says what the test says.
pub struct ScriptedServer(mpsc::UnboundedReceiver<Accepted>);

impl ScriptedServer {
    pub fn start() -> (Self, Dial) {
        let (accepted, dial) = handover();
        (Self(accepted), dial)
    }

    /// The next stream that a client opens.
    pub async fn accept(&mut self) -> ScriptedStream {
        let Accepted { requests, responses } = patiently("a stream", self.0.recv()).await.expect("the server runs");
        ScriptedStream { requests, responses, nonce: 0 }
    }
}

/// One stream of a [`ScriptedServer`]; dropping it ends the stream.
pub struct ScriptedStream {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    nonce: u64,
}

impl ScriptedStream {
    /// The next request of any type.
    pub async fn request(&mut self) -> DeltaDiscoveryRequest {
        patiently("a request", self.requests.message()).await.expect("the stream is sound").expect("the stream is open")
    }

    /// The next request of this type; those of others are dropped.
    pub async fn request_of(&mut self, kind: ResourceType) -> DeltaDiscoveryRequest {
        loop {
            let request = self.request().await;
            if request.type_url == kind.type_url() {
                return request;
            }
        }
    }

    /// The ACK or NACK of this nonce; everything before it is dropped.
    pub async fn answer(&mut self, nonce: &str) -> DeltaDiscoveryRequest {
        loop {
            let request = self.request().await;
            if request.response_nonce == nonce {
                return request;
            }
        }
    }

    /// Sends these resources and removals; returns the nonce.
    pub async fn send<M: ResourceMessage>(&mut self, generation: u64, resources: &[M], removed: &[&str]) -> String {
        let encoded: Vec<Encoded> = resources.iter().map(Encoded::of).collect();
        self.send_encoded(M::TYPE, generation, &encoded, removed).await
    }

    /// As [`Self::send`], for resources that are named otherwise than inside (virtual hosts).
    pub async fn send_encoded(&mut self, kind: ResourceType, generation: u64, resources: &[Encoded], removed: &[&str]) -> String {
        self.nonce += 1;
        let response = DeltaDiscoveryResponse {
            system_version_info: generation.to_string(),
            type_url: kind.type_url().to_owned(),
            nonce: self.nonce.to_string(),
            resources: resources.iter().map(|resource| resource.to_resource(kind)).collect(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.send_raw(response).await;
        self.nonce.to_string()
    }

    pub async fn send_raw(&mut self, response: DeltaDiscoveryResponse) {
        patiently("room for a response", self.responses.send(Ok(response))).await.expect("the stream is open");
    }
}

// ---- clients

/// What a [`Follower`] holds.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub resources: BTreeMap<ResourceType, BTreeMap<Arc<str>, Encoded>>,
    /// One line per response: `cds +a +b -c`.
    pub updates: Vec<String>,
    pub generation: Option<u64>,
    pub complete: bool,
}

impl State {
    pub fn names(&self, kind: ResourceType) -> Vec<&str> {
        self.resources.get(&kind).into_iter().flatten().map(|(name, _)| &**name).collect()
    }

    pub fn get<M: ResourceMessage>(&self, name: &str) -> Option<M> {
        self.resources.get(&M::TYPE)?.get(name)?.decode().ok()
    }
}

/// A proxy without a data path: follows a control plane and remembers what it has. Stops when dropped.
pub struct Follower {
    state: watch::Receiver<State>,
    refuse: watch::Sender<BTreeSet<String>>,
    task: tokio::task::JoinHandle<()>,
}

struct Recorder {
    state: watch::Sender<State>,
    refuse: watch::Receiver<BTreeSet<String>>,
}

impl Handler for Recorder {
    async fn apply(&mut self, update: &Update) -> Vec<Refusal> {
        let refuse = self.refuse.borrow().clone();
        let mut refused = Vec::new();
        self.state.send_modify(|state| {
            let mut line = update.kind.to_string();
            let held = state.resources.entry(update.kind).or_default();
            for changed in &update.changed {
                let name = changed.encoded.name.clone();
                line += &format!(" +{name}");
                if refuse.contains(&*name) {
                    refused.push(Refusal::new(name, "refused by the test"));
                } else {
                    held.insert(name, changed.encoded.clone());
                }
            }
            for name in &update.removed {
                line += &format!(" -{name}");
                held.remove(name);
            }
            state.updates.push(line);
        });
        refused
    }

    fn answered(&mut self, subscription: &Subscription) {
        self.state.send_modify(|state| {
            state.generation = subscription.generation();
            state.complete = subscription.is_complete();
        });
    }
}

impl Follower {
    pub fn start(dial: Dial, node: Node) -> Self {
        let (sender, state) = watch::channel(State::default());
        let (refuse, refusals) = watch::channel(BTreeSet::new());
        let task = tokio::spawn(async move {
            let mut subscription = Subscription::new(node);
            let mut recorder = Recorder { state: sender, refuse: refusals };
            match follow(&dial, &mut subscription, &mut recorder, || 0.5).await {}
        });
        Self { state, refuse, task }
    }

    /// From now on, refuses resources of this name.
    pub fn refuse(&self, name: &str) {
        self.refuse.send_modify(|names| {
            names.insert(name.to_owned());
        });
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until `test` holds.
    pub async fn until(&self, test: impl FnMut(&State) -> bool) -> State {
        let mut state = self.state.clone();
        match timeout(PATIENCE, state.wait_for(test)).await {
            Ok(found) => found.expect("the follower runs").clone(),
            Err(_) => panic!("waited {PATIENCE:?}; the updates so far: {:?}", self.state.borrow().updates),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

macro_rules! scripted_client {
    ($(#[$doc:meta])* $stream:ident, $request:ty, $response:ty, $call:ident) => {
        $(#[$doc])*
        pub struct $stream {
            requests: mpsc::Sender<$request>,
            responses: Streaming<$response>,
        }

        impl $stream {
            /// Opens a stream. The server sees it at the first request.
            pub async fn open(dial: &Dial) -> Self {
                let channel = patiently("a connection", dial.channel()).await.expect("the server answers");
                let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_DECODED_BYTES);
                let (requests, outgoing) = mpsc::channel(64);
                let responses = patiently("a stream", client.$call(ReceiverStream::new(outgoing))).await.expect("a stream").into_inner();
                Self { requests, responses }
            }

            pub async fn send(&self, request: $request) {
                patiently("room for a request", self.requests.send(request)).await.expect("the stream is open");
            }

            /// The next response, or why there is none.
            pub async fn try_next(&mut self) -> Result<$response, Status> {
                let message = patiently("a response", self.responses.message()).await?;
                message.ok_or_else(|| Status::cancelled("the server closed the stream"))
            }

            pub async fn next(&mut self) -> $response {
                self.try_next().await.expect("a response")
            }

            /// Whether nothing comes for so long.
            pub async fn is_silent(&mut self, time: Duration) -> bool {
                timeout(time, self.responses.message()).await.is_err()
            }
        }
    };
}

scripted_client! {
    /// An incremental client that says what the test says.
    DeltaStream, DeltaDiscoveryRequest, DeltaDiscoveryResponse, delta_aggregated_resources
}
scripted_client! {
    /// A state-of-the-world client that says what the test says.
    SotwStream, DiscoveryRequest, DiscoveryResponse, stream_aggregated_resources
}

impl DeltaStream {
    /// Asks for a type: no names for the empty wildcard.
    pub async fn ask(&self, kind: ResourceType, names: &[&str], node: Option<&Node>) {
        let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        let type_url = kind.type_url().to_owned();
        self.send(DeltaDiscoveryRequest { type_url, resource_names_subscribe, node: node.map(Node::to_wire), ..Default::default() }).await;
    }

    pub async fn ack(&self, response: &DeltaDiscoveryResponse) {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        self.send(DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }).await;
    }
}

impl SotwStream {
    /// Asks for a type: no names for the wildcard. `last`: the response of this type that was seen last.
    pub async fn ask(&self, kind: ResourceType, names: &[&str], last: Option<&DiscoveryResponse>, node: Option<&Node>) {
        let request = DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            version_info: last.map(|last| last.version_info.clone()).unwrap_or_default(),
            response_nonce: last.map(|last| last.nonce.clone()).unwrap_or_default(),
            node: node.map(Node::to_wire),
            ..Default::default()
        };
        self.send(request).await;
    }
}
