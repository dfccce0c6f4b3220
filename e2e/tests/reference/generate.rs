//! Small worlds of YAML whose rules contradict, overlap and shadow each other.
//!
//! In:  a random source.
//! Out: YAML; and samples that satisfy what was generated.

use std::fmt::Write;

use fastrand::Rng;
use pillion_api::string_match::StringMatch;

use crate::interpret::{Client, ROOT};

pub const NAMESPACES: [&str; 3] = ["shop", "team", "web"];
pub const SERVICES: [&str; 4] = ["reviews", "ratings", "carts", "db"];
const SUBSETS: [&str; 4] = ["v1", "v2", "canary", "nobody"];
const PORTS: [u32; 3] = [80, 8080, 9080];
const URIS: [&str; 9] = ["/", "/api", "/api/", "/api/v1/items", "/Health", "/static", "/items/42", "/a-b_c.d~e", "/x%20y"];
/// Expressions and what they match.
pub const REGEXES: [(&str, &str); 9] = [
    ("/api/v[0-9]+/.*", "/api/v2/x"),
    (r"/items/\d+", "/items/42"),
    (".*", "/anything"),
    ("/(a|b)/c?", "/a/"),
    ("(?i)/mixed", "/MiXed"),
    ("/api|/static", "/static"),
    (r"[^/]+", "gold"),
    (r"v\d(\.\d+)*", "v1.10"),
    ("gold|silver,bronze", "silver,bronze"),
];
const VALUES: [&str; 5] = ["gold", "Gold", "silver,bronze", "v1", "a b"];
pub const HEADERS: [&str; 5] = ["x-user", "X-Tier", "x-flag", "end-user", "uri"];
pub const PARAMETERS: [&str; 4] = ["debug", "Debug", "q", "page"];
const METHODS: [&str; 5] = ["GET", "POST", "DELETE", "PATCH", "get"];

pub fn pick<'a, T: ?Sized>(random: &mut Rng, from: &[&'a T]) -> &'a T {
    from[random.usize(..from.len())]
}

fn chance(random: &mut Rng, percent: u8) -> bool {
    random.u8(..100) < percent
}

pub fn clients(random: &mut Rng) -> Vec<Client> {
    let client = |namespace, app: &str, version: &str| Client {
        namespace,
        labels: [("app", app), ("version", version)].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    };
    let mut namespaces = NAMESPACES;
    random.shuffle(&mut namespaces);
    vec![client(namespaces[0], "web", "v1"), client(namespaces[1], pick(random, &["web", "batch"]), "v1")]
}

