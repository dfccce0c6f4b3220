//! All replicas of the mesh: starts what is missing, ends what is gone, starts again what changed. Never waits in the way of anything.
//!
//! In:  plans, one per edit.
//! Out: running replicas; problems that keep one from starting.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use pillion_control_plane::{model::instance::InstanceId, port_owner::port_owner};
use tokio::task::JoinSet;

use super::{
    control::Peers,
    events::{GatewayAddress, Problem, ReplicaAddress},
    plan::{Change, Plan, ReplicaPlan},
    ports::{PortPool, is_free, why_not},
    replica::{Addresses, Replica, Surroundings},
};

/// How long gateways are waited for before the rest ends, too.
const GATEWAYS_FIRST: Duration = Duration::from_secs(1);

/// A replica that came back from a change, or did not.
enum Moved {
    Gone(InstanceId),
    Back(Box<Replica>),
}

/// What keeps a replica from starting.
struct Refused {
    plan: ReplicaPlan,
    message: String,
    /// It is somebody's port, so it may pass by itself.
    for_now: bool,
}

/// Everything that runs.
pub struct LocalMesh {
    around: Surroundings,
    peers: Peers,
    pool: PortPool,
    gateway_bind: Ipv4Addr,
    wanted: Plan,
    running: BTreeMap<InstanceId, Replica>,
    /// In the middle of a change; `moving` has their tasks.
    busy: BTreeSet<InstanceId>,
    moving: JoinSet<Moved>,
    /// Cannot start as planned: said once.
    refused: BTreeMap<InstanceId, Refused>,
    /// The card was shown: where later comers listen is said in a line of their own.
    shown: bool,
}

impl LocalMesh {
    /// An empty mesh.
    pub fn new(around: Surroundings, peers: Peers, pool: PortPool, gateway_bind: Ipv4Addr) -> Self {
        Self {
            around,
            peers,
            pool,
            gateway_bind,
            wanted: Plan::new(),
            running: BTreeMap::new(),
            busy: BTreeSet::new(),
            moving: JoinSet::new(),
            refused: BTreeMap::new(),
            shown: false,
        }
    }

    /// Brings the mesh to this plan, in the background where something has to end first.
    pub fn apply(&mut self, plan: Plan) {
        for fixed in plan.values().flat_map(fixed_ports) {
            self.pool.reserve(fixed);
        }
        self.wanted = plan;
        self.step();
    }

    /// Waits for a change in the background to end, and goes on from there. Safe to drop.
    pub async fn progress(&mut self) {
        match self.moving.join_next().await {
            Some(Ok(Moved::Gone(id))) => drop(self.busy.remove(&id)),
            Some(Ok(Moved::Back(replica))) => {
                self.busy.remove(&replica.plan.id);
                self.running.insert(replica.plan.id.clone(), *replica);
            }
            Some(Err(error)) => {
                // A panic: the replica is lost with its processes (they die with their handles); start over.
                self.busy.clear();
                self.around.output.problem(Problem {
                    reason: "start",
                    message: format!("a replica was lost: {error}"),
                    ..Problem::default()
                });
            }
            None => std::future::pending().await,
        }
        self.step();
    }

    /// Tries again what could not start; somebody may have ended what was in the way.
    pub fn retry(&mut self) {
        if !self.refused.is_empty() {
            // What has another reason than somebody's port stays until its plan changes.
            self.refused.retain(|_, refused| !refused.for_now || obstacle(&refused.plan).is_some());
            self.step();
        }
    }

    fn step(&mut self) {
        let gone: Vec<InstanceId> = self.running.keys().filter(|id| !self.wanted.contains_key(*id)).cloned().collect();
        for id in gone {
            self.end(&id);
        }
        self.refused.retain(|id, refused| self.wanted.get(id) == Some(&refused.plan));
        let plans: Vec<ReplicaPlan> = self.wanted.values().filter(|plan| !self.busy.contains(&plan.id)).cloned().collect();
        for plan in plans {
            match self.running.get(&plan.id).map(|replica| plan.change_from(&replica.plan)) {
                Some(Change::Same) => {}
                Some(Change::Listeners) => self.move_listeners(plan),
                Some(Change::Program) => self.restart_program(plan),
                Some(Change::Replica) => self.end(&plan.id),
                None => self.start(plan),
            }
        }
    }

