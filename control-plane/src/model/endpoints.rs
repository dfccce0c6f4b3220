//! What stands behind each service port: instances that a selector finds, and endpoints that are written down.
//!
//! In:  services, instances, WorkloadEntries.
//! Out: [`ServiceEndpoints`] per service, kept from the previous generation where nothing changed.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use pillion_api::{
    effective::{Effective, Labels, MeshService, Resolution, ServicePort, TargetPort},
    kinds::WorkloadEntry,
    set::Of,
};

use super::{
    instance::{Instance, InstancePort, Instances},
    locality,
    revision::Revision,
};

/// Whose application an endpoint is; for telemetry labels and subsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub workload: String,
    pub namespace: String,
    pub labels: Labels,
    pub service_account: String,
    /// The replica's name; empty for what is written down.
    pub instance: String,
    /// `region/zone/subzone`, empty when unknown.
    pub locality: String,
}

impl Peer {
    /// The canonical service name: labels `service.istio.io/canonical-name`, `app.kubernetes.io/name`, `app`, else the workload's name.
    pub fn canonical_name(&self) -> &str {
        self.label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]).unwrap_or(&self.workload)
    }

    /// The canonical revision: labels `service.istio.io/canonical-revision`, `app.kubernetes.io/version`, `version`, else `latest`.
    pub fn canonical_revision(&self) -> &str {
        self.label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]).unwrap_or("latest")
    }

    fn label(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.labels.get(*key)).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Socket(SocketAddr),
    /// A DNS name that the proxy resolves.
    Name(String, u32),
    /// A Unix socket.
    Pipe(String),
}

/// One endpoint of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub place: Place,
    /// Relative to the other endpoints; at least 1.
    pub weight: u32,
    pub peer: Arc<Peer>,
}

/// The endpoints of one service, by port number.
#[derive(Clone, Debug, Default)]
pub struct ServiceEndpoints {
    pub revision: Revision,
    ports: Vec<(u32, Vec<Endpoint>)>,
}

impl ServiceEndpoints {
    /// The endpoints of a port, in a stable order.
    pub fn of_port(&self, port: u32) -> &[Endpoint] {
        self.ports.iter().find(|(number, _)| *number == port).map_or(&[], |(_, endpoints)| endpoints)
    }
}

/// Finds the endpoints of all services; one entry per service, in the same order.
pub(super) fn resolve(effective: &Effective, instances: &Instances) -> Vec<ServiceEndpoints> {
    let services = effective.services();
    let selectors = SelectorIndex::new(services);
    let mut found: Vec<ServiceEndpoints> = services
        .iter()
        .map(|service| ServiceEndpoints {
            revision: Revision::default(),
            ports: service.ports.iter().map(|port| (port.number, Vec::new())).collect(),
        })
        .collect();
    for instance in instances.values().filter(|instance| instance.ready) {
        let peer = Arc::new(peer_of(instance));
        selectors
            .each(services, &instance.id.namespace, &instance.labels, |at| add_instance(&mut found[at], &services[at], instance, &peer));
    }
    for entry in effective.set().of::<WorkloadEntry>() {
        // What the object says of itself goes before its `spec`. Source: Istio's `ConvertWorkloadEntry`.
        let mut labels = entry.spec.labels.clone();
        labels.extend(entry.object.meta.labels.clone());
        let peer = Arc::new(peer_of_entry(entry, labels));
        selectors.each(services, entry.namespace(), &peer.labels, |at| add_entry(&mut found[at], &services[at], entry.spec, &peer));
    }
    for (service, endpoints) in services.iter().zip(&mut found) {
        add_written(endpoints, service);
    }
    found
}

