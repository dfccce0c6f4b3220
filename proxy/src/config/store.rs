//! The one place where a new configuration becomes visible.
//!
//! In:  complete [`RuntimeConfig`]s from the config task.
//! Out: [`Snapshot`]s for workers, and a signal at each swap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Notify, watch};

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

/// Counts the workers that have made a snapshot theirs, so that an ACK means that requests obey.
#[derive(Debug, Default)]
pub struct Taken {
    workers: AtomicU32,
    changed: Notify,
}

impl Taken {
    /// A worker's new connections and requests see the snapshot from now on.
    pub fn by_one_more(&self) {
        self.workers.fetch_add(1, Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits until so many workers have it. For one waiter.
    pub async fn by(&self, workers: u32) {
        while self.workers.load(Ordering::Acquire) < workers {
            self.changed.notified().await;
        }
    }
}

impl Default for ConfigStore {
    fn default() -> Self {
        Self::new(RuntimeConfig::default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_taken_when_every_worker_has_it() {
        let taken = Taken::default();
        taken.by(0).await;
        taken.by_one_more();
        assert!(timeout(Duration::from_secs(1), taken.by(2)).await.is_err());
        let (both, ()) = tokio::join!(timeout(Duration::from_secs(1), taken.by(2)), async { taken.by_one_more() });
        assert!(both.is_ok());
    }
}
