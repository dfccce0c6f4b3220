//! What decides the resources a proxy shares with others.
//!
//! In:  a node and the world.
//! Out: [`Scope`]: proxies of equal scope see equal outbound resources.

use std::collections::BTreeMap;

use pillion_api::{
    effective::{Labels, MESH, RouteClient, RouteRef},
    kinds::VirtualService,
    set::Of,
};
use pillion_xds::node::Node;

use super::{
    layout::{Tables, UNREGISTERED_PORT},
    seen::{Seen, Visible},
};
use crate::model::world::World;

/// Proxies of equal scope share their outbound resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: String,
    /// Empty unless some rule looks at the labels of clients.
    pub labels: Labels,
    /// Namespace and name of the Sidecar in force. Gateways have none.
    pub sidecar: Option<(String, String)>,
    pub mode: Mode,
}

/// What kind of proxy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// Our own: VHDS, NDS, unbound listeners, CONNECT.
    pub pillion: bool,
    /// Clients name the proxy; otherwise their connections are redirected to it.
    pub explicit: bool,
    pub router: bool,
    /// A gRPC application without a proxy; none of the others then.
    pub grpc: bool,
}

impl Mode {
    pub fn of(node: &Node) -> Self {
        if node.is_grpc() {
            return Self { pillion: false, explicit: false, router: false, grpc: true };
        }
        Self { pillion: node.is_pillion(), explicit: node.is_explicit(), router: node.is_router(), grpc: false }
    }

    /// Listeners per service port exist: bound by redirection, or entered through CONNECT.
    pub fn has_port_listeners(self) -> bool {
        !self.router && !self.grpc && (self.pillion || !self.explicit)
    }

    pub fn tables(self) -> Tables {
        Tables { http_proxy: self.explicit && !self.router, by_port: self.has_port_listeners(), by_service: self.grpc }
    }

    /// Unknown hosts are resolved by the proxy itself: there is no original destination to go to.
    pub fn resolves_names(self) -> bool {
        self.explicit && !self.router
    }
}

impl Scope {
    pub fn of(world: &World, node: &Node) -> Self {
        let labels = if world.is_label_sensitive() { node.labels.clone() } else { BTreeMap::new() };
        let mode = Mode::of(node);
        let sidecar = world.effective().sidecar(&node.namespace, &node.labels).filter(|_| !mode.router);
        let sidecar = sidecar.map(|sidecar| (sidecar.namespace().to_owned(), sidecar.name().to_owned()));
        Self { namespace: node.namespace.clone(), labels, sidecar, mode }
    }
}

/// A scope at one generation.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub world: &'a World,
    pub scope: &'a Scope,
    /// What its Sidecar lets it see; `None`: everything that is exported to its namespace.
    pub seen: Option<&'a Seen>,
}

impl<'a> Client<'a> {
    pub fn namespace(&self) -> &'a str {
        &self.scope.namespace
    }

    pub fn labels(&self) -> &'a Labels {
        &self.scope.labels
    }

    /// The services there is a way to, by host.
    pub fn services(&self) -> Vec<Visible<'a>> {
        match self.seen {
            Some(seen) => seen.scope.services.iter().map(Visible::imported).collect(),
            None => self.exported(),
        }
    }

    /// The services that are called by their names, by host; without a Sidecar the same.
    pub fn called(&self) -> Vec<Visible<'a>> {
        match self.seen {
            Some(seen) => seen.scope.called.iter().map(Visible::imported).collect(),
            None => self.exported(),
        }
    }

    fn exported(&self) -> Vec<Visible<'a>> {
        self.world.effective().services_for(&self.scope.namespace).into_iter().map(Visible::whole).collect()
    }

    /// Hosts of VirtualServices behind which the client sees no service, the most specific first.
    pub fn unregistered_hosts(&self) -> Vec<&'a str> {
        let effective = self.world.effective();
        match self.seen {
            Some(seen) => effective.unregistered_hosts_of(&self.scope.namespace, &seen.scope, UNREGISTERED_PORT),
            None => effective.unregistered_hosts(&self.scope.namespace).into_iter().map(|(host, _)| host).collect(),
        }
    }

    /// The VirtualService for a host on a port, with its routes for the client.
    pub fn routes(&self, host: &str, port: u32) -> Option<(Of<'a, VirtualService>, Vec<RouteRef>)> {
        let who = RouteClient { gateway: MESH, namespace: self.namespace(), labels: self.labels(), port };
        let effective = self.world.effective();
        match self.seen {
            Some(seen) => effective.routes_among(&who, host, Some(&seen.scope.listener(port)?.virtual_services)),
            None => effective.routes_for(&who, host),
        }
    }

    /// Unknown hosts are refused rather than passed on.
    pub fn registry_only(&self) -> bool {
        self.seen.map_or(self.world.effective().mesh().registry_only, |seen| seen.scope.registry_only)
    }

    pub fn is_pillion(&self) -> bool {
        self.scope.mode.pillion
    }

    pub fn mode(&self) -> Mode {
        self.scope.mode
    }
}
