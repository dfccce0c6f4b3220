//! What the proxy says of itself: Istio's metrics, the access log, and who is at the other end.
//!
//! In:  finished requests and connections.
//! Out: series for Prometheus, log lines, peer labels. Nothing here decides about traffic.

pub mod access_log;
pub mod log_sink;
pub mod logging;
pub mod metrics;
pub mod peer;
pub mod recorder;
pub mod stats;
