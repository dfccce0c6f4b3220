//! What both planes agree on. No sockets beyond `transport`, no configuration kinds, nothing of the request path.
#![deny(unsafe_code)]

pub mod identity;
pub mod names;
pub mod node;
pub mod resource;
pub mod session;
pub mod subscription;
pub mod wire;
