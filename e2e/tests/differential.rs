//! Stock Envoy and our proxy do the same with what `pillion translate` writes.
//!
//! In:  a seed (`PILLION_SEED`, else a fixed one), which makes configurations and requests; `envoy`, without which there is nothing to compare.
//! Out: the first differences, with the YAML and the request; and that the generator reached every field.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test's helpers may fail loudly

#[path = "differential/actions.rs"]
mod actions;
#[path = "differential/backends.rs"]
mod backends;
#[path = "differential/generate.rs"]
mod generate;
#[path = "differential/known.rs"]
mod known;
#[path = "differential/observe.rs"]
mod observe;
#[path = "differential/proxies.rs"]
mod proxies;
#[path = "differential/requests.rs"]
mod requests;
#[path = "differential/wire.rs"]
mod wire;

use std::{collections::BTreeMap, fmt::Write, io, time::Duration};

use fastrand::Rng;
use futures_util::future::join_all;
use pillion_e2e::{eventually, peers};
use serde_json::Value;
use tokio::net::TcpSocket;

use backends::Ledger;
use generate::Configuration;
use observe::{Names, Observation};
use proxies::{Pair, Proxy, Weights};
use requests::Shot;
use wire::{Client, Got};

/// Used where `PILLION_SEED` says nothing else.
const SEED: u64 = 1;
const CONFIGURATIONS: usize = 200;
const REQUESTS: usize = 26;
/// In so many configurations at least every field is.
const LEAST: usize = 10;
/// Requests that are open at once, at each proxy.
const ABREAST: usize = 12;
/// A difference counts when it is there each of so many times: a busy machine may miss a timeout.
const TIMES: usize = 3;

/// Every field that configurations are made of.
const FIELDS: [&str; 77] = [
    "match.name",
    "match.uri.exact",
    "match.uri.prefix",
    "match.uri.regex",
    "match.ignoreUriCase",
    "match.method",
    "match.scheme",
    "match.authority",
    "match.headers.exact",
    "match.headers.prefix",
    "match.headers.regex",
    "match.headers.present",
    "match.withoutHeaders.exact",
    "match.withoutHeaders.prefix",
    "match.withoutHeaders.regex",
    "match.withoutHeaders.present",
    "match.queryParams.exact",
    "match.queryParams.prefix",
    "match.queryParams.regex",
    "match.queryParams.present",
    "match.port",
    "match.sourceLabels",
    "match.sourceNamespace",
    "match.gateways",
    "delegate",
    "directResponse.status",
    "directResponse.body.string",
    "directResponse.body.bytes",
    "redirect.uri",
    "redirect.prefixRewrite",
    "redirect.authority",
    "redirect.port",
    "redirect.derivePort",
    "redirect.scheme",
    "redirect.redirectCode",
    "route.weight: all and nothing",
    "route.weight: a split",
    "rewrite.uri",
    "rewrite.uriRegexRewrite",
    "rewrite.authority",
    "headers.request.set",
    "headers.request.add",
    "headers.request.remove",
    "headers.response.set",
    "headers.response.add",
    "headers.response.remove",
    "route.headers.request.set",
    "route.headers.request.add",
    "route.headers.request.remove",
    "route.headers.response.set",
    "route.headers.response.add",
    "route.headers.response.remove",
    "fault.delay.fixedDelay",
    "fault.delay.percent",
    "fault.delay.percentage",
    "fault.abort.httpStatus",
    "fault.abort.grpcStatus",
    "fault.abort.percentage",
    "corsPolicy.allowOrigin",
    "corsPolicy.allowOrigins",
    "corsPolicy.allowMethods",
    "corsPolicy.allowHeaders",
    "corsPolicy.exposeHeaders",
    "corsPolicy.maxAge",
    "corsPolicy.allowCredentials",
    "corsPolicy.unmatchedPreflights",
    "retries.attempts",
    "retries.retryOn",
    "retries.perTryTimeout",
    "retries.retryIgnorePreviousHosts",
    "retries.backoff",
    "timeout",
    "mirror",
    "mirrors",
    "mirrorPercentage",
    "mirrorPercent",
    "mirrors.percentage",
];

const MESH: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
     accessLogFile: /dev/stdout\n    accessLogEncoding: JSON\n    outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n";

/// Both proxies, the backends, and what is known of them.
struct Bench {
    pair: Pair,
    ledger: Ledger,
    /// Address and name of each backend.
    names: Vec<(String, String)>,
    /// By virtual host and route: clusters and weights, the same for both.
    weights: BTreeMap<String, Weights>,
    _dead: TcpSocket,
}

