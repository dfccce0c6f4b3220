//! Requests that aim at a generated rule, and near misses of it.
//!
//! In:  a world's objects, a random source.
//! Out: a client, a request, the match entry it aims at.

use fastrand::Rng;
use pillion_api::{
    kinds::{Service, VirtualService, virtual_service::HttpMatchRequest},
    set::{ObjectSet, Of},
    string_match::StringMatch,
};

use crate::{
    generate::{pick, sample},
    interpret::{Client, Door, Request, expand},
};

/// A request and whom it comes from.
pub struct Shot {
    /// Position among the clients.
    pub client: usize,
    pub request: Request,
    /// The match entry it aims at; `None` for a rule without.
    pub aim: Option<HttpMatchRequest>,
    pub near_miss: bool,
}

pub fn shoot(random: &mut Rng, set: &ObjectSet, clients: &[Client]) -> Shot {
    let all: Vec<Of<'_, VirtualService>> = set.of::<VirtualService>().collect();
    let item = all[random.usize(..all.len())];
    let rule = &item.spec.http[random.usize(..item.spec.http.len())];
    let aim = (!rule.r#match.is_empty()).then(|| rule.r#match[random.usize(..rule.r#match.len())].clone());
    let condition = aim.clone().unwrap_or_default();
    let client = client(random, &condition, clients);
    let mut shot = Shot { client, request: hit(random, set, item, &condition, &clients[client]), aim, near_miss: random.bool() };
    if shot.near_miss {
        miss(random, &condition, &mut shot, clients.len());
    }
    shot
}

fn client(random: &mut Rng, condition: &HttpMatchRequest, clients: &[Client]) -> usize {
    let fits = |client: &Client| {
        (condition.source_namespace.is_empty() || condition.source_namespace == client.namespace)
            && condition.source_labels.iter().all(|(key, value)| client.labels.get(key) == Some(value))
    };
    let fitting: Vec<usize> = (0..clients.len()).filter(|at| fits(&clients[*at])).collect();
    if fitting.is_empty() { random.usize(..clients.len()) } else { fitting[random.usize(..fitting.len())] }
}

/// One that fulfils the entry.
fn hit(random: &mut Rng, set: &ObjectSet, item: Of<'_, VirtualService>, condition: &HttpMatchRequest, client: &Client) -> Request {
    let written = &item.spec.hosts[random.usize(..item.spec.hosts.len())];
    let (mut name, ports) = called(random, set, &expand(written, item.namespace()), client);
    let port = match condition.port {
        0 => ports[random.usize(..ports.len())],
        port => port,
    };
    let door = if random.bool() { Door::Explicit } else { Door::Port(port) };
    if port != 80 && door == Door::Explicit || random.u8(..4) == 0 {
        name = format!("{name}:{port}");
    }
    if let Some(authority) = &condition.authority {
        let wanted = sample(random, authority).replace('/', ".");
        if !name.starts_with(&wanted) || matches!(authority, StringMatch::Exact(_)) {
            name = wanted;
        }
    }
    let text =
        |random: &mut Rng, wanted: &Option<StringMatch>, usual: &str| wanted.as_ref().map_or(usual.to_owned(), |w| sample(random, w));
    let mut path = match &condition.uri {
        Some(uri) => sample(random, uri),
        None => pick(random, &["/", "/api", "/api/v1/items/7", "/static/app.js", "/elsewhere"]).to_owned(),
    };
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    if condition.ignore_uri_case && random.bool() {
        path = swap_case(&path);
    }
    let https = condition.scheme.as_ref().is_some_and(|wanted| sample(random, wanted).starts_with("https"));
    let mut request = Request {
        door,
        method: text(random, &condition.method, "GET").replace('/', "-"),
        scheme: if https && door == Door::Explicit { "https" } else { "http" },
        authority: name,
        path,
        query: None,
        headers: condition.headers.iter().map(|(name, wanted)| (name.to_ascii_lowercase(), sample(random, wanted))).collect(),
    };
    let mut pairs = Vec::new();
    for (name, wanted) in &condition.query_params {
        let value = sample(random, wanted);
        pairs.push(pair(random, name, &value));
    }
    request.query = (!pairs.is_empty()).then(|| pairs.join("&")).or_else(|| (random.u8(..4) == 0).then(|| "q=1&page=2".to_owned()));
    request
}

fn pair(random: &mut Rng, name: &str, value: &str) -> String {
    if value.is_empty() && random.bool() { name.to_owned() } else { format!("{name}={}", value.replace(' ', "+")) }
}

/// A spelling of a host, and the ports it has.
fn called(random: &mut Rng, set: &ObjectSet, host: &str, client: &Client) -> (String, Vec<u32>) {
    let service = |item: &Of<'_, Service>| format!("{}.{}.svc.cluster.local", item.name(), item.namespace());
    let covered = |item: &Of<'_, Service>| {
        let name = service(item);
        host.strip_prefix('*').map_or(name == host, |tail| name.ends_with(tail))
    };
    let behind: Vec<Of<'_, Service>> = set.of::<Service>().filter(covered).collect();
    let (name, ports) = if behind.is_empty() || random.u8(..10) == 0 {
        (host.replacen('*', pick(random, &["a", "a.b", "reviews"]), 1), vec![80])
    } else {
        let item = behind[random.usize(..behind.len())];
        let (name, namespace) = (item.name(), item.namespace());
        let short = if namespace == client.namespace || random.u8(..10) == 0 { name.to_owned() } else { format!("{name}.{namespace}") };
        let spelled = match random.u8(..8) {
            0 => format!("{name}.{namespace}"),
            1 => format!("{name}.{namespace}.svc"),
            2 => service(&item),
            3 => format!("{}.", service(&item)),
            4 if item.spec.cluster_ip != "None" => item.spec.cluster_ip.clone(),
            4 => format!("db-0.{short}"),
            _ => short,
        };
        (spelled, item.spec.ports.iter().map(|port| port.port).collect())
    };
    let name = if random.u8(..8) == 0 { name.to_ascii_uppercase() } else { name };
    // Port 80 is there even where no service has it; a table for another port is there only with a service.
    (name, if ports.is_empty() { vec![80] } else { ports })
}

