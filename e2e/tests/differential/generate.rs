//! Configurations: a service, and the rules for it, made of every field of a VirtualService.
//!
//! In:  a random source; the number of a configuration.
//! Out: its YAML, the rules as requests aim at them, and which fields it has.

use std::collections::BTreeSet;

use fastrand::Rng;

use crate::actions;

/// The namespace of everything, the client's too.
pub const NAMESPACE: &str = "team";

/// One generated configuration.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    pub host: String,
    pub yaml: String,
    pub rules: Vec<Rule>,
    /// Fields that are written in it, each once.
    pub fields: BTreeSet<&'static str>,
}

/// What requests need to know of a rule.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub entries: Vec<Entry>,
    /// What its action reacts to.
    pub hints: Hints,
}

/// What a request may do to reach the corners of an action.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// An origin that the CORS policy allows.
    pub origin: Option<String>,
    /// The rule retries, and on what.
    pub retries: Option<String>,
    pub timeout: bool,
}

/// One entry of `match`.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub uri: Option<Text>,
    pub ignore_case: bool,
    pub method: Option<Text>,
    pub scheme: Option<Text>,
    pub authority: Option<Text>,
    pub headers: Vec<(String, Text)>,
    pub without: Vec<(String, Text)>,
    pub query: Vec<(String, Text)>,
    pub port: Option<u16>,
}

/// A string match, and a text that fulfils it.
#[derive(Clone, Debug)]
pub struct Text {
    pub form: &'static str,
    pub pattern: String,
    pub sample: String,
}

impl Text {
    fn new(form: &'static str, pattern: &str, sample: &str) -> Self {
        Self { form, pattern: pattern.to_owned(), sample: sample.to_owned() }
    }

    fn yaml(&self) -> String {
        match self.form {
            "present" => "{}".to_owned(),
            form => format!("{{{form}: {:?}}}", self.pattern),
        }
    }
}

pub fn pick<'a, T: ?Sized>(random: &mut Rng, from: &[&'a T]) -> &'a T {
    from[random.usize(..from.len())]
}

pub fn chance(random: &mut Rng, percent: u8) -> bool {
    random.u8(..100) < percent
}

const PATHS: [&str; 10] =
    ["/", "/api", "/api/", "/api/v1/items", "/Health", "/items/42", "/a-b_c.d~e", "/x%20y", "/shop/Cart;v=1", "/long/er/path.html"];
/// Expressions for paths, and what they match.
const PATH_REGEXES: [(&str, &str); 6] = [
    ("/api/v[0-9]+/.*", "/api/v2/x"),
    (r"/items/\d+", "/items/42"),
    ("/(a|b)/c?", "/a/"),
    ("(?i)/mixed", "/MiXed"),
    ("/api|/static", "/static"),
    (".*/end", "/any/end"),
];
const VALUE_REGEXES: [(&str, &str); 3] = [(r"v\d(\.\d+)*", "v1.10"), ("[^/]+", "gold"), ("gold|silver,bronze", "silver,bronze")];
const VALUES: [&str; 5] = ["gold", "Gold", "silver,bronze", "v1", "a b"];
pub const HEADERS: [&str; 5] = ["x-user", "X-Tier", "x-flag", "end-user", "cookie"];
const PARAMETERS: [&str; 4] = ["debug", "Debug", "q", "page"];

/// Writes YAML of one configuration and notes the fields.
pub struct Writer<'a> {
    pub random: &'a mut Rng,
    pub fields: BTreeSet<&'static str>,
}

impl Writer<'_> {
    /// `field` was written.
    pub fn note(&mut self, field: &'static str) {
        self.fields.insert(field);
    }

    pub fn chance(&mut self, percent: u8) -> bool {
        chance(self.random, percent)
    }

    pub fn pick<'b, T: ?Sized>(&mut self, from: &[&'b T]) -> &'b T {
        pick(self.random, from)
    }
}

