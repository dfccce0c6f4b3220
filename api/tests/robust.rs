//! No text makes the reader panic, and every place it names is inside the text.

use pillion_api::object::Kind;
use pillion_api::parse::{Parsed, parse, parse_mesh_config};
use pillion_api::table::{MessageInfo, Type, rows};
use pillion_api::validate::validate;
use proptest::prelude::*;

fn check(text: &str) {
    for parsed in [parse("a.yaml", text), parse_mesh_config("a.yaml", text)] {
        places(text, &parsed);
        for object in parsed.objects {
            for row in rows(object.kind).iter().step_by(7) {
                object.place(&row.path.replace("[]", "[0]").replace("{}", ".a"));
            }
            let readable = object.is_readable();
            let (valid, findings) = validate(object);
            assert!(valid.is_none() || readable);
            for finding in findings {
                assert!(text.get(finding.place.start as usize..finding.place.end as usize).is_some(), "{text:?} {finding:?}");
            }
        }
    }
}

fn places(text: &str, parsed: &Parsed) {
    let lines = text.split('\n').count() as u32;
    for finding in &parsed.findings {
        let place = &finding.place;
        assert!(text.get(place.start as usize..place.end as usize).is_some(), "{text:?} {finding:?}");
        assert!(place.line <= lines + 1, "{text:?} {finding:?}");
    }
}

const SEEDS: &[&str] = &[
    include_str!("data/everything.yaml"),
    include_str!("data/guide/routing.yaml"),
    include_str!("data/guide/peer-authentication.yaml"),
    include_str!("rejected/reading.yaml"),
    include_str!("rejected/virtual_service.yaml"),
    include_str!("rejected/security.yaml"),
    include_str!("rejected/telemetry.yaml"),
];

const PIECES: &[&str] = &[
    "",
    " ",
    "  ",
    "\n",
    "\t",
    "- ",
    ": ",
    ":",
    "{",
    "}",
    "[",
    "]",
    ",",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "|\n",
    ">-\n",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "'",
    "\"",
    "\\",
    "~",
    "null",
    "é",
    "\u{feff}",
    "\r\n",
    "!!str ",
    "? ",
    "0x1F",
    "-1",
    "1e999",
    "999999999999999999999",
    "mesh: |\n",
    "kind: List\nitems:\n",
];

/// Cuts the seeds at characters and puts pieces in.
fn mutated() -> impl Strategy<Value = String> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, prop::sample::select(PIECES)), 1..8);
    (prop::sample::select(SEEDS), edits).prop_map(|(seed, edits)| {
        let mut text: Vec<char> = seed.chars().collect();
        for (at, cut, piece) in edits {
            let at = at.index(text.len().max(1)).min(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

fn soup() -> impl Strategy<Value = String> {
    let words = [
        "apiVersion: v1\n",
        "kind: ConfigMap\n",
        "metadata: {name: istio}\n",
        "data:\n  ",
        "spec:\n",
        "a",
        "host",
        "http:\n",
        "- route:\n",
    ];
    let all: Vec<&'static str> = PIECES.iter().copied().chain(words).collect();
    prop::collection::vec(prop::sample::select(all), 0..60).prop_map(|pieces| pieces.concat())
}

/// Any value for a field, of its type or not, chosen by `bytes`.
fn value(ty: Type, bytes: &mut impl Iterator<Item = u8>, depth: usize) -> String {
    const ODD: &[&str] = &[
        "null",
        "true",
        "\"\"",
        "0",
        "-1",
        "1.5",
        "4294967296",
        "[]",
        "{}",
        "[[]]",
        "{a: {b: c}}",
        "\"%\"",
        "\"*\"",
        "1s",
        "\"(\"",
        "{exact: a, regex: b}",
        "/",
        "\"\\u0000\"",
        "99999",
        "a/b",
        "\"[::1]:0\"",
        "unix://",
        "0.00001s",
        "[null]",
    ];
    let byte = bytes.next().unwrap_or(0);
    if byte < 60 || depth > 8 {
        return ODD[usize::from(byte) % ODD.len()].into();
    }
    match ty {
        Type::Message(info) => message(info, bytes, depth + 1),
        Type::List(inner) => {
            (0..byte % 3).map(|_| value(*inner, bytes, depth + 1)).collect::<Vec<_>>().join(", ").pipe(|items| format!("[{items}]"))
        }
        Type::Map(inner) => format!("{{a: {}, \"*\": {}}}", value(*inner, bytes, depth + 1), value(*inner, bytes, depth + 1)),
        Type::Enum(info) => info.values[usize::from(byte) % info.values.len()].name.into(),
        Type::Bool => "true".into(),
        Type::Integer { .. } | Type::Number | Type::IntOrString => byte.to_string(),
        Type::Duration => format!("{byte}ms"),
        Type::StringMatch => format!("{{regex: \"{}\"}}", if byte.is_multiple_of(2) { "[a-z]+" } else { "(?=x)" }),
        Type::String | Type::Bytes | Type::Any => "example.com".into(),
    }
}

fn message(info: &'static MessageInfo, bytes: &mut impl Iterator<Item = u8>, depth: usize) -> String {
    let mut fields = Vec::new();
    for field in info.fields {
        if bytes.next().unwrap_or(0).is_multiple_of(3) {
            fields.push(format!("{}: {}", field.name, value(field.ty, bytes, depth)));
        }
    }
    format!("{{{}}}", fields.join(", "))
}

trait Pipe: Sized {
    fn pipe<T>(self, f: impl FnOnce(Self) -> T) -> T {
        f(self)
    }
}
impl Pipe for String {}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_objects_never_panic(text in mutated()) {
        check(&text);
    }

    #[test]
    fn soup_of_yaml_never_panics(text in soup()) {
        check(&text);
    }

    #[test]
    fn any_text_never_panics(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn objects_with_any_values_never_panic(kind in prop::sample::select(Kind::ALL), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let body = message(kind.info(), &mut bytes.into_iter(), 0);
        let group = if kind.group().is_empty() { String::new() } else { format!("{}/", kind.group()) };
        let version = kind.versions()[0];
        let text = match kind {
            Kind::MeshConfig => format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio}}\ndata:\n  mesh: |\n    # é\n    {body}\n"),
            _ => format!("apiVersion: {group}{version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {body}\n"),
        };
        check(&text);
    }
}
