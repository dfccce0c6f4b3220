//! Namespace (core/v1): its labels are in the metadata; nothing else is read.
//!
//! In:  the object. Out: an empty body.

use crate::message::message;

message! {
    /// Kubernetes' `Namespace`.
    pub struct Namespace = "Namespace" (open) {}
}
