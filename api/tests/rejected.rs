//! Every rejected case has its exact finding.
//!
//! The files of `rejected/` say it themselves: a line with a finding ends in `#= CODE severity column path`. `PILLION_UPDATE=1` rewrites the marks;
//! read the difference.

use std::collections::BTreeMap;
use std::path::Path;

use pillion_api::code;
use pillion_api::finding::{Finding, Severity};
use pillion_api::parse::{parse, parse_mesh_config};
use pillion_api::validate::validate;

fn findings(name: &str, text: &str) -> Vec<Finding> {
    let parsed = parse(name, text);
    let mut findings = parsed.findings;
    for object in parsed.objects {
        let broken = !object.is_readable();
        let (valid, more) = validate(object);
        let errors = more.iter().any(|f| f.severity == Severity::Error);
        assert_eq!(valid.is_some(), !broken && !errors, "{name}: {more:?}");
        findings.extend(more);
    }
    findings
}

/// The text with a mark at every line that has findings.
fn marked(name: &str, text: &str) -> String {
    let bare: Vec<&str> = text.lines().map(|line| line.split(" #= ").next().unwrap_or("").trim_end()).collect();
    let mut marks: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for finding in findings(name, text) {
        // What is not enforced yet is the business of its own file.
        if finding.code == code::NOT_ENFORCED && !name.starts_with("not_enforced") {
            continue;
        }
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let mark = format!(" #= {} {severity} {} {}", finding.code, finding.place.column, finding.path);
        marks.entry(finding.place.line).or_default().push(mark);
    }
    let lines = bare.iter().enumerate().map(|(index, line)| {
        let marks = marks.get(&(index as u32 + 1)).map(|marks| marks.concat()).unwrap_or_default();
        format!("{line}{marks}\n")
    });
    lines.collect()
}

#[test]
fn every_rejected_case_has_its_exact_finding() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rejected");
    let mut seen = String::new();
    for entry in std::fs::read_dir(&folder).expect("a folder of this crate") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a file of this crate");
        let want = marked(&name, &text);
        if std::env::var_os("PILLION_UPDATE").is_some() {
            std::fs::write(&path, &want).expect("a file of this crate");
        } else {
            for (number, (have, want)) in text.lines().zip(want.lines()).enumerate() {
                assert_eq!(have, want, "{name}:{}", number + 1);
            }
        }
        seen.push_str(&want);
    }
    // Those of texts that carry no comments are in the tests below.
    let elsewhere = [code::SYNTAX, code::LIMIT, code::BODY];
    let missing: Vec<_> = code::ALL.iter().filter(|code| !seen.contains(**code) && !elsewhere.contains(*code)).collect();
    assert!(missing.is_empty(), "codes without a rejected case: {missing:?}");
}

#[test]
fn what_is_not_yaml_is_said_with_the_object_it_was() {
    let cases = [
        ("a:\n\tb: 1\n", "", 2, "tabs"),
        (
            "kind: Service\nmetadata:\n  name: a\nspec: [\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n",
            "Service default/a",
            5,
            "",
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: \"a\" # x\n  namespace: b\nspec: {{ .Values.x }}\n",
            "VirtualService b/a",
            6,
            "render",
        ),
        ("kind: Service\nmetadata: {name: 'a', namespace: b}\nspec: [\n", "Service b/a", 4, ""),
        ("kind: Service\nmetadata:\n    # of\n    labels:\n        name: x\n    name: a\nspec: [\n", "Service default/a", 8, ""),
        ("a: b: c\n", "", 1, ""),
        ("a: 'b\n", "", 2, ""),
    ];
    for (text, object, line, help) in cases {
        let parsed = parse("a.yaml", text);
        let finding = parsed.findings.first().expect(text);
        assert_eq!((finding.code, finding.object.as_str()), (code::SYNTAX, object), "{text}");
        assert!(finding.place.line == line || finding.place.line + 1 == line, "{text}: {finding:?}");
        assert!(finding.help.as_deref().unwrap_or("").contains(help), "{text}: {finding:?}");
    }
}

#[test]
fn limits_are_said() {
    let deep = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {}\n", "[".repeat(500));
    let parsed = parse("a.yaml", &deep);
    assert_eq!(parsed.findings.len(), 1);
    let body = "x".repeat((1 << 20) + 1);
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec:\n  hosts: [a]\n  http: [{{directResponse: {{status: 200, body: {{string: {body}}}}}}}]\n"
    );
    assert!(findings("a.yaml", &text).iter().any(|f| f.code == code::BODY));
}

