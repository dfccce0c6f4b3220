//! PeerAuthentication: whether a workload demands mutual TLS.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `security/v1beta1/peer_authentication.proto`.

use std::collections::BTreeMap;

use crate::kinds::selector::WorkloadSelector;
use crate::message::{enumeration, message, status};

message! {
    /// Istio's `PeerAuthentication`.
    pub struct PeerAuthentication = "PeerAuthentication" {
        "selector" selector: Option<WorkloadSelector>, pending;
        "mtls" mtls: Option<MutualTls>, pending;
        /// By port of the workload.
        "portLevelMtls" port_level_mtls: BTreeMap<u32, MutualTls>, pending;
    }
}

message! {
    /// Istio's `PeerAuthentication.MutualTLS`.
    pub struct MutualTls = "MutualTLS" {
        "mode" mode: MutualTlsMode, pending;
    }
}

enumeration! {
    /// Istio's `PeerAuthentication.MutualTLS.Mode`.
    pub enum MutualTlsMode = "Mode" {
        "UNSET" 0 Unset, enforced;
        "DISABLE" 1 Disable, pending;
        "PERMISSIVE" 2 Permissive, pending;
        "STRICT" 3 Strict, pending;
    }
}
