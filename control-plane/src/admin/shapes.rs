//! The JSON of `/api/v1`. A public interface: fields are added, never renamed or removed.
//!
//! In:  [`Review`]s, statuses, history.
//! Out: serializable answers.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use pillion_api::{
    effective::Unenforced,
    finding::{Finding, Severity},
};
use serde::Serialize;

use super::history::Generation;
use crate::{
    model::{
        store::{Review, State},
        world::World,
    },
    push::status::ProxyStatus,
};

/// `/api/v1/proxies`
#[derive(Clone, Debug, Serialize)]
pub struct ProxyList {
    /// The newest generation.
    pub generation: u64,
    /// By node.
    pub proxies: Vec<ProxyStatus>,
    /// Instances that run here (`instance.namespace`) and whose proxy is not connected.
    pub missing: Vec<String>,
}

impl ProxyList {
    /// Who is connected, and who should be.
    pub fn of(world: &World, proxies: Vec<ProxyStatus>) -> Self {
        let connected: HashSet<(&str, &str)> = proxies.iter().map(|proxy| (proxy.namespace.as_str(), proxy.instance.as_str())).collect();
        let missing = world.instances.keys().filter(|id| !connected.contains(&(id.namespace.as_str(), id.name.as_str())));
        let missing = missing.map(|id| format!("{}.{}", id.name, id.namespace)).collect();
        Self { generation: world.generation, missing, proxies }
    }
}

/// `/api/v1/config`
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    pub generation: u64,
    /// By file, then position.
    pub objects: Vec<ObjectStatus>,
    /// Objects of kinds that are no business of a mesh, counted by `apiVersion/Kind`.
    pub skipped: BTreeMap<String, usize>,
    /// Policies that people may rely on in vain.
    pub unenforced: Vec<UnenforcedPolicy>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ObjectStatus {
    pub kind: &'static str,
    /// Empty for kinds without one.
    pub namespace: String,
    pub name: String,
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
    /// `in_force`: as written. `quarantined`: what is written is not good; the findings say why.
    pub state: &'static str,
    /// Of a quarantined object: an earlier version of it is in force.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub last_good: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnenforcedPolicy {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub file: Arc<str>,
    pub line: u32,
    pub consequence: &'static str,
}

impl From<&Unenforced> for UnenforcedPolicy {
    fn from(policy: &Unenforced) -> Self {
        Self {
            kind: policy.kind.as_str(),
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            file: policy.place.file.clone(),
            line: policy.place.line,
            consequence: policy.consequence,
        }
    }
}

impl Config {
    pub fn of(review: &Review) -> Self {
        let object = |(entry, state): (&crate::model::store::Entry, State)| ObjectStatus {
            kind: entry.reference.kind.as_str(),
            namespace: entry.reference.namespace.clone(),
            name: entry.reference.name.clone(),
            file: entry.place.file.clone(),
            line: entry.place.line,
            state: if state == State::InForce { "in_force" } else { "quarantined" },
            last_good: state == State::Held,
        };
        Self {
            generation: review.generation,
            objects: review.objects().map(object).collect(),
            skipped: review.skipped().into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect(),
            unenforced: review.unenforced.iter().map(UnenforcedPolicy::from).collect(),
        }
    }
}

/// `/api/v1/findings`
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    pub generation: u64,
    pub errors: usize,
    pub warnings: usize,
    pub notes: usize,
    /// By file, then position.
    pub findings: Arc<[Finding]>,
}

impl Findings {
    pub fn of(review: &Review) -> Self {
        let count = |severity| review.findings.iter().filter(|finding| finding.severity == severity).count();
        Self {
            generation: review.generation,
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
            findings: review.findings.clone(),
        }
    }
}

/// `/api/v1/generations`
#[derive(Clone, Debug, Serialize)]
pub struct Generations {
    pub generation: u64,
    /// The newest first; old ones are forgotten.
    pub generations: Vec<Generation>,
}
