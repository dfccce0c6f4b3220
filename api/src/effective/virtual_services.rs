//! Which VirtualService routes a client's requests, and which of its routes are there for whom.
//!
//! In:  an [`ObjectSet`] and the mesh's settings; then a client, or a gateway server.
//! Out: for a sidecar one VirtualService per host (never merged); for a gateway merged routes; each as positions into the objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::delegates::{self, Merged};
use super::mesh::Mesh;
use super::sidecars::EgressHosts;
use super::visibility::{ExportTo, Reach};
use crate::host::{self, HostIndex};
use crate::kinds::gateway::Gateway;
use crate::kinds::virtual_service::{HttpMatchRequest, HttpRoute, VirtualService};
use crate::meta::{Labels, selects};
use crate::set::{ObjectIndex, ObjectSet, Of};
use crate::string_match::StringMatch;

/// The gateway name that means every sidecar.
pub const MESH: &str = "mesh";

/// Who asks for routes: what `match` conditions about the client are resolved against.
#[derive(Clone, Copy, Debug)]
pub struct RouteClient<'a> {
    /// `mesh`, or the gateway as `namespace/name`.
    pub gateway: &'a str,
    /// Of the proxy's workload.
    pub namespace: &'a str,
    pub labels: &'a Labels,
    /// The service port (listener port) the request comes in on.
    pub port: u32,
}

/// One route to build: a rule of a VirtualService and one of its match entries (`None`: the rule has none and takes everything).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRef {
    pub virtual_service: ObjectIndex,
    /// Position in `http`, delegated rules in place.
    pub rule: usize,
    /// Position in that rule's `match`.
    pub condition: Option<usize>,
}

/// A virtual host of a gateway server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayHost {
    pub host: String,
    /// In order of evaluation.
    pub routes: Vec<RouteRef>,
}

#[derive(Clone, Debug)]
struct Candidate {
    index: ObjectIndex,
    namespace: String,
    export_to: ExportTo,
}

/// Every VirtualService, by host for sidecars and by gateway for gateways.
#[derive(Debug, Default)]
pub(super) struct VirtualServices {
    mesh: HostIndex<Vec<Candidate>>,
    /// Hosts of mesh VirtualServices, most specific first.
    mesh_hosts: Vec<String>,
    /// By `namespace/name` of the gateway, oldest first.
    by_gateway: HashMap<String, Vec<Candidate>>,
    /// Of VirtualServices that delegate: the rules they have then.
    merged: HashMap<ObjectIndex, Merged>,
}

impl VirtualServices {
    pub fn new(set: &ObjectSet, mesh: &Mesh) -> Self {
        let mut all = Self::default();
        for item in set.of::<VirtualService>().filter(|item| !item.spec.hosts.is_empty()) {
            all.merged.extend(delegates::merge(set, mesh, item).map(|merged| (item.index, merged)));
            let export_to = ExportTo::new(&item.spec.export_to, item.namespace(), &mesh.config.default_virtual_service_export_to);
            let candidate = Candidate { index: item.index, namespace: item.namespace().to_owned(), export_to };
            for gateway in gateways(item) {
                if gateway == MESH {
                    for name in &item.spec.hosts {
                        let host = mesh.expand(name, item.namespace());
                        let bucket = all.mesh.entry(&host, Vec::new);
                        if bucket.is_empty() {
                            all.mesh_hosts.push(host);
                        }
                        if bucket.last().is_none_or(|last| last.index != item.index) {
                            bucket.push(candidate.clone());
                        }
                    }
                } else {
                    all.by_gateway.entry(gateway).or_default().push(candidate.clone());
                }
            }
        }
        all.mesh_hosts.sort_by(|a, b| host::by_specificity(a, b));
        all
    }

    fn for_host(&self, client_namespace: &str, host: &str, among: Among<'_>) -> Option<ObjectIndex> {
        self.mesh.matching(host).find_map(|bucket| first_seen(bucket, client_namespace, among))
    }

