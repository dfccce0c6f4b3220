//! Which DestinationRule a client follows for a service, and what is left of it for one subset and port.
//!
//! In:  an [`ObjectSet`] and the mesh's settings; then a client and a service.
//! Out: [`MergedRule`]; [`Policy`], its blocks after layering.

use std::collections::HashMap;
use std::sync::Arc;

use super::mesh::Mesh;
use super::selector::labels_of;
use super::services::MeshService;
use super::visibility::ExportTo;
use crate::host::HostIndex;
use crate::kinds::destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, DestinationRule, LoadBalancerSettings, OutlierDetection, ProxyProtocol, RetryBudget, Subset,
    TrafficPolicy, TunnelSettings,
};
use crate::meta::{Labels, selects};
use crate::set::{ObjectIndex, ObjectSet, Of};

/// DestinationRules of one namespace, host and `exportTo`, merged.
#[derive(Clone, Debug)]
pub struct MergedRule {
    /// In normal form; may be a wildcard.
    pub host: String,
    pub namespace: String,
    pub export_to: ExportTo,
    /// Clients it is for, by labels; `None`: all.
    pub clients: Option<Labels>,
    /// Oldest first.
    pub objects: Vec<ObjectIndex>,
    /// The first object's that has one, as a whole.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Names are unique: of two subsets of one name the older stays.
    pub subsets: Vec<MergedSubset>,
}

/// A subset and where it is written.
#[derive(Clone, Debug)]
pub struct MergedSubset {
    pub subset: Subset,
    pub object: ObjectIndex,
    /// Position in that object's `subsets`.
    pub position: usize,
}

impl MergedRule {
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().map(|s| &s.subset).find(|s| s.name == name)
    }

    fn new(item: Of<'_, DestinationRule>, host: String, export_to: ExportTo) -> Self {
        let mut rule = Self {
            host,
            namespace: item.namespace().to_owned(),
            export_to,
            clients: labels_of(item.spec.workload_selector.as_ref()).cloned(),
            objects: Vec::new(),
            traffic_policy: None,
            subsets: Vec::new(),
        };
        rule.add(item);
        rule
    }

    fn takes(&self, item: Of<'_, DestinationRule>, export_to: &ExportTo) -> bool {
        self.export_to == *export_to && self.clients.is_none() && labels_of(item.spec.workload_selector.as_ref()).is_none()
    }

    fn add(&mut self, item: Of<'_, DestinationRule>) {
        self.objects.push(item.index);
        if self.traffic_policy.is_none() {
            self.traffic_policy.clone_from(&item.spec.traffic_policy);
        }
        for (position, subset) in item.spec.subsets.iter().enumerate() {
            if self.subset(&subset.name).is_none() {
                self.subsets.push(MergedSubset { subset: subset.clone(), object: item.index, position });
            }
        }
    }
}

/// Every DestinationRule, by namespace and host.
#[derive(Debug, Default)]
pub(super) struct DestinationRules {
    by_namespace: HashMap<String, HostIndex<Vec<Arc<MergedRule>>>>,
}

impl DestinationRules {
    pub fn new(set: &ObjectSet, mesh: &Mesh) -> Self {
        let mut building: HashMap<String, HostIndex<Vec<MergedRule>>> = HashMap::new();
        let mut order: Vec<(String, String)> = Vec::new();
        for item in set.of::<DestinationRule>() {
            let host = mesh.expand(&item.spec.host, item.namespace());
            let export_to = ExportTo::new(&item.spec.export_to, item.namespace(), &mesh.config.default_destination_rule_export_to);
            let bucket = building.entry(item.namespace().to_owned()).or_default().entry(&host, Vec::new);
            match bucket.iter_mut().find(|rule| rule.takes(item, &export_to)) {
                Some(rule) => rule.add(item),
                None => {
                    if bucket.is_empty() {
                        order.push((item.namespace().to_owned(), host.clone()));
                    }
                    bucket.push(MergedRule::new(item, host, export_to));
                }
            }
        }
        let mut rules = Self::default();
        for (namespace, host) in order {
            let bucket = building.get_mut(&namespace).map(|index| std::mem::take(index.entry(&host, Vec::new))).unwrap_or_default();
            *rules.by_namespace.entry(namespace).or_default().entry(&host, Vec::new) = bucket.into_iter().map(Arc::new).collect();
        }
        rules
    }

