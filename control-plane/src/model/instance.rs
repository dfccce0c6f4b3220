//! What is running: replicas of workloads with their addresses and readiness.
//!
//! In:  registrations from the local mesh (later: from Kubernetes endpoints and from proxies that register themselves).
//! Out: immutable [`Instances`] lists, one per change; the model turns them into endpoints and inbound listeners.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use tokio::sync::watch;

/// The name of the only cluster there is; endpoints say it as Istio's do.
pub const CLUSTER_ID: &str = "Kubernetes";

/// Names one replica: the `<instance>.<namespace>` of a node id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    pub namespace: String,
    /// Unique in its namespace, e.g. `product-v1-0`.
    pub name: String,
}

/// One port of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstancePort {
    pub name: String,
    /// The port the mesh knows: `targetPort`, policies and metrics mean this one.
    pub container_port: u16,
    /// Where the sidecar listens for it; what EDS carries.
    pub inbound: SocketAddr,
    /// Where the program listens.
    pub app: SocketAddr,
}

/// One replica of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub id: InstanceId,
    pub workload: String,
    /// Counted from 0.
    pub replica: u32,
    pub labels: BTreeMap<String, String>,
    pub service_account: String,
    /// A gateway has no application of its own.
    pub gateway: bool,
    pub ports: Vec<InstancePort>,
    /// Only ready instances become endpoints.
    pub ready: bool,
}

/// All instances, ordered by id.
pub type Instances = Arc<BTreeMap<InstanceId, Instance>>;

/// The one door through which instances enter the control plane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct InstanceRegistry(Arc<watch::Sender<Instances>>);

impl Default for InstanceRegistry {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Instances::default())))
    }
}

impl InstanceRegistry {
    /// Adds an instance or replaces the one of the same id.
    pub fn register(&self, instance: Instance) {
        self.0.send_modify(|all| {
            Arc::make_mut(all).insert(instance.id.clone(), instance);
        });
    }

    /// Marks an instance ready or not; false when there is no such instance or nothing changed.
    pub fn set_ready(&self, id: &InstanceId, ready: bool) -> bool {
        self.0.send_if_modified(|all| match all.get(id) {
            Some(found) if found.ready != ready => {
                if let Some(instance) = Arc::make_mut(all).get_mut(id) {
                    instance.ready = ready;
                }
                true
            }
            _ => false,
        })
    }

    /// Forgets an instance.
    pub fn deregister(&self, id: &InstanceId) {
        self.0.send_if_modified(|all| all.contains_key(id) && Arc::make_mut(all).remove(id).is_some());
    }

    /// The current list and every later one.
    pub fn subscribe(&self) -> watch::Receiver<Instances> {
        self.0.subscribe()
    }
}
