//! Deployment (apps/v1), as far as a local Workload takes it over.
//!
//! In:  `spec`. Out: replicas, labels, account, ports, environment and probes of its pods.

use std::time::Duration;

use crate::decode::IntOrString;
use crate::message::{message, status};
use crate::meta::Labels;

message! {
    /// Kubernetes' `DeploymentSpec`.
    pub struct Deployment = "Deployment" (open) {
        /// 1 when missing.
        "replicas" replicas: Option<u32>, enforced;
        "selector" selector: Option<DeploymentSelector>, enforced;
        "template" template: Option<PodTemplate>, enforced;
    }
}

message! {
    /// Kubernetes' `LabelSelector`.
    pub struct DeploymentSelector = "LabelSelector" (open) {
        "matchLabels" match_labels: Labels, enforced;
    }
}

message! {
    /// Kubernetes' `PodTemplateSpec`.
    pub struct PodTemplate = "PodTemplateSpec" (open) {
        "metadata" metadata: Option<PodMetadata>, enforced;
        "spec" spec: Option<PodSpec>, enforced;
    }
}

message! {
    /// The metadata of a pod.
    pub struct PodMetadata = "ObjectMeta" (open) {
        "labels" labels: Labels, enforced;
    }
}

message! {
    /// Kubernetes' `PodSpec`.
    pub struct PodSpec = "PodSpec" (open) {
        /// `default` when empty.
        "serviceAccountName" service_account_name: String, enforced;
        /// The old name of `serviceAccountName`.
        "serviceAccount" service_account: String, enforced;
        "containers" containers: Vec<Container>, enforced;
    }
}

message! {
    /// Kubernetes' `Container`.
    pub struct Container = "Container" (open) {
        "ports" ports: Vec<ContainerPort>, enforced;
        "env" env: Vec<EnvVar>, enforced;
        "readinessProbe" readiness_probe: Option<Probe>, enforced;
    }
}

message! {
    /// Kubernetes' `ContainerPort`.
    pub struct ContainerPort = "ContainerPort" (open) {
        "name" name: String, enforced;
        "containerPort" container_port: u32, enforced;
        "protocol" protocol: String, enforced;
    }
}

message! {
    /// Kubernetes' `EnvVar`; what comes from elsewhere (`valueFrom`) stays empty.
    pub struct EnvVar = "EnvVar" (open) {
        "name" name: String, enforced;
        "value" value: String, enforced;
    }
}

message! {
    /// Kubernetes' `Probe`. The intervals are whole seconds.
    pub struct Probe = "Probe" (open) {
        "httpGet" http_get: Option<HttpGet>, enforced;
        "tcpSocket" tcp_socket: Option<TcpSocket>, enforced;
        "grpc" grpc: Option<GrpcProbe>, enforced;
        "exec" exec: Option<ExecProbe>, enforced;
        /// 0 when missing.
        "initialDelaySeconds" initial_delay_seconds: Option<u32>, pending;
        /// 10 when missing.
        "periodSeconds" period_seconds: Option<u32>, enforced;
        /// 1 when missing.
        "timeoutSeconds" timeout_seconds: Option<u32>, enforced;
        /// 1 when missing.
        "successThreshold" success_threshold: Option<u32>, enforced;
        /// 3 when missing.
        "failureThreshold" failure_threshold: Option<u32>, enforced;
    }
    one_of [["httpGet", "tcpSocket", "grpc", "exec"]]
}

impl Probe {
    /// How long between probes.
    pub fn period(&self) -> Duration {
        Duration::from_secs(self.period_seconds.unwrap_or(10).max(1).into())
    }

    /// How long a probe may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.unwrap_or(1).max(1).into())
    }
}

message! {
    /// Kubernetes' `HTTPGetAction`.
    pub struct HttpGet = "HTTPGetAction" (open) {
        /// `/` when empty.
        "path" path: String, enforced;
        /// By number or name.
        "port" port: Option<IntOrString>, enforced;
        "host" host: String, pending;
        /// `HTTP` when empty.
        "scheme" scheme: String, enforced;
        "httpHeaders" http_headers: Vec<EnvVar>, enforced;
    }
}

message! {
    /// Kubernetes' `TCPSocketAction`.
    pub struct TcpSocket = "TCPSocketAction" (open) {
        "port" port: Option<IntOrString>, enforced;
    }
}

message! {
    /// Kubernetes' `GRPCAction`.
    pub struct GrpcProbe = "GRPCAction" (open) {
        "port" port: u32, enforced;
        "service" service: String, enforced;
    }
}

message! {
    /// Kubernetes' `ExecAction`.
    pub struct ExecProbe = "ExecAction" (open) {
        "command" command: Vec<String>, enforced;
    }
}
