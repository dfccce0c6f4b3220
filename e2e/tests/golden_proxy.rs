//! Our own proxy compiles everything the control plane's golden cases produce: the two sides of the contract agree, field by field.
//!
//! In:  `control-plane/tests/golden/*/in.yaml`, for every node a case asks for, as a Pillion node.
//! Out: nothing is refused, and nothing that is set has no effect.
#![allow(clippy::unwrap_used)] // a test's helpers may fail loudly

#[allow(dead_code)] // the tests of the control plane take more of it
#[path = "../../control-plane/tests/world/mod.rs"]
mod world;

use std::{fs, sync::Arc};

use pillion_control_plane::model::world::World;
use pillion_proxy::{
    config::{LocalNode, compile::Compiler},
    telemetry::log_sink::LogSinks,
};
use pillion_xds::{
    node::Node,
    resource::ResourceType,
    subscription::{Changed, Decoded},
};
use tokio::time::Instant;

/// What a stock Envoy is sent and our proxy says it does not do yet: the source address of captured connections, and the two fields of a
/// VirtualService that loading reports as not enforced (`statPrefix`, `retryRemoteLocalities`).
const LATER: [&str; 3] = ["upstream_bind_config", "stat_prefix: has no effect yet", "retry_policy.retry_priority"];

/// What the proxy says against the resources of a node.
fn complaints(world: &Arc<World>, node: &Node) -> Vec<String> {
    let config = world::translator().0.translate(world, node);
    let mut compiler = Compiler::new(Arc::new(LogSinks::default()), LocalNode::default());
    let mut found = Vec::new();
    for kind in ResourceType::ALL {
        let changed: Vec<Changed> = config
            .of(kind)
            .values()
            .map(|encoded| Changed { encoded: encoded.clone(), message: Decoded::from_encoded(kind, encoded).unwrap() })
            .collect();
        let verdict = compiler.take(kind, &changed, &[], Instant::now());
        found.extend(verdict.refused.iter().map(|refusal| format!("{kind} {} refused: {}", refusal.name, refusal.reason)));
        let notes = verdict.notes.iter().filter(|note| !LATER.iter().any(|field| note.contains(field)));
        found.extend(notes.map(|note| format!("{kind} without effect: {note}")));
    }
    found
}

#[test]
fn the_proxy_compiles_every_golden_case_without_a_word() {
    let mut found = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(pillion_e2e::workspace().join("control-plane/tests/golden")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let input = fs::read_to_string(folder.join("in.yaml")).unwrap();
        let world = world::build(1, world::parse(&name, &input).set, None);
        let lines = input.lines().map_while(|line| line.strip_prefix("# ")).filter_map(|line| line.strip_prefix("node: "));
        // gRPC's resources are for gRPC's own client.
        for who in lines.filter(|who| !who.ends_with(" as grpc")) {
            let node = world::node(&world, &who.replace("envoy", "pillion"));
            found.extend(complaints(&world, &node).into_iter().map(|complaint| format!("{name} ({who}): {complaint}")));
        }
        cases += 1;
    }
    assert!(cases > 0);
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
