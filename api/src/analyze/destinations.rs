//! Where routes lead: hosts, subsets, ports, gateways and delegates that are not there.
//!
//! In:  VirtualServices. Out: a warning per destination, with what its share of the requests will experience.

use super::{Draft, Report, code, listed};
use crate::effective::{MESH, MeshService, gateways, selects};
use crate::host;
use crate::kinds::virtual_service::{Destination, HttpRoute};
use crate::kinds::{Gateway, VirtualService};
use crate::meta::Labels;
use crate::set::Of;

pub(super) fn check(report: &mut Report<'_>) {
    let effective = report.effective;
    for item in effective.set().of::<VirtualService>() {
        let client = client_namespace(report, item);
        for (at, rule) in item.spec.http.iter().enumerate() {
            http_rule(report, item, &client, at, rule);
        }
        let tls = item.spec.tls.iter().map(|r| ("tls", &r.route));
        let tcp = item.spec.tcp.iter().map(|r| ("tcp", &r.route));
        for (list, routes) in [("tls", tls.collect::<Vec<_>>()), ("tcp", tcp.collect())] {
            for (at, (_, routes)) in routes.into_iter().enumerate() {
                let weights: Vec<i32> = routes.iter().map(|r| r.weight).collect();
                for (position, route) in routes.iter().enumerate() {
                    let share = Share::of(&weights, position, "connections");
                    if let (Some(destination), Some(share)) = (&route.destination, share) {
                        one(report, item, &client, &format!("spec.{list}[{at}].route[{position}].destination"), destination, &share);
                    }
                }
            }
        }
        super::delegates::check(report, item);
        bound_gateways(report, item);
        hosts(report, item);
    }
}

/// Whose view of DestinationRules counts: the object's own namespace for sidecars, the gateway workload's for a VirtualService of gateways only.
fn client_namespace(report: &Report<'_>, item: Of<'_, VirtualService>) -> String {
    let names = gateways(item);
    if names.iter().any(|g| g == MESH) {
        return item.namespace().to_owned();
    }
    let selectors: Vec<&Labels> = names.iter().filter_map(|g| named_gateway(report, g)).map(|g| &g.spec.selector).collect();
    let workload = report.effective.workloads().iter().find(|w| w.gateway && selectors.iter().any(|s| selects(s, &w.labels)));
    workload.map_or_else(|| item.namespace().to_owned(), |w| w.namespace.clone())
}

fn named_gateway<'a>(report: &Report<'a>, name: &str) -> Option<Of<'a, Gateway>> {
    let (namespace, name) = name.split_once('/')?;
    report.effective.set().named(namespace, name)
}

fn http_rule(report: &mut Report<'_>, item: Of<'_, VirtualService>, client: &str, at: usize, rule: &HttpRoute) {
    let weights: Vec<i32> = rule.route.iter().map(|r| r.weight).collect();
    for (position, route) in rule.route.iter().enumerate() {
        let share = Share::of(&weights, position, "requests");
        if let (Some(destination), Some(share)) = (&route.destination, share) {
            one(report, item, client, &format!("spec.http[{at}].route[{position}].destination"), destination, &share);
        }
    }
    for (path, destination) in mirrors(at, rule) {
        one(report, item, client, &path, destination, &Share::mirror());
    }
}

fn mirrors(at: usize, rule: &HttpRoute) -> Vec<(String, &Destination)> {
    let one = rule.mirror.iter().map(|d| (format!("spec.http[{at}].mirror"), d));
    let many = rule.mirrors.iter().enumerate();
    let many = many.filter_map(|(i, m)| Some((format!("spec.http[{at}].mirrors[{i}].destination"), m.destination.as_ref()?)));
    one.chain(many).collect()
}

/// What part of a route's traffic a destination gets, as the subject of a sentence.
struct Share {
    subject: String,
    /// Nobody notices: a mirror.
    silent: bool,
}

