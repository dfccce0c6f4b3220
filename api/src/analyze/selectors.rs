//! Selectors that match nothing, and objects of which only one can count.
//!
//! In:  policies, Sidecars, Telemetry, workloads, service accounts. Out: warnings.

use std::collections::{HashMap, HashSet};

use super::{AGE, Draft, Report, code, listed};
use crate::effective::{Scoped, selects};
use crate::kinds::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication, ServiceAccount, Sidecar, Telemetry, WorkloadGroup};
use crate::meta::Labels;
use crate::object::Kind;
use crate::set::Of;

pub(super) fn check(report: &mut Report<'_>) {
    selects_nothing::<AuthorizationPolicy>(report, "it protects nothing");
    selects_nothing::<RequestAuthentication>(report, "it protects nothing");
    selects_nothing::<PeerAuthentication>(report, "it protects nothing");
    selects_nothing::<Telemetry>(report, "it changes nothing");
    selects_nothing::<Sidecar>(report, "it changes nothing");
    only_one::<PeerAuthentication>(report, None, None);
    only_one::<Sidecar>(report, Some("IST0111"), Some("IST0110"));
    only_one::<Telemetry>(report, Some("IST0160"), Some("IST0159"));
    root_selectors(report);
    accounts(report);
}

fn selector_path(kind: Kind) -> &'static str {
    if kind == Kind::Sidecar { "spec.workloadSelector.labels" } else { "spec.selector.matchLabels" }
}

fn selects_nothing<T: Scoped>(report: &mut Report<'_>, outcome: &str) {
    if !report.scope.workloads {
        return;
    }
    let effective = report.effective;
    let root = effective.mesh().root_namespace.as_str();
    for item in effective.set().of::<T>().filter(|item| !item.spec.is_attached()) {
        let Some(wanted) = item.spec.selector() else { continue };
        let everywhere = item.namespace() == root && T::KIND != Kind::PeerAuthentication && T::KIND != Kind::Sidecar;
        let mut candidates = effective.workloads().iter().filter(|w| everywhere || w.namespace == item.namespace());
        if candidates.any(|w| selects(wanted, &w.labels)) || groups_match(report, item.namespace(), wanted) {
            continue;
        }
        let message = format!("the selector matches no workload: {outcome}");
        let draft = Draft::warning(code::SELECTS_NOTHING, item.object, selector_path(T::KIND), message).istio("IST0127");
        report.add(draft.help(closest(report, item.namespace(), wanted, everywhere)));
    }
}

/// Workloads outside this machine.
fn groups_match(report: &Report<'_>, namespace: &str, wanted: &Labels) -> bool {
    let set = report.effective.set();
    let entries = set.of::<crate::kinds::WorkloadEntry>().any(|e| e.namespace() == namespace && selects(wanted, &e.spec.labels));
    entries
        || set.of::<WorkloadGroup>().any(|g| {
            let labels = g.spec.metadata.as_ref().map(|m| &m.labels);
            g.namespace() == namespace && labels.is_some_and(|labels| selects(wanted, labels))
        })
}

/// What the workloads have for the first wanted label that none has.
fn closest(report: &Report<'_>, namespace: &str, wanted: &Labels, everywhere: bool) -> String {
    let workloads = report.effective.workloads();
    if let Some(other) = workloads.iter().find(|w| w.namespace != namespace && selects(wanted, &w.labels)).filter(|_| !everywhere) {
        return format!("{}/{} has these labels; a selector matches in its own namespace only", other.namespace, other.name);
    }
    for (key, value) in wanted {
        let mut values: Vec<&str> = workloads
            .iter()
            .filter(|w| everywhere || w.namespace == namespace)
            .filter_map(|w| w.labels.get(key))
            .map(String::as_str)
            .collect();
        values.sort_unstable();
        values.dedup();
        if !values.contains(&value.as_str()) {
            return if values.is_empty() {
                format!("no workload has a label `{key}`")
            } else {
                format!("workloads have {key}: {}", listed(values))
            };
        }
    }
    "no workload has all of them".to_owned()
}

