//! What a request is answered with, read off the YAML: slow, in the order of the rules, without any of the mesh's own code but its kinds.
//!
//! In:  the objects of a world, a client, a request.
//! Out: the rule that takes the request, and what follows.

use std::{cell::RefCell, collections::HashMap};

use pillion_api::{
    kinds::{
        DestinationRule, Service, ServiceEntry, VirtualService,
        virtual_service::{Destination, HttpMatchRequest, HttpRedirect, HttpRoute, RedirectPortSelection},
    },
    meta::Labels,
    set::{ObjectSet, Of},
    string_match::StringMatch,
};
use regex::bytes::Regex;

pub const ROOT: &str = "istio-system";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub namespace: &'static str,
    pub labels: Labels,
}

/// Where the request arrives at the client's proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The explicit proxy: the authority's port counts, and is 80 when missing.
    Explicit,
    /// A connection to this service port.
    Port(u32),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub door: Door,
    pub method: String,
    /// Only the explicit proxy is told one.
    pub scheme: &'static str,
    pub authority: String,
    /// As sent, not normal.
    pub path: String,
    pub query: Option<String>,
    /// One per line, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `namespace/name#rule.match` (`#rule` without match entries), `default`, `allow_any`; empty when nothing took it.
    pub by: String,
    pub then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// 404.
    NoRoute,
    /// To the original destination, or wherever the name leads.
    Passthrough,
    Forward {
        /// Cluster and weight; a cluster that does not exist answers 503 `NC`.
        clusters: Vec<(String, u64)>,
        missing: Vec<String>,
        path: String,
        authority: String,
    },
    Redirect {
        status: u16,
        location: String,
    },
    Direct {
        status: u16,
        body: Vec<u8>,
    },
}

/// A condition of a match entry, for counting.
pub type Kind = &'static str;

pub fn expand(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    if host.contains('.') || host == "*" { host.to_owned() } else { format!("{host}.{namespace}.svc.cluster.local") }
}

fn stands_for(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(tail) => host.trim_start_matches('*').ends_with(tail) && host.len() >= pattern.len(),
        None => pattern == host,
    }
}

/// Exact hosts before wildcards, longer wildcards before shorter ones.
fn specificity(pattern: &str) -> usize {
    if pattern.starts_with('*') { pattern.len() } else { usize::MAX }
}

/// 0: to its own namespace alone, 1: by name, 2: to all; `None`: not at all.
fn reach(export_to: &[String], own: &str, client: &str) -> Option<u8> {
    if export_to.is_empty() || export_to.iter().any(|to| to == "*") {
        return Some(2);
    }
    let named = export_to.iter().any(|to| to == client || (to == "." && own == client));
    named.then_some(u8::from(own != client))
}

/// A host of the registry.
struct Registered {
    host: String,
    namespace: String,
    ports: Vec<(u32, bool)>,
    /// Address, when the YAML has one.
    address: Option<String>,
    headless: bool,
    cluster: bool,
}

fn registry(set: &ObjectSet, client: &str) -> Vec<Registered> {
    let mut all = Vec::new();
    for item in set.of::<Service>() {
        let exported = item.object.meta.annotations.get("networking.istio.io/exportTo");
        let exported: Vec<String> = exported.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        if reach(&exported, item.namespace(), client).is_none() {
            continue;
        }
        let http = |name: &str| matches!(name.split('-').next(), Some("http" | "http2" | "grpc"));
        all.push(Registered {
            host: format!("{}.{}.svc.cluster.local", item.name(), item.namespace()),
            namespace: item.namespace().to_owned(),
            ports: item.spec.ports.iter().map(|port| (port.port, http(&port.name))).collect(),
            address: (item.spec.cluster_ip != "None").then(|| item.spec.cluster_ip.clone()),
            headless: item.spec.cluster_ip == "None",
            cluster: true,
        });
    }
    for item in set.of::<ServiceEntry>().filter(|item| reach(&item.spec.export_to, item.namespace(), client).is_some()) {
        for host in &item.spec.hosts {
            all.push(Registered {
                host: host.clone(),
                namespace: item.namespace().to_owned(),
                ports: item.spec.ports.iter().map(|port| (port.number, port.protocol == "HTTP")).collect(),
                address: None,
                headless: false,
                cluster: false,
            });
        }
    }
    all
}

