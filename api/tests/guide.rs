//! Files as people write them first: they load unchanged, and the six surprises in them are said, each once, where they are.

use std::path::{Path, PathBuf};

use pillion_api::analyze::code;
use pillion_api::finding::{Finding, Severity};
use pillion_api::{Checked, check, code as field};

fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).expect("readable").map(|e| e.expect("readable").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    paths
        .into_iter()
        .map(|p| (p.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read_to_string(&p).expect("text")))
        .collect()
}

/// `file:line code message`, notes only.
fn notes(checked: &Checked) -> Vec<&Finding> {
    checked.findings.iter().filter(|f| f.severity == Severity::Note).collect()
}

fn loads_with_the_six_notes(sources: &[(String, String)]) {
    let checked = check(sources);
    for finding in &checked.findings {
        let expected = finding.severity == Severity::Note || (finding.severity == Severity::Warning && finding.code == field::NOT_ENFORCED);
        assert!(expected, "not expected: {finding:?}");
        assert!(finding.place.line > 0, "without a place: {finding:?}");
    }
    let mut codes: Vec<&str> = notes(&checked).iter().map(|f| f.code).collect();
    codes.sort_unstable();
    let want =
        [code::NOTE_PER_TRY, code::NOTE_RETRY_COST, code::NOTE_INERT_EJECTION, code::NOTE_PATH, code::NOTE_ALLOW, code::NOTE_PERCENTAGE];
    assert_eq!(codes, want, "{:#?}", notes(&checked));
    assert!(notes(&checked).iter().all(|f| f.help.is_some()), "a note without its remedy");
}

#[test]
fn equivalents_of_the_guide_yield_exactly_the_six_notes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/surprises");
    let sources = sources(&directory);
    loads_with_the_six_notes(&sources);
    let checked = check(&sources);
    let said: Vec<(u32, &str, &str, &str)> = notes(&checked)
        .iter()
        .map(|f| (f.place.line, f.path.as_str(), f.message.as_str(), f.help.as_deref().unwrap_or_default()))
        .collect();
    let want = [
        (
            20,
            "spec.http[0].retries.attempts",
            "4 tries of 2 s need 8 s, but `timeout` ends the request after 5 s: 2 tries run in full, try 3 is cut after 1 s and try 4 never starts",
            "use `timeout: 8s` or `attempts: 1`",
        ),
        (
            21,
            "spec.http[0].retries.perTryTimeout",
            "a slow try is never retried: `perTryTimeout` cuts it and the caller gets 504, because `retryOn` has none of 5xx, gateway-error and reset",
            "add them: `retryOn: connect-failure,refused-stream,unavailable,cancelled,reset,gateway-error`, if the request may safely run twice",
        ),
        (
            37,
            "spec.trafficPolicy.outlierDetection",
            "this ejects nothing while the service has fewer than 10 endpoints: maxEjectionPercent is 10 when unset",
            "set maxEjectionPercent: 34 lets one of three endpoints be ejected, 50 one of two",
        ),
        (67, "spec.http[0].fault.delay.percentage.value", "`0.1` means 0.1 %: 1 in 1,000 requests", "for 10 % of the requests write 10"),
        (
            78,
            "spec.rules",
            "this ALLOW policy denies everyone else at workloads with app: catalogue: what no ALLOW rule matches is answered 403",
            "add a rule for each other caller, health checks and metrics scrapers among them",
        ),
        (
            85,
            "spec.rules[0].to[0].operation.paths[0]",
            "`/api/items/*` does not match `/api/items` itself, only what is below it",
            "add `/api/items` to the list if it is meant too",
        ),
    ];
    assert_eq!(said, want);
    // The same words are said once; the other places are shown with them.
    let related: Vec<u32> = notes(&checked).iter().flat_map(|f| &f.related).map(|(place, _)| place.line).collect();
    assert_eq!(related, [62, 92]);
}

/// The guide itself, where it lies beside the repository or where `PILLION_GUIDE_DIR` says.
#[test]
fn the_guides_own_files_load_unchanged_with_the_six_notes() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/guide");
    let directory = std::env::var_os("PILLION_GUIDE_DIR").map_or(beside, PathBuf::from);
    if !directory.is_dir() {
        assert!(std::env::var("PILLION_REQUIRE").as_deref() != Ok("all"), "PILLION_REQUIRE=all, and there is no {}", directory.display());
        println!("skipped: there is no {}; PILLION_GUIDE_DIR may name another directory", directory.display());
        return;
    }
    loads_with_the_six_notes(&sources(&directory));
}

