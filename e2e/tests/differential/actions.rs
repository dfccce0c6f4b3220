//! What a rule does with its requests: destinations, rewrites, headers, redirects, faults, CORS, retries, mirrors.
//!
//! In:  a random source, the name of the rule.
//! Out: the YAML of the rule's action, and what requests can do to reach its corners.

use crate::generate::{Hints, NAMESPACE, Writer};

/// An action and what it reacts to.
pub struct Action {
    pub yaml: String,
    pub hints: Hints,
}

/// Values of added headers: every operator with a value that two proxies must agree on.
const TEMPLATES: [&str; 12] = [
    "plain",
    "%REQ(x-user)%",
    "%REQ(:path)%",
    "%REQ(:method)% %REQ(:authority)%",
    "%REQ(x-absent?:scheme)%",
    "%REQ(x-user):2%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "%PROTOCOL%",
    "%UPSTREAM_CLUSTER%",
    "%ROUTE_NAME%",
    "100%%",
    "[%REQ(x-absent)%]",
];
const RESPONSE_TEMPLATES: [&str; 6] =
    ["plain", "%PROTOCOL%", "%RESP(x-backend)%", "%REQ(x-user)%", "%RESP(x-absent?x-backend)%", "%PROTOCOL% %ROUTE_NAME%"];

pub fn action(writer: &mut Writer<'_>) -> Action {
    let mut hints = Hints::default();
    let mut parts: Vec<String> = Vec::new();
    match writer.random.u8(..12) {
        0 => parts.push(direct(writer)),
        1 | 2 => parts.push(redirect(writer)),
        _ => {
            parts.push(format!("route: [{}]", destinations(writer)));
            if writer.chance(35) {
                parts.push(rewrite(writer));
            }
            if writer.chance(25) {
                hints.retries = Some(retries(writer, &mut parts));
            }
            if writer.chance(12) {
                writer.note("timeout");
                parts.push("timeout: 250ms".to_owned());
                hints.timeout = true;
            }
            if writer.chance(25) {
                mirrors(writer, &mut parts);
            }
        }
    }
    if writer.chance(20) {
        let (yaml, origin) = cors(writer);
        parts.push(yaml);
        hints.origin = Some(origin);
    }
    if writer.chance(24) && !parts[0].starts_with("redirect") && !parts[0].starts_with("direct") {
        parts.push(fault(writer));
    }
    if writer.chance(30) {
        parts.push(format!("headers: {}", headers(writer, ROUTE)));
    }
    Action { yaml: parts.join(", "), hints }
}

fn direct(writer: &mut Writer<'_>) -> String {
    writer.note("directResponse.status");
    let status = [200, 204, 404, 418, 503][writer.random.usize(..5)];
    let body = match writer.random.u8(..3) {
        _ if status == 204 => "",
        0 => {
            writer.note("directResponse.body.string");
            ", body: {string: \"said\\n\"}"
        }
        1 => {
            writer.note("directResponse.body.bytes");
            ", body: {bytes: AAECAw==}"
        }
        _ => "",
    };
    format!("directResponse: {{status: {status}{body}}}")
}

fn redirect(writer: &mut Writer<'_>) -> String {
    let mut parts = Vec::new();
    match writer.random.u8(..5) {
        0 | 1 => {
            writer.note("redirect.uri");
            parts.push(format!("uri: {:?}", writer.pick(&["/moved", "/moved?now=1"])));
        }
        2 | 3 => {
            writer.note("redirect.prefixRewrite");
            parts.push("prefixRewrite: /elsewhere".to_owned());
        }
        _ => {}
    }
    if parts.is_empty() || writer.chance(50) {
        writer.note("redirect.authority");
        parts.push(format!("authority: {:?}", writer.pick(&["new.org", "new.org:8443"])));
    }
    match writer.random.u8(..4) {
        0 | 1 => {
            writer.note("redirect.port");
            parts.push(format!("port: {}", [80, 443, 8443][writer.random.usize(..3)]));
        }
        2 => {
            writer.note("redirect.derivePort");
            parts.push(format!("derivePort: {}", writer.pick(&["FROM_REQUEST_PORT", "FROM_PROTOCOL_DEFAULT"])));
        }
        _ => {}
    }
    if writer.chance(50) {
        writer.note("redirect.scheme");
        parts.push(format!("scheme: {}", writer.pick(&["https", "http"])));
    }
    if writer.chance(50) {
        writer.note("redirect.redirectCode");
        parts.push(format!("redirectCode: {}", [301, 302, 303, 307, 308][writer.random.usize(..5)]));
    }
    format!("redirect: {{{}}}", parts.join(", "))
}

