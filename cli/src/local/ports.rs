//! Which TCP ports of this machine the mesh uses. No port is given out twice, and a port stays with its owner for the mesh's life.
//!
//! In:  the ephemeral range of the kernel, questions "is this port free", owners that want a port.
//! Out: port numbers from outside the ephemeral range; [`Clash`]es of ports that people fixed.
//!
//! Ports come in blocks. The first port of a block is its guard: it stays bound while the mesh lives, so that a second mesh on the same
//! machine takes another block, also while the programs of the first are between two starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    os::unix::net::UnixDatagram,
};

use pillion_control_plane::{model::instance::InstanceId, port_owner::port_owner};
use socket2::{Domain, Socket, Type};

/// Ports of one block, the guard included.
const BLOCK: u16 = 100;
/// Below this, programs that people start by hand are frequent.
const FIRST: u16 = 20_000;
/// Used when the kernel does not say (Linux' default).
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

/// What a port of a replica is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Where the program listens, by container port.
    App(u16),
    /// Where the sidecar listens for it, by container port; of a gateway: by the server's port.
    Inbound(u16),
    /// Where the program sends its requests.
    Outbound,
    /// The sidecar's admin interface.
    Admin,
    /// The sidecar's readiness answer.
    Health,
}

/// No port is left outside the ephemeral range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free port is left between {first} and {last}; narrow net.ipv4.ip_local_port_range or stop other meshes")]
pub struct Exhausted {
    first: u16,
    last: u16,
}

/// Asks the machine; replaced in tests.
pub struct Machine {
    /// Nobody listens on this port, on any address.
    pub is_free: Box<dyn Fn(u16) -> bool + Send>,
    /// Binds the guard of a block; `None` when another mesh holds it.
    pub guard: Box<dyn Fn(u16) -> Option<Socket> + Send>,
    /// Claims one port outside the blocks; `None` when another mesh has claimed it, even if nobody listens yet.
    pub claim: Box<dyn Fn(u16) -> Option<Claim> + Send>,
}

/// Held while the mesh lives.
pub type Claim = Option<UnixDatagram>;

impl Default for Machine {
    fn default() -> Self {
        Self { is_free: Box::new(is_free), guard: Box::new(guard), claim: Box::new(claim) }
    }
}

/// Gives out ports. One per mesh.
pub struct PortPool {
    machine: Machine,
    range: RangeInclusive<u16>,
    /// First port of the next block to try; `None` when the range is used up.
    next_block: Option<u16>,
    /// What is left of the block in hand.
    block: std::ops::Range<u16>,
    guards: Vec<Socket>,
    claims: Vec<Claim>,
    given: BTreeMap<(InstanceId, Purpose), u16>,
    /// Everything that must not be given out: given, fixed by people, held by the mesh itself.
    taken: BTreeSet<u16>,
}

impl PortPool {
    /// A pool outside `ephemeral`: what the kernel gives to outgoing connections must not meet what we promise to programs.
    pub fn new(machine: Machine, ephemeral: RangeInclusive<u16>) -> Self {
        let range = outside(&ephemeral);
        Self {
            machine,
            next_block: Some(*range.start()),
            range,
            block: 0..0,
            guards: Vec::new(),
            claims: Vec::new(),
            given: BTreeMap::new(),
            taken: BTreeSet::new(),
        }
    }

    /// The pool of this machine.
    pub fn of_this_machine() -> Self {
        Self::new(Machine::default(), ephemeral_range())
    }

    /// Never gives out `port`: somebody fixed it, or the mesh itself uses it.
    pub fn reserve(&mut self, port: u16) {
        self.taken.insert(port);
    }

    /// The port of `owner` for `purpose`: always the same one, picked on the first call.
    pub fn port(&mut self, owner: &InstanceId, purpose: Purpose) -> Result<u16, Exhausted> {
        let key = (owner.clone(), purpose);
        if let Some(port) = self.given.get(&key) {
            return Ok(*port);
        }
        let port = self.pick()?;
        self.given.insert(key, port);
        Ok(port)
    }

    /// `wished`, else the first of `next`, `next + 1`, … that is free and not taken; for ports that people expect at a known place.
    pub fn near(&mut self, owner: &InstanceId, purpose: Purpose, wished: Option<u16>, next: u16) -> Result<u16, Exhausted> {
        let key = (owner.clone(), purpose);
        if let Some(port) = self.given.get(&key) {
            return Ok(*port);
        }
        let near = wished.into_iter().chain(next..=next.saturating_add(100)).find_map(|port| {
            let free = !self.taken.contains(&port) && (self.machine.is_free)(port);
            free.then(|| (self.machine.claim)(port)).flatten().map(|claim| (port, claim))
        });
        let port = match near {
            Some((port, claim)) => {
                self.claims.push(claim);
                port
            }
            None => self.pick()?,
        };
        self.taken.insert(port);
        self.given.insert(key, port);
        Ok(port)
    }

