//! One thread per core, each with its own runtime, connections and pools; nothing shared but snapshots and atomics.
//!
//! In:  snapshots with their sockets, the order to drain.
//! Out: traffic served.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::Snapshot;
use crate::config::store::ConfigStore;
use crate::config::view::WorkerView;
use crate::connect::pool::Pools;
use crate::connect::resolve::Resolver;
use crate::drain::{Drain, Order};
use crate::http::connection::{Connection, Phase};
use crate::http::mirror::Mirrors;
use crate::http::record::{MakeRecorder, Recorder};
use crate::listener::accept;

/// What workers are started with.
#[derive(Clone)]
pub struct Settings {
    /// Number of threads, at least 1.
    pub workers: usize,
    /// `%HOSTNAME%`.
    pub hostname: Arc<str>,
    /// Seed of all choices; `None` seeds from the system. Tests give one.
    pub seed: Option<u64>,
    pub recorder: MakeRecorder,
    pub resolver: Resolver,
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Settings").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// All workers of the process.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    drain: Arc<Drain>,
    connections: Arc<AtomicU32>,
}

impl Workers {
    /// Start the threads. They serve what `store` publishes, with the sockets in it.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(settings: &Settings, store: &ConfigStore) -> io::Result<Self> {
        let (drain, orders) = Drain::new();
        let connections = Arc::new(AtomicU32::new(0));
        let mut threads = Vec::with_capacity(settings.workers);
        for index in 0..settings.workers.max(1) {
            let (settings, snapshots, orders) = (settings.clone(), store.subscribe(), orders.clone());
            let connections = Arc::clone(&connections);
            let runtime = move || Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || match runtime() {
                Ok(runtime) => runtime.block_on(async move {
                    let worker = Worker::new(index, &settings, Arc::clone(&snapshots.borrow()), connections);
                    worker.run(snapshots, orders).await;
                }),
                Err(error) => tracing::error!(%error, "a worker cannot start"),
            })?;
            threads.push(thread);
        }
        Ok(Self { threads, drain: Arc::new(drain), connections })
    }

    /// How to make them take their leave.
    pub fn drain(&self) -> Arc<Drain> {
        Arc::clone(&self.drain)
    }

    /// Downstream HTTP connections open now.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The same number, for whoever outlives this.
    pub fn connection_count(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.connections)
    }

    /// Wait for all threads, after [`Drain::stop`]. Blocks.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

/// One worker, as its connections see it.
pub struct Worker {
    pub index: usize,
    pub recorder: Rc<dyn Recorder>,
    pub resolver: Resolver,
    hostname: Arc<str>,
    view: RefCell<Rc<WorkerView>>,
    pools: Rc<Pools>,
    random: RefCell<fastrand::Rng>,
    /// Seconds since the start, from 1: what coarse timers look at. Shared with streams, which must be `Send`.
    clock: Arc<AtomicU32>,
    connections: RefCell<HashMap<*const Connection, Rc<Connection>, foldhash::fast::RandomState>>,
    all_connections: Arc<AtomicU32>,
    /// TCP connections and upgraded streams.
    busy: Cell<u32>,
    pub mirrors: Mirrors,
    draining: Cell<bool>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Worker").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker that serves `snapshot`; [`Self::run`] makes it live. Call on the thread that runs it.
    pub fn new(index: usize, settings: &Settings, snapshot: Snapshot, connections: Arc<AtomicU32>) -> Rc<Self> {
        let pools = Rc::new(Pools::default());
        let random = match settings.seed {
            Some(seed) => fastrand::Rng::with_seed(seed.wrapping_add(index as u64)),
            None => fastrand::Rng::new(),
        };
        Rc::new(Self {
            index,
            recorder: (settings.recorder)(index),
            resolver: settings.resolver.clone(),
            hostname: Arc::clone(&settings.hostname),
            view: RefCell::new(Rc::new(WorkerView::first(snapshot, Rc::clone(&pools)))),
            pools,
            random: RefCell::new(random),
            clock: Arc::new(AtomicU32::new(1)),
            connections: RefCell::default(),
            all_connections: connections,
            busy: Cell::new(0),
            mirrors: Mirrors::default(),
            draining: Cell::new(false),
        })
    }

