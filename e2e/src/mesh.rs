//! A mesh started as a user starts it: `pillion run DIR --json` in a process of its own, over a private copy of the YAML.
//!
//! In:  folders of YAML; edits.
//! Out: addresses of workloads, events, and a clean end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

/// A shop on a loaded two-core machine in a debug build; a release build is ready in under 5 s.
const READY_WITHIN: Duration = Duration::from_secs(60);
const END_WITHIN: Duration = Duration::from_secs(20);

/// A running mesh; ending it kills what is left.
pub struct Mesh {
    /// The private copy of the YAML; edit here.
    pub dir: PathBuf,
    pub ready: Value,
    /// From the start of the process to the `ready` event.
    pub started_in: Duration,
    child: Child,
    events: mpsc::UnboundedReceiver<Value>,
    /// The children's logs, as the mesh printed them.
    pub log: PathBuf,
    _home: TempDir,
}

impl Mesh {
    /// Starts an example by its name below `examples/`.
    pub async fn example(name: &str) -> Self {
        Self::start(&crate::workspace().join("examples").join(name), &[]).await
    }

    /// Starts a mesh over a copy of `source`.
    pub async fn start(source: &Path, arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let dir = home.path().join("mesh");
        copy_yaml(source, &dir);
        let log = home.path().join("run.log");
        let begun = Instant::now();
        let mut child = Command::new(crate::binary("pillion"))
            .arg("run")
            .arg(&dir)
            .args(["--json", "--api", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--xds", "127.0.0.1:0"])
            .args(arguments)
            .env("XDG_RUNTIME_DIR", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a log file"))
            .kill_on_drop(true)
            .spawn()
            .expect("pillion starts");
        let mut lines = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("standard output is not JSON: {line:?}: {error}"));
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        let mut mesh = Self { dir, ready: Value::Null, started_in: Duration::ZERO, child, events, log, _home: home };
        mesh.ready = mesh.event("ready", READY_WITHIN).await;
        mesh.started_in = begun.elapsed();
        mesh
    }

    /// The next event of this kind; others are dropped.
    pub async fn event(&mut self, kind: &str, within: Duration) -> Value {
        let wait = async {
            loop {
                match self.events.recv().await {
                    Some(event) if event["event"] == kind => return Some(event),
                    Some(_) => {}
                    None => return None,
                }
            }
        };
        match tokio::time::timeout(within, wait).await {
            Ok(Some(event)) => event,
            other => panic!(
                "no event {kind:?} within {within:?} ({}); the log ends with:\n{}",
                if other.is_ok() { "the mesh ended" } else { "still running" },
                self.log_tail()
            ),
        }
    }

    /// Drops events that have come so far.
    pub fn forget_events(&mut self) {
        while self.events.try_recv().is_ok() {}
    }

    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// The workload's entry in the `ready` event (its first replica).
    pub fn workload(&self, name: &str) -> &Value {
        let all = self.ready["workloads"].as_array().expect("`ready` lists workloads");
        all.iter().find(|workload| workload["name"] == name).unwrap_or_else(|| panic!("no workload {name} in {}", self.ready))
    }

    /// `host:port` of a workload's outbound proxy.
    pub fn outbound(&self, workload: &str) -> String {
        bare(&self.workload(workload)["outbound"])
    }

    /// `host:port` of a workload's admin interface.
    pub fn admin(&self, workload: &str) -> String {
        bare(&self.workload(workload)["admin"])
    }

    /// `host:port` of the first gateway.
    pub fn gateway(&self) -> String {
        bare(&self.ready["gateways"][0]["url"])
    }

    /// `host:port` where the program itself listens, past its sidecar.
    pub fn app(&self, workload: &str, port: &str) -> String {
        let ports = self.workload(workload)["ports"].as_array().expect("a workload lists its ports");
        let found = ports.iter().find(|entry| entry["name"] == port).unwrap_or_else(|| panic!("{workload} has no port {port}"));
        bare(&found["app"])
    }

    /// Replaces a file of the mesh by rename, as editors do.
    pub fn write(&self, file: &str, text: &str) {
        write_by_rename(&self.dir.join(file), text);
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).expect("the file is in the mesh's folder")
    }

    /// Writes a file and waits until every proxy has acknowledged what came of it.
    pub async fn apply(&mut self, file: &str, text: &str) -> Value {
        self.forget_events();
        self.write(file, text);
        self.event("generation", Duration::from_secs(35)).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the mesh runs")
    }

    /// Ends the mesh as Ctrl-C does and returns its exit code.
    pub async fn interrupt(mut self) -> Option<i32> {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "the interrupt reaches the mesh");
        let status = tokio::time::timeout(END_WITHIN, self.child.wait()).await;
        status.unwrap_or_else(|_| panic!("still running {END_WITHIN:?} after an interrupt:\n{}", self.log_tail())).expect("a status").code()
    }
}

fn bare(url: &Value) -> String {
    let url = url.as_str().unwrap_or_else(|| panic!("an address, not {url}"));
    url.strip_prefix("http://").unwrap_or(url).to_owned()
}

/// Writes beside `path` and renames, so that a watcher never sees half a file.
pub fn write_by_rename(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text).expect("the mesh's folder is writable");
    fs::rename(&fresh, path).expect("a rename in one folder");
}

fn copy_yaml(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a private folder");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())).flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            copy_yaml(&path, &to.join(name));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            fs::copy(&path, to.join(name)).expect("a readable file");
        }
    }
}
