//! Files that a proxy watches: replaced by rename, and only where their text is another.
//!
//! In:  files in their order.
//! Out: the folder as they say; what an earlier run left and nobody refers to any more is removed last.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use pillion_control_plane::translate::files::ResourceFile;

/// Folders below the output that are ours alone.
const FOLDERS: [&str; 2] = ["eds", "rds"];

/// Brings the folder to these files; how many were new or changed.
///
/// # Errors
/// When a file cannot be written; those before it are in place.
pub fn replace(folder: &Path, files: &[ResourceFile]) -> anyhow::Result<usize> {
    let wanted: BTreeSet<&Path> = files.iter().map(|file| file.path.as_path()).collect();
    let mut changed = 0;
    for file in files {
        let path = folder.join(&file.path);
        if fs::read(&path).is_ok_and(|old| old == file.text.as_bytes()) {
            continue;
        }
        write(&path, &file.text).with_context(|| format!("cannot write {}", path.display()))?;
        changed += 1;
    }
    for name in FOLDERS {
        for path in listed(&folder.join(name)) {
            if path.strip_prefix(folder).is_ok_and(|relative| !wanted.contains(relative)) {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
    }
    Ok(changed)
}

/// Envoy reads a file again when something is moved to its name.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let fresh = path.with_extension(format!("{}.fresh", std::process::id()));
    let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // What is left of it helps nobody; the first error is the one to tell.
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> ResourceFile {
        ResourceFile { path: path.into(), text: text.into() }
    }

    #[test]
    fn only_what_changed_is_replaced_and_what_is_gone_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("a/b");
        assert_eq!(replace(&out, &[file("eds/0.yaml", "x"), file("eds/1.yaml", "y"), file("cds.yaml", "c")]).unwrap(), 3);
        fs::write(out.join("notes.txt"), "mine").unwrap();
        let before = fs::metadata(out.join("cds.yaml")).unwrap().modified().unwrap();
        assert_eq!(replace(&out, &[file("eds/1.yaml", "z"), file("cds.yaml", "c")]).unwrap(), 1);
        assert_eq!(fs::metadata(out.join("cds.yaml")).unwrap().modified().unwrap(), before);
        assert_eq!(listed(&out.join("eds")), [out.join("eds/1.yaml")]);
        assert_eq!(fs::read_to_string(out.join("eds/1.yaml")).unwrap(), "z");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 3, "the folder, the file, and what is not ours");
    }
}
