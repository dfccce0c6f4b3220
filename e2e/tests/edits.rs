//! Edits under load: nothing is lost, and every sidecar obeys soon.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use pillion_e2e::{
    client::{self, Client},
    length,
    mesh::Mesh,
    workspace,
};
use tokio::{sync::watch, task::JoinSet};

const SOON: Duration = Duration::from_secs(10);
const MARK: &str = "x-edit";

/// The mesh after edit `number`: a third of the edits add and remove a subset with its cluster, a service with its ports, and a route.
fn edit(number: usize) -> String {
    let step = number / 3;
    let (subset, port) = (format!("s{step}"), 8000 + step % 50);
    let extra_rule = if step.is_multiple_of(2) {
        "  - name: never\n    match:\n    - uri: {prefix: /nowhere}\n    route:\n    - destination: {host: payment-service, subset: SUBSET}\n"
            .replace("SUBSET", &subset)
    } else {
        String::new()
    };
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: payment-service}}
spec:
  hosts: [payment-service]
  http:
{extra_rule}  - name: load
    headers: {{response: {{set: {{{MARK}: \"{number}\"}}}}}}
    route:
    - destination: {{host: payment-service, subset: {subset}}}
    retries: {{attempts: 0}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: payment-service}}
spec:
  host: payment-service
  subsets:
  - name: {subset}
    labels: {{app: payment-service}}
---
apiVersion: v1
kind: Service
metadata: {{name: payment-extra-{service}}}
spec:
  selector: {{app: payment-service}}
  ports:
  - {{name: http, port: {port}, targetPort: http}}
",
        service = step % 4,
    )
}

#[derive(Default)]
struct Load {
    sent: AtomicUsize,
    stop: AtomicBool,
}

/// POSTs until told to stop; every one must be answered 201.
async fn post(load: Arc<Load>, outbound: String, body: String, kept_alive: bool) -> Result<(), String> {
    let mut client = Client::new(&outbound);
    while !load.stop.load(Ordering::Relaxed) {
        if !kept_alive {
            client = Client::new(&outbound);
        }
        load.sent.fetch_add(1, Ordering::Relaxed);
        let headers = [("content-type", "application/json")];
        let answer = client.call(Method::POST, "http://payment-service/payments", &headers, &body).await;
        match answer {
            Ok(answer) if answer.status == StatusCode::CREATED => {}
            Ok(answer) => return Err(format!("{}: {} {:?}", answer.status, answer.text(), answer.headers)),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Asks one sidecar again and again which edit it obeys, and tells.
async fn watch_mark(outbound: String, tell: watch::Sender<(usize, Instant)>) {
    let mut client = Client::new(&outbound);
    while !tell.is_closed() {
        let answer = client.get("http://payment-service/healthz").await;
        let mark = answer.ok().and_then(|answer| answer.header(MARK).parse::<usize>().ok());
        if let Some(mark) = mark {
            tell.send_if_modified(|seen| {
                let newer = mark != seen.0;
                if newer {
                    *seen = (mark, Instant::now());
                }
                newer
            });
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_edits_under_load_lose_no_request_and_are_obeyed_within_a_quarter_second() {
    let mut mesh = Mesh::start(&workspace().join("examples/shop"), &["--quiet"]).await;
    mesh.apply("edits.yaml", &edit(0)).await;
    let load = Arc::new(Load::default());
    let mut posts = JoinSet::new();
    let bodies = [r#"{"order": 1}"#.to_owned(), format!(r#"{{"order": 2, "note": "{}"}}"#, "x".repeat(40_000))];
    for (number, body) in bodies.iter().enumerate() {
        for kept_alive in [true, false] {
            let outbound = mesh.outbound(["order-v1", "user-v1"][number]);
            posts.spawn(post(load.clone(), outbound, body.clone(), kept_alive));
        }
    }
    let mut marks = Vec::new();
    for workload in mesh.ready["workloads"].as_array().expect("a list").iter().filter(|workload| workload["outbound"].is_string()) {
        let name = workload["name"].as_str().expect("a name");
        let (tell, seen) = watch::channel((usize::MAX, Instant::now()));
        tokio::spawn(watch_mark(mesh.outbound(name), tell));
        marks.push((name.to_owned(), seen));
    }

    let mut took = Vec::new();
    for number in 1..=length(1000) {
        let begun = Instant::now();
        mesh.write("edits.yaml", &edit(number));
        for (name, seen) in &mut marks {
            let obeyed = tokio::time::timeout(SOON, seen.wait_for(|(mark, _)| *mark == number)).await;
            let obeyed = obeyed.unwrap_or_else(|_| panic!("{name} does not obey edit {number}; the log ends with:\n{}", mesh.log_tail()));
            took.push(obeyed.expect("the watcher runs").1.saturating_duration_since(begun));
        }
        if let Some(ended) = posts.try_join_next() {
            panic!("edit {number} lost a request: {:?}\n{}", ended.expect("no panic"), mesh.log_tail());
        }
    }
    load.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = posts.join_next().await {
        ended.expect("no panic").expect("no request is lost");
    }

    let served = client::get(&mesh.app("payment-v1", "http"), "/count").await.json()["POST /payments"].as_u64();
    assert_eq!(served, Some(load.sent.load(Ordering::Relaxed) as u64), "the application's count is the clients' count");
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "{} edits x {} sidecars: p50 {:?}, p99 {:?}, worst {:?}; {} POSTs",
        length(1000),
        marks.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        served.unwrap_or(0)
    );
    if pillion_e2e::optimised() {
        assert!(at(0.99) < Duration::from_millis(250), "p99 from rename to obedience is {:?}", at(0.99));
    }
}