pub fn swap_case(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() }).collect()
}

/// Change one thing.
fn miss(random: &mut Rng, condition: &HttpMatchRequest, shot: &mut Shot, clients: usize) {
    let request = &mut shot.request;
    let mut things = vec!["path", "authority"];
    if condition.uri.is_some() {
        things.extend(["path"; 3]);
    }
    things.extend((condition.method.is_some()).then_some("method"));
    things.extend((condition.scheme.is_some()).then_some("scheme"));
    if condition.authority.is_some() {
        things.extend(["authority"; 2]);
    }
    if !condition.headers.is_empty() {
        things.extend(["header"; 4]);
    }
    if !condition.without_headers.is_empty() {
        things.extend(["without"; 4]);
    }
    if !condition.query_params.is_empty() {
        things.extend(["query"; 4]);
    }
    if !condition.source_labels.is_empty() || !condition.source_namespace.is_empty() {
        things.extend(["client"; 3]);
    }
    things.extend((condition.port != 0).then_some("port"));
    match pick(random, &things) {
        "path" => request.path = other_path(random, &request.path),
        "authority" => request.authority = other_authority(random, &request.authority),
        "method" => request.method = pick(random, &["get", "PUT", "HEAD", "GETS"]).to_owned(),
        "scheme" => {
            if request.door == Door::Explicit {
                request.scheme = if request.scheme == "http" { "https" } else { "http" };
            }
        }
        "header" => other_header(random, condition, request),
        "without" => {
            let all: Vec<_> = condition.without_headers.iter().collect();
            let (name, wanted) = all[random.usize(..all.len())];
            let value = sample(random, wanted);
            request.headers.push((name.to_ascii_lowercase(), if random.u8(..3) == 0 { swap_case(&value) } else { value }));
        }
        "query" => other_query(random, request),
        "client" => shot.client = (shot.client + 1 + random.usize(..clients - 1)) % clients,
        _ => {
            if let Door::Port(port) = &mut request.door {
                *port = if *port == 80 { 8080 } else { 80 };
            } else {
                let bare = request.authority.split(':').next().unwrap_or_default().to_owned();
                request.authority = format!("{bare}:{}", pick(random, &[&80, &8080, &9080]));
            }
        }
    }
}

