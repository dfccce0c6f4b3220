//! Sidecars that show less than they say, and ports that nobody knows.
//!
//! In:  Sidecars, services, VirtualServices, workloads. Out: warnings.

use super::{Draft, Report, code, listed};
use crate::effective::{EgressHosts, ResolvedWorkload, Scoped, selects};
use crate::host;
use crate::kinds::Sidecar;
use crate::object::Kind;
use crate::set::Of;

pub(super) fn check(report: &mut Report<'_>) {
    let effective = report.effective;
    for item in effective.set().of::<Sidecar>() {
        egress(report, item);
        ingress(report, item);
    }
}

/// Hosts that import nothing.
fn egress(report: &mut Report<'_>, item: Of<'_, Sidecar>) {
    let unread = [Kind::Service, Kind::ServiceEntry, Kind::VirtualService];
    if !report.scope.services || unread.iter().any(|kind| report.scope.invalid_kinds.contains(kind)) {
        return;
    }
    let effective = report.effective;
    let root = effective.mesh().root_namespace.as_str();
    for (at, listener) in item.spec.egress.iter().enumerate() {
        for (position, written) in listener.hosts.iter().enumerate() {
            let Some((namespace, name)) = written.split_once('/') else { continue };
            // In the root namespace `.` means the namespace of each proxy; `istio-system/*` stands in every Sidecar, be it empty or not.
            let anybodys = namespace == "." && item.namespace() == root;
            if namespace.starts_with('~') || anybodys || (namespace == root && name == "*") {
                continue;
            }
            if effective.imports_anything(item.namespace(), &EgressHosts::new(std::slice::from_ref(written), item.namespace())) {
                continue;
            }
            let name = host::normalize(name);
            let help = match effective.any_service(&name).filter(|service| service.host == *name) {
                Some(service) => Some(format!("the service is of namespace {0}: write `{0}/{name}`", service.namespace)),
                None if !name.contains('.') && !host::is_wildcard(&name) => {
                    Some(format!("write the whole name: `{namespace}/{}`", effective.mesh().expand(&name, item.namespace())))
                }
                None => report.suggest_host(&name, if namespace == "." { item.namespace() } else { namespace }),
            };
            let message = format!("`{written}` imports nothing: no service and no VirtualService that is seen here has such a host");
            let path = format!("spec.egress[{at}].hosts[{position}]");
            report.add(Draft::warning(code::IMPORTS_NOTHING, item.object, path, message).maybe_help(help));
        }
    }
}

/// Declared ports that no workload has: neither is there an application, nor does anybody know where to send requests.
fn ingress(report: &mut Report<'_>, item: Of<'_, Sidecar>) {
    if !report.scope.workloads || item.spec.ingress.is_empty() {
        return;
    }
    let here = |workload: &&ResolvedWorkload| {
        let wanted = item.spec.selector();
        !workload.gateway && workload.namespace == item.namespace() && wanted.is_none_or(|wanted| selects(wanted, &workload.labels))
    };
    let workloads: Vec<&ResolvedWorkload> = report.effective.workloads().iter().filter(here).collect();
    let mut known: Vec<u32> = workloads.iter().flat_map(|workload| &workload.ports).map(|port| port.container_port).collect();
    known.sort_unstable();
    known.dedup();
    for (at, listener) in item.spec.ingress.iter().enumerate() {
        let Some(number) = listener.port.as_ref().map(|port| port.number).filter(|number| !known.contains(number)) else { continue };
        if workloads.is_empty() {
            return;
        }
        let message = format!("no workload of this Sidecar has a port {number}: no request of the mesh comes in on it");
        let help = if known.is_empty() { "add the port to the Workload".to_owned() } else { format!("their ports are {}", listed(&known)) };
        report.add(Draft::warning(code::UNKNOWN_INGRESS_PORT, item.object, format!("spec.ingress[{at}].port"), message).help(help));
    }
}
