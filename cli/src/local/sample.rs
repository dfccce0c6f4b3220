//! Which YAML to run when nobody says: the shop.
//!
//! In:  the current folder.
//! Out: folders to read; `./shop-mesh` is written only when it is not there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the shop is in a clone of the repository.
const IN_REPOSITORY: &str = "examples/shop";
/// Where it is written elsewhere.
const WRITTEN: &str = "shop-mesh";

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    pub directories: Vec<PathBuf>,
    /// A sentence about what was chosen or written, when nobody chose.
    pub note: Option<String>,
}

/// `given`, or the shop below `here`; `files` are its (path, text).
pub fn choose(given: Vec<PathBuf>, here: &Path, files: &[(&str, &str)]) -> io::Result<Choice> {
    if !given.is_empty() {
        return Ok(Choice { directories: given, note: None });
    }
    let only = |name: &str, note: String| Choice { directories: vec![PathBuf::from(name)], note: Some(note) };
    if here.join(IN_REPOSITORY).is_dir() {
        return Ok(only(IN_REPOSITORY, format!("No folder given: running the shop of ./{IN_REPOSITORY}")));
    }
    let target = here.join(WRITTEN);
    if target.exists() {
        return Ok(only(WRITTEN, format!("No folder given: running ./{WRITTEN}, which was here already")));
    }
    write(&target, files)?;
    Ok(only(WRITTEN, format!("No folder given: the shop was written to ./{WRITTEN}; it is yours to edit")))
}

/// Writes beside the target and renames, so that half a mesh never looks like one.
fn write(target: &Path, files: &[(&str, &str)]) -> io::Result<()> {
    let fresh = target.with_extension(format!("{}.fresh", std::process::id()));
    let result = files.iter().try_for_each(|(path, text)| {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)
    });
    let result = result.and_then(|()| fs::rename(&fresh, target));
    if result.is_err() {
        // What is left of it is only in the way; the first error is the one to report.
        let _ = fs::remove_dir_all(&fresh);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &[(&str, &str)] = &[("a.yaml", "a"), ("local/b.yaml", "b")];

    #[test]
    fn the_given_folders_win() {
        let here = tempfile::tempdir().unwrap();
        let choice = choose(vec!["x".into()], here.path(), FILES).unwrap();
        assert_eq!(choice, Choice { directories: vec!["x".into()], note: None });
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_clone_has_the_shop() {
        let here = tempfile::tempdir().unwrap();
        fs::create_dir_all(here.path().join(IN_REPOSITORY)).unwrap();
        assert_eq!(choose(vec![], here.path(), FILES).unwrap().directories, [PathBuf::from(IN_REPOSITORY)]);
        assert!(!here.path().join(WRITTEN).exists());
    }

    #[test]
    fn elsewhere_it_is_written_once_and_never_over_edits() {
        let here = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            assert_eq!(choose(vec![], here.path(), FILES).unwrap().directories, [PathBuf::from(WRITTEN)]);
            assert_eq!(fs::read_to_string(here.path().join("shop-mesh/local/b.yaml")).unwrap(), "b");
            let edited = here.path().join("shop-mesh/a.yaml");
            if fs::read_to_string(&edited).unwrap() == "a" {
                fs::write(&edited, "mine").unwrap();
            } else {
                assert_eq!(fs::read_to_string(&edited).unwrap(), "mine");
            }
        }
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1, "nothing half written is left");
    }
}
