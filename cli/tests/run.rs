//! `pillion run` as scripts use it: a tiny mesh of real processes, edits while it runs, and an end that leaves nothing behind.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");
/// A loaded machine and a debug build.
const PATIENCE: Duration = Duration::from_secs(60);

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: product}
spec:
  selector: {app: product}
  ports: [{name: http, port: 80, targetPort: http}]
";

fn workload(name: &str, command: &str, more: &str) -> String {
    format!(
        "---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {{name: {name}, labels: {{app: product, version: {name}}}}}
spec:
  ports: [{{name: http, containerPort: 9080}}]
{command}{more}"
    )
}

fn shop(name: &str) -> String {
    workload(name, &format!("  command: [pillion, shop, product, --release, {name}]\n"), "")
}

struct Mesh {
    child: Child,
    events: mpsc::Receiver<Value>,
    home: tempfile::TempDir,
}

impl Mesh {
    fn command(home: &tempfile::TempDir) -> Command {
        let mut command = Command::new(PILLION);
        command
            .args(["run", "mesh", "--json", "--api", "0", "--metrics", "0", "--xds", "0"])
            .current_dir(home.path())
            .env("XDG_RUNTIME_DIR", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(home.path().join("log")).unwrap());
        command
    }

    fn start(yaml: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("mesh")).unwrap();
        fs::write(home.path().join("mesh/a.yaml"), yaml).unwrap();
        let mut child = Self::command(&home).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Whatever is no JSON object fails the test at its next wait.
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, events, home }
    }

    fn event(&self, kind: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let wait = end.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(wait).unwrap_or_else(|error| panic!("no event {kind}: {error}\n{}", self.log()));
            assert!(event.is_object(), "standard output is one JSON object a line, not {event}");
            if event["event"] == kind {
                return event;
            }
        }
    }

    fn write(&self, yaml: &str) {
        let path = self.home.path().join("mesh/a.yaml");
        fs::write(path.with_extension("fresh"), yaml).unwrap();
        fs::rename(path.with_extension("fresh"), path).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap()
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bare(url: &Value) -> String {
    let text = url.as_str().unwrap();
    text.strip_prefix("http://").unwrap_or(text).to_owned()
}

/// The `release` of the product, asked through a sidecar; `None` without a 200.
fn release(outbound: &str) -> Option<String> {
    let mut stream = TcpStream::connect(outbound).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET http://product/api/products/1 HTTP/1.1\r\nhost: product\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let body: Value = serde_json::from_str(body.trim()).ok()?;
    head.starts_with("HTTP/1.1 200").then(|| body["release"].as_str().map(str::to_owned))?
}

fn alive(pid: &Value) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

fn eventually(what: &str, mesh: &Mesh, mut probe: impl FnMut() -> bool) {
    let start = Instant::now();
    while !probe() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}\n{}", mesh.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_mesh_starts_answers_and_ends_without_a_trace() {
    let mut mesh = Mesh::start(&format!("{SERVICE}{}", shop("v1")));
    let ready = mesh.event("ready");
    let one = &ready["workloads"][0];
    assert_eq!((&one["name"], &one["replica"], &one["ports"][0]["port"]), (&"v1".into(), &0.into(), &9080.into()), "{ready}");
    assert_eq!(release(&bare(&one["outbound"])).as_deref(), Some("v1"), "{}", mesh.log());
    let status = Command::new(PILLION).arg("status").env("XDG_RUNTIME_DIR", mesh.home.path()).output().unwrap();
    assert_eq!(status.status.code(), Some(0), "the mesh is found: {}", String::from_utf8_lossy(&status.stderr));

    mesh.signal("-TERM");
    assert_eq!(mesh.child.wait().unwrap().code(), Some(0), "{}", mesh.log());
    assert!(!alive(&one["pid"]) && !alive(&one["proxy_pid"]));
    for address in [bare(&one["outbound"]), bare(&one["inbound"]), bare(&one["admin"]), bare(&one["ports"][0]["app"]), bare(&ready["api"])]
    {
        assert!(TcpStream::connect(&address).is_err(), "{address} is still served");
    }
    let left: Vec<_> = fs::read_dir(mesh.home.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("pillion-mesh")), "{left:?}");
}

