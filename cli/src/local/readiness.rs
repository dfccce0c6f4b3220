//! When a replica may get requests: its program answers and its sidecar listens. Every change goes to the control plane at once.
//!
//! In:  states of the two processes, probes.
//! Out: [`Readiness`] as a watch; `ready` in the registry.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pillion_control_plane::model::instance::{InstanceId, InstanceRegistry};
use tokio::{sync::watch, time::Instant};

use super::{
    probe::{Probe, Streak},
    supervise::ProcessState,
};

/// A program without a probe is ready when its first port accepts; its other ports have this long to follow.
const OTHER_PORTS: Duration = Duration::from_secs(2);

/// What a replica still waits for; `None` when nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub program: Option<String>,
    pub proxy: Option<String>,
}

impl Readiness {
    /// Both answer.
    pub fn is_ready(&self) -> bool {
        self.program.is_none() && self.proxy.is_none()
    }
}

/// Which half of a replica a watcher speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    Program,
    Proxy,
}

/// The readiness of one replica, told to the registry with every change.
#[derive(Clone)]
pub struct ReadinessCell {
    id: InstanceId,
    registry: InstanceRegistry,
    state: Arc<watch::Sender<Readiness>>,
}

impl ReadinessCell {
    /// Waits for both halves, or for the proxy only.
    pub fn new(id: InstanceId, registry: InstanceRegistry, has_program: bool) -> Self {
        let program = has_program.then(|| "the program has not started".to_owned());
        let readiness = Readiness { program, proxy: Some("the sidecar has not started".into()) };
        Self { id, registry, state: Arc::new(watch::Sender::new(readiness)) }
    }

    /// The current state and every later one.
    pub fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.state.subscribe()
    }

    /// Sets what one half waits for.
    pub fn set(&self, half: Half, waits_for: Option<String>) {
        // The registry is told inside: two watchers must not tell it in the wrong order.
        self.state.send_if_modified(|state| {
            let slot = match half {
                Half::Program => &mut state.program,
                Half::Proxy => &mut state.proxy,
            };
            let changed = *slot != waits_for;
            *slot = waits_for;
            if changed {
                self.registry.set_ready(&self.id, state.is_ready());
            }
            changed
        });
    }
}

/// What one half of a replica must answer.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The process must have run so long before it is asked anything.
    pub steady: Duration,
    /// Each must have passed once.
    pub all: Vec<Probe>,
    /// Ports that should accept, too, but hold nothing up for long.
    pub others: Vec<SocketAddr>,
    /// After the first success the first probe is repeated at its period; otherwise only the end of the process counts.
    pub keep: bool,
}

/// Watches one half until it is aborted. `process` is `None` when somebody else runs the program.
pub async fn watch(cell: ReadinessCell, half: Half, process: Option<watch::Receiver<ProcessState>>, expect: Expectation) {
    let Some(mut process) = process else {
        return follow(&cell, half, &expect).await;
    };
    loop {
        let running = *process.borrow_and_update();
        if let ProcessState::Running { .. } = running {
            tokio::select! {
                () = follow(&cell, half, &expect) => {}
                () = changed_from(&mut process, running) => {}
            }
            cell.set(half, Some("it ended and is started again".into()));
        }
        if process.wait_for(|state| matches!(state, ProcessState::Running { .. }) && *state != running).await.is_err() {
            return;
        }
    }
}

async fn changed_from(process: &mut watch::Receiver<ProcessState>, running: ProcessState) {
    // The sender is gone only when the supervisor ended: also a change.
    let _ = process.wait_for(|state| *state != running).await;
}

/// Probes for ever; never returns.
async fn follow(cell: &ReadinessCell, half: Half, expect: &Expectation) {
    tokio::time::sleep(expect.steady).await;
    for probe in &expect.all {
        first_success(cell, half, probe).await;
    }
    let patience = Instant::now() + OTHER_PORTS;
    for address in &expect.others {
        let probe = Probe::tcp(*address);
        // What is late is left: a declared port may belong to nobody.
        let _ = tokio::time::timeout_at(patience, first_success(cell, half, &probe)).await;
    }
    cell.set(half, None);
    match expect.all.first() {
        Some(probe) if expect.keep => keep_probing(cell, half, probe).await,
        _ => std::future::pending().await,
    }
}

async fn first_success(cell: &ReadinessCell, half: Half, probe: &Probe) {
    let mut streak = Streak::new(probe);
    loop {
        let outcome = probe.attempt().await;
        if streak.observe(outcome.is_ok()) == Some(true) {
            return;
        }
        if let Err(seen) = outcome {
            cell.set(half, Some(seen));
        }
        tokio::time::sleep(streak.pause(probe.period)).await;
    }
}