/// Takes the previous value, revision included, of every service whose endpoints are the same.
pub(super) fn keep_unchanged(
    now: Vec<ServiceEndpoints>,
    previous: impl Fn(usize) -> Option<Arc<ServiceEndpoints>>,
) -> Vec<Arc<ServiceEndpoints>> {
    let one = |(at, mut endpoints): (usize, ServiceEndpoints)| match previous(at) {
        Some(old) if old.ports == endpoints.ports => old,
        _ => {
            endpoints.revision = Revision::fresh();
            Arc::new(endpoints)
        }
    };
    now.into_iter().enumerate().map(one).collect()
}

/// Services by one label that their selector asks for, so that an instance looks at a few services rather than at all.
struct SelectorIndex<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<usize>>,
}

impl<'a> SelectorIndex<'a> {
    fn new(services: &'a [Arc<MeshService>]) -> Self {
        let mut by_label: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, service) in services.iter().enumerate() {
            if let Some((key, value)) = service.selector.iter().next() {
                by_label.entry((service.namespace.as_str(), key.as_str(), value.as_str())).or_default().push(at);
            }
        }
        Self { by_label }
    }

    fn each(&self, services: &[Arc<MeshService>], namespace: &str, labels: &Labels, mut found: impl FnMut(usize)) {
        for (key, value) in labels {
            let candidates = self.by_label.get(&(namespace, key.as_str(), value.as_str())).into_iter().flatten();
            for at in candidates.filter(|at| services[**at].selects(namespace, labels)) {
                found(*at);
            }
        }
    }
}

fn peer_of(instance: &Instance) -> Peer {
    let locality = locality::of("", &instance.labels);
    Peer {
        workload: instance.workload.clone(),
        namespace: instance.id.namespace.clone(),
        labels: locality::with_topology(&instance.labels, &locality),
        service_account: instance.service_account.clone(),
        instance: instance.id.name.clone(),
        locality,
    }
}

fn peer_of_entry(entry: Of<'_, WorkloadEntry>, labels: Labels) -> Peer {
    let locality = locality::of(&entry.spec.locality, &labels);
    let meta = &entry.object.meta;
    // Source: Istio's `WorkloadNameFromWorkloadEntry`.
    let group = meta.annotations.get("istio.io/autoRegistrationGroup").or_else(|| meta.labels.get("service.istio.io/workload-name"));
    Peer {
        workload: group.map_or(entry.name(), String::as_str).to_owned(),
        namespace: entry.namespace().to_owned(),
        labels: locality::with_topology(&labels, &locality),
        service_account: entry.spec.service_account.clone(),
        instance: String::new(),
        locality,
    }
}

/// The port of an instance that a service port leads to.
pub fn target<'a>(instance: &'a Instance, port: &ServicePort) -> Option<&'a InstancePort> {
    instance.ports.iter().find(|own| match &port.target_port {
        TargetPort::Number(number) => u32::from(own.container_port) == *number,
        TargetPort::Name(name) => own.name == *name,
    })
}

fn add_instance(endpoints: &mut ServiceEndpoints, service: &MeshService, instance: &Instance, peer: &Arc<Peer>) {
    for (port, (_, list)) in service.ports.iter().zip(&mut endpoints.ports) {
        if let Some(own) = target(instance, port) {
            list.push(Endpoint { place: Place::Socket(own.inbound), weight: 1, peer: peer.clone() });
        }
    }
}

fn add_entry(endpoints: &mut ServiceEndpoints, service: &MeshService, entry: &WorkloadEntry, peer: &Arc<Peer>) {
    for (port, (_, list)) in service.ports.iter().zip(&mut endpoints.ports) {
        // Source: Istio's `serviceInstanceFromWorkloadInstance`.
        let number = match &port.target_port {
            TargetPort::Number(number) => Some(entry.ports.get(&port.name).copied().unwrap_or(*number)),
            TargetPort::Name(name) => entry.ports.get(name).copied(),
        };
        let place = number.and_then(|number| place(&entry.address, number));
        // Names are for services that resolve names; sockets are known to an entry's own endpoints only.
        let place = place.filter(|place| match place {
            Place::Socket(_) => true,
            Place::Name(..) => is_by_name(service),
            Place::Pipe(_) => false,
        });
        if let Some(place) = place {
            list.push(Endpoint { place, weight: entry.weight.max(1), peer: peer.clone() });
        }
    }
}

