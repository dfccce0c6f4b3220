//! Going away in good order.
//!
//! In:  the wish to stop (`SIGTERM`, `/drain_listeners`), and how long it may take.
//! Out: workers that accept nothing, tell their peers, finish what runs, and stop at the deadline at the latest.

use std::time::Duration;

use tokio::sync::watch;

/// What workers have been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    Serve,
    /// Listeners are drained, the process stays: `Connection: close`, GOAWAY, no new connections.
    Drain,
    /// Finish within this time, then end.
    Stop(Duration),
}

/// Tells all workers. Orders only get stronger.
#[derive(Debug)]
pub struct Drain(watch::Sender<Order>);

impl Drain {
    pub fn new() -> (Self, watch::Receiver<Order>) {
        let (sender, receiver) = watch::channel(Order::Serve);
        (Self(sender), receiver)
    }

    /// Take leave of all downstreams and accept no new ones.
    pub fn drain_listeners(&self) {
        self.0.send_if_modified(|order| match order {
            Order::Serve => {
                *order = Order::Drain;
                true
            }
            Order::Drain | Order::Stop(_) => false,
        });
    }

    /// The same, and end when all is done, or after `deadline`.
    pub fn stop(&self, deadline: Duration) {
        self.0.send_replace(Order::Stop(deadline));
    }

    pub fn is_draining(&self) -> bool {
        *self.0.borrow() != Order::Serve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_only_get_stronger() {
        let (drain, orders) = Drain::new();
        assert!(!drain.is_draining());
        drain.drain_listeners();
        assert_eq!(*orders.borrow(), Order::Drain);
        drain.stop(Duration::ZERO);
        drain.drain_listeners();
        assert_eq!(*orders.borrow(), Order::Stop(Duration::ZERO));
    }
}