    /// Serve until told to stop.
    pub async fn run(self: Rc<Self>, mut snapshots: watch::Receiver<Snapshot>, mut orders: watch::Receiver<Order>) {
        let mut accepting = Accepting::default();
        let first = Arc::clone(&snapshots.borrow_and_update());
        self.swap(&first);
        accepting.follow(&self, &first);
        drop(first);
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut deadline, mut fed) = (None, true);
        loop {
            tokio::select! {
                changed = snapshots.changed(), if fed => match changed {
                    Ok(()) => {
                        let next = Arc::clone(&snapshots.borrow_and_update());
                        self.swap(&next);
                        if !self.draining.get() {
                            accepting.follow(&self, &next);
                        }
                        next.taken.by_one_more();
                    }
                    Err(_) => fed = false,
                },
                _ = seconds.tick() => self.sweep(),
                changed = orders.changed() => {
                    let order = if changed.is_ok() { *orders.borrow_and_update() } else { Order::Stop(Duration::ZERO) };
                    if order != Order::Serve {
                        self.take_leave(&mut accepting);
                    }
                    if let Order::Stop(time) = order {
                        deadline = Some(Instant::now() + time);
                    }
                }
            }
            if let Some(deadline) = deadline {
                self.finish(deadline).await;
                return;
            }
        }
    }

    /// Make a snapshot this worker's.
    fn swap(&self, snapshot: &Snapshot) {
        let next = {
            let view = self.view.borrow();
            if Arc::ptr_eq(&view.config, snapshot) {
                return;
            }
            Rc::new(view.next(Arc::clone(snapshot)))
        };
        let before = self.view.replace(next);
        drop(before);
        for connection in self.connections.borrow().values() {
            connection.refresh(snapshot);
        }
        self.pools.sweep(Instant::now());
    }

    /// What is done once a second, instead of a timer per connection.
    fn sweep(&self) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed) + 1;
        for connection in self.connections.borrow().values() {
            connection.sweep(now);
        }
        self.pools.sweep(Instant::now());
    }

    fn take_leave(self: &Rc<Self>, accepting: &mut Accepting) {
        self.draining.set(true);
        accepting.stop(self);
        for connection in self.connections.borrow().values() {
            connection.end(Phase::Draining);
        }
    }

    /// Wait for what runs; at the deadline close it.
    async fn finish(&self, deadline: Instant) {
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        while !self.connections.borrow().is_empty() || self.busy.get() > 0 {
            if Instant::now() >= deadline {
                tracing::info!(
                    worker = self.index,
                    connections = self.connections.borrow().len(),
                    others = self.busy.get(),
                    "closing what did not finish in time"
                );
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub fn view(&self) -> Rc<WorkerView> {
        Rc::clone(&self.view.borrow())
    }

    /// A connection begins; it is known until the guard is dropped.
    pub fn register(&self, connection: &Rc<Connection>) -> Registered {
        self.connections.borrow_mut().insert(Rc::as_ptr(connection), Rc::clone(connection));
        self.all_connections.fetch_add(1, Ordering::Relaxed);
        if self.draining.get() {
            connection.end(Phase::Draining);
        }
        Registered(Rc::clone(connection))
    }

    /// Something that is not an HTTP connection runs (TCP, an upgraded stream): a drain waits for it while the guard lives.
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        Busy(Rc::clone(self))
    }

    pub fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// A number only where one is needed.
    pub fn random_if(&self, needed: bool) -> u64 {
        if needed { self.random() } else { 0 }
    }

    pub fn random_wide(&self) -> u128 {
        self.random.borrow_mut().u128(..)
    }

    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// The coarse clock, for streams.
    pub fn clock(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.clock)
    }

    /// Seconds since the start, from 1.
    pub fn seconds(&self) -> u32 {
        self.clock.load(Ordering::Relaxed)
    }
}

/// Keeps a connection known to its worker.
#[derive(Debug)]
pub struct Registered(Rc<Connection>);

impl Drop for Registered {
    fn drop(&mut self) {
        let worker = &self.0.worker;
        worker.connections.borrow_mut().remove(&Rc::as_ptr(&self.0));
        worker.all_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a drain waiting.
#[derive(Debug)]
pub struct Busy(Rc<Worker>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

/// The accept loops, by the address a listener names.
#[derive(Default)]
struct Accepting(HashMap<SocketAddr, (Arc<TcpListener>, AbortHandle)>);

impl Accepting {
    /// Accept on the snapshot's sockets and on no other.
    fn follow(&mut self, worker: &Rc<Worker>, snapshot: &Snapshot) {
        self.0.retain(|address, (socket, task)| {
            let stays = snapshot.sockets.get(address).is_some_and(|next| Arc::ptr_eq(next, socket));
            if !stays {
                task.abort();
            }
            stays
        });
        for (address, socket) in &*snapshot.sockets {
            if self.0.contains_key(address) {
                continue;
            }
            match socket.try_clone().and_then(tokio::net::TcpListener::from_std) {
                Ok(own) => {
                    let task = tokio::task::spawn_local(accept::run(Rc::clone(worker), own, *address));
                    self.0.insert(*address, (Arc::clone(socket), task.abort_handle()));
                }
                Err(error) => tracing::error!(%address, %error, "a worker cannot accept"),
            }
        }
    }

    fn stop(&mut self, worker: &Rc<Worker>) {
        for (address, (socket, task)) in self.0.drain() {
            task.abort();
            accept::last(worker, &socket, address);
        }
    }
}
