//! Sidecar: what a proxy listens on and which services it sees.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `networking/v1alpha3/sidecar.proto`.

use std::collections::BTreeMap;

use crate::kinds::destination_rule::ConnectionPoolSettings;
use crate::kinds::gateway::ServerTlsSettings;
use crate::kinds::virtual_service::Destination;
use crate::message::{enumeration, message, status};

message! {
    /// Istio's `Sidecar`.
    pub struct Sidecar = "Sidecar" {
        "workloadSelector" workload_selector: Option<LabelSelector>, enforced;
        "ingress" ingress: Vec<IstioIngressListener>, enforced;
        "egress" egress: Vec<IstioEgressListener>, enforced;
        "inboundConnectionPool" inbound_connection_pool: Option<ConnectionPoolSettings>, pending;
        "outboundTrafficPolicy" outbound_traffic_policy: Option<OutboundTrafficPolicy>, enforced;
    }
    retired [("localhost", "use `ingress[].defaultEndpoint`")]
}

message! {
    /// Istio's `IstioIngressListener`.
    pub struct IstioIngressListener = "IstioIngressListener" {
        "port" port: Option<SidecarPort>, enforced;
        "bind" bind: String, pending;
        "captureMode" capture_mode: CaptureMode, pending;
        "defaultEndpoint" default_endpoint: String, enforced;
        "tls" tls: Option<ServerTlsSettings>, pending;
        "connectionPool" connection_pool: Option<ConnectionPoolSettings>, pending;
    }
    retired [("localhostClientTls", "it has no effect in any current release: remove it"), ("localhost_client_tls", "it has no effect in any current release: remove it")]
}

message! {
    /// Istio's `IstioEgressListener`.
    pub struct IstioEgressListener = "IstioEgressListener" {
        "port" port: Option<SidecarPort>, enforced;
        "bind" bind: String, pending;
        "captureMode" capture_mode: CaptureMode, pending;
        "hosts" hosts: Vec<String>, enforced;
    }
    retired [("localhostServerTls", "it has no effect in any current release: remove it"), ("localhost_server_tls", "it has no effect in any current release: remove it")]
}

message! {
    /// Istio's `WorkloadSelector`.
    pub struct LabelSelector = "WorkloadSelector" {
        "labels" labels: BTreeMap<String, String>, enforced;
    }
}

message! {
    /// Istio's `OutboundTrafficPolicy`.
    pub struct OutboundTrafficPolicy = "OutboundTrafficPolicy" {
        "mode" mode: OutboundTrafficPolicyMode, enforced;
        "egressProxy" egress_proxy: Option<Destination>, pending;
    }
}

enumeration! {
    /// Istio's `OutboundTrafficPolicy.Mode`.
    pub enum OutboundTrafficPolicyMode = "Mode" {
        "REGISTRY_ONLY" 0 RegistryOnly, enforced;
        "ALLOW_ANY" 1 AllowAny, enforced;
    }
}

enumeration! {
    /// Istio's `CaptureMode`.
    pub enum CaptureMode = "CaptureMode" {
        "DEFAULT" 0 Default, enforced;
        "IPTABLES" 1 Iptables, pending;
        "NONE" 2 None, pending;
    }
}

message! {
    /// Istio's `SidecarPort`.
    pub struct SidecarPort = "SidecarPort" {
        "number" number: u32, enforced;
        "protocol" protocol: String, enforced;
        "name" name: String, label;
        /// Deprecated.
        "targetPort" target_port: u32, inert;
    }
}
