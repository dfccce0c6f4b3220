//! Starts and ends the control plane; the only place that spawns.
//!
//! In:  [`Bootstrap`].
//! Out: [`Running`]: addresses, the door for instances, generations and [`Event`]s.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use pillion_api::{effective::Unenforced, finding::Finding};
use pillion_xds::wire::envoy::service::discovery::v3::aggregated_discovery_service_server::SERVICE_NAME as ADS;
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::{Server, TcpIncoming};

use crate::{
    admin::{self, Admin, history::History},
    bootstrap::Bootstrap,
    model::{
        instance::InstanceRegistry,
        publish::{Published, Publisher},
        store::{Review, Store},
        world::World,
    },
    port_owner::{PortOwner, port_owner},
    push::{self, server::Ads, status::Proxies},
    source::{
        change::Batch,
        files::{FileSource, MissingRoot, Roots, Stop},
    },
    telemetry::Metrics,
    translate::Translator,
};

/// Something an operator may want to read at once. A slow reader loses the oldest.
#[derive(Clone, Debug)]
pub enum Event {
    /// A generation is published and on its way to the proxies.
    Published {
        generation: u64,
        changes: Arc<[String]>,
    },
    /// Every connected proxy has answered for this generation; `acked` of them accepted all of it. `took` runs from the moment the change was noticed.
    Acked {
        generation: u64,
        acked: usize,
        proxies: usize,
        took: Duration,
    },
    /// After 30 s these proxies (`instance.namespace`) have not answered.
    Late {
        generation: u64,
        acked: usize,
        proxies: usize,
        late: Vec<String>,
    },
    /// A proxy refuses a resource; it keeps what it had.
    Refused {
        proxy: String,
        generation: u64,
        message: String,
    },
    /// Findings that were not there before, and how many are gone.
    Findings {
        new: Arc<[Finding]>,
        fixed: usize,
    },
    /// The policies that are present and not enforced are others now; empty when none is left.
    Unenforced {
        policies: Arc<[Unenforced]>,
    },
    ProxyConnected {
        proxy: String,
    },
    ProxyDisconnected {
        proxy: String,
    },
}

/// Why the control plane does not start. Found in the chain of [`start`]'s error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Unreadable(#[from] MissingRoot),
    #[error("{}", refusal(.0))]
    Unenforced(Arc<[Unenforced]>),
    #[error("{flag} {address}: {}", bind_problem(.owner, .source))]
    Bind { flag: &'static str, address: SocketAddr, owner: PortOwner, source: io::Error },
}

fn bind_problem(owner: &PortOwner, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("the port is taken by {owner}; give another with this flag, or 0 to pick a free one"),
        _ => "cannot listen there".into(),
    }
}

fn refusal(policies: &[Unenforced]) -> String {
    let mut text = String::from("there are security policies that this version does not enforce:\n");
    for policy in policies {
        let place = &policy.place;
        let line =
            format!("  {} {}/{} ({}:{}): {}\n", policy.kind, policy.namespace, policy.name, place.file, place.line, policy.consequence);
        text.push_str(&line);
    }
    text.push_str("remove them, or start with --allow-unenforced if you know that nothing is protected by them");
    text
}

/// Events that a slow reader may fall behind.
const EVENTS: usize = 1024;
/// Batches that may wait for the store.
const BATCHES: usize = 16;
/// How long the end may take.
const END: Duration = Duration::from_secs(5);

/// A control plane at work. Dropping it ends its tasks without waiting for them.
pub struct Running {
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// The HTTP API.
    pub api: SocketAddr,
    /// Where `/metrics` is.
    pub metrics: SocketAddr,
    /// The door for what runs.
    pub registry: InstanceRegistry,
    published: Published,
    proxies: Proxies,
    tasks: JoinSet<&'static str>,
    files: Stop,
    stop: DropGuard,
}

