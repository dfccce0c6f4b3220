use axum::body::{Body, to_bytes};
use serde_json::{Value, json};
use tower::ServiceExt;

use std::collections::BTreeMap;

use super::*;
use crate::{
    model::{
        instance::{Instance, InstanceId},
        store::Store,
    },
    push,
    source::change::{Change, Content},
};

const FILES: &[(&str, &str)] = &[
    (
        "a.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: good\nspec: {hosts: [good], http: [{route: [{destination: {host: good}}]}]}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: bad\nspec: {hots: [bad]}\n",
    ),
    (
        "b.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\nspec: {}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n",
    ),
];

fn admin() -> Admin {
    let mut store = Store::new("cluster.local");
    let put = |(file, text): &(&str, &str)| Change::Put { origin: (*file).into(), content: Content::Objects, text: (*text).into() };
    let world = store.apply(FILES.iter().map(put).collect(), None).world.unwrap();
    let history = History::default();
    history.published(1, vec!["read at the start".into()]);
    history.acked(1, 2, 3, std::time::Duration::from_millis(41));
    Admin {
        reviews: watch::Sender::new(store.review()).subscribe(),
        worlds: watch::Sender::new(world).subscribe(),
        proxies: Proxies::new(push::status::Metrics::new(&prometheus::Registry::new()).unwrap()),
        history,
        stop: CancellationToken::new(),
    }
}

async fn ask(router: &Router, method: &str, path: &str, host: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn json(router: &Router, path: &str) -> Value {
    let (status, body) = ask(router, "GET", path, Some("127.0.0.1:15080")).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 15080))
}

#[tokio::test]
async fn the_shapes_of_the_api_are_as_promised() {
    let api = api(admin(), loopback());
    assert_eq!(json(&api, "/api/v1/proxies").await, json!({"generation": 1, "proxies": [], "missing": []}));
    assert_eq!(
        json(&api, "/api/v1/config").await,
        json!({
            "generation": 1,
            "objects": [
                {"kind": "VirtualService", "namespace": "default", "name": "good", "file": "a.yaml", "line": 4, "state": "in_force"},
                {"kind": "VirtualService", "namespace": "default", "name": "bad", "file": "a.yaml", "line": 10, "state": "quarantined"},
                {"kind": "AuthorizationPolicy", "namespace": "default", "name": "deny", "file": "b.yaml", "line": 3, "state": "in_force"},
            ],
            "skipped": {"v1/Pod": 1},
            "unenforced": [{"kind": "AuthorizationPolicy", "namespace": "default", "name": "deny", "file": "b.yaml", "line": 3, "consequence": "every caller is let through"}],
        })
    );
    let findings = json(&api, "/api/v1/findings").await;
    assert_eq!((&findings["generation"], &findings["errors"]), (&json!(1), &json!(1)));
    let error = findings["findings"].as_array().unwrap().iter().find(|finding| finding["severity"] == "error").unwrap();
    assert_eq!(error["code"], "PLN1010");
    assert_eq!(error["object"], "VirtualService default/bad");
    assert_eq!(error["place"], json!({"file": "a.yaml", "line": 11, "column": 8}));
    let generations = json(&api, "/api/v1/generations").await;
    let newest = &generations["generations"][0];
    assert!(newest["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!(
        (&newest["generation"], &newest["changes"], &newest["acked"], &newest["proxies"], &newest["ms"]),
        (&json!(1), &json!(["read at the start"]), &json!(2), &json!(3), &json!(41))
    );
}

#[tokio::test]
async fn an_instance_without_its_proxy_is_missing() {
    let mut store = Store::new("cluster.local");
    let id = InstanceId { namespace: "default".into(), name: "product-0".into() };
    let instance = Instance {
        id: id.clone(),
        workload: "product".into(),
        replica: 0,
        labels: BTreeMap::new(),
        service_account: "default".into(),
        gateway: false,
        ports: vec![],
        ready: true,
    };
    let world = store.apply(vec![], Some(Arc::new(BTreeMap::from([(id, instance)])))).world.unwrap();
    let api = api(Admin { worlds: watch::Sender::new(world).subscribe(), ..admin() }, loopback());
    assert_eq!(json(&api, "/api/v1/proxies").await["missing"], json!(["product-0.default"]));
}

#[tokio::test]
async fn only_get_from_this_machine_is_answered() {
    let (near, far) = (api(admin(), loopback()), api(admin(), SocketAddr::from(([0, 0, 0, 0], 15080))));
    let cases = [
        (&near, "GET", "/healthz", Some("127.0.0.1:15080"), 200),
        (&near, "GET", "/readyz", Some("localhost:15080"), 200),
        (&near, "GET", "/healthz", Some("[::1]:15080"), 200),
        (&near, "HEAD", "/healthz", Some("LOCALHOST"), 200),
        (&near, "GET", "/healthz", Some("evil.example:15080"), 403),
        (&near, "GET", "/healthz", Some("127.0.0.1.evil.example"), 403),
        (&near, "GET", "/healthz", Some("localhost.evil.example:15080"), 403),
        (&near, "GET", "/healthz", None, 403),
        (&near, "GET", "http://evil.example/healthz", None, 403),
        (&far, "GET", "/healthz", Some("pillion.istio-system:15080"), 200),
        (&near, "POST", "/healthz", Some("localhost"), 405),
        (&near, "DELETE", "/api/v1/config", Some("localhost"), 405),
        (&near, "GET", "/nothing", Some("localhost"), 404),
    ];
    for (router, method, path, host, want) in cases {
        let (status, body) = ask(router, method, path, host).await;
        assert_eq!(status, want, "{method} {path} {host:?}: {body}");
    }
}

#[tokio::test]
async fn an_ending_control_plane_is_alive_and_not_ready() {
    let admin = admin();
    admin.stop.cancel();
    let api = api(admin, loopback());
    assert_eq!(ask(&api, "GET", "/healthz", Some("localhost")).await.0, StatusCode::OK);
    assert_eq!(ask(&api, "GET", "/readyz", Some("localhost")).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn metrics_are_text() {
    let router = metrics(Metrics::new().unwrap(), loopback());
    let (status, body) = ask(&router, "GET", "/metrics", Some("127.0.0.1:15014")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains("# TYPE pillion_generation gauge"), "{body}");
}
