//! `pillion run`: the whole mesh on this machine.
//!
//! In:  folders of YAML, addresses.
//! Out: a running mesh until Ctrl-C.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use pillion_control_plane::bootstrap::address;

use crate::local::output::Logs;

const EXAMPLES: &str = "\
Examples:
  pillion run                      the example shop; written to ./shop-mesh when you are not in a clone of the repository
  pillion run ./mesh ./more        your own folders, read recursively; edits apply while it runs
  pillion run ./mesh --json        one JSON object a line on standard output, for scripts

A Workload (apiVersion: pillion.io/v1alpha1) says how a program is started; docs/local-mesh.md has all of it.
Ctrl-C drains and ends everything; a second Ctrl-C ends it at once.";

/// Arguments.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folders (or files) of YAML. Without one: ./examples/shop if it is there, else ./shop-mesh.
    #[arg(value_name = "DIR")]
    pub directories: Vec<PathBuf>,
    /// Print one JSON object a line on standard output, and everything else on standard error.
    #[arg(long)]
    pub json: bool,
    /// Ask the programs to make no traffic of their own (sets QUIET=1 for them).
    #[arg(long)]
    pub quiet: bool,
    /// Whose lines to show.
    #[arg(long, value_enum, default_value_t = Logs::All)]
    pub logs: Logs,
    /// Address of the control plane's HTTP API [default: 127.0.0.1:15080, or a free port near it]. A port alone will do; 0 picks one.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub api: Option<SocketAddr>,
    /// Address of the control plane's metrics [default: 127.0.0.1:15014, or a free port near it].
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub metrics: Option<SocketAddr>,
    /// Address of xDS, plaintext [default: 127.0.0.1:15010, or a free port near it].
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub xds: Option<SocketAddr>,
    /// Address that gateways listen on.
    #[arg(long, value_name = "IP", default_value_t = Ipv4Addr::LOCALHOST)]
    pub gateway_address: Ipv4Addr,
    /// MeshConfig in a file, in place of ConfigMap `istio` in `istio-system`.
    #[arg(long, value_name = "FILE")]
    pub mesh_config: Option<PathBuf>,
    /// Folder for the proxies' last good configuration; kept afterwards [default: a temporary one, removed at the end].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Runs until Ctrl-C.
pub fn run(args: Args) -> ExitCode {
    crate::local::run(args)
}
