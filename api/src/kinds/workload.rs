//! Workload (`pillion.io/v1alpha1`): how a workload is run on this machine.
//!
//! In:  `spec`. Out: what to start, and the ports, account and environment that the mesh knows it by. Labels are those of the metadata.

use crate::kinds::deployment::Probe;
use crate::message::{message, status};

message! {
    /// A process of the local mesh.
    pub struct Workload = "Workload" {
        /// `default` when empty.
        "serviceAccount" service_account: String, enforced;
        /// How many to run; 1 when missing.
        "replicas" replicas: Option<u32>, enforced;
        /// Program and arguments; started by someone else when empty.
        "command" command: Vec<String>, enforced;
        "ports" ports: Vec<WorkloadPort>, enforced;
        "env" env: Vec<WorkloadEnv>, enforced;
        "readinessProbe" readiness_probe: Option<Probe>, enforced;
        /// Takes labels, account, replicas, ports, environment and probe from this Deployment of the same namespace.
        "deployment" deployment: String, enforced;
        /// A proxy without an application, which Gateways select.
        "gateway" gateway: bool, enforced;
        "proxy" proxy: Option<WorkloadProxy>, enforced;
    }
}

message! {
    /// A port that the program listens on.
    pub struct WorkloadPort = "WorkloadPort" {
        "name" name: String, enforced;
        /// The port that the mesh knows: `targetPort`, policies, metrics.
        "containerPort" container_port: u32, enforced;
        /// Where the program listens; picked when missing.
        "localPort" local_port: Option<u16>, enforced;
        /// As `appProtocol` of a Service: what is spoken.
        "protocol" protocol: String, pending;
    }
}

message! {
    /// A variable of the program's environment.
    pub struct WorkloadEnv = "WorkloadEnv" {
        "name" name: String, enforced;
        "value" value: String, enforced;
    }
}

message! {
    /// Fixed ports of the workload's sidecar; picked when missing.
    pub struct WorkloadProxy = "WorkloadProxy" {
        /// What the program uses as its proxy.
        "outboundPort" outbound_port: Option<u16>, enforced;
        /// Where the mesh reaches the first port of the workload.
        "inboundPort" inbound_port: Option<u16>, enforced;
    }
}