/// The YAML of a world.
pub fn world(random: &mut Rng) -> String {
    let mut yaml = String::new();
    let mut object = |group: &str, kind: &str, namespace: &str, name: &str, annotations: &str, spec: &str| {
        let _ = write!(
            yaml,
            "---\napiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}{annotations}}}\nspec: {{{spec}}}\n"
        );
    };
    for (at, namespace) in NAMESPACES.iter().enumerate() {
        for (number, name) in SERVICES.iter().enumerate().filter(|_| random.u8(..8) > 0).collect::<Vec<_>>() {
            let mut ports: Vec<String> = Vec::new();
            for port in PORTS {
                if random.u8(..5) < 2 {
                    continue;
                }
                let protocol = pick(random, &["http", "http", "http", "http", "http2", "grpc-api", "tcp"]);
                ports.push(format!("{{port: {port}, name: {protocol}-{port}}}"));
            }
            if ports.is_empty() {
                ports.push("{port: 80, name: http}".to_owned());
            }
            let exported = export_to(random)
                .map_or(String::new(), |list| format!(", annotations: {{networking.istio.io/exportTo: {:?}}}", list.join(",")));
            let ip = if chance(random, 10) { "None".to_owned() } else { format!("10.0.{at}.{number}") };
            let spec = format!("clusterIP: {ip}, selector: {{app: {name}}}, ports: [{}]", ports.join(", "));
            object("v1", "Service", namespace, name, &exported, &spec);
        }
    }
    if random.bool() {
        let spec = "hosts: [api.example.com], location: MESH_EXTERNAL, resolution: STATIC, endpoints: [{address: 192.0.2.1}], ports: [{number: 80, name: http, protocol: HTTP}]";
        object("networking.istio.io/v1", "ServiceEntry", "team", "api", "", spec);
    }
    if random.bool() {
        let spec = "hosts: ['*.wild.org'], location: MESH_EXTERNAL, resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]";
        object("networking.istio.io/v1", "ServiceEntry", "shop", "wild", "", spec);
    }
    for number in 0..random.usize(2..6) {
        let namespace = pick(random, &[NAMESPACES[0], NAMESPACES[1], NAMESPACES[2], ROOT]);
        let name = pick(random, &SERVICES);
        let owner = pick(random, &NAMESPACES);
        let host = match random.u8(..6) {
            0 => format!("*.{owner}.svc.cluster.local"),
            1 => "*.local".to_owned(),
            2 => name.to_owned(),
            _ => format!("{name}.{owner}.svc.cluster.local"),
        };
        let subsets: Vec<String> =
            SUBSETS[..3].iter().filter(|_| random.bool()).map(|name| format!("{{name: {name}, labels: {{version: {name}}}}}")).collect();
        let exported = export_to(random).map_or(String::new(), |list| format!(", exportTo: [{}]", quoted(&list)));
        let spec = format!("host: {host:?}, subsets: [{}]{exported}", subsets.join(", "));
        object("networking.istio.io/v1", "DestinationRule", namespace, &format!("rule-{number}"), "", &spec);
    }
    for number in 0..random.usize(3..10) {
        let namespace = pick(random, &NAMESPACES);
        let name = format!("vs-{number}");
        let spec = virtual_service(random, namespace, &name);
        object("networking.istio.io/v1", "VirtualService", namespace, &name, "", &spec);
    }
    yaml
}

fn quoted(list: &[&str]) -> String {
    list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
}

fn export_to(random: &mut Rng) -> Option<Vec<&'static str>> {
    match random.u8(..10) {
        0 if random.bool() => Some(vec!["."]),
        1 => Some(vec!["*"]),
        2 if random.bool() => Some(vec![pick(random, &NAMESPACES)]),
        3 => Some(vec![".", pick(random, &NAMESPACES)]),
        _ => None,
    }
}

fn host(random: &mut Rng) -> String {
    let (name, namespace) = (pick(random, &SERVICES), pick(random, &NAMESPACES));
    match random.u8(..16) {
        0..5 => name.to_owned(),
        5..10 => format!("{name}.{namespace}.svc.cluster.local"),
        10 => format!("*.{namespace}.svc.cluster.local"),
        11 => "*.cluster.local".to_owned(),
        12 => "Api.example.com".to_owned(),
        13 => "*.example.com".to_owned(),
        14 => "a.wild.org".to_owned(),
        _ => "*.wild.org".to_owned(),
    }
}

