//! The planes as processes of their own: a control plane over a private folder, proxies that follow it.
//!
//! In:  YAML for the folder; names of proxies.
//! Out: addresses, logs; whatever still runs ends when dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
};

/// A free port of the loopback interface. Somebody else may take it before it is used; tests run long enough apart for that to be rare.
pub async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// The same as `host:port`.
pub async fn free_address() -> String {
    format!("127.0.0.1:{}", free_port().await)
}

/// Where the planes meet.
pub struct Planes {
    home: TempDir,
    pub xds: String,
    /// `host:port` of the control plane's API.
    pub api: String,
}

/// Where one proxy is found; it keeps its places when it is started again.
#[derive(Clone, Debug)]
pub struct Sidecar {
    pub name: String,
    /// `host:port` of its explicit proxy.
    pub outbound: String,
    /// `host:port` of its admin interface.
    pub admin: String,
}

impl Planes {
    pub async fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(home.path().join("config")).expect("a fresh folder");
        Self { home, xds: free_address().await, api: free_address().await }
    }

    /// A path below the private folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The folder of YAML.
    pub fn config(&self) -> PathBuf {
        self.path("config")
    }

    /// Replaces a file of YAML by rename.
    pub fn write(&self, file: &str, text: &str) {
        crate::mesh::write_by_rename(&self.config().join(file), text);
    }

    /// Starts one of our programs with its log in the private folder.
    pub fn spawn(&self, program: &Path, log: &str, arguments: &[String]) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path(log)).expect("a log file");
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        command.spawn().expect("the program starts")
    }

    pub fn control_plane(&self) -> Child {
        let config = self.config().to_string_lossy().into_owned();
        let arguments = ["--config", &config, "--xds", &self.xds, "--api", &self.api, "--metrics", "127.0.0.1:0"];
        self.spawn(&crate::binary("pillion-control-plane"), "pillion-control-plane.log", &arguments.map(str::to_owned))
    }

    /// Places for a proxy that is not started yet.
    pub async fn sidecar(&self, name: &str) -> Sidecar {
        Sidecar { name: name.to_owned(), outbound: free_address().await, admin: free_address().await }
    }

    /// The arguments that make `pillion-proxy` this sidecar of `default`.
    pub fn arguments(&self, sidecar: &Sidecar) -> Vec<String> {
        let port = sidecar.outbound.rsplit(':').next().unwrap_or_default();
        let instance = format!("{}-0", sidecar.name);
        let state = self.path(&format!("state-{}", sidecar.name)).to_string_lossy().into_owned();
        let arguments = [
            ["--xds", &self.xds],
            ["--name", &instance],
            ["--namespace", "default"],
            ["--workload", &sidecar.name],
            ["--http-proxy-port", port],
            ["--admin", &sidecar.admin],
            ["--status", "127.0.0.1:0"],
            ["--state-dir", &state],
        ];
        arguments.into_iter().flatten().map(str::to_owned).collect()
    }

    pub fn proxy(&self, sidecar: &Sidecar) -> Child {
        self.spawn(&crate::binary("pillion-proxy"), "pillion-proxy.log", &self.arguments(sidecar))
    }

    /// The logs of all programs, for a message.
    pub fn logs(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.path(name)).unwrap_or_default();
        ["pillion-control-plane.log", "pillion-proxy.log"].map(|name| format!("{name}:\n{}", read(name))).join("\n")
    }
}
