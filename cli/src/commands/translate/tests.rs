//! The command as a function: folders in, files out.

use std::fs;

use clap::Parser;
use pillion_xds::{json::Descriptors, yaml};
use serde_json::{Value, json};

use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn args(words: &[&str]) -> Args {
    Command::try_parse_from(std::iter::once("translate").chain(words.iter().copied())).unwrap().args
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).display().to_string()
}

fn read(folder: &Path, file: &str) -> Value {
    yaml::read(&fs::read_to_string(folder.join(file)).unwrap()).unwrap()
}

/// The port of a listener, by its name.
fn port(folder: &Path, listener: &str) -> Value {
    let read = read(folder, "lds.yaml");
    let all = read["resources"].as_array().unwrap();
    let found = all.iter().find(|resource| resource["name"] == listener).unwrap_or_else(|| panic!("no {listener} in {all:?}"));
    found["address"]["socket_address"]["port_value"].clone()
}

fn run_in(out: &Path, words: &[&str]) -> Result<(), String> {
    let out = out.display().to_string();
    let all: Vec<&str> = words.iter().copied().chain(["--out", &out]).collect();
    match translate(&args(&all)) {
        Ok(code) if code == ExitCode::SUCCESS => Ok(()),
        Ok(_) => Err("the YAML has errors".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    }
}

#[test]
fn two_runs_differ_in_addresses_alone() {
    let home = tempfile::tempdir().unwrap();
    let (canary, out) = (example("canary"), home.path().join("out"));
    let words = [canary.as_str(), "--workload", "default/visitor"];
    let snapshot = || {
        let files = ["lds.yaml", "cds.yaml", "rds.yaml", "eds/0.yaml", "envoy.yaml"];
        files.map(|file| fs::read_to_string(out.join(file)).unwrap())
    };
    run_in(&out, &words).unwrap();
    let first = snapshot();
    assert_eq!(port(&out, "http_proxy"), 15_001);
    assert_eq!(port(&out, "127.0.0.1_9080"), 15_006);
    let more = ["--outbound", "127.0.0.1:18001", "--inbound", "http=127.0.0.1:18006", "--admin", "127.0.0.1:18000"];
    run_in(&out, &[&words[..], &more[..]].concat()).unwrap();
    let second = snapshot();
    for (first, second) in first.iter().zip(&second) {
        let (first, second): (Vec<&str>, Vec<&str>) = (first.lines().collect(), second.lines().collect());
        assert_eq!(first.len(), second.len());
        for (a, b) in first.iter().zip(&second).filter(|(a, b)| a != b) {
            assert!(a.contains("port_value: 150") && b.contains("port_value: 180"), "{a} / {b}");
        }
    }
    assert_eq!((first[1].as_str(), first[2].as_str()), (second[1].as_str(), second[2].as_str()));
    assert_ne!(first[0], second[0]);
}

#[test]
fn every_file_is_what_envoy_reads() {
    let home = tempfile::tempdir().unwrap();
    let descriptors = Descriptors::load().unwrap();
    for (name, mode) in [("canary", "explicit"), ("header-routing", "captured"), ("shop", "captured")] {
        let out = home.path().join(name);
        let who = if name == "shop" { "default/order-v1" } else { "default/visitor" };
        run_in(&out, &[&example(name), "--workload", who, "--mode", mode]).unwrap();
        descriptors.from_json("envoy.config.bootstrap.v3.Bootstrap", read(&out, "envoy.yaml")).unwrap();
        let folder = |folder: &str| write_list(&out.join(folder));
        let files: Vec<PathBuf> = ["lds.yaml", "cds.yaml", "rds.yaml"].map(|file| out.join(file)).into_iter().collect();
        for file in files.iter().chain(&folder("eds")).chain(&folder("rds")) {
            let response = yaml::read(&fs::read_to_string(file).unwrap()).unwrap();
            descriptors.from_json("envoy.service.discovery.v3.DiscoveryResponse", response.clone()).unwrap();
            let text = response.to_string();
            assert!(!text.contains("\"ads\":"), "{}: everything comes from files", file.display());
            for path in text.split("\"path\":\"").skip(1).filter_map(|rest| rest.split('"').next()).filter(|path| path.ends_with(".yaml")) {
                assert!(Path::new(path).is_file(), "{}: {path}", file.display());
            }
        }
        let routes = read(&out, "rds.yaml");
        let hosts = routes["resources"][0]["virtual_hosts"].as_array().map_or(0, Vec::len);
        assert!(hosts > 0 && routes["resources"][0]["vhds"].is_null(), "{name}: virtual hosts are inside");
    }
}

fn write_list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn a_running_mesh_says_where_everybody_is() {
    let home = tempfile::tempdir().unwrap();
    let ready = home.path().join("ready.json");
    let replica = |name: &str, port: u16| {
        json!({"namespace": "default", "name": name, "replica": 0, "ports": [
            {"name": "http", "port": 9080, "inbound": format!("127.0.0.1:{port}"), "app": format!("127.0.0.1:{}", port + 1)}]})
    };
    let event =
        json!({"event": "ready", "workloads": [replica("product-v1", 20010), replica("product-v2", 20020), replica("visitor", 20030)]});
    fs::write(&ready, format!("{event}\n{}\n{{\"event\": \"gen", json!({"event": "generation"}))).unwrap();
    let out = home.path().join("out");
    let words = [&example("canary"), "--workload", "visitor", "--endpoints", ready.to_str().unwrap()];
    run_in(&out, &words).unwrap();
    let ports = |file: &str| {
        let text = read(&out, file).to_string();
        let ports = text.split("\"port_value\":").skip(1).filter_map(|rest| rest.split('}').next()?.parse().ok());
        ports.collect::<Vec<u16>>()
    };
    // Subsets come before the whole in the order of names.
    assert_eq!(ports("eds/2.yaml"), [20010, 20020]);
    assert!(ports("cds.yaml").contains(&20031), "the program itself");
    assert_eq!(port(&out, "127.0.0.1_20030"), 15_006);
}

#[test]
fn a_cluster_keeps_its_file_when_others_come_and_go() {
    let home = tempfile::tempdir().unwrap();
    let (mesh, out) = (home.path().join("mesh"), home.path().join("out"));
    fs::create_dir(&mesh).unwrap();
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80}}]}}\n---\n"
        )
    };
    let write = |names: &[&str]| {
        let workload = "apiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {name: w}\nspec: {command: ['true']}\n";
        let services: String = names.iter().map(|name| service(name)).collect();
        fs::write(mesh.join("a.yaml"), services + workload).unwrap();
        run_in(&out, &[mesh.to_str().unwrap(), "--workload", "w"]).unwrap();
        files::numbers(&fs::read_to_string(out.join("cds.yaml")).unwrap())
    };
    let name = |name: &str| format!("outbound|80||{name}.default.svc.cluster.local");
    assert_eq!(write(&["b", "c"]), BTreeMap::from([(name("b"), 0), (name("c"), 1)]));
    assert_eq!(write(&["a", "c"]), BTreeMap::from([(name("a"), 2), (name("c"), 1)]));
    assert!(!out.join("eds/0.yaml").exists());
}

#[test]
fn wrong_use_is_told_with_what_would_be_right() {
    let home = tempfile::tempdir().unwrap();
    let canary = example("canary");
    let cases: [(&[&str], &str); 5] = [
        (&["--workload", "default/vistor"], "did you mean default/visitor?"),
        (&["--workload", "visitor", "--inbound", "htpp=127.0.0.1:1"], "--inbound: there is no port htpp; did you mean http?"),
        (&["--workload", "visitor", "--mode", "captured", "--inbound", "http=127.0.0.1:1"], "virtualInbound"),
        (&["--workload", "visitor", "--endpoints", "/nowhere"], "--endpoints /nowhere"),
        (&["--workload", "visitor", "--endpoints", "Cargo.toml"], "there is no `ready` event in it"),
    ];
    for (words, want) in cases {
        let error = run_in(home.path(), &[&[canary.as_str()][..], words].concat()).unwrap_err();
        assert!(error.contains(want), "{words:?}: {error}");
    }
    for bad in ["http", "http=1", "http=127.0.0.1:0"] {
        assert!(Command::try_parse_from(["translate", "d", "--workload", "w", "--out", "o", "--inbound", bad]).is_err(), "{bad}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "nothing was written");
}
