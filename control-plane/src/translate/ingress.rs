//! Inbound listeners that a Sidecar declares: they stand in the place of those that follow from services.
//!
//! In:  `ingress[]` of the Sidecar in force, the client's own instance.
//! Out: ports with their application. Source: Istio's `buildInboundChainConfigs` and `buildInboundClusters`.

use std::{net::SocketAddr, sync::Arc};

use pillion_api::{
    effective::{MeshService, Protocol},
    kinds::{Sidecar, sidecar::IstioIngressListener},
};

use super::{
    inbound::{Port, behind_port},
    scope::Client,
    wire::{self, core},
};
use crate::model::instance::{Instance, InstancePort};

const UNIX: &str = "unix://";

/// What the client's Sidecar declares; nothing: services say where the proxy listens.
pub fn listeners<'a>(client: &Client<'a>) -> &'a [IstioIngressListener] {
    let sidecar = client.scope.sidecar.as_ref();
    let sidecar = sidecar.and_then(|(namespace, name)| client.world.set().named::<Sidecar>(namespace, name));
    sidecar.map_or(&[], |sidecar| &sidecar.spec.ingress)
}

/// One declared port. Without a protocol its first bytes say what it speaks. `behind`: the services that select the instance, oldest first.
pub fn port<'a>(
    client: &Client<'_>,
    instance: &Instance,
    listener: &IstioIngressListener,
    behind: &[&'a Arc<MeshService>],
) -> Option<Port<'a>> {
    let port = listener.port.as_ref()?;
    let container_port = u16::try_from(port.number).ok()?;
    let own = instance.ports.iter().find(|own| own.container_port == container_port);
    let led = own.map(|own| behind_port(client, instance, own, behind));
    Some(Port {
        container_port,
        inbound: own.map(|own| own.inbound),
        application: application(client, instance, own, container_port, &listener.default_endpoint),
        protocol: Protocol::parse(&port.protocol).unwrap_or(Protocol::Unknown),
        service_port: led.as_ref().and_then(|led| led.service_port),
        services: led.map(|led| led.services).unwrap_or_default(),
    })
}

/// `defaultEndpoint`, else the application's own port. A port of the workload is where the instance has it on this machine: the number is
/// the one that the application would have in a cluster.
fn application(
    client: &Client<'_>,
    instance: &Instance,
    own: Option<&InstancePort>,
    container_port: u16,
    endpoint: &str,
) -> Option<core::Address> {
    if let Some(path) = endpoint.strip_prefix(UNIX) {
        // Our own proxy connects to sockets of the network only, and a cluster that it refuses would keep its last good version.
        let pipe = core::Pipe { path: path.to_owned(), ..Default::default() };
        return (!client.is_pillion()).then_some(core::Address { address: Some(core::address::Address::Pipe(pipe)) });
    }
    let Ok(written) = endpoint.parse::<SocketAddr>() else {
        let here = SocketAddr::from(([127, 0, 0, 1], container_port));
        return Some(wire::address(own.map_or(here, |own| own.app)));
    };
    if let Some(known) = instance.ports.iter().find(|known| known.container_port == written.port()) {
        return Some(wire::address(known.app));
    }
    if !written.ip().is_unspecified() {
        return Some(wire::address(written));
    }
    // "This instance": by the address under which others reach it.
    let ip = instance.ports.first().map_or(SocketAddr::from(([127, 0, 0, 1], 0)), |port| port.inbound).ip();
    Some(wire::address(SocketAddr::new(ip, written.port())))
}
