//! The sidecar and gateway: listener -> http -> route -> policy -> retry -> balance -> connect.
//!
//! In:  bytes from sockets, and xDS.
//! Out: bytes to sockets, and telemetry.
#![deny(unsafe_code)]

pub mod balance;
pub mod bootstrap;
pub mod config;
pub mod connect;
pub mod drain;
pub mod http;
pub mod listener;
pub mod policy;
pub mod retry;
pub mod route;
pub mod tcp;
pub mod telemetry;
pub mod worker;
