//! Watches Istio-shaped YAML, builds generations of the world and serves them as xDS.
#![deny(unsafe_code)]

pub mod admin;
pub mod app;
pub mod bootstrap;
mod command;
pub mod model {
    pub mod endpoints;
    pub mod instance;
    mod locality;
    pub mod publish;
    pub mod revision;
    pub mod store;
    pub mod world;
}
pub mod port_owner;
pub mod push;
pub mod source;
pub mod telemetry;
pub mod translate;

pub use command::main_with;
