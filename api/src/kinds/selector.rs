//! Selectors shared by the security, telemetry and proxy kinds.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `type/v1beta1/selector.proto`.

use std::collections::BTreeMap;

use crate::message::{message, status};

message! {
    /// Istio's `WorkloadSelector`.
    pub struct WorkloadSelector = "WorkloadSelector" {
        "matchLabels" match_labels: BTreeMap<String, String>, enforced;
    }
}

message! {
    /// Istio's `PolicyTargetReference`.
    pub struct PolicyTargetReference = "PolicyTargetReference" {
        "group" group: String, pending;
        "kind" kind: String, pending;
        "name" name: String, pending;
        "namespace" namespace: String, pending;
    }
}