impl Share {
    /// `None` for a destination that gets nothing.
    fn of(weights: &[i32], position: usize, what: &str) -> Option<Self> {
        let singular = what.trim_end_matches('s');
        let total: i64 = weights.iter().map(|w| i64::from(*w)).sum();
        if weights.len() == 1 || total <= 0 {
            return Some(Self { subject: format!("every {singular} of this route is"), silent: false });
        }
        match i64::from(weights[position]) * 1000 / total {
            0 if weights[position] <= 0 => None,
            1000 => Some(Self { subject: format!("every {singular} of this route is"), silent: false }),
            per_mille if per_mille % 10 == 0 => {
                Some(Self { subject: format!("{} % of this route's {what} are", per_mille / 10), silent: false })
            }
            per_mille => {
                Some(Self { subject: format!("{}.{} % of this route's {what} are", per_mille / 10, per_mille % 10), silent: false })
            }
        }
    }

    fn mirror() -> Self {
        Self { subject: String::new(), silent: true }
    }

    fn fails(&self, with: &str) -> String {
        if self.silent { "nothing is mirrored".to_owned() } else { format!("{} {with}", self.subject) }
    }
}

fn one(report: &mut Report<'_>, item: Of<'_, VirtualService>, client: &str, path: &str, destination: &Destination, share: &Share) {
    let effective = report.effective;
    let host = effective.mesh().expand(&destination.host, item.namespace());
    let service = effective.service_for_host(&host, client).or_else(|| effective.any_service(&host));
    let Some(service) = service else {
        if report.scope.services && !report.knows_host(&host) {
            let message = format!("no service has the host `{host}`: {}", share.fails("answered 503 (flag NC)"));
            let help = report.suggest_host(&host, item.namespace());
            let help = help.unwrap_or_else(|| "add a Service, or a ServiceEntry for a host outside the mesh".to_owned());
            report.add(Draft::warning(code::UNKNOWN_HOST, item.object, format!("{path}.host"), message).istio("IST0101").help(help));
        } else if !destination.subset.is_empty() {
            // Without services the rule can still be looked for by host.
            subset(report, item, path, destination, &host, item.namespace(), client, share);
        }
        return;
    };
    if !service.export_to.visible_in(client) {
        let message = format!("`{host}` is not exported to namespace {client}: {}", share.fails("answered 503 (flag NC)"));
        let help = format!("add {client} (or `*`) to its exportTo");
        report.add(Draft::warning(code::UNKNOWN_HOST, item.object, format!("{path}.host"), message).istio("IST0101").help(help));
        return;
    }
    port(report, item, path, destination, service, share);
    if !destination.subset.is_empty() {
        subset(report, item, path, destination, &host, &service.namespace, client, share);
    }
}

fn port(
    report: &mut Report<'_>,
    item: Of<'_, VirtualService>,
    path: &str,
    destination: &Destination,
    service: &MeshService,
    share: &Share,
) {
    let ports = || {
        listed(service.ports.iter().map(|p| if p.name.is_empty() { p.number.to_string() } else { format!("{} ({})", p.number, p.name) }))
    };
    match &destination.port {
        Some(chosen) if chosen.number != 0 && service.port(chosen.number).is_none() => {
            let message = format!("`{}` has no port {}: {}", service.host, chosen.number, share.fails("answered 503 (flag NC)"));
            let draft = Draft::warning(code::UNKNOWN_PORT, item.object, format!("{path}.port.number"), message).istio("IST0101");
            report.add(draft.help(format!("its ports are {}", ports())));
        }
        None if service.ports.len() > 1 && on_own_host(report, item, service) => {
            let message =
                format!("`{}` has several ports and none is chosen: each request keeps the port on which it came in", service.host);
            let draft = Draft::note(code::AMBIGUOUS_PORT, item.object, format!("{path}.host"), message).istio("IST0112");
            report.add(draft.help(format!("add `port: {{number: …}}` to send all of them to one of {}", ports())));
        }
        None if service.ports.len() > 1 => {
            let message = format!(
                "`{}` has several ports and none is chosen: a request goes to the port on which it came in, or is answered 503 (flag NC) where there is no such port",
                service.host
            );
            let draft = Draft::warning(code::AMBIGUOUS_PORT, item.object, format!("{path}.host"), message).istio("IST0112");
            report.add(draft.help(format!("add `port: {{number: …}}`; its ports are {}", ports())));
        }
        _ => {}
    }
}

/// A route for a service's own host keeps the port that the caller used, which is what most people mean.
fn on_own_host(report: &Report<'_>, item: Of<'_, VirtualService>, service: &MeshService) -> bool {
    let only_mesh = gateways(item).iter().all(|g| g == MESH);
    only_mesh && item.spec.hosts.iter().all(|h| report.effective.mesh().expand(h, item.namespace()) == service.host)
}

