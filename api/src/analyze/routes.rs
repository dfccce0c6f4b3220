//! Routes that never run, and VirtualServices that fight over a host.
//!
//! In:  VirtualServices. Out: warnings that name the other side and who wins.

use std::collections::HashMap;

use super::subsume::covers;
use super::{AGE, Draft, Report, code};
use crate::effective::{ExportTo, MESH, gateways, is_catch_all};
use crate::kinds::VirtualService;
use crate::kinds::virtual_service::{HttpMatchRequest, HttpRoute};
use crate::set::Of;

/// How many earlier conditions a condition is compared with: beyond that nothing is claimed.
const MAX_EARLIER: usize = 400;

pub(super) fn check(report: &mut Report<'_>) {
    let effective = report.effective;
    for item in effective.set().of::<VirtualService>() {
        unreachable(report, item);
        repeated_destinations(report, item);
    }
    conflicts(report);
}

/// Rules and match entries that earlier ones take everything from.
fn unreachable(report: &mut Report<'_>, item: Of<'_, VirtualService>) {
    let mut earlier: Vec<(usize, usize, &HttpMatchRequest)> = Vec::new();
    let mut takes_all: Option<usize> = None;
    for (at, rule) in item.spec.http.iter().enumerate() {
        if let Some(first) = takes_all {
            never(report, item, at, first, "takes every request");
            continue;
        }
        if rule.r#match.is_empty() {
            // A delegate without conditions takes what its own routes take, which is not known here.
            takes_all = rule.delegate.is_none().then_some(at);
            continue;
        }
        let mut covered: Vec<(usize, (usize, usize))> = Vec::new();
        let before = earlier.len();
        for (position, condition) in rule.r#match.iter().enumerate() {
            let by = earlier.iter().take(MAX_EARLIER).find(|(_, _, other)| covers(other, condition));
            if let Some((rule, position_there, _)) = by {
                covered.push((position, (*rule, *position_there)));
            }
            earlier.push((at, position, condition));
        }
        let by_earlier_rules = covered.iter().filter(|(_, (rule, _))| *rule < at).count();
        if by_earlier_rules == rule.r#match.len() {
            let (_, (first, _)) = covered[0];
            never(report, item, at, first, "already takes every request it matches");
        } else {
            for (position, (other, other_position)) in covered {
                ineffective(report, item, (at, position), (other, other_position));
            }
        }
        if rule.delegate.is_some() {
            earlier.truncate(before);
        } else if rule.r#match.iter().any(|c| is_catch_all(c) && is_unconditional(c)) {
            takes_all = Some(at);
        }
    }
}

/// Whether a catch-all entry is there for every client.
fn is_unconditional(condition: &HttpMatchRequest) -> bool {
    condition.port == 0 && condition.gateways.is_empty() && condition.source_labels.is_empty() && condition.source_namespace.is_empty()
}

fn label(rule: &HttpRoute, at: usize) -> String {
    if rule.name.is_empty() { format!("http[{at}]") } else { format!("http[{at}] ({})", rule.name) }
}

fn never(report: &mut Report<'_>, item: Of<'_, VirtualService>, at: usize, by: usize, how: &str) {
    let earlier = label(&item.spec.http[by], by);
    let message = format!("{} never runs: {earlier} before it {how}", label(&item.spec.http[at], at));
    let draft = Draft::warning(code::UNREACHABLE_RULE, item.object, format!("spec.http[{at}]"), message).istio("IST0130");
    let place = item.object.place(&format!("spec.http[{by}]"));
    report.add(draft.help("move it before that rule, or narrow that rule").related(place, "this one runs"));
}

fn ineffective(report: &mut Report<'_>, item: Of<'_, VirtualService>, (at, position): (usize, usize), (by, by_position): (usize, usize)) {
    let path = format!("spec.http[{at}].match[{position}]");
    let other = format!("spec.http[{by}].match[{by_position}]");
    let message =
        format!("this match never decides anything: {} already takes every request it matches", other.trim_start_matches("spec."));
    let draft = Draft::warning(code::INEFFECTIVE_MATCH, item.object, path, message).istio("IST0131");
    report.add(draft.help("remove it, or move it before the other one").related(item.object.place(&other), "this one matches first"));
}

