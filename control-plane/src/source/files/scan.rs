//! Reads the named folders and files, and tells what differs from the last time. Knows nothing of watches.
//!
//! In:  paths; the file system; the current time.
//! Out: [`Scan`]: changes of texts, the folders worth watching, and whether something is held back for a moment.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pillion_api::finding::{Finding, Place, Severity};
use xxhash_rust::xxh3::xxh3_128;

use crate::source::change::{Change, Content, Origin};

/// A larger file is not read.
pub const MAX_FILE_BYTES: u64 = 32 << 20;
/// More bytes than this in all files together are not read.
pub const MAX_TOTAL_BYTES: u64 = 512 << 20;
/// More files than this are not read.
pub const MAX_FILES: usize = 100_000;
/// More folders than this are not entered; each costs a watch.
pub const MAX_FOLDERS: usize = 20_000;
/// Folders below folders.
pub const MAX_DEPTH: usize = 32;

/// For so long a file that vanished or became empty is taken for one that an editor is about to write.
pub const GRACE: Duration = Duration::from_millis(60);
/// Time stamps younger than this do not prove that a file is unchanged: a second write may carry the same one.
const RACY: Duration = Duration::from_secs(2);

/// Codes of findings about files themselves.
const UNREADABLE: &str = "PLN3001";
const TOO_LARGE: &str = "PLN3002";
const GONE: &str = "PLN3003";

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Folders and files of objects.
    pub config: Vec<PathBuf>,
    /// The file of `--mesh-config`.
    pub mesh_config: Option<PathBuf>,
}

impl Roots {
    pub(super) fn all(&self) -> impl Iterator<Item = (&Path, Content)> {
        let objects = self.config.iter().map(|path| (path.as_path(), Content::Objects));
        objects.chain(self.mesh_config.iter().map(|path| (path.as_path(), Content::MeshConfig)))
    }
}

/// A folder or file as the file system knows it: device and inode.
pub type Inode = (u64, u64);

/// What one look at the files found.
#[derive(Debug, Default)]
pub struct Scan {
    pub changes: Vec<Change>,
    /// Folders whose entries matter.
    pub folders: Vec<(PathBuf, Inode)>,
    /// Single entries of other folders that matter: the roots themselves, and what links point to.
    pub entries: Vec<PathBuf>,
    /// Something vanished or became empty; look again at this moment.
    pub again: Option<Instant>,
}

/// Remembers what was read last.
#[derive(Debug)]
pub struct Scanner {
    roots: Roots,
    files: BTreeMap<Origin, Known>,
    /// Folders and files that are in trouble, with what was said of them.
    troubles: BTreeMap<Origin, Finding>,
}

#[derive(Debug)]
struct Known {
    print: Fingerprint,
    /// The stamp is old enough to be believed.
    settled: bool,
    hash: u128,
    blank: bool,
    missing_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    inode: Inode,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: inode(metadata),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        now - self.changed.0.max(self.modified.0) > RACY.as_secs() as i64
    }
}

/// The inode behind `metadata`.
pub fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

/// One walk over the roots.
#[derive(Default)]
struct Walk {
    files: Vec<Found>,
    folders: Vec<(PathBuf, Inode)>,
    entries: Vec<PathBuf>,
    /// What could not be looked at; everything known below it stays.
    lost: Vec<(PathBuf, Finding)>,
    seen_folders: HashSet<Inode>,
    seen_files: HashSet<Inode>,
}

struct Found {
    path: PathBuf,
    content: Content,
    metadata: Metadata,
}

impl Scanner {
    pub fn new(roots: Roots) -> Self {
        Self { roots, files: BTreeMap::new(), troubles: BTreeMap::new() }
    }

    /// Looks at everything once.
    pub fn scan(&mut self, now: Instant) -> Scan {
        let walk = self.walk();
        let mut scan = Scan { folders: walk.folders, entries: walk.entries, ..Scan::default() };
        let mut troubles = BTreeMap::new();
        let mut present = HashSet::new();
        let inodes = walk.seen_files;
        let mut total = 0;
        for found in walk.files {
            let origin = origin(&found.path);
            present.insert(origin.clone());
            total += found.metadata.len();
            if let Err(finding) = self.read(&origin, &found, total, now, &mut scan) {
                troubles.insert(origin, *finding);
            }
        }
        for (path, finding) in &walk.lost {
            troubles.insert(origin(path), finding.clone());
        }
        let lost: Vec<&Path> = walk.lost.iter().map(|(path, _)| path.as_path()).collect();
        self.remove_missing(&present, &inodes, &lost, now, &mut scan);
        self.tell_troubles(troubles, &mut scan);
        scan
    }