#[test]
fn workloads_come_change_and_go_while_the_mesh_runs() {
    let mesh = Mesh::start(&format!("{SERVICE}{}", shop("v1")));
    let ready = mesh.event("ready");
    let one = &ready["workloads"][0];
    let outbound = bare(&one["outbound"]);

    mesh.write(&format!("{SERVICE}{}{}", shop("v1"), shop("v2")));
    eventually("a new workload gets requests", &mesh, || release(&outbound).as_deref() == Some("v2"));

    mesh.write(&format!("{SERVICE}{}", shop("v1")));
    eventually("a removed workload gets none", &mesh, || mesh.log().contains("v2-0: removed"));
    eventually("requests are answered by who is left", &mesh, || (0..20).all(|_| release(&outbound).as_deref() == Some("v1")));

    mesh.write(&format!("{SERVICE}{}", workload("v1", "  command: [pillion, shop, product, --release, other]\n", "")));
    eventually("a changed command is started on the same addresses", &mesh, || release(&outbound).as_deref() == Some("other"));
    assert!(alive(&one["proxy_pid"]), "the sidecar stayed");
}

#[test]
fn a_crashed_program_comes_back_and_a_bad_edit_changes_nothing() {
    let mesh = Mesh::start(&format!("{SERVICE}{}", shop("v1")));
    let ready = mesh.event("ready");
    let one = &ready["workloads"][0];
    let outbound = bare(&one["outbound"]);
    assert!(Command::new("kill").args(["-KILL", &one["pid"].to_string()]).status().unwrap().success());
    let error = mesh.event("error");
    assert_eq!(error["reason"], "exit");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("v1-0: was killed by signal 9 after ") && message.ends_with("started again in 0.1 s"), "{message}");
    eventually("it answers again", &mesh, || release(&outbound).as_deref() == Some("v1"));

    mesh.write(&format!("{SERVICE}{}", shop("v1").replace("command:", "comand:")));
    let error = mesh.event("error");
    assert_eq!(error["reason"], "finding", "{error}");
    assert!(error["message"].as_str().unwrap().contains("mesh/a.yaml:14:3"), "{error}");
    assert_eq!(release(&outbound).as_deref(), Some("v1"), "what was good stays in force");
}

#[test]
fn a_program_started_elsewhere_joins_when_its_port_answers() {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (app, outbound) = (free(), free());
    let yaml = format!(
        "{SERVICE}---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {{name: mine, labels: {{app: product}}}}
spec:
  ports: [{{name: http, containerPort: 9080, localPort: {app}}}]
  proxy: {{outboundPort: {outbound}}}
"
    );
    let mesh = Mesh::start(&yaml);
    let ready = mesh.event("ready");
    assert_eq!(ready["workloads"][0]["pid"], Value::Null);
    let outbound = format!("127.0.0.1:{outbound}");
    assert_eq!(bare(&ready["workloads"][0]["outbound"]), outbound);
    assert_eq!(release(&outbound), None, "nobody answers yet");
    let mut program = Command::new(PILLION).args(["shop", "product", "--release", "mine", "--port", &app.to_string()]).spawn().unwrap();
    eventually("it joins", &mesh, || release(&outbound).as_deref() == Some("mine"));
    program.kill().unwrap();
    program.wait().unwrap();
}

#[test]
fn fixed_ports_that_collide_stop_it_before_anything_starts() {
    let fixed = |name: &str| {
        workload(name, "  command: [pillion, shop, product]\n", "").replace("containerPort: 9080", "containerPort: 9080, localPort: 19999")
    };
    let mut mesh = Mesh::start(&format!("{}{}", fixed("a"), fixed("b")));
    let error = mesh.event("error");
    assert!(error["message"].as_str().unwrap().contains("port 19999 is fixed twice"), "{error}");
    assert_eq!(mesh.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_mesh_ends_when_its_reader_does() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("mesh")).unwrap();
    fs::write(home.path().join("mesh/a.yaml"), shop("v1")).unwrap();
    let mut child = Mesh::command(&home).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!alive(&ready["workloads"][0]["pid"]));
}

#[test]
fn a_program_sees_its_ports_and_its_sidecar() {
    let script = "echo \"PORT=$PORT HTTP=$PORT_HTTP proxy=$http_proxy node=$NODE_USE_ENV_PROXY arg=$0 in=$PWD\" > seen; exec sleep 1000";
    let command = format!("  command: [sh, -c, {}, $(PORT)]\n", serde_json::to_string(script).unwrap());
    let mesh = Mesh::start(&workload("probe", &command, "  readinessProbe: {exec: {command: [test, -s, seen]}}\n"));
    let ready = mesh.event("ready");
    let one = &ready["workloads"][0];
    let port = bare(&one["ports"][0]["app"]).rsplit(':').next().unwrap().to_owned();
    let folder: PathBuf = fs::canonicalize(mesh.home.path().join("mesh")).unwrap();
    let seen = fs::read_to_string(folder.join("seen")).unwrap();
    let want = format!("PORT={port} HTTP={port} proxy={} node=1 arg={port} in={}\n", one["outbound"].as_str().unwrap(), folder.display());
    assert_eq!(seen, want);
}