impl Bench {
    /// `routes`: how many there are at least.
    async fn start(envoy: &std::path::Path, configurations: &str, routes: usize) -> Self {
        let ledger = Ledger::default();
        let mut workloads = Vec::new();
        for (app, version, name) in [
            ("pool", "v1", "v1"),
            ("pool", "v2", "v2"),
            ("pool", "v3", "v3"),
            ("mirror", "one", "mirror"),
            ("mirror", "other", "mirror-other"),
        ] {
            workloads.push((app, version, backends::start(name, &ledger).await));
        }
        // A port that nobody serves, and that nobody else can have.
        let dead = TcpSocket::new_v4().expect("a socket");
        dead.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        workloads.push(("pool", "dead", dead.local_addr().expect("an address").port()));
        let names = workloads.iter().map(|(app, version, port)| {
            (format!("127.0.0.1:{port}"), if *app == "pool" { format!("<{version}>") } else { format!("<{app}>") })
        });
        let names = names.collect();
        let pair = Pair::start(envoy, &format!("{MESH}{}{configurations}", actions::pools(&workloads))).await;
        let [envoy, ours] = &pair.proxies;
        let weights = eventually("both have the same routes, with the same clusters and weights", Duration::from_secs(30), || async {
            let (envoy, ours) = (envoy.weights().await, ours.weights().await);
            (envoy.len() > routes && envoy == ours).then_some(envoy)
        })
        .await;
        Self { pair, ledger, names, weights, _dead: dead }
    }

    /// Every shot at both proxies; observations in the order of the shots.
    async fn fire(&self, shots: &[(usize, &Shot)], round: usize) -> Vec<[Observation; 2]> {
        let [envoy, ours] = &self.pair.proxies;
        let (envoy, ours) = tokio::join!(volley(envoy, shots, round), volley(ours, shots, round));
        let all = [envoy, ours];
        let mut logs = Vec::new();
        for (proxy, got) in self.pair.proxies.iter().zip(&all) {
            logs.push(
                eventually(&format!("{} has written its access log", proxy.name), Duration::from_secs(20), || async {
                    let lines = proxy.lines();
                    got.iter().all(|(mark, got)| got.is_err() || lines.contains_key(mark)).then_some(lines)
                })
                .await,
            );
        }
        (0..shots.len())
            .map(|at| {
                [0, 1].map(|side| {
                    let (mark, got) = &all[side][at];
                    self.observe(shots[at].1, mark, got, logs[side].get(mark).map_or(&[], Vec::as_slice))
                })
            })
            .collect()
    }

    /// The lines of the access log of one mark, which may take a moment.
    async fn logged(&self, proxy: &Proxy, mark: &str) -> Vec<Value> {
        eventually(&format!("{} logs {mark}", proxy.name), Duration::from_secs(20), || async { proxy.lines().remove(mark) }).await
    }

    fn observe(&self, shot: &Shot, mark: &str, got: &io::Result<Got>, lines: &[Value]) -> Observation {
        let names = Names { backends: &self.names, shot: Some(shot) };
        let mut observation = Observation {
            client: names.client(got),
            upstream: self.ledger.of(mark).iter().map(|received| names.upstream(received)).collect(),
            log: lines.iter().flat_map(|line| names.log(line)).collect(),
        };
        if shot.headers.iter().any(|(_, value)| value == "application/grpc")
            && lines.iter().any(|line| line["response_code_details"] == "direct_response")
        {
            // Known: a direct response to gRPC.
            observation.client.clear();
            observation.log.clear();
        }
        if shot.body != requests::Body::None && lines.iter().any(|line| !line["upstream_transport_failure_reason"].is_null()) {
            // Known: the copy of a body breaks off where there is no connection for the body itself.
            observation.upstream.retain(|received| !received[0].starts_with("at mirror"));
        }
        for line in lines {
            let cluster = line["upstream_cluster"].as_str().unwrap_or_default();
            let route = line["route_name"].as_str().unwrap_or_default();
            let suffix = format!(" {route}");
            // A route has a name, and a virtual host for each port of the service.
            let of_route =
                || self.weights.iter().filter(|(name, _)| !route.is_empty() && name.ends_with(&suffix)).map(|(_, weights)| weights);
            let chosen = of_route().find(|weights| weights.iter().any(|(name, _)| name == cluster));
            let Some(eligible) = chosen.or_else(|| of_route().next()) else { continue };
            if eligible.iter().filter(|(_, weight)| *weight > 0).count() > 1 {
                // What the proxy answers itself needs no cluster.
                let known = cluster.is_empty() || eligible.iter().any(|(name, weight)| name == cluster && *weight > 0);
                assert!(known, "{mark}: {cluster} is none of {eligible:?}");
                observe::blur(&mut observation, &["v1", "v2"]);
            }
        }
        // Copies arrive when they like.
        observation.upstream.sort();
        observation
    }

