//! The command line of a sidecar or gateway: `pillion proxy …`.
//!
//! In:  a plan, its addresses, where xDS and state are.
//! Out: `argv`.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use super::{child::own_executable, plan::ReplicaPlan, replica::Addresses};

/// Open requests may take this long to end; less than the proxy's grace, which ends in SIGKILL.
const DRAIN: &str = "4s";

/// What is the same for every proxy of the mesh.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    pub xds: SocketAddr,
    /// Each proxy keeps its last good configuration in a folder of its own below this.
    pub state: PathBuf,
    /// Levels of the proxies' logs.
    pub log: String,
}

/// The command line of the proxy of one replica. A dozen of them share a laptop, so each has one worker.
pub fn proxy_command(plan: &ReplicaPlan, addresses: &Addresses, settings: &ProxySettings) -> Vec<OsString> {
    let labels: Vec<String> = plan.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut words: Vec<OsString> = vec![own_executable().into(), "proxy".into()];
    let mut flag = |name: &str, value: OsString| words.extend([name.into(), value]);
    flag("--name", plan.id.name.clone().into());
    flag("--namespace", plan.id.namespace.clone().into());
    flag("--workload", plan.workload.clone().into());
    flag("--labels", labels.join(",").into());
    flag("--service-account", plan.service_account.clone().into());
    if plan.gateway {
        flag("--role", "router".into());
    } else {
        flag("--http-proxy-port", addresses.outbound.port().to_string().into());
    }
    flag("--xds", settings.xds.to_string().into());
    flag("--admin", addresses.admin.to_string().into());
    flag("--status", addresses.health.to_string().into());
    flag("--metrics", "off".into());
    flag("--state-dir", settings.state.join(format!("{}.{}", plan.id.name, plan.id.namespace)).into());
    flag("--workers", "1".into());
    flag("--drain-duration", DRAIN.into());
    flag("--log", settings.log.clone().into());
    words
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use clap::Parser;
    use pillion_proxy::bootstrap::{Args, Bootstrap};

    use super::*;
    use crate::local::{plan::tests::plan, ports::PortPool};

    fn bootstrap(plan: &ReplicaPlan) -> Bootstrap {
        let addresses = Addresses::assign(plan, &mut PortPool::of_this_machine(), Ipv4Addr::LOCALHOST).unwrap();
        let settings = ProxySettings { xds: "127.0.0.1:15010".parse().unwrap(), state: "/state".into(), log: "warn".into() };
        let words = proxy_command(plan, &addresses, &settings);
        Bootstrap::new(Args::try_parse_from(&words[1..]).unwrap()).unwrap()
    }

    #[test]
    fn a_sidecar_says_whose_it_is() {
        let bootstrap = bootstrap(&plan("product"));
        let node = bootstrap.node;
        assert_eq!(node.id, "sidecar~127.0.0.1~product-0.default~default.svc.cluster.local");
        assert_eq!((node.workload.as_str(), node.labels["app"].as_str()), ("product", "product"));
        assert!(node.is_explicit());
        assert_eq!(bootstrap.state_dir, Some("/state/product-0.default".into()));
    }

    #[test]
    fn a_gateway_is_a_router() {
        let gateway = ReplicaPlan { gateway: true, command: None, labels: Default::default(), ..plan("gate") };
        let node = bootstrap(&gateway).node;
        assert!(node.is_router() && node.labels.is_empty() && node.http_proxy_port.is_none());
    }
}