/// A set of names with routes behind it: a service on a port, or a host that only VirtualServices know.
struct Site<'a> {
    /// With `*` in front for wildcards.
    names: Vec<String>,
    host: String,
    port: u32,
    service: bool,
    routes: Vec<Entry<'a>>,
}

/// A rule and one of its match entries.
#[derive(Clone, Copy)]
struct Entry<'a> {
    item: Of<'a, VirtualService>,
    rule: usize,
    condition: Option<usize>,
}

impl<'a> Entry<'a> {
    fn rule(&self) -> &'a HttpRoute {
        &self.item.spec.http[self.rule]
    }

    fn condition(&self) -> Option<&'a HttpMatchRequest> {
        self.condition.map(|at| &self.rule().r#match[at])
    }
}

/// One client's view of a world.
pub struct Reference<'a> {
    set: &'a ObjectSet,
    client: &'a Client,
    registry: Vec<Registered>,
    sites: Vec<Site<'a>>,
}

impl<'a> Reference<'a> {
    pub fn new(set: &'a ObjectSet, client: &'a Client) -> Self {
        let mut all = Self { set, client, registry: registry(set, client.namespace), sites: Vec::new() };
        all.sites = all.find_sites();
        all
    }

    fn find_sites(&self) -> Vec<Site<'a>> {
        let mut sites = Vec::new();
        for host in self.unregistered() {
            let routes = self.routes_of(&host, 80);
            if !routes.is_empty() {
                sites.push(Site { names: vec![host.clone()], host, port: 80, service: false, routes });
            }
        }
        for service in &self.registry {
            for (port, _) in service.ports.iter().filter(|(_, http)| *http) {
                let routes = self.routes_of(&service.host, *port);
                sites.push(Site { names: self.names_of(service), host: service.host.clone(), port: *port, service: true, routes });
            }
        }
        sites
    }

    fn names_of(&self, service: &Registered) -> Vec<String> {
        let mut names = vec![service.host.clone()];
        if !service.host.starts_with('*') {
            names.push(format!("{}.", service.host));
        }
        if service.cluster {
            let name = service.host.split('.').next().unwrap_or_default();
            names.push(format!("{name}.{}.svc", service.namespace));
            names.push(format!("{name}.{}", service.namespace));
            if service.namespace == self.client.namespace {
                names.push(name.to_owned());
            }
        }
        if service.headless {
            let below: Vec<String> = names.iter().map(|name| format!("*.{name}")).collect();
            names.extend(below);
        }
        names.extend(service.address.clone());
        names
    }

    /// VirtualServices for sidecars that the client sees, with one of their hosts, the ones to ask first in front.
    fn in_mesh(&self) -> Vec<(u8, String, Of<'a, VirtualService>)> {
        let mut all = Vec::new();
        for item in self.set.of::<VirtualService>() {
            let in_mesh = item.spec.gateways.is_empty() || item.spec.gateways.iter().any(|gateway| gateway == "mesh");
            let Some(reach) = reach(&item.spec.export_to, item.namespace(), self.client.namespace).filter(|_| in_mesh) else { continue };
            all.extend(item.spec.hosts.iter().map(|host| (reach, expand(host, item.namespace()), item)));
        }
        all.sort_by_key(|(reach, ..)| *reach); // stable: the oldest stays in front
        all
    }

    /// Hosts of VirtualServices that stand for no service that the client sees.
    fn unregistered(&self) -> Vec<String> {
        let mut hosts: Vec<String> = self.in_mesh().into_iter().map(|(_, host, _)| host).collect();
        hosts.retain(|host| !self.registry.iter().any(|service| stands_for(host, &service.host)));
        hosts.sort();
        hosts.dedup();
        hosts
    }

    /// The routes of the one VirtualService that counts for a host. Of several that have this very host, the first with any route for this client
    /// counts: one without any makes no virtual host in Istio, and so takes none away. Source: `buildSidecarVirtualHostsForVirtualService`.
    fn routes_of(&self, host: &str, port: u32) -> Vec<Entry<'a>> {
        let all = self.in_mesh();
        let fitting = all.iter().filter(|(_, pattern, _)| stands_for(pattern, host));
        let Some(best) = fitting.map(|(_, pattern, _)| pattern).max_by_key(|pattern| specificity(pattern)) else { return Vec::new() };
        let mut of_best = all.iter().filter(|(_, pattern, _)| pattern == best).map(|(.., item)| self.entries(*item, port));
        if best == host { of_best.find(|entries| !entries.is_empty()).unwrap_or_default() } else { of_best.next().unwrap_or_default() }
    }

    fn entries(&self, item: Of<'a, VirtualService>, port: u32) -> Vec<Entry<'a>> {
        let mut entries = Vec::new();
        for (rule, route) in item.spec.http.iter().enumerate() {
            if route.r#match.is_empty() {
                entries.push(Entry { item, rule, condition: None });
            }
            for (at, condition) in route.r#match.iter().enumerate() {
                if source_conditions(condition, self.client, port).iter().all(|(_, fulfilled)| *fulfilled) {
                    entries.push(Entry { item, rule, condition: Some(at) });
                }
            }
        }
        entries
    }

    fn site(&self, request: &Request) -> Option<&Site<'a>> {
        let authority = request.authority.to_ascii_lowercase();
        let (name, written) = match authority.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().unwrap_or(0)),
            None => (authority.as_str(), 80),
        };
        let port = match request.door {
            Door::Explicit => written,
            Door::Port(port) => port,
        };
        let mut best: Option<(&Site<'a>, usize)> = None;
        for site in self.sites.iter().filter(|site| site.port == port) {
            for pattern in site.names.iter().filter(|pattern| stands_for(pattern, name)) {
                let rank = specificity(pattern);
                if best.is_none_or(|(_, before)| rank > before) {
                    best = Some((site, rank));
                }
            }
        }
        best.map(|(site, _)| site)
    }

    pub fn decide(&self, request: &Request) -> Verdict {
        let path = normal(&request.path);
        let Some(site) = self.site(request) else {
            return Verdict { by: "allow_any".into(), then: Then::Passthrough };
        };
        let forward = |clusters: Vec<(String, u64)>, path: String, authority: String| {
            let missing = clusters.iter().map(|(name, _)| name).filter(|name| !self.exists(name)).cloned().collect();
            Then::Forward { clusters, missing, path, authority }
        };
        if site.routes.is_empty() && site.service {
            let clusters = vec![(format!("outbound|{}||{}", site.port, site.host), 1)];
            return Verdict { by: "default".into(), then: forward(clusters, with_query(path, request), request.authority.clone()) };
        }
        let takes = |entry: &&Entry<'_>| entry.condition().is_none_or(|c| request_conditions(c, request).iter().all(|(_, yes)| *yes));
        let Some(entry) = site.routes.iter().find(takes) else {
            return Verdict { by: String::new(), then: Then::NoRoute };
        };
        let rule = entry.rule();
        let uri = entry.condition().and_then(|condition| condition.uri.as_ref());
        let then = if let Some(redirect) = &rule.redirect {
            let location = location(redirect, uri, &path, request, site.port);
            Then::Redirect { status: if redirect.redirect_code == 0 { 301 } else { redirect.redirect_code as u16 }, location }
        } else if let Some(direct) = &rule.direct_response {
            let text = direct.body.as_ref().and_then(|body| body.string.clone()).unwrap_or_default();
            Then::Direct { status: direct.status as u16, body: text.into_bytes() }
        } else {
            let rewrite = rule.rewrite.as_ref();
            let prefix = rewrite.map(|rewrite| rewrite.uri.as_str()).filter(|uri| !uri.is_empty());
            let path = prefix.map_or_else(|| path.clone(), |prefix| format!("{prefix}{}", after_match(uri, &path)));
            let asked = rule.headers.as_ref().and_then(|headers| headers.request.as_ref()?.set.get("host"));
            let authority = rewrite.map(|rewrite| &rewrite.authority).filter(|authority| !authority.is_empty());
            let authority = authority.or(asked).unwrap_or(&request.authority).clone();
            forward(self.clusters(entry, site.port), with_query(path, request), authority)
        };
        let at = entry.condition.map_or(String::new(), |at| format!(".{at}"));
        Verdict { by: format!("{}/{}#{}{at}", entry.item.namespace(), entry.item.name(), entry.rule), then }
    }

    /// Several destinations by weight, those of weight 0 left out; of a single one the weight does not count.
    fn clusters(&self, entry: &Entry<'_>, port: u32) -> Vec<(String, u64)> {
        let all = &entry.rule().route;
        let single = all.len() == 1;
        let drawn = all.iter().filter(|to| single || to.weight > 0);
        let weight = |weight: i32| if single { 1 } else { weight as u64 };
        let destination = |to: &Option<Destination>| to.clone().unwrap_or_default();
        drawn.map(|to| (self.cluster(&destination(&to.destination), entry.item.namespace(), port), weight(to.weight))).collect()
    }

    fn cluster(&self, to: &Destination, namespace: &str, arrived: u32) -> String {
        let host = expand(&to.host, namespace);
        let port = match (&to.port, self.registry.iter().find(|service| service.host == host)) {
            (Some(port), _) => port.number,
            (None, Some(service)) if service.ports.len() == 1 => service.ports[0].0,
            (None, _) => arrived,
        };
        format!("outbound|{port}|{}|{host}", to.subset)
    }

    fn exists(&self, cluster: &str) -> bool {
        let [_, port, subset, host] = cluster.split('|').collect::<Vec<_>>()[..] else { return false };
        let Some(service) = self.registry.iter().find(|service| service.host == host) else { return false };
        let port = service.ports.iter().any(|(number, _)| number.to_string() == port);
        port && (subset.is_empty() || self.subsets(service).iter().any(|name| name == subset))
    }

    /// Of the client's namespace, else the service's, else the root's: the first with a rule for the host; there the most specific host, and of its
    /// rules those that are exported like the oldest one.
    fn subsets(&self, service: &Registered) -> Vec<String> {
        for owner in [self.client.namespace, &service.namespace, ROOT] {
            let seen: Vec<(String, Of<'_, DestinationRule>)> = self
                .set
                .of::<DestinationRule>()
                .filter(|item| item.namespace() == owner && reach(&item.spec.export_to, owner, self.client.namespace).is_some())
                .map(|item| (expand(&item.spec.host, owner), item))
                .filter(|(pattern, _)| stands_for(pattern, &service.host))
                .collect();
            let Some(rank) = seen.iter().map(|(pattern, _)| specificity(pattern)).max() else { continue };
            let mut best = seen.iter().filter(|(pattern, _)| specificity(pattern) == rank).map(|(_, item)| item);
            let exported = |item: &Of<'_, DestinationRule>| {
                let mut to = item.spec.export_to.iter().map(|to| if to == "." { owner } else { to }.to_owned()).collect::<Vec<_>>();
                to.sort();
                if to.is_empty() { vec!["*".to_owned()] } else { to }
            };
            let Some(oldest) = best.next() else { continue };
            let alike = best.filter(|item| exported(item) == exported(oldest));
            return std::iter::once(oldest).chain(alike).flat_map(|item| &item.spec.subsets).map(|subset| subset.name.clone()).collect();
        }
        Vec::new()
    }
}