/// Reads the configuration once, listens, and starts everything. Generation 1 is complete when this returns.
pub async fn start(bootstrap: Bootstrap) -> anyhow::Result<Running> {
    let metrics = Metrics::new()?;
    let proxies = Proxies::new(push::status::Metrics::new(metrics.registry())?);
    let (store, review, source, files) = read(&bootstrap, &metrics).await?;
    if !bootstrap.allow_unenforced && !review.unenforced.is_empty() {
        return Err(StartError::Unenforced(review.unenforced).into());
    }
    let xds = listen("--xds", bootstrap.xds).await?;
    let api = listen("--api", bootstrap.api).await?;
    let scrape = listen("--metrics", bootstrap.metrics).await?;
    let world = store.world().context("the first round makes a generation")?.clone();
    let published = Published::first(world, review, broadcast::Sender::new(EVENTS), metrics);
    let registry = InstanceRegistry::default();
    let stop = CancellationToken::new();
    let mut running = Running {
        xds: xds.local_addr()?,
        api: api.local_addr()?,
        metrics: scrape.local_addr()?,
        registry,
        published,
        proxies,
        tasks: JoinSet::new(),
        files,
        stop: stop.clone().drop_guard(),
    };
    running.spawn_store(store, source, &stop)?;
    running.spawn_push(xds, &stop).await;
    running.spawn_admin(api, scrape, &stop);
    tracing::info!(xds = %running.xds, api = %running.api, metrics = %running.metrics, generation = running.world().generation, "control plane is ready");
    Ok(running)
}

/// The first look at the files, and generation 1.
async fn read(bootstrap: &Bootstrap, metrics: &Metrics) -> anyhow::Result<(Store, Review, FileSource, Stop)> {
    let roots = Roots { config: bootstrap.config.clone(), mesh_config: bootstrap.mesh_config.clone() };
    let (metrics, domain) = (metrics.clone(), bootstrap.cluster_domain.clone());
    let first = tokio::task::spawn_blocking(move || {
        let (source, first, stop) = FileSource::open(roots)?;
        let mut store = Store::new(&domain);
        metrics.validated(&store.apply(first.changes, None).tally);
        let review = store.review();
        Ok::<_, MissingRoot>((store, review, source, stop))
    });
    Ok(first.await.context("reading the configuration")?.map_err(StartError::from)?)
}

async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    if !address.ip().is_loopback() {
        tracing::warn!(flag, %address, "this port is in plain text and asks nobody who they are: let only the mesh reach it");
    }
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| StartError::Bind { flag, address, owner: port_owner(address.port()), source })
}

impl Running {
    fn spawn_store(&mut self, store: Store, source: FileSource, stop: &CancellationToken) -> io::Result<()> {
        let (tell, batches) = mpsc::channel::<Batch>(BATCHES);
        std::thread::Builder::new().name("files".into()).spawn(move || source.run(|batch| tell.blocking_send(batch).is_ok()))?;
        let instances = self.registry.subscribe();
        let publisher = Publisher { store, published: self.published.clone(), proxies: self.proxies.clone(), batches, instances };
        let run = publisher.run(stop.clone());
        self.tasks.spawn(async move {
            run.await;
            "store"
        });
        Ok(())
    }

