//! One process of the mesh: started so that it dies with us, read line by line, ended with everything it started.
//!
//! In:  a [`ProcessSpec`].
//! Out: a running [`Child`]; its lines go to [`Output`].
//!
//! The parent-death signal of Linux is sent when the *thread* that started the child ends. So all children are started by one thread
//! that lives as long as the process ([`Spawner`]).

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    sync::oneshot,
};

use super::{
    output::{Label, Output},
    supervise::{Launch, Process},
    sweeper::Sweeper,
};

/// Longer lines are cut into pieces of this many bytes.
const LONGEST_LINE: usize = 16 * 1024;
/// How long the last lines of an ended process may take to arrive.
const LAST_LINES: Duration = Duration::from_millis(300);

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Whose lines these are.
    pub label: Label,
    /// `argv`; the first is looked up in `PATH` when it has no slash.
    pub command: Vec<OsString>,
    /// Set on top of what this process has.
    pub env: BTreeMap<String, String>,
    /// Taken away from what this process has.
    pub env_remove: Vec<&'static str>,
    pub directory: PathBuf,
}

/// Path of this executable, for children that are ourselves.
///
/// The file may have been replaced by a build since we started; then the kernel's own reference to it still works.
pub fn own_executable() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}

type Request = (tokio::process::Command, oneshot::Sender<io::Result<tokio::process::Child>>);

/// Starts children from one thread that never ends before the process does.
#[derive(Clone)]
pub struct Spawner {
    requests: mpsc::Sender<Request>,
    output: Output,
    sweeper: Sweeper,
}

impl Spawner {
    /// Must be called within a runtime: the children's pipes belong to it.
    pub fn start(output: Output, sweeper: Sweeper) -> io::Result<Self> {
        let (requests, incoming) = mpsc::channel::<Request>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("spawner".into()).spawn(move || {
            let _inside = runtime.enter();
            for (mut command, reply) in incoming {
                // When nobody waits for the child any more it is dropped, and `kill_on_drop` ends it.
                let _ = reply.send(command.spawn());
            }
            // The last sender is gone, children may not be: the thread must stay.
            loop {
                std::thread::park();
            }
        })?;
        Ok(Self { requests, output, sweeper })
    }

    async fn spawn(&self, spec: &ProcessSpec) -> io::Result<tokio::process::Child> {
        let gone = || io::Error::other("the thread that starts processes is gone");
        let (reply, answer) = oneshot::channel();
        self.requests.send((command(spec), reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// `pillion child --parent PID -- COMMAND`, in a process group of its own.
fn command(spec: &ProcessSpec) -> tokio::process::Command {
    let mut command = std::process::Command::new(own_executable());
    command
        .arg0("pillion")
        .args(["child", "--parent", &std::process::id().to_string(), "--"])
        .args(&spec.command)
        .envs(&spec.env)
        .current_dir(&spec.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    for name in &spec.env_remove {
        command.env_remove(name);
    }
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    command
}

impl Launch for Spawner {
    type Process = Child;

    async fn launch(&self, spec: &ProcessSpec) -> io::Result<Child> {
        let mut child = self.spawn(spec).await?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).ok_or_else(|| io::Error::other("ended at once"))?;
        let lines = [
            child.stdout.take().map(|pipe| tokio::spawn(pump(pipe, spec.label.clone(), self.output.clone()))),
            child.stderr.take().map(|pipe| tokio::spawn(pump(pipe, spec.label.clone(), self.output.clone()))),
        ];
        self.sweeper.add(pid);
        Ok(Child { child, pid, lines, sweeper: self.sweeper.clone() })
    }
}

/// A running process with its group.
pub struct Child {
    child: tokio::process::Child,
    pid: Pid,
    lines: [Option<tokio::task::JoinHandle<()>>; 2],
    sweeper: Sweeper,
}

impl Child {
    fn signal_group(&self, signal: Signal) {
        // The group may be gone already, which is what we want.
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }

    /// Ends what the process left behind in its group, and takes its last lines.
    async fn finish(&mut self) {
        self.signal_group(Signal::KILL);
        self.sweeper.remove(self.pid);
        for task in self.lines.iter_mut().filter_map(Option::take) {
            let stop = task.abort_handle();
            if tokio::time::timeout(LAST_LINES, task).await.is_err() {
                stop.abort();
            }
        }
    }
}

impl Process for Child {
    fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    async fn wait(&mut self) -> String {
        let status = self.child.wait().await;
        self.finish().await;
        match status {
            Ok(status) => describe(status),
            Err(error) => format!("was lost: {error}"),
        }
    }

    async fn stop(mut self, grace: Duration) {
        self.signal_group(Signal::TERM);
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            self.signal_group(Signal::KILL);
            let _ = self.child.wait().await;
        }
        self.finish().await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Only a child that nobody waited for is still there; its group must not outlive it.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal_group(Signal::KILL);
        }
    }
}

/// `exited with status 1`, `was killed by signal 9`.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended (status 0)".into(),
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

async fn pump(pipe: impl AsyncRead + Unpin, label: Label, output: Output) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match read_line(&mut reader, &mut line).await {
            Ok(true) => output.log(&label, &String::from_utf8_lossy(&line)),
            Ok(false) | Err(_) => return,
        }
    }
}

