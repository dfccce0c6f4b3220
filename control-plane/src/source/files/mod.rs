//! Objects from folders and files, followed as they change: editors' renames, ConfigMap swaps, new folders, half-written files.
//!
//! In:  paths; the system's word that something changed, or, where it cannot give it, a look from time to time.
//! Out: [`Batch`]es of real changes, a few milliseconds after the last of a burst. Any event leads to a look at everything; only what has other
//!      bytes than before is told.

mod scan;
mod watch;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use pillion_api::finding::{Finding, Place, Severity};

use scan::Scanner;
pub use scan::{GRACE, MAX_FILE_BYTES, MAX_FILES, Roots};
use watch::{Signal, Watcher};

use super::change::{Batch, Change};

/// A burst of events is over after so long without one ...
const QUIET: Duration = Duration::from_millis(10);
/// ... or after so long in all.
const LONGEST_BURST: Duration = Duration::from_millis(100);
/// Even where the system tells of changes, files are looked at so often: some network file systems tell nothing.
const SAFETY: Duration = Duration::from_secs(10);
/// How often files are looked at where the system cannot tell; more seldom when a look takes long.
const POLL: Duration = Duration::from_millis(250);
/// A look may cost this part of a processor.
const POLL_SHARE: u32 = 20;
/// New folders found while others are being watched are followed so many times in a row.
const FOLLOW_ROUNDS: usize = 8;

const POLLING: &str = "PLN3004";

/// A root that cannot be read at the start.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct MissingRoot {
    pub path: PathBuf,
    #[source]
    pub source: std::io::Error,
}

/// Follows files. Blocks a thread of its own in [`FileSource::run`].
pub struct FileSource {
    scanner: Scanner,
    /// `None`: the system cannot tell; look from time to time.
    watcher: Option<Watcher>,
    signals: mpsc::Receiver<Signal>,
    again: Option<Instant>,
    looked: Instant,
    poll: Duration,
}

/// Ends [`FileSource::run`], also by being dropped.
pub struct Stop(mpsc::Sender<Signal>);

impl Drop for Stop {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.send(Signal::Stop);
    }
}

impl FileSource {
    /// Reads everything once. What cannot be read below the roots is in the batch; a root that is not there is an error.
    pub fn open(roots: Roots) -> Result<(Self, Batch, Stop), MissingRoot> {
        Self::start(roots, true)
    }

    fn start(roots: Roots, watch: bool) -> Result<(Self, Batch, Stop), MissingRoot> {
        for (path, _) in roots.all() {
            std::fs::metadata(path).map_err(|source| MissingRoot { path: path.to_owned(), source })?;
        }
        let (sender, signals) = mpsc::channel();
        let now = Instant::now();
        let mut source = Self { scanner: Scanner::new(roots), watcher: None, signals, again: None, looked: now, poll: POLL };
        let mut changes = Vec::new();
        if watch {
            match Watcher::new(sender.clone()) {
                Ok(watcher) => source.watcher = Some(watcher),
                Err(error) => changes.push(source.give_up_watching(&error)),
            }
        }
        source.look(&mut changes);
        Ok((source, Batch { noticed: now, changes }, Stop(sender)))
    }

    /// Hands every later change to `tell` until it says false or [`Stop`] is dropped.
    pub fn run(mut self, mut tell: impl FnMut(Batch) -> bool) {
        loop {
            let Some(noticed) = self.wait() else { return };
            let mut changes = Vec::new();
            self.look(&mut changes);
            if !changes.is_empty() && !tell(Batch { noticed, changes }) {
                return;
            }
        }
    }