    fn pick(&mut self) -> Result<u16, Exhausted> {
        loop {
            for port in self.block.by_ref() {
                if !self.taken.contains(&port) && (self.machine.is_free)(port) {
                    self.taken.insert(port);
                    return Ok(port);
                }
            }
            self.next_block()?;
        }
    }

    fn next_block(&mut self) -> Result<(), Exhausted> {
        while let Some(first) = self.next_block {
            self.next_block = first.checked_add(BLOCK).filter(|next| self.range.contains(&next.saturating_add(BLOCK - 1)));
            if self.taken.contains(&first) {
                continue;
            }
            if let Some(guard) = (self.machine.guard)(first) {
                self.guards.push(guard);
                self.block = first + 1..first + BLOCK;
                return Ok(());
            }
        }
        Err(Exhausted { first: *self.range.start(), last: *self.range.end() })
    }
}

/// The larger stretch of useful ports beside the ephemeral range.
fn outside(ephemeral: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let below = FIRST..=ephemeral.start().saturating_sub(1);
    let above = ephemeral.end().saturating_add(1)..=u16::MAX;
    if below.len() >= usize::from(BLOCK) || below.len() >= above.len() {
        return below;
    }
    if above.len() >= usize::from(BLOCK) {
        return above;
    }
    // Somebody gave nearly everything to outgoing connections: low ports are still better than none.
    2_000..=ephemeral.start().saturating_sub(1).max(2_000 + 10 * BLOCK)
}

/// What the kernel uses for outgoing connections.
pub fn ephemeral_range() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut words = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (words.next(), words.next()) {
        (Some(first), Some(last)) if first <= last => first..=last,
        _ => EPHEMERAL,
    }
}

/// Nobody listens on `port`, on any address. Connections in TIME_WAIT do not count.
pub fn is_free(port: u16) -> bool {
    bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), true).is_ok()
}

/// Whether this process may and can listen on `address`.
pub fn can_bind(address: SocketAddr) -> bool {
    bind(address, true).is_ok()
}

/// Why this process does not listen on `address`, as the end of "port 80 …".
pub fn why_not(address: SocketAddr) -> String {
    match bind(address, true) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => "needs privileges".into(),
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => format!("cannot be bound: {error}"),
        Err(_) => format!("is taken by {}", port_owner(address.port())),
        Ok(_) if !is_free(address.port()) => format!("is taken by {}", port_owner(address.port())),
        Ok(_) => "was taken".into(),
    }
}

fn guard(port: u16) -> Option<Socket> {
    // Without SO_REUSEADDR: of two guards on one port, the second one fails even though neither listens.
    bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), false).ok()
}

/// An abstract socket whose name is the port: it goes when its process does. Elsewhere than on Linux nothing is claimed.
#[cfg(target_os = "linux")]
fn claim(port: u16) -> Option<Claim> {
    use std::os::{linux::net::SocketAddrExt, unix::net};
    let name = net::SocketAddr::from_abstract_name(format!("pillion/port/{port}")).ok()?;
    UnixDatagram::bind_addr(&name).ok().map(Some)
}

#[cfg(not(target_os = "linux"))]
fn claim(_: u16) -> Option<Claim> {
    Some(None)
}

fn bind(address: SocketAddr, reuse: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(reuse)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A port that somebody fixed: who (`Workload default/product-v1`), with which field, at which place of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed<T> {
    pub port: u16,
    pub owner: String,
    pub field: String,
    pub place: T,
}

/// Two owners of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash<T> {
    pub first: Fixed<T>,
    pub second: Fixed<T>,
}

