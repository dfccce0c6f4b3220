//! One running replica: its sidecar, its program, the watchers of both.
//!
//! In:  a [`ReplicaPlan`], ports from the pool, the mesh's surroundings.
//! Out: two supervised processes, an instance in the registry, readiness.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use pillion_control_plane::model::instance::{Instance, InstancePort, InstanceRegistry};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    child::{ProcessSpec, Spawner},
    env::{Ingredients, environment, expand},
    events::{PortAddress, Problem, ReplicaAddress},
    output::{Label, Output},
    plan::{CheckPlan, PortRef, ReplicaPlan},
    ports::{Exhausted, PortPool, Purpose, can_bind},
    probe::{Check, Probe},
    proxy_command::{ProxySettings, proxy_command},
    readiness::{Expectation, Half, Readiness, ReadinessCell, watch},
    supervise::{ProcessState, Stop, supervise},
};

/// A sidecar that was told to end has this long to finish its requests.
pub const PROXY_GRACE: Duration = Duration::from_secs(5);
/// A program that was told to end has this long.
pub const PROGRAM_GRACE: Duration = Duration::from_secs(4);
/// A program without ports is ready when it has run for so long.
const STEADY: Duration = Duration::from_millis(300);
/// A program waits this long for its sidecar.
const SIDECAR_FIRST: Duration = Duration::from_secs(5);
/// Added to a gateway's port below 1024 that cannot be bound: 80 is served on 8080.
const PRIVILEGED_SHIFT: u16 = 8000;
const FIRST_FREE_FOR_ALL: u16 = 1024;

/// The addresses of a replica, in the order of its plan's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub app: Vec<SocketAddr>,
    pub inbound: Vec<SocketAddr>,
    pub outbound: SocketAddr,
    pub admin: SocketAddr,
    pub health: SocketAddr,
}

impl Addresses {
    /// Takes every port of a replica from the pool; the same ones each time.
    pub fn assign(plan: &ReplicaPlan, pool: &mut PortPool, gateway_bind: Ipv4Addr) -> Result<Self, Exhausted> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (mut app, mut inbound) = (Vec::new(), Vec::new());
        for (index, port) in plan.ports.iter().enumerate() {
            if plan.gateway {
                let address = SocketAddr::from((gateway_bind, gateway_port(plan, pool, gateway_bind, port.container_port)?));
                inbound.push(address);
                app.push(address);
                continue;
            }
            // A program that somebody else starts cannot be told a port: it listens where its Workload says.
            let fixed_app = port.local_port.or(plan.command.is_none().then_some(port.container_port));
            app.push(local(match fixed_app {
                Some(port) => port,
                None => pool.port(&plan.id, Purpose::App(port.container_port))?,
            }));
            let fixed_inbound = plan.fixed.inbound.filter(|_| index == 0);
            inbound.push(local(match fixed_inbound {
                Some(port) => port,
                None => pool.port(&plan.id, Purpose::Inbound(port.container_port))?,
            }));
        }
        let outbound = match plan.fixed.outbound {
            Some(port) => port,
            None => pool.port(&plan.id, Purpose::Outbound)?,
        };
        Ok(Self {
            app,
            inbound,
            outbound: local(outbound),
            admin: local(pool.port(&plan.id, Purpose::Admin)?),
            health: local(pool.port(&plan.id, Purpose::Health)?),
        })
    }

    /// What the control plane is told.
    pub fn instance(&self, plan: &ReplicaPlan, ready: bool) -> Instance {
        let addresses = self.inbound.iter().zip(&self.app);
        let ports = plan.ports.iter().zip(addresses).map(|(port, (inbound, app))| InstancePort {
            name: port.name.clone(),
            container_port: port.container_port,
            inbound: *inbound,
            app: *app,
        });
        Instance {
            id: plan.id.clone(),
            workload: plan.workload.clone(),
            replica: plan.replica,
            labels: plan.labels.clone(),
            service_account: plan.service_account.clone(),
            gateway: plan.gateway,
            ports: ports.collect(),
            ready,
        }
    }
}

