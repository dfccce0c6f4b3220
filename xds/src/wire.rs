//! Envoy's xDS v3 messages, generated from `proto/` at build time.
//!
//! In:  nothing.
//! Out: one module per protobuf package (`wire::envoy::config::listener::v3::Listener`, …) and [`DESCRIPTORS`].

#[allow(clippy::all, clippy::pedantic, rustdoc::all, dead_code, missing_docs, rust_2018_idioms, unused)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

pub use generated::*;

/// The descriptor set of every message here, for proto3 JSON; decoded on first use only.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The full names of fields that hold secrets, one a line. Source: Envoy's `udpa.annotations.sensitive`.
pub const SENSITIVE_FIELDS: &str = include_str!(concat!(env!("OUT_DIR"), "/sensitive.txt"));
