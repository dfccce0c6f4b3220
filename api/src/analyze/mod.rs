//! What objects do to each other, and what Istio's semantics will surprise people with.
//!
//! In:  an [`Effective`], and the names of objects that could not be used.
//! Out: findings: warnings for what will probably not do what was meant, notes for what is legal and surprising. Never an error: each object by
//! itself is fine, and stays in force.

mod delegates;
mod destinations;
mod gateways;
mod notes;
mod routes;
mod rules;
mod selectors;
mod sidecars;
mod subsume;
mod workloads;

use std::cell::Cell;
use std::collections::HashSet;

use crate::decode::suggestions;
use crate::effective::{Effective, Source};
use crate::finding::{Finding, Place, Severity};
use crate::kinds::{DestinationRule, Gateway, Service, ServiceEntry, Workload};
use crate::meta::ObjectRef;
use crate::object::{Kind, Object};

/// The stable codes of findings about several objects. `PLN2000` and up; a code keeps its meaning for ever.
pub mod code {
    /// A second object of the same kind, namespace and name.
    pub const DUPLICATE: &str = "PLN2001";
    pub const UNKNOWN_HOST: &str = "PLN2101";
    pub const UNKNOWN_SUBSET: &str = "PLN2102";
    pub const UNKNOWN_GATEWAY: &str = "PLN2103";
    pub const UNKNOWN_DELEGATE: &str = "PLN2104";
    pub const DELEGATE_CONFLICT: &str = "PLN2108";
    pub const AMBIGUOUS_PORT: &str = "PLN2105";
    pub const UNKNOWN_PORT: &str = "PLN2106";
    pub const UNUSED_HOST: &str = "PLN2107";
    pub const CONFLICTING_ROUTES: &str = "PLN2201";
    pub const UNREACHABLE_RULE: &str = "PLN2202";
    pub const INEFFECTIVE_MATCH: &str = "PLN2203";
    pub const REPEATED_DESTINATION: &str = "PLN2204";
    pub const SECOND_CATCH_ALL: &str = "PLN2206";
    pub const UNKNOWN_RULE_HOST: &str = "PLN2301";
    pub const HIDDEN_RULE: &str = "PLN2302";
    pub const EMPTY_SUBSET: &str = "PLN2303";
    pub const REPEATED_SUBSET: &str = "PLN2304";
    pub const SECOND_POLICY: &str = "PLN2305";
    pub const UNATTACHED_GATEWAY: &str = "PLN2401";
    pub const HOST_NOT_IN_GATEWAY: &str = "PLN2402";
    pub const CONFLICTING_GATEWAYS: &str = "PLN2403";
    pub const SELECTS_NOTHING: &str = "PLN2501";
    pub const SECOND_GENERAL: &str = "PLN2502";
    pub const SECOND_SELECTING: &str = "PLN2503";
    pub const IGNORED_SELECTOR: &str = "PLN2504";
    pub const UNKNOWN_ACCOUNT: &str = "PLN2505";
    pub const IMPORTS_NOTHING: &str = "PLN2506";
    pub const UNKNOWN_INGRESS_PORT: &str = "PLN2507";
    pub const UNDECLARED_PORT: &str = "PLN2508";
    pub const PORT_COLLISION: &str = "PLN2601";
    pub const UNKNOWN_DEPLOYMENT: &str = "PLN2602";
    pub const UNKNOWN_TARGET_PORT: &str = "PLN2603";
    pub const EMPTY_SERVICE: &str = "PLN2604";
    pub const CONFLICTING_PROTOCOL: &str = "PLN2605";
    pub const NOTE_PER_TRY: &str = "PLN2801";
    pub const NOTE_RETRY_COST: &str = "PLN2802";
    pub const NOTE_INERT_EJECTION: &str = "PLN2803";
    pub const NOTE_PATH: &str = "PLN2804";
    pub const NOTE_ALLOW: &str = "PLN2805";
    pub const NOTE_PERCENTAGE: &str = "PLN2806";
}

/// How many unknown names are compared with the known ones for "did you mean".
const SUGGESTION_BUDGET: usize = 200;
/// The sentence that ends findings in which age decides.
const AGE: &str = "here \"older\" means file path, then position in the file; a cluster goes by creation time";

/// Everything worth saying about the objects together. `invalid`: objects that were read but are not in the set; what refers to them is not reported
/// a second time. Findings are in no particular order; repeats of a note within a file are one finding with the other places related.
pub fn analyze(effective: &Effective, invalid: &[ObjectRef]) -> Vec<Finding> {
    let mut report =
        Report { effective, scope: Scope::new(effective, invalid), findings: Vec::new(), suggestions_left: Cell::new(SUGGESTION_BUDGET) };
    destinations::check(&mut report);
    routes::check(&mut report);
    rules::check(&mut report);
    gateways::check(&mut report);
    selectors::check(&mut report);
    sidecars::check(&mut report);
    workloads::check(&mut report);
    notes::check(&mut report);
    group_notes(report.findings)
}

/// What is known well enough to miss something in it: a run over a few files must not report what lies in others.
struct Scope {
    services: bool,
    rules: bool,
    gateways: bool,
    workloads: bool,
    invalid: HashSet<ObjectRef>,
    invalid_kinds: HashSet<Kind>,
}

