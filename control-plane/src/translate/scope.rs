//! What decides the resources a proxy shares with others.
//!
//! In:  a node and the world.
//! Out: [`Scope`]: proxies of equal scope see equal outbound resources.

use std::collections::BTreeMap;

use pillion_api::effective::Labels;
use pillion_xds::node::Node;

use super::layout::Tables;
use crate::model::world::World;

/// Proxies of equal scope share their outbound resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: String,
    /// Empty unless some rule looks at the labels of clients.
    pub labels: Labels,
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
        Self { namespace: node.namespace.clone(), labels, mode: Mode::of(node) }
    }
}

/// A scope at one generation.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub world: &'a World,
    pub scope: &'a Scope,
}

impl<'a> Client<'a> {
    pub fn namespace(&self) -> &'a str {
        &self.scope.namespace
    }

    pub fn labels(&self) -> &'a Labels {
        &self.scope.labels
    }

    pub fn is_pillion(&self) -> bool {
        self.scope.mode.pillion
    }

    pub fn mode(&self) -> Mode {
        self.scope.mode
    }
}
