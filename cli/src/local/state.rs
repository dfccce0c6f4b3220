//! Files of a running mesh: the proxies' last good configuration.
//!
//! In:  `--state-dir`, or nothing.
//! Out: a folder; a temporary one goes with the mesh.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};

const PREFIX: &str = "pillion-mesh-";

/// A folder for state, readable by this user only.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    temporary: bool,
}

impl StateDir {
    /// `given`, made when it is not there; else a new folder beside other temporary files.
    pub fn open(given: Option<&Path>) -> io::Result<Self> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        if let Some(path) = given {
            builder.recursive(true).create(path)?;
            return Ok(Self { path: std::path::absolute(path)?, temporary: false });
        }
        let parent = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir);
        remove_orphans(&parent);
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        match builder.create(&path) {
            // Left by a mesh that was killed and had our process id: its content is not ours to trust.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_dir_all(&path)?;
                builder.create(&path)?;
            }
            other => other?,
        }
        Ok(Self { path, temporary: true })
    }

    /// The folder, when it goes with the mesh.
    pub fn temporary(&self) -> Option<&Path> {
        self.temporary.then_some(self.path.as_path())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A mesh that was killed could not remove its folder; the next one of the same user does.
fn remove_orphans(parent: &Path) {
    let user = rustix::process::geteuid().as_raw();
    let folders = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for folder in folders {
        let name = folder.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse::<u32>().ok());
        let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else { continue };
        let ours = folder.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
        if ours && test_kill_process(pid) == Err(Errno::SRCH) {
            // It is in nobody's way.
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if self.temporary {
            // Nobody can do more about it than the system's own cleaning.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_and_a_given_one_stays() {
        let temporary = StateDir::open(None).unwrap();
        let path = temporary.path().to_owned();
        std::fs::write(path.join("x"), "x").unwrap();
        drop(temporary);
        assert!(!path.exists());

        let parent = tempfile::tempdir().unwrap();
        let given = parent.path().join("a/b");
        drop(StateDir::open(Some(&given)).unwrap());
        assert!(given.is_dir());
    }
    #[test]
    fn folders_of_killed_meshes_are_removed_and_those_of_running_ones_stay() {
        let parent = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = parent.path().join(format!("{PREFIX}{}", child.id()));
        child.wait().unwrap();
        let alive = parent.path().join(format!("{PREFIX}{}", std::process::id()));
        let other = parent.path().join(format!("{PREFIX}-1"));
        [&dead, &alive, &other].iter().for_each(|path| std::fs::create_dir(path).unwrap());
        remove_orphans(parent.path());
        assert_eq!((dead.exists(), alive.exists(), other.exists()), (false, true, true));
    }
}