/// The port itself when it can be bound, else the next free one; from 8000 higher for ports below 1024.
fn gateway_port(plan: &ReplicaPlan, pool: &mut PortPool, bind: Ipv4Addr, port: u16) -> Result<u16, Exhausted> {
    let next = if port < FIRST_FREE_FOR_ALL { port.saturating_add(PRIVILEGED_SHIFT) } else { port.saturating_add(1) };
    let wished = Some(port).filter(|port| can_bind(SocketAddr::from((bind, *port))));
    pool.near(&plan.id, Purpose::Inbound(port), wished, next)
}

/// What all replicas share.
#[derive(Clone)]
pub struct Surroundings {
    pub spawner: Spawner,
    pub output: Output,
    pub registry: InstanceRegistry,
    pub proxy: Arc<ProxySettings>,
    pub java_tool_options: Option<String>,
    pub quiet: bool,
}

/// A process that is kept running.
struct Supervised {
    state: watch::Receiver<ProcessState>,
    stop: Stop,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Runs `spec` as soon as `first` has passed.
    fn start(spec: ProcessSpec, grace: Duration, around: &Surroundings, first: impl Future<Output = ()> + Send + 'static) -> Self {
        let (sender, state) = watch::channel(ProcessState::Starting);
        let stop = Stop { token: CancellationToken::new(), grace };
        let (spawner, output, ended) = (around.spawner.clone(), around.output.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let label = spec.label.clone();
            let say = |text: String| {
                let message = format!("{}: {text}", label.name());
                output.show_last(&label);
                output.problem(Problem { reason: "exit", message, ..Problem::default() });
            };
            let waited = ended.token.clone();
            tokio::select! {
                () = first => {}
                () = waited.cancelled() => {}
            }
            supervise(&spawner, Arc::new(spec), ended, sender, say).await;
        });
        Self { state, stop, task }
    }

    async fn end(self) {
        self.stop.token.cancel();
        // The task ends by itself within the grace period, and a panic in it has been reported by the runtime.
        let _ = self.task.await;
    }
}

/// A program may send requests in its first moment, so its sidecar serves before it starts (as with Kubernetes' native sidecars).
async fn sidecar_first(mut readiness: watch::Receiver<Readiness>) {
    let serves = readiness.wait_for(|readiness| readiness.proxy.is_none());
    // A sidecar that does not come is reported by others; the program need not wait for ever.
    let _ = tokio::time::timeout(SIDECAR_FIRST, serves).await;
}

/// Ends its task when dropped.
struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A running replica.
pub struct Replica {
    pub plan: Arc<ReplicaPlan>,
    pub addresses: Addresses,
    proxy: Supervised,
    program: Option<Supervised>,
    readiness: ReadinessCell,
    program_watcher: Option<Watcher>,
    proxy_watcher: Watcher,
    around: Surroundings,
}

impl Replica {
    /// Registers the instance and starts its processes.
    pub fn start(plan: ReplicaPlan, addresses: Addresses, around: &Surroundings) -> Self {
        let plan = Arc::new(plan);
        around.registry.register(addresses.instance(&plan, false));
        let readiness = ReadinessCell::new(plan.id.clone(), around.registry.clone(), !plan.gateway);
        let proxy = Supervised::start(proxy_process(&plan, &addresses, around), PROXY_GRACE, around, std::future::ready(()));
        let expect = proxy_expectation(&plan, &addresses);
        let watcher = watch(readiness.clone(), Half::Proxy, Some(proxy.state.clone()), expect);
        let proxy_watcher = Watcher(tokio::spawn(watcher));
        let mut replica =
            Self { plan, addresses, proxy, program: None, readiness, program_watcher: None, proxy_watcher, around: around.clone() };
        replica.start_program();
        replica
    }

