//! Requests that aim at a generated rule, and near misses of it.
//!
//! In:  a configuration, a random source.
//! Out: requests, ready to be written.

use std::fmt::Write;

use fastrand::Rng;

use crate::generate::{Configuration, Entry, HEADERS, Rule, chance, pick};

/// A request without what tells it from others.
#[derive(Clone, Debug, Default)]
pub struct Shot {
    /// Made of a request that hits, by a change of one thing.
    pub near_miss: bool,
    pub method: String,
    pub host: String,
    pub path: String,
    pub query: Option<String>,
    /// The target in absolute form with this scheme.
    pub absolute: Option<&'static str>,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

/// A request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    #[default]
    None,
    Length(String),
    Chunked(String),
}

impl Shot {
    pub fn target(&self) -> String {
        let query = self.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
        let origin = format!("{}{query}", self.path);
        self.absolute.map_or(origin.clone(), |scheme| format!("{scheme}://{}{origin}", self.host))
    }

    /// The bytes, with `mark` as the user agent.
    pub fn bytes(&self, mark: &str) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nhost: {}\r\nuser-agent: {mark}\r\n", self.method, self.target(), self.host);
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        match &self.body {
            Body::None => text.push_str("\r\n"),
            Body::Length(body) => {
                let _ = write!(text, "content-length: {}\r\n\r\n{body}", body.len());
            }
            Body::Chunked(body) => {
                text.push_str("transfer-encoding: chunked\r\n\r\n");
                if !body.is_empty() {
                    let _ = write!(text, "{:x}\r\n{body}\r\n", body.len());
                }
                text.push_str("0\r\n\r\n");
            }
        }
        text.into_bytes()
    }

    fn value(&mut self, name: &str) -> Option<&mut String> {
        self.headers.iter_mut().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// What the backends are told to do.
    fn tell(&mut self, what: &str) {
        if what.contains("grpc=") {
            // A status of gRPC is for those who speak it.
            self.headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
        }
        self.headers.push(("x-do".to_owned(), what.to_owned()));
    }
}

/// A request of the configuration.
pub fn shoot(random: &mut Rng, configuration: &Configuration, near_miss: bool) -> Shot {
    let rule = &configuration.rules[random.usize(..configuration.rules.len())];
    let entry = match rule.entries.len() {
        0 => Entry::default(),
        count => rule.entries[random.usize(..count)].clone(),
    };
    let mut shot = hit(random, configuration, rule, &entry);
    if near_miss {
        let before = (shot.target(), shot.method.clone(), shot.host.clone(), shot.headers.clone());
        while (shot.target(), shot.method.clone(), shot.host.clone(), shot.headers.clone()) == before {
            miss(random, &entry, &mut shot);
        }
        shot.near_miss = true;
    }
    shot
}

fn hit(random: &mut Rng, configuration: &Configuration, rule: &Rule, entry: &Entry) -> Shot {
    let host = match entry.port {
        Some(8080) => format!("{}:8080", configuration.host),
        _ if chance(random, 15) => format!("{}:80", configuration.host),
        _ => configuration.host.clone(),
    };
    let mut shot = Shot { host, method: "GET".to_owned(), ..Shot::default() };
    shot.path = match &entry.uri {
        Some(uri) if entry.ignore_case && chance(random, 50) => swap_case(&uri.sample),
        Some(uri) => uri.sample.clone(),
        None => pick(random, &["/", "/api", "/api/v1/items/7", "/static/app.js", "/elsewhere"]).to_owned(),
    };
    if let Some(method) = &entry.method {
        shot.method.clone_from(&method.sample);
    } else if chance(random, 15) {
        shot.method = pick(random, &["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]).to_owned();
    }
    if let Some(authority) = &entry.authority
        && chance(random, 80)
    {
        shot.host.clone_from(&authority.sample);
    }
    if chance(random, 15) || entry.scheme.is_some() {
        shot.absolute = Some(if entry.scheme.as_ref().is_some_and(|scheme| scheme.sample == "https") { "https" } else { "http" });
    }
    for (name, text) in &entry.headers {
        shot.headers.push((name.clone(), text.sample.clone()));
    }
    let pairs: Vec<String> = entry.query.iter().map(|(name, text)| format!("{name}={}", text.sample)).collect();
    shot.query = (!pairs.is_empty()).then(|| pairs.join("&")).or_else(|| chance(random, 20).then(|| "q=1&page=2".to_owned()));
    if chance(random, 12) {
        shot.headers.push(("x-request-id".to_owned(), "5f1c9d3e-52a0-4c88-9d0b-7f6f2f5ef7a1".to_owned()));
    }
    if chance(random, 15) {
        let extra =
            [("x-extra", "1"), ("x-forwarded-proto", "https"), ("x-forwarded-for", "192.0.2.7"), ("accept", "*/*"), ("te", "trailers")];
        let (name, value) = extra[random.usize(..extra.len())];
        shot.headers.push((name.to_owned(), value.to_owned()));
    }
    if chance(random, 10) && shot.value("x-user").is_none() && !entry.without.iter().any(|(name, _)| name == "x-user") {
        shot.headers.push(("x-user".to_owned(), "Ada".to_owned()));
    }
    // Reactions of an action come before the usual variety.
    if let Some(origin) = &rule.hints.origin
        && chance(random, 60)
    {
        shot.headers.push(("origin".to_owned(), origin.clone()));
        if chance(random, 50) && entry.method.is_none() {
            shot.method = "OPTIONS".to_owned();
            shot.headers.push(("access-control-request-method".to_owned(), pick(random, &["GET", "PUT"]).to_owned()));
        }
    }
    if (rule.hints.timeout || rule.hints.retries.as_ref().is_some()) && chance(random, 10) {
        shot.tell("slow");
    } else if let Some(on) = &rule.hints.retries
        && chance(random, 70)
    {
        shot.tell(&provoke(random, on));
    } else if chance(random, 25) {
        let what = pick(
            random,
            &[
                "status=404",
                "status=503",
                "status=204",
                "status=304",
                "chunked",
                "until-close",
                "status=201",
                "overloaded",
                "reset",
                "grpc=14",
                "early",
            ],
        );
        shot.tell(what);
    }
    if ["POST", "PUT", "PATCH"].contains(&&*shot.method) {
        shot.body = match random.u8(..3) {
            0 => Body::Chunked("a body in chunks".to_owned()),
            1 => Body::Length(String::new()),
            _ => Body::Length("a body".to_owned()),
        };
    }
    shot
}

/// What the backend does to be tried again: the first tries fail in one of the ways of the policy, or in another.
fn provoke(random: &mut Rng, on: &str) -> String {
    let failure = match on.split(',').next().unwrap_or_default() {
        "retriable-4xx" => "status=409",
        "404" => "status=404",
        "retriable-status-codes" => "status=418",
        "unavailable" => "grpc=14",
        "deadline-exceeded" => "grpc=4",
        "envoy-ratelimited" => "grpc=8",
        "reset" | "connect-failure" | "reset-before-request" => "reset",
        _ => "status=503",
    };
    let failure =
        if chance(random, 25) { pick(random, &["status=503", "reset", "status=500", "status=504", "overloaded"]) } else { failure };
    let times = random.u8(1..5);
    format!("fail={times}; {failure}")
}

pub fn swap_case(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() }).collect()
}

