//! Reads from the YAML's world what should run here.
//!
//! In:  [`Effective`] of one generation (Workloads with what their Deployments add, Gateways).
//! Out: a [`Plan`], and findings about what cannot run as written. No I/O.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use pillion_api::{
    decode::IntOrString,
    effective::{Effective, Protocol, ResolvedWorkload},
    finding::{Finding, Place, Severity},
    kinds::{Workload, deployment::Probe},
};
use pillion_control_plane::model::instance::InstanceId;

use super::{
    plan::{CheckPlan, FixedProxyPorts, Plan, PortPlan, PortRef, ProbePlan, ReplicaPlan},
    ports::{Fixed, clashes},
};

/// Two owners of one port.
const PORT_CLASH: &str = "PLN3011";
/// More replicas than one machine should run.
const TOO_MANY_REPLICAS: &str = "PLN3012";
/// A probe that is made differently here.
const PROBE: &str = "PLN3013";

/// Replicas of one workload; more are not started.
const MOST_REPLICAS: u32 = 50;

/// What a generation asks this machine to run.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    pub plan: Plan,
    pub findings: Vec<Finding>,
}

/// Reads the plan. `own_ports` are those of the mesh itself that somebody fixed, with the flag that did.
pub fn desired(effective: &Effective, own_ports: &[(u16, &str)]) -> Desired {
    let mut reader = Reader { effective, desired: Desired::default(), fixed: Vec::new() };
    for (port, flag) in own_ports {
        reader.fix(*port, "pillion run", flag, Place::default());
    }
    for workload in effective.workloads() {
        reader.workload(workload);
    }
    let fixed = std::mem::take(&mut reader.fixed);
    reader.desired.findings.extend(clashes(&fixed).into_iter().map(clash_finding));
    reader.desired
}

struct Reader<'a> {
    effective: &'a Effective,
    desired: Desired,
    fixed: Vec<Fixed<Place>>,
}