/// `v1` to `v3` live, `dead` refuses connections, `nobody` has no endpoint, `nowhere` is no service.
fn destination(writer: &mut Writer<'_>) -> &'static str {
    match writer.random.u8(..30) {
        0 => "host: pool, subset: dead",
        1 => "host: pool, subset: nobody",
        2 => "host: nowhere",
        3..13 => "host: pool, subset: v2",
        13..16 => "host: pool.team.svc.cluster.local, subset: v3, port: {number: 8080}",
        _ => "host: pool, subset: v1, port: {number: 80}",
    }
}

fn destinations(writer: &mut Writer<'_>) -> String {
    let one = |writer: &mut Writer<'_>, weight: &str| {
        let destination = destination(writer);
        let own = if writer.chance(20) { format!(", headers: {}", headers(writer, DESTINATION)) } else { String::new() };
        format!("{{destination: {{{destination}}}{weight}{own}}}")
    };
    match writer.random.u8(..10) {
        0 => {
            writer.note("route.weight: all and nothing");
            format!("{}, {}", one(writer, ", weight: 0"), one(writer, ", weight: 100"))
        }
        1 => {
            writer.note("route.weight: a split");
            "{destination: {host: pool, subset: v1}, weight: 30}, {destination: {host: pool, subset: v2}, weight: 70}, \
             {destination: {host: pool, subset: v3}, weight: 0}"
                .to_owned()
        }
        _ => one(writer, ""),
    }
}

fn rewrite(writer: &mut Writer<'_>) -> String {
    let mut parts = Vec::new();
    match writer.random.u8(..4) {
        0 | 1 => {
            writer.note("rewrite.uri");
            parts.push(format!("uri: {}", writer.pick(&["/", "/v2", "/v2/"])));
        }
        2 => {
            writer.note("rewrite.uriRegexRewrite");
            let (from, to) = [(r"^/([^/]*)(.*)$", r"/\\2/\\1"), ("[aeiou]", "_"), ("^/api", "/x")][writer.random.usize(..3)];
            parts.push(format!("uriRegexRewrite: {{match: {from:?}, rewrite: \"{to}\"}}"));
        }
        _ => {}
    }
    if parts.is_empty() || writer.chance(30) {
        writer.note("rewrite.authority");
        parts.push("authority: other.org".to_owned());
    }
    format!("rewrite: {{{}}}", parts.join(", "))
}

