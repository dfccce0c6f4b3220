//! Service (core/v1): a host name, its ports and the workloads behind it.
//!
//! In:  `spec`. Out: what a mesh reads of it; everything else is Kubernetes' business.

use crate::decode::IntOrString;
use crate::message::{message, status};
use crate::meta::Labels;

message! {
    /// Kubernetes' `ServiceSpec`.
    pub struct Service = "Service" (open) {
        "selector" selector: Labels, enforced;
        "ports" ports: Vec<ServicePort>, enforced;
        /// `ClusterIP` when empty; also `NodePort`, `LoadBalancer`, `ExternalName`.
        "type" r#type: String, enforced;
        /// `None` makes the service headless; empty when it has no address yet.
        "clusterIP" cluster_ip: String, enforced;
        "clusterIPs" cluster_ips: Vec<String>, enforced;
        /// The name that an `ExternalName` service stands for.
        "externalName" external_name: String, enforced;
        "externalIPs" external_ips: Vec<String>, pending;
        /// Endpoints count before they are ready.
        "publishNotReadyAddresses" publish_not_ready_addresses: bool, pending;
    }
}

message! {
    /// A port of a Service.
    pub struct ServicePort = "ServicePort" (open) {
        "name" name: String, enforced;
        "port" port: u32, enforced;
        /// The port of the workload, by number or name; equal to `port` when missing.
        "targetPort" target_port: Option<IntOrString>, enforced;
        /// `TCP` when empty.
        "protocol" protocol: String, enforced;
        /// Goes before the prefix of `name` in telling what is spoken.
        "appProtocol" app_protocol: String, enforced;
    }
}