    /// Client namespace (skipped for clients of the root namespace, but for rules exported to it alone), service namespace, root namespace: the
    /// first with any match wins, inside it the most specific host; of several the one for the client's labels, else the oldest for all.
    pub fn lookup(
        &self,
        mesh: &Mesh,
        client_namespace: &str,
        client_labels: &Labels,
        service_host: &str,
        service_namespace: &str,
    ) -> Option<&Arc<MergedRule>> {
        let root = mesh.root_namespace.as_str();
        let own_only = client_namespace == root;
        let own = self.within(client_namespace, client_namespace, client_labels, service_host, |rule| !own_only || is_private(rule));
        own.or_else(|| self.within(service_namespace, client_namespace, client_labels, service_host, |_| true))
            .or_else(|| self.within(root, client_namespace, client_labels, service_host, |_| true))
    }

    fn within(
        &self,
        owner: &str,
        client: &str,
        labels: &Labels,
        host: &str,
        admit: impl Fn(&MergedRule) -> bool,
    ) -> Option<&Arc<MergedRule>> {
        let for_client = |rule: &&Arc<MergedRule>| match &rule.clients {
            Some(wanted) => owner == client && selects(wanted, labels),
            None => true,
        };
        for bucket in self.by_namespace.get(owner)?.matching(host) {
            let seen = bucket.iter().filter(|rule| rule.export_to.visible_in(client) && admit(rule));
            let fits: Vec<&Arc<MergedRule>> = seen.filter(for_client).collect();
            if let Some(rule) = fits.iter().find(|rule| rule.clients.is_some()).or(fits.first()) {
                return Some(rule);
            }
        }
        None
    }

    /// Every merged rule, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<MergedRule>> {
        self.by_namespace.values().flat_map(HostIndex::values).flatten()
    }

    /// The merged rules of one namespace whose host pattern stands for `host`, most specific first.
    pub fn of_namespace<'a>(&'a self, namespace: &str, host: &'a str) -> impl Iterator<Item = &'a Arc<MergedRule>> {
        self.by_namespace.get(namespace).into_iter().flat_map(move |index| index.matching(host)).flatten()
    }
}

fn is_private(rule: &MergedRule) -> bool {
    matches!(&rule.export_to, ExportTo::Namespaces(list) if *list == [rule.namespace.clone()])
}

/// The blocks in force for one port and subset of a service. `None` means built-in defaults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy<'a> {
    pub load_balancer: Option<&'a LoadBalancerSettings>,
    pub connection_pool: Option<&'a ConnectionPoolSettings>,
    pub outlier_detection: Option<&'a OutlierDetection>,
    pub tls: Option<&'a ClientTlsSettings>,
    pub tunnel: Option<&'a TunnelSettings>,
    pub proxy_protocol: Option<&'a ProxyProtocol>,
    pub retry_budget: Option<&'a RetryBudget>,
}

impl<'a> Policy<'a> {
    /// Layers mesh, rule and subset, block by block and never field by field.
    ///
    /// Mesh `defaultTrafficPolicy` < top level < subset. `portLevelSettings` for the port replaces the four blocks `loadBalancer`,
    /// `connectionPool`, `outlierDetection` and `tls` of its level and of those below: what it leaves out falls back to built-in defaults.
    /// `tunnel`, `proxyProtocol` and `retryBudget` are inherited. Source: `MergeTrafficPolicy`.
    pub fn layer(mesh: &'a Mesh, rule: Option<&'a MergedRule>, subset: Option<&str>, port: u32) -> Self {
        let mut policy = Self::default();
        if let Some(default) = &mesh.config.default_traffic_policy {
            policy.connection_pool = default.connection_pool.as_ref();
            policy.outlier_detection = default.outlier_detection.as_ref();
        }
        let Some(rule) = rule else { return policy };
        policy.apply(rule.traffic_policy.as_ref(), port);
        let subset = subset.and_then(|name| rule.subset(name));
        policy.apply(subset.and_then(|s| s.traffic_policy.as_ref()), port);
        policy
    }

