//! DestinationRules for nobody, hidden ones, and subsets without workloads.
//!
//! In:  DestinationRules, services, workloads. Out: warnings.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{AGE, Draft, Report, code, listed};
use crate::effective::{MergedRule, MeshService, RouteRef, selects};
use crate::host;
use crate::kinds::{DestinationRule, VirtualService};
use crate::meta::Labels;
use crate::object::Object;
use crate::set::ObjectIndex;

pub(super) fn check(report: &mut Report<'_>) {
    unknown_hosts(report);
    let mut merged: Vec<Arc<MergedRule>> = report.effective.merged_rules().cloned().collect();
    merged.sort_by_key(|rule| rule.objects.first().copied());
    let shares = subset_shares(report);
    for rule in &merged {
        hides(report, rule);
        repeated(report, rule);
        empty_subsets(report, rule, &shares);
    }
}

fn object<'a>(report: &Report<'a>, index: ObjectIndex) -> &'a Object {
    &report.effective.set().objects()[index as usize]
}

fn unknown_hosts(report: &mut Report<'_>) {
    if !report.scope.services {
        return;
    }
    let effective = report.effective;
    for item in effective.set().of::<DestinationRule>() {
        let host = effective.mesh().expand(&item.spec.host, item.namespace());
        let known = if host::is_wildcard(&host) { effective.covers_service(&host) } else { report.knows_host(&host) };
        if !known {
            let message = format!("no service has the host `{host}`: this DestinationRule changes nothing");
            let help = report.suggest_host(&host, item.namespace());
            report.add(Draft::warning(code::UNKNOWN_RULE_HOST, item.object, "spec.host", message).istio("IST0174").maybe_help(help));
        }
    }
}

/// A rule that clients of its namespace follow in place of the one of the service's owner.
fn hides(report: &mut Report<'_>, rule: &Arc<MergedRule>) {
    let effective = report.effective;
    let Some(service) = effective.any_service(&rule.host).filter(|_| !host::is_wildcard(&rule.host)) else { return };
    let root = effective.mesh().root_namespace.as_str();
    let client = rule.namespace.as_str();
    if client == root || client == service.namespace || !rule.export_to.visible_in(client) {
        return;
    }
    let (owner, service_host) = (service.namespace.clone(), service.host.clone());
    let hidden = [owner.as_str(), root].into_iter().find_map(|namespace| {
        effective.rules_of(namespace, &service_host).find(|other| other.host == service_host && other.export_to.visible_in(client))
    });
    let (Some(hidden), Some(index)) = (hidden, rule.objects.first()) else { return };
    let other = object(report, hidden.objects[0]);
    let lost: Vec<&str> = hidden.subsets.iter().map(|s| s.subset.name.as_str()).filter(|name| rule.subset(name).is_none()).collect();
    let cost = if lost.is_empty() {
        "its traffic policy does not apply to them".to_owned()
    } else {
        format!(
            "for them its subsets {} do not exist, and routes to those are answered 503 (flag NC)",
            listed(lost.iter().map(|n| format!("`{n}`")))
        )
    };
    let message = format!(
        "for clients in namespace {client} this DestinationRule hides {}: rules of different namespaces are not merged, so {cost}",
        other.reference()
    );
    let draft = Draft::warning(code::HIDDEN_RULE, object(report, *index), "spec.host", message);
    let help = "repeat here what the other one says, or change the other one instead";
    report.add(draft.help(help).related(other.place("spec.host"), "hidden by this one"));
}