#[test]
fn a_killed_mesh_takes_along_what_its_programs_had_started() {
    let command = "  command: [sh, -c, 'sleep 1000 & echo $! > grandchild; wait']\n";
    let mut mesh = Mesh::start(&workload("parent", command, "  readinessProbe: {exec: {command: [test, -s, grandchild]}}\n"));
    let ready = mesh.event("ready");
    let grandchild = fs::read_to_string(mesh.home.path().join("mesh/grandchild")).unwrap().trim().parse::<u32>().unwrap().into();
    assert!(alive(&grandchild));
    mesh.child.kill().unwrap();
    mesh.child.wait().unwrap();
    eventually("the program is gone", &mesh, || !alive(&ready["workloads"][0]["pid"]));
    eventually("its own child, too", &mesh, || !alive(&grandchild));
    let folders = || fs::read_dir(mesh.home.path()).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    eventually("the temporary folder, too", &mesh, || !folders().any(|name| name.starts_with("pillion-mesh")));
}

#[test]
fn a_taken_port_is_named_with_its_owner_and_awaited() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mesh = Mesh::start(&shop("v1").replace("containerPort: 9080", &format!("containerPort: 9080, localPort: {port}")));
    let error = mesh.event("error");
    let want = format!("v1-0 cannot start: port {port} is taken by ");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with(&want) && message.ends_with(&format!("(pid {})", std::process::id())), "{error}");
    drop(taken);
    assert_eq!(bare(&mesh.event("ready")["workloads"][0]["ports"][0]["app"]), format!("127.0.0.1:{port}"));
}

#[test]
fn a_terminal_that_stands_still_does_not_keep_the_mesh() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("mesh")).unwrap();
    let flood = workload("flood", "  command: [sh, -c, 'touch runs; yes']\n", "  readinessProbe: {exec: {command: [test, -e, runs]}}\n");
    fs::write(home.path().join("mesh/a.yaml"), flood).unwrap();
    let mut command = Command::new(PILLION);
    let addresses = ["--api", "0", "--metrics", "0", "--xds", "0"];
    command.args(["run", "mesh"]).args(addresses).current_dir(home.path()).env("XDG_RUNTIME_DIR", home.path());
    // Nobody reads, and more than the pipe holds is written.
    let mut mesh = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !home.path().join("mesh/runs").exists() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(Command::new("kill").arg(mesh.id().to_string()).status().unwrap().success());
    let code = loop {
        if let Some(status) = mesh.try_wait().unwrap() {
            break status.code();
        }
        if start.elapsed() > PATIENCE {
            mesh.kill().unwrap();
            panic!("it waits for its terminal");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(code, Some(0));
}

#[test]
fn a_pipe_among_the_files_holds_nothing_up() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("mesh")).unwrap();
    fs::write(home.path().join("mesh/a.yaml"), shop("v1")).unwrap();
    assert!(Command::new("mkfifo").arg(home.path().join("mesh/pipe.yaml")).status().unwrap().success());
    let mut child = Mesh::command(&home).spawn().unwrap();
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let first = lines.recv_timeout(PATIENCE);
    let second = lines.recv_timeout(PATIENCE);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.unwrap().contains("pipe.yaml is neither a file nor a folder"));
    assert!(second.unwrap().contains("\"ready\""));
}

#[test]
fn a_program_that_is_not_there_holds_ready_back_and_newcomers_say_where_they_are() {
    let missing = workload("gone", "  command: [./not-there]\n", "").replace("  ports: [{name: http, containerPort: 9080}]\n", "");
    let mesh = Mesh::start(&format!("{}{missing}", shop("v1")));
    let error = mesh.event("error");
    assert!(error["message"].as_str().unwrap().starts_with("gone-0: exited with status 127"), "{error}");
    std::thread::sleep(Duration::from_secs(1));
    let early: Vec<Value> = mesh.events.try_iter().filter(|event| event["event"] == "ready").collect();
    assert!(early.is_empty(), "{early:?}");
    mesh.write(&shop("v1"));
    mesh.event("ready");
    mesh.write(&format!("{}{}", shop("v1"), shop("v2")));
    eventually("the newcomer's addresses are said", &mesh, || mesh.log().contains("v2-0: its proxy is http://127.0.0.1:"));
}

#[test]
fn policies_that_are_not_enforced_are_said_with_json_too() {
    let policy =
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: strict}\nspec: {mtls: {mode: STRICT}}\n";
    let mesh = Mesh::start(&format!("{}{policy}", shop("v1")));
    mesh.event("ready");
    assert!(mesh.log().contains("NOT ENFORCED") && mesh.log().contains("PeerAuthentication default/strict"), "{}", mesh.log());
}
