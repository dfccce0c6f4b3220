//! `pillion validate`: what is wrong with YAML, what it will do that people do not expect, and where.
//!
//! In:  paths of files and directories, or standard input.
//! Out: findings as text or JSON, a summary, and an exit code: 0 without errors, 1 with, 2 for misuse.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anstream::eprintln;
use pillion_api::Checked;
use pillion_api::check::sort;
use pillion_api::finding::{Finding, Place, Severity};
use pillion_api::{code, render};
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  pillion validate ./mesh                  every .yaml, .yml and .json in it
  pillion validate routes.yaml --strict    warnings fail too
  kustomize build . | pillion validate -   what a tool prints
  helm template ./chart | pillion validate - -o json

Exit code: 0 without errors, 1 with errors (with --strict also warnings), 2 when a path or file could not be read.";

/// Files and standard input beyond this are not read, in bytes.
const MAX_BYTES: u64 = 256 << 20;
/// Directories deeper than this are not entered.
const MAX_DEPTH: usize = 32;

/// Check YAML and explain what it will do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files, directories (searched for .yaml, .yml and .json), or `-` for standard input.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to print the findings.
    #[arg(short, long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    output: Output,
    /// Fail on warnings too.
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// With the source lines.
    Text,
    /// One object: `findings` and `summary`.
    Json,
}

/// Checks and prints.
pub fn run(args: Args) -> ExitCode {
    let started = Instant::now();
    let mut input = match read_all(&args.paths) {
        Ok(input) => input,
        Err(Misuse(message)) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    let mut checked = pillion_api::check(&input.sources);
    checked.findings.append(&mut input.findings);
    sort(&mut checked.findings);
    let summary = Summary::new(&checked, input.sources.len() + input.not_text.len(), started.elapsed().as_millis());
    let printed = match args.output {
        Output::Text => print_text(&checked, &input, &summary),
        Output::Json => print_json(&checked, &summary),
    };
    // A reader that closes early (`| head`) has seen enough.
    if let Err(error) = printed
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        eprintln!("error: cannot print: {error}");
        return ExitCode::from(2);
    }
    for unread in &input.unread {
        eprintln!("error: {unread}");
    }
    if !input.unread.is_empty() {
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(summary.errors > 0 || args.strict && summary.warnings > 0))
}

/// Why nothing was checked.
#[derive(Debug)]
pub(super) struct Misuse(pub(super) String);

pub(super) type Sources = Vec<(String, String)>;

/// What the arguments lead to.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Every text, once, in the order of the arguments and sorted within a directory.
    pub(super) sources: Sources,
    /// Files that are no text, with what can be shown of them.
    pub(super) not_text: Sources,
    /// What is wrong with those.
    pub(super) findings: Vec<Finding>,
    /// Files and directories that could not be read, and why.
    pub(super) unread: Vec<String>,
}

/// Reads everything that can be read. An argument that leads nowhere is misuse.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<Input, Misuse> {
    let mut input = Input::default();
    let mut files = Vec::new();
    let mut stdin = false;
    for path in paths {
        if path.as_os_str() == "-" {
            stdin = true;
            continue;
        }
        let metadata = fs::metadata(path).map_err(|e| Misuse(format!("cannot read {}: {e}", path.display())))?;
        if !metadata.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = (files.len(), input.unread.len());
        directory(path, 0, &mut HashSet::new(), &mut files, &mut input.unread);
        if (files.len(), input.unread.len()) == before {
            return Err(Misuse(format!("there is no .yaml, .yml or .json in {}", path.display())));
        }
    }
    let mut seen = HashSet::new();
    for file in files {
        if seen.insert(fs::canonicalize(&file).unwrap_or_else(|_| file.clone())) {
            let name = file.display().to_string();
            match fs::File::open(&file).map_err(|e| cannot_read(&file, &e)).and_then(|reader| bytes_of(&name, reader)) {
                Ok(bytes) => input.add(name, bytes),
                Err(why) => input.unread.push(why),
            }
        }
    }
    if stdin {
        let bytes = bytes_of("standard input", io::stdin().lock()).map_err(Misuse)?;
        if bytes.trim_ascii().is_empty() {
            return Err(Misuse("standard input is empty: the command before the pipe printed nothing".to_owned()));
        }
        input.add("<stdin>".to_owned(), bytes);
    }
    Ok(input)
}

