//! Start-up settings: flags and environment, checked once, immutable after.
//!
//! In:  the command line.
//! Out: [`Bootstrap`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use pillion_xds::node::{InterceptionMode, Node};

use crate::config::files::{self, StockBootstrap};

/// The sidecar and gateway of a Pillion mesh.
#[derive(Debug, Clone, Parser)]
#[command(name = "pillion-proxy", version, about, max_term_width = 120)]
pub struct Args {
    /// Control plane to take configuration from, HOST:PORT
    #[arg(long, env = "PILLION_XDS", default_value = "127.0.0.1:15010", value_name = "ADDR")]
    pub xds: String,
    /// Whole node id; made from role, address, name and namespace when missing
    #[arg(long, env = "PILLION_NODE_ID", value_name = "ID")]
    pub node_id: Option<String>,
    /// Name of this replica
    #[arg(long, env = "POD_NAME", default_value = "proxy", value_name = "NAME")]
    pub name: String,
    #[arg(long, env = "POD_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub namespace: String,
    /// Workload that this replica belongs to; its name when missing
    #[arg(long, env = "ISTIO_META_WORKLOAD_NAME", value_name = "NAME")]
    pub workload: Option<String>,
    /// Labels of the workload: KEY=VALUE,…
    #[arg(long, env = "PILLION_LABELS", value_parser = parse_labels, default_value = "", hide_default_value = true, value_name = "LABELS")]
    pub labels: Labels,
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "default", value_name = "NAME")]
    pub service_account: String,
    /// Beside a workload, or a gateway
    #[arg(long, env = "PILLION_ROLE", value_enum, default_value = "sidecar")]
    pub role: Role,
    /// Address of the workload
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1", value_name = "IP")]
    pub ip: IpAddr,
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", default_value = "Kubernetes", value_name = "ID")]
    pub cluster_id: String,
    #[arg(long, env = "ISTIO_META_MESH_ID", default_value = "", hide_default_value = true, value_name = "ID")]
    pub mesh_id: String,
    /// Clients name this proxy (`http_proxy`) at this port instead of being redirected to it; 0 picks one
    #[arg(long, env = "PILLION_HTTP_PROXY_PORT", value_name = "PORT")]
    pub http_proxy_port: Option<u16>,
    /// Take configuration from the files of `pillion translate` in this folder instead of a control plane, and again when they are replaced.
    /// Its envoy.yaml, where there is one, says which node this is
    #[arg(long, env = "PILLION_RESOURCES", value_name = "DIR")]
    pub resources: Option<PathBuf>,
    /// Admin pages; loopback only [default: that of envoy.yaml with --resources, else 127.0.0.1:15000]
    #[arg(long, env = "PILLION_ADMIN", value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Readiness for probes (`/healthz/ready`), or `off`
    #[arg(long, env = "PILLION_STATUS", default_value = "0.0.0.0:15021", value_parser = parse_optional, value_name = "ADDR")]
    pub status: OptionalAddr,
    /// Metrics for scrapes from other machines (`/stats/prometheus`), or `off`; the admin pages have them in any case
    #[arg(long, env = "PILLION_METRICS", default_value = "off", value_parser = parse_optional, value_name = "ADDR")]
    pub metrics: OptionalAddr,
    /// Folder for the last good configuration; none is kept when missing
    #[arg(long, env = "PILLION_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Worker threads; the CPU limit, at most 2, when missing
    #[arg(long, env = "PILLION_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// How long open requests may take to end after SIGTERM
    #[arg(long, env = "PILLION_DRAIN_DURATION", default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
    pub drain_duration: Duration,
    /// Log level, or levels by module: info,pillion_proxy::config=debug
    #[arg(long, env = "PILLION_LOG", default_value = "info", value_name = "LEVELS")]
    pub log: String,
    /// One JSON object a line instead of text
    #[arg(long, env = "PILLION_LOG_JSON")]
    pub log_json: bool,
}

/// What a proxy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Sidecar,
    Router,
}

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// An address, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalAddr(pub Option<SocketAddr>);

/// Settings of the process.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub xds: String,
    pub node: Node,
    /// A folder of files in place of the control plane.
    pub resources: Option<PathBuf>,
    pub admin: SocketAddr,
    pub status: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub state_dir: Option<PathBuf>,
    /// At least 1.
    pub workers: usize,
    pub drain_duration: Duration,
    pub log: String,
    pub log_json: bool,
}

/// Why the settings make no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    #[error(
        "--admin {0}: the admin pages can stop this process and are served on loopback addresses only; use --metrics and --status for others"
    )]
    AdminNotLoopback(SocketAddr),
    #[error("--workers {0}: 1 to {MAX_WORKERS}")]
    Workers(usize),
    #[error("--xds {0:?}: HOST:PORT is wanted")]
    Xds(String),
    #[error("--resources {0}")]
    Resources(String),
}

const MAX_WORKERS: usize = 256;

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15_000);

/// Workers when nothing is said. Two share the accepting without idling; more only pays for gateways.
const DEFAULT_MAX_WORKERS: usize = 2;