fn virtual_service(random: &mut Rng, namespace: &str, name: &str) -> String {
    let mut hosts: Vec<String> = Vec::new();
    for _ in 0..random.usize(1..3) {
        let host = host(random);
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    let rules = random.usize(1..6);
    let mut http: Vec<String> = (0..rules).map(|at| rule(random, &format!("{namespace}/{name}#{at}"), at + 1 == rules)).collect();
    if chance(random, 5) {
        http.swap(0, rules - 1);
        // The names tell positions.
        for (at, text) in http.iter_mut().enumerate() {
            let end = text.find('"').and_then(|first| Some(first + 1 + text[first + 1..].find('"')?)).unwrap_or_default();
            *text = format!("{{name: \"{namespace}/{name}#{at}{}", &text[end..]);
        }
    }
    let exported = export_to(random).map_or(String::new(), |list| format!(", exportTo: [{}]", quoted(&list)));
    let gateways = match random.u8(..12) {
        0 => ", gateways: [edge]",
        1 => ", gateways: [edge, mesh]",
        _ => "",
    };
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    format!("hosts: [{}]{exported}{gateways}, http: [{}]", quoted(&hosts), http.join(", "))
}

fn rule(random: &mut Rng, name: &str, last: bool) -> String {
    let entries = if last && chance(random, 40) || chance(random, 4) { 0 } else { random.usize(1..4) };
    let entries: Vec<String> = (0..entries).map(|at| entry(random, at)).collect();
    let matched = if entries.is_empty() { String::new() } else { format!("match: [{}], ", entries.join(", ")) };
    format!("{{name: \"{name}\", {matched}{}}}", action(random))
}

fn entry(random: &mut Rng, at: usize) -> String {
    let mut parts = vec![format!("name: \"{at}\"")];
    for _ in 0..random.usize(1..4) {
        let part = match random.u8(..17) {
            0..5 => {
                let (form, text) = match random.u8(..3) {
                    0 => ("exact", pick(random, &URIS)),
                    1 if chance(random, 8) => ("prefix", ""),
                    1 => ("prefix", pick(random, &URIS)),
                    _ => ("regex", REGEXES[random.usize(..6)].0),
                };
                let fold = if chance(random, 35) { ", ignoreUriCase: true" } else { "" };
                format!("uri: {{{form}: {text:?}}}{fold}")
            }
            5 => format!("method: {}", text(random, &METHODS, "G", "GET|PUT", false)),
            6 => format!("scheme: {}", text(random, &["http", "http", "https"], "http", "https?", false)),
            7 => {
                let host = authority(random);
                format!("authority: {}", text(random, &[&host], "re", r"(reviews|carts)(\..*)?(:\d+)?", false))
            }
            8..10 => named(random, "headers", &HEADERS),
            10 => named(random, "withoutHeaders", &HEADERS),
            11..13 => named(random, "queryParams", &PARAMETERS),
            13 => format!("port: {}", PORTS[random.usize(..PORTS.len())]),
            14 => format!("sourceLabels: {{app: {}}}", pick(random, &["web", "web", "batch"])),
            15 => format!("sourceNamespace: {}", pick(random, &NAMESPACES)),
            _ => format!("gateways: [{}]", pick(random, &["mesh", "edge", "edge, mesh"])),
        };
        let field = |part: &str| part.split(':').next().unwrap_or_default().to_owned();
        if !parts.iter().any(|before| field(before) == field(&part)) {
            parts.push(part);
        }
    }
    format!("{{{}}}", parts.join(", "))
}

/// An authority as a client may write it.
pub fn authority(random: &mut Rng) -> String {
    let (name, namespace) = (pick(random, &SERVICES), pick(random, &NAMESPACES));
    let host = match random.u8(..6) {
        0 => format!("{name}.{namespace}"),
        1 => format!("{name}.{namespace}.svc.cluster.local"),
        2 => "api.example.com".to_owned(),
        _ => name.to_owned(),
    };
    if chance(random, 30) { format!("{host}:{}", PORTS[random.usize(..PORTS.len())]) } else { host }
}

fn text(random: &mut Rng, exact: &[&str], prefix: &str, regex: &str, presence: bool) -> String {
    match random.u8(..if presence { 6 } else { 4 }) {
        0..2 => format!("{{exact: {:?}}}", pick(random, exact)),
        2 => format!("{{prefix: {prefix:?}}}"),
        3 => format!("{{regex: {regex:?}}}"),
        4 => "{}".to_owned(),
        _ => "{regex: \"*\"}".to_owned(),
    }
}

fn named(random: &mut Rng, field: &str, names: &[&str]) -> String {
    let mut values: Vec<String> = Vec::new();
    let regex = REGEXES[random.usize(6..REGEXES.len())].0;
    for name in names {
        if random.u8(..3) > 0 {
            continue;
        }
        let exact: &[&str] = if field == "queryParams" { &["", "", "1", "Gold"] } else { &VALUES };
        values.push(format!("{name}: {}", text(random, exact, "go", regex, true)));
    }
    if values.is_empty() {
        values.push(format!("{}: {}", names[0], text(random, &["gold"], "go", regex, true)));
    }
    format!("{field}: {{{}}}", values.join(", "))
}

fn action(random: &mut Rng) -> String {
    match random.u8(..10) {
        0 => format!("directResponse: {{status: {}, body: {{string: \"no\"}}}}", 200 + random.u16(..400)),
        1 => redirect(random),
        _ => {
            let rewrite = match random.u8(..8) {
                0 => "rewrite: {uri: /}, ",
                1 => "rewrite: {uri: /v2/, authority: other.org}, ",
                2 => "rewrite: {authority: other.org}, headers: {request: {set: {host: third.org}}}, ",
                3 => "headers: {request: {set: {host: third.org}}}, ",
                _ => "",
            };
            format!("{rewrite}route: [{}]", destinations(random))
        }
    }
}

fn redirect(random: &mut Rng) -> String {
    let mut parts = Vec::new();
    parts.extend(match random.u8(..4) {
        0 => Some("uri: /moved".to_owned()),
        1 => Some("uri: \"/moved?now=1\"".to_owned()),
        2 => Some("prefixRewrite: /elsewhere".to_owned()),
        _ => None,
    });
    parts.extend(random.bool().then(|| "authority: new.org".to_owned()));
    parts.extend(match random.u8(..6) {
        0 => Some("port: 80".to_owned()),
        1 => Some("port: 443".to_owned()),
        2 => Some("port: 8443".to_owned()),
        3 => Some("derivePort: FROM_REQUEST_PORT".to_owned()),
        _ => None,
    });
    parts.extend(match random.u8(..3) {
        0 => Some("scheme: https".to_owned()),
        1 => Some("scheme: http".to_owned()),
        _ => None,
    });
    if parts.is_empty() {
        parts.push("uri: /moved".to_owned());
    }
    if random.bool() {
        parts.push(format!("redirectCode: {}", [301, 302, 303, 307, 308][random.usize(..5)]));
    }
    format!("redirect: {{{}}}", parts.join(", "))
}

fn destinations(random: &mut Rng) -> String {
    let many = if chance(random, 50) { 1 } else { random.usize(2..4) };
    let mut all = Vec::new();
    for at in 0..many {
        let (name, namespace) = (pick(random, &SERVICES), pick(random, &NAMESPACES));
        let host = match random.u8(..8) {
            0 => format!("{name}.{namespace}"),
            1 => "nowhere".to_owned(),
            2 => "api.example.com".to_owned(),
            3..6 => name.to_owned(),
            _ => format!("{name}.{namespace}.svc.cluster.local"),
        };
        let subset = if chance(random, 30) { format!(", subset: {}", pick(random, &SUBSETS)) } else { String::new() };
        let port = if chance(random, 30) { format!(", port: {{number: {}}}", PORTS[random.usize(..PORTS.len())]) } else { String::new() };
        let weight = match (at, many) {
            (0, 1) if random.bool() => String::new(),
            (0, _) => format!(", weight: {}", random.u8(1..100)),
            _ => format!(", weight: {}", if random.bool() { 0 } else { random.u8(1..100) }),
        };
        all.push(format!("{{destination: {{host: {host}{subset}{port}}}{weight}}}"));
    }
    all.join(", ")
}

/// A text that fulfils a condition.
pub fn sample(random: &mut Rng, wanted: &StringMatch) -> String {
    match wanted {
        _ if wanted.is_presence() => pick(random, &["", "anything", "0"]).to_owned(),
        StringMatch::Exact(text) => text.clone(),
        StringMatch::Prefix(text) => format!("{text}{}", pick(random, &["", "o", "/more", "ld"])),
        StringMatch::Regex(pattern) => {
            let own = [("GET|PUT", "PUT"), ("https?", "https"), (r"(reviews|carts)(\..*)?(:\d+)?", "carts.team:8080")];
            let known = REGEXES.iter().chain(&own).find(|(known, _)| known == pattern);
            known.map_or("", |(_, text)| text).to_owned()
        }
        StringMatch::Present => String::new(),
    }
}
