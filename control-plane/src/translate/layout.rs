//! Which virtual hosts a client has, in which route tables, under which domains.
//!
//! In:  the services a client calls by name, and the hosts that only VirtualServices name.
//! Out: [`Layout`], which changes only when services or hosts come and go; an edit of a route leaves it as it is.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use pillion_xds::names::{RouteName, VirtualHostName, VirtualHostResource};
use xxhash_rust::xxh3::Xxh3;

use super::{grpc, scope::Client, seen::Visible};

/// The port on which hosts without a service work. Source: Istio's `httproute.go`.
pub const UNREGISTERED_PORT: u32 = 80;

/// Which route tables a proxy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tables {
    /// One for everything, as the explicit mode needs.
    pub http_proxy: bool,
    /// One per service port.
    pub by_port: bool,
    /// One per service and port, as gRPC applications need.
    pub by_service: bool,
}

/// A virtual host to be filled with routes.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// The service's host, or the host a VirtualService names.
    pub host: Arc<str>,
    pub port: u32,
    /// No service stands behind it.
    pub unregistered: bool,
    /// `<host>:<port>`.
    pub name: String,
    /// `<table>/<host>:<port>`.
    pub resource: Arc<str>,
    pub domains: Vec<String>,
    /// Tells slots of different content apart, in every layout.
    pub fingerprint: u128,
}

/// One route table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub slots: Vec<Slot>,
    /// Requests for a host have the port in their authority, and it counts.
    pub ports_count: bool,
    /// A virtual host has `*` already.
    pub has_catch_all: bool,
    /// Some service declares HTTP here, so that every connection to the port is read as HTTP.
    pub declared: bool,
}

/// All route tables of a client, by name.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub tables: BTreeMap<RouteName, Table>,
}

impl Layout {
    /// `unregistered`: hosts of VirtualServices without a service, the most specific first.
    pub fn new(client: &Client<'_>, unregistered: &[Arc<str>]) -> Self {
        let mut building = Building { layout: Self::default(), taken: BTreeMap::new(), client, tables: client.mode().tables() };
        for service in client.called() {
            building.service(&service);
        }
        for host in unregistered {
            building.unregistered(host);
        }
        building.ensure(RouteName::port(UNREGISTERED_PORT as u16), RouteName::http_proxy());
        building.layout
    }
}

struct Building<'a> {
    layout: Layout,
    taken: BTreeMap<RouteName, HashSet<String>>,
    client: &'a Client<'a>,
    tables: Tables,
}

impl Building<'_> {
    fn service(&mut self, Visible { service, ports }: &Visible<'_>) {
        let names = service.domains(self.client.namespace(), &self.client.world.effective().mesh().cluster_domain);
        let host: Arc<str> = service.host.as_str().into();
        for port in ports.iter().filter(|port| port.protocol.may_be_http()) {
            self.host(&host, port.number, &names, false, port.protocol.is_http());
        }
    }

    fn unregistered(&mut self, name: &Arc<str>) {
        // Other spellings are made of services alone. Source: Istio's `httproute.go`, `buildVirtualHost`.
        self.host(name, UNREGISTERED_PORT, &[name.to_string()], true, true);
    }

    /// The table of port 80 and the one of the explicit mode exist even without a host: unknown hosts are answered there.
    fn ensure(&mut self, by_port: RouteName, http_proxy: RouteName) {
        if self.tables.by_port {
            self.layout.tables.entry(by_port).or_default().declared = true;
        }
        if self.tables.http_proxy {
            self.layout.tables.entry(http_proxy).or_default().ports_count = true;
        }
    }

    fn host(&mut self, host: &Arc<str>, number: u32, names: &[String], unregistered: bool, declared: bool) {
        let Ok(port) = u16::try_from(number) else { return };
        let with_port = |name: &String| format!("{name}:{port}");
        let slot = |domains| Slot {
            host: host.clone(),
            port: number,
            unregistered,
            name: VirtualHostName::host(host, port).to_string(),
            resource: "".into(),
            domains,
            fingerprint: 0,
        };
        if self.tables.by_port {
            let domains = names.iter().flat_map(|name| [name.clone(), with_port(name)]).collect();
            self.layout.tables.entry(RouteName::port(port)).or_default().declared |= declared;
            self.add(RouteName::port(port), false, slot(domains));
        }
        if self.tables.by_service && !unregistered {
            let domains = names.iter().flat_map(|name| [name.clone(), with_port(name)]).collect();
            self.add(grpc::route_name(port, host), true, slot(domains));
        }
        if self.tables.http_proxy {
            // Without a port a name means port 80.
            let bare = names.iter().filter(|_| port == 80).cloned();
            let domains = bare.chain(names.iter().map(with_port)).collect();
            self.add(RouteName::http_proxy(), true, slot(domains));
        }
    }

    /// A domain belongs to the first who asks for it: Envoy refuses a table that has one twice.
    fn add(&mut self, table: RouteName, ports_count: bool, mut slot: Slot) {
        let taken = self.taken.entry(table.clone()).or_default();
        slot.domains.retain(|domain| !is_any_with_port(domain) && taken.insert(domain.clone()));
        let into = self.layout.tables.entry(table.clone()).or_default();
        into.ports_count = ports_count;
        if slot.domains.is_empty() {
            return;
        }
        into.has_catch_all |= slot.domains.iter().any(|domain| domain == "*");
        slot.resource = VirtualHostResource::new(&table, &slot.name).into();
        slot.fingerprint = fingerprint(&slot);
        into.slots.push(slot);
    }
}

/// `*:80` is no pattern of Envoy's.
fn is_any_with_port(domain: &str) -> bool {
    domain.starts_with("*:")
}

fn fingerprint(slot: &Slot) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(slot.resource.as_bytes());
    hash.update(&[u8::from(slot.unregistered)]);
    for domain in &slot.domains {
        hash.update(b"\0");
        hash.update(domain.as_bytes());
    }
    hash.digest128()
}