    /// Those that have this very host, the first to ask in front.
    fn written_for(&self, client_namespace: &str, host: &str, among: Among<'_>) -> Vec<ObjectIndex> {
        sorted(self.mesh.exact(host).into_iter().flatten().filter(|c| is_among(c, among)), client_namespace)
    }

    /// Those for sidecars that a client sees and an egress listener imports.
    pub fn imported(&self, client_namespace: &str, hosts: &EgressHosts) -> BTreeSet<ObjectIndex> {
        let candidates = self.mesh_hosts.iter().flat_map(|host| self.mesh.exact(host).into_iter().flatten().map(move |c| (host, c)));
        let seen = candidates.filter(|(host, c)| c.export_to.visible_in(client_namespace) && hosts.takes_route(host, &c.namespace));
        seen.map(|(_, c)| c.index).collect()
    }

    /// The hosts of some VirtualServices for sidecars, as far as the client sees them; the most specific first.
    pub fn hosts_among(&self, client_namespace: &str, among: &BTreeSet<ObjectIndex>) -> Vec<&str> {
        let seen = |host: &&str| {
            let bucket = self.mesh.exact(host);
            bucket.is_some_and(|bucket| first_seen(bucket, client_namespace, Some(among)).is_some())
        };
        self.mesh_hosts.iter().map(String::as_str).filter(seen).collect()
    }

    fn on_gateway(&self, gateway: &str, client_namespace: &str) -> Vec<ObjectIndex> {
        sorted(self.by_gateway.get(gateway).into_iter().flatten(), client_namespace)
    }
}

/// Private before exported by name before public, then the oldest.
fn sorted<'a>(candidates: impl Iterator<Item = &'a Candidate>, client_namespace: &str) -> Vec<ObjectIndex> {
    let mut seen: Vec<(Reach, ObjectIndex)> =
        candidates.filter_map(|c| Some((c.export_to.reach(&c.namespace, client_namespace)?, c.index))).collect();
    seen.sort_unstable();
    seen.into_iter().map(|(_, index)| index).collect()
}

/// Private before exported by name before public, then the oldest.
fn first_seen(bucket: &[Candidate], client_namespace: &str, among: Among<'_>) -> Option<ObjectIndex> {
    let admitted = bucket.iter().filter(|c| is_among(c, among));
    let seen = admitted.filter_map(|c| Some((c.export_to.reach(&c.namespace, client_namespace)?, c.index)));
    seen.min().map(|(_, index)| index)
}

/// What a Sidecar lets through; `None`: everything.
type Among<'a> = Option<&'a BTreeSet<ObjectIndex>>;

fn is_among(candidate: &Candidate, among: Among<'_>) -> bool {
    among.is_none_or(|among| among.contains(&candidate.index))
}

