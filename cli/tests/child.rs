//! `pillion child`: what the mesh starts dies with the mesh.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");

fn alive(pid: &str) -> bool {
    // A zombie is dead; its new parent has not looked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let start = Instant::now();
    while !probe() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_child_dies_when_its_parent_is_killed() {
    // The shell is the parent: it starts a child, says its process id, and is killed.
    let script = format!("{PILLION} child --parent $$ -- sleep 1000 & echo $!; wait");
    let mut shell = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let pid = pid.trim().to_owned();
    eventually("it has become the program", || {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep\0"))
    });
    shell.kill().unwrap();
    shell.wait().unwrap();
    eventually("the child is gone", || !alive(&pid));
}

#[test]
fn a_child_of_somebody_else_does_not_start() {
    let output = Command::new(PILLION).args(["child", "--parent", "1", "--", "echo", "started"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(output.stdout, b"");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "the mesh (pid 1) is gone\n");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let parent = std::process::id().to_string();
    let output = Command::new(PILLION).args(["child", "--parent", &parent, "--", "/no/such/program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.starts_with("cannot start /no/such/program: "), "{text}");
}

#[test]
fn a_child_is_its_program_with_its_arguments_and_status() {
    let parent = std::process::id().to_string();
    let output =
        Command::new(PILLION).args(["child", "--parent", &parent, "--", "sh", "-c", "echo \"$0 $1\"; exit 3", "--a", "b c"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--a b c\n");
}