    fn apply(&mut self, level: Option<&'a TrafficPolicy>, port: u32) {
        let Some(level) = level else { return };
        self.load_balancer = level.load_balancer.as_ref().or(self.load_balancer);
        self.connection_pool = level.connection_pool.as_ref().or(self.connection_pool);
        self.outlier_detection = level.outlier_detection.as_ref().or(self.outlier_detection);
        self.tls = level.tls.as_ref().or(self.tls);
        self.tunnel = level.tunnel.as_ref().or(self.tunnel);
        self.proxy_protocol = level.proxy_protocol.as_ref().or(self.proxy_protocol);
        self.retry_budget = level.retry_budget.as_ref().or(self.retry_budget);
        let of_port = level.port_level_settings.iter().find(|p| p.port.as_ref().is_some_and(|selector| selector.number == port));
        if let Some(of_port) = of_port {
            self.load_balancer = of_port.load_balancer.as_ref();
            self.connection_pool = of_port.connection_pool.as_ref();
            self.outlier_detection = of_port.outlier_detection.as_ref();
            self.tls = of_port.tls.as_ref();
        }
    }
}

impl super::Effective {
    /// The rule that a client (namespace, labels of its workload) follows for a service. A `None` means: only the mesh's defaults.
    pub fn destination_rule(&self, client_namespace: &str, client_labels: &Labels, service: &MeshService) -> Option<&Arc<MergedRule>> {
        self.rules().lookup(self.mesh(), client_namespace, client_labels, &service.host, &service.namespace)
    }

    /// As [`Effective::destination_rule`](super::Effective::destination_rule), for a host whose service may be unknown.
    pub fn rule_for(
        &self,
        client_namespace: &str,
        client_labels: &Labels,
        host: &str,
        service_namespace: &str,
    ) -> Option<&Arc<MergedRule>> {
        self.rules().lookup(self.mesh(), client_namespace, client_labels, host, service_namespace)
    }