/// Of several objects for the same workloads only the oldest counts.
fn only_one<T: Scoped>(report: &mut Report<'_>, general: Option<&'static str>, selecting: Option<&'static str>) {
    let effective = report.effective;
    let mut first_general: HashMap<&str, Of<'_, T>> = HashMap::new();
    let mut first_selecting: HashMap<(String, &Labels), Of<'_, T>> = HashMap::new();
    for item in effective.set().of::<T>().filter(|item| !item.spec.is_attached()) {
        match item.spec.selector() {
            None => {
                let Some(first) = first_general.get(item.namespace()) else {
                    first_general.insert(item.namespace(), item);
                    continue;
                };
                let message = format!(
                    "{} applies to all of namespace {} already; only the older one counts, this one is ignored",
                    first.object.reference(),
                    item.namespace()
                );
                let mut draft = Draft::warning(code::SECOND_GENERAL, item.object, "metadata.name", message);
                draft.0.istio = general;
                report.add(
                    draft
                        .help(format!("delete one of the two, or give it a selector; {AGE}"))
                        .related(first.object.place("metadata.name"), "this one counts"),
                );
            }
            Some(labels) => {
                let key = (item.namespace().to_owned(), labels);
                let Some(first) = first_selecting.get(&key) else {
                    first_selecting.insert(key, item);
                    continue;
                };
                let message =
                    format!("{} selects the same workloads; only the older one counts, this one is ignored", first.object.reference());
                let mut draft = Draft::warning(code::SECOND_SELECTING, item.object, selector_path(T::KIND), message);
                draft.0.istio = selecting;
                report.add(
                    draft.help(format!("merge the two; {AGE}")).related(first.object.place(selector_path(T::KIND)), "this one counts"),
                );
            }
        }
    }
}

fn root_selectors(report: &mut Report<'_>) {
    let effective = report.effective;
    let root = effective.mesh().root_namespace.clone();
    for item in effective.set().of::<PeerAuthentication>().filter(|item| item.namespace() == root && item.spec.selector().is_some()) {
        let message = format!("a PeerAuthentication with a selector in the root namespace {root} is ignored");
        let draft = Draft::warning(code::IGNORED_SELECTOR, item.object, "spec.selector", message).istio("IST0167");
        report.add(draft.help("move it to the namespace of the workloads, or remove the selector to make it mesh-wide"));
    }
}

/// Principals that name a service account nobody has.
fn accounts(report: &mut Report<'_>) {
    let effective = report.effective;
    let set = effective.set();
    if set.count::<ServiceAccount>() == 0 || report.scope.invalid_kinds.contains(&Kind::ServiceAccount) {
        return;
    }
    let written = set.of::<ServiceAccount>().map(|a| format!("{}/{}", a.namespace(), a.name()));
    let used = effective.workloads().iter().map(|w| format!("{}/{}", w.namespace, w.service_account));
    let known: HashSet<String> = written.chain(used).collect();
    for item in set.of::<AuthorizationPolicy>() {
        for (rule_at, rule) in item.spec.rules.iter().enumerate() {
            for (from_at, source) in rule.from.iter().enumerate().filter_map(|(at, from)| Some((at, from.source.as_ref()?))) {
                for (at, principal) in source.principals.iter().enumerate() {
                    let Some((namespace, account)) = account_of(principal) else { continue };
                    if account == "default" || known.contains(&format!("{namespace}/{account}")) {
                        continue;
                    }
                    let message = format!("no ServiceAccount {account} is known in namespace {namespace}: this principal matches nobody");
                    let of_namespace = known.iter().filter_map(|k| k.strip_prefix(&format!("{namespace}/")));
                    let help = report.suggest(account, of_namespace).first().map(|c| format!("did you mean `{c}`?"));
                    let path = format!("spec.rules[{rule_at}].from[{from_at}].source.principals[{at}]");
                    report.add(Draft::warning(code::UNKNOWN_ACCOUNT, item.object, path, message).maybe_help(help));
                }
            }
        }
    }
}

/// `(namespace, account)` of `<trust domain>/ns/<namespace>/sa/<account>`; `None` with a wildcard or in another form.
fn account_of(principal: &str) -> Option<(&str, &str)> {
    let (_, rest) = principal.split_once("/ns/")?;
    let (namespace, account) = rest.split_once("/sa/")?;
    (!principal.contains('*') && !account.contains('/')).then_some((namespace, account))
}
