//! Watches Istio-shaped YAML, builds generations of the world and serves them as xDS.
#![deny(unsafe_code)]

pub mod model {
    pub mod instance;
}
pub mod push;
