//! Gateways that nothing serves, hosts that a gateway does not let in, and gateways that fight over a port.
//!
//! In:  Gateways, VirtualServices, gateway workloads. Out: warnings.

use std::collections::HashMap;

use super::{AGE, Draft, Report, code, listed};
use crate::effective::{DEFAULT_GATEWAY, MESH, gateway_name, intersection, selects};
use crate::kinds::{Gateway, VirtualService};
use crate::set::Of;

pub(super) fn check(report: &mut Report<'_>) {
    let effective = report.effective;
    let mut owners: HashMap<(String, u32, String), (Of<'_, Gateway>, String)> = HashMap::new();
    for gateway in effective.set().of::<Gateway>() {
        unattached(report, gateway);
        for (at, server) in gateway.spec.servers.iter().enumerate() {
            let Some(port) = &server.port else { continue };
            for (position, host) in server.hosts.iter().enumerate() {
                let path = format!("spec.servers[{at}].hosts[{position}]");
                let key = (format!("{:?}", gateway.spec.selector), port.number, host.clone());
                let Some((first, first_path)) = owners.get(&key) else {
                    owners.insert(key, (gateway, path));
                    continue;
                };
                if first.index == gateway.index || server.tls.is_some() {
                    continue;
                }
                let other = first.object.reference();
                let message = format!(
                    "port {} and host `{host}` belong to {other} too, with the same selector: routes of both are merged and which comes first is not defined",
                    port.number
                );
                let draft = Draft::warning(code::CONFLICTING_GATEWAYS, gateway.object, path, message).istio("IST0145");
                let place = first.object.place(first_path);
                report.add(draft.help(format!("serve the host from one Gateway; {AGE}")).related(place, "the other one"));
            }
        }
    }
    for item in effective.set().of::<VirtualService>() {
        hosts_outside(report, item);
    }
}

fn unattached(report: &mut Report<'_>, gateway: Of<'_, Gateway>) {
    let workloads: Vec<_> = report.effective.workloads().iter().filter(|w| w.gateway).collect();
    if workloads.iter().any(|w| selects(&gateway.spec.selector, &w.labels)) {
        return;
    }
    // With no Workload at all this is a run over a part of the files; gateways of a cluster are not among them.
    if !report.scope.workloads {
        return;
    }
    let labels = |w: &&crate::effective::ResolvedWorkload| {
        let pairs = listed(w.labels.iter().map(|(k, v)| format!("{k}: {v}")));
        if w.name == DEFAULT_GATEWAY && w.object.is_none() {
            format!("the built-in gateway has {pairs}")
        } else {
            format!("{} has {pairs}", w.name)
        }
    };
    let message = "the selector matches no gateway workload: nothing listens for this Gateway";
    let help = if workloads.is_empty() { "add a Workload with `gateway: true`".to_owned() } else { listed(workloads.iter().map(labels)) };
    report.add(Draft::warning(code::UNATTACHED_GATEWAY, gateway.object, "spec.selector", message).istio("IST0101").help(help));
}

/// A VirtualService attaches to a gateway only with a host that lies in one of the gateway's.
fn hosts_outside(report: &mut Report<'_>, item: Of<'_, VirtualService>) {
    let effective = report.effective;
    for written in item.spec.gateways.iter().filter(|g| *g != MESH) {
        let full = gateway_name(written, item.namespace());
        let Some(gateway) = full.split_once('/').and_then(|(ns, name)| effective.set().named::<Gateway>(ns, name)) else { continue };
        let admitted: Vec<&str> = gateway.spec.servers.iter().flat_map(|s| &s.hosts).map(String::as_str).collect();
        let mesh_too = item.spec.gateways.iter().any(|g| g == MESH);
        for (at, name) in item.spec.hosts.iter().enumerate() {
            let host = effective.mesh().expand(name, item.namespace());
            if admitted.iter().any(|a| intersection(a, gateway.namespace(), &host, item.namespace()).is_some()) {
                continue;
            }
            // A host for sidecars stands beside one for the gateway.
            let another = item.spec.hosts.iter().any(|other| {
                let other = effective.mesh().expand(other, item.namespace());
                admitted.iter().any(|a| intersection(a, gateway.namespace(), &other, item.namespace()).is_some())
            });
            if mesh_too && another {
                continue;
            }
            let message = format!("{} does not serve `{host}`: requests for it from outside are answered 404", gateway.object.reference());
            let close = report.suggest(name, admitted.iter().copied());
            let help = close.first().map_or_else(|| format!("its hosts are {}", listed(&admitted)), |c| format!("did you mean `{c}`?"));
            let draft = Draft::warning(code::HOST_NOT_IN_GATEWAY, item.object, format!("spec.hosts[{at}]"), message).istio("IST0132");
            report.add(draft.help(help).related(gateway.object.place("spec.servers"), "what it serves"));
        }
    }
}
