//! `pillion translate`: what one workload's proxy is told, as files that Envoy starts from.
//!
//! In:  folders of YAML, a workload, addresses; on request the ports that a running mesh picked.
//! Out: files below `--out`, replaced by rename; exit code 1 when the YAML has errors, 2 for misuse. Nothing is started or asked.

mod instances;
mod write;

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use pillion_api::{
    effective::{Effective, Protocol, ResolvedWorkload},
    finding::Severity,
    render,
};
use pillion_control_plane::{
    model::{
        instance::{Instance, InstanceId, InstancePort, Instances},
        world::World,
    },
    translate::{
        Translator,
        files::{self, Placement},
    },
};
use pillion_xds::{
    names::{HTTP_PROXY, ListenerName},
    node::{InterceptionMode, Node},
    resource::ResourceType,
};
use tokio::sync::watch;

use super::{suggest, validate};
use crate::output::{self, Misuse};

const EXAMPLES: &str = "\
Examples:
  pillion translate examples/canary --workload default/visitor --out /tmp/visitor
  envoy -c /tmp/visitor/envoy.yaml             a stock Envoy that does what the visitor's sidecar does
  pillion-proxy --resources /tmp/visitor       our own proxy from the same files, without a control plane

  pillion run examples/canary --json > ready.json      # in another terminal: programs to talk to
  pillion translate examples/canary --workload default/visitor --endpoints ready.json \\
      --outbound 127.0.0.1:18001 --admin 127.0.0.1:18000 --inbound http=127.0.0.1:18006 --out /tmp/visitor

Run it again after an edit: files are replaced by rename, and both proxies take them while they run.
Without --endpoints, workloads are looked for at 127.0.0.1 and their `localPort` or `containerPort`.
Exit code: 0 written, 1 the YAML has errors (what was written before stays) or a file cannot be written, 2 wrong use.";

/// Where Envoy's admin pages are unless something else is said, as in Istio.
const ADMIN_PORT: u16 = 15_000;
/// Where programs find their explicit proxy.
const OUTBOUND_PORT: u16 = 15_001;
/// Where the first port of the workload is served; the next ones follow.
const INBOUND_PORT: u16 = 15_006;
/// The one inbound listener of captured mode.
const VIRTUAL_INBOUND: &str = "virtualInbound";
const VIRTUAL_OUTBOUND: &str = "virtualOutbound";

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folders or files with the YAML of the mesh.
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<PathBuf>,
    /// Whose proxy it is: a Workload, or a gateway.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    workload: String,
    /// Where to write; made when it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How connections come to the proxy: clients name it, or they are redirected to it.
    #[arg(long, value_enum, default_value_t = Mode::Explicit, value_name = "MODE")]
    mode: Mode,
    /// Where clients name the proxy [default: 127.0.0.1:15001]; captured: where they are redirected to [default: 0.0.0.0:15001].
    #[arg(long, value_name = "ADDR")]
    outbound: Option<SocketAddr>,
    /// Where a port of the workload (by name or number) is served [default: 127.0.0.1:15006 and following]; captured: virtualInbound=ADDR.
    #[arg(long, value_name = "NAME=ADDR", value_parser = named_address)]
    inbound: Vec<(String, SocketAddr)>,
    /// Envoy's admin interface.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)))]
    admin: SocketAddr,
    /// Output of `pillion run --json`: its `ready` event says where workloads are.
    #[arg(long, value_name = "FILE")]
    endpoints: Option<PathBuf>,
}

/// How connections come to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Explicit,
    Captured,
}

fn named_address(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("wanted NAME=IP:PORT, such as http=127.0.0.1:15006")?;
    let address: SocketAddr = address.parse().map_err(|_| format!("{address:?} is no IP:PORT"))?;
    if address.port() == 0 { Err("a port other than 0 is wanted".to_owned()) } else { Ok((name.to_owned(), address)) }
}

/// Translates and writes.
pub fn run(args: &Args) -> ExitCode {
    match translate(args) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("pillion: {error:#}");
            ExitCode::from(output::code(&error))
        }
    }
}

