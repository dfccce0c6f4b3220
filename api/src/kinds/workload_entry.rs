//! WorkloadEntry: an endpoint that is no pod.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `networking/v1alpha3/workload_entry.proto`.

use std::collections::BTreeMap;

use crate::message::{message, status};

message! {
    /// Istio's `WorkloadEntry`.
    pub struct WorkloadEntry = "WorkloadEntry" {
        "address" address: String, enforced;
        /// Port name to port; goes before `targetPort`.
        "ports" ports: BTreeMap<String, u32>, enforced;
        "labels" labels: BTreeMap<String, String>, enforced;
        "network" network: String, pending;
        "locality" locality: String, enforced;
        "weight" weight: u32, enforced;
        "serviceAccount" service_account: String, pending;
    }
}