/// The gateways a VirtualService is bound to: `mesh`, or `namespace/name`; each once. None written means `mesh`.
pub fn gateways(item: Of<'_, VirtualService>) -> Vec<String> {
    if item.spec.gateways.is_empty() {
        return vec![MESH.to_owned()];
    }
    let mut names: Vec<String> = Vec::new();
    for written in &item.spec.gateways {
        let name = gateway_name(written, item.namespace());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `namespace/name` for a gateway as written in an object of `namespace`; `mesh` stays. Source: `resolveGatewayName`.
pub fn gateway_name(written: &str, namespace: &str) -> String {
    if written == MESH {
        return written.to_owned();
    }
    match written.split_once('/') {
        Some((".", name)) => format!("{namespace}/{name}"),
        Some(_) => written.to_owned(),
        None => match written.split_once('.') {
            // The old form `name.namespace[.svc…]`.
            Some((name, rest)) => format!("{}/{name}", rest.split('.').next().unwrap_or(rest)),
            None => format!("{namespace}/{written}"),
        },
    }
}

/// Whether a match entry applies to the client at all. With `gateways` given, source conditions are not consulted; without, a gateway's own
/// labels and namespace are compared like a sidecar's. Source: `sourceMatchHTTP`.
pub fn applies(condition: &HttpMatchRequest, namespace: &str, client: &RouteClient<'_>) -> bool {
    if condition.port != 0 && condition.port != client.port {
        return false;
    }
    if !condition.gateways.is_empty() {
        return condition.gateways.iter().any(|g| gateway_name(g, namespace) == client.gateway);
    }
    let same_namespace = condition.source_namespace.is_empty() || condition.source_namespace == client.namespace;
    same_namespace && selects(&condition.source_labels, client.labels)
}

/// Whether a match entry takes every request that reaches it: prefix `/` or regex `.*` (or no uri), and no other condition on the request.
pub fn is_catch_all(condition: &HttpMatchRequest) -> bool {
    let uri = match &condition.uri {
        None | Some(StringMatch::Present) => true,
        Some(StringMatch::Prefix(prefix)) => prefix == "/" || prefix.is_empty(),
        Some(StringMatch::Regex(regex)) => regex == ".*" || regex == "*",
        Some(_) => false,
    };
    uri && condition.headers.is_empty()
        && condition.without_headers.is_empty()
        && condition.query_params.is_empty()
        && condition.method.is_none()
        && condition.authority.is_none()
        && condition.scheme.is_none()
}

/// The routes of one VirtualService for a client, in order, cut after the first that takes everything.
fn http_routes(item: Of<'_, VirtualService>, rules: &[HttpRoute], client: &RouteClient<'_>) -> Vec<RouteRef> {
    let mut routes = Vec::new();
    for (position, rule) in rules.iter().enumerate() {
        let route = |condition| RouteRef { virtual_service: item.index, rule: position, condition };
        if rule.r#match.is_empty() {
            routes.push(route(None));
            return routes;
        }
        for (at, condition) in rule.r#match.iter().enumerate().filter(|(_, c)| applies(c, item.namespace(), client)) {
            routes.push(route(Some(at)));
            if is_catch_all(condition) {
                return routes;
            }
        }
    }
    routes
}