impl Reader<'_> {
    fn workload(&mut self, workload: &ResolvedWorkload) {
        let replicas = self.replicas(workload);
        let ports = if workload.gateway { self.gateway_ports(workload) } else { own_ports(workload) };
        let probe = workload.readiness_probe.as_ref().and_then(|probe| self.probe(workload, probe));
        let proxy = workload.proxy.as_ref();
        let fixed =
            FixedProxyPorts { outbound: proxy.and_then(|proxy| proxy.outbound_port), inbound: proxy.and_then(|proxy| proxy.inbound_port) };
        let directory = self.directory(workload);
        for replica in 0..replicas {
            let id = InstanceId { namespace: workload.namespace.clone(), name: format!("{}-{replica}", workload.name) };
            let plan = ReplicaPlan {
                id: id.clone(),
                workload: workload.name.clone(),
                replica,
                labels: workload.labels.clone().into_iter().collect(),
                service_account: workload.service_account.clone(),
                gateway: workload.gateway,
                ports: ports.clone(),
                command: (!workload.command.is_empty() && !workload.gateway).then(|| workload.command.clone()),
                env: workload.env.clone(),
                directory: directory.clone(),
                probe: probe.clone(),
                fixed,
            };
            self.fixed_ports(workload, &plan);
            self.desired.plan.insert(id, plan);
        }
    }

    fn replicas(&mut self, workload: &ResolvedWorkload) -> u32 {
        if workload.replicas > MOST_REPLICAS {
            let message = format!("{} replicas on one machine; {MOST_REPLICAS} are started", workload.replicas);
            self.finding(Severity::Warning, TOO_MANY_REPLICAS, workload, "spec.replicas", message, None);
        }
        workload.replicas.min(MOST_REPLICAS)
    }

    /// A gateway listens on what the Gateway objects say that select it.
    fn gateway_ports(&self, workload: &ResolvedWorkload) -> Vec<PortPlan> {
        let mut ports: BTreeMap<u16, String> = BTreeMap::new();
        for gateway in self.effective.gateways_for(&workload.labels) {
            for port in gateway.spec.servers.iter().filter_map(|server| server.port.as_ref()) {
                // What is no HTTP has no listener yet, and the analysis of the YAML says so.
                let is_http = Protocol::parse(&port.protocol).is_some_and(Protocol::is_http);
                if let Some(number) = u16::try_from(port.number).ok().filter(|_| is_http) {
                    ports.entry(number).or_insert_with(|| port.name.clone());
                }
            }
        }
        ports.remove(&0);
        let plans = ports.into_iter().map(|(number, name)| PortPlan { name, container_port: number, local_port: None });
        plans.collect()
    }

    /// Every port of this replica that somebody fixed.
    fn fixed_ports(&mut self, workload: &ResolvedWorkload, plan: &ReplicaPlan) {
        if plan.gateway {
            return;
        }
        let owner = format!("Workload {}/{}", plan.id.namespace, plan.workload);
        for (index, port) in plan.ports.iter().enumerate() {
            let external = plan.command.is_none().then_some(port.container_port);
            if let Some(number) = port.local_port.or(external) {
                let field = if port.local_port.is_some() { "localPort" } else { "containerPort" };
                let field = format!("spec.ports[{index}].{field}");
                self.fix(number, &owner, &field, self.place(workload, &field));
            }
        }
        for (number, field) in [(plan.fixed.outbound, "spec.proxy.outboundPort"), (plan.fixed.inbound, "spec.proxy.inboundPort")] {
            if let Some(number) = number {
                self.fix(number, &owner, field, self.place(workload, field));
            }
        }
    }

    fn fix(&mut self, port: u16, owner: &str, field: &str, place: Place) {
        self.fixed.push(Fixed { port, owner: owner.to_owned(), field: field.to_owned(), place });
    }

    fn probe(&mut self, workload: &ResolvedWorkload, probe: &Probe) -> Option<ProbePlan> {
        let (check, doubt) = check(probe)?;
        if let Some(doubt) = doubt {
            self.finding(Severity::Warning, PROBE, workload, "spec.readinessProbe", doubt.to_owned(), None);
        }
        Some(ProbePlan {
            check,
            period: probe.period(),
            timeout: probe.timeout(),
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
        })
    }

    /// The folder of the Workload's file; the current one for what no file describes.
    fn directory(&self, workload: &ResolvedWorkload) -> PathBuf {
        let file = self.object(workload).map(|object| object.file.clone()).unwrap_or_default();
        let parent = Path::new(&*file).parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::path::absolute(parent).unwrap_or_else(|_| parent.to_owned())
    }

    fn object(&self, workload: &ResolvedWorkload) -> Option<&pillion_api::object::Object> {
        let index = workload.object?;
        Some(self.effective.set().at::<Workload>(index).object)
    }

    fn place(&self, workload: &ResolvedWorkload, path: &str) -> Place {
        self.object(workload).map(|object| object.place(path)).unwrap_or_default()
    }

    fn finding(
        &mut self,
        severity: Severity,
        code: &'static str,
        of: &ResolvedWorkload,
        path: &str,
        message: String,
        help: Option<String>,
    ) {
        self.desired.findings.push(Finding {
            severity,
            code,
            istio: None,
            object: format!("Workload {}/{}", of.namespace, of.name),
            path: path.to_owned(),
            message,
            help,
            place: self.place(of, path),
            related: Vec::new(),
        });
    }
}

fn own_ports(workload: &ResolvedWorkload) -> Vec<PortPlan> {
    let ports = workload.ports.iter().filter_map(|port| {
        let container_port = u16::try_from(port.container_port).ok().filter(|number| *number > 0)?;
        let local_port = port.local_port.and_then(|number| u16::try_from(number).ok());
        Some(PortPlan { name: port.name.clone(), container_port, local_port })
    });
    ports.collect()
}

