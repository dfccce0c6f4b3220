//! `pillion version`.
//!
//! In:  nothing. Out: the version on standard output.

use std::{io::Write, process::ExitCode};

/// Prints the version of this binary.
pub fn run() -> ExitCode {
    // A closed pipe is the reader's business.
    let _ = writeln!(std::io::stdout(), "pillion {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}