fn repeated_destinations(report: &mut Report<'_>, item: Of<'_, VirtualService>) {
    for (at, rule) in item.spec.http.iter().enumerate().filter(|(_, rule)| rule.route.len() > 1) {
        let mut seen: HashMap<(String, &str, u32), usize> = HashMap::new();
        for (position, route) in rule.route.iter().enumerate() {
            let Some(destination) = &route.destination else { continue };
            let host = report.effective.mesh().expand(&destination.host, item.namespace());
            let key = (host, destination.subset.as_str(), destination.port.as_ref().map_or(0, |p| p.number));
            if let Some(first) = seen.get(&key) {
                let message = "this destination stands twice in the route: the two weights add up";
                let path = format!("spec.http[{at}].route[{position}].destination");
                let first = item.object.place(&format!("spec.http[{at}].route[{first}].destination"));
                report.add(
                    Draft::warning(code::REPEATED_DESTINATION, item.object, path, message)
                        .help("write it once")
                        .related(first, "first here"),
                );
            } else {
                seen.insert(key, position);
            }
        }
    }
}

/// VirtualServices for the same host, on the mesh or on the same gateway.
fn conflicts(report: &mut Report<'_>) {
    let effective = report.effective;
    let mut owners: HashMap<(String, String), Vec<Claim<'_>>> = HashMap::new();
    for item in effective.set().of::<VirtualService>() {
        let export_to = ExportTo::new(&item.spec.export_to, item.namespace(), &effective.mesh().config.default_virtual_service_export_to);
        for gateway in gateways(item) {
            for (at, written) in item.spec.hosts.iter().enumerate() {
                let key = (gateway.clone(), effective.mesh().expand(written, item.namespace()));
                let claims = owners.entry(key).or_default();
                let claim = Claim { item, at, export_to: export_to.clone() };
                if claims.last().is_none_or(|last| last.item.index != item.index) {
                    claims.push(claim);
                }
            }
        }
    }
    let mut contested: Vec<_> = owners.into_iter().filter(|(_, claims)| claims.len() > 1).collect();
    contested.sort_by(|a, b| a.0.cmp(&b.0));
    for ((gateway, host), claims) in contested {
        for (position, claim) in claims.iter().enumerate().skip(1) {
            // The oldest claims come first: one that is seen by the same clients in the same way wins.
            let Some(winner) = claims[..position.min(MAX_EARLIER)].iter().find(|other| other.contests(claim)) else { continue };
            if gateway == MESH {
                ignored(report, &host, claim, winner);
            } else {
                second_catch_all(report, &gateway, &host, claim, winner);
            }
        }
    }
}

struct Claim<'a> {
    item: Of<'a, VirtualService>,
    /// Position in `hosts`.
    at: usize,
    export_to: ExportTo,
}

impl Claim<'_> {
    /// Whether some client sees both in the same way, so that only their age decides.
    fn contests(&self, other: &Self) -> bool {
        let (own, own_ns) = (&self.export_to, self.item.namespace());
        let (theirs, their_ns) = (&other.export_to, other.item.namespace());
        match (own, theirs) {
            (ExportTo::All, ExportTo::All) => true,
            (ExportTo::Namespaces(a), ExportTo::Namespaces(_)) => {
                a.iter().any(|client| theirs.reach(their_ns, client).is_some_and(|reach| own.reach(own_ns, client) == Some(reach)))
            }
            _ => false,
        }
    }
}

fn ignored(report: &mut Report<'_>, host: &str, loser: &Claim<'_>, winner: &Claim<'_>) {
    let (other, place) = (winner.item.object.reference(), winner.item.object.place(&format!("spec.hosts[{}]", winner.at)));
    let message = format!("two VirtualServices route `{host}` for sidecars: {other} is older and wins, this one is ignored for that host");
    let draft = Draft::warning(code::CONFLICTING_ROUTES, loser.item.object, format!("spec.hosts[{}]", loser.at), message).istio("IST0109");
    report.add(draft.help(format!("put all routes of the host into one VirtualService; {AGE}")).related(place, "this one is in force"));
}

/// On a gateway the routes are merged; only a second catch-all is lost.
fn second_catch_all(report: &mut Report<'_>, gateway: &str, host: &str, loser: &Claim<'_>, winner: &Claim<'_>) {
    let catch_all = |claim: &Claim<'_>| {
        let rules = claim.item.spec.http.iter().enumerate().filter(|(_, rule)| rule.delegate.is_none());
        let mut all =
            rules.filter(|(_, rule)| rule.r#match.is_empty() || rule.r#match.iter().any(|c| is_catch_all(c) && is_unconditional(c)));
        all.next().map(|(at, _)| format!("spec.http[{at}]"))
    };
    let (Some(lost), Some(kept)) = (catch_all(loser), catch_all(winner)) else { return };
    let other = winner.item.object.reference();
    let message = format!(
        "on gateway {gateway} both this rule and one of {other} take every request for `{host}`: the older one wins, this one never runs"
    );
    let draft = Draft::warning(code::SECOND_CATCH_ALL, loser.item.object, lost, message);
    report.add(draft.help(format!("give one of them a match; {AGE}")).related(winner.item.object.place(&kept), "this one runs"));
}
