//! HTTP from accepted bytes to the answer: the codec's server side, and the request path.

pub mod record;
