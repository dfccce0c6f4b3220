//! Start-up settings, fixed once the control plane runs.
//!
//! In:  flags of `pillion-control-plane`, or `pillion run`.
//! Out: [`Bootstrap`].

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::{Parser, ValueEnum};
use pillion_api::host::CLUSTER_DOMAIN;

/// Everything that must be known before the start.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Folders (read recursively) and files of YAML or JSON.
    pub config: Vec<PathBuf>,
    /// A file with the fields of Istio's MeshConfig; `None` leaves it to a ConfigMap `istio` among the objects.
    pub mesh_config: Option<PathBuf>,
    /// Where xDS and gRPC health listen, in plain text. Port 0 picks one.
    pub xds: SocketAddr,
    /// Where the HTTP API listens.
    pub api: SocketAddr,
    /// Where `/metrics` listens.
    pub metrics: SocketAddr,
    /// The suffix of service names, `cluster.local` unless the cluster says otherwise.
    pub cluster_domain: String,
    /// Start although security policies are present that this version does not enforce.
    pub allow_unenforced: bool,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            config: Vec::new(),
            mesh_config: None,
            xds: loopback(XDS_PORT),
            api: loopback(API_PORT),
            metrics: loopback(METRICS_PORT),
            cluster_domain: CLUSTER_DOMAIN.into(),
            allow_unenforced: false,
        }
    }
}

/// As Istio's discovery port for plain-text gRPC.
pub const XDS_PORT: u16 = 15010;
/// As Istio's monitoring port.
pub const METRICS_PORT: u16 = 15014;
pub const API_PORT: u16 = 15080;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const EXAMPLES: &str = "\
Examples:
  pillion-control-plane --config ./mesh
      Serve the YAML below ./mesh and follow every edit.

  pillion-control-plane --config services --config routes/prod.yaml --mesh-config mesh.yaml
      Several folders and files, and the mesh's own settings.

  pillion-control-plane --config ./mesh --xds 0 --api 0 --metrics 0
      Pick free ports; the log says which.

Exit codes: 0 ended in order, 1 could not start or failed (a port is taken, policies are not enforced), 2 wrong use.";

/// Watches Istio-shaped YAML and serves it to proxies as xDS.
#[derive(Clone, Debug, Parser)]
#[command(name = "pillion-control-plane", version, after_help = EXAMPLES)]
pub struct Flags {
    /// A folder (read recursively) or file of YAML or JSON; may be repeated
    #[arg(long, short, value_name = "PATH", required = true, env = "PILLION_CONFIG", value_delimiter = ':')]
    config: Vec<PathBuf>,

    /// A file with the fields of Istio's MeshConfig; without it, a ConfigMap named `istio` among the objects counts
    #[arg(long, value_name = "FILE")]
    mesh_config: Option<PathBuf>,

    /// Where xDS and gRPC health listen, in plain text: keep it on an address that only proxies reach. 0 picks a port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010", value_parser = address)]
    xds: SocketAddr,

    /// Where the HTTP API for `pillion status` listens; it asks nobody who they are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15080", value_parser = address)]
    api: SocketAddr,

    /// Where Prometheus finds /metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014", value_parser = address)]
    metrics: SocketAddr,

    /// The suffix of service names
    #[arg(long, value_name = "DOMAIN", default_value = CLUSTER_DOMAIN, value_parser = domain)]
    cluster_domain: String,

    /// Start although there are security policies that this version does not enforce
    #[arg(long)]
    allow_unenforced: bool,

    /// What to log, as `info` or `warn,pillion_control_plane=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "PILLION_LOG")]
    pub log_level: String,

    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Flags {
    /// The settings without those of the log.
    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            config: self.config.clone(),
            mesh_config: self.mesh_config.clone(),
            xds: self.xds,
            api: self.api,
            metrics: self.metrics,
            cluster_domain: self.cluster_domain.clone(),
            allow_unenforced: self.allow_unenforced,
        }
    }
}

/// `127.0.0.1:15010`, `[::1]:15010`, or a port alone for loopback.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(loopback(port));
    }
    text.parse().map_err(|_| format!("`{text}` is no address: give `127.0.0.1:{XDS_PORT}`, `[::1]:{XDS_PORT}` or a port alone"))
}

fn domain(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no domain: give labels of small letters, digits and `-`, such as `cluster.local`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_port_alone() {
        let cases = [
            ("0", Some("127.0.0.1:0")),
            ("15010", Some("127.0.0.1:15010")),
            ("0.0.0.0:1", Some("0.0.0.0:1")),
            ("[::1]:2", Some("[::1]:2")),
            ("localhost:1", None),
            ("70000", None),
        ];
        for (text, want) in cases {
            assert_eq!(address(text).ok().map(|a| a.to_string()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn flags_become_settings() {
        let flags = Flags::try_parse_from([
            "x",
            "--config",
            "a",
            "-c",
            "b.yaml",
            "--xds",
            "0",
            "--allow-unenforced",
            "--cluster-domain",
            "corp.example",
        ]);
        let bootstrap = flags.unwrap().bootstrap();
        assert_eq!(bootstrap.config, [PathBuf::from("a"), PathBuf::from("b.yaml")]);
        assert_eq!((bootstrap.xds.port(), bootstrap.api.port(), bootstrap.metrics.port()), (0, 15080, 15014));
        assert!(bootstrap.allow_unenforced);
        assert_eq!(bootstrap.cluster_domain, "corp.example");
        assert!(Flags::try_parse_from(["x"]).is_err(), "--config is required");
        assert!(Flags::try_parse_from(["x", "--config", "a", "--cluster-domain", "Bad_"]).is_err());
    }
}
