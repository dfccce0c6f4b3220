//! The table against the types, and the page against the table.

use std::path::Path;

use pillion_api::code;
use pillion_api::compatibility;
use pillion_api::finding::Severity;
use pillion_api::object::Kind;
use pillion_api::parse::{Parsed, parse, parse_mesh_config};
use pillion_api::table::{Row, Status, Type, rows};

#[test]
fn the_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md");
    let want = compatibility::markdown();
    if std::env::var_os("PILLION_UPDATE").is_some() {
        std::fs::write(&path, &want).expect("docs can be written");
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(have == want, "docs/compatibility.md is stale: run PILLION_UPDATE=1 cargo test -p pillion-api --test compatibility");
}

/// A value of the type that is not its default, in flow style.
fn sample(ty: Type) -> String {
    match ty {
        Type::String | Type::Any => "text".into(),
        Type::Bool => "true".into(),
        Type::Integer { .. } | Type::Number | Type::IntOrString => "1".into(),
        Type::Duration => "1s".into(),
        Type::Bytes => "aGk=".into(),
        Type::StringMatch => "{exact: a}".into(),
        Type::Enum(info) => info.values.iter().rev().find(|v| !matches!(v.status, Status::Refused { .. })).expect("a value").name.into(),
        Type::Message(_) => "{}".into(),
        Type::List(inner) => format!("[{}]", sample(*inner)),
        Type::Map(inner) => format!("{{\"1\": {}}}", sample(*inner)),
    }
}

/// A document with this one field. `proto`: in proto spelling.
fn document(row: &Row, proto: bool) -> String {
    let mut body = sample(row.field.ty);
    let mut message = Some(row.kind.info());
    let mut names = Vec::new();
    let path = row.path.strip_prefix("spec.").unwrap_or(&row.path);
    for part in path.split('.') {
        let name = part.trim_end_matches("[]").trim_end_matches("{}");
        let field = message.and_then(|info| info.field(name)).expect("the walk gives paths of fields");
        let spelled = if proto { field.proto_name } else { field.name };
        names.push((spelled, part));
        message = field.ty.message();
    }
    for (index, (name, part)) in names.iter().enumerate().rev() {
        let inner = if index + 1 == names.len() {
            body
        } else if part.ends_with("[]") {
            format!("[{body}]")
        } else if part.ends_with("{}") {
            format!("{{\"1\": {body}}}")
        } else {
            body
        };
        body = format!("{{{name}: {inner}}}");
    }
    match row.kind {
        Kind::MeshConfig => body,
        kind if row.path.starts_with("spec.") => format!("{}spec: {body}\n", head(kind)),
        kind => format!("{}{}\n", head(kind), body.trim_start_matches('{').strip_suffix('}').expect("a mapping")),
    }
}

fn head(kind: Kind) -> String {
    let group = if kind.group().is_empty() { String::new() } else { format!("{}/", kind.group()) };
    format!("apiVersion: {group}{}\nkind: {kind}\nmetadata: {{name: a}}\n", kind.versions()[0])
}

fn read(kind: Kind, text: &str) -> Parsed {
    if kind == Kind::MeshConfig { parse_mesh_config("a.yaml", text) } else { parse("a.yaml", text) }
}

#[test]
fn every_field_of_the_table_is_read_into_its_type_and_says_its_status() {
    let mut count = 0;
    for kind in Kind::ALL {
        let empty = read(*kind, &if *kind == Kind::MeshConfig { "{}\n".into() } else { head(*kind) });
        for row in rows(*kind) {
            count += 1;
            let text = document(&row, false);
            let parsed = read(*kind, &text);
            let name = format!("{kind} {}\n{text}{:?}", row.path, parsed.findings);
            assert_eq!(parsed.objects.len(), 1, "{name}");
            assert!(parsed.objects[0].has(&row.path.replace("[]", "[0]").replace("{}", ".1")), "{name}");
            let errors = parsed.findings.iter().filter(|f| f.severity == Severity::Error);
            match row.status {
                Status::Refused { .. } => assert_eq!(errors.map(|f| f.code).next(), Some(code::REFUSED_FIELD), "{name}"),
                status => {
                    assert_eq!(errors.count(), 0, "{name}");
                    let warnings = parsed.findings.iter().filter(|f| f.code == code::NOT_ENFORCED).count();
                    let value_warns = row.field.ty.enumeration().is_some_and(|info| {
                        let last = info.values.iter().rev().find(|v| !matches!(v.status, Status::Refused { .. }));
                        last.is_some_and(|value| value.status == Status::NotYetEnforced)
                    });
                    assert_eq!(warnings, usize::from(matches!(status, Status::NotYetEnforced | Status::Inert) || value_warns), "{name}");
                    assert!(parsed.objects[0].spec != empty.objects[0].spec, "the value is lost: {name}");
                }
            }
            let spelled = read(*kind, &document(&row, true));
            assert_eq!(spelled.objects[0].spec, parsed.objects[0].spec, "in proto spelling: {name}");
        }
    }
    assert!(count > 800, "{count} fields");
}

#[test]
fn names_of_fields_and_values_are_unique() {
    fn check(info: &'static pillion_api::table::MessageInfo) {
        let mut names: Vec<&str> = info.fields.iter().map(|field| field.name).collect();
        names.extend(info.retired.iter().map(|(name, _)| *name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{}", info.name);
        for group in info.one_of {
            assert!(group.iter().all(|name| info.field(name).is_some_and(|field| field.name == *name)), "{} {group:?}", info.name);
        }
        info.fields.iter().filter_map(|field| field.ty.message()).for_each(check);
    }
    Kind::ALL.iter().for_each(|kind| check(kind.info()));
}