/// Every fixed port that an earlier one in the list has already.
pub fn clashes<T: Clone>(fixed: &[Fixed<T>]) -> Vec<Clash<T>> {
    let mut seen: BTreeMap<u16, &Fixed<T>> = BTreeMap::new();
    let mut clashes = Vec::new();
    for item in fixed {
        match seen.get(&item.port) {
            Some(first) => clashes.push(Clash { first: (*first).clone(), second: item.clone() }),
            None => {
                seen.insert(item.port, item);
            }
        }
    }
    clashes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(busy: &'static [u16], held: &'static [u16], ephemeral: RangeInclusive<u16>) -> PortPool {
        let machine = Machine {
            is_free: Box::new(move |port| !busy.contains(&port)),
            guard: Box::new(move |port| (!held.contains(&port)).then(|| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap())),
            claim: Box::new(|_| Some(None)),
        };
        PortPool::new(machine, ephemeral)
    }

    fn id(name: &str) -> InstanceId {
        InstanceId { namespace: "default".into(), name: name.into() }
    }

    #[test]
    fn ports_skip_what_is_busy_fixed_or_another_mesh() {
        type Case = (&'static str, &'static [u16], &'static [u16], Option<u16>, u16);
        let cases: [Case; 5] = [
            ("nothing in the way", &[], &[], None, 20_001),
            ("a listener", &[20_001, 20_002], &[], None, 20_003),
            ("a fixed port", &[], &[], Some(20_001), 20_002),
            ("another mesh holds the block", &[], &[20_000], None, 20_101),
            ("the guard's port is fixed", &[], &[], Some(20_000), 20_101),
        ];
        for (name, busy, held, fixed, want) in cases {
            let mut pool = pool(busy, held, 32_768..=60_999);
            fixed.into_iter().for_each(|port| pool.reserve(port));
            assert_eq!(pool.port(&id("a"), Purpose::Outbound), Ok(want), "{name}");
        }
    }

    #[test]
    fn an_owner_keeps_its_port_and_nobody_shares_it() {
        let mut pool = pool(&[], &[], 32_768..=60_999);
        let first = pool.port(&id("a"), Purpose::App(9080)).unwrap();
        let mut all = vec![first];
        for replica in 0..250 {
            all.push(pool.port(&id(&format!("b-{replica}")), Purpose::App(9080)).unwrap());
        }
        all.push(pool.port(&id("a"), Purpose::Inbound(9080)).unwrap());
        assert_eq!(pool.port(&id("a"), Purpose::App(9080)), Ok(first));
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|port| !(32_768..=60_999).contains(port)));
    }

    #[test]
    fn ports_come_from_outside_the_ephemeral_range() {
        let cases = [
            ("Linux' default", 32_768..=60_999, 20_000..=32_767),
            ("BSD's default", 49_152..=65_535, 20_000..=49_151),
            ("low ephemeral ports", 10_000..=60_000, 60_001..=65_535),
        ];
        for (name, ephemeral, want) in cases {
            assert_eq!(outside(&ephemeral), want, "{name}");
        }
    }

    #[test]
    fn a_wished_port_moves_on_when_it_is_taken() {
        let mut pool = pool(&[8080], &[], 32_768..=60_999);
        assert_eq!(pool.near(&id("gateway"), Purpose::Inbound(80), None, 8080), Ok(8081));
        assert_eq!(pool.near(&id("other"), Purpose::Inbound(80), None, 8080), Ok(8082));
        assert_eq!(pool.near(&id("gateway"), Purpose::Inbound(80), None, 8080), Ok(8081), "kept");
        assert_eq!(pool.near(&id("third"), Purpose::Inbound(80), Some(80), 8080), Ok(80));
        assert_eq!(pool.near(&id("fourth"), Purpose::Inbound(80), Some(80), 8080), Ok(8083), "not 81");
    }

    #[test]
    fn an_exhausted_range_is_an_error_that_says_what_to_do() {
        let mut pool = pool(&[], &[], 20_150..=65_535);
        let mut last = Ok(0);
        for replica in 0..300 {
            last = pool.port(&id(&format!("a-{replica}")), Purpose::Outbound);
        }
        assert_eq!(last, Err(Exhausted { first: 20_000, last: 20_149 }));
    }

    #[test]
    fn fixed_ports_that_collide_are_found() {
        let fixed = |port, owner: &str| Fixed { port, owner: owner.into(), field: "localPort".into(), place: () };
        let cases = [
            ("all differ", vec![fixed(1, "a"), fixed(2, "b")], vec![]),
            ("two owners", vec![fixed(1, "a"), fixed(2, "b"), fixed(1, "c")], vec![("a", "c")]),
            ("one owner twice", vec![fixed(1, "a"), fixed(1, "a")], vec![("a", "a")]),
        ];
        for (name, ports, want) in cases {
            let found = clashes(&ports);
            let got: Vec<_> = found.iter().map(|clash| (clash.first.owner.as_str(), clash.second.owner.as_str())).collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn a_real_listener_is_seen_on_any_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        drop(listener);
        assert!(is_free(port));
    }

    #[test]
    fn two_meshes_do_not_wish_for_the_same_port() {
        let (mut first, mut second) = (PortPool::of_this_machine(), PortPool::of_this_machine());
        let gateway = id("gateway");
        let port = first.near(&gateway, Purpose::Inbound(80), Some(18_080), 18_081).unwrap();
        assert_ne!(second.near(&gateway, Purpose::Inbound(80), Some(18_080), 18_081).unwrap(), port);
        drop(first);
        assert_eq!(
            PortPool::of_this_machine().near(&gateway, Purpose::Inbound(80), Some(port), 1).unwrap(),
            port,
            "a claim ends with its mesh"
        );
    }

    #[test]
    fn two_pools_of_one_machine_share_no_block() {
        let mut first = PortPool::of_this_machine();
        let mut second = PortPool::of_this_machine();
        let mut seen = BTreeSet::new();
        for number in 0..20 {
            assert!(seen.insert(first.port(&id(&format!("a{number}")), Purpose::Admin).unwrap()));
            assert!(seen.insert(second.port(&id(&format!("a{number}")), Purpose::Admin).unwrap()));
        }
    }
}