impl Input {
    fn add(&mut self, name: String, bytes: Vec<u8>) {
        match String::from_utf8(bytes) {
            Ok(text) => self.sources.push((name, text)),
            Err(error) => {
                self.findings.push(not_text(&name, error.as_bytes(), error.utf8_error().valid_up_to()));
                self.not_text.push((name, String::from_utf8_lossy(error.as_bytes()).into_owned()));
            }
        }
    }
}

/// Says where a file stops being UTF-8, or that it is UTF-16.
fn not_text(name: &str, bytes: &[u8], valid: usize) -> Finding {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() as u32 + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u32 + 1;
    let wide = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    let message = if wide { "this is UTF-16, not UTF-8 text" } else { "this is not UTF-8 text" };
    Finding {
        severity: Severity::Error,
        code: code::SYNTAX,
        istio: Some(code::SCHEMA_ERROR),
        object: String::new(),
        path: String::new(),
        message: message.to_owned(),
        help: Some("save the file as UTF-8".to_owned()),
        // A byte that is no text is shown as the one character U+FFFD.
        place: Place { file: name.into(), line, column, start: valid as u32, end: valid as u32 + 3 },
        related: Vec::new(),
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

fn bytes_of(name: &str, reader: impl io::Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot read {name}: {e}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("{name} is larger than {} MiB", MAX_BYTES >> 20));
    }
    Ok(bytes)
}

/// Hidden entries are left out; a directory reached twice through links is read once.
fn directory(path: &Path, depth: usize, entered: &mut HashSet<PathBuf>, files: &mut Vec<PathBuf>, unread: &mut Vec<String>) {
    let listed = fs::canonicalize(path).and_then(|real| {
        if depth > MAX_DEPTH || !entered.insert(real) {
            return Ok(Vec::new());
        }
        fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()
    });
    let mut entries = match listed {
        Ok(entries) => entries,
        Err(error) => return unread.push(cannot_read(path, &error)),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let ours = path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e.eq_ignore_ascii_case(known)));
        // Follows links. One that leads nowhere matters when it is called like a file that would be read.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => directory(&path, depth + 1, entered, files, unread),
            Ok(metadata) if metadata.is_file() && ours => files.push(path),
            Err(error) if ours => unread.push(cannot_read(&path, &error)),
            Ok(_) | Err(_) => {}
        }
    }
}

struct Summary {
    documents: usize,
    files: usize,
    errors: usize,
    warnings: usize,
    notes: usize,
    skipped: BTreeMap<String, usize>,
    ms: u128,
}

impl Summary {
    fn new(checked: &Checked, files: usize, ms: u128) -> Self {
        let count = |severity| checked.findings.iter().filter(|f| f.severity == severity).count();
        Self {
            documents: checked.documents,
            files,
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
            skipped: checked.skipped.clone(),
            ms,
        }
    }

    fn line(&self) -> String {
        let mut line = format!(
            "checked {} in {} in {} ms: {}, {}, {}",
            counted(self.documents, "document"),
            counted(self.files, "file"),
            self.ms,
            counted(self.errors, "error"),
            counted(self.warnings, "warning"),
            counted(self.notes, "note")
        );
        if !self.skipped.is_empty() {
            let total: usize = self.skipped.values().sum();
            let kinds: Vec<String> = self.skipped.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
            let _ = write!(line, "; skipped {total} of kinds that are no business of a mesh ({})", kinds.join(", "));
        }
        line
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn print_text(checked: &Checked, input: &Input, summary: &Summary) -> io::Result<()> {
    let texts = render::Sources::new(input.sources.iter().chain(&input.not_text).map(|(file, text)| (file.as_str(), text.as_str())));
    let mut out = anstream::stdout().lock();
    // The stream takes the colours out where nobody sees them.
    for chunk in checked.findings.chunks(64) {
        out.write_all(render::text(chunk, &texts, true).as_bytes())?;
    }
    writeln!(out, "{}", summary.line())?;
    out.flush()
}

fn print_json(checked: &Checked, summary: &Summary) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, &report(&checked.findings, summary))?;
    writeln!(out)?;
    out.flush()
}

