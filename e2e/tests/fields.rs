//! Every field that the compatibility table calls *enforced* has a test that fails when the field is ignored.
//!
//! In:  the table of the api crate at run time; cases, each a world that uses some fields, requests, and what is then observed.
//! Out: a failure for each enforced field without a case, for each case of no enforced field, for each case that observes something else than it
//!      says, and for each field whose absence nobody notices.
//!
//! **A case runs once as it is written, and once more for each of its fields with that field taken out of the YAML.** Every time the same requests
//! are sent. As written, they must observe what the case says; without the field, something else: so the case fails when the field is ignored.
//!
//! # A new enforced field
//!
//! Add an entry to the list of its kind in `fields/<kind>.rs`:
//!
//! ```text
//! case("fault abort", vs("http: [{fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, $v1}]"))
//!     .fields(&["spec.http[].fault.abort", "spec.http[].fault.abort.percentage.value = 0"])
//!     .ask("GET http://v1.example/")
//!     .sees("status by", "418 -"),
//! ```
//!
//! - The YAML is the whole configuration beside the fixed stage (`fields/stage.rs`): backends `v1`, `v2`, `v3` in this process, reached as `v1.example`
//!   and so on, the Workloads `w1` and `w2` in front of the first two, two clients (`client`, and `other` in the namespace `other`) and a gateway.
//! - A field is named as in the table. It is taken out of the first document of its kind that has it, everywhere in there; `path = value` writes the
//!   value there instead, where the field may not be missing or its absence means the same.
//! - A Workload's cases run all at once in a mesh of their own (`fields/local.rs`).
//! - The words for requests and observations are in `fields/ask.rs`. `PILLION_CASE=text` runs the cases whose names hold the text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a test's helpers may fail loudly, and say what they saw

#[path = "fields/ask.rs"]
mod ask;
#[path = "fields/backend.rs"]
mod backend;
#[path = "fields/case.rs"]
mod case;
#[path = "fields/destination_rule.rs"]
mod destination_rule;
#[path = "fields/gateway.rs"]
mod gateway;
#[path = "fields/local.rs"]
mod local;
#[path = "fields/mesh_config.rs"]
mod mesh_config;
#[path = "fields/resolved.rs"]
mod resolved;
#[path = "fields/service.rs"]
mod service;
#[path = "fields/service_entry.rs"]
mod service_entry;
#[path = "fields/sidecar.rs"]
mod sidecar;
#[path = "fields/stage.rs"]
mod stage;
#[path = "fields/tree.rs"]
mod tree;
#[path = "fields/virtual_service.rs"]
mod virtual_service;
#[path = "fields/workload.rs"]
mod workload;

use std::collections::BTreeSet;

use pillion_api::{
    object::Kind,
    table::{Status, rows},
};
use tokio::sync::Mutex;

use case::Case;
use stage::Stage;

fn cases() -> Vec<(Kind, Vec<Case>)> {
    vec![
        (Kind::VirtualService, virtual_service::cases()),
        (Kind::DestinationRule, destination_rule::cases()),
        (Kind::Gateway, gateway::cases()),
        (Kind::ServiceEntry, service_entry::cases()),
        (Kind::WorkloadEntry, service_entry::workload_entry()),
        (Kind::Sidecar, sidecar::cases()),
        (Kind::MeshConfig, mesh_config::cases()),
        (Kind::Service, service::cases()),
        (Kind::ConfigMap, service::config_map()),
        (Kind::Deployment, workload::deployment()),
        (Kind::Workload, workload::cases()),
    ]
}

#[test]
fn every_enforced_field_has_a_case_and_every_case_an_enforced_field() {
    let all = cases();
    let mut wrong = Vec::new();
    for kind in Kind::ALL {
        let enforced: BTreeSet<String> = rows(*kind).into_iter().filter(|row| row.status == Status::Enforced).map(|row| row.path).collect();
        let of_kind = all.iter().filter(|(of, _)| of == kind).flat_map(|(_, cases)| cases);
        let covered: BTreeSet<String> = of_kind.flat_map(|case| case.fields.iter().map(|field| field.path.to_owned())).collect();
        wrong.extend(enforced.difference(&covered).map(|path| format!("no case: {kind} {path}")));
        wrong.extend(covered.difference(&enforced).map(|path| format!("a case, but not an enforced field: {kind} {path}")));
        println!("{kind}: {} of {} enforced fields have a case", covered.intersection(&enforced).count(), enforced.len());
    }
    assert!(wrong.is_empty(), "{} fields:\n{}", wrong.len(), wrong.join("\n"));
}

/// Some observations are times, so one mesh at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn without_a_field_requests_observe_something_else() {
    let _alone = ALONE.lock().await;
    let only = std::env::var("PILLION_CASE").unwrap_or_default();
    let mut stage = Stage::new().await;
    let mut wrong = Vec::new();
    for (kind, cases) in cases().into_iter().filter(|(kind, _)| *kind != Kind::Workload) {
        for case in cases.iter().filter(|case| case.name.contains(&only)) {
            wrong.extend(case.run(kind, &mut stage).await);
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_field_workloads_run_otherwise() {
    let _alone = ALONE.lock().await;
    let wrong = local::run(Kind::Workload, &workload::cases()).await;
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