/// The configuration of this number.
pub fn configuration(random: &mut Rng, number: usize) -> Configuration {
    let name = format!("svc{number}");
    let host = format!("{name}.test");
    let mut writer = Writer { random, fields: BTreeSet::new() };
    let count = writer.random.usize(1..=6);
    let mut rules = Vec::new();
    let mut http = Vec::new();
    let mut more = String::new();
    for at in 0..count {
        let last = at + 1 == count;
        let name = format!("{name}-{at}");
        if writer.chance(8) {
            // A delegate has rules of its own; here they narrow the delegating one by a header.
            writer.note("delegate");
            let prefix = Text::new("prefix", "/team", "/team/x");
            http.push(format!("{{name: {name}, match: [{{uri: {}}}], delegate: {{name: {name}, namespace: {NAMESPACE}}}}}", prefix.yaml()));
            let header = Text::new("exact", "gold", "gold");
            let action = actions::action(&mut writer);
            let rule = format!("{{name: {name}-inner, match: [{{headers: {{x-user: {}}}}}], {}}}", header.yaml(), action.yaml);
            more.push_str(&virtual_service(&name, "", &rule));
            let entry = Entry { uri: Some(prefix), headers: vec![("x-user".to_owned(), header)], ..Entry::default() };
            rules.push(Rule { entries: vec![entry], hints: action.hints });
            continue;
        }
        let entries = if last && writer.chance(45) { 0 } else { writer.random.usize(1..3) };
        let (texts, entries): (Vec<String>, Vec<Entry>) = (0..entries).map(|at| entry(&mut writer, &host, at)).unzip();
        let matched = if texts.is_empty() { String::new() } else { format!("match: [{}], ", texts.join(", ")) };
        let action = actions::action(&mut writer);
        http.push(format!("{{name: {name}, {matched}{}}}", action.yaml));
        rules.push(Rule { entries, hints: action.hints });
    }
    let gateways = if writer.chance(10) { "gateways: [edge, mesh], " } else { "" };
    let fields = writer.fields;
    // Of a kind whose clusters are complete without a file: Envoy needs an inotify instance per file of endpoints.
    let service = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{hosts: [{host}], location: MESH_EXTERNAL, resolution: DNS, endpoints: [{{address: 127.0.0.1}}], \
         ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 8080, name: http-b, protocol: HTTP}}]}}\n"
    );
    let hosts = format!("hosts: [{host}], {gateways}");
    let yaml = format!("{service}{}{more}", virtual_service(&name, &hosts, &http.join(",\n    ")));
    Configuration { host, yaml, rules, fields }
}

fn virtual_service(name: &str, hosts: &str, http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{{hosts}http: [\n    {http}]}}\n"
    )
}

fn entry(writer: &mut Writer<'_>, host: &str, at: usize) -> (String, Entry) {
    let mut entry = Entry::default();
    let mut parts = vec![format!("name: m{at}")];
    writer.note("match.name");
    for _ in 0..writer.random.usize(1..4) {
        match writer.random.u8(..15) {
            0..5 if entry.uri.is_none() => parts.push(uri(writer, &mut entry)),
            5 if entry.method.is_none() => {
                let text =
                    text(writer, ["match.method", "match.method", "match.method", ""], &["GET", "POST", "DELETE"], ("GET|PUT", "PUT"));
                parts.push(format!("method: {}", text.yaml()));
                entry.method = Some(text);
            }
            6 if entry.scheme.is_none() => {
                let text =
                    text(writer, ["match.scheme", "match.scheme", "match.scheme", ""], &["http", "http", "https"], ("https?", "http"));
                parts.push(format!("scheme: {}", text.yaml()));
                entry.scheme = Some(text);
            }
            7 if entry.authority.is_none() => {
                let pattern = format!(r"{host}(\..*)?(:\d+)?");
                let text =
                    text(writer, ["match.authority", "match.authority", "match.authority", ""], &[host], (&pattern, &format!("{host}:80")));
                parts.push(format!("authority: {}", text.yaml()));
                entry.authority = Some(text);
            }
            8 | 9 if entry.headers.is_empty() => {
                let names = ["match.headers.exact", "match.headers.prefix", "match.headers.regex", "match.headers.present"];
                entry.headers = named(writer, names, &HEADERS, &VALUES);
                parts.push(format!("headers: {}", map(&entry.headers)));
            }
            10 if entry.without.is_empty() => {
                let names = [
                    "match.withoutHeaders.exact",
                    "match.withoutHeaders.prefix",
                    "match.withoutHeaders.regex",
                    "match.withoutHeaders.present",
                ];
                entry.without = named(writer, names, &HEADERS, &VALUES);
                entry.without.retain(|(name, _)| entry.headers.iter().all(|(other, _)| other != name));
                if !entry.without.is_empty() {
                    parts.push(format!("withoutHeaders: {}", map(&entry.without)));
                }
            }
            11 if entry.query.is_empty() => {
                let names = ["match.queryParams.exact", "match.queryParams.prefix", "match.queryParams.regex", "match.queryParams.present"];
                entry.query = named(writer, names, &PARAMETERS, &["", "1", "Gold"]);
                parts.push(format!("queryParams: {}", map(&entry.query)));
            }
            12 if entry.port.is_none() => {
                writer.note("match.port");
                let port = if writer.chance(50) { 80 } else { 8080 };
                parts.push(format!("port: {port}"));
                entry.port = Some(port);
            }
            13 if !parts.iter().any(|part| part.starts_with("source")) => {
                // The client is `app: client` of this namespace: sometimes the rule is for another.
                if writer.chance(50) {
                    writer.note("match.sourceLabels");
                    parts.push(format!("sourceLabels: {{app: {}}}", writer.pick(&["client", "client", "client", "other"])));
                } else {
                    writer.note("match.sourceNamespace");
                    parts.push(format!("sourceNamespace: {}", writer.pick(&[NAMESPACE, NAMESPACE, NAMESPACE, "web"])));
                }
            }
            14 if !parts.iter().any(|part| part.starts_with("gateways")) => {
                writer.note("match.gateways");
                parts.push(format!("gateways: [{}]", writer.pick(&["mesh", "mesh", "edge, mesh"])));
            }
            _ => {}
        }
    }
    if parts.len() == 1 {
        parts.push(uri(writer, &mut entry));
    }
    (format!("{{{}}}", parts.join(", ")), entry)
}

