//! Asks the system to say when something below the folders changes. What changed is found out by looking.
//!
//! In:  the folders and single entries that matter, after each scan.
//! Out: [`Signal`]s.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::mpsc,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};

use super::scan::{Inode, Scan};

/// What wakes the source.
#[derive(Debug)]
pub enum Signal {
    /// Something about these paths is another than before.
    Changed(Vec<PathBuf>),
    /// A file is being written in place.
    Writing(PathBuf),
    /// A file that was open for writing is closed.
    Written(PathBuf),
    /// The system lost count, or said something that we do not know.
    Unsure,
    Stop,
}

/// No more watches are to be had, or none that work: look from time to time instead.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch files")]
pub struct CannotWatch(#[source] notify::Error);

/// One watch per folder, never recursive: hidden folders such as `.git` cost nothing, and links to folders are followed as the scan does.
pub struct Watcher {
    inner: RecommendedWatcher,
    watched: HashMap<PathBuf, Inode>,
    folders: HashSet<PathBuf>,
    entries: HashSet<PathBuf>,
}

impl Watcher {
    /// Signals go to `signals` until the watcher is dropped.
    pub fn new(signals: mpsc::Sender<Signal>) -> Result<Self, CannotWatch> {
        let inner = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // The receiver is gone only when the source has ended.
            let _ = match signal(event) {
                Some(signal) => signals.send(signal),
                None => Ok(()),
            };
        });
        Ok(Self { inner: inner.map_err(CannotWatch)?, watched: HashMap::new(), folders: HashSet::new(), entries: HashSet::new() })
    }

    /// Watches what `scan` found, and no longer what it did not. True when a watch is new: what happened before it must be looked for again.
    pub fn follow(&mut self, scan: &Scan) -> Result<bool, CannotWatch> {
        let mut wanted: HashMap<PathBuf, Inode> = scan.folders.iter().map(|(path, inode)| (absolute(path), *inode)).collect();
        self.folders = wanted.keys().cloned().collect();
        self.entries = scan.entries.iter().map(|path| absolute(path)).collect();
        // The system knows one watch per folder, whatever its names: a second one would take the first one's events.
        let mut inodes: HashSet<Inode> = wanted.values().copied().collect();
        for entry in &self.entries {
            // A root's own folder tells when the root is replaced or comes back.
            let parent = entry.parent().unwrap_or(entry);
            if !wanted.contains_key(parent)
                && let Ok(metadata) = std::fs::metadata(parent)
                && inodes.insert(super::scan::inode(&metadata))
            {
                wanted.insert(parent.to_owned(), super::scan::inode(&metadata));
            }
        }
        let stale: Vec<PathBuf> =
            self.watched.iter().filter(|(path, inode)| wanted.get(*path) != Some(*inode)).map(|(path, _)| path.clone()).collect();
        for path in stale {
            // A folder that is gone has taken its watch with it.
            let _ = self.inner.unwatch(&path);
            self.watched.remove(&path);
        }
        let mut new = false;
        for (path, inode) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match self.inner.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path, inode);
                    new = true;
                }
                Err(error) if is_gone(&error) => new = true,
                Err(error) => return Err(CannotWatch(error)),
            }
        }
        Ok(new)
    }

    /// Whether an event about `path` can change what a scan finds.
    pub fn concerns(&self, path: &Path) -> bool {
        if self.entries.contains(path) || self.folders.contains(path) {
            return true;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return true };
        let name = name.as_encoded_bytes();
        // `..data` is how a ConfigMap is swapped; other hidden names and back-up files are the editors' own.
        let private = name.starts_with(b".") && !name.starts_with(b"..") || name.ends_with(b"~");
        self.folders.contains(parent) && !private
    }
}

/// Events carry absolute paths.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound | notify::ErrorKind::WatchNotFound => true,
        notify::ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn signal(event: notify::Result<Event>) -> Option<Signal> {
    let Ok(mut event) = event else { return Some(Signal::Unsure) };
    if event.need_rescan() {
        return Some(Signal::Unsure);
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => event.paths.pop().map(Signal::Written),
        // Our own reading.
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Data(_)) => event.paths.pop().map(Signal::Writing),
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => {
            Some(Signal::Changed(event.paths))
        }
    }
}
