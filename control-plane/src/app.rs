//! Starts and ends the control plane; the only place that spawns.
//!
//! In:  [`Bootstrap`].
//! Out: [`Running`]: addresses, the door for instances, generations and [`Event`]s.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pillion_api::{effective::Unenforced, finding::Finding};
use tokio::sync::{broadcast, watch};

use crate::{
    bootstrap::Bootstrap,
    model::{instance::InstanceRegistry, world::World},
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
    /// After 30 s these proxies (node names) have not answered.
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

/// A control plane at work. Dropping it without [`Running::shutdown`] ends its tasks without ceremony.
pub struct Running {
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// The HTTP API.
    pub api: SocketAddr,
    /// Where `/metrics` is.
    pub metrics: SocketAddr,
    /// The door for what runs.
    pub registry: InstanceRegistry,
}

/// Reads the configuration once, listens, and starts everything. Generation 1 is complete when this returns.
pub async fn start(bootstrap: Bootstrap) -> anyhow::Result<Running> {
    let _ = bootstrap;
    anyhow::bail!("not yet")
}

impl Running {
    /// The newest generation.
    pub fn world(&self) -> Arc<World> {
        self.subscribe_world().borrow().clone()
    }

    /// The newest generation and every later one.
    pub fn subscribe_world(&self) -> watch::Receiver<Arc<World>> {
        unimplemented!()
    }

    /// Everything in force and everything wrong with it, now.
    pub fn findings(&self) -> Arc<[Finding]> {
        unimplemented!()
    }

    /// Security policies that are present and not enforced.
    pub fn unenforced(&self) -> Arc<[Unenforced]> {
        unimplemented!()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        unimplemented!()
    }

    /// Stops accepting, tells proxies to reconnect elsewhere, ends every task; returns within a few seconds.
    pub async fn shutdown(self) {}
}