/// Conditions on the client and the port, with the answers.
pub fn source_conditions(condition: &HttpMatchRequest, client: &Client, port: u32) -> Vec<(Kind, bool)> {
    let mut found = Vec::new();
    if condition.port != 0 {
        found.push(("port", condition.port == port));
    }
    if !condition.gateways.is_empty() {
        found.push(("gateways", condition.gateways.iter().any(|gateway| gateway == "mesh")));
        return found;
    }
    if !condition.source_labels.is_empty() {
        let has = condition.source_labels.iter().all(|(key, value)| client.labels.get(key) == Some(value));
        found.push(("sourceLabels", has));
    }
    if !condition.source_namespace.is_empty() {
        found.push(("sourceNamespace", condition.source_namespace == client.namespace));
    }
    found
}

/// Conditions on the request, with the answers.
pub fn request_conditions(condition: &HttpMatchRequest, request: &Request) -> Vec<(Kind, bool)> {
    let mut found = Vec::new();
    let path = normal(&request.path);
    if let Some(uri) = &condition.uri {
        let kind = match (uri, condition.ignore_uri_case) {
            (StringMatch::Exact(_), false) => "uri exact",
            (StringMatch::Exact(_), true) => "uri exact, any case",
            (StringMatch::Prefix(_), false) => "uri prefix",
            (StringMatch::Prefix(_), true) => "uri prefix, any case",
            (StringMatch::Regex(_), false) => "uri regex",
            (StringMatch::Regex(_), true) => "uri regex, any case",
            (StringMatch::Present, _) => "uri present",
        };
        let fold = |text: &str| if condition.ignore_uri_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let fulfilled = match uri {
            StringMatch::Exact(text) => fold(&path) == fold(text),
            StringMatch::Prefix(text) => fold(&path).starts_with(&fold(text)),
            StringMatch::Regex(pattern) => full_match(pattern, &path),
            StringMatch::Present => true,
        };
        found.push((kind, fulfilled));
    }
    let texts = [
        ("method", &condition.method, request.method.as_str()),
        ("scheme", &condition.scheme, request.scheme),
        ("authority", &condition.authority, request.authority.as_str()),
    ];
    found.extend(texts.into_iter().filter_map(|(kind, wanted, text)| Some((kind, fits(wanted.as_ref()?, text)))));
    let own = |name: &&String| ["uri", "scheme", "method", "authority"].contains(&name.as_str());
    for (name, wanted) in condition.headers.iter().filter(|(name, _)| !own(name)) {
        let kind = ["header exact", "header prefix", "header regex", "header present"][form(wanted)];
        found.push((kind, header(request, name).any(|value| fits(wanted, value))));
    }
    for (name, wanted) in condition.without_headers.iter().filter(|(name, _)| !own(name)) {
        let kind = ["without exact", "without prefix", "without regex", "without present"][form(wanted)];
        let missing = header(request, name).next().is_none();
        let found_it = header(request, name).any(|value| fits(wanted, value)) || (missing && !wanted.is_presence() && fits(wanted, ""));
        found.push((kind, !found_it));
    }
    for (name, wanted) in &condition.query_params {
        let empty = matches!(wanted, StringMatch::Exact(text) if text.is_empty());
        let kind = if empty { "query empty" } else { ["query exact", "query prefix", "query regex", "query present"][form(wanted)] };
        found.push((kind, parameter(request, name).is_some_and(|value| fits(wanted, value))));
    }
    found
}

