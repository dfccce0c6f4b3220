//! The house keeps its shape: who may depend on whom, one copy of what both planes speak through, licences that we may ship.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

/// What each crate of ours may use of ours, build and test included.
const ALLOWED: &[(&str, &[&str])] = &[
    ("pillion-api", &[]),
    ("pillion-xds", &[]),
    ("pillion-proxy", &["pillion-xds"]),
    ("pillion-control-plane", &["pillion-api", "pillion-xds"]),
    ("pillion", &["pillion-api", "pillion-xds", "pillion-proxy", "pillion-control-plane", "pillion-shop"]),
    ("pillion-shop", &[]),
    ("pillion-e2e", &["pillion-api", "pillion-xds", "pillion-proxy", "pillion-control-plane", "pillion-shop"]),
];
const ONE_COPY: &[&str] = &["hyper", "h2", "http", "rustls", "tonic", "prost", "tokio", "tower", "serde"];
const ABSENT: &[&str] = &["ring", "openssl-sys", "reqwest"];
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "MPL-2.0",
    "0BSD",
    "BSL-1.0",
    "CC0-1.0",
    "Unlicense",
    "MIT-0",
];

/// Only what this platform builds: nothing else was downloaded.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host").to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host()])
        .current_dir(pillion_e2e::workspace())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

fn packages(metadata: &Value) -> &Vec<Value> {
    metadata["packages"].as_array().expect("metadata lists packages")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn our_crates_depend_on_each_other_in_one_direction_only() {
    let metadata = metadata();
    let ours: Vec<_> = packages(&metadata).iter().filter(|package| package["source"].is_null()).collect();
    let names: BTreeSet<_> = ours.iter().map(|package| text(&package["name"])).collect();
    let listed: BTreeSet<_> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, listed, "a crate more or less than the house has");
    for package in ours {
        let name = text(&package["name"]);
        let allowed = ALLOWED.iter().find(|(listed, _)| *listed == name).map(|(_, allowed)| *allowed).unwrap_or_default();
        for dependency in package["dependencies"].as_array().expect("a package lists its dependencies") {
            let dependency = text(&dependency["name"]);
            // A crate's tests may use the crate itself with other features.
            let own = dependency == name;
            assert!(own || !names.contains(dependency) || allowed.contains(&dependency), "{name} -> {dependency} turns an arrow around");
        }
    }
}

#[test]
fn there_is_one_copy_of_what_both_planes_speak_through_and_one_crypto_provider() {
    let metadata = metadata();
    for name in ONE_COPY {
        let versions: Vec<_> =
            packages(&metadata).iter().filter(|package| text(&package["name"]) == *name).map(|package| text(&package["version"])).collect();
        assert!(versions.len() <= 1, "{name} in versions {versions:?}");
    }
    // `metadata` lists optional packages that nothing builds; the tree of what is built is what counts.
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--edges", "all", "--prefix", "none", "--format", "{p}", "--locked", "--offline"])
        .current_dir(pillion_e2e::workspace())
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    let built: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for name in ABSENT {
        assert!(!built.contains(name), "{name} is in the tree: `cargo tree -i {name}` says why");
    }
}

#[test]
fn every_licence_is_one_that_we_may_ship() {
    let metadata = metadata();
    for package in packages(&metadata) {
        let licence = text(&package["license"]).replace('/', " OR ");
        // One alternative is enough; in it, every part must be allowed.
        let allowed = |part: &str| {
            let part = part.trim().trim_matches(['(', ')']);
            LICENCES.contains(&part.split(" WITH ").next().unwrap_or(part).trim())
        };
        let fits = licence.split(" OR ").any(|alternative| alternative.split(" AND ").all(allowed))
            || licence.split(" AND ").all(|part| part.split(" OR ").any(allowed));
        assert!(fits, "{} {}: licence {licence:?}", text(&package["name"]), text(&package["version"]));
    }
}

#[test]
fn no_crate_allows_unsafe_code() {
    for (crate_root, _) in [("api", ()), ("xds", ()), ("proxy", ()), ("control-plane", ()), ("examples/shop", ()), ("e2e", ())] {
        let path = pillion_e2e::workspace().join(crate_root).join("src/lib.rs");
        let text = std::fs::read_to_string(&path).expect("every crate has a root");
        assert!(text.contains("#![deny(unsafe_code)]"), "{}", path.display());
    }
}
