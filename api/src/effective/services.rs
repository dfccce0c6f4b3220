//! The service registry: Service and ServiceEntry in one shape.
//!
//! In:  an [`ObjectSet`] and the mesh's settings.
//! Out: [`MeshService`]s sorted by host, an index by host, and a stable address for each that needs one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::address;
use super::mesh::Mesh;
use super::protocol::Protocol;
use super::visibility::ExportTo;
use crate::decode::IntOrString;
use crate::host::{self, HostIndex};
use crate::kinds;
use crate::kinds::service_entry::{Location, Resolution as EntryResolution};
use crate::meta::{Labels, selects};
use crate::set::{ObjectIndex, ObjectSet, Of};

/// A service as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshService {
    /// Full name in normal form: `reviews.default.svc.cluster.local`, `api.example.com`; may be `*.example.com` for a ServiceEntry.
    pub host: String,
    /// Of the object.
    pub name: String,
    pub namespace: String,
    pub source: Source,
    /// The object that defines it (the oldest, for several ServiceEntries of one namespace).
    pub object: ObjectIndex,
    /// Numbers are unique, in the order written.
    pub ports: Vec<ServicePort>,
    /// Labels of the workloads behind it; empty: none are selected.
    pub selector: Labels,
    /// Addresses by which it is called: as written, or one from 240.240.0.0/16. Empty for wildcard hosts and for resolution NONE without addresses.
    /// May hold CIDR ranges of a ServiceEntry.
    pub addresses: Vec<String>,
    /// Whether the address was made up here.
    pub address_allocated: bool,
    pub resolution: Resolution,
    /// `clusterIP: None`: clients resolve the endpoints themselves.
    pub headless: bool,
    /// Outside the mesh: no mutual TLS, no peer metadata.
    pub external: bool,
    pub export_to: ExportTo,
    /// Endpoints written down in a ServiceEntry (or the name of an ExternalName Service).
    pub endpoints: Vec<ServiceEndpoint>,
    /// SANs that a client accepts, from ServiceEntry `subjectAltNames`.
    pub subject_alt_names: Vec<String>,
}

/// Which kind defined a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Service,
    ServiceEntry,
}

/// Where the endpoints of a service come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Workloads selected by labels (Service, or ServiceEntry with `workloadSelector`), and endpoints written down with IP addresses.
    Static,
    /// All addresses of the endpoints' DNS names, or of the host itself without endpoints.
    Dns,
    /// One address of the DNS name at a time.
    DnsRoundRobin,
    /// The requested host is resolved per request (wildcards).
    DynamicDns,
    /// Connections go where they were going: the original destination.
    None,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// As clients call it, 1-65535.
    pub number: u32,
    pub name: String,
    pub target_port: TargetPort,
    pub protocol: Protocol,
}

/// The workload's port behind a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u32),
    /// The name of a container port; each workload may give it another number.
    Name(String),
}

/// An endpoint written down in a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEndpoint {
    /// An IP address, a DNS name (resolution DNS) or `unix:///path`.
    pub address: String,
    /// Port by service-port name; beats `targetPort`.
    pub ports: BTreeMap<String, u32>,
    pub labels: Labels,
    /// `region/zone/subzone`, empty when unknown.
    pub locality: String,
    /// 0 counts as 1.
    pub weight: u32,
    pub service_account: String,
}

impl MeshService {
    pub fn port(&self, number: u32) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.number == number)
    }

    /// The first address that is one address, not a range.
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.iter().find_map(|a| a.parse().ok())
    }

    /// The port that a destination without `port` means: the only one. `None` for several: then it is the port the request arrived on.
    pub fn only_port(&self) -> Option<&ServicePort> {
        match &self.ports[..] {
            [port] => Some(port),
            _ => None,
        }
    }

    /// Whether labels of a workload in `namespace` put it behind this service.
    pub fn selects(&self, namespace: &str, labels: &Labels) -> bool {
        !self.selector.is_empty() && self.namespace == namespace && selects(&self.selector, labels)
    }

    /// Every domain by which a client calls it; see [`host::domains`].
    pub fn domains(&self, client_namespace: &str, cluster_domain: &str) -> Vec<String> {
        let addresses: Vec<String> = self.addresses.iter().filter(|a| a.parse::<IpAddr>().is_ok()).cloned().collect();
        host::domains(&self.host, &addresses, self.headless, client_namespace, cluster_domain)
    }
}

