//! Differences that are known: each is a row that says exactly what either proxy does, and a line in docs/compatibility.md.
//!
//! In:  one configuration, one request per row.
//! Out: what only Envoy and what only our proxy shows; anything else fails.

use std::fs;

use pillion_e2e::{peers, workspace};

use crate::{
    Bench,
    generate::NAMESPACE,
    observe::{Names, Observation},
    wire::Client,
};

#[derive(Clone, Copy)]
enum Where {
    Client,
    Upstream,
    Log,
}

/// The line of docs/compatibility.md, the request's head without `user-agent`, its body, where to look, only Envoy's lines, only ours.
type Known = (&'static str, &'static str, &'static str, Where, &'static [&'static str], &'static [&'static str]);

const SERVED: &[&str] = &[
    "HTTP/1.1 200 OK",
    "content-length: 8",
    "from v1\n",
    "x-backend: v1",
    "x-envoy-upstream-service-time: <ms>",
    "x-mixed: One",
    "x-mixed: two",
];
const CLUSTER: &str = "upstream_cluster: \"outbound|80|v1|pool.team.svc.cluster.local\"";

const KNOWN: [Known; 22] = [
    (
        "reason phrases",
        "GET /p HTTP/1.1\r\nhost: known.test\r\nx-do: status=404",
        "",
        Where::Client,
        &["HTTP/1.1 404 Not Found"],
        &["HTTP/1.1 404 Some Reason"],
    ),
    ("reason phrases", "GET /fault HTTP/1.1\r\nhost: known.test", "", Where::Client, &["HTTP/1.1 555 Unknown"], &["HTTP/1.1 555 <none>"]),
    (
        "`UPSTREAM_CLUSTER` of what the proxy answers itself",
        "GET /fault HTTP/1.1\r\nhost: known.test",
        "",
        Where::Log,
        &[CLUSTER],
        &["upstream_cluster: null"],
    ),
    (
        "`UPSTREAM_CLUSTER` of what the proxy answers itself",
        "OPTIONS /cors HTTP/1.1\r\nhost: known.test\r\norigin: https://shop.example\r\naccess-control-request-method: GET",
        "",
        Where::Log,
        &[CLUSTER],
        &["upstream_cluster: null"],
    ),
    (
        "HTTP/1.0",
        "GET /p HTTP/1.0\r\nhost: known.test",
        "",
        Where::Client,
        &["HTTP/1.1 426 Upgrade Required", "Upgrade Required", "connection: close", "content-length: 16", "content-type: text/plain"],
        &[
            "HTTP/1.0 200 OK",
            "content-length: 8",
            "from v1\n",
            "x-backend: v1",
            "x-envoy-upstream-service-time: <ms>",
            "x-mixed: One",
            "x-mixed: two",
        ],
    ),
    (
        "the length of an answer without a body",
        "GET /p HTTP/1.1\r\nhost: known.test\r\nx-do: length-of-none=204",
        "",
        Where::Client,
        &[
            "HTTP/1.1 502 Bad Gateway",
            "content-length: 87",
            "content-type: text/plain",
            "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
        ],
        &["", "HTTP/1.1 204 Some Reason", "x-backend: v1", "x-envoy-upstream-service-time: <ms>", "x-mixed: One", "x-mixed: two"],
    ),
    (
        "the length of an answer without a body",
        "GET /p HTTP/1.1\r\nhost: known.test\r\nx-do: length-of-none=304",
        "",
        Where::Client,
        &["HTTP/1.1 304 Not Modified", "content-length: 8"],
        &["HTTP/1.1 304 Some Reason"],
    ),
    (
        "heads that cannot be read",
        "GET /p HTTP/1.1\r\nhost: known.test\r\nno field",
        "",
        Where::Client,
        &["Bad Request", "content-length: 11", "content-type: text/plain", "server: envoy"],
        &["", "content-length: 0"],
    ),
    (
        "`BYTES_RECEIVED` of what no upstream received",
        "POST /dead HTTP/1.1\r\nhost: known.test\r\ncontent-length: 3",
        "abc",
        Where::Log,
        &["bytes_received: 3"],
        &["bytes_received: 0"],
    ),
    ("`%RESPONSE_CODE%` in added headers", "GET /redirect HTTP/1.1\r\nhost: known.test", "", Where::Client, &["x-add: 0"], &["x-add: 303"]),
    (
        "`directResponse` of status 304",
        "GET /unchanged HTTP/1.1\r\nhost: known.test",
        "",
        Where::Client,
        &["location: http://known.test/unchanged"],
        &[],
    ),
    (
        "`directResponse` and `redirect` for gRPC",
        "GET /direct HTTP/1.1\r\nhost: known.test\r\ncontent-type: application/grpc",
        "",
        Where::Client,
        &["", "content-length: 0", "content-type: application/grpc", "grpc-message: %00%01%02%03", "grpc-status: 2"],
        &["\0\u{1}\u{2}\u{3}", "content-length: 4", "content-type: text/plain"],
    ),
    ("answers to `HEAD`", "HEAD /missing HTTP/1.1\r\nhost: known.test", "", Where::Client, &["transfer-encoding: chunked"], &[]),
    (
        "answers before a body was read",
        "POST /direct HTTP/1.1\r\nhost: known.test\r\ncontent-length: 3",
        "abc",
        Where::Client,
        &["connection: close"],
        &[],
    ),
    (
        "unknown methods in lower case",
        "get /p HTTP/1.1\r\nhost: known.test",
        "",
        Where::Client,
        &["Bad Request", "HTTP/1.1 400 Bad Request", "connection: close", "content-length: 11", "content-type: text/plain"],
        SERVED,
    ),
    ("requests without a body", "PURGE /p HTTP/1.1\r\nhost: known.test", "", Where::Upstream, &["content-length: 0"], &[]),
    (
        "retries on a gRPC status",
        "GET /p HTTP/1.1\r\nhost: known.test\r\nx-do: grpc=14",
        "",
        Where::Log,
        &["response_flags: \"URX\""],
        &["response_flags: \"-\""],
    ),
    (
        "a fragment in a target",
        "GET /p#f HTTP/1.1\r\nhost: known.test",
        "",
        Where::Client,
        &["", "HTTP/1.1 400 Bad Request", "connection: close", "content-length: 0"],
        SERVED,
    ),
    (
        "`Host` twice, or with userinfo",
        "GET /p HTTP/1.1\r\nhost: known.test\r\nhost: known.test",
        "",
        Where::Client,
        &["", "HTTP/1.1 502 Bad Gateway", "content-length: 0"],
        &["Bad Request", "HTTP/1.1 400 Bad Request", "connection: close", "content-length: 11", "content-type: text/plain"],
    ),
    (
        "`Host` twice, or with userinfo",
        "GET /p HTTP/1.1\r\nhost: a@known.test",
        "",
        Where::Client,
        &["", "HTTP/1.1 502 Bad Gateway", "content-length: 0"],
        &["Bad Request", "HTTP/1.1 400 Bad Request", "connection: close", "content-length: 11", "content-type: text/plain"],
    ),
    (
        "`content-length` beside `transfer-encoding`",
        "POST /p HTTP/1.1\r\nhost: known.test\r\ncontent-length: 3\r\ntransfer-encoding: chunked",
        "3\r\nabc\r\n0\r\n\r\n",
        Where::Client,
        &["Bad Request", "HTTP/1.1 400 Bad Request", "content-length: 11", "content-type: text/plain"],
        SERVED,
    ),
    (
        "`OPTIONS *`",
        "OPTIONS * HTTP/1.1\r\nhost: known.test",
        "",
        Where::Log,
        &["response_code_details: \"absolute_path_rejected\"", "response_flags: \"-\""],
        &["response_code_details: \"route_not_found\"", "response_flags: \"NR\""],
    ),
];

fn configuration() -> String {
    format!(
        r#"---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: known, namespace: {NAMESPACE}}}
spec: {{hosts: [known.test], location: MESH_EXTERNAL, resolution: DNS, endpoints: [{{address: 127.0.0.1}}], ports: [{{number: 80, name: http, protocol: HTTP}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: known, namespace: {NAMESPACE}}}
spec:
  hosts: [known.test]
  http:
  - {{match: [{{uri: {{prefix: /p}}}}], route: [{{destination: {{host: pool, subset: v1}}}}]}}
  - {{match: [{{uri: {{prefix: /dead}}}}], route: [{{destination: {{host: pool, subset: dead}}}}]}}
  - {{match: [{{uri: {{prefix: /fault}}}}], fault: {{abort: {{httpStatus: 555, percentage: {{value: 100}}}}}}, route: [{{destination: {{host: pool, subset: v1}}}}]}}
  - {{match: [{{uri: {{prefix: /cors}}}}], corsPolicy: {{allowOrigins: [{{exact: "https://shop.example"}}], allowMethods: [GET]}}, route: [{{destination: {{host: pool, subset: v1}}}}]}}
  - {{match: [{{uri: {{prefix: /redirect}}}}], redirect: {{uri: "/moved?now=1", derivePort: FROM_REQUEST_PORT, redirectCode: 303}}, headers: {{response: {{add: {{x-add: "%RESPONSE_CODE%"}}}}}}}}
  - {{match: [{{uri: {{prefix: /direct}}}}], directResponse: {{status: 200, body: {{bytes: AAECAw==}}}}}}
  - {{match: [{{uri: {{prefix: /unchanged}}}}], directResponse: {{status: 304}}}}
"#
    )
}

fn lines(observation: &Observation, place: Where) -> Vec<String> {
    match place {
        Where::Client => observation.client.clone(),
        Where::Upstream => observation.upstream.concat(),
        Where::Log => observation.log.clone(),
    }
}

/// What of `these` has no like among `those`.
fn only(these: &[String], those: &[String]) -> Vec<String> {
    let mut those = those.to_vec();
    let mut left: Vec<String> = Vec::new();
    for line in these {
        match those.iter().position(|other| other == line) {
            Some(at) => drop(those.swap_remove(at)),
            None => left.push(line.clone()),
        }
    }
    left.sort();
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn known_differences_are_exactly_these() {
    let Some(envoy) = peers::find("envoy") else { return };
    let page = fs::read_to_string(workspace().join("docs/compatibility.md")).expect("the page");
    let bench = Bench::start(&envoy, &configuration(), 1).await;
    let names = Names { backends: &bench.names, shot: None };
    let mut wrong = Vec::new();
    for (number, (what, head, body, place, envoys, ours)) in KNOWN.iter().enumerate() {
        assert!(page.contains(&format!("| {what} |")), "{what} is not in docs/compatibility.md");
        let mut both = Vec::new();
        for proxy in &bench.pair.proxies {
            let mark = format!("{}-known-{number}", proxy.name);
            let request = format!("{head}\r\nuser-agent: {mark}\r\n\r\n{body}");
            let got = Client::new(&proxy.outbound).ask(request.as_bytes(), head.starts_with("HEAD")).await;
            let log = if matches!(place, Where::Log) { bench.logged(proxy, &mark).await } else { Vec::new() };
            let mut observation = Observation {
                client: names.client(&got),
                upstream: bench.ledger.of(&mark).iter().map(|received| names.upstream(received)).collect(),
                log: log.iter().flat_map(|line| names.log(line)).collect(),
            };
            for received in &mut observation.upstream {
                let before = received.len();
                received.retain(|line| !line.starts_with("x-envoy-peer-metadata"));
                assert_eq!(before - received.len(), if proxy.name == "envoy" { 0 } else { 2 }, "{}: {what}", proxy.name);
            }
            both.push(lines(&observation, *place));
        }
        let (only_envoy, only_ours) = (only(&both[0], &both[1]), only(&both[1], &both[0]));
        if only_envoy != *envoys || only_ours != *ours {
            wrong.push(format!("{what}\n{head}\n  envoy alone: {only_envoy:?}\n  ours alone: {only_ours:?}"));
        }
    }
    assert!(page.contains("| `x-envoy-peer-metadata` |"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
