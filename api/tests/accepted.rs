//! Legal YAML, in the spellings that people use, is read without an error.

use std::path::{Path, PathBuf};

use pillion_api::code;
use pillion_api::finding::{Finding, Severity};
use pillion_api::object::Kind;
use pillion_api::parse::{Parsed, parse, parse_mesh_config};
use pillion_api::string_match::StringMatch;
use pillion_api::validate::validate;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn read(name: &str) -> (Parsed, Vec<Finding>) {
    let text = std::fs::read_to_string(data(name)).expect("a file of this crate");
    let parsed = parse(name, &text);
    let mut findings = parsed.findings.clone();
    for object in &parsed.objects {
        findings.extend(validate(object.clone()).1);
    }
    (parsed, findings)
}

#[test]
fn the_yaml_of_guides_loads_and_says_what_is_not_enforced_yet() {
    let want = [
        (
            "guide/routing.yaml",
            4,
            vec!["http1MaxPendingRequests", "maxRequestsPerConnection", "maxConnections", "outlierDetection", "AuthorizationPolicy"],
        ),
        ("guide/peer-authentication.yaml", 3, vec!["PeerAuthentication"; 3]),
    ];
    for (name, objects, unenforced) in want {
        let (parsed, findings) = read(name);
        assert_eq!(parsed.objects.len(), objects, "{name}");
        assert!(findings.iter().all(|f| f.severity == Severity::Warning && f.code == code::NOT_ENFORCED), "{name}: {findings:#?}");
        let named: Vec<&str> = findings.iter().map(|f| f.message.split('`').nth(1).expect("a name")).collect();
        assert_eq!(named, unenforced, "{name}");
    }
}

#[test]
fn much_of_the_api_in_many_spellings_is_valid() {
    let (parsed, findings) = read("everything.yaml");
    let unexpected: Vec<_> = findings.iter().filter(|f| f.code != code::NOT_ENFORCED).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    assert_eq!(parsed.skipped.iter().map(|(k, n)| (k.as_str(), *n)).collect::<Vec<_>>(), [("batch/v1/Job", 1)]);
    let kinds: Vec<&str> = parsed.objects.iter().map(|o| o.kind.as_str()).collect();
    let want = [
        "VirtualService",
        "Service",
        "Namespace",
        "ServiceAccount",
        "Secret",
        "Deployment",
        "Workload",
        "MeshConfig",
        "ConfigMap",
        "Gateway",
        "ServiceEntry",
        "DestinationRule",
    ];
    assert_eq!(kinds, want);
    let indexes: Vec<usize> = parsed.objects.iter().map(|o| o.document_index).collect();
    assert_eq!(indexes, (0..want.len()).collect::<Vec<_>>());
    let service = &parsed.objects[0].virtual_service().expect("the first").http[0];
    assert_eq!(service.r#match[0].headers["x-present"], StringMatch::Present);
    assert_eq!(service.r#match[0].headers["x-nothing"], StringMatch::Present);
    assert!(service.r#match[0].headers["x-old"].is_presence());
    assert_eq!(service.route[0].destination.as_ref().and_then(|d| d.port.as_ref()).map(|p| p.number), Some(80));
    assert_eq!(parsed.objects[2].meta.namespace, "", "a Namespace has no namespace");
    assert_eq!(parsed.objects[1].meta.namespace, "default");
    assert_eq!(parsed.objects[0].reference().to_string(), "VirtualService shop/shop");
}

#[test]
fn settings_inside_a_config_map_keep_their_places() {
    let (parsed, _) = read("everything.yaml");
    let text = std::fs::read_to_string(data("everything.yaml")).expect("a file of this crate");
    let mesh = parsed.objects.iter().find(|o| o.kind == Kind::MeshConfig).expect("mesh settings");
    let place = mesh.place("outboundTrafficPolicy.mode");
    let line = text.lines().position(|l| l.contains("mode: REGISTRY_ONLY")).expect("the line") + 1;
    assert_eq!((place.line as usize, place.column), (line, 13));
    assert_eq!(&text[place.start as usize..place.end as usize], "REGISTRY_ONLY");
}

#[test]
fn settings_may_be_a_file_of_their_own() {
    let parsed = parse_mesh_config("mesh.yaml", "accessLogFile: /dev/stdout\nrootNamespace: mesh-root\n");
    assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
    assert_eq!(parsed.objects[0].mesh_config().map(|m| m.root_namespace.as_str()), Some("mesh-root"));
    let wrapped = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: \"trustDomain: a.b\"}\n";
    let parsed = parse_mesh_config("mesh.yaml", wrapped);
    assert_eq!(parsed.objects.iter().find_map(|o| o.mesh_config()).map(|m| m.trust_domain.as_str()), Some("a.b"));
}

#[test]
fn a_path_leads_to_its_place_or_to_its_nearest_parent() {
    let (parsed, _) = read("guide/routing.yaml");
    let object = &parsed.objects[0];
    let cases = [
        ("spec.http[0].route[1].weight", 18, 15),
        ("spec.http[0].route[1]", 15, 7),
        ("spec.http[0].retries", 19, 5),
        ("spec.http[0].retries.retryOn", 19, 5),
        ("spec.tcp[3].x", 6, 1),
        ("metadata.name", 5, 9),
        ("", 2, 1),
    ];
    for (path, line, column) in cases {
        let place = object.place(path);
        assert_eq!((place.line, place.column), (line, column), "{path}");
    }
}

#[test]
fn secrets_do_not_print() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {tls.key: c2VjcmV0}\nstringData: {p: hunter2}\n";
    let parsed = parse("a.yaml", text);
    let printed = format!("{:?}", parsed.objects[0].secret());
    assert!(!printed.contains("hunter2") && !printed.contains("115"), "{printed}");
}

#[test]
fn null_leaves_a_field_out_and_means_presence_as_the_value_of_a_map() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: ~}\nspec:\n  hosts: [a]\n  tcp:\n  http:\n  - match:\n    - uri:\n      method: null\n      headers: {x-a: , x-b: {exact: null}}\n    timeout: ~\n    route: [{destination: {host: a, port: null}, weight: , headers: null}]\n";
    let parsed = parse("a.yaml", text);
    let object = parsed.objects.into_iter().next().expect("an object");
    let (valid, findings) = validate(object);
    assert!(parsed.findings.is_empty() && findings.is_empty(), "{:?} {findings:?}", parsed.findings);
    let valid = valid.expect("valid");
    let condition = &valid.virtual_service().expect("one").http[0].r#match[0];
    assert_eq!((&condition.uri, &condition.method), (&None, &None));
    assert_eq!(condition.headers.values().collect::<Vec<_>>(), [&StringMatch::Present, &StringMatch::Present]);
}

#[test]
fn lists_without_items_and_kustomizations_without_a_kind_are_no_mistake() {
    for text in ["{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":null}", "apiVersion: v1\nkind: List\n"] {
        let parsed = parse("a.json", text);
        assert!(parsed.findings.is_empty() && parsed.skipped.is_empty(), "{parsed:?}");
    }
    let parsed = parse("base/kustomization.yaml", "resources: [a.yaml]\n");
    assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
    assert_eq!(parsed.skipped.get("Kustomization"), Some(&1));
    assert_eq!(parse("base/other.yaml", "resources: [a.yaml]\n").findings.len(), 1);
}
