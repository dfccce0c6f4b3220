//! The control plane inside this process: where it listens, what it knows, what it reports.
//!
//! In:  [`Args`] of `pillion run`.
//! Out: a running control plane; [`Peers`], which knows when every proxy has forgotten an instance; ports that had to move.

use std::{collections::BTreeSet, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use pillion_control_plane::{
    app::{self, Running},
    bootstrap::{API_PORT, Bootstrap, METRICS_PORT, XDS_PORT},
    model::{
        instance::{InstanceId, Instances},
        world::World,
    },
    port_owner::port_owner,
    push::status::Proxies,
};
use tokio::sync::watch;

use super::ports::is_free;
use crate::commands::run::Args;

/// How far a default port may move.
const NEAR: u16 = 50;
/// Another process may take a port between the check and the use.
const TRIES: usize = 3;
/// How long a replica that leaves waits for its peers to notice.
const FORGET: Duration = Duration::from_secs(1);

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{flag} {address}: the port is taken by {owner}")]
    Taken { flag: &'static str, address: SocketAddr, owner: String },
    #[error("{0:#}")]
    Other(anyhow::Error),
}

/// One of the control plane's own addresses: what was asked for, or the default.
#[derive(Clone, Copy, Debug)]
struct Wish {
    flag: &'static str,
    explicit: Option<SocketAddr>,
    default: u16,
}

impl Wish {
    /// The address to use, and a sentence when it is not the expected one.
    fn address(self, taken: &mut BTreeSet<u16>) -> Result<(SocketAddr, Option<String>), StartError> {
        if let Some(address) = self.explicit {
            if address.port() != 0 && !is_free(address.port()) {
                return Err(self.taken(address));
            }
            return Ok((address, None));
        }
        let free = (self.default..=self.default.saturating_add(NEAR)).find(|port| !taken.contains(port) && is_free(*port));
        let port = free.unwrap_or(0);
        taken.insert(port);
        let moved = (port != self.default).then(|| {
            let owner = port_owner(self.default);
            let place = if port == 0 { "a free port is used".to_owned() } else { format!("{port} is used") };
            format!("Port {} ({}) is taken by {owner}; {place} instead", self.default, self.flag)
        });
        Ok((SocketAddr::from(([127, 0, 0, 1], port)), moved))
    }

    fn taken(self, address: SocketAddr) -> StartError {
        StartError::Taken { flag: self.flag, address, owner: port_owner(address.port()).to_string() }
    }
}

/// The ports of the mesh itself that somebody fixed, for collisions with Workloads.
pub fn own_ports(args: &Args) -> Vec<(u16, &'static str)> {
    let flags = [(args.api, "--api"), (args.metrics, "--metrics"), (args.xds, "--xds")];
    flags.into_iter().filter_map(|(address, flag)| Some((address?.port(), flag))).filter(|(port, _)| *port != 0).collect()
}

/// Starts it; also returns sentences about ports that moved.
pub async fn start(args: &Args, directories: Vec<PathBuf>) -> Result<(Running, Vec<String>), StartError> {
    let mut tries = TRIES;
    loop {
        let wishes = [
            Wish { flag: "--api", explicit: args.api, default: API_PORT },
            Wish { flag: "--metrics", explicit: args.metrics, default: METRICS_PORT },
            Wish { flag: "--xds", explicit: args.xds, default: XDS_PORT },
        ];
        let (mut taken, mut notes, mut addresses) = (BTreeSet::new(), Vec::new(), Vec::new());
        for wish in wishes {
            let (address, note) = wish.address(&mut taken)?;
            addresses.push(address);
            notes.extend(note);
        }
        let [api, metrics, xds] = addresses[..] else {
            return Err(StartError::Other(anyhow::anyhow!("three wishes have three addresses")));
        };
        let bootstrap = Bootstrap {
            config: directories.clone(),
            mesh_config: args.mesh_config.clone(),
            xds,
            api,
            metrics,
            // On one's own machine the banner says it; a server refuses.
            allow_unenforced: true,
            ..Bootstrap::default()
        };
        tries -= 1;
        match app::start(bootstrap).await {
            Ok(running) => return Ok((running, notes)),
            Err(error) if tries > 0 && is_taken(&error) => {}
            Err(error) => return Err(StartError::Other(error)),
        }
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::AddrInUse)
}

/// What the proxies know of each other.
#[derive(Clone)]
pub struct Peers {
    worlds: watch::Receiver<Arc<World>>,
    /// The newest generation that every connected proxy has answered for.
    acked: watch::Receiver<u64>,
    proxies: Proxies,
}

impl Peers {
    /// Follows the generations and the answers to them.
    pub fn new(worlds: watch::Receiver<Arc<World>>, acked: watch::Receiver<u64>, proxies: Proxies) -> Self {
        Self { worlds, acked, proxies }
    }

    /// Returns when no proxy sends requests to `id` any more (it is not ready in a generation that all have), after a second at most.
    pub async fn forget(&self, id: &InstanceId) {
        let (mut worlds, mut acked) = (self.worlds.clone(), self.acked.clone());
        let gone = async {
            let world = worlds.wait_for(|world| !is_ready(&world.instances, id)).await.ok()?.clone();
            acked.wait_for(|acked| *acked >= world.generation).await.ok()?;
            Some(())
        };
        // Late proxies must not hold an end up.
        let _ = tokio::time::timeout(FORGET, gone).await;
    }

    /// The generation in force, when all of `ids` are endpoints in it and every one of `proxies` proxies has it.
    pub fn know_all(&self, ids: &BTreeSet<InstanceId>, proxies: usize) -> Option<u64> {
        let world = self.worlds.borrow().clone();
        if !ids.iter().all(|id| is_ready(&world.instances, id)) {
            return None;
        }
        let having = self.proxies.snapshot().iter().filter(|proxy| proxy.generation >= world.generation).count();
        (having >= proxies).then_some(world.generation)
    }
}

fn is_ready(instances: &Instances, id: &InstanceId) -> bool {
    instances.get(id).is_some_and(|instance| instance.ready)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_default_port_moves_and_says_whose_it_was() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let default = listener.local_addr().unwrap().port();
        let wish = Wish { flag: "--api", explicit: None, default };
        let (address, note) = wish.address(&mut BTreeSet::new()).unwrap();
        assert_ne!(address.port(), default);
        let note = note.unwrap();
        assert!(note.starts_with(&format!("Port {default} (--api) is taken by ")), "{note}");
        #[cfg(target_os = "linux")]
        assert!(note.contains(&format!("(pid {})", std::process::id())), "{note}");
    }

    #[test]
    fn an_explicit_port_that_is_taken_is_an_error_that_says_whose() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let error = Wish { flag: "--xds", explicit: Some(address), default: 1 }.address(&mut BTreeSet::new()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("--xds {address}: the port is taken by ")), "{error}");
    }

    #[test]
    fn port_zero_is_left_to_the_system() {
        let zero = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, note) = Wish { flag: "--api", explicit: Some(zero), default: 1 }.address(&mut BTreeSet::new()).unwrap();
        assert_eq!((address, note), (zero, None));
    }
}