    fn walk(&self) -> Walk {
        let mut walk = Walk::default();
        for (path, content) in self.roots.all() {
            walk.entries.push(path.to_owned());
            match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => walk.folder(path, &metadata, content, 0),
                Ok(metadata) => walk.file(path, metadata, content),
                Err(error) => {
                    let finding = match error.kind() {
                        io::ErrorKind::NotFound => {
                            trouble(path, GONE, format!("{} is gone; what it said last stays in force", shown(path)))
                                .help("put it back, or restart without naming it")
                        }
                        _ => unreadable(path, &error),
                    };
                    walk.lost.push((path.to_owned(), finding));
                }
            }
        }
        walk
    }

    /// Reads a file whose stamp is new and notes a change when its bytes are.
    fn read(&mut self, origin: &Origin, found: &Found, total: u64, now: Instant, scan: &mut Scan) -> Result<(), Box<Finding>> {
        let path = &found.path;
        if !found.metadata.is_file() {
            return Err(Box::new(trouble(path, UNREADABLE, format!("{} is neither a file nor a folder", shown(path)))));
        }
        let print = Fingerprint::of(&found.metadata);
        let known = self.files.get_mut(origin);
        if let Some(known) = &known
            && known.settled
            && known.print == print
            && known.missing_since.is_none()
        {
            return Ok(());
        }
        if print.bytes > MAX_FILE_BYTES || total > MAX_TOTAL_BYTES {
            return Err(Box::new(too_large(path, print.bytes)));
        }
        let bytes = match read_bounded(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(Box::new(too_large(path, print.bytes))),
            // It vanished since the walk: the next look will say so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                scan.again.get_or_insert(now + GRACE);
                return Ok(());
            }
            Err(error) => return Err(Box::new(unreadable(path, &error))),
        };
        let settled = print.is_settled();
        let hash = xxh3_128(&bytes);
        if let Some(known) = known {
            if known.hash == hash {
                (known.print, known.settled, known.missing_since) = (print, settled, None);
                return Ok(());
            }
            if is_blank(&bytes) && !known.blank {
                let until = *known.missing_since.get_or_insert(now) + GRACE;
                if now < until {
                    scan.again = Some(scan.again.map_or(until, |again| again.min(until)));
                    return Ok(());
                }
            }
        }
        let blank = is_blank(&bytes);
        let text = String::from_utf8(bytes).map_err(|error| {
            let message = format!("{} is not UTF-8 text from byte {} on", shown(path), error.utf8_error().valid_up_to());
            Box::new(trouble(path, UNREADABLE, message))
        })?;
        self.files.insert(origin.clone(), Known { print, settled, hash, blank, missing_since: None });
        scan.changes.push(Change::Put { origin: origin.clone(), content: found.content, text: text.into() });
        Ok(())
    }

    /// What has another name now goes at once: waiting would show its objects twice.
    fn remove_missing(&mut self, present: &HashSet<Origin>, inodes: &HashSet<Inode>, lost: &[&Path], now: Instant, scan: &mut Scan) {
        self.files.retain(|origin, known| {
            if present.contains(origin) || lost.iter().any(|path| Path::new(&**origin).starts_with(origin_path(path))) {
                return true;
            }
            let until = *known.missing_since.get_or_insert(now) + GRACE;
            if now < until && !inodes.contains(&known.print.inode) {
                scan.again = Some(scan.again.map_or(until, |again| again.min(until)));
                return true;
            }
            scan.changes.push(Change::Removed { origin: origin.clone() });
            false
        });
    }

    fn tell_troubles(&mut self, now: BTreeMap<Origin, Finding>, scan: &mut Scan) {
        for origin in self.troubles.keys().filter(|origin| !now.contains_key(*origin)) {
            let put = scan.changes.iter().any(|change| matches!(change, Change::Put { origin: o, .. } if o == origin));
            if !put {
                scan.changes.push(Change::Trouble { origin: origin.clone(), finding: None });
            }
        }
        for (origin, finding) in &now {
            if self.troubles.get(origin) != Some(finding) {
                scan.changes.push(Change::Trouble { origin: origin.clone(), finding: Some(finding.clone()) });
            }
        }
        self.troubles = now;
    }
}

impl Walk {
    fn folder(&mut self, path: &Path, metadata: &Metadata, content: Content, depth: usize) {
        // Also ends loops of links.
        if !self.seen_folders.insert(inode(metadata)) {
            return;
        }
        if depth > MAX_DEPTH || self.folders.len() >= MAX_FOLDERS {
            let finding = trouble(
                path,
                TOO_LARGE,
                format!("{} is not read: more than {MAX_FOLDERS} folders, or {MAX_DEPTH} inside one another", shown(path)),
            );
            self.lost.push((path.to_owned(), finding));
            return;
        }
        self.folders.push((path.to_owned(), inode(metadata)));
        let mut names = Vec::new();
        let entries = fs::read_dir(path).and_then(|entries| {
            for entry in entries {
                names.push(entry?.file_name());
            }
            Ok(())
        });
        if let Err(error) = entries {
            // A folder that vanished since its parent was read is no trouble: its files are missing.
            if error.kind() != io::ErrorKind::NotFound {
                self.lost.push((path.to_owned(), unreadable(path, &error)));
            }
            return;
        }
        names.sort();
        for name in names {
            // `..data` and its like are how ConfigMaps are mounted; the visible links lead through them.
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            self.entry(&path.join(name), content, depth);
        }
    }