    /// Waits until a look is due; `None` at the end.
    fn wait(&mut self) -> Option<Instant> {
        let regular = self.looked + if self.watcher.is_some() { SAFETY } else { self.poll };
        loop {
            let due = self.again.map_or(regular, |again| again.min(regular));
            match self.signals.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Signal::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => return Some(Instant::now()),
                Ok(signal) => {
                    let mut writing = HashSet::new();
                    if !self.matters(signal, &mut writing) {
                        continue;
                    }
                    let noticed = Instant::now();
                    return self.burst(noticed, writing).then_some(noticed);
                }
            }
        }
    }

    /// Waits for the end of a burst: quiet, and no file open for writing. False at the end of everything.
    fn burst(&self, noticed: Instant, mut writing: HashSet<PathBuf>) -> bool {
        let end = noticed + LONGEST_BURST;
        let mut last = noticed;
        loop {
            let quiet = if writing.is_empty() { (last + QUIET).min(end) } else { end };
            match self.signals.recv_timeout(quiet.saturating_duration_since(Instant::now())) {
                Ok(Signal::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return false,
                Err(mpsc::RecvTimeoutError::Timeout) => return true,
                Ok(signal) => {
                    if self.matters(signal, &mut writing) {
                        last = Instant::now();
                    }
                }
            }
            if Instant::now() >= end {
                return true;
            }
        }
    }

    fn matters(&self, signal: Signal, writing: &mut HashSet<PathBuf>) -> bool {
        let concerns = |path: &PathBuf| self.watcher.as_ref().is_none_or(|watcher| watcher.concerns(path));
        match signal {
            Signal::Changed(paths) => paths.iter().any(concerns),
            Signal::Writing(path) => {
                let concerns = concerns(&path);
                if concerns {
                    writing.insert(path);
                }
                concerns
            }
            Signal::Written(path) => {
                writing.remove(&path);
                concerns(&path)
            }
            Signal::Unsure | Signal::Stop => true,
        }
    }

    /// Scans, and scans again as long as there were new folders to watch.
    fn look(&mut self, changes: &mut Vec<Change>) {
        for _ in 0..FOLLOW_ROUNDS {
            let begun = Instant::now();
            let mut scan = self.scanner.scan(begun);
            self.again = scan.again;
            self.looked = Instant::now();
            self.poll = POLL.max((self.looked - begun) * POLL_SHARE);
            merge(changes, std::mem::take(&mut scan.changes));
            match self.watcher.as_mut().map_or(Ok(false), |watcher| watcher.follow(&scan)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let change = self.give_up_watching(&error);
                    changes.push(change);
                    return;
                }
            }
        }
    }

    fn give_up_watching(&mut self, error: &watch::CannotWatch) -> Change {
        self.watcher = None;
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        let message =
            format!("the system cannot tell of changed files ({cause}); they are looked at every {} ms instead", POLL.as_millis());
        let help = "raise fs.inotify.max_user_watches and fs.inotify.max_user_instances, then restart";
        let origin: Arc<str> = "".into();
        let finding = Finding {
            severity: Severity::Warning,
            code: POLLING,
            istio: None,
            object: String::new(),
            path: String::new(),
            message,
            help: Some(help.into()),
            place: Place::default(),
            related: Vec::new(),
        };
        Change::Trouble { origin, finding: Some(finding) }
    }
}