impl Bootstrap {
    /// # Errors
    /// When a setting is out of its range.
    pub fn new(args: Args) -> Result<Self, BootstrapError> {
        let stock = args.resources.clone().map(stock).transpose().map_err(BootstrapError::Resources)?.flatten();
        let named = stock.as_ref().and_then(|stock| stock.admin);
        let admin = args.admin.or(named).unwrap_or(DEFAULT_ADMIN);
        if !admin.ip().is_loopback() {
            return Err(BootstrapError::AdminNotLoopback(admin));
        }
        let workers = args.workers.unwrap_or_else(default_workers);
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(BootstrapError::Workers(workers));
        }
        let has_port = args.xds.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !has_port {
            return Err(BootstrapError::Xds(args.xds));
        }
        Ok(Self {
            node: stock.map_or_else(|| node(&args), |stock| stock.node),
            xds: args.xds,
            resources: args.resources,
            admin,
            status: args.status.0,
            metrics: args.metrics.0,
            state_dir: args.state_dir,
            workers,
            drain_duration: args.drain_duration,
            log: args.log,
            log_json: args.log_json,
        })
    }
}

/// On a thread of its own, which gives back the memory that reading takes.
fn stock(folder: PathBuf) -> Result<Option<StockBootstrap>, String> {
    let reading = std::thread::spawn(move || files::stock_bootstrap(&folder));
    reading.join().unwrap_or_else(|_| Err("reading envoy.yaml panicked".to_owned()))
}

fn node(args: &Args) -> Node {
    let mut node = match args.role {
        Role::Sidecar => Node::sidecar(args.ip, &args.name, &args.namespace),
        Role::Router => Node::router(args.ip, &args.name, &args.namespace),
    };
    if let Some(id) = &args.node_id {
        node.id.clone_from(id);
    }
    node.labels.clone_from(&args.labels);
    node.service_account.clone_from(&args.service_account);
    node.workload = args.workload.clone().unwrap_or_else(|| args.name.clone());
    node.cluster = format!("{}.{}", node.workload, node.namespace);
    node.cluster_id.clone_from(&args.cluster_id);
    node.mesh_id.clone_from(&args.mesh_id);
    node.http_proxy_port = args.http_proxy_port;
    // A gateway's clients connect to it as to a server.
    node.interception_mode = match (args.http_proxy_port, args.role) {
        (Some(_), _) | (None, Role::Router) => InterceptionMode::None,
        (None, Role::Sidecar) => InterceptionMode::Redirect,
    };
    node
}

/// The CPU limit (affinity and control groups), at most [`DEFAULT_MAX_WORKERS`].
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(DEFAULT_MAX_WORKERS))
}

fn parse_labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
            _ => Err(format!("{pair:?} is not KEY=VALUE")),
        })
        .collect()
}

fn parse_optional(text: &str) -> Result<OptionalAddr, String> {
    match text {
        "off" | "" => Ok(OptionalAddr(None)),
        text => text.parse().map(|address| OptionalAddr(Some(address))).map_err(|_| "wanted IP:PORT or off".to_owned()),
    }
}

/// `1h30m`, `5s`, `250ms`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 5s or 250ms");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..].find(|character: char| character.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let unit = match &rest[digits..unit_end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        total += unit * number;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn bootstrap(flags: &[&str]) -> Result<Bootstrap, BootstrapError> {
        Bootstrap::new(Args::try_parse_from(std::iter::once("pillion-proxy").chain(flags.iter().copied())).unwrap())
    }

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_make_the_node() {
        let flags = ["--name", "product-v1-0", "--namespace", "shop", "--labels", "app=product, version=v1", "--http-proxy-port", "0"];
        let node = bootstrap(&flags).unwrap().node;
        assert_eq!(node.id, "sidecar~127.0.0.1~product-v1-0.shop~shop.svc.cluster.local");
        assert_eq!((node.labels["version"].as_str(), node.workload.as_str()), ("v1", "product-v1-0"));
        assert!(node.is_explicit() && node.is_pillion());
        assert!(!bootstrap(&[]).unwrap().node.is_explicit());
        let gateway = bootstrap(&["--role", "router", "--node-id", "router~x"]).unwrap().node;
        assert!(gateway.is_router() && gateway.is_explicit() && gateway.id == "router~x");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let cases = [
            (&["--admin", "0.0.0.0:15000"][..], BootstrapError::AdminNotLoopback("0.0.0.0:15000".parse().unwrap())),
            (&["--workers", "0"], BootstrapError::Workers(0)),
            (&["--xds", "nowhere"], BootstrapError::Xds("nowhere".into())),
        ];
        for (flags, want) in cases {
            assert_eq!(bootstrap(flags).unwrap_err(), want);
        }
        let off = bootstrap(&["--status", "off", "--metrics", "[::1]:0"]).unwrap();
        assert_eq!((off.status, off.metrics), (None, "[::1]:0".parse().ok()));
        assert!((1..=2).contains(&off.workers));
    }

    #[test]
    fn times_have_units() {
        let cases = [
            ("5s", Ok(Duration::from_secs(5))),
            ("1m30s", Ok(Duration::from_secs(90))),
            ("250ms", Ok(Duration::from_millis(250))),
            ("7", Ok(Duration::from_secs(7))),
            ("5x", Err(())),
            ("s", Err(())),
            ("", Err(())),
        ];
        for (text, want) in cases {
            assert_eq!(parse_duration(text).map_err(drop), want, "{text}");
        }
    }
}