/// Names of the fields at a route and at a destination.
type Level = [&'static str; 6];
const ROUTE: Level = [
    "headers.request.set",
    "headers.request.add",
    "headers.request.remove",
    "headers.response.set",
    "headers.response.add",
    "headers.response.remove",
];
const DESTINATION: Level = [
    "route.headers.request.set",
    "route.headers.request.add",
    "route.headers.request.remove",
    "route.headers.response.set",
    "route.headers.response.add",
    "route.headers.response.remove",
];

fn headers(writer: &mut Writer<'_>, level: Level) -> String {
    let mut sides = Vec::new();
    for (side, at, templates) in [("request", 0, &TEMPLATES[..]), ("response", 3, &RESPONSE_TEMPLATES[..])] {
        let mut parts = Vec::new();
        if writer.chance(50) {
            writer.note(level[at]);
            let name = writer.pick(&["x-set", "x-user", "X-Tier", "x-backend", "server"]);
            let other = if writer.chance(10) && side == "request" { ", host: third.org" } else { "" };
            parts.push(format!("set: {{{name}: {:?}{other}}}", writer.pick(templates)));
        }
        if writer.chance(50) {
            writer.note(level[at + 1]);
            let name = writer.pick(&["x-add", "x-user", "X-Flag", "x-backend"]);
            parts.push(format!("add: {{{name}: {:?}, x-more: {:?}}}", writer.pick(templates), writer.pick(templates)));
        }
        if writer.chance(50) {
            writer.note(level[at + 2]);
            parts.push(format!("remove: [{}]", writer.pick(&["x-user", "x-backend", "X-Tier, x-absent", "x-extra", "content-type"])));
        }
        if !parts.is_empty() {
            sides.push(format!("{side}: {{{}}}", parts.join(", ")));
        }
    }
    format!("{{{}}}", sides.join(", "))
}

fn percentage(writer: &mut Writer<'_>) -> u8 {
    if writer.chance(75) { 100 } else { 0 }
}

fn fault(writer: &mut Writer<'_>) -> String {
    let mut parts = Vec::new();
    if writer.chance(45) {
        writer.note("fault.delay.fixedDelay");
        let share = if writer.chance(50) {
            writer.note("fault.delay.percent");
            format!("percent: {}", percentage(writer))
        } else {
            writer.note("fault.delay.percentage");
            format!("percentage: {{value: {}}}", percentage(writer))
        };
        parts.push(format!("delay: {{fixedDelay: 15ms, {share}}}"));
    }
    if parts.is_empty() || writer.chance(70) {
        let what = if writer.chance(50) {
            writer.note("fault.abort.httpStatus");
            format!("httpStatus: {}", [400, 429, 503, 555][writer.random.usize(..4)])
        } else {
            writer.note("fault.abort.grpcStatus");
            format!("grpcStatus: {:?}", writer.pick(&["UNAVAILABLE", "NOT_FOUND", "DEADLINE_EXCEEDED"]))
        };
        writer.note("fault.abort.percentage");
        parts.push(format!("abort: {{{what}, percentage: {{value: {}}}}}", percentage(writer)));
    }
    format!("fault: {{{}}}", parts.join(", "))
}

fn cors(writer: &mut Writer<'_>) -> (String, String) {
    let (origins, origin) = match writer.random.u8(..5) {
        0 => ("allowOrigin: [\"https://shop.example\"]", "https://shop.example"),
        1 => ("allowOrigins: [{exact: \"https://shop.example\"}]", "https://shop.example"),
        2 => ("allowOrigins: [{prefix: \"https://shop.\"}]", "https://shop.test"),
        3 => (r#"allowOrigins: [{exact: "null"}, {regex: "https://[a-z]+\\.example(:\\d+)?"}]"#, "https://api.example:8443"),
        _ => ("allowOrigins: [{exact: \"*\"}]", "https://any.where"),
    };
    writer.note(if origins.starts_with("allowOrigin:") { "corsPolicy.allowOrigin" } else { "corsPolicy.allowOrigins" });
    let mut parts = vec![origins.to_owned()];
    for (name, yaml) in [
        ("corsPolicy.allowMethods", "allowMethods: [GET, POST]"),
        ("corsPolicy.allowHeaders", "allowHeaders: [content-type, x-user]"),
        ("corsPolicy.exposeHeaders", "exposeHeaders: [x-backend, x-set]"),
        ("corsPolicy.maxAge", "maxAge: 90s"),
        ("corsPolicy.allowCredentials", "allowCredentials: true"),
        ("corsPolicy.unmatchedPreflights", "unmatchedPreflights: IGNORE"),
    ] {
        if writer.chance(50) {
            writer.note(name);
            parts.push(yaml.to_owned());
        }
    }
    (format!("corsPolicy: {{{}}}", parts.join(", ")), origin.to_owned())
}

fn retries(writer: &mut Writer<'_>, parts: &mut Vec<String>) -> String {
    writer.note("retries.attempts");
    let attempts = writer.random.u8(..4);
    let mut fields = vec![format!("attempts: {attempts}")];
    let mut on = String::new();
    if attempts > 0 {
        if writer.chance(80) {
            writer.note("retries.retryOn");
            on = writer
                .pick(&[
                    "5xx",
                    "gateway-error",
                    "reset",
                    "connect-failure,refused-stream",
                    "retriable-4xx",
                    "404,503",
                    "retriable-status-codes,418",
                    "reset-before-request,5xx",
                    "unavailable,cancelled",
                    "envoy-ratelimited,resource-exhausted",
                    "deadline-exceeded,internal",
                ])
                .to_owned();
            fields.push(format!("retryOn: {on:?}"));
        }
        if writer.chance(30) {
            writer.note("retries.perTryTimeout");
            fields.push("perTryTimeout: 150ms".to_owned());
        }
        if writer.chance(50) {
            writer.note("retries.retryIgnorePreviousHosts");
            fields.push(format!("retryIgnorePreviousHosts: {}", writer.chance(50)));
        }
        if writer.chance(50) {
            writer.note("retries.backoff");
            fields.push("backoff: 2ms".to_owned());
        }
    }
    parts.push(format!("retries: {{{}}}", fields.join(", ")));
    if on.is_empty() { "503".to_owned() } else { on }
}

/// Mirrors go to backends that answer nothing else.
fn mirrors(writer: &mut Writer<'_>, parts: &mut Vec<String>) {
    if writer.chance(60) {
        writer.note("mirror");
        parts.push(format!("mirror: {{host: mirror.{NAMESPACE}.svc.cluster.local, subset: one}}"));
        match writer.random.u8(..3) {
            0 => {
                writer.note("mirrorPercentage");
                parts.push(format!("mirrorPercentage: {{value: {}}}", percentage(writer)));
            }
            1 => {
                writer.note("mirrorPercent");
                parts.push(format!("mirrorPercent: {}", percentage(writer)));
            }
            _ => {}
        }
    } else {
        writer.note("mirrors");
        writer.note("mirrors.percentage");
        let (first, second) = (percentage(writer), percentage(writer));
        parts.push(format!(
            "mirrors: [{{destination: {{host: mirror, subset: one}}, percentage: {{value: {first}}}}}, \
             {{destination: {{host: mirror, subset: other, port: {{number: 80}}}}, percentage: {{value: {second}}}}}]"
        ));
    }
}

/// The destinations of all configurations: services, subsets, and the workloads behind them at these ports.
pub fn pools(backends: &[(&str, &str, u16)]) -> String {
    let mut yaml = String::new();
    for app in ["pool", "mirror"] {
        yaml.push_str(&format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {app}, namespace: {NAMESPACE}}}\n\
             spec: {{selector: {{app: {app}}}, ports: [{{name: http, port: 80, targetPort: http}}, {{name: http-b, port: 8080, targetPort: http}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {app}, namespace: {NAMESPACE}}}\nspec:\n  host: {app}\n  subsets:\n"
        ));
        let versions = backends.iter().filter(|(of, ..)| *of == app).map(|(_, version, _)| *version);
        for version in versions.chain(["nobody"]) {
            yaml.push_str(&format!("  - {{name: {version}, labels: {{version: {version}}}}}\n"));
        }
    }
    for (app, version, port) in backends.iter().copied().chain([("client", "v1", 9)]) {
        yaml.push_str(&format!(
            "---\napiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {{name: {app}-{version}, namespace: {NAMESPACE}, labels: {{app: {app}, version: {version}}}}}\n\
             spec: {{command: [\"true\"], ports: [{{name: http, containerPort: {port}, localPort: {port}}}]}}\n"
        ));
    }
    yaml
}