fn translate(args: &Args) -> anyhow::Result<ExitCode> {
    let input = validate::read_all(&args.paths).map_err(|problem| Misuse(problem.0))?;
    if let Some(unread) = input.unread.first() {
        return Err(Misuse(unread.clone()).into());
    }
    let checked = pillion_api::check(&input.sources);
    let findings = checked.findings.iter().chain(&input.findings);
    let errors: Vec<_> = findings.filter(|finding| finding.severity == Severity::Error).cloned().collect();
    if !errors.is_empty() {
        let texts = input.sources.iter().chain(&input.not_text);
        let texts = render::Sources::new(texts.map(|(file, text)| (file.as_str(), text.as_str())));
        anstream::eprint!("{}", render::text(&errors, &texts, true));
        anstream::eprintln!("{}; nothing was written", output::count(errors.len(), "error", "errors"));
        return Ok(ExitCode::from(output::WRONG));
    }
    let picked = args.endpoints.as_deref().map(instances::picked).transpose().map_err(Misuse)?;
    let workload = find(&checked.effective, &args.workload)?;
    let subject = Subject::new(workload, &checked.effective, args, picked.as_ref())?;
    let mut all = instances::all(&checked.effective, picked.as_ref());
    all.insert(subject.instance.id.clone(), subject.instance.clone());
    let world = World::build(1, checked.set, Instances::new(all), None);

    let folder = std::path::absolute(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    let before = fs::read_to_string(folder.join("cds.yaml")).unwrap_or_default();
    let placement = Placement { folder: folder.clone(), admin: args.admin, addresses: subject.addresses, numbers: files::numbers(&before) };
    let (_worlds, worlds) = watch::channel(None);
    let (_generations, generations) = watch::channel(0);
    let config = Translator::new(worlds, generations).translate(&world.into(), &subject.node);
    let made = files::files(&config, &subject.node, &placement)?;
    let changed = write::replace(&folder, &made)?;
    say(&args.out, &config, made.len(), changed);
    Ok(ExitCode::SUCCESS)
}

fn say(out: &Path, config: &pillion_xds::resource::NodeConfig, files: usize, changed: usize) {
    let [listeners, routes, clusters, endpoints] =
        [ResourceType::Listener, ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoint].map(|kind| config.of(kind).len());
    let out = out.display();
    output::say(&format!(
        "{out}: {files} files, {changed} of them new or changed: {}, {}, {}, {}\n\n  envoy -c {out}/envoy.yaml\n  pillion-proxy --resources {out}",
        output::count(listeners, "listener", "listeners"),
        output::count(routes, "route table", "route tables"),
        output::count(clusters, "cluster", "clusters"),
        output::count(endpoints, "endpoint list", "endpoint lists"),
    ));
}

fn find<'a>(effective: &'a Effective, name: &str) -> Result<&'a ResolvedWorkload, Misuse> {
    let (namespace, own) = name.split_once('/').unwrap_or(("default", name));
    let mut all = effective.workloads().iter();
    if let Some(found) = all.clone().find(|workload| workload.namespace == namespace && workload.name == own) {
        return Ok(found);
    }
    let known: Vec<String> = all.by_ref().map(|workload| format!("{}/{}", workload.namespace, workload.name)).collect();
    Err(Misuse(suggest::unknown("Workload", &format!("{namespace}/{own}"), &known)))
}

