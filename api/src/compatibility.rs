//! `docs/compatibility.md`: what Pillion does with each field, made from the table.
//!
//! In:  the table. Out: Markdown.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::object::Kind;
use crate::table::{MessageInfo, Row, Status, Type, rows};

/// Kinds of Istio that are refused, for the page.
const REFUSED_KINDS: &[(&str, &str)] = &[
    ("EnvoyFilter", "VirtualService, DestinationRule, Telemetry or AuthorizationPolicy, by what it should achieve"),
    ("WasmPlugin, TrafficExtension", "AuthorizationPolicy and RequestAuthentication for access, Telemetry for tags"),
    ("IstioOperator", "`meshConfig` in the ConfigMap `istio`, key `mesh`, or `--mesh-config`"),
    ("ServiceRole, ServiceRoleBinding, RbacConfig", "AuthorizationPolicy"),
    ("Policy, MeshPolicy", "PeerAuthentication and RequestAuthentication"),
];

const HEAD: &str = "# Compatibility with Istio

Every field of Istio's API is read and checked. What Pillion does with it:

- **enforced**: it does what it does in Istio.
- **not yet enforced**: it is accepted, changes nothing so far, and using it gives a warning (`PLN1017`).
- **ignored, as Istio ignores it**: it is accepted, has no effect there either, and using it gives a warning (`PLN1017`).
- **a label**: a name for people. Nothing depends on it, in Istio neither.
- **refused**: it is an error that names the alternative.

Field names are accepted as Istio's YAML has them (`jwksUri`) and as its protos have them (`jwks_uri`). Unknown fields, wrong types and bad
values are errors. All versions of an API group mean the same. Kinds that are not listed here are skipped and counted.

This page is generated from the table that also makes the decoders (`PILLION_UPDATE=1 cargo test -p pillion-api --test compatibility`).
";

/// Where traffic is not what it would be in Istio with Envoy, on purpose. Each has a test that asserts it.
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "`x-envoy-retry-on`, `x-envoy-retry-grpc-on`, `x-envoy-max-retries`, `x-envoy-retriable-status-codes`, `x-envoy-retriable-header-names`, \
         `x-envoy-upstream-rq-timeout-ms`, `x-envoy-upstream-rq-per-try-timeout-ms`",
        "honoured of the application beside a sidecar. Envoy takes them away unless it is told which addresses are internal, and Istio does not tell it",
    ),
    (
        "mirrors",
        "a copy that lags more than 1 MiB behind the body it copies breaks off; without a `timeout` a copy is given up after 60 s; \
         where no connection to the route's own upstream can be made, the copy of a request with a body breaks off, too. \
         Upgraded streams are not mirrored. The host has no suffix `-shadow`, as with Istio's default `DISABLE_SHADOW_HOST_SUFFIX=true`",
    ),
    ("`rewrite.uriRegexRewrite`", "a result that does not begin with `/` gets one"),
    ("HTTP/1.0", "served, and the connection is closed; Envoy answers 426"),
    (
        "the length of an answer without a body",
        "taken away from 204 and 304; Envoy answers 502 in the place of the one, and passes the other on",
    ),
    ("heads that cannot be read", "answered by the codec with the status alone; Envoy adds a text and `server`"),
    (
        "reason phrases",
        "that of an upstream is passed on; a status that has none is given `<none>`. Envoy writes the usual phrase, or `Unknown`",
    ),
    (
        "`UPSTREAM_CLUSTER` of what the proxy answers itself",
        "nothing, where a fault or a CORS preflight was answered before a cluster was chosen; Envoy logs the route's",
    ),
    (
        "`BYTES_RECEIVED` of what no upstream received",
        "what was read of the body, and it is not read before there is a connection; Envoy reads it at once",
    ),
    ("`%RESPONSE_CODE%` in added headers", "the status, in answers of `redirect` and `directResponse`, too; Envoy says 0 there"),
    ("`directResponse` of status 304", "as written; Envoy adds `location`"),
    ("`directResponse` and `redirect` for gRPC", "as written; Envoy makes a gRPC status of them"),
    ("answers to `HEAD`", "without `transfer-encoding`; Envoy writes `chunked` where no length is known"),
    ("answers before a body was read", "the connection is kept and the body skipped; Envoy closes"),
    ("unknown methods in lower case", "forwarded, since methods are case-sensitive tokens; Envoy answers 400"),
    ("requests without a body", "without `content-length`; Envoy adds `0` where the method is neither `GET` nor `HEAD`"),
    ("retries on a gRPC status", "for gRPC requests only; Envoy looks for `grpc-status` in every answer"),
    ("a fragment in a target", "dropped; Envoy answers 400"),
    ("`Host` twice, or with userinfo", "refused with 400; Envoy joins the values with a comma, and finds no such host"),
    ("`content-length` beside `transfer-encoding`", "served as chunked, and the connection is closed; Envoy answers 400"),
    ("`OPTIONS *`", "goes where a route matches; Envoy answers 404"),
    ("`x-envoy-peer-metadata`", "sent to upstreams, also by a proxy that runs from files; a stock Envoy needs a filter for it"),
];

