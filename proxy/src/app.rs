//! The process: puts the parts together, starts them, and ends them in order. The only place that spawns long-lived tasks.
//!
//! In:  [`Bootstrap`], signals.
//! Out: N worker threads and, on this thread, one runtime for everything else; an exit code.
//!
//! ```text
//! start: log -> sockets of admin, status, metrics -> workers -> configuration task -> admin
//! end:   SIGTERM or /quitquitquit -> workers take leave -> done or --drain-duration; a second signal ends at once
//! ```

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use pillion_xds::transport::Dial;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::admin::{self, Addresses, AdminState, Surface};
use crate::bootstrap::Bootstrap;
use crate::config::compile::Compiler;
use crate::config::store::ConfigStore;
use crate::config::subscribe::{Settings, Subscriber};
use crate::connect::resolve::{self, Resolver};
use crate::listener::bind::{Sockets, listen};
use crate::listener::owner;
use crate::telemetry::log_sink::LogSinks;
use crate::telemetry::logging::{self, LogControl};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::peer;
use crate::telemetry::recorder::make_recorder;
use crate::telemetry::stats::{Counter, ProxyStats};
use crate::worker::{self, Workers};

/// How long workers get beyond the drain, to close what did not finish.
const GRACE: Duration = Duration::from_millis(500);

/// Runs the proxy until it is told to end.
///
/// # Errors
/// When an address cannot be had or a thread cannot be made.
pub fn run(bootstrap: Bootstrap) -> anyhow::Result<ExitCode> {
    let logging = logging::start(&bootstrap.log, bootstrap.log_json)?;
    let panics = count_panics();
    // A thread of the pool is made when a file is written or a name resolved, and goes away soon after.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_name("side")
        .build()
        .context("cannot make the side runtime")?;
    let code = runtime.block_on(serve(bootstrap, logging, panics));
    // A name that is being resolved shall not hold the process.
    runtime.shutdown_background();
    code
}

async fn serve(bootstrap: Bootstrap, logging: LogControl, panics: Arc<Counter>) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut signals = Signals::new()?;
    let mut bootstrap = bootstrap;
    let surfaces = Surfaces::bind(&bootstrap)?;
    bootstrap.node.admin = surfaces.addresses().admin;
    let sockets = proxy_port(&mut bootstrap)?;

    let store = ConfigStore::default();
    let sinks = Arc::new(LogSinks::default());
    let metrics = Arc::new(Metrics::default());
    let stats = Arc::new(ProxyStats::default());
    let resolver = Resolver::new(tokio::runtime::Handle::current());
    let workers = Workers::start(
        &worker::Settings {
            workers: bootstrap.workers,
            hostname: rustix::system::uname().nodename().to_string_lossy().into(),
            seed: None,
            recorder: make_recorder(Arc::clone(&metrics), Arc::new(peer::local_labels(&bootstrap.node))),
            resolver: resolver.clone(),
        },
        &store,
    )
    .context("cannot start the workers")?;

    let settings = Settings {
        node: bootstrap.node.clone(),
        // The files of a folder are their own last good copy.
        state_dir: bootstrap.state_dir.clone().filter(|_| bootstrap.resources.is_none()),
        stats: Arc::clone(&stats),
        sockets,
        workers: u32::try_from(bootstrap.workers).unwrap_or(u32::MAX),
    };
    let compiler = Compiler::new(Arc::clone(&sinks), peer::local_node(&bootstrap.node));
    let subscriber = Subscriber::new(settings, compiler, store.clone(), Instant::now());
    let state = Arc::new(AdminState {
        addresses: surfaces.addresses(),
        sync: subscriber.state(),
        kept: subscriber.kept(),
        metrics,
        stats,
        sinks: Arc::clone(&sinks),
        logging,
        drain: workers.drain(),
        quit: Notify::new(),
        connections: workers.connection_count(),
        panics,
        started,
        store: store.clone(),
        bootstrap: bootstrap.clone(),
    });
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = bootstrap.node.id,
        xds = bootstrap.xds,
        workers = bootstrap.workers,
        admin = ?state.addresses.admin,
        status = ?state.addresses.status,
        metrics = ?state.addresses.metrics,
        "started"
    );
    surfaces.spawn(&state);
    tokio::spawn(resolve::keep_fresh(resolver, store.subscribe()));
    let mut configuration = match &bootstrap.resources {
        Some(folder) => tokio::spawn(subscriber.run_folder(folder.clone())),
        None => tokio::spawn(subscriber.run(Dial::tcp(bootstrap.xds.clone()))),
    };

    let asked = tokio::select! {
        asked = signals.until_asked(&sinks) => asked,
        () = state.quit.notified() => "/quitquitquit",
        ended = &mut configuration => {
            // It only ends by a panic, and a proxy that learns nothing any more is worse than one that starts again.
            bail!("the configuration task ended: {}", ended.err().map(|error| error.to_string()).unwrap_or_default());
        }
    };
    end(asked, workers, &bootstrap, &mut signals, &sinks).await;
    Ok(ExitCode::SUCCESS)
}

