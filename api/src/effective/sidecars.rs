//! What a Sidecar lets its proxies see: services, the ports they are called on, and the VirtualServices that are followed.
//!
//! In:  a Sidecar and the namespace of the proxies it is in force for.
//! Out: [`SidecarScope`]. Source: Istio's `SidecarScope` (`pilot/pkg/model/sidecar.go`) and `SelectVirtualServices`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Effective, MeshService, Protocol, ServicePort};
use crate::host::{self, HostIndex};
use crate::kinds::sidecar::{IstioEgressListener, OutboundTrafficPolicyMode, Sidecar};
use crate::kinds::virtual_service::{Destination, HttpRoute, VirtualService};
use crate::set::{ObjectIndex, Of};

/// What proxies in one namespace see through one Sidecar.
#[derive(Clone, Debug)]
pub struct SidecarScope {
    /// In the order written; without `egress` one that takes everything.
    pub listeners: Vec<EgressListener>,
    /// Everything there is a way to, by host: what the listeners import, and what their VirtualServices lead to.
    pub services: Vec<Import>,
    /// What is called by its own name, by host: each port as the listener for it has it.
    pub called: Vec<Import>,
    /// Requests to unknown hosts are refused rather than passed on: the Sidecar's `outboundTrafficPolicy`, else the mesh's.
    pub registry_only: bool,
}

/// A service as far as it is seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    pub service: Arc<MeshService>,
    /// Some of the service's ports, or all; never empty.
    pub ports: Vec<ServicePort>,
}

/// One of `egress[]`.
#[derive(Clone, Debug)]
pub struct EgressListener {
    /// `None`: every port that no other listener has.
    pub port: Option<u32>,
    /// What the port speaks here, whatever the services say.
    pub protocol: Option<Protocol>,
    /// By host, one per host: of several the one in the proxy's own namespace, else the oldest.
    pub services: Vec<Import>,
    pub virtual_services: BTreeSet<ObjectIndex>,
}

/// `hosts` of an egress listener, read.
#[derive(Debug, Default)]
pub struct EgressHosts {
    /// Namespaces (`None`: any) by host pattern.
    imported: HostIndex<Vec<Option<String>>>,
    patterns: Vec<(Option<String>, String)>,
    excluded: Vec<(Option<String>, String)>,
}

impl EgressHosts {
    /// `own`: the namespace that `.` means, which is the proxy's. What has no `/` is passed over.
    pub fn new(written: &[String], own: &str) -> Self {
        let mut hosts = Self::default();
        for (namespace, name) in written.iter().filter_map(|entry| entry.split_once('/')) {
            let (excluded, namespace) = namespace.strip_prefix('~').map_or((false, namespace), |rest| (true, rest));
            let namespace = match namespace {
                "*" | "" => None,
                "." => Some(own.to_owned()),
                other => Some(other.to_owned()),
            };
            let name = host::normalize(name).into_owned();
            if excluded {
                hosts.excluded.push((namespace, name));
                continue;
            }
            hosts.imported.entry(&name, Vec::new).push(namespace.clone());
            hosts.patterns.push((namespace, name));
        }
        hosts
    }

    /// Whether a service of this host (normal form) and namespace is imported.
    pub fn takes_service(&self, name: &str, namespace: &str) -> bool {
        !self.excludes(name, namespace) && self.imported.matching(name).flatten().any(|wanted| within(wanted, namespace))
    }

    /// Whether a VirtualService of this namespace is imported for one of its hosts (normal form). Unlike a service, it is for a host that is
    /// wider than what is imported, too.
    pub fn takes_route(&self, name: &str, namespace: &str) -> bool {
        let imported = if host::is_wildcard(name) {
            self.patterns.iter().any(|(wanted, pattern)| within(wanted, namespace) && host::overlaps(pattern, name))
        } else {
            self.imported.matching(name).flatten().any(|wanted| within(wanted, namespace))
        };
        imported && !self.excludes(name, namespace)
    }

    fn excludes(&self, name: &str, namespace: &str) -> bool {
        self.excluded.iter().any(|(wanted, pattern)| within(wanted, namespace) && host::matches(pattern, name))
    }
}

fn within(wanted: &Option<String>, namespace: &str) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted == namespace)
}

impl SidecarScope {
    /// The listener for a port: the first that names it, or the one for all ports.
    pub fn listener(&self, port: u32) -> Option<&EgressListener> {
        listener(&self.listeners, port)
    }
}

fn listener(all: &[EgressListener], port: u32) -> Option<&EgressListener> {
    all.iter().find(|listener| listener.port.is_none_or(|own| own == port))
}

impl Effective {
    /// What proxies in `namespace` see through a Sidecar that is in force for them ([`Effective::sidecar`]).
    pub fn sidecar_scope(&self, namespace: &str, sidecar: Of<'_, Sidecar>) -> SidecarScope {
        let everything = [IstioEgressListener { hosts: vec!["*/*".to_owned()], ..Default::default() }];
        let written = if sidecar.spec.egress.is_empty() { &everything[..] } else { &sidecar.spec.egress[..] };
        let listeners: Vec<EgressListener> = written.iter().map(|egress| self.egress_listener(namespace, egress)).collect();
        let policy = sidecar.spec.outbound_traffic_policy.as_ref();
        SidecarScope {
            services: self.reachable(namespace, &listeners),
            called: called(&listeners),
            listeners,
            registry_only: policy.map_or(self.mesh().registry_only, |policy| policy.mode == OutboundTrafficPolicyMode::RegistryOnly),
        }
    }

