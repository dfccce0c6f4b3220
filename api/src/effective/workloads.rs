//! The processes of the local mesh, each with everything its Deployment adds.
//!
//! In:  Workload and Deployment objects.
//! Out: [`ResolvedWorkload`]s; the gateways among them and the Gateway objects that select them.

use crate::kinds::deployment::{Deployment, Probe};
use crate::kinds::gateway::Gateway;
use crate::kinds::workload::{Workload, WorkloadProxy};
use crate::meta::{Labels, selects};
use crate::set::{ObjectIndex, ObjectSet, Of};

/// The gateway that exists when no Workload is one.
pub const DEFAULT_GATEWAY: &str = "istio-ingressgateway";

/// A Workload with nothing left to look up.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedWorkload {
    pub name: String,
    pub namespace: String,
    /// Of its own, else of the Deployment's pods.
    pub labels: Labels,
    /// `default` when nobody says.
    pub service_account: String,
    /// 1 when nobody says.
    pub replicas: u32,
    /// Empty: started by someone else.
    pub command: Vec<String>,
    pub ports: Vec<WorkloadPort>,
    /// In the order written; later ones of the same name win.
    pub env: Vec<(String, String)>,
    pub readiness_probe: Option<Probe>,
    pub gateway: bool,
    /// Fixed proxy ports of a workload that someone else starts.
    pub proxy: Option<WorkloadProxy>,
    /// `None` for the built-in gateway.
    pub object: Option<ObjectIndex>,
}

/// A port of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPort {
    pub name: String,
    /// The port the mesh knows.
    pub container_port: u32,
    /// The port the program listens on when it is fixed.
    pub local_port: Option<u32>,
}

/// Every Workload, oldest first, and the built-in gateway last when no Workload is a gateway and there is a Gateway object.
pub(super) fn resolve_all(set: &ObjectSet, root_namespace: &str) -> Vec<ResolvedWorkload> {
    let mut all: Vec<ResolvedWorkload> = set.of::<Workload>().map(|item| resolve(set, item)).collect();
    if set.count::<Gateway>() > 0 && !all.iter().any(|w| w.gateway) {
        all.push(default_gateway(root_namespace));
    }
    all
}

fn default_gateway(namespace: &str) -> ResolvedWorkload {
    let labels = [("istio", "ingressgateway"), ("app", DEFAULT_GATEWAY)].map(|(k, v)| (k.to_owned(), v.to_owned()));
    ResolvedWorkload {
        name: DEFAULT_GATEWAY.to_owned(),
        namespace: namespace.to_owned(),
        labels: labels.into(),
        service_account: DEFAULT_GATEWAY.to_owned(),
        replicas: 1,
        command: Vec::new(),
        ports: Vec::new(),
        env: Vec::new(),
        readiness_probe: None,
        gateway: true,
        proxy: None,
        object: None,
    }
}

/// The Deployment that a Workload names, when it is there.
pub fn deployment_of<'a>(set: &'a ObjectSet, item: Of<'_, Workload>) -> Option<Of<'a, Deployment>> {
    if item.spec.deployment.is_empty() { None } else { set.named(item.namespace(), &item.spec.deployment) }
}

/// What a Workload leaves out comes from its Deployment: labels of its pods, account, replicas, ports, env, probe.
pub fn resolve(set: &ObjectSet, item: Of<'_, Workload>) -> ResolvedWorkload {
    let spec = item.spec;
    let deployment = deployment_of(set, item).map(|d| d.spec);
    let template = deployment.and_then(|d| d.template.as_ref());
    let pod = template.and_then(|t| t.spec.as_ref());
    let container = pod.and_then(|p| p.containers.first());

    let mut ports: Vec<WorkloadPort> = spec
        .ports
        .iter()
        .map(|p| WorkloadPort {
            name: p.name.clone(),
            container_port: p.container_port,
            local_port: p.local_port.filter(|port| *port > 0).map(u32::from),
        })
        .collect();
    if ports.is_empty() {
        let all = pod.into_iter().flat_map(|p| &p.containers).flat_map(|c| &c.ports);
        let tcp = all.filter(|p| !p.protocol.eq_ignore_ascii_case("UDP"));
        ports = tcp.map(|p| WorkloadPort { name: p.name.clone(), container_port: p.container_port, local_port: None }).collect();
    }
    // An empty value stands for `valueFrom`, which only a cluster can resolve.
    let from_deployment =
        container.into_iter().flat_map(|c| &c.env).filter(|e| !e.value.is_empty()).map(|e| (e.name.clone(), e.value.clone()));
    let own = spec.env.iter().map(|e| (e.name.clone(), e.value.clone()));
    let first = |own: &str, other: Option<&String>, default: &str| -> String {
        let given = if own.is_empty() { other.map_or("", |o| o.as_str()) } else { own };
        if given.is_empty() { default.to_owned() } else { given.to_owned() }
    };
    let labels = &item.object.meta.labels;
    let pod_labels = template.and_then(|t| t.metadata.as_ref()).map(|m| &m.labels);
    ResolvedWorkload {
        name: item.name().to_owned(),
        namespace: item.namespace().to_owned(),
        labels: if labels.is_empty() { pod_labels.cloned().unwrap_or_default() } else { labels.clone() },
        service_account: first(
            &spec.service_account,
            pod.map(|p| if p.service_account_name.is_empty() { &p.service_account } else { &p.service_account_name }),
            "default",
        ),
        replicas: spec.replicas.or(deployment.and_then(|d| d.replicas)).unwrap_or(1),
        command: spec.command.clone(),
        ports,
        env: from_deployment.chain(own).collect(),
        readiness_probe: spec.readiness_probe.clone().or_else(|| container.and_then(|c| c.readiness_probe.clone())),
        gateway: spec.gateway,
        proxy: spec.proxy.clone(),
        object: Some(item.index),
    }
}