    fn entry(&mut self, path: &Path, content: Content, depth: usize) {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.folder(path, &metadata, content, depth + 1),
            Ok(metadata) if is_ours(path) => self.file(path, metadata, content),
            Ok(_) => {}
            Err(error) if is_ours(path) && error.kind() != io::ErrorKind::NotFound => {
                self.lost.push((path.to_owned(), unreadable(path, &error)));
            }
            Err(_) => {}
        }
    }

    fn file(&mut self, path: &Path, metadata: Metadata, content: Content) {
        if !self.seen_files.insert(inode(&metadata)) {
            return;
        }
        if self.files.len() >= MAX_FILES {
            let finding = trouble(path, TOO_LARGE, format!("{} is not read: there are more than {MAX_FILES} files", shown(path)));
            self.lost.push((path.to_owned(), finding));
            return;
        }
        let linked = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        if linked && let Ok(target) = fs::canonicalize(path) {
            self.entries.push(target);
        }
        self.files.push(Found { path: path.to_owned(), content, metadata });
    }
}

/// Whether the name is one of a file of objects.
fn is_ours(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|ours| extension.eq_ignore_ascii_case(ours)))
}

/// `None` when it is larger than the limit.
fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_BYTES).then_some(bytes))
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

fn origin(path: &Path) -> Origin {
    shown(path).into()
}

/// As the user wrote it, without the `./` of a folder named `.`.
fn shown(path: &Path) -> String {
    origin_path(path).display().to_string()
}

fn origin_path(path: &Path) -> &Path {
    path.strip_prefix(".").ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(path)
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    trouble(path, UNREADABLE, format!("cannot read {}: {error}; what it said last stays in force", shown(path)))
}

fn too_large(path: &Path, bytes: u64) -> Finding {
    let message =
        format!("{} is not read: {bytes} bytes, where a file may have {MAX_FILE_BYTES} and all together {MAX_TOTAL_BYTES}", shown(path));
    trouble(path, TOO_LARGE, message).help("split it into several files")
}

fn trouble(path: &Path, code: &'static str, message: String) -> Finding {
    let place = Place { file: Arc::from(shown(path)), ..Place::default() };
    let (object, path) = (String::new(), String::new());
    Finding { severity: Severity::Error, code, istio: None, object, path, message, help: None, place, related: Vec::new() }
}

trait WithHelp {
    fn help(self, help: &str) -> Self;
}

