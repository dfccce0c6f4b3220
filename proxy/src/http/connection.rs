//! One downstream connection: what its requests share.
//!
//! In:  an accepted stream and the filter chain that serves it.
//! Out: the view a request begins with, the peer, and how the connection is told to end.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use http::HeaderValue;
use http::uri::Authority;

use super::record::{HandleSlot, Peer};
use crate::config::listener::{FilterChain, HttpManager, Listener, NetworkFilter, RouteSource};
use crate::config::route_table::RouteTable;
use crate::config::view::WorkerView;
use crate::connect::stream::Activity;
use crate::worker::Worker;

/// A connection, from its first byte to its last.
#[derive(Debug)]
pub struct Connection {
    pub worker: Rc<Worker>,
    pub remote: SocketAddr,
    /// Where the downstream connected to: the socket's address, or the destination of a tunnel.
    pub local: SocketAddr,
    listener: Arc<Listener>,
    chain: Arc<FilterChain>,
    pub manager: Arc<HttpManager>,
    /// Dropped at each swap, so that an idle connection keeps no old snapshot.
    view: RefCell<Option<Rc<ConnectionView>>>,
    /// Metric handles of exchanges without endpoint or peer.
    pub handles: HandleSlot,
    peer: RefCell<Option<(HeaderValue, Option<Rc<Peer>>)>>,
    /// The authority of the last request in the form of the other protocol: clients nearly always repeat it.
    authority: RefCell<Option<(Authority, HeaderValue)>>,
    pub activity: Arc<Activity>,
    /// Exchanges in flight.
    active: Cell<u32>,
    /// Second of the worker's clock since when there is none.
    idle_since: Cell<u32>,
    phase: Cell<Phase>,
    task: OnceCell<Waker>,
}

/// How long a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Phase {
    Open,
    /// No new requests: `Connection: close`, GOAWAY.
    Draining,
    /// At once.
    Closed,
}

/// What a request looks things up in: a worker's view, and this connection's place in it.
#[derive(Debug)]
pub struct ConnectionView {
    pub view: Rc<WorkerView>,
    pub listener: Arc<Listener>,
    pub manager: Arc<HttpManager>,
    /// `None`: the route configuration is not there.
    pub routes: Option<Arc<RouteTable>>,
}

impl Connection {
    pub fn new(
        worker: &Rc<Worker>,
        (remote, local): (SocketAddr, SocketAddr),
        listener: Arc<Listener>,
        chain: Arc<FilterChain>,
        manager: Arc<HttpManager>,
        activity: Arc<Activity>,
    ) -> Rc<Self> {
        Rc::new(Self {
            worker: Rc::clone(worker),
            remote,
            local,
            listener,
            chain,
            manager,
            view: RefCell::default(),
            handles: HandleSlot::default(),
            peer: RefCell::default(),
            authority: RefCell::default(),
            activity,
            active: Cell::new(0),
            idle_since: Cell::new(worker.seconds()),
            phase: Cell::new(Phase::Open),
            task: OnceCell::new(),
        })
    }

    /// The current view. A connection whose listener or chain is gone goes on with what it had.
    pub fn view(&self) -> Rc<ConnectionView> {
        if let Some(view) = &*self.view.borrow() {
            return Rc::clone(view);
        }
        let view = Rc::new(self.look_up());
        *self.view.borrow_mut() = Some(Rc::clone(&view));
        view
    }

    fn look_up(&self) -> ConnectionView {
        let view = self.worker.view();
        let listener = Arc::clone(view.config.listeners.get(&self.listener.name).unwrap_or(&self.listener));
        let chain = listener.chains.iter().chain(&listener.default_chain).find(|chain| chain.name == self.chain.name);
        let manager = match chain.map(|chain| &chain.filter) {
            Some(NetworkFilter::Http(manager)) => Arc::clone(manager),
            Some(NetworkFilter::Tcp(_)) | None => Arc::clone(&self.manager),
        };
        let routes = match &manager.routes {
            RouteSource::Inline(table) => Some(Arc::clone(table)),
            RouteSource::Named(name) => view.config.routes.get(name).map(Arc::clone),
        };
        ConnectionView { view, listener, manager, routes }
    }

    /// A swap: the next request looks again. A connection of a listener that is gone takes its leave.
    pub fn refresh(&self, config: &crate::config::RuntimeConfig) {
        *self.view.borrow_mut() = None;
        if config.listeners.get(&self.listener.name).is_none() {
            self.end(Phase::Draining);
        }
    }

    /// The peer that a metadata header tells of; decoded once per value.
    pub fn peer(&self, metadata: &HeaderValue) -> Option<Rc<Peer>> {
        let mut known = self.peer.borrow_mut();
        if let Some((value, peer)) = &*known
            && value == metadata
        {
            return peer.clone();
        }
        let labels = self.worker.recorder.peer(metadata.as_bytes());
        let peer = labels.map(|labels| Rc::new(Peer { labels, handles: HandleSlot::default() }));
        *known = Some((metadata.clone(), peer.clone()));
        peer
    }

    /// An authority as the value of `Host`.
    pub fn host_of(&self, authority: &Authority) -> Option<HeaderValue> {
        let mut known = self.authority.borrow_mut();
        if let Some((last, host)) = &*known
            && last.as_str() == authority.as_str()
        {
            return Some(host.clone());
        }
        let host = HeaderValue::from_str(authority.as_str()).ok()?;
        *known = Some((authority.clone(), host.clone()));
        Some(host)
    }

    /// The value of `Host` as an authority.
    pub fn authority_of(&self, host: &HeaderValue) -> Option<Authority> {
        let mut known = self.authority.borrow_mut();
        if let Some((authority, last)) = &*known
            && last == host
        {
            return Some(authority.clone());
        }
        let authority = Authority::try_from(host.as_bytes()).ok()?;
        *known = Some((authority.clone(), host.clone()));
        Some(authority)
    }

    /// A request's head is complete.
    pub fn exchange_begins(&self) {
        self.active.set(self.active.get() + 1);
        self.activity.reset();
    }

    pub fn exchange_ends(&self) {
        let active = self.active.get().saturating_sub(1);
        self.active.set(active);
        if active == 0 {
            self.idle_since.set(self.worker.seconds());
            self.activity.reset();
        }
    }

    /// Tell the connection's task to end it. A later phase is never undone.
    pub fn end(&self, phase: Phase) {
        if phase > self.phase.get() {
            self.phase.set(phase);
            if let Some(task) = self.task.get() {
                task.wake_by_ref();
            }
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whom to wake when the phase changes: the connection's own task, which never moves.
    pub fn watch(&self, waker: &Waker) {
        self.task.get_or_init(|| waker.clone());
    }

    /// Close what has been idle, or has been sending one head, for too long. Called once a second.
    pub fn sweep(&self, now: u32) {
        if self.active.get() > 0 {
            return;
        }
        let passed = |since: u32, limit: Option<std::time::Duration>| {
            limit.is_some_and(|limit| u64::from(now.saturating_sub(since)) > limit.as_secs())
        };
        let head = self.activity.head_since();
        if head != 0 && passed(head, self.manager.request_headers_timeout) {
            self.end(Phase::Closed);
        } else if passed(self.idle_since.get(), self.manager.idle_timeout) {
            self.end(Phase::Draining);
        }
    }
}