/// Reads up to a newline or [`LONGEST_LINE`]; false at the end.
async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let room = LONGEST_LINE - line.len();
        let newline = available.iter().position(|byte| *byte == b'\n');
        let take = newline.unwrap_or(available.len()).min(room);
        line.extend_from_slice(&available[..take]);
        let whole = newline == Some(take);
        reader.consume(take + usize::from(whole));
        if whole {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(true);
        }
        if line.len() >= LONGEST_LINE {
            return Ok(true);
        }
    }
}

/// What `pillion child` does: asks the kernel for the parent-death signal and becomes `command`. Returns only when that fails.
pub fn become_child(parent: u32, command: &[OsString]) -> String {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return format!("cannot ask for the parent-death signal: {error}");
    }
    // The parent may have died before the request: then no signal will come.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now != Some(parent) {
        return format!("the mesh (pid {parent}) is gone");
    }
    let Some((program, arguments)) = command.split_first() else {
        return "no command".into();
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    format!("cannot start {}: {error}", Path::new(program).display())
}

/// Resolves the first word of a Workload's command: `pillion` is this executable, a path with a slash is relative to `directory`, and
/// anything else is found in `PATH`.
pub fn resolve_program(word: &str, directory: &Path) -> OsString {
    match word {
        "pillion" => own_executable().into(),
        path if path.contains('/') => directory.join(path).into(),
        name => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_at_newlines_and_at_the_limit() {
        let long = "x".repeat(LONGEST_LINE + 5);
        let cases: [(&str, String, Vec<usize>); 4] = [
            ("two lines", "ab\nc\n".into(), vec![2, 1]),
            ("no newline at the end", "ab\ncd".into(), vec![2, 2]),
            ("carriage returns", "ab\r\n\r\n".into(), vec![2, 0]),
            ("a line without end", format!("{long}\nz\n"), vec![LONGEST_LINE, 5, 1]),
        ];
        for (name, text, want) in cases {
            let mut reader = BufReader::with_capacity(7, text.as_bytes());
            let (mut lengths, mut line) = (Vec::new(), Vec::new());
            while read_line(&mut reader, &mut line).await.unwrap() {
                lengths.push(line.len());
                line.clear();
            }
            assert_eq!(lengths, want, "{name}");
        }
    }

    #[test]
    fn the_first_word_is_ours_a_path_or_a_name() {
        let directory = Path::new("/srv/mesh/local");
        let cases = [
            ("python3", OsString::from("python3")),
            ("./product", OsString::from("/srv/mesh/local/./product")),
            ("bin/product", OsString::from("/srv/mesh/local/bin/product")),
            ("/usr/bin/env", OsString::from("/usr/bin/env")),
            ("pillion", OsString::from(own_executable())),
        ];
        for (word, want) in cases {
            assert_eq!(resolve_program(word, directory), want, "{word}");
        }
    }
}