/// Endpoints of a ServiceEntry; without any, a DNS service is found under its own name.
fn add_written(endpoints: &mut ServiceEndpoints, service: &MeshService) {
    if is_by_name(service) && service.endpoints.is_empty() && service.selector.is_empty() {
        let peer = Arc::new(written_peer(service, &Labels::new(), "", ""));
        for (port, (_, list)) in service.ports.iter().zip(&mut endpoints.ports) {
            list.push(Endpoint { place: Place::Name(service.host.clone(), number_of(port)), weight: 1, peer: peer.clone() });
        }
        return;
    }
    for written in &service.endpoints {
        let peer = Arc::new(written_peer(service, &written.labels, &written.service_account, &written.locality));
        for (port, (_, list)) in service.ports.iter().zip(&mut endpoints.ports) {
            let number = written.ports.get(&port.name).copied().unwrap_or(number_of(port));
            if let Some(place) = place(&written.address, number) {
                list.push(Endpoint { place, weight: written.weight.max(1), peer: peer.clone() });
            }
        }
    }
}

fn is_by_name(service: &MeshService) -> bool {
    matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin)
}

fn written_peer(service: &MeshService, labels: &Labels, service_account: &str, written: &str) -> Peer {
    let locality = locality::of(written, labels);
    Peer {
        workload: service.name.clone(),
        namespace: service.namespace.clone(),
        labels: locality::with_topology(labels, &locality),
        service_account: service_account.to_owned(),
        instance: String::new(),
        locality,
    }
}

fn number_of(port: &ServicePort) -> u32 {
    match port.target_port {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) => port.number,
    }
}

fn place(address: &str, port: u32) -> Option<Place> {
    if let Some(path) = address.strip_prefix("unix://") {
        return Some(Place::Pipe(path.to_owned()));
    }
    match address.parse() {
        Ok(ip) => Some(Place::Socket(SocketAddr::new(ip, u16::try_from(port).ok()?))),
        Err(_) if address.is_empty() => None,
        Err(_) => Some(Place::Name(address.to_owned(), port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(labels: &[(&str, &str)]) -> Peer {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Peer { workload: "w".to_owned(), labels, ..Peer::default() }
    }

    #[test]
    fn canonical_names_come_from_labels_in_istios_order() {
        type Labels<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Labels<'_>, &str, &str); 4] = [
            (&[], "w", "latest"),
            (&[("app", "a"), ("version", "v1")], "a", "v1"),
            (&[("app", "a"), ("app.kubernetes.io/name", "k"), ("app.kubernetes.io/version", "2"), ("version", "v1")], "k", "2"),
            (&[("service.istio.io/canonical-name", "c"), ("service.istio.io/canonical-revision", "r"), ("app", "a")], "c", "r"),
        ];
        for (labels, name, revision) in cases {
            let peer = peer(labels);
            assert_eq!((peer.canonical_name(), peer.canonical_revision()), (name, revision), "{labels:?}");
        }
    }

    #[test]
    fn addresses_are_sockets_names_or_pipes() {
        assert_eq!(place("10.0.0.1", 80), Some(Place::Socket("10.0.0.1:80".parse().unwrap())));
        assert_eq!(place("::1", 80), Some(Place::Socket("[::1]:80".parse().unwrap())));
        assert_eq!(place("db.example.com", 5432), Some(Place::Name("db.example.com".to_owned(), 5432)));
        assert_eq!(place("unix:///run/x", 1), Some(Place::Pipe("/run/x".to_owned())));
        assert_eq!(place("10.0.0.1", 70_000), None);
        assert_eq!(place("", 80), None);
    }
}
