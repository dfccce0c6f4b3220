//! HTTP from accepted bytes to the answer: the codec's server side, and the request path.
//!
//! In:  byte streams of downstreams, the worker's view.
//! Out: responses, and one [`record::RequestRecord`] per exchange.

pub mod attempt;
pub mod body;
pub mod check;
pub mod connection;
pub mod context;
pub mod facts;
pub mod headers;
pub mod local_reply;
pub mod mirror;
pub mod normal_path;
pub mod path;
pub mod plan;
pub mod record;
pub mod server;
pub mod trust;
pub mod tunnel;
pub mod upgrade;