/// The check of a probe, and what is different about it here.
fn check(probe: &Probe) -> Option<(CheckPlan, Option<&'static str>)> {
    if let Some(get) = &probe.http_get {
        let port = port_ref(get.port.as_ref())?;
        if get.scheme.eq_ignore_ascii_case("HTTPS") {
            return Some((CheckPlan::Tcp(port), Some("an HTTPS probe only asks whether the port accepts")));
        }
        let path = match get.path.as_str() {
            "" => "/".to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/{path}"),
        };
        let headers = get.http_headers.iter().map(|header| (header.name.clone(), header.value.clone()));
        return Some((CheckPlan::HttpGet { port, path, headers: headers.collect() }, None));
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Some((CheckPlan::Tcp(port_ref(tcp.port.as_ref())?), None));
    }
    if let Some(grpc) = &probe.grpc {
        let port = PortRef::Number(u16::try_from(grpc.port).ok()?);
        return Some((CheckPlan::Grpc { port, service: grpc.service.clone() }, None));
    }
    let exec = probe.exec.as_ref().filter(|exec| !exec.command.is_empty())?;
    Some((CheckPlan::Exec(exec.command.clone()), None))
}

fn port_ref(port: Option<&IntOrString>) -> Option<PortRef> {
    match port? {
        IntOrString::Int(number) => u16::try_from(*number).ok().map(PortRef::Number),
        IntOrString::String(name) => Some(PortRef::Name(name.clone())),
    }
}