    /// The shots that differ each of [`TIMES`] times.
    async fn compare(&self, shots: &[Shot]) -> (Vec<(usize, [Observation; 2])>, usize) {
        let mut open: Vec<(usize, &Shot)> = shots.iter().enumerate().collect();
        let mut repeated = 0;
        for round in 0.. {
            let seen = self.fire(&open, round).await;
            // No answer is no observation, even from both.
            let mute = |seen: &Observation| seen.client.first().is_some_and(|line| line.starts_with("no answer"));
            let differing: Vec<_> = open
                .iter()
                .zip(seen)
                .filter(|(_, [envoy, ours])| envoy != ours || mute(envoy))
                .map(|((number, _), both)| (*number, both))
                .collect();
            if differing.is_empty() || round + 1 == TIMES {
                return (differing, repeated);
            }
            if round == 0 {
                repeated = differing.len();
            }
            open = differing.iter().map(|(number, _)| (*number, &shots[*number])).collect();
        }
        unreachable!("the last round returns")
    }
}

/// Every shot at one proxy; marks and answers in the order of the shots.
async fn volley(proxy: &Proxy, shots: &[(usize, &Shot)], round: usize) -> Vec<(String, io::Result<Got>)> {
    let lane = |lane: usize| async move {
        let mut client = Client::new(&proxy.outbound);
        let mut got = Vec::new();
        for (at, (number, shot)) in shots.iter().enumerate().skip(lane).step_by(ABREAST) {
            let mark = format!("{}-{number}-{round}", proxy.name);
            let answer = client.ask(&shot.bytes(&mark), shot.method == "HEAD").await;
            got.push((at, mark, answer));
        }
        got
    };
    let mut got = join_all((0..ABREAST).map(lane)).await.into_iter().flatten().collect::<Vec<_>>();
    got.sort_by_key(|(at, ..)| *at);
    got.into_iter().map(|(_, mark, answer)| (mark, answer)).collect()
}

fn report(configurations: &[Configuration], shots: &[Shot], found: &[(usize, [Observation; 2])], seed: u64) -> String {
    let mut text = format!("{} of {} requests differ", found.len(), shots.len());
    let shown = std::env::var("PILLION_SHOW").ok().and_then(|count| count.parse().ok()).unwrap_or(3);
    for (number, [envoy, ours]) in found.iter().take(shown) {
        let (shot, configuration) = (&shots[*number], &configurations[number / REQUESTS]);
        let request = String::from_utf8_lossy(&shot.bytes("…")).into_owned();
        let _ = write!(text, "\n\n{}\n{request}\n{}", configuration.yaml, observe::difference(envoy, ours));
    }
    let _ = write!(text, "\n\nagain: PILLION_SEED={seed} cargo test -p pillion-e2e --test differential");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_and_our_proxy_do_the_same_with_generated_configurations() {
    let Some(envoy) = peers::find("envoy") else { return };
    let seed = std::env::var("PILLION_SEED").ok().map_or(SEED, |seed| seed.parse().expect("a number"));
    println!("PILLION_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let configurations: Vec<Configuration> = (0..CONFIGURATIONS).map(|number| generate::configuration(&mut random, number)).collect();
    let mut shots: Vec<Shot> = Vec::new();
    for configuration in &configurations {
        shots.extend((0..REQUESTS).map(|at| requests::shoot(&mut random, configuration, at % 2 == 0)));
    }
    for field in FIELDS {
        let count = configurations.iter().filter(|configuration| configuration.fields.contains(field)).count();
        assert!(count >= LEAST, "{field} is in {count} configurations only");
    }
    let unlisted = configurations.iter().flat_map(|configuration| &configuration.fields).find(|field| !FIELDS.contains(field));
    assert_eq!(unlisted, None, "a field that is not counted");
    assert!(shots.iter().filter(|shot| shot.near_miss).count() * 2 >= shots.len());

    let yaml: String = configurations.iter().map(|configuration| &*configuration.yaml).collect();
    let bench = Bench::start(&envoy, &yaml, CONFIGURATIONS).await;
    let (found, repeated) = bench.compare(&shots).await;
    println!("{} requests, {repeated} repeated", shots.len());
    assert!(found.is_empty(), "{}", report(&configurations, &shots, &found, seed));
}
