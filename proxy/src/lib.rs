//! The sidecar and gateway: listener -> http -> route -> policy -> retry -> balance -> connect.
//!
//! In:  bytes from sockets, and xDS.
//! Out: bytes to sockets, and telemetry.
#![deny(unsafe_code)]

pub mod config;
pub mod http;
pub mod route;
pub mod telemetry;