/// Changes one thing.
fn miss(random: &mut Rng, entry: &Entry, shot: &mut Shot) {
    match random.u8(..16) {
        0..5 => path(random, shot),
        5 => shot.method = pick(random, &["GET", "POST", "PATCH", "DELETE", "PURGE", "HEAD"]).to_owned(),
        6 | 7 if !entry.headers.is_empty() => {
            let (name, _) = &entry.headers[random.usize(..entry.headers.len())];
            named(random, shot, name);
        }
        8 if !entry.without.is_empty() => {
            let (name, text) = &entry.without[random.usize(..entry.without.len())];
            shot.headers.push((name.clone(), text.sample.clone()));
        }
        9 | 10 => query(random, shot),
        11 => {
            let host = shot.host.split(':').next().unwrap_or_default().to_owned();
            shot.host = match random.u8(..6) {
                0 => format!("{host}:8080"),
                1 => format!("{host}:81"),
                2 => host.to_ascii_uppercase(),
                3 => format!("{host}."),
                4 => format!("x{host}"),
                _ => format!("{host}.team"),
            };
        }
        12 => shot.absolute = if shot.absolute.is_none() { Some(*pick(random, &[&"http", &"https"])) } else { None },
        13 => {
            let name = HEADERS[random.usize(..HEADERS.len())];
            shot.headers.push((name.to_owned(), pick(random, &["gold", "", "v1", "a b"]).to_owned()));
        }
        14 => {
            if let Some(origin) = shot.value("origin") {
                origin.push('x');
            }
        }
        _ => {
            let at = shot.headers.iter().position(|(name, _)| name == "access-control-request-method");
            at.map(|at| shot.headers.remove(at));
        }
    }
    if shot.body != Body::None && ["GET", "HEAD", "DELETE"].contains(&&*shot.method) {
        shot.body = Body::None;
    }
}

fn path(random: &mut Rng, shot: &mut Shot) {
    let path = &mut shot.path;
    let middle = random.usize(..path.len());
    match random.u8(..12) {
        0 => path.push('x'),
        1 => path.push('/'),
        2 if path.len() > 1 => drop(path.pop()),
        3 => *path = swap_case(path),
        4 => {
            let byte = path.as_bytes()[middle];
            path.replace_range(middle..=middle, &format!("%{byte:02X}"));
            if middle == 0 {
                path.insert(0, '/');
            }
        }
        5 => path.insert(0, '/'),
        6 => path.push_str("/../x"),
        7 => path.push_str("/./"),
        8 => path.push_str("%2f"),
        9 => path.insert_str(middle.max(1), "é".escape_unicode().to_string().replace(['\\', '{', '}'], "").as_str()),
        10 => path.push_str(";p=1"),
        _ => path.insert(middle.max(1), *pick(random, &[&'z', &'0', &'.', &'~', &'+', &'/'])),
    }
}

fn named(random: &mut Rng, shot: &mut Shot, name: &str) {
    let Some(value) = shot.value(name) else { return };
    match random.u8(..6) {
        0 => value.push('x'),
        1 => drop(value.pop()),
        2 => *value = swap_case(value),
        3 => value.clear(),
        4 => {
            let more = (name.to_owned(), "second".to_owned());
            shot.headers.push(more);
        }
        _ => shot.headers.retain(|(other, _)| other != name),
    }
}

fn query(random: &mut Rng, shot: &mut Shot) {
    let Some(query) = &mut shot.query else {
        shot.query = Some(pick(random, &["", "debug", "debug=1", "q=", "=", "Debug=Gold&debug=1", "%64ebug=1"]).to_owned());
        return;
    };
    match random.u8(..6) {
        0 => query.push('x'),
        1 => drop(query.pop()),
        2 => *query = swap_case(query),
        3 => query.insert_str(0, "debug=other&"),
        4 => query.push_str("&q=2&page"),
        _ => shot.query = None,
    }
}
