//! Whether, when and how often a request is tried again.
//!
//! In:  a retry policy and how a try ended.
//! Out: another try after a pause, or none; the request's body kept for it within a limit.

pub mod asked;
pub mod attempts;
pub mod replay;
pub mod tap;
pub mod timeout;
