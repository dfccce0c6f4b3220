//! Every example does what its README says.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use pillion_e2e::{
    client::{self, Client},
    eventually,
    mesh::Mesh,
    workspace,
};

const PRODUCT: &str = "http://product-service/api/products/7";

async fn releases(outbound: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut client = Client::new(outbound);
    let mut seen = BTreeMap::new();
    for _ in 0..requests {
        let answer = client.get(PRODUCT).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        *seen.entry(answer.json()["release"].as_str().unwrap_or("?").to_owned()).or_default() += 1;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_splits_ninety_to_ten_within_one_percent_and_obeys_an_edit() {
    let mut mesh = Mesh::example("canary").await;
    let outbound = mesh.outbound("visitor");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let outbound = outbound.clone();
        tasks.spawn(async move { releases(&outbound, 2500).await });
    }
    let mut v2 = 0;
    while let Some(seen) = tasks.join_next().await {
        v2 += seen.expect("no request failed").get("v2").copied().unwrap_or(0);
    }
    // 20,000 draws: the standard deviation is 0.2 %.
    assert!((1800..=2200).contains(&v2), "{v2} of 20000 went to v2");

    let edited = mesh.read("routes.yaml").replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100");
    mesh.apply("routes.yaml", &edited).await;
    assert_eq!(releases(&outbound, 200).await, BTreeMap::from([("v2".to_owned(), 200)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn header_routing_sends_testers_to_v2_and_everybody_else_to_v1() {
    let mesh = Mesh::example("header-routing").await;
    let outbound = mesh.outbound("visitor");
    type Headers = &'static [(&'static str, &'static str)];
    let cases: &[(&str, &str, Headers, u16, &str)] = &[
        ("everybody", PRODUCT, &[], 200, "v1"),
        ("a tester's header", PRODUCT, &[("x-user", "tester")], 200, "v2"),
        ("another's header", PRODUCT, &[("x-user", "testers")], 200, "v1"),
        ("a cookie among others", PRODUCT, &[("cookie", "a=b; release=v2")], 200, "v2"),
        ("a cookie that only ends like it", PRODUCT, &[("cookie", "arelease=v2")], 200, "v1"),
        ("a query parameter", "http://product-service/api/products/7?release=v2", &[], 200, "v2"),
        ("a rewritten path", "http://product-service/catalogue/7?x=1", &[], 200, "v1"),
        ("a direct response", "http://product-service/admin", &[], 403, ""),
        ("near the direct response", "http://product-service/admin/", &[], 404, ""),
    ];
    let mut client = Client::new(&outbound);
    for (name, uri, headers, status, release) in cases {
        let answer = client.call(Method::GET, uri, headers, "").await.expect("an answer");
        assert_eq!(answer.status.as_u16(), *status, "{name}: {}", answer.text());
        assert!(release.is_empty() || answer.json()["release"] == *release, "{name}: {}", answer.text());
        assert_eq!(answer.header("x-release"), if *release == "v2" { "v2" } else { "" }, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_injection_delays_and_aborts_without_reaching_the_service() {
    let mesh = Mesh::example("fault-injection").await;
    let (outbound, app) = (mesh.outbound("visitor"), mesh.app("product-v1", "http"));
    let mut client = Client::new(&outbound);
    let begun = Instant::now();
    let slow = client.call(Method::GET, PRODUCT, &[("x-experiment", "slow")], "").await.expect("an answer");
    assert!(slow.status == StatusCode::OK && begun.elapsed().as_millis() >= 400, "{:?} after {:?}", slow.status, begun.elapsed());
    let (mut aborted, requests) = (0, 2000);
    for _ in 0..requests {
        let answer = client.call(Method::GET, PRODUCT, &[("x-experiment", "broken")], "").await.expect("an answer");
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(answer.text(), "fault filter abort");
            aborted += 1;
        }
    }
    assert!((400..=600).contains(&aborted), "{aborted} of {requests} aborted; a quarter was asked for");
    let served = client::get(&app, "/count").await.json()["GET /api/products/7"].as_u64();
    assert_eq!(served, Some(requests - aborted + 1), "the service saw the others and nothing of the aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_repeat_reads_only_and_end_with_the_timeout() {
    let mesh = Mesh::example("retries-and-timeouts").await;
    let (outbound, app) = (mesh.outbound("visitor"), mesh.app("product-v1", "http"));
    let mut client = Client::new(&outbound);
    let count = || async { client::get(&app, "/count").await.json() };

    client::post(&app, "/fault", r#"{"status": 503, "percent": 100}"#).await;
    assert_eq!(client.get(PRODUCT).await.expect("an answer").status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(count().await["GET /api/products/7"], 4, "a read is tried four times");
    client.call(Method::POST, PRODUCT, &[], "{}").await.expect("an answer");
    assert_eq!(count().await["POST /api/products/7"], 1, "a write is tried once");

    client::post(&app, "/fault", r#"{"delay_ms": 5000}"#).await;
    let begun = Instant::now();
    let late = client.get(PRODUCT).await.expect("an answer");
    let took = begun.elapsed().as_millis();
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT, "{}", late.text());
    assert!((1900..2600).contains(&took), "504 after {took} ms; 2 s were allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn ingress_serves_public_names_and_paths_only() {
    let mesh = Mesh::example("ingress").await;
    let gateway = mesh.gateway();
    let cases: &[(&str, Method, &str, u16, &str)] = &[
        ("shop.example", Method::GET, "/api/products/7", 200, "\"release\":\"v1\""),
        ("SHOP.example:80", Method::GET, "/api/products/7", 200, "\"release\":\"v1\""),
        ("shop.example", Method::GET, "/healthz", 404, ""),
        ("www.shop.example", Method::GET, "/x?y=1", 301, ""),
        ("acme.api.example", Method::GET, "/v2/products/7", 200, "\"release\":\"v2\""),
        ("acme.api.example", Method::DELETE, "/v2/products/7", 405, "partners only read\n"),
        ("api.example", Method::GET, "/v2/products/7", 404, ""),
        ("other.example", Method::GET, "/api/products/7", 404, ""),
    ];
    let mut client = Client::new(&gateway);
    for (host, method, path, status, text) in cases {
        let answer = client.call(method.clone(), path, &[("host", host)], "").await.expect("an answer");
        assert_eq!(answer.status.as_u16(), *status, "{host}{path}: {}", answer.text());
        assert!(answer.text().contains(text), "{host}{path}: {}", answer.text());
        let location = if *status == 301 { "http://shop.example/x?y=1" } else { "" };
        assert_eq!(answer.header("location"), location, "{host}{path}");
        assert_eq!(answer.header("x-served-to"), if text.contains("v1") { "the-public" } else { "" }, "{host}{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_reaches_what_the_registry_names_and_an_edit_opens_it() {
    let mut mesh = Mesh::example("egress-http").await;
    let outbound = mesh.outbound("visitor");
    let mut client = Client::new(&outbound);
    let paid = client.call(Method::POST, "http://payments.example/payments", &[("content-type", "application/json")], r#"{"order": 1}"#);
    let paid = paid.await.expect("an answer");
    assert_eq!((paid.status, &paid.json()["state"]), (StatusCode::CREATED, &"paid".into()), "{}", paid.text());
    let refused = client.get("http://payments.example/refunds/1").await.expect("an answer");
    assert_eq!((refused.status, refused.text().as_str()), (StatusCode::FORBIDDEN, "ask the accountant\n"));
    assert_eq!(client.get(PRODUCT).await.expect("an answer").status, StatusCode::OK);

    // The same server by its address is a name that nobody registered.
    let unknown = format!("http://{}/healthz", mesh.app("elsewhere", "http"));
    assert_eq!(client.get(&unknown).await.expect("an answer").status, StatusCode::BAD_GATEWAY);
    let edited = mesh.read("mesh-config.yaml").replace("REGISTRY_ONLY", "ALLOW_ANY");
    mesh.apply("mesh-config.yaml", &edited).await;
    assert_eq!(client.get(&unknown).await.expect("an answer").status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirroring_shows_v2_half_of_the_requests_and_nobody_its_answers() {
    let mesh = Mesh::example("mirroring").await;
    let (outbound, copies) = (mesh.outbound("visitor"), mesh.app("product-v2", "http"));
    assert_eq!(releases(&outbound, 400).await, BTreeMap::from([("v1".to_owned(), 400)]));
    let seen = || async { client::get(&copies, "/count").await.json()["GET /api/products/7"].as_u64().unwrap_or(0) };
    // 400 draws of one half: the standard deviation is 10. The last copies may still be on their way.
    let seen = eventually("v2 sees its share", Duration::from_secs(10), || async { Some(seen().await).filter(|seen| *seen >= 140) }).await;
    assert!(seen <= 260, "{seen} of 400 went to v2");

    client::post(&copies, "/fault", r#"{"status": 500, "percent": 100, "delay_ms": 3000}"#).await;
    let begun = Instant::now();
    assert_eq!(releases(&outbound, 50).await, BTreeMap::from([("v1".to_owned(), 50)]));
    assert!(begun.elapsed() < Duration::from_secs(3), "visitors wait for the mirror: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn cors_lets_the_shops_pages_read_answers_and_no_others() {
    let mesh = Mesh::example("cors").await;
    let mut client = Client::new(&mesh.gateway());
    let cases = [
        ("https://shop.example", true),
        ("https://cart.preview.example", true),
        ("https://cart-2.preview.example", false),
        ("https://cart.preview.example.evil", false),
        ("https://evil.example", false),
        ("http://shop.example", false),
    ];
    for (origin, allowed) in cases {
        let headers = [("host", "api.example"), ("origin", origin)];
        let answer = client.call(Method::GET, "/api/products/7", &headers, "").await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), if allowed { origin } else { "" }, "{origin}");
    }
    let ask = [("host", "api.example"), ("origin", "https://shop.example"), ("access-control-request-method", "GET")];
    let answer = client.call(Method::OPTIONS, "/api/products/7", &ask, "").await.expect("an answer");
    let said =
        ["origin", "methods", "headers", "credentials"].map(|name| answer.header(&format!("access-control-allow-{name}")).to_owned());
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(said, ["https://shop.example", "GET,POST", "content-type,x-cart", "true"], "{answer:?}");
    assert_eq!(answer.header("access-control-max-age"), "600", "{answer:?}");
    let served = client::get(&mesh.app("product-v1", "http"), "/count").await.json();
    assert_eq!(served["OPTIONS /api/products/7"], serde_json::Value::Null, "the service was not asked: {served}");
}

#[test]
fn every_example_is_free_of_findings_and_has_a_readme() {
    for entry in std::fs::read_dir(workspace().join("examples")).expect("examples").flatten().filter(|entry| entry.path().is_dir()) {
        let example = entry.path();
        let readme = std::fs::read_to_string(example.join("README.md")).unwrap_or_default();
        assert!(!readme.is_empty() && readme.lines().count() <= 45, "{}: a README of a screen", example.display());
        assert!(has_local(&example), "{}: Workloads are kept in local/", example.display());
        let output =
            Command::new(pillion_e2e::binary("pillion")).args(["validate", "--strict"]).arg(&example).output().expect("pillion runs");
        assert!(
            output.status.success(),
            "{}:\n{}{}",
            example.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn has_local(example: &Path) -> bool {
    example.join("local").is_dir() || example.join("mesh/local").is_dir()
}
