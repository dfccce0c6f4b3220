//! WorkloadGroup: a template for workload entries that register themselves.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `networking/v1alpha3/workload_group.proto`.

use std::collections::BTreeMap;

use crate::kinds::workload_entry::WorkloadEntry;
use crate::message::{message, status};

message! {
    /// Istio's `WorkloadGroup`.
    pub struct WorkloadGroup = "WorkloadGroup" {
        "metadata" metadata: Option<GroupMetadata>, pending;
        "template" template: Option<WorkloadEntry>, pending;
        "probe" probe: Option<GroupProbe>, pending;
    }
}

message! {
    /// Istio's `WorkloadGroup.ObjectMeta`.
    pub struct GroupMetadata = "ObjectMeta" {
        "labels" labels: BTreeMap<String, String>, pending;
        "annotations" annotations: BTreeMap<String, String>, pending;
    }
}

message! {
    /// Istio's `ReadinessProbe`.
    pub struct GroupProbe = "ReadinessProbe" {
        "initialDelaySeconds" initial_delay_seconds: i32, pending;
        "timeoutSeconds" timeout_seconds: i32, pending;
        "periodSeconds" period_seconds: i32, pending;
        "successThreshold" success_threshold: i32, pending;
        "failureThreshold" failure_threshold: i32, pending;
        "httpGet" http_get: Option<HttpHealthCheckConfig>, pending;
        "tcpSocket" tcp_socket: Option<TcpHealthCheckConfig>, pending;
        "exec" exec: Option<ExecHealthCheckConfig>, pending;
        "grpc" grpc: Option<GrpcHealthCheckConfig>, pending;
    }
    one_of [["httpGet", "tcpSocket", "exec", "grpc"]]
}

message! {
    /// Istio's `HTTPHealthCheckConfig`.
    pub struct HttpHealthCheckConfig = "HTTPHealthCheckConfig" {
        "path" path: String, pending;
        "port" port: u32, pending;
        "host" host: String, pending;
        "scheme" scheme: String, pending;
        "httpHeaders" http_headers: Vec<ProbeHeader>, pending;
    }
}

message! {
    /// Istio's `GrpcHealthCheckConfig`.
    pub struct GrpcHealthCheckConfig = "GrpcHealthCheckConfig" {
        "port" port: u32, pending;
        "service" service: String, pending;
    }
}

message! {
    /// Istio's `HTTPHeader`.
    pub struct ProbeHeader = "HTTPHeader" {
        "name" name: String, pending;
        "value" value: String, pending;
    }
}

message! {
    /// Istio's `TCPHealthCheckConfig`.
    pub struct TcpHealthCheckConfig = "TCPHealthCheckConfig" {
        "host" host: String, pending;
        "port" port: u32, pending;
    }
}

message! {
    /// Istio's `ExecHealthCheckConfig`.
    pub struct ExecHealthCheckConfig = "ExecHealthCheckConfig" {
        "command" command: Vec<String>, pending;
    }
}