    fn start_program(&mut self) {
        if self.plan.gateway {
            return;
        }
        let spec = program_process(&self.plan, &self.addresses, &self.around);
        self.program = spec.map(|spec| Supervised::start(spec, PROGRAM_GRACE, &self.around, sidecar_first(self.readiness.subscribe())));
        let state = self.program.as_ref().map(|program| program.state.clone());
        let Some(expect) = program_expectation(&self.plan, &self.addresses, &self.around) else {
            // Somebody else starts it, and nothing can be asked.
            self.readiness.set(Half::Program, None);
            return;
        };
        let watcher = watch(self.readiness.clone(), Half::Program, state, expect);
        self.program_watcher = Some(Watcher(tokio::spawn(watcher)));
    }

    /// Starts the program again after its plan changed; the sidecar keeps running. `left` is awaited between telling everybody that
    /// the program leaves and ending it.
    pub async fn restart_program(&mut self, plan: ReplicaPlan, left: impl Future<Output = ()>) {
        self.program_watcher = None;
        self.readiness.set(Half::Program, Some("it is started again".into()));
        left.await;
        if let Some(program) = self.program.take() {
            program.end().await;
        }
        self.plan = Arc::new(plan);
        self.start_program();
    }

    /// Tells the control plane about other ports of a gateway.
    pub fn move_listeners(&mut self, plan: ReplicaPlan, addresses: Addresses) {
        self.plan = Arc::new(plan);
        self.addresses = addresses;
        let ready = self.readiness().is_ready();
        self.around.registry.register(self.addresses.instance(&self.plan, ready));
    }

    /// No new requests from now on.
    pub fn leave(&mut self) {
        self.program_watcher = None;
        self.readiness.set(Half::Program, Some("it is ended".into()));
    }

    /// Ends the sidecar (which finishes its requests), then the program.
    pub async fn end(mut self) {
        // Nobody needs to hear of the end of every process when the whole mesh ends.
        drop((self.program_watcher.take(), self.proxy_watcher));
        self.proxy.end().await;
        if let Some(program) = self.program.take() {
            program.end().await;
        }
    }

    /// What it waits for now.
    pub fn readiness(&self) -> Readiness {
        self.readiness.subscribe().borrow().clone()
    }

    /// A program that somebody else starts may come whenever it likes.
    pub fn holds_ready_back(&self) -> bool {
        self.plan.gateway || self.plan.command.is_some()
    }

    /// Process id of the sidecar, while it runs.
    pub fn proxy_pid(&self) -> Option<u32> {
        self.proxy.state.borrow().pid()
    }

    /// Its entry in the `ready` event.
    pub fn address(&self) -> ReplicaAddress {
        let plan = &self.plan;
        let pairs = self.addresses.inbound.iter().zip(&self.addresses.app);
        let ports = plan.ports.iter().zip(pairs).map(|(port, (inbound, app))| PortAddress {
            name: port.name.clone(),
            port: port.container_port,
            inbound: inbound.to_string(),
            app: app.to_string(),
        });
        ReplicaAddress {
            namespace: plan.id.namespace.clone(),
            name: plan.workload.clone(),
            replica: plan.replica,
            labels: plan.labels.clone(),
            service_account: plan.service_account.clone(),
            pid: self.program.as_ref().and_then(|program| program.state.borrow().pid()),
            proxy_pid: self.proxy_pid(),
            outbound: format!("http://{}", self.addresses.outbound),
            inbound: self.addresses.inbound.first().map(ToString::to_string).unwrap_or_default(),
            ports: ports.collect(),
            admin: format!("http://{}", self.addresses.admin),
        }
    }
}

/// Variables that would make a sidecar ask another proxy, or be another one than its arguments say.
const NOT_FOR_PROXIES: [&str; 9] =
    ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "GRPC_PROXY", "all_proxy", "ALL_PROXY", "PILLION_NODE_ID"];

fn proxy_process(plan: &ReplicaPlan, addresses: &Addresses, around: &Surroundings) -> ProcessSpec {
    ProcessSpec {
        label: Label::new(&format!("{}/proxy", plan.name())),
        command: proxy_command(plan, addresses, &around.proxy),
        env: Default::default(),
        env_remove: NOT_FOR_PROXIES.to_vec(),
        directory: "/".into(),
    }
}