fn other_path(random: &mut Rng, path: &str) -> String {
    let letter = path.find(|c: char| c.is_ascii_alphabetic());
    match random.u8(..14) {
        10.. => format!("/x{}", &path[1..]),
        0 => swap_case(path),
        1 => format!("{path}/"),
        2 => format!("{path}x"),
        3 if path.len() > 1 => path[..path.len() - 1].to_owned(),
        4 => format!("/x/..{path}"),
        5 => format!("/.{path}"),
        6 => format!("{path}%2Fx"),
        7 => format!("/{path}"),
        8 => format!("/{}", path[1..].replace('/', "\\")),
        _ => match letter {
            // An escaped letter is that letter.
            Some(at) => format!("{}%{:02X}{}", &path[..at], path.as_bytes()[at], &path[at + 1..]),
            None => format!("{path}?").trim_end_matches('?').to_owned() + "/.",
        },
    }
}

fn other_authority(random: &mut Rng, authority: &str) -> String {
    let (name, port) = authority.split_once(':').map_or((authority, None), |(name, port)| (name, Some(port)));
    let joined = |name: &str| port.map_or(name.to_owned(), |port| format!("{name}:{port}"));
    match random.u8(..7) {
        0 => joined(&swap_case(name)),
        1 if !name.ends_with('.') => joined(&format!("{name}.")),
        2 => joined(&format!("x{name}")),
        3 => joined(&format!("x.{name}")),
        4 if port.is_some() => name.to_owned(),
        5 => format!("{name}:80"),
        _ => format!("{name}:8080"),
    }
}

fn other_header(random: &mut Rng, condition: &HttpMatchRequest, request: &mut Request) {
    let names: Vec<String> = condition.headers.keys().map(|name| name.to_ascii_lowercase()).collect();
    let name = &names[random.usize(..names.len())];
    let Some(at) = request.headers.iter().position(|(own, _)| own == name) else { return };
    let value = request.headers[at].1.clone();
    match random.u8(..7) {
        0 | 1 => drop(request.headers.remove(at)),
        2 => request.headers[at].1 = swap_case(&value),
        3 => request.headers[at].1 = format!("{value}x"),
        4 => request.headers[at].1.clear(),
        5 => request.headers.push((name.clone(), "more".to_owned())),
        // Two lines that together are the value, or not.
        _ => {
            let (first, second) = value.split_once(',').unwrap_or((&value, ""));
            let (first, second) = (first.to_owned(), second.to_owned());
            request.headers[at].1 = first;
            request.headers.push((name.clone(), second));
        }
    }
}

fn other_query(random: &mut Rng, request: &mut Request) {
    let query = request.query.clone().unwrap_or_default();
    let first = query.split(['=', '&']).next().unwrap_or_default();
    request.query = match random.u8(..8) {
        0 => None,
        1 => Some(swap_case(&query)),
        2 => Some(format!("{query}x")),
        3 => Some(format!("{first}=other&{query}")),
        4 => Some(format!("{query}&{first}=other")),
        5 => Some(format!("x{query}")),
        6 => Some(query.replacen(first, &format!("%{:02x}{}", first.bytes().next().unwrap_or(b'a'), first.get(1..).unwrap_or("")), 1)),
        _ => Some(first.to_owned()),
    };
}
