//! The command line of a sidecar or gateway: `pillion proxy …`.
//!
//! In:  a plan, its addresses, where xDS and state are.
//! Out: `argv`.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use super::{child::own_executable, plan::ReplicaPlan, replica::Addresses};

/// What is the same for every proxy of the mesh.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    pub xds: SocketAddr,
    /// Each proxy keeps its last good configuration in a folder of its own below this.
    pub state: PathBuf,
}

/// The command line of the proxy of one replica.
pub fn proxy_command(plan: &ReplicaPlan, addresses: &Addresses, settings: &ProxySettings) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![own_executable().into(), "proxy".into()];
    let mut flag = |name: &str, value: OsString| {
        words.push(name.into());
        words.push(value);
    };
    flag("--xds", settings.xds.to_string().into());
    flag("--name", plan.id.name.clone().into());
    words
}
