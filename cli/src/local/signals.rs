//! When to end: Ctrl-C, SIGTERM, a closed terminal, a reader of standard output that went away.
//!
//! In:  signals. Out: futures that end once per signal.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The reasons to end.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    broken: CancellationToken,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    pub fn new(broken: CancellationToken) -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            broken,
        })
    }

    /// The first reason to end.
    pub async fn first(&mut self) {
        let broken = self.broken.clone();
        tokio::select! {
            () = self.again() => {}
            () = broken.cancelled() => {}
        }
    }

    /// A further signal of a person or an init system.
    pub async fn again(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