    /// Whether proxies in `namespace` see any service or VirtualService through these hosts.
    pub fn imports_anything(&self, namespace: &str, hosts: &EgressHosts) -> bool {
        let seen =
            |service: &Arc<MeshService>| service.export_to.visible_in(namespace) && hosts.takes_service(&service.host, &service.namespace);
        self.services().iter().any(seen) || !self.routes().imported(namespace, hosts).is_empty()
    }

    fn egress_listener(&self, namespace: &str, egress: &IstioEgressListener) -> EgressListener {
        let hosts = EgressHosts::new(&egress.hosts, namespace);
        let port = egress.port.as_ref().map(|port| port.number);
        let seen = self.services().iter().filter(|s| s.export_to.visible_in(namespace) && hosts.takes_service(&s.host, &s.namespace));
        let mut services: Vec<Import> = Vec::new();
        for import in seen.filter_map(|service| Import::on(service, |number| port.is_none_or(|port| port == number))) {
            match services.last_mut().filter(|last| last.service.host == import.service.host) {
                None => services.push(import),
                Some(last) if import.service.namespace == namespace => *last = import,
                Some(_) => {}
            }
        }
        EgressListener {
            port,
            protocol: egress.port.as_ref().and_then(|port| Protocol::parse(&port.protocol)),
            services,
            virtual_services: self.routes().imported(namespace, &hosts),
        }
    }

    /// The listeners' services, then what their VirtualServices lead to. Of one host in two namespaces the first found counts.
    fn reachable(&self, namespace: &str, listeners: &[EgressListener]) -> Vec<Import> {
        let mut found = BTreeMap::new();
        for listener in listeners {
            listener.services.iter().for_each(|import| add(&mut found, import.clone()));
            for index in &listener.virtual_services {
                for (host, ports) in self.destinations(*index, namespace) {
                    let wanted = |number| match listener.port {
                        Some(port) => port == number,
                        None => ports.contains(&None) || ports.contains(&Some(number)),
                    };
                    let import = self.service(&host, namespace).and_then(|service| Import::on(service, wanted));
                    import.into_iter().for_each(|import| add(&mut found, import));
                }
            }
        }
        found.into_values().collect()
    }

    /// Hosts that a VirtualService sends requests of this namespace to, each with the ports it says (`None`: it leaves the port open).
    fn destinations(&self, index: ObjectIndex, namespace: &str) -> BTreeMap<String, BTreeSet<Option<u32>>> {
        let item = self.set().at::<VirtualService>(index);
        let mut found: BTreeMap<String, BTreeSet<Option<u32>>> = BTreeMap::new();
        let mut add = |to: &Destination| {
            let host = self.mesh().expand(&to.host, item.namespace());
            found.entry(host).or_default().insert(to.port.as_ref().map(|port| port.number));
        };
        for rule in self.http_rules(item).iter().filter(|rule| is_for(rule, namespace)) {
            let routed = rule.route.iter().filter_map(|route| route.destination.as_ref());
            let mirrored = rule.mirrors.iter().filter_map(|mirror| mirror.destination.as_ref());
            routed.chain(&rule.mirror).chain(mirrored).for_each(&mut add);
        }
        let tcp = item.spec.tcp.iter().flat_map(|rule| &rule.route);
        let bytes = tcp.chain(item.spec.tls.iter().flat_map(|rule| &rule.route));
        bytes.filter_map(|route| route.destination.as_ref()).for_each(add);
        found
    }

    /// As [`Effective::unregistered_hosts`], for what a Sidecar lets through on port 80.
    pub fn unregistered_hosts_of(&self, namespace: &str, scope: &SidecarScope, port: u32) -> Vec<&str> {
        let Some(listener) = scope.listener(port) else { return Vec::new() };
        let covered = |pattern: &str| listener.services.iter().any(|import| host::matches(pattern, &import.service.host));
        let mut hosts = self.routes().hosts_among(namespace, &listener.virtual_services);
        hosts.retain(|name| !covered(name));
        hosts
    }
}

/// A rule with conditions on the source's namespace is for those namespaces only.
fn is_for(rule: &HttpRoute, namespace: &str) -> bool {
    let sources = || rule.r#match.iter().map(|condition| condition.source_namespace.as_str()).filter(|source| !source.is_empty());
    sources().next().is_none() || sources().any(|source| source == namespace)
}

impl Import {
    /// `None` when no port is wanted.
    fn on(service: &Arc<MeshService>, wanted: impl Fn(u32) -> bool) -> Option<Self> {
        let ports: Vec<ServicePort> = service.ports.iter().filter(|port| wanted(port.number)).cloned().collect();
        (!ports.is_empty()).then(|| Self { service: service.clone(), ports })
    }
}

/// Adds ports to what is there of the same service already.
fn add(found: &mut BTreeMap<String, Import>, import: Import) {
    let Some(known) = found.get_mut(&import.service.host) else {
        found.insert(import.service.host.clone(), import);
        return;
    };
    if known.service.namespace == import.service.namespace {
        for port in import.ports {
            if !known.ports.iter().any(|own| own.number == port.number) {
                known.ports.push(port);
            }
        }
    }
}

/// Each port of a service belongs to the listener for that port alone.
fn called(listeners: &[EgressListener]) -> Vec<Import> {
    let mut found = BTreeMap::new();
    for own in listeners {
        for import in &own.services {
            let mut import = import.clone();
            import.ports.retain(|port| listener(listeners, port.number).is_some_and(|first| std::ptr::eq(first, own)));
            for port in &mut import.ports {
                port.protocol = own.protocol.unwrap_or(port.protocol);
            }
            if !import.ports.is_empty() {
                add(&mut found, import);
            }
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests;
