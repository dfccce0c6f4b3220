//! The local mesh.
pub mod child;
pub mod env;
pub mod events;
pub mod output;
pub mod plan;
pub mod port_owner;
pub mod ports;
pub mod probe;
pub mod readiness;
pub mod supervise;