async fn keep_probing(cell: &ReadinessCell, half: Half, probe: &Probe) {
    let mut streak = Streak::of_ready(probe);
    loop {
        tokio::time::sleep(streak.pause(probe.period)).await;
        let outcome = probe.attempt().await;
        match streak.observe(outcome.is_ok()) {
            Some(true) => cell.set(half, None),
            Some(false) => cell.set(half, Some(outcome.err().unwrap_or_default())),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pillion_control_plane::model::instance::Instance;
    use tokio::net::TcpListener;

    use super::*;

    fn registered(registry: &InstanceRegistry) -> InstanceId {
        let id = InstanceId { namespace: "default".into(), name: "a-0".into() };
        registry.register(Instance {
            id: id.clone(),
            workload: "a".into(),
            replica: 0,
            labels: BTreeMap::new(),
            service_account: "default".into(),
            gateway: false,
            ports: vec![],
            ready: false,
        });
        id
    }

    #[test]
    fn an_instance_is_ready_when_both_halves_are() {
        let registry = InstanceRegistry::default();
        let id = registered(&registry);
        let cell = ReadinessCell::new(id.clone(), registry.clone(), true);
        let ready = || registry.subscribe().borrow()[&id].ready;
        let steps = [
            (Half::Program, None, false),
            (Half::Proxy, None, true),
            (Half::Proxy, Some("gone".to_owned()), false),
            (Half::Proxy, None, true),
            (Half::Program, Some("gone".to_owned()), false),
        ];
        for (index, (half, waits_for, want)) in steps.into_iter().enumerate() {
            cell.set(half, waits_for);
            assert_eq!(ready(), want, "step {index}");
        }
    }

    #[tokio::test]
    async fn readiness_follows_the_port_and_the_process() {
        let registry = InstanceRegistry::default();
        let id = registered(&registry);
        let cell = ReadinessCell::new(id, registry, true);
        cell.set(Half::Proxy, None);
        let mut seen = cell.subscribe();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let all = vec![Probe::tcp(listener.local_addr().unwrap())];
        let expect = Expectation { steady: Duration::ZERO, all, others: vec![], keep: false };
        let (state, process) = watch::channel(ProcessState::Starting);
        let task = tokio::spawn(super::watch(cell, Half::Program, Some(process), expect));
        state.send_replace(ProcessState::Running { pid: 7, start: 1 });
        seen.wait_for(Readiness::is_ready).await.unwrap();
        state.send_replace(ProcessState::Pausing);
        seen.wait_for(|readiness| !readiness.is_ready()).await.unwrap();
        state.send_replace(ProcessState::Running { pid: 8, start: 2 });
        seen.wait_for(Readiness::is_ready).await.unwrap();
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_without_ports_is_ready_when_it_has_run_for_a_moment() {
        let registry = InstanceRegistry::default();
        let id = registered(&registry);
        let cell = ReadinessCell::new(id, registry, true);
        cell.set(Half::Proxy, None);
        let mut seen = cell.subscribe();
        let expect = Expectation { steady: Duration::from_millis(300), all: vec![], others: vec![], keep: false };
        let (state, process) = watch::channel(ProcessState::Starting);
        let task = tokio::spawn(super::watch(cell, Half::Program, Some(process), expect));
        for start in 1..4 {
            state.send_replace(ProcessState::Running { pid: 7, start });
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!seen.borrow().is_ready(), "it may end at once, as a program that is not there does");
            state.send_replace(ProcessState::Pausing);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        state.send_replace(ProcessState::Running { pid: 7, start: 4 });
        seen.wait_for(Readiness::is_ready).await.unwrap();
        task.abort();
    }

    #[tokio::test]
    async fn a_program_started_elsewhere_joins_and_leaves_with_its_port() {
        let registry = InstanceRegistry::default();
        let id = registered(&registry);
        let cell = ReadinessCell::new(id, registry, true);
        cell.set(Half::Proxy, None);
        let mut seen = cell.subscribe();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let probe = Probe { period: Duration::from_millis(10), ..Probe::tcp(listener.local_addr().unwrap()) };
        let expect = Expectation { steady: Duration::ZERO, all: vec![probe], others: vec![], keep: true };
        let task = tokio::spawn(super::watch(cell, Half::Program, None, expect));
        seen.wait_for(Readiness::is_ready).await.unwrap();
        drop(listener);
        seen.wait_for(|readiness| !readiness.is_ready()).await.unwrap();
        task.abort();
    }
}
