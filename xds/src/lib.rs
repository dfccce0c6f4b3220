//! What both planes agree on. No sockets beyond `transport`, no configuration kinds, nothing of the request path.
#![deny(unsafe_code)]

pub mod identity;
pub mod json;
pub mod names;
pub mod node;
pub mod resource;
pub mod session;
pub mod subscription;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;
pub mod wire;
pub mod yaml;
