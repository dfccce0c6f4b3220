//! Golden files: what YAML becomes on the wire.
//!
//! In:  `golden/<case>/in.yaml`: objects, and in leading comments who asks and what to show:
//!      `# node: client as pillion` (a Workload's name; `pillion`, `envoy`, each with `captured` or `router` if so, or `grpc`) and
//!      `# show: vhds rds`, each type with an optional prefix of names (`cds:outbound|80|`).
//! Out: `golden/<case>/want.yaml`; `PILLION_UPDATE=1` writes it.
#![allow(clippy::unwrap_used)] // a test's helpers may fail loudly

#[allow(dead_code)] // each test takes what it needs
mod world;

use std::{fmt::Write as _, fs, path::Path};

use pillion_xds::{
    node::Node,
    resource::{NodeConfig, ResourceType},
    wire::DESCRIPTORS,
    yaml,
};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use world::{build, node, parse};

/// One node of a case and what to show of it.
struct View {
    title: String,
    node: Node,
    show: Vec<(ResourceType, String)>,
}

#[test]
fn every_golden_case_translates_to_what_it_did() {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("PILLION_UPDATE").is_some();
    let mut different = Vec::new();
    let mut cases = 0;
    let mut folders: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in folders {
        let input = fs::read_to_string(folder.join("in.yaml")).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let got = render_case(&pool, &name, &input);
        let want = folder.join("want.yaml");
        if update {
            fs::write(&want, &got).unwrap();
        } else if fs::read_to_string(&want).unwrap_or_default() != got {
            different.push(format!("{name}:\n{}", first_difference(&fs::read_to_string(&want).unwrap_or_default(), &got)));
        }
        cases += 1;
    }
    assert!(cases > 0);
    assert!(different.is_empty(), "PILLION_UPDATE=1 takes the new output after a look at it\n{}", different.join("\n"));
}

fn first_difference(want: &str, got: &str) -> String {
    let lines = want.lines().zip(got.lines()).enumerate().find(|(_, (a, b))| a != b);
    match lines {
        Some((at, (a, b))) => format!("  line {}\n  - {a}\n  + {b}", at + 1),
        None => format!("  {} lines became {}", want.lines().count(), got.lines().count()),
    }
}

fn render_case(pool: &DescriptorPool, name: &str, input: &str) -> String {
    let parsed = parse(name, input);
    assert!(parsed.errors.is_empty(), "{name}: {:?}", parsed.errors);
    let world = build(1, parsed.set, None);
    let translator = world::translator().0;
    let mut out = String::new();
    for view in views(input, &world) {
        let config = translator.translate(&world, &view.node);
        let again = world::translator().0.translate(&world, &view.node);
        assert!(config.same_resources(&again), "{name}: the same world and node gave other bytes");
        let _ = writeln!(out, "# {}", view.title);
        for (kind, prefix) in view.show {
            render_type(pool, &config, kind, &prefix, &mut out);
        }
    }
    out
}

fn views(input: &str, world: &pillion_control_plane::model::world::World) -> Vec<View> {
    let mut views: Vec<View> = Vec::new();
    for line in input.lines().map_while(|line| line.strip_prefix("# ")) {
        if let Some(who) = line.strip_prefix("node: ") {
            views.push(View { title: who.to_owned(), node: node(world, who), show: Vec::new() });
        } else if let Some(what) = line.strip_prefix("show: ") {
            let one = |word: &str| {
                let (kind, prefix) = word.split_once(':').unwrap_or((word, ""));
                let kind = ResourceType::ALL.into_iter().find(|t| t.short() == kind).unwrap_or_else(|| panic!("type {kind}"));
                (kind, prefix.to_owned())
            };
            views.last_mut().expect("node before show").show = what.split_whitespace().map(one).collect();
        }
    }
    assert!(!views.is_empty(), "no `# node:` line");
    views
}

fn render_type(pool: &DescriptorPool, config: &NodeConfig, kind: ResourceType, prefix: &str, out: &mut String) {
    let _ = writeln!(out, "{}:", kind.short());
    let message = pool.get_message_by_name(kind.type_url().rsplit('/').next().unwrap()).unwrap();
    for (name, resource) in config.of(kind).iter().filter(|(name, _)| name.starts_with(prefix)) {
        let decoded = DynamicMessage::decode(message.clone(), resource.body.clone()).unwrap();
        let json = decoded.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).unwrap();
        let _ = writeln!(out, "  {}:", yaml::text(name));
        yaml::write_indented(&json, 4, out);
    }
}
