//! Reading and checking is fast enough to run on every save. The bounds hold for optimised builds (`cargo test --release`); without
//! optimisation they are twenty times as wide, which still tells linear from quadratic.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use pillion_api::parse::parse;
use pillion_api::validate::validate;

fn virtual_service(text: &mut String, n: usize) {
    let _ = write!(
        text,
        "---
# Route {n}
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: service-{n}
  namespace: team-{}
spec:
  hosts:
  - service-{n}
  http:
  - match:
    - headers:
        end-user:
          exact: jason
      uri:
        regex: /api/v[0-9]+/items/.*
    route:
    - destination:
        host: service-{n}
        subset: v2
  - route:
    - destination:
        host: service-{n}
        subset: v1
      weight: 90
    - destination:
        host: service-{n}
        subset: v2
      weight: 10
    retries:
      attempts: 3
      perTryTimeout: 2s
      retryOn: gateway-error,connect-failure
    timeout: 5s
",
        n % 50
    );
}

fn destination_rule(text: &mut String, n: usize) {
    let _ = write!(
        text,
        "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: service-{n}
  namespace: team-{}
spec:
  host: service-{n}
  trafficPolicy:
    connectionPool:
      tcp:
        connectTimeout: 1s
      http:
        http1MaxPendingRequests: 100
    outlierDetection:
      consecutive5xxErrors: 5
      interval: 30s
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
",
        n % 50
    );
}

fn service(text: &mut String, n: usize) {
    let _ = write!(
        text,
        "---
apiVersion: v1
kind: Service
metadata:
  name: service-{n}
  namespace: team-{}
  labels: {{app: service-{n}}}
spec:
  selector:
    app: service-{n}
  ports:
  - name: http
    port: 80
    targetPort: 8080
",
        n % 50
    );
}

/// Time that this thread ran, where the system says so: other work on the machine does not count.
fn now(start: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ran = stat.as_deref().and_then(|stat| stat.split(' ').next()).and_then(|ns| ns.parse().ok());
    ran.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// The best of a few runs.
fn best(text: &str, documents: usize) -> Duration {
    let run = || {
        let start = Instant::now();
        let before = now(start);
        let parsed = parse("all.yaml", text);
        let valid = parsed.objects.into_iter().filter_map(|object| validate(object).0).count();
        assert_eq!(valid, documents);
        now(start) - before
    };
    let runs = if cfg!(debug_assertions) { 1 } else { 3 };
    (0..runs).map(|_| run()).min().unwrap_or_default()
}

fn bound(optimised: Duration) -> Duration {
    if cfg!(debug_assertions) { optimised * 20 } else { optimised }
}

#[test]
fn five_thousand_documents_take_less_than_half_a_second() {
    let mut text = String::new();
    for n in 0..5000 {
        [virtual_service, destination_rule, service][n % 3](&mut text, n);
    }
    let took = best(&text, 5000);
    println!("5,000 documents, {} KiB: {took:?}", text.len() / 1024);
    assert!(took < bound(Duration::from_millis(500)), "{took:?}");
}

#[test]
fn ten_thousand_virtual_services_take_less_than_three_seconds() {
    let mut text = String::new();
    for n in 0..10_000 {
        virtual_service(&mut text, n);
    }
    let took = best(&text, 10_000);
    println!("10,000 VirtualServices, {} KiB: {took:?}", text.len() / 1024);
    assert!(took < bound(Duration::from_secs(3)), "{took:?}");
}