#[allow(clippy::too_many_arguments, reason = "one destination and the place it is written")]
fn subset(
    report: &mut Report<'_>,
    item: Of<'_, VirtualService>,
    path: &str,
    destination: &Destination,
    host: &str,
    owner: &str,
    client: &str,
    share: &Share,
) {
    if !report.scope.rules {
        return;
    }
    let effective = report.effective;
    let rule = effective.rule_for(client, &Labels::new(), host, owner);
    if rule.is_some_and(|rule| rule.subset(&destination.subset).is_some()) {
        return;
    }
    if rule.is_none() && !report.scope.services {
        return;
    }
    // A rule for some of the clients, by their labels, may have it.
    if effective.rules_of(client, host).any(|rule| rule.clients.is_some() && rule.subset(&destination.subset).is_some()) {
        return;
    }
    let name = &destination.subset;
    let outcome = share.fails("answered 503 (flag NC)");
    let (message, help) = match rule {
        None => (
            format!("subset `{name}`: no DestinationRule for `{host}` is in force for clients in namespace {client}: {outcome}"),
            format!("add a DestinationRule for `{host}` with a subset `{name}`"),
        ),
        Some(rule) => {
            let names: Vec<&str> = rule.subsets.iter().map(|s| s.subset.name.as_str()).collect();
            let close = report.suggest(name, names.iter().copied());
            let help = match (close.first(), names.is_empty()) {
                (Some(close), _) => format!("did you mean `{close}`?"),
                (None, true) => format!("add a subset `{name}` to it; it has none"),
                (None, false) => format!("add it, or use one of {}", listed(&names)),
            };
            (format!("the DestinationRule in force for `{host}` has no subset `{name}`: {outcome}"), help)
        }
    };
    let mut draft = Draft::warning(code::UNKNOWN_SUBSET, item.object, format!("{path}.subset"), message).istio("IST0101").help(help);
    if let Some(first) = rule.and_then(|r| r.objects.first()) {
        let object = &effective.set().objects()[*first as usize];
        draft = draft.related(object.place("spec.host"), format!("{} is in force", object.reference()));
    }
    report.add(draft);
}

fn bound_gateways(report: &mut Report<'_>, item: Of<'_, VirtualService>) {
    if !report.scope.gateways {
        return;
    }
    let effective = report.effective;
    for (at, written) in item.spec.gateways.iter().enumerate() {
        let full = crate::effective::gateway_name(written, item.namespace());
        if full == MESH || named_gateway(report, &full).is_some() {
            continue;
        }
        let names: Vec<String> = effective.set().of::<Gateway>().map(|g| format!("{}/{}", g.namespace(), g.name())).collect();
        let short = full.split_once('/').map_or(full.as_str(), |(_, name)| name);
        let elsewhere = names.iter().find(|n| n.ends_with(&format!("/{short}")));
        let close = elsewhere.map(String::as_str).or_else(|| report.suggest(&full, names.iter().map(String::as_str)).first().copied());
        let help = close.map_or_else(|| format!("the Gateways are {}", listed(&names)), |c| format!("did you mean `{c}`?"));
        let message = format!("there is no Gateway {full}: no request from outside reaches these routes by it");
        report.add(Draft::warning(code::UNKNOWN_GATEWAY, item.object, format!("spec.gateways[{at}]"), message).istio("IST0101").help(help));
    }
}

/// A short host in a mesh VirtualService that no service has.
fn hosts(report: &mut Report<'_>, item: Of<'_, VirtualService>) {
    if !report.scope.services || !gateways(item).iter().any(|g| g == MESH) {
        return;
    }
    for (at, written) in item.spec.hosts.iter().enumerate().filter(|(_, h)| !h.contains('.') && !host::is_wildcard(h)) {
        let host = report.effective.mesh().expand(written, item.namespace());
        if host.contains(':') || report.knows_host(&host) {
            continue;
        }
        let message = format!("no service has the host `{host}`: these routes are used only by requests to that name on port 80");
        let help = report.suggest_host(&host, item.namespace());
        report.add(Draft::warning(code::UNUSED_HOST, item.object, format!("spec.hosts[{at}]"), message).istio("IST0101").maybe_help(help));
    }
}