impl WithHelp for Finding {
    fn help(mut self, help: &str) -> Self {
        self.help = Some(help.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        scanner: Scanner,
        now: Instant,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let roots = Roots { config: vec![dir.path().join("mesh")], mesh_config: None };
            fs::create_dir(dir.path().join("mesh")).unwrap();
            Self { scanner: Scanner::new(roots), dir, now: Instant::now() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("mesh").join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            fs::write(self.path(name), text).unwrap();
        }

        /// What a scan says, in short: `+name=text`, `-name`, `!name` for trouble, `.name` for its end.
        fn scan(&mut self) -> Vec<String> {
            let root = format!("{}/", self.dir.path().join("mesh").display());
            let short = |origin: &Origin| origin.strip_prefix(root.as_str()).unwrap_or("mesh").to_owned();
            let scan = self.scanner.scan(self.now);
            let mut said: Vec<String> = scan
                .changes
                .iter()
                .map(|change| match change {
                    Change::Put { origin, text, .. } => format!("+{}={text}", short(origin)),
                    Change::Removed { origin } => format!("-{}", short(origin)),
                    Change::Trouble { origin, finding: Some(_) } => format!("!{}", short(origin)),
                    Change::Trouble { origin, finding: None } => format!(".{}", short(origin)),
                })
                .collect();
            said.sort();
            said
        }

        fn later(&mut self) {
            self.now += GRACE;
        }
    }

    #[test]
    fn only_visible_yaml_and_json_is_read_at_any_depth() {
        let mut place = Place::new();
        let files = [
            "a.yaml",
            "deep/er/b.yml",
            "c.json",
            "d.YAML",
            ".hidden.yaml",
            ".git/x.yaml",
            "a.yaml~",
            "notes.md",
            "#a.yaml#",
            ".a.yaml.swp",
        ];
        for name in files {
            place.write(name, name);
        }
        assert_eq!(place.scan(), ["+a.yaml=a.yaml", "+c.json=c.json", "+d.YAML=d.YAML", "+deep/er/b.yml=deep/er/b.yml"]);
        assert_eq!(place.scan(), [""; 0], "nothing has changed");
        place.write("a.yaml", "a.yaml");
        assert_eq!(place.scan(), [""; 0], "the same bytes written again are no change");
        place.write("a.yaml", "other.");
        assert_eq!(place.scan(), ["+a.yaml=other."]);
    }

    #[test]
    fn a_swapped_config_map_shows_its_new_text() {
        let mut place = Place::new();
        place.write("..1/a.yaml", "one");
        place.write("..2/a.yaml", "two");
        symlink("..1", place.path("..data")).unwrap();
        symlink("..data/a.yaml", place.path("a.yaml")).unwrap();
        assert_eq!(place.scan(), ["+a.yaml=one"]);
        symlink("..2", place.path("..data_tmp")).unwrap();
        fs::rename(place.path("..data_tmp"), place.path("..data")).unwrap();
        assert_eq!(place.scan(), ["+a.yaml=two"]);
        fs::remove_dir_all(place.path("..1")).unwrap();
        assert_eq!(place.scan(), [""; 0]);
    }

    #[test]
    fn a_file_that_returns_in_time_was_never_gone() {
        let mut place = Place::new();
        place.write("a.yaml", "one");
        place.write("b.yaml", "b");
        place.scan();
        fs::remove_file(place.path("a.yaml")).unwrap();
        assert_eq!(place.scan(), [""; 0]);
        place.write("a.yaml", "two");
        place.later();
        assert_eq!(place.scan(), ["+a.yaml=two"]);
        fs::remove_file(place.path("a.yaml")).unwrap();
        assert_eq!(place.scan(), [""; 0]);
        place.later();
        assert_eq!(place.scan(), ["-a.yaml"]);
    }

    #[test]
    fn an_emptied_file_waits_for_its_text() {
        let mut place = Place::new();
        place.write("a.yaml", "one");
        place.scan();
        place.write("a.yaml", "");
        assert_eq!(place.scan(), [""; 0]);
        place.write("a.yaml", "two");
        assert_eq!(place.scan(), ["+a.yaml=two"]);
        place.write("a.yaml", "\n");
        assert_eq!(place.scan(), [""; 0]);
        place.later();
        assert_eq!(place.scan(), ["+a.yaml=\n"], "it stays empty: that is meant");
    }

    #[test]
    fn what_cannot_be_read_is_said_once_and_keeps_its_last_text() {
        let mut place = Place::new();
        place.write("a.yaml", "one");
        place.scan();
        fs::write(place.path("a.yaml"), b"\xff\xfe").unwrap();
        assert_eq!(place.scan(), ["!a.yaml"]);
        assert_eq!(place.scan(), [""; 0]);
        place.write("a.yaml", "one");
        assert_eq!(place.scan(), [".a.yaml"]);
        File::create(place.path("big.yaml")).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert_eq!(place.scan(), ["!big.yaml"]);
    }

    #[test]
    fn a_root_that_is_gone_deletes_nothing() {
        let mut place = Place::new();
        place.write("a.yaml", "one");
        place.write("sub/b.yaml", "b");
        place.scan();
        let aside = place.dir.path().join("aside");
        fs::rename(place.path(""), &aside).unwrap();
        assert_eq!(place.scan(), ["!mesh"]);
        place.later();
        assert_eq!(place.scan(), [""; 0]);
        fs::rename(&aside, place.path("")).unwrap();
        place.write("a.yaml", "two");
        assert_eq!(place.scan(), ["+a.yaml=two", ".mesh"]);
    }

    #[test]
    fn a_folder_moved_away_takes_its_files_with_it() {
        let mut place = Place::new();
        place.write("sub/b.yaml", "b");
        place.scan();
        fs::rename(place.path("sub"), place.path("other")).unwrap();
        assert_eq!(place.scan(), ["+other/b.yaml=b", "-sub/b.yaml"], "never two of one");
        fs::rename(place.path("other/b.yaml"), place.path("c.yaml")).unwrap();
        assert_eq!(place.scan(), ["+c.yaml=b", "-other/b.yaml"]);
    }

    #[test]
    fn loops_and_second_names_are_read_once() {
        let mut place = Place::new();
        place.write("sub/b.yaml", "b");
        symlink("..", place.path("sub/up")).unwrap();
        symlink("sub/b.yaml", place.path("z.yaml")).unwrap();
        symlink("nowhere", place.path("dangling.yaml")).unwrap();
        assert_eq!(place.scan(), ["+sub/b.yaml=b"]);
    }
}