fn form(wanted: &StringMatch) -> usize {
    match wanted {
        _ if wanted.is_presence() => 3,
        StringMatch::Exact(_) => 0,
        StringMatch::Prefix(_) => 1,
        StringMatch::Regex(_) | StringMatch::Present => 2,
    }
}

fn fits(wanted: &StringMatch, text: &str) -> bool {
    match wanted {
        _ if wanted.is_presence() => true,
        StringMatch::Exact(exact) => text == exact,
        StringMatch::Prefix(prefix) => text.starts_with(prefix.as_str()),
        StringMatch::Regex(pattern) => full_match(pattern, text),
        StringMatch::Present => true,
    }
}

/// The whole text, in ASCII classes, as RE2.
pub fn full_match(pattern: &str, text: &str) -> bool {
    thread_local!(static BUILT: RefCell<HashMap<String, Regex>> = RefCell::default());
    BUILT.with_borrow_mut(|built| {
        let regex = built.entry(pattern.to_owned()).or_insert_with(|| {
            regex::bytes::RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
                .unicode(false)
                .build()
                .expect("the generator writes expressions")
        });
        regex.is_match(text.as_bytes())
    })
}

/// All lines of a header: each is looked at by itself.
fn header<'r>(request: &'r Request, name: &str) -> impl Iterator<Item = &'r str> {
    request.headers.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
}

