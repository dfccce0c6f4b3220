//! The one place where a new configuration becomes visible.
//!
//! In:  complete [`RuntimeConfig`]s from the config task.
//! Out: [`Snapshot`]s for workers, and a signal at each swap.

use std::sync::Arc;

use tokio::sync::watch;

use super::{RuntimeConfig, Snapshot};

/// Holds the current snapshot; clones share it. Workers wait for changes, they never poll it per request.
#[derive(Debug, Clone)]
pub struct ConfigStore(Arc<watch::Sender<Snapshot>>);

impl ConfigStore {
    pub fn new(first: RuntimeConfig) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(first))))
    }

    pub fn snapshot(&self) -> Snapshot {
        Arc::clone(&self.0.borrow())
    }

    /// Called only by the config task, with a complete candidate.
    pub fn publish(&self, next: RuntimeConfig) {
        self.0.send_replace(Arc::new(next));
    }

    /// The current snapshot and all later ones.
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.0.subscribe()
    }
}

impl Default for ConfigStore {
    fn default() -> Self {
        Self::new(RuntimeConfig::default())
    }
}