fn report(findings: &[Finding], summary: &Summary) -> serde_json::Value {
    json!({
        "findings": render::json(findings),
        "summary": {
            "documents": summary.documents,
            "files": summary.files,
            "errors": summary.errors,
            "warnings": summary.warnings,
            "notes": summary.notes,
            "skipped": summary.skipped,
            "ms": u64::try_from(summary.ms).unwrap_or(u64::MAX),
        },
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(arguments: &[&str]) -> Result<Args, clap::Error> {
        Whole::try_parse_from(std::iter::once("validate").chain(arguments.iter().copied())).map(|whole| whole.args)
    }

    #[test]
    fn a_path_is_required_and_misuse_is_two() {
        let error = parsed(&[]).expect_err("no path");
        assert_eq!(error.exit_code(), 2);
        let missing = run(parsed(&["/nowhere/at/all"]).expect("parses"));
        assert_eq!(format!("{missing:?}"), format!("{:?}", ExitCode::from(2)));
    }

    #[test]
    fn directories_are_searched_in_order_without_hidden_files() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("b/c")).expect("made");
        fs::create_dir_all(at(".git")).expect("made");
        for name in ["z.yaml", "b/a.yml", "b/c/d.json", "b/readme.md", ".git/x.yaml", ".hidden.yaml"] {
            fs::write(at(name), "").expect("written");
        }
        let sources = read_all(&[root.path().to_owned(), at("z.yaml")]).expect("readable").sources;
        let names: Vec<String> =
            sources.iter().map(|(name, _)| name.trim_start_matches(&*root.path().to_string_lossy()).to_owned()).collect();
        assert_eq!(names, ["/b/a.yml", "/b/c/d.json", "/z.yaml"]);
    }

    #[test]
    fn an_empty_directory_is_misuse() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(read_all(&[root.path().to_owned()]).expect_err("empty").0.contains("there is no .yaml"));
    }

    #[test]
    fn what_is_not_utf_8_is_an_error_with_its_place_and_the_rest_is_checked() {
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join("a.yaml"), b"kind: x\nname: caf\xe9\n").expect("written");
        fs::write(root.path().join("b.yaml"), b"\xff\xfek\0").expect("written");
        fs::write(root.path().join("c.yaml"), "").expect("written");
        let input = read_all(&[root.path().to_owned()]).expect("readable");
        assert_eq!((input.sources.len(), input.not_text.len(), input.unread.len()), (1, 2, 0));
        let said: Vec<_> = input.findings.iter().map(|f| (f.place.line, f.place.column, f.message.as_str())).collect();
        assert_eq!(said, [(2, 10, "this is not UTF-8 text"), (1, 1, "this is UTF-16, not UTF-8 text")]);
        let whole = run(parsed(&[&root.path().to_string_lossy()]).expect("parses"));
        assert_eq!(format!("{whole:?}"), format!("{:?}", ExitCode::from(1)));
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_stop_nothing_and_are_misuse_only_under_names_that_are_read() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().expect("a directory");
        let at = |name: &str| root.path().join(name);
        fs::write(at("a.yaml"), "").expect("written");
        symlink("nowhere", at("README")).expect("linked");
        symlink(".", at("loop")).expect("linked");
        let input = read_all(&[root.path().to_owned()]).expect("readable");
        assert_eq!((input.sources.len(), input.unread.len()), (1, 0));
        symlink("self.yaml", at("self.yaml")).expect("linked");
        let input = read_all(&[root.path().to_owned()]).expect("readable");
        assert_eq!((input.sources.len(), input.unread.len()), (1, 1), "{:?}", input.unread);
        let whole = run(parsed(&[&root.path().to_string_lossy()]).expect("parses"));
        assert_eq!(format!("{whole:?}"), format!("{:?}", ExitCode::from(2)));
    }

    #[test]
    fn the_summary_counts_and_names_what_was_skipped() {
        let skipped = BTreeMap::from([("batch/v1/Job".to_owned(), 2), ("v1/Pod".to_owned(), 1)]);
        let summary = Summary { documents: 14, files: 1, errors: 1, warnings: 0, notes: 2, skipped, ms: 9 };
        assert_eq!(
            summary.line(),
            "checked 14 documents in 1 file in 9 ms: 1 error, 0 warnings, 2 notes; skipped 3 of kinds that are no business of a mesh (batch/v1/Job: 2, v1/Pod: 1)"
        );
    }
}