    fn start(&mut self, plan: ReplicaPlan) {
        if self.refused.contains_key(&plan.id) {
            return;
        }
        if let Some(message) = obstacle(&plan) {
            return self.refuse(plan, message, true);
        }
        match Addresses::assign(&plan, &mut self.pool, self.gateway_bind) {
            Ok(addresses) => {
                let replica = Replica::start(plan, addresses, &self.around);
                self.say_where(&replica);
                self.running.insert(replica.plan.id.clone(), replica);
            }
            Err(error) => self.refuse(plan, error.to_string(), false),
        }
    }

    fn refuse(&mut self, plan: ReplicaPlan, message: String, for_now: bool) {
        let text = format!("{} cannot start: {message}", plan.name());
        self.around.output.problem(Problem { reason: "start", message: text, ..Problem::default() });
        self.refused.insert(plan.id.clone(), Refused { plan, message, for_now });
    }

    fn move_listeners(&mut self, plan: ReplicaPlan) {
        match Addresses::assign(&plan, &mut self.pool, self.gateway_bind) {
            Ok(addresses) => {
                if let Some(mut replica) = self.running.remove(&plan.id) {
                    replica.move_listeners(plan, addresses);
                    self.say_where(&replica);
                    self.running.insert(replica.plan.id.clone(), replica);
                }
            }
            Err(error) => self.refuse(plan, error.to_string(), false),
        }
    }

    fn say_where(&self, replica: &Replica) {
        if !self.shown {
            return;
        }
        let address = replica.address();
        let place = match address.ports.first() {
            _ if replica.plan.gateway => {
                let urls: Vec<String> = replica.addresses.inbound.iter().map(|address| format!("http://{address}")).collect();
                if urls.is_empty() { "it listens nowhere".to_owned() } else { format!("it listens on {}", urls.join(", ")) }
            }
            Some(port) => format!("its proxy is {}, its program {}", address.outbound, port.app),
            None => format!("its proxy is {}", address.outbound),
        };
        let moved: String = moved(replica).iter().map(|(port, real, why)| format!(" ({real} in place of {port}, which {why})")).collect();
        self.around.output.say(&format!("{}: {place}{moved}", replica.plan.name()));
    }

    /// From now on every newcomer's addresses are said.
    pub fn card_is_shown(&mut self) {
        self.shown = true;
    }

    fn restart_program(&mut self, plan: ReplicaPlan) {
        let Some(mut replica) = self.running.remove(&plan.id) else { return };
        self.busy.insert(plan.id.clone());
        self.around.output.say(&format!("{}: changed, its program is started again", plan.name()));
        let peers = self.peers.clone();
        self.moving.spawn(async move {
            let id = plan.id.clone();
            replica.restart_program(plan, peers.forget(&id)).await;
            Moved::Back(Box::new(replica))
        });
    }

    /// Ends a replica after its peers have forgotten it.
    fn end(&mut self, id: &InstanceId) {
        let Some(mut replica) = self.running.remove(id) else { return };
        self.busy.insert(id.clone());
        let word = if self.wanted.contains_key(id) { "changed, it is started again" } else { "removed, it is ended" };
        self.around.output.say(&format!("{}: {word}", replica.plan.name()));
        let (peers, registry) = (self.peers.clone(), self.around.registry.clone());
        self.moving.spawn(async move {
            let id = replica.plan.id.clone();
            replica.leave();
            peers.forget(&id).await;
            replica.end().await;
            registry.deregister(&id);
            Moved::Gone(id)
        });
    }

    /// Names of replicas that hold `ready` back, each with what it waits for.
    pub fn waiting(&self) -> Vec<(String, String)> {
        let running = self.running.values().filter(|replica| replica.holds_ready_back()).filter_map(|replica| {
            let readiness = replica.readiness();
            let reason = readiness.program.or(readiness.proxy)?;
            Some((replica.plan.name().to_owned(), reason))
        });
        // The sidecar of a program that somebody else starts is ours.
        let proxies = self
            .running
            .values()
            .filter(|replica| !replica.holds_ready_back())
            .filter_map(|replica| Some((replica.plan.name().to_owned(), replica.readiness().proxy?)));
        let busy = self.busy.iter().map(|id| (id.name.clone(), "it is started again".to_owned()));
        let refused = self.refused.values().map(|refused| (refused.plan.name().to_owned(), refused.message.clone()));
        running.chain(proxies).chain(busy).chain(refused).collect()
    }

