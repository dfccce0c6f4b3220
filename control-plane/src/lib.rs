//! Watches Istio-shaped YAML, builds generations of the world and serves them as xDS.
#![deny(unsafe_code)]

pub mod app;
pub mod bootstrap;
pub mod model {
    pub mod endpoints;
    pub mod instance;
    pub mod revision;
    pub mod world;
}
pub mod push;
pub mod source {
    pub mod change;
}