#[test]
fn mistakes_in_mesh_settings_are_shown_in_the_config_map() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    # first\n    accessLogFile: /dev/stdout\n    connectTimout: 5s\n    outboundTrafficPolicy: {mode: ALLOW_ALL}\n";
    let parsed = parse("a.yaml", text);
    let said: Vec<_> = parsed.findings.iter().map(|f| (f.code, f.place.line, f.place.column, f.object.as_str(), f.path.as_str())).collect();
    let object = "MeshConfig istio-system/istio";
    assert_eq!(
        said,
        [(code::UNKNOWN_FIELD, 8, 5, object, "connectTimout"), (code::BAD_ENUM, 9, 35, object, "outboundTrafficPolicy.mode"),]
    );
    assert_eq!(parsed.findings[0].help.as_deref(), Some("did you mean `connectTimeout`?"));
    let parsed = parse_mesh_config("m.yaml", "connectTimeout: 5\n");
    assert_eq!((parsed.findings[0].code, parsed.findings[0].help.as_deref()), (code::BAD_DURATION, Some("write 5s for seconds")));
}

#[test]
fn a_typo_is_answered_with_what_was_meant() {
    let cases = [
        ("http: [{retrys: {attempts: 1}}]", "did you mean `retries`?"),
        ("http: [{retry: {attempts: 1}}]", "did you mean `retries`?"),
        ("htpp: []", "did you mean `http`?"),
        ("http: [{route: [{destination: {host: a}, timeout: 5s}]}]", "`timeout` belongs one level up, in HTTPRoute"),
        ("http: [{route: [{host: a}]}]", "`host` belongs one level down, under `destination`"),
        ("http: [{match: [{source_label: {a: b}}]}]", "did you mean `sourceLabels`?"),
        ("http: [{match: [{uri: {regexp: a}}]}]", "did you mean `regex`?"),
        ("hosts: shop", "make it a list: [shop]"),
        ("http: {route: []}", "put `- ` in front of each item"),
        ("http: [{timeout: 5}]", "write 5s for seconds"),
        ("http: [{match: [{headers: {version: {exact: 1.10}}}]}]", "quote it: \"1.10\""),
        ("http: [{match: [{uri: /a}]}]", "write {exact: \"/a\"}, or prefix, or regex"),
        ("http: [{route: [{destination: {host: a, port: {name: http}}}]}]", "use `number`"),
        ("http: [{route: [{destination: {host: a, port: 80}}]}]", "write {number: 80}"),
        ("http: [{route: [{destination: a}]}]", "write {host: a}"),
        ("http: [{route: [], fault: {abort: {percentage: 10}}}]", "write {value: 10}"),
    ];
    for (spec, help) in cases {
        let text = format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec: {{{spec}}}\n");
        let parsed = parse("a.yaml", &text);
        assert_eq!(parsed.findings.first().and_then(|f| f.help.as_deref()), Some(help), "{spec}: {:?}", parsed.findings);
    }
}

#[test]
fn equal_keys_are_said_with_the_object_that_has_them() {
    let text = "# c\n---\nkind: Service\napiVersion: v1\nmetadata: {labels: {}, name: a}\nspec: {a: 1, a: 2}\n---\na: 1\na: 2\n";
    let said: Vec<_> = parse("a.yaml", text).findings.into_iter().map(|f| (f.code, f.object, f.place.line)).collect();
    assert_eq!(said[0], (code::DUPLICATE_KEY, "Service default/a".to_owned(), 6));
    assert!(said.contains(&(code::DUPLICATE_KEY, String::new(), 9)), "{said:?}");
}

#[test]
fn what_helm_says_about_a_release_is_answered_with_helm_template() {
    let text = "NAME: shop\nLAST DEPLOYED: today\nMANIFEST:\n---\n# Source: a\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a}\nNOTES:\n1. Run this:\n";
    let parsed = parse("<stdin>", text);
    let lines: Vec<u32> = parsed.findings.iter().map(|f| f.place.line).collect();
    assert_eq!(lines, [1, 10, 11]);
    assert!(parsed.findings.iter().all(|f| f.help.as_deref().is_some_and(|help| help.contains("helm template"))), "{:?}", parsed.findings);
}

#[test]
fn a_field_that_could_not_be_read_is_not_also_reported_as_missing_hosts() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hsts: [a], http: [{route: [{destination: {host: a}}]}]}\n";
    let said: Vec<_> = findings("a.yaml", text).into_iter().map(|f| f.code).collect();
    assert_eq!(said, [code::UNKNOWN_FIELD]);
}
