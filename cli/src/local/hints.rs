//! What to try first: commands that work as they are, and a line of YAML worth changing.
//!
//! In:  the world, what runs where.
//! Out: (command, what it shows) and (`file:line`, what to change). Pure.

use pillion_api::{
    effective::{Effective, MeshService},
    kinds::VirtualService,
    string_match::StringMatch,
};

use super::{
    events::{GatewayAddress, ReplicaAddress},
    plan::{CheckPlan, Plan, ReplicaPlan},
};

/// Commands to copy.
pub fn tries(effective: &Effective, plan: &Plan, workloads: &[ReplicaAddress], gateways: &[GatewayAddress]) -> Vec<(String, String)> {
    let mut tries = Vec::new();
    if let Some(gateway) = gateways.first() {
        let path = gateway_path(effective, plan);
        tries.push((format!("curl -i {}{path}", gateway.url), format!("a request from outside, through {}", gateway.name)));
    }
    let split = split_service(effective);
    let mut services =
        effective.services().iter().map(|service| &**service).filter(|service| called_on_80(service) && path_of(service, plan).is_some());
    let service = split.filter(|service| path_of(service, plan).is_some()).or_else(|| services.next());
    if let Some(service) = service {
        let client = workloads.iter().find(|one| !is_behind(service, one)).or(workloads.first());
        if let (Some(client), Some(path)) = (client, path_of(service, plan)) {
            let name = if service.namespace == client.namespace {
                service.name.clone()
            } else {
                format!("{}.{}", service.name, service.namespace)
            };
            tries.push((
                format!("curl -i -x {} http://{name}{path}", client.outbound),
                format!("the same as {} would see it; repeat it and watch who answers", client.name),
            ));
        }
    }
    if let Some(one) = workloads.first() {
        tries.push((
            format!("curl -s {}/stats/prometheus | grep istio_requests_total", one.admin),
            format!("what the sidecar of {} counted", one.name),
        ));
    }
    tries
}

/// A weighted route: where its first weight stands, and what it says.
pub fn edit(effective: &Effective) -> Option<(String, String)> {
    effective.set().of::<VirtualService>().find_map(|item| {
        let (index, rule) = item.spec.http.iter().enumerate().find(|(_, rule)| rule.route.len() > 1)?;
        let weights: Vec<String> = rule.route.iter().map(|route| route.weight.to_string()).collect();
        let place = item.object.place(&format!("spec.http[{index}].route[0].weight"));
        let even = 100 / rule.route.len();
        let what = format!("the weights {} of {}: try {even} each", weights.join(" and "), item.spec.hosts.join(", "));
        Some((format!("{}:{}", place.file, place.line), what))
    })
}

/// The service of the first weighted route.
fn split_service(effective: &Effective) -> Option<&MeshService> {
    effective.set().of::<VirtualService>().find_map(|item| {
        let split = item.spec.http.iter().find(|rule| rule.route.len() > 1)?;
        let host = &split.route.first()?.destination.as_ref()?.host;
        let service = effective.service(&effective.mesh().expand(host, item.namespace()), item.namespace())?;
        called_on_80(service).then_some(&**service)
    })
}

fn called_on_80(service: &MeshService) -> bool {
    service.ports.iter().any(|port| port.number == 80 && port.protocol.may_be_http())
}

fn is_behind(service: &MeshService, workload: &ReplicaAddress) -> bool {
    let labels = workload.labels.clone().into_iter().collect();
    service.selects(&workload.namespace, &labels)
}

/// A path that some workload behind the service answers.
fn path_of(service: &MeshService, plan: &Plan) -> Option<String> {
    let behind = plan.values().find(|plan| {
        let labels = plan.labels.clone().into_iter().collect();
        !plan.gateway && service.selects(&plan.id.namespace, &labels)
    })?;
    known_path(behind)
}

/// What the shop's services serve, else what the readiness probe asks for.
fn known_path(plan: &ReplicaPlan) -> Option<String> {
    let words: Vec<&str> = plan.command.iter().flatten().map(String::as_str).collect();
    if let ["pillion", "shop", "api-gateway" | "product", ..] = words[..] {
        return Some("/api/products/7".into());
    }
    match &plan.probe.as_ref()?.check {
        CheckPlan::HttpGet { path, .. } => Some(path.clone()),
        CheckPlan::Tcp(_) | CheckPlan::Exec(_) | CheckPlan::Grpc { .. } => None,
    }
}

/// A path that a VirtualService of a gateway takes.
fn gateway_path(effective: &Effective, plan: &Plan) -> String {
    let mut routes = effective.set().of::<VirtualService>().filter(|item| item.spec.gateways.iter().any(|name| name != "mesh"));
    let found = routes.find_map(|item| {
        item.spec.http.iter().find_map(|rule| {
            let written = rule.r#match.iter().find_map(|condition| match condition.uri.as_ref()? {
                StringMatch::Exact(path) | StringMatch::Prefix(path) => Some(path.clone()),
                StringMatch::Regex(_) | StringMatch::Present => None,
            });
            let host = || Some(&rule.route.first()?.destination.as_ref()?.host);
            let behind = || {
                let host = effective.mesh().expand(host()?, item.namespace());
                path_of(effective.service(&host, item.namespace())?, plan)
            };
            written.or_else(behind)
        })
    });
    found.unwrap_or_else(|| "/".into())
}
