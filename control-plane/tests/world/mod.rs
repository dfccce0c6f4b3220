//! Worlds and nodes for tests: every Workload runs with the replicas it asks for, at addresses counted up from 127.0.0.1:20000.

use std::{net::Ipv4Addr, sync::Arc};

use pillion_api::{effective::Effective, finding::Severity, set::ObjectSet};
use pillion_control_plane::{
    model::{
        instance::{Instance, InstanceId, InstancePort, Instances},
        world::World,
    },
    translate::Translator,
};
use pillion_xds::node::{InterceptionMode, Node};
use tokio::sync::watch;

pub struct Parsed {
    pub set: ObjectSet,
    pub errors: Vec<String>,
}

/// The valid objects of a text, and what is wrong with it.
pub fn parse(file: &str, text: &str) -> Parsed {
    let checked = pillion_api::check(&[(file, text)]);
    let errors = checked.findings.iter().filter(|f| f.severity == Severity::Error).map(|f| format!("{}: {}", f.path, f.message));
    Parsed { errors: errors.collect(), set: checked.set }
}

pub fn build(generation: u64, set: ObjectSet, previous: Option<&World>) -> Arc<World> {
    let instances = instances(&Effective::new(set.clone(), None));
    Arc::new(World::build(generation, set, instances, previous))
}

/// One instance per replica, all ready.
pub fn instances(effective: &Effective) -> Instances {
    let mut all = std::collections::BTreeMap::new();
    let mut next = 20_000_u16;
    for workload in effective.workloads() {
        for replica in 0..workload.replicas {
            let name = format!("{}-{replica}", workload.name);
            let ports = workload.ports.iter().map(|port| {
                next += 1;
                InstancePort {
                    name: port.name.clone(),
                    container_port: port.container_port as u16,
                    inbound: (Ipv4Addr::LOCALHOST, next).into(),
                    app: (Ipv4Addr::LOCALHOST, next + 20_000).into(),
                }
            });
            let instance = Instance {
                id: InstanceId { namespace: workload.namespace.clone(), name },
                workload: workload.name.clone(),
                replica,
                labels: workload.labels.clone(),
                service_account: workload.service_account.clone(),
                gateway: workload.gateway,
                ports: ports.collect(),
                ready: true,
            };
            all.insert(instance.id.clone(), instance);
        }
    }
    Arc::new(all)
}

/// `client as pillion`: the first replica of a Workload (`namespace/name`, or a name of `default`) as that kind of proxy; `grpc` is
/// an application without one.
pub fn node(world: &World, who: &str) -> Node {
    let (workload, kind) = who.split_once(" as ").unwrap_or((who, "pillion"));
    let (namespace, workload) = workload.split_once('/').unwrap_or(("default", workload));
    let instance = format!("{workload}-0");
    let ip = Ipv4Addr::LOCALHOST.into();
    let router = kind.contains("router");
    let mut node = if router { Node::router(ip, &instance, namespace) } else { Node::sidecar(ip, &instance, namespace) };
    if kind.contains("envoy") {
        node.pillion_version = None;
    }
    if kind.contains("captured") {
        node.interception_mode = InterceptionMode::Redirect;
    } else {
        node.interception_mode = InterceptionMode::None;
        node.http_proxy_port = (!router).then_some(15_101);
    }
    if kind.contains("grpc") {
        node = Node { pillion_version: None, http_proxy_port: None, generator: "grpc".to_owned(), user_agent: "gRPC".to_owned(), ..node };
    }
    if let Some(instance) = world.instance(namespace, &instance) {
        node.labels = instance.labels.clone();
        node.service_account = instance.service_account.clone();
        node.workload = instance.workload.clone();
    }
    node
}

/// A translator, and the doors through which it learns of generations.
pub fn translator() -> (Translator, watch::Sender<Option<Arc<World>>>, watch::Sender<u64>) {
    let (worlds, generations) = (watch::Sender::new(None), watch::Sender::new(0));
    (Translator::new(worlds.subscribe(), generations.subscribe()), worlds, generations)
}