/// Appends, where a later change of a text takes the place of an earlier one.
fn merge(changes: &mut Vec<Change>, more: Vec<Change>) {
    for change in more {
        changes.retain(|old| old.origin() != change.origin() || matches!(change, Change::Trouble { .. }));
        changes.push(change);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    /// A source at work on a folder of its own. Dropping it ends it.
    struct Followed {
        dir: tempfile::TempDir,
        batches: mpsc::Receiver<Batch>,
        stop: Option<Stop>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Followed {
        fn new(watch: bool, files: &[(&str, &str)]) -> Self {
            Self::of(watch, &["mesh"], files)
        }

        fn of(watch: bool, roots: &[&str], files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in files {
                write(&dir.path().join("mesh").join(name), text);
            }
            fs::create_dir_all(dir.path().join("mesh")).unwrap();
            let roots = Roots { config: roots.iter().map(|root| dir.path().join(root)).collect(), mesh_config: None };
            let (source, first, stop) = FileSource::start(roots, watch).unwrap();
            assert_eq!(first.changes.len(), files.len());
            let (tell, batches) = mpsc::channel();
            let thread = std::thread::spawn(move || source.run(|batch| tell.send(batch).is_ok()));
            Self { dir, batches, stop: Some(stop), thread: Some(thread) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("mesh").join(name)
        }

        /// The next batch in short: `name=text` and `-name`.
        fn next(&self) -> Vec<String> {
            let batch = self.batches.recv_timeout(Duration::from_secs(20)).expect("a batch in time");
            let name = |change: &Change| Path::new(&**change.origin()).file_name().unwrap().to_string_lossy().into_owned();
            let mut said: Vec<String> = batch
                .changes
                .iter()
                .map(|change| match change {
                    Change::Put { text, .. } => format!("{}={text}", name(change)),
                    Change::Removed { .. } => format!("-{}", name(change)),
                    Change::Trouble { finding, .. } => format!("{}{}", if finding.is_some() { '!' } else { '.' }, name(change)),
                })
                .collect();
            said.sort();
            said
        }
    }

    impl Drop for Followed {
        fn drop(&mut self) {
            self.stop.take();
            let ended = self.thread.take().map(std::thread::JoinHandle::join);
            assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
        }
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn edits_of_every_kind_are_told() {
        for watch in [true, false] {
            let source = Followed::new(watch, &[("a.yaml", "one")]);
            // By rename, as editors and `kubectl` do.
            write(&source.path(".a.yaml.tmp"), "two");
            fs::rename(source.path(".a.yaml.tmp"), source.path("a.yaml")).unwrap();
            assert_eq!(source.next(), ["a.yaml=two"], "watch: {watch}");
            // vim: the old file becomes the back-up, a new one is written.
            fs::rename(source.path("a.yaml"), source.path("a.yaml~")).unwrap();
            write(&source.path("a.yaml"), "three");
            fs::remove_file(source.path("a.yaml~")).unwrap();
            assert_eq!(source.next(), ["a.yaml=three"], "watch: {watch}");
            // A folder that comes with its files, and one in it.
            write(&source.path("new/deep/b.yaml"), "b");
            assert_eq!(source.next(), ["b.yaml=b"], "watch: {watch}");
            write(&source.path("new/deep/b.yaml"), "b2");
            assert_eq!(source.next(), ["b.yaml=b2"], "watch: {watch}");
            fs::remove_dir_all(source.path("new")).unwrap();
            assert_eq!(source.next(), ["-b.yaml"], "watch: {watch}");
            fs::remove_file(source.path("a.yaml")).unwrap();
            assert_eq!(source.next(), ["-a.yaml"], "watch: {watch}");
        }
    }

    #[test]
    fn a_folder_under_two_names_is_followed() {
        let source = Followed::of(true, &["mesh", "mesh/../mesh/a.yaml"], &[("a.yaml", "one")]);
        // Sooner than by the regular look.
        for (name, want) in [("b.yaml", "b.yaml=two"), ("a.yaml", "a.yaml=two")] {
            let begun = Instant::now();
            write(&source.path(name), "two");
            assert_eq!(source.next(), [want]);
            assert!(begun.elapsed() < SAFETY / 2, "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn a_config_map_swap_is_told() {
        let source = Followed::new(true, &[]);
        write(&source.path("..1/a.yaml"), "one");
        write(&source.path("..2/a.yaml"), "two");
        symlink("..1", source.path("..data")).unwrap();
        symlink("..data/a.yaml", source.path("a.yaml")).unwrap();
        assert_eq!(source.next(), ["a.yaml=one"]);
        for (target, want) in [("..2", "a.yaml=two"), ("..1", "a.yaml=one")] {
            symlink(target, source.path("..data_tmp")).unwrap();
            fs::rename(source.path("..data_tmp"), source.path("..data")).unwrap();
            assert_eq!(source.next(), [want]);
        }
    }

    #[test]
    fn what_a_link_points_to_is_followed_where_it_lies() {
        let source = Followed::new(true, &[]);
        let elsewhere = source.dir.path().join("elsewhere/real.yaml");
        write(&elsewhere, "one");
        symlink(&elsewhere, source.path("a.yaml")).unwrap();
        assert_eq!(source.next(), ["a.yaml=one"]);
        write(&elsewhere, "two");
        assert_eq!(source.next(), ["a.yaml=two"]);
    }

    #[test]
    fn a_root_that_is_replaced_is_followed_again() {
        let source = Followed::new(true, &[("a.yaml", "one")]);
        fs::rename(source.path(""), source.dir.path().join("aside")).unwrap();
        assert_eq!(source.next(), ["!mesh"]);
        write(&source.path("a.yaml"), "two");
        let mut said = source.next();
        if said == [".mesh"] {
            said.extend(source.next());
        }
        assert!(said.contains(&"a.yaml=two".to_owned()), "{said:?}");
        write(&source.path("a.yaml"), "three");
        assert_eq!(source.next(), ["a.yaml=three"]);
    }

    #[test]
    fn a_file_open_for_writing_is_waited_for() {
        use std::io::Write;
        let source = Followed::new(true, &[("a.yaml", "old")]);
        let mut file = fs::File::create(source.path("a.yaml")).unwrap();
        file.write_all(b"first ").unwrap();
        file.write_all(b"second").unwrap();
        drop(file);
        assert_eq!(source.next(), ["a.yaml=first second"]);
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { config: vec![dir.path().join("nowhere")], mesh_config: None };
        let Err(error) = FileSource::open(roots) else { panic!("it opened") };
        assert!(error.to_string().starts_with("cannot read "), "{error}");
    }
}