fn program_process(plan: &ReplicaPlan, addresses: &Addresses, around: &Surroundings) -> Option<ProcessSpec> {
    let env = program_environment(plan, addresses, around);
    let mut words = plan.command.as_ref()?.iter().map(|word| expand(word, &env));
    let program = super::child::resolve_program(&words.next()?, &plan.directory);
    let command = std::iter::once(program).chain(words.map(Into::into)).collect();
    Some(ProcessSpec { label: Label::new(plan.name()), command, env, env_remove: vec![], directory: plan.directory.clone() })
}

fn program_environment(plan: &ReplicaPlan, addresses: &Addresses, around: &Surroundings) -> std::collections::BTreeMap<String, String> {
    environment(&Ingredients {
        ports: plan.ports.iter().zip(&addresses.app).map(|(port, app)| (port.name.as_str(), app.port())).collect(),
        outbound: addresses.outbound.port(),
        declared: &plan.env,
        java_tool_options: around.java_tool_options.as_deref(),
        quiet: around.quiet,
    })
}

/// A sidecar is ready when it has its configuration and listens on everything that was promised to others.
fn proxy_expectation(plan: &ReplicaPlan, addresses: &Addresses) -> Expectation {
    // A gateway has nobody who sends through it.
    let outbound = (!plan.gateway).then_some(&addresses.outbound);
    let ready = Check::HttpGet { address: addresses.admin, path: "/ready".into(), headers: vec![] };
    let listens = addresses.inbound.iter().chain(outbound).map(|address| Probe::tcp(*address));
    let first = Probe { check: ready, ..Probe::tcp(addresses.admin) };
    Expectation { steady: Duration::ZERO, all: std::iter::once(first).chain(listens).collect(), others: vec![], keep: false }
}

/// `None`: there is nothing to ask.
fn program_expectation(plan: &ReplicaPlan, addresses: &Addresses, around: &Surroundings) -> Option<Expectation> {
    let (first, others) = addresses.app.split_first().map_or((None, &[][..]), |(first, others)| (Some(*first), others));
    let external = plan.command.is_none();
    let Some(probe) = &plan.probe else {
        let steady = if first.is_none() { STEADY } else { Duration::ZERO };
        let all: Vec<Probe> = first.map(Probe::tcp).into_iter().collect();
        return (!all.is_empty() || !external).then(|| Expectation { steady, all, others: others.to_vec(), keep: external });
    };
    let port = |reference: &PortRef| {
        let index = plan.ports.iter().position(|port| match reference {
            PortRef::Number(number) => port.container_port == *number,
            PortRef::Name(name) => port.name == *name,
        });
        // A port that is not declared is where the program says it is.
        index.and_then(|index| addresses.app.get(index).copied()).or(match reference {
            PortRef::Number(number) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, *number))),
            PortRef::Name(_) => first,
        })
    };
    let check = match &probe.check {
        CheckPlan::HttpGet { port: reference, path, headers } => {
            Check::HttpGet { address: port(reference)?, path: path.clone(), headers: headers.clone() }
        }
        CheckPlan::Tcp(reference) => Check::Tcp { address: port(reference)? },
        CheckPlan::Grpc { port: reference, service } => Check::Grpc { address: port(reference)?, service: service.clone() },
        CheckPlan::Exec(command) => {
            let env = program_environment(plan, addresses, around);
            let words = command.iter().enumerate().map(|(index, word)| {
                let word = expand(word, &env);
                if index == 0 { super::child::resolve_program(&word, &plan.directory) } else { word.into() }
            });
            Check::Exec { command: words.collect(), env: env.clone(), directory: plan.directory.clone() }
        }
    };
    let probe = Probe {
        check,
        period: probe.period,
        timeout: probe.timeout,
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
    };
    Some(Expectation { steady: Duration::ZERO, all: vec![probe], others: vec![], keep: true })
}