#[test]
fn a_note_goes_when_its_cause_goes() {
    let file = |retry_on: &str, timeout: &str, percent: &str, value: &str, path: &str, rules: &str| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: a}}
spec:
  hosts: [a]
  http:
  - route: [{{destination: {{host: a}}}}]
    retries: {{attempts: 3, perTryTimeout: 2s, retryOn: \"{retry_on}\"}}
    timeout: {timeout}
    fault: {{abort: {{httpStatus: 503, percentage: {{value: {value}}}}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: a}}
spec: {{host: a, trafficPolicy: {{outlierDetection: {{consecutive5xxErrors: 5, maxEjectionPercent: {percent}}}}}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: a}}
spec:
  rules:
  - to: [{{operation: {{paths: [{path}]}}}}]
{rules}"
        )
    };
    let all_but = |gone: &str| -> Vec<&str> {
        let all = [
            code::NOTE_PER_TRY,
            code::NOTE_RETRY_COST,
            code::NOTE_INERT_EJECTION,
            code::NOTE_PATH,
            code::NOTE_ALLOW,
            code::NOTE_PERCENTAGE,
        ];
        all.into_iter().filter(|code| *code != gone).collect()
    };
    let cases = [
        ("all six", file("connect-failure", "5s", "0", "0.5", "'/x/*'", ""), all_but("")),
        ("a slow try is retried", file("connect-failure,gateway-error", "5s", "0", "0.5", "'/x/*'", ""), all_but(code::NOTE_PER_TRY)),
        ("reset covers it too", file("reset", "5s", "0", "0.5", "'/x/*'", ""), all_but(code::NOTE_PER_TRY)),
        ("the tries fit", file("connect-failure", "8s", "0", "0.5", "'/x/*'", ""), all_but(code::NOTE_RETRY_COST)),
        ("somebody chose a percentage", file("connect-failure", "5s", "50", "0.5", "'/x/*'", ""), all_but(code::NOTE_INERT_EJECTION)),
        ("a whole percent", file("connect-failure", "5s", "0", "1", "'/x/*'", ""), all_but(code::NOTE_PERCENTAGE)),
        ("the path itself is there", file("connect-failure", "5s", "0", "0.5", "'/x/*', /x", ""), all_but(code::NOTE_PATH)),
        ("a plain prefix", file("connect-failure", "5s", "0", "0.5", "'/x*'", ""), all_but(code::NOTE_PATH)),
        ("everything", file("connect-failure", "5s", "0", "0.5", "'/*'", ""), all_but(code::NOTE_PATH)),
        ("a rule for everybody", file("connect-failure", "5s", "0", "0.5", "'/x/*'", "  - {}\n"), all_but(code::NOTE_ALLOW)),
        ("a policy that denies", file("connect-failure", "5s", "0", "0.5", "'/x/*'", "  action: DENY\n"), all_but(code::NOTE_ALLOW)),
    ];
    for (name, text, want) in cases {
        let checked = check(&[("a.yaml", text)]);
        let mut codes: Vec<&str> = notes(&checked).iter().map(|f| f.code).collect();
        codes.sort_unstable();
        assert_eq!(codes, want, "{name}: {:#?}", checked.findings);
    }
}

#[test]
fn ejection_counts_the_endpoints_it_knows() {
    let workloads = |replicas: u32, percent: u32| {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: a}}
spec: {{selector: {{app: a}}, ports: [{{port: 80, name: http}}]}}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {{name: a, labels: {{app: a}}}}
spec: {{replicas: {replicas}, command: [./a], ports: [{{name: http, containerPort: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: a}}
spec: {{host: a, trafficPolicy: {{outlierDetection: {{consecutive5xxErrors: 5, maxEjectionPercent: {percent}}}}}}}
"
        )
    };
    let cases = [
        (
            3,
            0,
            Some("this ejects nothing while the service has fewer than 10 endpoints, and it has 3: maxEjectionPercent is 10 when unset"),
        ),
        (3, 20, Some("this ejects nothing while the service has fewer than 5 endpoints, and it has 3: maxEjectionPercent is 20")),
        (3, 34, None),
        (10, 0, None),
        (1, 100, None),
    ];
    for (replicas, percent, want) in cases {
        let checked = check(&[("a.yaml", workloads(replicas, percent))]);
        let said: Vec<&str> = notes(&checked).iter().map(|f| f.message.as_str()).collect();
        assert_eq!(said.first().copied(), want, "{replicas} replicas, {percent} %: {:?}", checked.findings);
    }
}