/// All services of a generation.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// Sorted by host, then by age.
    pub all: Vec<Arc<MeshService>>,
    by_host: HostIndex<Vec<Arc<MeshService>>>,
    /// Hosts back to front and sorted, so that "ends with" is a search for a prefix.
    reversed: Vec<String>,
}

impl Services {
    pub fn new(set: &ObjectSet, mesh: &Mesh) -> Self {
        let mut found: BTreeMap<(String, String), MeshService> = BTreeMap::new();
        for item in set.of::<kinds::Service>() {
            let service = of_service(item, mesh);
            found.entry((service.host.clone(), service.namespace.clone())).or_insert(service);
        }
        let cluster: std::collections::HashSet<String> = found.keys().map(|(host, _)| host.clone()).collect();
        for item in set.of::<kinds::ServiceEntry>() {
            for written in &item.spec.hosts {
                let entry = of_entry(item, written, mesh);
                if cluster.contains(&entry.host) {
                    // A ServiceEntry for a cluster service only decorates it with names to accept.
                    decorate(&mut found, &entry);
                    continue;
                }
                match found.get_mut(&(entry.host.clone(), entry.namespace.clone())) {
                    Some(older) => merge(older, entry),
                    None => drop(found.insert((entry.host.clone(), entry.namespace.clone()), entry)),
                }
            }
        }
        let mut all: Vec<MeshService> = found.into_values().collect();
        give_addresses(&mut all);
        all.sort_by(|a, b| a.host.cmp(&b.host).then(a.object.cmp(&b.object)));
        let all: Vec<Arc<MeshService>> = all.into_iter().map(Arc::new).collect();
        let mut by_host = HostIndex::default();
        for service in &all {
            by_host.entry(&service.host, Vec::new).push(service.clone());
        }
        let mut reversed: Vec<String> = all.iter().map(|s| s.host.chars().rev().collect()).collect();
        reversed.sort();
        reversed.dedup();
        Self { all, by_host, reversed }
    }

    /// The service of exactly this host for a client: of several the one in the client's own namespace, else the oldest it can see.
    pub fn exact(&self, host: &str, client_namespace: &str) -> Option<&Arc<MeshService>> {
        visible(self.by_host.exact(host)?, client_namespace)
    }

    /// The service by exact host, else the most specific wildcard host that stands for it.
    pub fn lookup(&self, host: &str, client_namespace: &str) -> Option<&Arc<MeshService>> {
        self.by_host.matching(host).find_map(|bucket| visible(bucket, client_namespace))
    }

    /// Whether a host or wildcard (normal form) means some service's host.
    pub fn covered_by(&self, pattern: &str) -> bool {
        let Some(suffix) = pattern.strip_prefix('*') else { return self.by_host.exact(pattern).is_some() };
        let suffix: String = suffix.chars().rev().collect();
        let at = self.reversed.partition_point(|host| host.as_str() < suffix.as_str());
        self.reversed.get(at).is_some_and(|host| host.starts_with(&suffix))
    }

    /// Whether a host or wildcard (normal form) means the host of some service that the client sees.
    pub fn covered_for(&self, pattern: &str, client_namespace: &str) -> bool {
        let Some(suffix) = pattern.strip_prefix('*') else { return self.exact(pattern, client_namespace).is_some() };
        let suffix: String = suffix.chars().rev().collect();
        let at = self.reversed.partition_point(|host| host.as_str() < suffix.as_str());
        let mut covered = self.reversed[at..].iter().take_while(|host| host.starts_with(&suffix));
        covered.any(|host| self.exact(&host.chars().rev().collect::<String>(), client_namespace).is_some())
    }

    /// Some service of this host, whoever may see it.
    pub fn any(&self, host: &str) -> Option<&Arc<MeshService>> {
        self.by_host.most_specific(host).and_then(|bucket| bucket.first())
    }
}

