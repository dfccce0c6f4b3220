//! From a bound address or a tunnel to the filter that serves the connection.
//!
//! In:  sockets, tunnels, compiled listeners.
//! Out: connections handed to `http::server` or `tcp`.

pub mod accept;
pub mod bind;
pub mod filter_chain;
pub mod owner;
pub mod serve;
pub mod sniff;
