//! Configuration: wire resources in, compiled ones or refusals out; the stream to the control plane and the copy on disk.
// Other control planes still send fields that are deprecated.
#![allow(deprecated)]
#![allow(clippy::unwrap_used)] // a test's helpers may fail loudly

#[path = "config/clusters.rs"]
mod clusters;
#[path = "config/follow.rs"]
mod follow;
#[path = "config/listeners.rs"]
mod listeners;
#[path = "config/routes.rs"]
mod routes;
#[path = "config/wire.rs"]
mod wire;