/// The page.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    overview(&mut page);
    for kind in Kind::ALL {
        section(&mut page, *kind);
    }
    page.push_str("\n## Known differences\n\n| what | here |\n|---|---|\n");
    for (what, here) in DIFFERENCES {
        let _ = writeln!(page, "| {what} | {here} |");
    }
    page.push_str("\n## Refused kinds\n\n| kind | instead |\n|---|---|\n");
    for (kind, instead) in REFUSED_KINDS {
        let _ = writeln!(page, "| {kind} | {instead} |");
    }
    page
}

fn overview(page: &mut String) {
    page.push_str("\n| kind | apiVersions | as a whole | fields enforced |\n|---|---|---|---|\n");
    for kind in Kind::ALL {
        let all = rows(*kind);
        let enforced = all.iter().filter(|row| row.status == Status::Enforced).count();
        let fields =
            if kind.info().open { format!("{enforced}; the rest is Kubernetes' business") } else { format!("{enforced} of {}", all.len()) };
        let _ =
            writeln!(page, "| [{kind}](#{}) | {} | {} | {fields} |", kind.as_str().to_lowercase(), versions(*kind), word(kind.status()));
    }
}

fn versions(kind: Kind) -> String {
    if kind == Kind::MeshConfig {
        return "ConfigMap `istio`, key `mesh`, or `--mesh-config`".into();
    }
    let group = if kind.group().is_empty() { String::new() } else { format!("{}/", kind.group()) };
    let versions: Vec<String> = kind.versions().iter().map(|version| format!("`{group}{version}`")).collect();
    versions.join(", ")
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Enforced => "enforced",
        Status::NotYetEnforced => "not yet enforced",
        Status::Inert => "ignored, as Istio ignores it",
        Status::Label => "a label",
        Status::Refused { .. } => "refused",
    }
}

fn section(page: &mut String, kind: Kind) {
    let all = rows(kind);
    let _ = write!(page, "\n## {kind}\n\n");
    if all.is_empty() {
        page.push_str("Its name and metadata are read, nothing else.\n");
        return;
    }
    if kind.status() == Status::NotYetEnforced {
        let top: Vec<String> = all.iter().filter(|row| row.depth == 0).map(|row| format!("`{}`", row.field.name)).collect();
        let _ = writeln!(page, "Not yet enforced as a whole. Read and checked: {} and everything inside them.", top.join(", "));
        return;
    }
    page.push_str("| field | type | |\n|---|---|---|\n");
    let mut shown: HashSet<*const MessageInfo> = HashSet::new();
    retired(page, kind.info(), if kind.at_root() { "" } else { "spec." });
    let mut skip_inside: Option<usize> = None;
    for row in &all {
        if skip_inside.is_some_and(|depth| row.depth > depth) {
            continue;
        }
        skip_inside = line(page, row, &mut shown);
    }
}

/// Writes one row; returns its depth when what is inside it needs no rows of its own.
fn line(page: &mut String, row: &Row, shown: &mut HashSet<*const MessageInfo>) -> Option<usize> {
    let message = row.field.ty.message();
    let remark = match row.status {
        Status::Enforced => "enforced".to_owned(),
        Status::NotYetEnforced if message.is_some() => "not yet enforced, with everything inside".to_owned(),
        Status::NotYetEnforced => "not yet enforced".to_owned(),
        Status::Inert | Status::Label => word(row.status).to_owned(),
        Status::Refused { alternative } => format!("refused: {alternative}"),
    };
    let again =
        row.status == Status::Enforced && message.is_some_and(|info| !info.fields.is_empty() && !shown.insert(std::ptr::from_ref(info)));
    let remark = if again { format!("{remark}, as {} above", message.map_or("", |info| info.name)) } else { remark };
    let _ = writeln!(page, "| `{}` | {} | {remark} |", row.path, row.field.ty.describe());
    if row.status != Status::Enforced || again {
        return Some(row.depth);
    }
    if let Some(info) = row.field.ty.enumeration() {
        for value in info.values.iter().filter(|value| value.status != Status::Enforced) {
            let _ = writeln!(page, "| `{}: {}` | | {} |", row.path, value.name, word(value.status));
        }
    }
    if let Some(info) = message {
        let brackets = match row.field.ty {
            Type::List(_) => "[]",
            Type::Map(_) => "{}",
            _ => "",
        };
        retired(page, info, &format!("{}{brackets}.", row.path));
    }
    None
}

fn retired(page: &mut String, info: &MessageInfo, prefix: &str) {
    for (name, instead) in info.retired.iter().filter(|(name, _)| !name.contains('_')) {
        let _ = writeln!(page, "| `{prefix}{name}` | | refused: {instead} |");
    }
}
