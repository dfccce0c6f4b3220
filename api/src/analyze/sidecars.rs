//! Sidecars that show less than they say, and ports that nobody knows.
//!
//! In:  Sidecars, services, VirtualServices, workloads. Out: warnings.

use std::collections::{BTreeMap, HashSet};

use super::{Draft, Report, code, listed};
use crate::effective::{EgressHosts, MeshService, ResolvedWorkload, TargetPort, WorkloadPort};
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

/// Ports that services lead to and that are not declared: a Sidecar with `ingress` replaces all inbound listeners.
fn undeclared(report: &mut Report<'_>, item: Of<'_, Sidecar>, workloads: &[&ResolvedWorkload]) {
    let declared: HashSet<u32> = item.spec.ingress.iter().filter_map(|listener| Some(listener.port.as_ref()?.number)).collect();
    let effective = report.effective;
    let mut missing: BTreeMap<u32, &MeshService> = BTreeMap::new();
    for workload in workloads {
        for service in effective.services().iter().filter(|service| service.selects(&workload.namespace, &workload.labels)) {
            let leads = |own: &&WorkloadPort| {
                service.ports.iter().any(|port| match &port.target_port {
                    TargetPort::Number(number) => *number == own.container_port,
                    TargetPort::Name(name) => *name == own.name,
                })
            };
            for own in workload.ports.iter().filter(leads).filter(|own| !declared.contains(&own.container_port)) {
                missing.entry(own.container_port).or_insert(service);
            }
        }
    }
    for (port, service) in missing {
        let message = format!(
            "port {port} has no inbound listener, and service {} leads to it: such requests are answered 503 (flag UF)",
            service.name
        );
        let help = format!("add `- port: {{number: {port}, …}}`: `ingress` stands in the place of what services say");
        report.add(Draft::warning(code::UNDECLARED_PORT, item.object, "spec.ingress", message).help(help));
    }
}

/// Declared ports that no workload has: neither is there an application, nor does anybody know where to send requests.
fn ingress(report: &mut Report<'_>, item: Of<'_, Sidecar>) {
    if !report.scope.workloads || item.spec.ingress.is_empty() {
        return;
    }
    let effective = report.effective;
    let follows = |workload: &&ResolvedWorkload| {
        let sidecar = effective.sidecar(&workload.namespace, &workload.labels);
        !workload.gateway && sidecar.is_some_and(|sidecar| sidecar.index == item.index)
    };
    let workloads: Vec<&ResolvedWorkload> = effective.workloads().iter().filter(follows).collect();
    undeclared(report, item, &workloads);
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
