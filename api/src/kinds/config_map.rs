//! ConfigMap (core/v1). The one called `istio` carries the mesh configuration under the key `mesh`.
//!
//! In:  the object. Out: its texts.

use std::collections::BTreeMap;

use crate::message::{message, status};

message! {
    /// Kubernetes' `ConfigMap`.
    pub struct ConfigMap = "ConfigMap" (open) {
        "data" data: BTreeMap<String, String>, enforced;
    }
}
