//! Proxies that run from what `pillion translate` writes: ours, and a stock Envoy beside it.
//!
//! In:  a folder of YAML, the workload and its addresses.
//! Out: running programs; their own logs are beside their folders.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use crate::{binary, peers};

/// The programs to compare, by name: `pillion`, and `envoy` where there is one.
pub fn programs() -> Vec<(&'static str, PathBuf)> {
    let mut programs = vec![("pillion", binary("pillion"))];
    programs.extend(peers::find("envoy").map(|envoy| ("envoy", envoy)));
    programs
}

/// Writes `out` from the YAML of `mesh`. `placed`: the workload and its addresses, as arguments.
pub async fn translate(mesh: &Path, out: &Path, placed: &[String]) {
    let output = Command::new(binary("pillion")).arg("translate").arg(mesh).args(placed).arg("--out").arg(out).output().await;
    let output = output.expect("pillion starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Starts one of the programs over `out`.
pub fn run(name: &str, program: &Path, out: &Path, stdout: Stdio) -> Child {
    let mut command = Command::new(program);
    match name {
        "envoy" => command.arg("-c").arg(out.join("envoy.yaml")).args([
            "--concurrency",
            "1",
            "--log-level",
            "warn",
            "--use-dynamic-base-id",
            "--file-flush-interval-msec",
            "50",
        ]),
        _ => command.args(["proxy", "--status", "off", "--workers", "1", "--resources"]).arg(out),
    };
    let log = fs::File::create(log(out)).expect("a log file");
    command.stdin(Stdio::null()).stdout(stdout).stderr(log).kill_on_drop(true).spawn().expect("the proxy starts")
}

/// What the program over `out` says of itself.
pub fn says(out: &Path) -> String {
    fs::read_to_string(log(out)).unwrap_or_default()
}

fn log(out: &Path) -> PathBuf {
    out.with_extension("log")
}
