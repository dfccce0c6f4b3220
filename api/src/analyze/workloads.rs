//! What cannot run on this machine, and services with nothing behind them.
//!
//! In:  Workloads, Deployments, Services, ServiceEntries. Out: warnings.

use std::collections::HashMap;

use super::{Draft, Report, code, listed};
use crate::effective::Protocol;
use crate::effective::{ResolvedWorkload, Source, TargetPort, deployment_of};
use crate::host;
use crate::kinds::{Deployment, ServiceEntry, Workload};
use crate::object::{Kind, Object};
use crate::set::Of;

pub(super) fn check(report: &mut Report<'_>) {
    collisions(report);
    deployments(report);
    services(report);
    entry_protocols(report);
}

/// Two programs cannot listen on the same port of one machine.
fn collisions(report: &mut Report<'_>) {
    let mut taken: HashMap<u32, (&Object, String)> = HashMap::new();
    for item in report.effective.set().of::<Workload>() {
        let object: &Object = item.object;
        let ports = item
            .spec
            .ports
            .iter()
            .enumerate()
            .filter_map(|(at, p)| Some((u32::from(p.local_port?), format!("spec.ports[{at}].localPort"))));
        let proxy =
            item.spec.proxy.iter().flat_map(|p| [(p.outbound_port, "spec.proxy.outboundPort"), (p.inbound_port, "spec.proxy.inboundPort")]);
        let proxy = proxy.filter_map(|(port, path)| Some((u32::from(port?), path.to_owned())));
        for (port, path) in ports.chain(proxy).filter(|(port, _)| *port > 0) {
            match taken.get(&port) {
                Some((other, other_path)) => {
                    let message = format!("port {port} of this machine is fixed by {} too: the second to start fails", other.reference());
                    let draft = Draft::warning(code::PORT_COLLISION, object, path, message);
                    report.add(
                        draft
                            .help("change one of the two, or remove it to have a port picked")
                            .related(other.place(other_path), "here first"),
                    );
                }
                None => {
                    taken.insert(port, (object, path));
                }
            }
        }
    }
}

fn deployments(report: &mut Report<'_>) {
    let set = report.effective.set();
    for item in set.of::<Workload>().filter(|item| !item.spec.deployment.is_empty()) {
        if deployment_of(set, item).is_some() || report.scope.invalid_kinds.contains(&Kind::Deployment) {
            continue;
        }
        let message = format!(
            "there is no Deployment {}/{}: the workload has no labels, account, ports or environment from it",
            item.namespace(),
            item.spec.deployment
        );
        let names: Vec<&str> = set.of::<Deployment>().filter(|d| d.namespace() == item.namespace()).map(|d| d.name()).collect();
        let close = report.suggest(&item.spec.deployment, names.iter().copied());
        let help = match close.first() {
            Some(close) => format!("did you mean `{close}`?"),
            None if names.is_empty() => "load the file with the Deployment too".to_owned(),
            None => format!("the Deployments of the namespace are {}", listed(&names)),
        };
        report.add(Draft::warning(code::UNKNOWN_DEPLOYMENT, item.object, "spec.deployment", message).istio("IST0101").help(help));
    }
}

/// Services whose selector or named target port finds nothing.
fn services(report: &mut Report<'_>) {
    if !report.scope.workloads {
        return;
    }
    let effective = report.effective;
    let mut by_namespace: HashMap<&str, Vec<&ResolvedWorkload>> = HashMap::new();
    for workload in effective.workloads().iter().filter(|w| !w.gateway) {
        by_namespace.entry(&workload.namespace).or_default().push(workload);
    }
    for service in effective.services().iter().filter(|s| s.source == Source::Service && !s.selector.is_empty()) {
        let object = &effective.set().objects()[service.object as usize];
        let here = by_namespace.get(service.namespace.as_str()).map_or(&[][..], Vec::as_slice);
        let behind: Vec<_> = here.iter().filter(|w| service.selects(&w.namespace, &w.labels)).collect();
        if behind.is_empty() {
            // A Service of a gateway stands for the gateway's own ports.
            if effective.workloads().iter().any(|w| w.gateway && service.selects(&w.namespace, &w.labels)) {
                continue;
            }
            let message = format!("no workload has the labels of service {}: requests to it are answered 503 (flag UH)", service.name);
            let help = "add a Workload with these labels in its metadata, or correct the selector";
            report.add(Draft::warning(code::EMPTY_SERVICE, object, "spec.selector", message).istio("IST0127").help(help));
            continue;
        }
        for port in &service.ports {
            let TargetPort::Name(name) = &port.target_port else { continue };
            if behind.iter().any(|w| w.ports.iter().any(|p| p.name == *name)) {
                continue;
            }
            let at = object.service().and_then(|s| s.ports.iter().position(|p| p.port == port.number)).unwrap_or(0);
            let names: Vec<&str> = behind.iter().flat_map(|w| &w.ports).map(|p| p.name.as_str()).filter(|n| !n.is_empty()).collect();
            let message = format!(
                "no workload of service {} has a port named `{name}`: requests to port {} are answered 503 (flag UH)",
                service.name, port.number
            );
            let help = if names.is_empty() {
                "name the port in the Workload".to_owned()
            } else {
                format!("its ports are named {}", listed(unique(names)))
            };
            report.add(
                Draft::warning(code::UNKNOWN_TARGET_PORT, object, format!("spec.ports[{at}].targetPort"), message)
                    .istio("IST0137")
                    .help(help),
            );
        }
    }
}

fn unique(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names.dedup();
    names
}

/// ServiceEntries of one host that disagree about what a port speaks.
fn entry_protocols(report: &mut Report<'_>) {
    let mut spoken: HashMap<(String, u32), (Of<'_, ServiceEntry>, Protocol, usize)> = HashMap::new();
    for item in report.effective.set().of::<ServiceEntry>() {
        for written in &item.spec.hosts {
            for (at, port) in item.spec.ports.iter().enumerate() {
                let protocol = Protocol::of_entry_port(&port.protocol, &port.name, port.number);
                let key = (host::normalize(written).into_owned(), port.number);
                match spoken.get(&key) {
                    Some((first, other, other_at)) if *other != protocol => {
                        let message = format!(
                            "`{}` port {} speaks {other} according to {}, and {protocol} here: the older one counts",
                            key.0,
                            port.number,
                            first.object.reference()
                        );
                        let draft = Draft::warning(code::CONFLICTING_PROTOCOL, item.object, format!("spec.ports[{at}].protocol"), message)
                            .istio("IST0177");
                        report.add(
                            draft
                                .help("let both say the same")
                                .related(first.object.place(&format!("spec.ports[{other_at}].protocol")), "the older one"),
                        );
                    }
                    Some(_) => {}
                    None => {
                        spoken.insert(key, (item, protocol, at));
                    }
                }
            }
        }
    }
}
