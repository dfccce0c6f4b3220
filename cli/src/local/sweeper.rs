//! Ends what a killed mesh leaves behind: what its programs had started themselves, and its temporary folder.
//!
//! In:  process groups as they come and go, through a pipe from the mesh.
//! Out: nothing, as long as the mesh ends in order. When the pipe breaks, the groups that are left are killed.
//!
//! The kernel ends a program when the mesh is killed, but not the program's own children (`npm start` runs `sh`, which runs `node`).

use std::{
    collections::HashSet,
    io::{self, BufRead, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};

use super::child::own_executable;

/// Groups that are remembered; a mesh has far fewer.
const MOST_GROUPS: usize = 10_000;

/// The mesh's end of the pipe. Cheap to clone; dropping the last one lets the sweeper end.
#[derive(Clone)]
pub struct Sweeper(Arc<Mutex<ChildStdin>>);

impl Sweeper {
    /// Starts the process. `folder` is removed with the mesh when it is temporary.
    pub fn start(folder: Option<&Path>) -> io::Result<Self> {
        let mut command = Command::new(own_executable());
        command.arg0("pillion").arg("sweep").args(folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C in a terminal is for the mesh.
        let mut child = command.process_group(0).current_dir("/").spawn()?;
        let pipe = child.stdin.take().ok_or_else(|| io::Error::other("it has no standard input"))?;
        // It ends after us, or just before; either way somebody else reaps it.
        Ok(Self(Arc::new(Mutex::new(pipe))))
    }

    /// This group is ours from now on.
    pub fn add(&self, group: Pid) {
        self.tell('+', group);
    }

    /// This group is gone.
    pub fn remove(&self, group: Pid) {
        self.tell('-', group);
    }

    fn tell(&self, sign: char, group: Pid) {
        // Without a sweeper the mesh still ends everything when it ends in order.
        let _ = writeln!(self.0.lock(), "{sign}{}", group.as_raw_nonzero());
    }
}

/// What `pillion sweep` does: remembers groups until its input ends, then kills those that are left.
pub fn sweep(input: impl BufRead, folder: Option<PathBuf>, mut kill: impl FnMut(Pid)) {
    let mut groups = HashSet::new();
    for line in input.lines().map_while(Result::ok) {
        let group = line.get(1..).and_then(group);
        match (line.chars().next(), group) {
            (Some('+'), Some(group)) if groups.len() < MOST_GROUPS => drop(groups.insert(group)),
            (Some('-'), Some(group)) => drop(groups.remove(&group)),
            _ => {}
        }
    }
    groups.into_iter().for_each(&mut kill);
    if let Some(folder) = folder {
        // The mesh has removed it when it ended in order.
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Never group 1: to the kernel, killing it means killing everybody.
fn group(number: &str) -> Option<Pid> {
    number.parse().ok().filter(|number: &i32| *number > 1).and_then(Pid::from_raw)
}

/// Kills a whole group.
pub fn kill_group(group: Pid) {
    // It may be gone already.
    let _ = kill_process_group(group, Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_is_killed() {
        let cases = [
            ("nothing", "", vec![]),
            ("all ended", "+11\n-11\n", vec![]),
            ("one is left", "+11\n+12\n-11\n", vec![12]),
            ("nonsense is skipped", "+x\n\n+\n+-5\n+0\n+1\n?7\n+13\n", vec![13]),
        ];
        for (name, input, want) in cases {
            let mut killed = Vec::new();
            sweep(input.as_bytes(), None, |group| killed.push(group.as_raw_nonzero().get()));
            assert_eq!(killed, want, "{name}");
        }
    }
}
