//! ServiceEntry: a service that no Service describes.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `networking/v1alpha3/service_entry.proto`.

use crate::kinds::sidecar::LabelSelector;
use crate::kinds::workload_entry::WorkloadEntry;
use crate::message::{enumeration, message, status};

message! {
    /// Istio's `ServiceEntry`.
    pub struct ServiceEntry = "ServiceEntry" {
        "hosts" hosts: Vec<String>, enforced;
        /// Addresses or CIDRs.
        "addresses" addresses: Vec<String>, enforced;
        "ports" ports: Vec<ServicePort>, enforced;
        "location" location: Location, enforced;
        "resolution" resolution: Resolution, enforced;
        "endpoints" endpoints: Vec<WorkloadEntry>, enforced;
        "workloadSelector" workload_selector: Option<LabelSelector>, enforced;
        "exportTo" export_to: Vec<String>, enforced;
        "subjectAltNames" subject_alt_names: Vec<String>, pending;
    }
}

enumeration! {
    /// Istio's `ServiceEntry.Location`.
    pub enum Location = "Location" {
        "MESH_EXTERNAL" 0 MeshExternal, enforced;
        "MESH_INTERNAL" 1 MeshInternal, enforced;
    }
}

enumeration! {
    /// Istio's `ServiceEntry.Resolution`.
    pub enum Resolution = "Resolution" {
        "NONE" 0 None, enforced;
        "STATIC" 1 Static, enforced;
        "DNS" 2 Dns, enforced;
        "DNS_ROUND_ROBIN" 3 DnsRoundRobin, enforced;
        "DYNAMIC_DNS" 4 DynamicDns, enforced;
    }
}

message! {
    /// Istio's `ServicePort`.
    pub struct ServicePort = "ServicePort" {
        "number" number: u32, enforced;
        "protocol" protocol: String, enforced;
        "name" name: String, enforced;
        "targetPort" target_port: u32, enforced;
    }
}
