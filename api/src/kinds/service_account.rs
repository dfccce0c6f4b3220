//! ServiceAccount (core/v1): an identity that workloads may have.
//!
//! In:  the object. Out: an empty body.

use crate::message::message;

message! {
    /// Kubernetes' `ServiceAccount`.
    pub struct ServiceAccount = "ServiceAccount" (open) {}
}