/// Drains the workers; a second signal ends at once.
async fn end(asked: &str, workers: Workers, bootstrap: &Bootstrap, signals: &mut Signals, sinks: &Arc<LogSinks>) {
    let drain = bootstrap.drain_duration;
    tracing::info!(asked, drain_ms = drain.as_millis(), connections = workers.connections(), "draining");
    workers.drain().stop(drain);
    let joined = tokio::task::spawn_blocking(|| workers.join());
    tokio::select! {
        _ = joined => tracing::info!("drained"),
        again = signals.until_asked(sinks) => tracing::info!(asked = again, "ending at once"),
        () = tokio::time::sleep(drain + GRACE) => tracing::warn!("workers did not end in time"),
    }
    sinks.flush();
}

/// The signals that mean something.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    reopen: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    /// Until the process is asked to end; `SIGUSR1` opens log files again, as with Envoy.
    async fn until_asked(&mut self, sinks: &LogSinks) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.reopen.recv() => match sinks.reopen() {
                    Ok(()) => tracing::info!("opened log files again"),
                    Err(error) => tracing::warn!(%error, "cannot open a log file again; the old one stays"),
                },
            }
        }
    }
}

/// The sockets of the pages, bound before anything else so that a port that is taken ends the start.
struct Surfaces(Vec<(Surface, TcpListener)>);

impl Surfaces {
    fn bind(bootstrap: &Bootstrap) -> anyhow::Result<Self> {
        let wanted = [
            (Surface::Admin, "--admin", Some(bootstrap.admin)),
            (Surface::Status, "--status", bootstrap.status),
            (Surface::Metrics, "--metrics", bootstrap.metrics),
        ];
        let bound = wanted.into_iter().filter_map(|(surface, flag, address)| Some((surface, flag, address?)));
        let bound = bound.map(|(surface, flag, address)| {
            let socket = take(flag, address)?;
            anyhow::Ok((surface, TcpListener::from_std(socket)?))
        });
        Ok(Self(bound.collect::<anyhow::Result<_>>()?))
    }

    fn addresses(&self) -> Addresses {
        let mut addresses = Addresses::default();
        for (surface, listener) in &self.0 {
            let place = match surface {
                Surface::Admin => &mut addresses.admin,
                Surface::Status => &mut addresses.status,
                Surface::Metrics => &mut addresses.metrics,
            };
            *place = listener.local_addr().ok();
        }
        addresses
    }

    fn spawn(self, state: &Arc<AdminState>) {
        for (surface, listener) in self.0 {
            let state = Arc::clone(state);
            tokio::spawn(async move {
                let never: Infallible = admin::serve(listener, surface, state).await;
                match never {}
            });
        }
    }
}

/// The address of a flag, or who has it.
fn take(flag: &str, address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    listen(address).map_err(|error| {
        let holder = if error.kind() == io::ErrorKind::AddrInUse { owner::of_port(address.port()) } else { None };
        match holder {
            Some(holder) => anyhow::anyhow!("{flag} {address}: taken by {holder}"),
            None => anyhow::anyhow!("{flag} {address}: {error}"),
        }
    })
}

/// Port 0 for clients that name this proxy is picked here, because the control plane must be told; a fixed one is tried, so that a taken
/// port ends the start and is not found out much later.
fn proxy_port(bootstrap: &mut Bootstrap) -> anyhow::Result<Sockets> {
    // Files say themselves where to listen.
    let Some(port) = bootstrap.node.http_proxy_port.filter(|_| bootstrap.resources.is_none()) else { return Ok(Sockets::default()) };
    let socket = take("--http-proxy-port", SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    if port != 0 {
        return Ok(Sockets::default());
    }
    let address = socket.local_addr()?;
    bootstrap.node.http_proxy_port = Some(address.port());
    Ok(Arc::new([(address, Arc::new(socket))].into()))
}

/// A panic ends one task, that is one connection, and is counted and logged.
fn count_panics() -> Arc<Counter> {
    let panics = Arc::new(Counter::default());
    let counted = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |panic| {
        counted.increment();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, thread = std::thread::current().name(), message = panic.payload_as_str(), "panic; its connection ends");
    }));
    panics
}