impl super::Effective {
    /// The one VirtualService for a host (normal form, a service's or not) that sidecars in `client_namespace` follow: the most specific host
    /// among those the client sees; of equals private ones first, then those exported by name, then the oldest. None are merged.
    pub fn virtual_service(&self, client_namespace: &str, host: &str) -> Option<Of<'_, VirtualService>> {
        self.routes().for_host(client_namespace, host, None).map(|index| self.set().at(index))
    }

    /// As [`Effective::virtual_service`](super::Effective::virtual_service), with its routes for a client. Of several that have this very host, the
    /// first with any route for the client counts: one without any takes the host from nobody. Source: `buildSidecarVirtualHostsForVirtualService`.
    pub fn routes_for(&self, client: &RouteClient<'_>, host: &str) -> Option<(Of<'_, VirtualService>, Vec<RouteRef>)> {
        self.routes_among(client, host, None)
    }

    /// As [`Effective::routes_for`](super::Effective::routes_for), among the VirtualServices that a Sidecar lets through (`None`: all).
    pub fn routes_among(
        &self,
        client: &RouteClient<'_>,
        host: &str,
        among: Option<&BTreeSet<ObjectIndex>>,
    ) -> Option<(Of<'_, VirtualService>, Vec<RouteRef>)> {
        let with_routes = |index| {
            let item = self.set().at(index);
            (item, self.http_routes(item, client))
        };
        let written = self.routes().written_for(client.namespace, host, among).into_iter().map(with_routes);
        let best = written.into_iter().find(|(_, routes)| !routes.is_empty());
        best.or_else(|| self.routes().for_host(client.namespace, host, among).map(with_routes))
    }

    /// Hosts of mesh VirtualServices behind which the client sees no service, most specific first, each with the VirtualService a client in this
    /// namespace follows. They work on port 80 only. A wildcard that covers a visible service is not listed: it applies to that service.
    pub fn unregistered_hosts(&self, client_namespace: &str) -> Vec<(&str, Of<'_, VirtualService>)> {
        let mut found = Vec::new();
        for name in &self.routes().mesh_hosts {
            if self.0.services.covered_for(name, client_namespace) {
                continue;
            }
            if let Some(bucket) = self.routes().mesh.exact(name)
                && let Some(index) = first_seen(bucket, client_namespace, None)
            {
                found.push((name.as_str(), self.set().at(index)));
            }
        }
        found
    }

    /// The routes of one VirtualService for a client, in order, cut after the first that takes everything.
    pub fn http_routes(&self, item: Of<'_, VirtualService>, client: &RouteClient<'_>) -> Vec<RouteRef> {
        http_routes(item, self.http_rules(item), client)
    }

    /// What a VirtualService that delegates comes to; `None` for one that does not.
    pub fn merged(&self, item: Of<'_, VirtualService>) -> Option<&Merged> {
        self.routes().merged.get(&item.index)
    }

    /// Its rules, those of its delegates in place.
    pub(super) fn http_rules<'s>(&'s self, item: Of<'s, VirtualService>) -> &'s [HttpRoute] {
        self.merged(item).map_or(&item.spec.http, |merged| &merged.rules)
    }

    /// What a [`RouteRef`] points to.
    pub fn route(&self, route: RouteRef) -> (Of<'_, VirtualService>, &HttpRoute, Option<&HttpMatchRequest>) {
        let item = self.set().at::<VirtualService>(route.virtual_service);
        let rule = &self.http_rules(item)[route.rule];
        (item, rule, route.condition.map(|at| &rule.r#match[at]))
    }

    /// VirtualServices bound to a gateway (`namespace/name`) that its proxy, in `proxy_namespace`, can see; in order of evaluation.
    pub fn gateway_virtual_services(&self, gateway: &str, proxy_namespace: &str) -> Vec<Of<'_, VirtualService>> {
        self.routes().on_gateway(gateway, proxy_namespace).into_iter().map(|index| self.set().at(index)).collect()
    }

    /// The virtual hosts of one server of a gateway: the VirtualServices bound to it whose host lies in a host of the server (or the other way
    /// round), routes of one host concatenated in order, then those that take everything moved to the end and only the first of them kept.
    /// Sorted by specificity.
    pub fn gateway_hosts(&self, gateway: Of<'_, Gateway>, server: usize, client: &RouteClient<'_>) -> Vec<GatewayHost> {
        let Some(server) = gateway.spec.servers.get(server) else { return Vec::new() };
        let mut hosts: BTreeMap<String, Vec<RouteRef>> = BTreeMap::new();
        for item in self.gateway_virtual_services(client.gateway, client.namespace) {
            let routes = self.http_routes(item, client);
            let mut added: Vec<String> = Vec::new();
            for written in &item.spec.hosts {
                let name = self.mesh().expand(written, item.namespace());
                for host in server.hosts.iter().filter_map(|h| intersection(h, gateway.namespace(), &name, item.namespace())) {
                    if !added.contains(&host) {
                        hosts.entry(host.clone()).or_default().extend(&routes);
                        added.push(host);
                    }
                }
            }
        }
        let mut all: Vec<GatewayHost> =
            hosts.into_iter().map(|(host, routes)| GatewayHost { host, routes: self.catch_all_last(routes) }).collect();
        all.sort_by(|a, b| host::by_specificity(&a.host, &b.host));
        all
    }

    fn catch_all_last(&self, routes: Vec<RouteRef>) -> Vec<RouteRef> {
        let takes_all = |route: &RouteRef| self.route(*route).2.is_none_or(is_catch_all);
        let (last, mut sorted): (Vec<RouteRef>, Vec<RouteRef>) = routes.into_iter().partition(takes_all);
        sorted.extend(last.first());
        sorted
    }
}

