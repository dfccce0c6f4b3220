//! Where workloads are when nothing is asked: fixed by their YAML, or as a running mesh has said.
//!
//! In:  the workloads of the YAML; the `ready` event of `pillion run --json`.
//! Out: [`Instance`]s for the world.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use pillion_api::effective::{Effective, ResolvedWorkload};
use pillion_control_plane::model::instance::{Instance, InstanceId, InstancePort};
use serde::Deserialize;

/// What is read of a `ready` event; see `local::events`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Picked {
    event: String,
    workloads: Vec<Replica>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Replica {
    namespace: String,
    name: String,
    replica: u32,
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
struct Port {
    name: String,
    port: u16,
    inbound: SocketAddr,
    app: SocketAddr,
}

/// The newest `ready` event of a file: the event alone, or everything that `pillion run --json` printed.
///
/// # Errors
/// When it cannot be read or has none, in a sentence.
pub fn picked(file: &Path) -> Result<Picked, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("--endpoints {}: {error}", file.display()))?;
    // One value may span lines, as `jq` prints it.
    let values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
    let mut newest = None;
    for value in values {
        // The last line of a mesh that still runs may be half written.
        let Ok(value) = value else { break };
        if value["event"] == "ready" {
            newest = Some(value);
        }
    }
    let ready = newest.ok_or_else(|| {
        format!("--endpoints {}: there is no `ready` event in it; save the output of `pillion run --json` there", file.display())
    })?;
    Picked::deserialize(&ready).map_err(|error| format!("--endpoints {}: {error}", file.display()))
}

/// Every replica that is there, ready. Without a running mesh each workload is once at its fixed ports.
pub fn all(effective: &Effective, picked: Option<&Picked>) -> BTreeMap<InstanceId, Instance> {
    let workloads = effective.workloads().iter().filter(|workload| !workload.gateway);
    let instances: Vec<Instance> = match picked {
        None => workloads.map(fixed).collect(),
        Some(picked) => {
            let replicas = |workload| picked.workloads.iter().filter_map(move |replica| running(workload, replica.replica, picked));
            workloads.flat_map(replicas).collect()
        }
    };
    instances.into_iter().map(|instance| (instance.id.clone(), instance)).collect()
}

/// A workload at 127.0.0.1 and the ports that its YAML fixes.
pub fn fixed(workload: &ResolvedWorkload) -> Instance {
    let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let proxy = workload.proxy.as_ref();
    let mut first = proxy.and_then(|proxy| proxy.inbound_port);
    let ports = workload.ports.iter().filter_map(|port| {
        let container_port = u16::try_from(port.container_port).ok()?;
        let app = local(port.local_port.and_then(|port| u16::try_from(port).ok()).unwrap_or(container_port));
        Some(InstancePort { name: port.name.clone(), container_port, inbound: first.take().map_or(app, local), app })
    });
    Instance { ports: ports.collect(), ..instance(workload, 0) }
}

/// A replica of the running mesh.
pub fn running(workload: &ResolvedWorkload, replica: u32, picked: &Picked) -> Option<Instance> {
    let known = |other: &&Replica| (&*other.namespace, &*other.name, other.replica) == (&*workload.namespace, &*workload.name, replica);
    let found = picked.workloads.iter().find(known)?;
    let ports = found.ports.iter().map(|port| InstancePort {
        name: port.name.clone(),
        container_port: port.port,
        inbound: port.inbound,
        app: port.app,
    });
    Some(Instance { ports: ports.collect(), ..instance(workload, replica) })
}

fn instance(workload: &ResolvedWorkload, replica: u32) -> Instance {
    Instance {
        id: InstanceId { namespace: workload.namespace.clone(), name: format!("{}-{replica}", workload.name) },
        workload: workload.name.clone(),
        replica,
        labels: workload.labels.clone(),
        service_account: workload.service_account.clone(),
        gateway: workload.gateway,
        ports: Vec::new(),
        ready: !workload.gateway,
    }
}