fn clash_finding(clash: super::ports::Clash<Place>) -> Finding {
    let (first, second) = (clash.first, clash.second);
    let same = first.owner == second.owner && first.field == second.field;
    let (message, help) = if same {
        let message = format!("port {} is fixed, and every replica would listen on it", second.port);
        (message, "leave the port out, so that each replica gets one of its own, or run one replica")
    } else {
        let message = format!("port {} is fixed twice: here, and by {} ({})", second.port, first.owner, first.field);
        (message, "give one of the two another port, or leave it out to have one picked")
    };
    Finding {
        severity: Severity::Error,
        code: PORT_CLASH,
        istio: None,
        object: second.owner,
        path: second.field,
        message,
        help: Some(help.into()),
        place: second.place,
        related: if first.place.line > 0 && !same { vec![(first.place, "the other one".into())] } else { Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(text: &str) -> Desired {
        let checked = pillion_api::check::check(&[("/mesh/local/a.yaml", text)]);
        let errors: Vec<_> = checked.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        assert!(errors.is_empty(), "{errors:?}");
        desired(&checked.effective, &[(15_080, "--api")])
    }

    fn names(desired: &Desired) -> Vec<String> {
        desired.plan.keys().map(|id| format!("{}/{}", id.namespace, id.name)).collect()
    }

    const WORKLOAD: &str = "apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: a, labels: {app: a}}
spec:
";

    #[test]
    fn a_workload_becomes_a_plan_per_replica() {
        let desired = read(&format!(
            "{WORKLOAD}  replicas: 2
  serviceAccount: anna
  command: [./a, --port, $(PORT)]
  ports: [{{name: http, containerPort: 9080}}]
  env: [{{name: COLOR, value: blue}}]
  readinessProbe: {{httpGet: {{path: healthz, port: http}}, periodSeconds: 2}}
"
        ));
        assert_eq!(names(&desired), ["default/a-0", "default/a-1"]);
        assert_eq!(desired.findings, []);
        let plan = desired.plan.values().nth(1).unwrap();
        assert_eq!((plan.replica, plan.service_account.as_str(), plan.gateway), (1, "anna", false));
        assert_eq!(plan.ports, [PortPlan { name: "http".into(), container_port: 9080, local_port: None }]);
        assert_eq!(plan.env, [("COLOR".to_owned(), "blue".to_owned())]);
        assert_eq!(plan.directory, PathBuf::from("/mesh/local"));
        let probe = plan.probe.clone().unwrap();
        let want = CheckPlan::HttpGet { port: PortRef::Name("http".into()), path: "/healthz".into(), headers: vec![] };
        assert_eq!((probe.check, probe.period, probe.failure_threshold), (want, Duration::from_secs(2), 3));
    }

    #[test]
    fn what_a_workload_leaves_out_comes_from_its_deployment() {
        let desired = read(
            "apiVersion: apps/v1
kind: Deployment
metadata: {name: b}
spec:
  replicas: 2
  selector: {matchLabels: {app: b}}
  template:
    metadata: {labels: {app: b, version: v3}}
    spec:
      serviceAccountName: berta
      containers:
      - name: b
        image: b:3
        ports: [{name: grpc, containerPort: 7000}]
        env: [{name: PORT, value: '7000'}]
        readinessProbe: {tcpSocket: {port: 7000}}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: b}
spec: {deployment: b, command: [./b]}
",
        );
        assert_eq!(names(&desired), ["default/b-0", "default/b-1"]);
        let plan = desired.plan.values().next().unwrap();
        assert_eq!(plan.labels["version"], "v3");
        assert_eq!(plan.service_account, "berta");
        assert_eq!(plan.ports[0].container_port, 7000);
        assert_eq!(plan.env, [("PORT".to_owned(), "7000".to_owned())]);
        assert_eq!(plan.probe.as_ref().unwrap().check, CheckPlan::Tcp(PortRef::Number(7000)));
    }

    #[test]
    fn a_gateway_object_brings_the_gateway_with_its_ports() {
        let desired = read(
            "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 8081, name: more, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 80, name: other, protocol: HTTP}, hosts: [other.example]}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}
",
        );
        assert_eq!(names(&desired), ["istio-system/istio-ingressgateway-0"]);
        let plan = desired.plan.values().next().unwrap();
        assert!(plan.gateway && plan.command.is_none());
        let ports: Vec<_> = plan.ports.iter().map(|port| port.container_port).collect();
        assert_eq!(ports, [80, 8081]);
        assert_eq!(names(&read(&format!("{WORKLOAD}  command: [a]\n"))), ["default/a-0"], "no Gateway object, no gateway");
    }

    #[test]
    fn more_replicas_than_a_machine_runs_are_a_warning() {
        let desired = read(&format!("{WORKLOAD}  replicas: 100\n  command: [a]\n"));
        assert_eq!(desired.plan.len(), 50);
        let [finding] = &desired.findings[..] else { panic!("{:?}", desired.findings) };
        assert_eq!((finding.severity, finding.message.as_str()), (Severity::Warning, "100 replicas on one machine; 50 are started"));
    }

    #[test]
    fn fixed_ports_that_collide_are_findings_with_their_places() {
        let cases = [
            ("none", "  command: [a]\n  ports: [{containerPort: 80}]\n", vec![]),
            (
                "our own",
                "  command: [a]\n  ports: [{containerPort: 80, localPort: 15080}]\n",
                vec!["port 15080 is fixed twice: here, and by pillion run (--api)"],
            ),
            (
                "replicas",
                "  replicas: 2\n  ports: [{containerPort: 7001}]\n",
                vec!["port 7001 is fixed, and every replica would listen on it"],
            ),
            (
                "a proxy's",
                "  ports: [{containerPort: 7001}]\n  proxy: {outboundPort: 7001}\n",
                vec!["port 7001 is fixed twice: here, and by Workload default/a (spec.ports[0].containerPort)"],
            ),
        ];
        for (name, spec, want) in cases {
            let desired = read(&format!("{WORKLOAD}{spec}"));
            let messages: Vec<_> = desired.findings.iter().map(|finding| finding.message.as_str()).collect();
            assert_eq!(messages, want, "{name}");
            assert!(desired.findings.iter().all(|finding| finding.place.line > 4), "{name}: {:?}", desired.findings);
        }
    }
}