impl Scope {
    fn new(effective: &Effective, invalid: &[ObjectRef]) -> Self {
        let set = effective.set();
        let invalid_kinds: HashSet<Kind> = invalid.iter().map(|r| r.kind).collect();
        Self {
            services: set.count::<Service>() + set.count::<ServiceEntry>() > 0,
            rules: set.count::<DestinationRule>() > 0 && !invalid_kinds.contains(&Kind::DestinationRule),
            gateways: set.count::<Gateway>() > 0 && !invalid_kinds.contains(&Kind::Gateway),
            workloads: set.count::<Workload>() > 0 && !invalid_kinds.contains(&Kind::Workload),
            invalid: invalid.iter().cloned().collect(),
            invalid_kinds,
        }
    }
}

/// The findings so far, and what checks ask of all objects.
struct Report<'a> {
    effective: &'a Effective,
    scope: Scope,
    findings: Vec<Finding>,
    suggestions_left: Cell<usize>,
}

impl<'a> Report<'a> {
    fn add(&mut self, finding: Draft) {
        self.findings.push(finding.0);
    }

    /// The names that were probably meant, within a budget for all findings together.
    fn suggest<'n>(&self, word: &str, names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
        let left = self.suggestions_left.get();
        if left == 0 {
            return Vec::new();
        }
        self.suggestions_left.set(left - 1);
        suggestions(word, names)
    }

    /// Whether a host (normal form) means a service, or may mean one that could not be read.
    fn knows_host(&self, host: &str) -> bool {
        if self.effective.any_service(host).is_some() || self.scope.invalid_kinds.contains(&Kind::ServiceEntry) {
            return true;
        }
        let Some((name, namespace)) = crate::host::split_service(host, &self.effective.mesh().cluster_domain) else { return false };
        let reference = ObjectRef { kind: Kind::Service, namespace: namespace.to_owned(), name: name.to_owned() };
        self.scope.invalid.contains(&reference)
    }

    /// "did you mean" for a host, in the shortest form that works for a rule of `namespace`.
    fn suggest_host(&self, host: &str, namespace: &str) -> Option<String> {
        let domain = &self.effective.mesh().cluster_domain;
        let short = crate::host::split_service(host, domain).map_or(host, |(name, _)| name);
        let services = self.effective.services();
        // The same name in another namespace is the likeliest slip of all.
        if let Some(found) = services.iter().find(|s| s.name == short && s.namespace != namespace && s.host != host) {
            return Some(format!("did you mean `{}`? A short name means a service of the rule's own namespace", found.host));
        }
        // Like is compared with like: the suffix that all cluster hosts share would make any two of them look close.
        let close = if short == host {
            self.suggest(host, services.iter().filter(|s| s.source == Source::ServiceEntry).map(|s| s.host.as_str()))
        } else {
            self.suggest(short, services.iter().filter(|s| s.namespace == namespace).map(|s| s.name.as_str()))
        };
        close.first().map(|name| format!("did you mean `{name}`?"))
    }
}

/// A finding under construction.
struct Draft(Finding);

impl Draft {
    fn new(severity: Severity, code: &'static str, object: &Object, path: impl Into<String>, message: impl Into<String>) -> Self {
        let path = path.into();
        let place = object.place(&path);
        let object = object.reference().to_string();
        Self(Finding { severity, code, istio: None, object, path, message: message.into(), help: None, place, related: Vec::new() })
    }

    fn warning(code: &'static str, object: &Object, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, object, path, message)
    }

    fn note(code: &'static str, object: &Object, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, code, object, path, message)
    }

    fn istio(mut self, code: &'static str) -> Self {
        self.0.istio = Some(code);
        self
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    fn maybe_help(mut self, help: Option<String>) -> Self {
        self.0.help = help;
        self
    }

    fn related(mut self, place: Place, what: impl Into<String>) -> Self {
        self.0.related.push((place, what.into()));
        self
    }
}

/// A note is said once per file: the other places where it applies are related to the first.
fn group_notes(findings: Vec<Finding>) -> Vec<Finding> {
    let mut first: std::collections::HashMap<(&'static str, std::sync::Arc<str>, String), usize> = std::collections::HashMap::new();
    let mut kept: Vec<Finding> = Vec::with_capacity(findings.len());
    for finding in findings {
        if finding.severity == Severity::Note {
            let key = (finding.code, finding.place.file.clone(), finding.message.clone());
            if let Some(at) = first.get(&key) {
                kept[*at].related.push((finding.place, "here too".to_owned()));
                continue;
            }
            first.insert(key, kept.len());
        }
        kept.push(finding);
    }
    kept
}

/// `a, b and c`, or `a, b, c and 4 more` beyond eight.
fn listed<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = items.into_iter().map(|i| i.to_string()).collect();
    match all.len() {
        0 => String::new(),
        1 => all[0].clone(),
        2..=8 => format!("{} and {}", all[..all.len() - 1].join(", "), all[all.len() - 1]),
        more => format!("{} and {} more", all[..8].join(", "), more - 8),
    }
}