    /// Ids of the replicas whose endpoints must be known everywhere before the mesh is ready.
    pub fn ready_ids(&self) -> BTreeSet<InstanceId> {
        self.running.values().filter(|replica| replica.readiness().is_ready()).map(|replica| replica.plan.id.clone()).collect()
    }

    /// What should run.
    pub fn plan(&self) -> &Plan {
        &self.wanted
    }

    /// How many proxies there should be.
    pub fn proxies(&self) -> usize {
        self.running.len() + self.busy.len()
    }

    /// Entries of the `ready` event.
    pub fn workload_addresses(&self) -> Vec<ReplicaAddress> {
        self.running.values().filter(|replica| !replica.plan.gateway).map(Replica::address).collect()
    }

    /// Every port of every gateway.
    pub fn gateway_addresses(&self) -> Vec<GatewayAddress> {
        let gateways = self.running.values().filter(|replica| replica.plan.gateway);
        let ports = gateways.flat_map(|replica| replica.addresses.inbound.iter().map(move |address| (replica, address)));
        let entries = ports.map(|(replica, address)| GatewayAddress {
            namespace: replica.plan.id.namespace.clone(),
            name: replica.plan.workload.clone(),
            url: format!("http://{address}"),
            admin: format!("http://{}", replica.addresses.admin),
            proxy_pid: replica.proxy_pid(),
        });
        entries.collect()
    }

    /// Gateway ports that are served on another port here: (logical, real, why).
    pub fn moved_ports(&self) -> Vec<(u16, u16, String)> {
        self.running.values().flat_map(moved).collect()
    }

    /// Ends everything: gateways first, so that nothing new comes in; then each sidecar before its program.
    pub async fn end_all(mut self) {
        let mut first = JoinSet::new();
        let mut rest = Vec::new();
        for replica in std::mem::take(&mut self.running).into_values() {
            if replica.plan.gateway {
                first.spawn(replica.end());
            } else {
                rest.push(replica);
            }
        }
        // A long download must not hold up the rest.
        let _ = tokio::time::timeout(GATEWAYS_FIRST, async { while first.join_next().await.is_some() {} }).await;
        for replica in rest {
            self.moving.spawn(async move {
                let id = replica.plan.id.clone();
                replica.end().await;
                Moved::Gone(id)
            });
        }
        while let Some(moved) = self.moving.join_next().await {
            if let Ok(Moved::Back(replica)) = moved {
                replica.end().await;
            }
        }
        while first.join_next().await.is_some() {}
    }
}

/// Ports of a gateway that are others here than in the YAML, each with the reason.
fn moved(replica: &Replica) -> Vec<(u16, u16, String)> {
    let pairs = replica.plan.ports.iter().zip(&replica.addresses.inbound).filter(|_| replica.plan.gateway);
    let moved = pairs.map(|(port, address)| (port.container_port, *address)).filter(|(port, address)| *port != address.port());
    moved.map(|(port, address)| (port, address.port(), why_not((address.ip(), port).into()))).collect()
}

/// Ports that a plan fixes on this machine.
fn fixed_ports(plan: &ReplicaPlan) -> impl Iterator<Item = u16> {
    let external = plan.command.is_none() && !plan.gateway;
    let ports = plan.ports.iter().filter_map(move |port| port.local_port.or(external.then_some(port.container_port)));
    ports.chain(plan.fixed.outbound).chain(plan.fixed.inbound)
}

/// Why a replica cannot start: a fixed port is somebody else's.
fn obstacle(plan: &ReplicaPlan) -> Option<String> {
    let ours = plan.ports.iter().filter(|_| plan.command.is_some()).filter_map(|port| port.local_port);
    let taken = ours.chain(plan.fixed.outbound).chain(plan.fixed.inbound).find(|port| !is_free(*port))?;
    Some(format!("port {taken} is taken by {}", port_owner(taken)))
}
