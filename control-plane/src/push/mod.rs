//! From generations to proxies: waits for a quiet moment, asks for each node's configuration, and drives one session per stream.
//!
//! In:  generations and configurations from [`Configs`]; streams from proxies.
//! Out: discovery responses; who has what, in [`status`].
//!
//! ```text
//! Configs::subscribe -> queue (debounce) -> every stream: Configs::config -> xds::session -> wire -> ACK, NACK -> status
//! ```

pub mod queue;
pub mod scope;
pub mod server;
pub mod status;

use std::sync::Arc;

use pillion_xds::{node::Node, resource::NodeConfig};
use tokio::sync::watch;

/// Where configurations come from: the world and its translation.
pub trait Configs: Send + Sync + 'static {
    /// The newest generation, counted from 1, and every later one; 0 as long as there is none.
    fn subscribe(&self) -> watch::Receiver<u64>;

    /// Everything `node` sees at the newest generation. Called for every stream at every generation, off the request path; the caller
    /// limits how many run at once. Equal nodes should get the same `Arc`.
    fn config(&self, node: &Node) -> Arc<NodeConfig>;
}

#[cfg(test)]
mod tests;
