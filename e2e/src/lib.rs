//! The whole mesh under test: real processes, real sockets, strangers' programs.
//!
//! In:  folders of YAML, edits, requests.
//! Out: what a user would see; every wait is bounded and names what it waited for.
#![deny(unsafe_code)]

pub mod client;
pub mod from_files;
pub mod mesh;
pub mod metrics;
pub mod peers;
pub mod planes;
pub mod raw;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// A binary of ours: from the folder that `PILLION_BINARIES` names (relative to the workspace), else built by the same cargo run as this test.
///
/// # Panics
/// When it is not there.
pub fn binary(name: &str) -> PathBuf {
    let path = binaries().join(name);
    assert!(path.exists(), "{} is not built: run `cargo test` for the whole workspace, or `cargo build --workspace` first", path.display());
    path
}

/// Whether our binaries are those that users run: figures of unoptimised ones mean nothing.
pub fn optimised() -> bool {
    !binaries().ends_with("debug")
}

fn binaries() -> PathBuf {
    if let Some(chosen) = std::env::var_os("PILLION_BINARIES") {
        return workspace().join(chosen);
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    test.ancestors().nth(2).expect("tests live in <target>/<profile>/deps").to_path_buf()
}

/// How long a shape runs: whole with `PILLION_SOAK`, a fifth of it otherwise.
pub fn length(whole: usize) -> usize {
    if std::env::var_os("PILLION_SOAK").is_some() { whole } else { (whole / 5).max(1) }
}

/// Asks `probe` again and again until it answers or `limit` has passed.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