fn visible<'a>(bucket: &'a [Arc<MeshService>], client: &str) -> Option<&'a Arc<MeshService>> {
    let mut seen = bucket.iter().filter(|s| s.export_to.visible_in(client));
    let own = bucket.iter().find(|s| s.namespace == client && s.export_to.visible_in(client));
    own.or_else(|| seen.next())
}

fn of_service(item: Of<'_, kinds::Service>, mesh: &Mesh) -> MeshService {
    let spec = item.spec;
    let headless = spec.cluster_ip == "None";
    let external = spec.r#type == "ExternalName";
    let ports = spec.ports.iter().map(|port| ServicePort {
        number: port.port,
        name: port.name.clone(),
        target_port: match &port.target_port {
            Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
            Some(IntOrString::Int(number)) if *number > 0 => TargetPort::Number(*number as u32),
            _ => TargetPort::Number(port.port),
        },
        protocol: Protocol::of_service_port(&port.app_protocol, &port.name, &port.protocol, port.port),
    });
    let written = std::iter::once(&spec.cluster_ip).chain(&spec.cluster_ips).filter(|ip| ip.parse::<IpAddr>().is_ok());
    let mut addresses: Vec<String> = Vec::new();
    for address in written {
        if !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
    let named = ServiceEndpoint {
        address: spec.external_name.clone(),
        ports: BTreeMap::new(),
        labels: Labels::new(),
        locality: String::new(),
        weight: 0,
        service_account: String::new(),
    };
    let exported = item.object.meta.annotations.get("networking.istio.io/exportTo");
    let exported: Vec<String> =
        exported.into_iter().flat_map(|list| list.split(',')).map(|e| e.trim().to_owned()).filter(|e| !e.is_empty()).collect();
    MeshService {
        host: host::service_fqdn(item.name(), item.namespace(), &mesh.cluster_domain),
        name: item.name().to_owned(),
        namespace: item.namespace().to_owned(),
        source: Source::Service,
        object: item.index,
        ports: unique(ports),
        // A name elsewhere has no workloads here.
        selector: if external { Labels::default() } else { spec.selector.clone() },
        addresses,
        address_allocated: false,
        resolution: if external { Resolution::Dns } else { Resolution::Static },
        headless,
        external,
        export_to: ExportTo::new(&exported, item.namespace(), &mesh.config.default_service_export_to),
        endpoints: if external { vec![named] } else { Vec::new() },
        subject_alt_names: Vec::new(),
    }
}

fn of_entry(item: Of<'_, kinds::ServiceEntry>, written: &str, mesh: &Mesh) -> MeshService {
    let spec = item.spec;
    let ports = spec.ports.iter().map(|port| ServicePort {
        number: port.number,
        name: port.name.clone(),
        target_port: TargetPort::Number(if port.target_port > 0 { port.target_port } else { port.number }),
        protocol: Protocol::of_entry_port(&port.protocol, &port.name, port.number),
    });
    MeshService {
        host: host::normalize(written).into_owned(),
        name: item.name().to_owned(),
        namespace: item.namespace().to_owned(),
        source: Source::ServiceEntry,
        object: item.index,
        ports: unique(ports),
        selector: spec.workload_selector.as_ref().map(|s| s.labels.clone()).unwrap_or_default(),
        addresses: spec.addresses.clone(),
        address_allocated: false,
        resolution: match spec.resolution {
            EntryResolution::None => Resolution::None,
            EntryResolution::Static => Resolution::Static,
            EntryResolution::Dns => Resolution::Dns,
            EntryResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
            EntryResolution::DynamicDns => Resolution::DynamicDns,
        },
        headless: false,
        external: spec.location == Location::MeshExternal,
        export_to: ExportTo::new(&spec.export_to, item.namespace(), &mesh.config.default_service_export_to),
        endpoints: spec.endpoints.iter().map(endpoint).collect(),
        subject_alt_names: spec.subject_alt_names.clone(),
    }
}

fn endpoint(entry: &kinds::WorkloadEntry) -> ServiceEndpoint {
    ServiceEndpoint {
        address: entry.address.clone(),
        ports: entry.ports.clone(),
        labels: entry.labels.clone(),
        locality: entry.locality.clone(),
        weight: entry.weight,
        service_account: entry.service_account.clone(),
    }
}

/// The first of each port number.
fn unique(ports: impl Iterator<Item = ServicePort>) -> Vec<ServicePort> {
    let mut kept: Vec<ServicePort> = Vec::new();
    for port in ports {
        if !kept.iter().any(|k| k.number == port.number) {
            kept.push(port);
        }
    }
    kept
}

/// A later ServiceEntry of the same host and namespace adds ports and endpoints; what both say, the older one says.
fn merge(older: &mut MeshService, newer: MeshService) {
    let ports = std::mem::take(&mut older.ports).into_iter().chain(newer.ports);
    older.ports = unique(ports);
    for address in newer.addresses {
        if !older.addresses.contains(&address) {
            older.addresses.push(address);
        }
    }
    older.endpoints.extend(newer.endpoints);
    if older.selector.is_empty() {
        older.selector = newer.selector;
    }
}

fn decorate(found: &mut BTreeMap<(String, String), MeshService>, entry: &MeshService) {
    let services = found.range_mut((entry.host.clone(), String::new())..).take_while(|((host, _), _)| *host == entry.host);
    for (_, service) in services {
        for name in &entry.subject_alt_names {
            if !service.subject_alt_names.contains(name) {
                service.subject_alt_names.push(name.clone());
            }
        }
    }
}

/// One address per host that needs one; services of the same host in several namespaces share it.
fn give_addresses(all: &mut [MeshService]) {
    let needs = |s: &MeshService| s.addresses.is_empty() && !host::is_wildcard(&s.host) && s.resolution != Resolution::None;
    let addresses: HashMap<String, std::net::Ipv4Addr> = address::allocate(all.iter().filter(|s| needs(s)).map(|s| s.host.as_str()));
    for service in all.iter_mut().filter(|s| needs(s)) {
        if let Some(address) = addresses.get(&service.host) {
            service.addresses = vec![address.to_string()];
            service.address_allocated = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{labels, object, of};
    use super::*;

    #[test]
    fn a_kubernetes_service_becomes_a_service_of_the_mesh() {
        let text = object(
            "Service",
            "shop",
            "reviews",
            "{selector: {app: reviews}, ports: [{port: 80, name: web, appProtocol: http2, targetPort: http}, {port: 90, name: grpc-api, targetPort: 9090}, {port: 3306, name: db}, {port: 53, name: dns, protocol: UDP}]}",
        );
        let effective = of(&text);
        let service = effective.service("reviews.shop.svc.cluster.local", "anywhere").expect("there");
        let ports: Vec<_> = service.ports.iter().map(|p| (p.number, p.target_port.clone(), p.protocol)).collect();
        let want = [
            (80, TargetPort::Name("http".into()), Protocol::Http2),
            (90, TargetPort::Number(9090), Protocol::Grpc),
            (3306, TargetPort::Number(3306), Protocol::Tcp),
            (53, TargetPort::Number(53), Protocol::Udp),
        ];
        assert_eq!(ports, want);
        assert!(service.address_allocated && service.address().is_some_and(|a| a.to_string().starts_with("240.240.")));
        assert!(
            service.selects("shop", &labels(&[("app", "reviews"), ("v", "1")])) && !service.selects("team", &labels(&[("app", "reviews")]))
        );
        assert!(!service.headless && !service.external && service.resolution == Resolution::Static);
    }

    #[test]
    fn addresses_are_taken_as_written_or_made_up_where_a_name_needs_one() {
        let text = [
            object("Service", "a", "given", "{clusterIP: 10.0.0.1, ports: [{port: 80}]}"),
            object("Service", "a", "headless", "{clusterIP: None, ports: [{port: 80}]}"),
            object("Service", "a", "alias", "{type: ExternalName, externalName: example.com, ports: [{port: 80}]}"),
            object(
                "ServiceEntry",
                "a",
                "dns",
                "{hosts: [api.example.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}",
            ),
            object(
                "ServiceEntry",
                "a",
                "wild",
                "{hosts: ['*.example.org'], resolution: NONE, ports: [{number: 443, name: tls, protocol: TLS}]}",
            ),
            object(
                "ServiceEntry",
                "a",
                "none",
                "{hosts: [pass.example.net], resolution: NONE, ports: [{number: 443, name: tls, protocol: TLS}]}",
            ),
        ];
        let effective = of(&text.concat());
        let cases = [
            ("given.a.svc.cluster.local", true, false, false, false),
            ("headless.a.svc.cluster.local", true, true, true, false),
            ("alias.a.svc.cluster.local", true, true, false, true),
            ("api.example.com", true, true, false, true),
            ("*.example.org", false, false, false, true),
            ("pass.example.net", false, false, false, true),
        ];
        for (host, addressed, allocated, headless, external) in cases {
            let service = effective.service(host, "a").expect(host);
            assert_eq!(service.address().is_some(), addressed, "{host}");
            assert_eq!((service.address_allocated, service.headless, service.external), (allocated, headless, external), "{host}");
        }
        assert_eq!(effective.service("alias.a.svc.cluster.local", "a").expect("there").endpoints[0].address, "example.com");
        assert!(effective.service_for_host("deep.sub.example.org", "a").is_some_and(|s| s.host == "*.example.org"));
        assert!(effective.service_for_host("example.org", "a").is_none());
    }

    #[test]
    fn a_client_sees_what_is_exported_to_it_and_prefers_its_own_namespace() {
        let entry = |namespace: &str, name: &str, export: &str, port: u32| {
            let spec = format!(
                "{{hosts: [api.example.com], exportTo: [{export}], resolution: DNS, ports: [{{number: {port}, name: http, protocol: HTTP}}]}}"
            );
            object("ServiceEntry", namespace, name, &spec)
        };
        let text = [
            entry("a", "old", "'*'", 80),
            entry("b", "own", "'.'", 81),
            entry("c", "shared", "d", 82),
            object(
                "ServiceEntry",
                "e",
                "only",
                "{hosts: [only.example.com], exportTo: ['.'], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}",
            ),
        ];
        let effective = of(&text.concat());
        let port = |client: &str, host: &str| effective.service(host, client).map(|s| s.ports[0].number);
        let cases = [("a", Some(80)), ("b", Some(81)), ("c", Some(80)), ("d", Some(80)), ("z", Some(80))];
        for (client, want) in cases {
            assert_eq!(port(client, "api.example.com"), want, "{client}");
        }
        assert_eq!((port("e", "only.example.com"), port("a", "only.example.com")), (Some(80), None));
        assert_eq!(effective.services_for("a").len(), 1);
        assert_eq!(effective.services_for("e").len(), 2);
    }

    #[test]
    fn entries_of_one_host_and_namespace_merge_and_one_for_a_service_only_decorates() {
        let text = [
            object("Service", "a", "reviews", "{ports: [{port: 80, name: http}]}"),
            object(
                "ServiceEntry",
                "a",
                "sans",
                "{hosts: [reviews.a.svc.cluster.local], location: MESH_INTERNAL, resolution: STATIC, subjectAltNames: ['spiffe://x'], endpoints: [{address: 10.0.0.9}], ports: [{number: 9, name: tcp, protocol: TCP}]}",
            ),
            object(
                "ServiceEntry",
                "a",
                "one",
                "{hosts: [db.example.com], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 10.0.0.1}]}",
            ),
            object(
                "ServiceEntry",
                "a",
                "two",
                "{hosts: [db.example.com], resolution: STATIC, ports: [{number: 80, name: tcp, protocol: TCP}, {number: 81, name: tcp-2, protocol: TCP}], endpoints: [{address: 10.0.0.2}]}",
            ),
        ];
        let effective = of(&text.concat());
        let reviews = effective.service("reviews.a.svc.cluster.local", "a").expect("there");
        assert_eq!((reviews.source, reviews.ports.len(), reviews.subject_alt_names.len()), (Source::Service, 1, 1));
        let db = effective.service("db.example.com", "a").expect("there");
        let ports: Vec<_> = db.ports.iter().map(|p| (p.number, p.protocol)).collect();
        assert_eq!(ports, [(80, Protocol::Http), (81, Protocol::Tcp)]);
        assert_eq!(db.endpoints.len(), 2);
    }
}