fn uri(writer: &mut Writer<'_>, entry: &mut Entry) -> String {
    let path = writer.pick(&PATHS);
    let text = match writer.random.u8(..3) {
        0 => {
            writer.note("match.uri.exact");
            Text::new("exact", path, path)
        }
        1 => {
            writer.note("match.uri.prefix");
            Text::new("prefix", path, &format!("{path}{}", writer.pick(&["", "more", "/more", "/../x", "?"])).replace('?', ""))
        }
        _ => {
            writer.note("match.uri.regex");
            let (pattern, sample) = PATH_REGEXES[writer.random.usize(..PATH_REGEXES.len())];
            Text::new("regex", pattern, sample)
        }
    };
    let fold = writer.chance(35);
    if fold {
        writer.note("match.ignoreUriCase");
    }
    entry.ignore_case = fold;
    let yaml = format!("uri: {}{}", text.yaml(), if fold { ", ignoreUriCase: true" } else { "" });
    entry.uri = Some(text);
    yaml
}

/// One of the forms `exact`, `prefix`, `regex` and, if it has a name, presence.
fn text(writer: &mut Writer<'_>, names: [&'static str; 4], exact: &[&str], regex: (&str, &str)) -> Text {
    let form = writer.random.usize(..if names[3].is_empty() { 3 } else { 4 });
    writer.note(names[form]);
    let value = writer.pick(exact);
    match form {
        0 => Text::new("exact", value, value),
        1 => {
            let end = value.char_indices().nth(2).map_or(value.len(), |(at, _)| at);
            if end == 0 { Text::new("prefix", "go", "go") } else { Text::new("prefix", &value[..end], value) }
        }
        2 => Text::new("regex", regex.0, regex.1),
        _ => Text::new("present", "", "anything"),
    }
}

fn named(writer: &mut Writer<'_>, names: [&'static str; 4], from: &[&str], exact: &[&str]) -> Vec<(String, Text)> {
    let mut from: Vec<&str> = from.to_vec();
    writer.random.shuffle(&mut from);
    let count = writer.random.usize(1..3);
    let regex = |random: &mut Rng| VALUE_REGEXES[random.usize(..VALUE_REGEXES.len())];
    from[..count]
        .iter()
        .map(|name| {
            let regex = regex(writer.random);
            ((*name).to_owned(), text(writer, names, exact, regex))
        })
        .collect()
}

fn map(named: &[(String, Text)]) -> String {
    let all: Vec<String> = named.iter().map(|(name, text)| format!("{name}: {}", text.yaml())).collect();
    format!("{{{}}}", all.join(", "))
}