impl super::Effective {
    /// Every workload of the local mesh, gateways included; see [`ResolvedWorkload`].
    pub fn workloads(&self) -> &[ResolvedWorkload] {
        self.resolved_workloads()
    }

    /// The Gateway objects that a gateway workload with these labels serves, oldest first. A selector matches in all namespaces; an empty one selects
    /// every gateway.
    pub fn gateways_for<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = Of<'a, Gateway>> {
        self.set().of::<Gateway>().filter(|gateway| selects(&gateway.spec.selector, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{labels, object, of};
    use super::*;

    #[test]
    fn what_a_workload_leaves_out_comes_from_its_deployment() {
        let deployment = "
  replicas: 3
  template:
    metadata: {labels: {app: web, version: v1}}
    spec:
      serviceAccountName: web
      containers:
      - name: web
        ports: [{name: http, containerPort: 9080}, {name: dns, containerPort: 53, protocol: UDP}]
        env: [{name: A, value: from deployment}, {name: SECRET, valueFrom: {secretKeyRef: {name: x, key: y}}}]
        readinessProbe: {httpGet: {path: /healthz, port: http}}
";
        let text = [
            object("Deployment", "shop", "web", deployment),
            object("Workload", "shop", "web", "{deployment: web, command: [./web], env: [{name: B, value: own}]}"),
            object("Workload", "shop", "alone", "{command: [./alone], ports: [{name: http, containerPort: 80, localPort: 8080}]}"),
            object("Workload", "shop", "lost", "{deployment: nobody, command: [./lost]}"),
        ];
        let effective = of(&text.concat());
        let [web, alone, lost] = effective.workloads() else { panic!("three workloads, {:?}", effective.workloads()) };
        assert_eq!((web.replicas, web.service_account.as_str()), (3, "web"));
        assert_eq!(web.labels, labels(&[("app", "web"), ("version", "v1")]));
        assert_eq!(web.ports, [WorkloadPort { name: "http".into(), container_port: 9080, local_port: None }]);
        assert_eq!(web.env, [("A".to_owned(), "from deployment".to_owned()), ("B".to_owned(), "own".to_owned())]);
        assert!(web.readiness_probe.is_some());
        assert_eq!((alone.replicas, alone.service_account.as_str(), alone.ports[0].local_port), (1, "default", Some(8080)));
        assert!(lost.ports.is_empty());
    }

    #[test]
    fn a_gateway_is_built_in_when_there_is_a_gateway_object_and_no_workload_for_it() {
        let server = "servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]";
        let gateway = object("Gateway", "shop", "edge", &format!("{{selector: {{istio: ingressgateway}}, {server}}}"));
        let effective = of(&gateway);
        assert_eq!(effective.workloads().len(), 1);
        let built_in = &effective.workloads()[0];
        assert_eq!((built_in.name.as_str(), built_in.namespace.as_str(), built_in.gateway), (DEFAULT_GATEWAY, "istio-system", true));
        assert_eq!(effective.gateways_for(&built_in.labels).map(|g| g.name()).collect::<Vec<_>>(), ["edge"]);
        let own = object("Workload", "shop", "mine", "{gateway: true}");
        assert_eq!(of(&(gateway + &own)).workloads().len(), 1);
        assert!(of(&own).workloads()[0].gateway && of("").workloads().is_empty());
    }
}