    /// The blocks in force for one port and subset: see [`Policy::layer`].
    pub fn traffic_policy<'a>(&'a self, rule: Option<&'a Arc<MergedRule>>, subset: Option<&str>, port: u32) -> Policy<'a> {
        Policy::layer(self.mesh(), rule.map(Arc::as_ref), subset, port)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{labels, object, of};
    use super::*;
    use crate::effective::Effective;

    fn dr(namespace: &str, name: &str, spec: &str) -> String {
        object("DestinationRule", namespace, name, &format!("{{{spec}}}"))
    }

    fn names(effective: &Effective, rule: Option<&Arc<MergedRule>>) -> Vec<String> {
        let objects = rule.map(|r| r.objects.clone()).unwrap_or_default();
        objects.into_iter().map(|index| effective.set().objects()[index as usize].meta.name.clone()).collect()
    }

    #[test]
    fn the_first_namespace_with_a_match_wins_and_inside_it_the_most_specific_host() {
        let text = [
            object("Service", "shop", "reviews", "{ports: [{port: 80, name: http}]}"),
            object("Service", "shop", "ratings", "{ports: [{port: 80, name: http}]}"),
            dr("istio-system", "mesh-wide", "host: '*.cluster.local'"),
            dr("istio-system", "root-only", "host: ratings.shop.svc.cluster.local, exportTo: ['.']"),
            dr("shop", "owner", "host: reviews"),
            dr("shop", "owner-wide", "host: '*.shop.svc.cluster.local'"),
            dr("shop", "unexported", "host: ratings, exportTo: ['.']"),
            dr("team", "client", "host: '*.svc.cluster.local'"),
            dr("web", "chosen", "host: reviews.shop.svc.cluster.local, workloadSelector: {matchLabels: {app: web}}"),
            dr("web", "for-all", "host: reviews.shop.svc.cluster.local"),
        ];
        let effective = of(&text.concat());
        let (web, nobody) = (labels(&[("app", "web")]), labels(&[]));
        let cases = [
            ("shop", &nobody, "reviews", vec!["owner"]),
            ("shop", &nobody, "ratings", vec!["unexported"]),
            ("team", &nobody, "reviews", vec!["client"]),
            ("other", &nobody, "reviews", vec!["owner"]),
            ("other", &nobody, "ratings", vec!["owner-wide"]),
            ("web", &web, "reviews", vec!["chosen"]),
            ("web", &nobody, "reviews", vec!["for-all"]),
            ("istio-system", &nobody, "reviews", vec!["owner"]),
            ("istio-system", &nobody, "ratings", vec!["root-only"]),
        ];
        for (client, labels, service, want) in cases {
            let service = effective.service(&format!("{service}.shop.svc.cluster.local"), client).expect("there");
            assert_eq!(names(&effective, effective.destination_rule(client, labels, service)), want, "{client} {}", service.name);
        }
    }

    #[test]
    fn the_root_namespace_comes_last() {
        let text = [object("Service", "shop", "a", "{ports: [{port: 80}]}"), dr("istio-system", "mesh-wide", "host: '*.local'")];
        let effective = of(&text.concat());
        let service = effective.service("a.shop.svc.cluster.local", "shop").expect("there");
        assert_eq!(names(&effective, effective.destination_rule("shop", &Labels::new(), service)), ["mesh-wide"]);
    }

    #[test]
    fn rules_of_one_namespace_host_and_export_merge() {
        let text = [
            object("Service", "shop", "a", "{ports: [{port: 80}]}"),
            dr("shop", "one", "host: a, subsets: [{name: v1, labels: {version: v1}}]"),
            dr(
                "shop",
                "two",
                "host: a.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: other}}, {name: v2}]",
            ),
            dr("shop", "three", "host: a, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"),
            dr("shop", "apart", "host: a, exportTo: ['.'], subsets: [{name: v3}]"),
        ];
        let effective = of(&text.concat());
        let service = effective.service("a.shop.svc.cluster.local", "shop").expect("there");
        let rule = effective.destination_rule("shop", &Labels::new(), service).expect("a rule");
        assert_eq!(names(&effective, Some(rule)), ["one", "two", "three"]);
        let subsets: Vec<&str> = rule.subsets.iter().map(|s| s.subset.name.as_str()).collect();
        assert_eq!(subsets, ["v1", "v2"]);
        assert_eq!(rule.subset("v1").map(|s| s.labels.clone()), Some(labels(&[("version", "v1")])));
        use crate::kinds::destination_rule::SimpleLb;
        assert_eq!(rule.traffic_policy.as_ref().and_then(|p| p.load_balancer.as_ref()).and_then(|l| l.simple), Some(SimpleLb::Random));
    }

    #[test]
    fn blocks_are_layered_whole_and_a_port_replaces_all_four() {
        let text = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    defaultTrafficPolicy:
      connectionPool: {tcp: {maxConnections: 7}}
      outlierDetection: {consecutive5xxErrors: 7}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{port: 80, name: http}, {port: 90, name: grpc}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a
  trafficPolicy:
    connectionPool: {tcp: {connectTimeout: 1s}}
    loadBalancer: {simple: RANDOM}
    retryBudget: {percent: 30}
    portLevelSettings:
    - port: {number: 90}
      loadBalancer: {simple: ROUND_ROBIN}
  subsets:
  - name: plain
  - name: own
    trafficPolicy:
      loadBalancer: {simple: LEAST_REQUEST}
  - name: port
    trafficPolicy:
      portLevelSettings:
      - port: {number: 80}
        connectionPool: {tcp: {maxConnections: 1}}
";
        let effective = of(text);
        let service = effective.service("a.default.svc.cluster.local", "default").expect("there");
        let rule = effective.destination_rule("default", &Labels::new(), service);
        let shown = |subset: Option<&str>, port| {
            let policy = effective.traffic_policy(rule, subset, port);
            let tcp = policy.connection_pool.and_then(|p| p.tcp.as_ref());
            (
                policy.load_balancer.and_then(|l| l.simple).map(|s| s.as_str()),
                tcp.map(|t| (t.max_connections, t.connect_timeout.is_some())),
                policy.outlier_detection.is_some(),
                policy.retry_budget.is_some(),
            )
        };
        let cases = [
            ("top level, the pool not mixed with the mesh's", None, 80, (Some("RANDOM"), Some((0, true)), true, true)),
            ("a port has nothing but its own", None, 90, (Some("ROUND_ROBIN"), None, false, true)),
            ("a subset without policy", Some("plain"), 80, (Some("RANDOM"), Some((0, true)), true, true)),
            ("a subset's block replaces", Some("own"), 80, (Some("LEAST_REQUEST"), Some((0, true)), true, true)),
            ("a subset above the rule's port", Some("own"), 90, (Some("LEAST_REQUEST"), None, false, true)),
            ("a subset's port", Some("port"), 80, (None, Some((1, false)), false, true)),
            ("an unknown subset", Some("nobody"), 80, (Some("RANDOM"), Some((0, true)), true, true)),
        ];
        for (name, subset, port, want) in cases {
            assert_eq!(shown(subset, port), want, "{name}");
        }
        let none = effective.traffic_policy(None, None, 80);
        assert!(none.connection_pool.is_some() && none.outlier_detection.is_some() && none.load_balancer.is_none());
    }
}