/// The host that a server's host (`[namespace/]dns`) and a route's host have in common: the narrower of the two; `None` when there is none or
/// the route's namespace is not admitted.
pub fn intersection(server_host: &str, gateway_namespace: &str, route_host: &str, route_namespace: &str) -> Option<String> {
    let (namespace, dns) = server_host.split_once('/').unwrap_or(("*", server_host));
    let admitted = match namespace {
        "*" => true,
        "." => route_namespace == gateway_namespace,
        namespace => namespace == route_namespace,
    };
    let dns = host::normalize(dns);
    if !admitted {
        None
    } else if host::matches(&dns, route_host) {
        Some(route_host.to_owned())
    } else if host::matches(route_host, &dns) {
        Some(dns.into_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{labels, object, of, of_files};
    use super::*;

    const TO: &str = "http: [{route: [{destination: {host: x.y}}]}]";

    fn vs(namespace: &str, name: &str, rest: &str) -> String {
        object("VirtualService", namespace, name, &format!("{{{rest}, {TO}}}"))
    }

    #[test]
    fn the_most_specific_host_wins_then_the_nearest_export_then_the_oldest() {
        let text = [
            vs("shop", "any", "hosts: ['*.com']"),
            vs("shop", "wide", "hosts: ['*.shop.svc.cluster.local']"),
            vs("shop", "first", "hosts: [reviews]"),
            vs("shop", "second", "hosts: [reviews.shop.svc.cluster.local]"),
            vs("shop", "private", "hosts: [ratings], exportTo: ['.']"),
            vs("team", "public", "hosts: [ratings.shop.svc.cluster.local]"),
            vs("team", "mine", "hosts: [reviews.shop.svc.cluster.local], exportTo: ['.']"),
            vs("team", "given", "hosts: [carts.shop.svc.cluster.local], exportTo: [web]"),
            vs("shop", "carts", "hosts: [carts]"),
            vs("shop", "outside", "hosts: [edge], gateways: [g]"),
            vs("shop", "both", "hosts: [edge.shop.svc.cluster.local], gateways: [g, mesh]"),
        ];
        let effective = of(&text.concat());
        let cases = [
            ("shop", "reviews.shop.svc.cluster.local", Some("first")),
            ("team", "reviews.shop.svc.cluster.local", Some("mine")),
            ("shop", "ratings.shop.svc.cluster.local", Some("private")),
            ("team", "ratings.shop.svc.cluster.local", Some("public")),
            ("web", "carts.shop.svc.cluster.local", Some("given")),
            ("shop", "carts.shop.svc.cluster.local", Some("carts")),
            ("shop", "edge.shop.svc.cluster.local", Some("both")),
            ("shop", "other.shop.svc.cluster.local", Some("wide")),
            ("shop", "example.com", Some("any")),
        ];
        for (client, host, want) in cases {
            assert_eq!(effective.virtual_service(client, host).map(|v| v.name()), want, "{client} {host}");
        }
    }

    #[test]
    fn older_means_file_path_then_position() {
        let (b, a) = (vs("shop", "in-b", "hosts: [x]"), vs("shop", "in-a", "hosts: [x]") + &vs("shop", "later-in-a", "hosts: [x]"));
        let effective = of_files(&[("b.yaml", &b), ("a.yaml", &a)]);
        assert_eq!(effective.virtual_service("shop", "x.shop.svc.cluster.local").map(|v| v.name()), Some("in-a"));
    }

    #[test]
    fn conditions_about_the_client_are_resolved_and_nothing_follows_a_catch_all() {
        let text = object(
            "VirtualService",
            "shop",
            "a",
            r"
  hosts: [a]
  gateways: [mesh, edge]
  http:
  - match:
    - uri: {prefix: /port}
      port: 8080
    - uri: {prefix: /labels}
      sourceLabels: {app: web}
    - uri: {prefix: /namespace}
      sourceNamespace: team
    - uri: {prefix: /gateway}
      gateways: [edge]
      sourceLabels: {app: nobody}
    route: [{destination: {host: a}}]
  - match:
    - sourceNamespace: team
    route: [{destination: {host: a}}]
  - match:
    - uri: {prefix: /}
      headers: {x: {exact: a}}
    - uri: {regex: .*}
    - uri: {exact: /never}
    route: [{destination: {host: a}}]
  - route: [{destination: {host: a}}]
",
        );
        let effective = of(&text);
        let item = effective.virtual_service("shop", "a.shop.svc.cluster.local").expect("there");
        let (web, nothing) = (labels(&[("app", "web"), ("v", "1")]), labels(&[]));
        type Positions<'a> = &'a [(usize, Option<usize>)];
        let cases: [(&str, &str, &str, &Labels, u32, Positions<'_>); 4] = [
            ("plain", MESH, "shop", &nothing, 80, &[(2, Some(0)), (2, Some(1))]),
            ("port and labels", MESH, "shop", &web, 8080, &[(0, Some(0)), (0, Some(1)), (2, Some(0)), (2, Some(1))]),
            ("namespace", MESH, "team", &nothing, 80, &[(0, Some(2)), (1, Some(0))]),
            ("gateway", "shop/edge", "shop", &nothing, 80, &[(0, Some(3)), (2, Some(0)), (2, Some(1))]),
        ];
        for (name, gateway, namespace, labels, port, want) in cases {
            let client = RouteClient { gateway, namespace, labels, port };
            let got: Vec<_> = effective.http_routes(item, &client).into_iter().map(|r| (r.rule, r.condition)).collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn a_virtual_service_without_a_route_for_the_client_leaves_the_host_to_the_next() {
        let text = [
            object(
                "VirtualService",
                "shop",
                "for-batch",
                "{hosts: [a], http: [{match: [{sourceLabels: {app: batch}}], route: [{destination: {host: a}}]}]}",
            ),
            vs("shop", "for-all", "hosts: [a]"),
            vs("shop", "wide", "hosts: ['*.shop.svc.cluster.local']"),
        ];
        let effective = of(&text.concat());
        for (app, want) in [("batch", "for-batch"), ("web", "for-all")] {
            let labels = labels(&[("app", app)]);
            let client = RouteClient { gateway: MESH, namespace: "shop", labels: &labels, port: 80 };
            let (item, routes) = effective.routes_for(&client, "a.shop.svc.cluster.local").expect("there");
            assert_eq!((item.name(), routes.len()), (want, 1), "{app}");
        }
    }

    #[test]
    fn gateway_names_take_every_written_form() {
        let cases =
            [("mesh", "mesh"), ("g", "own/g"), ("ns/g", "ns/g"), ("./g", "own/g"), ("g.ns", "ns/g"), ("g.ns.svc.cluster.local", "ns/g")];
        for (written, want) in cases {
            assert_eq!(gateway_name(written, "own"), want, "{written}");
        }
    }

    #[test]
    fn gateways_merge_routes_in_order_with_the_first_catch_all_last() {
        let server = "{selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['shop.com', 'team/*.team.com']}]}";
        let route = |path: &str| {
            let matched = if path.is_empty() { String::new() } else { format!("match: [{{uri: {{prefix: {path}}}}}], ") };
            format!("{{{matched}route: [{{destination: {{host: x.y}}}}]}}")
        };
        let bound = |namespace: &str, name: &str, host: &str, routes: &[&str]| {
            let http: Vec<String> = routes.iter().map(|p| route(p)).collect();
            object("VirtualService", namespace, name, &format!("{{hosts: ['{host}'], gateways: [shop/edge], http: [{}]}}", http.join(", ")))
        };
        let text = [
            object("Gateway", "shop", "edge", server),
            bound("shop", "one", "shop.com", &["/a", ""]),
            bound("shop", "two", "shop.com", &["/b", ""]),
            bound("shop", "wild", "*.com", &["/c"]),
            bound("shop", "foreign", "x.team.com", &["/d"]),
            bound("team", "ours", "x.team.com", &["/e"]),
            bound("shop", "elsewhere", "other.org", &["/f"]),
        ];
        let effective = of(&text.concat());
        let gateway = effective.set().named::<Gateway>("shop", "edge").expect("there");
        let client = RouteClient { gateway: "shop/edge", namespace: "istio-system", labels: &Labels::new(), port: 80 };
        let hosts = effective.gateway_hosts(gateway, 0, &client);
        let shown: Vec<(String, Vec<String>)> = hosts
            .into_iter()
            .map(|host| {
                let names = host.routes.iter().map(|r| {
                    let (item, _, condition) = effective.route(*r);
                    format!("{}{}", item.name(), if condition.is_some() { "" } else { " *" })
                });
                (host.host, names.collect())
            })
            .collect();
        let want = [("shop.com", vec!["one", "two", "wild", "one *"]), ("x.team.com", vec!["ours"])];
        assert_eq!(shown, want.map(|(host, names)| (host.to_owned(), names.into_iter().map(str::to_owned).collect::<Vec<_>>())));
    }

    #[test]
    fn hosts_without_a_service_are_listed_and_wildcards_only_when_they_cover_none() {
        let text = [
            object("Service", "shop", "reviews", "{ports: [{port: 80, name: http}]}"),
            vs("shop", "a", "hosts: [reviews, example.com]"),
            vs("shop", "b", "hosts: ['*.shop.svc.cluster.local', '*.example.org']"),
            vs("shop", "c", "hosts: [private.com], exportTo: ['.']"),
            object("Service", "web", "hidden", "{ports: [{port: 80, name: http}]}")
                .replace("namespace: web", "namespace: web, annotations: {networking.istio.io/exportTo: '.'}"),
            vs("web", "d", "hosts: [hidden, '*.web.svc.cluster.local']"),
        ];
        let effective = of(&text.concat());
        let hosts = |client: &str| {
            effective.unregistered_hosts(client).into_iter().map(|(host, v)| (host.to_owned(), v.name().to_owned())).collect::<Vec<_>>()
        };
        let own = |list: &[(&str, &str)]| list.iter().map(|(h, v)| ((*h).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        // Who does not see a service has only the VirtualService's word for its host.
        let hidden = [("example.com", "a"), ("hidden.web.svc.cluster.local", "d")];
        let wild = [("*.web.svc.cluster.local", "d"), ("*.example.org", "b")];
        assert_eq!(hosts("shop"), own(&[&hidden[..], &[("private.com", "c")], &wild].concat()));
        assert_eq!(hosts("team"), own(&[&hidden[..], &wild].concat()));
        assert_eq!(hosts("web"), own(&[("example.com", "a"), ("*.example.org", "b")]));
    }

    #[test]
    fn a_delegate_has_no_hosts_of_its_own_and_its_rules_stand_in_the_place_of_the_roots() {
        let text = [
            object(
                "VirtualService",
                "shop",
                "root",
                "{hosts: [a], http: [{match: [{uri: {prefix: /x}}], delegate: {name: leaf}}, {route: [{destination: {host: a}}]}]}",
            ),
            object("VirtualService", "shop", "leaf", "{http: [{route: [{destination: {host: a}}]}]}"),
        ];
        let effective = of(&text.concat());
        let item = effective.virtual_service("shop", "a.shop.svc.cluster.local").expect("the root");
        let client = RouteClient { gateway: MESH, namespace: "shop", labels: &Labels::new(), port: 80 };
        let routes = effective.http_routes(item, &client);
        let uris: Vec<bool> = routes.iter().map(|route| effective.route(*route).2.is_some_and(|c| c.uri.is_some())).collect();
        assert_eq!(uris, [true, false]);
    }
}