/// Whose proxy it is: its instance, its node, and where its listeners are bound.
struct Subject {
    instance: Instance,
    node: Node,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Subject {
    fn new(workload: &ResolvedWorkload, effective: &Effective, args: &Args, picked: Option<&instances::Picked>) -> Result<Self, Misuse> {
        let id = InstanceId { namespace: workload.namespace.clone(), name: format!("{}-0", workload.name) };
        let running = picked.and_then(|picked| instances::running(workload, 0, picked));
        let mut instance = running.unwrap_or_else(|| Instance { ready: picked.is_none(), ..instances::fixed(workload) });
        let addresses = match (workload.gateway, args.mode) {
            (true, Mode::Explicit) => gateway(&mut instance, workload, effective, args)?,
            (true, Mode::Captured) => return Err(Misuse(format!("{} is a gateway: it is always explicit", args.workload))),
            (false, Mode::Explicit) => explicit(&instance, args)?,
            (false, Mode::Captured) => captured(args)?,
        };
        let ip = Ipv4Addr::LOCALHOST.into();
        let make = if workload.gateway { Node::router } else { Node::sidecar };
        let mut node = make(ip, &id.name, &id.namespace);
        node.pillion_version = None;
        node.labels.clone_from(&workload.labels);
        node.service_account.clone_from(&workload.service_account);
        node.workload.clone_from(&workload.name);
        node.cluster = format!("{}.{}", workload.name, workload.namespace);
        node.interception_mode = if args.mode == Mode::Captured { InterceptionMode::Redirect } else { InterceptionMode::None };
        // The port stands in the files only as an address, which is replaced.
        node.http_proxy_port = (!workload.gateway && args.mode == Mode::Explicit).then_some(OUTBOUND_PORT);
        Ok(Self { instance, node, addresses })
    }
}

/// Each port has a listener of its own, named by the address that its peers know.
fn explicit(instance: &Instance, args: &Args) -> Result<BTreeMap<String, SocketAddr>, Misuse> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut wished = args.inbound.clone();
    let mut addresses = BTreeMap::from([(HTTP_PROXY.to_owned(), args.outbound.unwrap_or(local(OUTBOUND_PORT)))]);
    for (at, port) in (0_u16..).zip(&instance.ports) {
        let address = take(&mut wished, &port.name, port.container_port).unwrap_or(local(INBOUND_PORT.saturating_add(at)));
        addresses.insert(ListenerName::address(port.inbound.ip(), port.inbound.port()).to_string(), address);
    }
    let known = instance.ports.iter().map(|port| port_name(&port.name, port.container_port)).collect();
    nothing_left(&wished, known)?;
    Ok(addresses)
}

fn captured(args: &Args) -> Result<BTreeMap<String, SocketAddr>, Misuse> {
    let mut wished = args.inbound.clone();
    let mut addresses = BTreeMap::new();
    addresses.extend(args.outbound.map(|address| (VIRTUAL_OUTBOUND.to_owned(), address)));
    addresses.extend(take(&mut wished, VIRTUAL_INBOUND, 0).map(|address| (VIRTUAL_INBOUND.to_owned(), address)));
    nothing_left(&wished, vec![VIRTUAL_INBOUND.to_owned()])?;
    Ok(addresses)
}

/// A gateway listens where its Gateways say, but for the ports that were named.
fn gateway(
    instance: &mut Instance,
    workload: &ResolvedWorkload,
    effective: &Effective,
    args: &Args,
) -> Result<BTreeMap<String, SocketAddr>, Misuse> {
    if args.outbound.is_some() {
        return Err(Misuse(format!("--outbound: {} is a gateway, and nothing goes out through it", args.workload)));
    }
    let mut wished = args.inbound.clone();
    let mut known = Vec::new();
    instance.ports.clear();
    let servers = effective.gateways_for(&workload.labels).flat_map(|gateway| gateway.spec.servers.iter());
    for port in servers.filter_map(|server| server.port.as_ref()) {
        let is_http = Protocol::parse(&port.protocol).is_some_and(Protocol::is_http);
        let Some(number) = u16::try_from(port.number).ok().filter(|_| is_http) else { continue };
        known.push(port_name(&port.name, number));
        if let Some(inbound) = take(&mut wished, &port.name, number) {
            instance.ports.push(InstancePort { name: port.name.clone(), container_port: number, inbound, app: inbound });
        }
    }
    nothing_left(&wished, known)?;
    Ok(BTreeMap::new())
}

fn port_name(name: &str, number: u16) -> String {
    if name.is_empty() { number.to_string() } else { name.to_owned() }
}

/// The address wished for a port, by its name or its number.
fn take(wished: &mut Vec<(String, SocketAddr)>, name: &str, number: u16) -> Option<SocketAddr> {
    let at = wished.iter().position(|(wish, _)| wish == name || *wish == number.to_string())?;
    Some(wished.remove(at).1)
}

fn nothing_left(wished: &[(String, SocketAddr)], mut known: Vec<String>) -> Result<(), Misuse> {
    known.sort();
    known.dedup();
    match wished.first() {
        None => Ok(()),
        Some((name, _)) => Err(Misuse(format!("--inbound: {}", suggest::unknown("port", name, &known)))),
    }
}

#[cfg(test)]
mod tests;