/// The value of the first parameter of a name, undecoded; empty without `=`.
fn parameter<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    let pairs = request.query.as_deref()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn with_query(path: String, request: &Request) -> String {
    match &request.query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

/// What is left of the path after the part that the match took: after the prefix, or nothing.
fn after_match<'p>(uri: Option<&StringMatch>, path: &'p str) -> &'p str {
    match uri {
        None | Some(StringMatch::Present) => &path[1..],
        Some(StringMatch::Prefix(prefix)) => &path[prefix.len()..],
        Some(StringMatch::Exact(_) | StringMatch::Regex(_)) => "",
    }
}

fn location(redirect: &HttpRedirect, uri: Option<&StringMatch>, path: &str, request: &Request, arrived: u32) -> String {
    let scheme = if redirect.scheme.is_empty() { request.scheme } else { &redirect.scheme };
    let mut port = match (redirect.port, redirect.derive_port) {
        (Some(port), _) => Some(port),
        (None, Some(RedirectPortSelection::FromRequestPort)) => Some(arrived),
        (None, _) => None,
    };
    // The control plane knows of no other scheme than the rule's, and a sidecar's listener has no TLS.
    let default = if redirect.scheme == "https" { 443 } else { 80 };
    port = port.filter(|port| *port != default);
    let bare = request.authority.rsplit_once(':').map_or(&*request.authority, |(name, _)| name);
    // The clients here speak plaintext to their sidecar: `x-forwarded-proto` is `http`, and 80 goes when the scheme becomes another.
    let was_default = scheme != "http" && request.authority.ends_with(":80");
    let host = if !redirect.authority.is_empty() {
        &redirect.authority
    } else if port.is_some() || was_default {
        bare
    } else {
        &request.authority
    };
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    let path = if !redirect.uri.is_empty() {
        redirect.uri.clone()
    } else if !redirect.prefix_rewrite.is_empty() {
        format!("{}{}", redirect.prefix_rewrite, after_match(uri, path))
    } else {
        path.to_owned()
    };
    let path = if redirect.uri.contains('?') { path } else { with_query(path, request) };
    format!("{scheme}://{host}{port}{path}")
}

/// RFC 3986, section 6.2.2, and `\` as `/`: what `pathNormalization: BASE` asks for. Only paths that the generator makes: no NUL, no stray `%`.
pub fn normal(path: &str) -> String {
    let path = path.replace('\\', "/");
    let mut decoded = String::new();
    let mut rest = path.as_str();
    while let Some(character) = rest.chars().next() {
        let escape = rest.get(1..3).filter(|_| character == '%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escape.map(char::from) {
            Some(plain) if plain.is_ascii_alphanumeric() || "-._~".contains(plain) => {
                decoded.push(plain);
                rest = &rest[3..];
            }
            _ => {
                decoded.push(character);
                rest = &rest[1..];
            }
        }
    }
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = decoded.split('/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if at + 1 == segments.len() {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}