/// What merging drops: a subset of a name that an older rule has, a second traffic policy.
fn repeated(report: &mut Report<'_>, rule: &Arc<MergedRule>) {
    if rule.objects.len() < 2 {
        return;
    }
    let mut names: HashMap<&str, (ObjectIndex, usize)> = HashMap::new();
    let mut policy: Option<ObjectIndex> = None;
    for index in &rule.objects {
        let this = object(report, *index);
        let Some(spec) = this.destination_rule() else { continue };
        for (at, subset) in spec.subsets.iter().enumerate() {
            match names.get(subset.name.as_str()) {
                Some((older, position)) if older != index => {
                    let other = object(report, *older);
                    let message = format!(
                        "subset `{}` of `{}` is defined by {} already; this definition is ignored",
                        subset.name,
                        rule.host,
                        other.reference()
                    );
                    let draft = Draft::warning(code::REPEATED_SUBSET, this, format!("spec.subsets[{at}].name"), message);
                    let place = other.place(&format!("spec.subsets[{position}].name"));
                    report.add(draft.help(format!("delete one of the two; {AGE}")).related(place, "this one is in force"));
                }
                Some(_) => {}
                None => {
                    names.insert(&subset.name, (*index, at));
                }
            }
        }
        if spec.traffic_policy.is_some() {
            match policy {
                None => policy = Some(*index),
                Some(older) => {
                    let other = object(report, older);
                    let message =
                        format!("`{}` has a trafficPolicy in {} already; this one is ignored as a whole", rule.host, other.reference());
                    let draft = Draft::warning(code::SECOND_POLICY, this, "spec.trafficPolicy", message);
                    let help = format!("put the whole policy into one DestinationRule; {AGE}");
                    report.add(draft.help(help).related(other.place("spec.trafficPolicy"), "this one is in force"));
                }
            }
        }
    }
}

type Shares = HashMap<(String, String), Vec<(RouteRef, usize)>>;

/// Where each (host, subset) is routed to.
fn subset_shares(report: &Report<'_>) -> Shares {
    let effective = report.effective;
    let mut shares = Shares::new();
    for item in effective.set().of::<VirtualService>() {
        for (rule, http) in item.spec.http.iter().enumerate() {
            for (position, route) in http.route.iter().enumerate() {
                let Some(destination) = route.destination.as_ref().filter(|d| !d.subset.is_empty()) else { continue };
                let host = effective.mesh().expand(&destination.host, item.namespace());
                let reference = RouteRef { virtual_service: item.index, rule, condition: None };
                shares.entry((host, destination.subset.clone())).or_default().push((reference, position));
            }
        }
    }
    shares
}

fn empty_subsets(report: &mut Report<'_>, rule: &Arc<MergedRule>, shares: &Shares) {
    let effective = report.effective;
    let Some(service) = effective.any_service(&rule.host).filter(|_| !host::is_wildcard(&rule.host)) else { return };
    let behind = labels_behind(report, service);
    if behind.is_empty() {
        return;
    }
    for merged in &rule.subsets {
        let wanted = &merged.subset.labels;
        if behind.iter().any(|labels| selects(wanted, labels)) {
            continue;
        }
        let this = object(report, merged.object);
        let name = &merged.subset.name;
        let routed = shares.get(&(rule.host.clone(), name.clone()));
        let outcome = if routed.is_some() { "requests routed to it are answered 503 (flag UH)" } else { "no route uses it yet" };
        let message = format!("subset `{name}` of `{}` selects no workload: {outcome}", rule.host);
        let path = format!("spec.subsets[{}].labels", merged.position);
        let draft = Draft::warning(code::EMPTY_SUBSET, this, path, message).istio("IST0173");
        let mut draft = draft.help(format!("it asks for {}; the workloads have {}", pairs(wanted), present(wanted, &behind)));
        if let Some((route, position)) = routed.and_then(|r| r.first()) {
            let place =
                object(report, route.virtual_service).place(&format!("spec.http[{}].route[{position}].destination.subset", route.rule));
            draft = draft.related(place, "routed to here");
        }
        report.add(draft);
    }
}

/// Labels of everything behind a service; nothing when that is not known.
fn labels_behind<'a>(report: &Report<'a>, service: &'a MeshService) -> Vec<&'a Labels> {
    let workloads = report.effective.workloads().iter().filter(|w| report.scope.workloads && service.selects(&w.namespace, &w.labels));
    workloads.map(|w| &w.labels).chain(service.endpoints.iter().map(|e| &e.labels)).collect()
}

fn pairs(labels: &Labels) -> String {
    listed(labels.iter().map(|(key, value)| format!("{key}: {value}")))
}

/// The values that workloads have for the wanted keys, with how many have each.
fn present(wanted: &Labels, behind: &[&Labels]) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for labels in behind {
        for key in wanted.keys() {
            if let Some(value) = labels.get(key) {
                *counts.entry((key, value)).or_default() += 1;
            }
        }
    }
    if counts.is_empty() {
        return "none of these labels".to_owned();
    }
    listed(counts.into_iter().map(|((key, value), count)| format!("{key}: {value} ({count})")))
}