    async fn spawn_push(&mut self, listener: TcpListener, stop: &CancellationToken) {
        let translator = Translator::new(self.published.translated.subscribe(), self.published.generations.subscribe());
        let (ads, queue) = push::server::assemble(Arc::new(translator), &self.proxies, stop.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status(ADS, tonic_health::ServingStatus::Serving).await;
        let server = Ads::limit(Server::builder()).add_service(ads.into_service()).add_service(health_service);
        let events = relay(self.proxies.events(), self.published.events.clone(), self.published.history.clone());
        self.tasks.spawn(until(stop.clone(), queue, "push queue"));
        self.tasks.spawn(until(stop.clone(), events, "events"));
        let stopped = stop.clone();
        self.tasks.spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped.cancelled_owned()).await {
                tracing::error!(%error, "xDS server failed");
            }
            "xDS server"
        });
    }

    fn spawn_admin(&mut self, api: TcpListener, scrape: TcpListener, stop: &CancellationToken) {
        let shown = Admin {
            reviews: self.published.reviews.subscribe(),
            worlds: self.published.worlds.subscribe(),
            proxies: self.proxies.clone(),
            history: self.published.history.clone(),
            stop: stop.clone(),
        };
        let servers = [
            (api, admin::api(shown, self.api), "API server"),
            (scrape, admin::metrics(self.published.metrics.clone(), self.metrics), "metrics server"),
        ];
        for (listener, router, name) in servers {
            let serve = admin::server::serve(listener, router, stop.clone());
            self.tasks.spawn(async move {
                serve.await;
                name
            });
        }
    }

    /// The newest generation.
    pub fn world(&self) -> Arc<World> {
        self.published.worlds.borrow().clone()
    }

    /// The newest generation and every later one.
    pub fn subscribe_world(&self) -> watch::Receiver<Arc<World>> {
        self.published.worlds.subscribe()
    }

    /// Everything that is wrong or worth knowing, now.
    pub fn findings(&self) -> Arc<[Finding]> {
        self.published.reviews.borrow().findings.clone()
    }

    /// Security policies that are present and not enforced.
    pub fn unenforced(&self) -> Arc<[Unenforced]> {
        self.published.reviews.borrow().unenforced.clone()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.published.events.subscribe()
    }

    /// Who is connected, and who has what.
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Returns when a part ends that must not, with its name. Waits for ever as long as all is well.
    pub async fn failed(&mut self) -> &'static str {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                tracing::error!(%error, "a task failed");
                "a task"
            }
            None => "everything",
        }
    }

    /// Stops accepting, ends every stream (`UNAVAILABLE`: proxies keep what they have and come back), waits for every task; a few seconds at most.
    pub async fn shutdown(self) {
        let Self { stop, files, mut tasks, .. } = self;
        drop(files);
        drop(stop);
        let ended = tokio::time::timeout(END, async { while tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!(open = tasks.len(), "tasks that did not end in time are cut");
        }
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()> + Send, name: &'static str) -> &'static str {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    name
}

/// What the streams report, for operators.
async fn relay(mut reports: broadcast::Receiver<push::status::Event>, events: broadcast::Sender<Event>, history: History) {
    use push::status::Event as Report;
    loop {
        let event = match reports.recv().await {
            Ok(Report::Connected { proxy }) => Event::ProxyConnected { proxy: proxy_name(&proxy) },
            Ok(Report::Disconnected { proxy }) => Event::ProxyDisconnected { proxy: proxy_name(&proxy) },
            Ok(Report::GenerationAcked { generation, proxies, acked, elapsed }) => {
                history.acked(generation, acked, proxies, elapsed);
                Event::Acked { generation, acked, proxies, took: elapsed }
            }
            Ok(Report::Late { generation, proxies, acked, late }) => {
                let late: Vec<String> = late.iter().map(|late| proxy_name(&late.proxy)).collect();
                history.late(generation, &late);
                Event::Late { generation, acked, proxies, late }
            }
            Ok(Report::Nack { proxy, kind, generation, names, message }) => {
                let proxy = proxy_name(&proxy);
                let message =
                    if names.is_empty() { format!("{kind}: {message}") } else { format!("{kind} {}: {message}", names.join(", ")) };
                tracing::warn!(proxy, generation, "refused: {message}");
                Event::Refused { proxy, generation, message }
            }
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                tracing::warn!(lost, "reports of proxies were lost");
                continue;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        // Nobody listening is no fault.
        let _ = events.send(event);
    }
}

/// `instance.namespace`; the node's id where it says no more.
fn proxy_name(node: &pillion_xds::node::Node) -> String {
    if node.instance.is_empty() { node.id.clone() } else { format!("{}.{}", node.instance, node.namespace) }
}
