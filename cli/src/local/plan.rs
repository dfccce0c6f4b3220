//! What should run: one [`ReplicaPlan`] per replica, and what has to be done when it changes.
//!
//! In:  what `translate` in this folder read from the world.
//! Out: plans keyed by instance, comparisons of an old plan with a new one. No I/O.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use pillion_control_plane::model::instance::InstanceId;

/// One port of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// May be empty.
    pub name: String,
    /// What the mesh knows. Of a gateway: the server's port.
    pub container_port: u16,
    /// Where the program listens, when its Workload fixes it.
    pub local_port: Option<u16>,
}

/// How readiness is asked for; ports are resolved when the replica has its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckPlan {
    HttpGet { port: PortRef, path: String, headers: Vec<(String, String)> },
    Tcp(PortRef),
    Exec(Vec<String>),
    Grpc { port: PortRef, service: String },
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    Number(u16),
    Name(String),
}

/// A readiness probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePlan {
    pub check: CheckPlan,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

/// Ports of the sidecar that a Workload fixes, so that a program started elsewhere can know them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedProxyPorts {
    pub outbound: Option<u16>,
    /// Of the first port.
    pub inbound: Option<u16>,
}

/// One replica as it should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaPlan {
    pub id: InstanceId,
    pub workload: String,
    pub replica: u32,
    pub labels: BTreeMap<String, String>,
    pub service_account: String,
    pub gateway: bool,
    pub ports: Vec<PortPlan>,
    /// `None`: somebody else starts the program (or it is a gateway).
    pub command: Option<Vec<String>>,
    pub env: Vec<(String, String)>,
    /// The folder of the Workload's file: commands and their working directory are relative to it.
    pub directory: PathBuf,
    pub probe: Option<ProbePlan>,
    pub fixed: FixedProxyPorts,
}

/// What a changed plan asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Same,
    /// Tell the control plane about the new ports; the proxy learns them by xDS.
    Listeners,
    /// Start the program again; the sidecar stays.
    Program,
    /// Start both again: the sidecar says who it is when it starts.
    Replica,
}

impl ReplicaPlan {
    /// `product-v1-0`, as in logs.
    pub fn name(&self) -> &str {
        &self.id.name
    }

    /// What must be done to get from `old` to this.
    pub fn change_from(&self, old: &Self) -> Change {
        if self == old {
            return Change::Same;
        }
        let identity = |plan: &Self| (plan.labels.clone(), plan.service_account.clone(), plan.workload.clone(), plan.gateway);
        if identity(self) != identity(old) || self.fixed != old.fixed {
            return Change::Replica;
        }
        match (self.ports == old.ports, self.gateway) {
            (false, true) => Change::Listeners,
            (false, false) => Change::Replica,
            (true, _) => Change::Program,
        }
    }
}

/// All replicas, in the order of their ids.
pub type Plan = BTreeMap<InstanceId, ReplicaPlan>;

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn plan(name: &str) -> ReplicaPlan {
        ReplicaPlan {
            id: InstanceId { namespace: "default".into(), name: format!("{name}-0") },
            workload: name.into(),
            replica: 0,
            labels: BTreeMap::from([("app".into(), name.into())]),
            service_account: "default".into(),
            gateway: false,
            ports: vec![PortPlan { name: "http".into(), container_port: 9080, local_port: None }],
            command: Some(vec!["true".into()]),
            env: vec![],
            directory: "/".into(),
            probe: None,
            fixed: FixedProxyPorts::default(),
        }
    }

    #[test]
    fn only_what_changed_is_started_again() {
        type Edit = fn(&mut ReplicaPlan);
        let cases: [(&str, Edit, Change); 9] = [
            ("nothing", |_| {}, Change::Same),
            ("command", |plan| plan.command = Some(vec!["false".into()]), Change::Program),
            ("command taken away", |plan| plan.command = None, Change::Program),
            ("environment", |plan| plan.env.push(("A".into(), "1".into())), Change::Program),
            (
                "probe",
                |plan| {
                    plan.probe = Some(ProbePlan {
                        check: CheckPlan::Tcp(PortRef::Number(9080)),
                        period: Duration::from_secs(10),
                        timeout: Duration::from_secs(1),
                        success_threshold: 1,
                        failure_threshold: 3,
                    })
                },
                Change::Program,
            ),
            ("labels", |plan| drop(plan.labels.insert("version".into(), "v2".into())), Change::Replica),
            ("account", |plan| plan.service_account = "other".into(), Change::Replica),
            ("ports", |plan| plan.ports[0].container_port = 9081, Change::Replica),
            ("fixed ports", |plan| plan.fixed.outbound = Some(7000), Change::Replica),
        ];
        for (name, edit, want) in cases {
            let old = plan("a");
            let mut new = old.clone();
            edit(&mut new);
            assert_eq!(new.change_from(&old), want, "{name}");
        }
    }

    #[test]
    fn a_gateways_new_port_restarts_nothing() {
        let old = ReplicaPlan { gateway: true, command: None, ..plan("istio-ingressgateway") };
        let mut new = old.clone();
        new.ports.push(PortPlan { name: "https".into(), container_port: 443, local_port: None });
        assert_eq!(new.change_from(&old), Change::Listeners);
    }
}
