//! `pillion sweep`: waits for the end of the mesh that started it, and ends what is left.
//!
//! In:  process groups on standard input. Out: see [`crate::local::sweeper`].

use std::{path::PathBuf, process::ExitCode};

use crate::local::sweeper;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder to remove at the end.
    folder: Option<PathBuf>,
}

/// Returns when the mesh has ended.
pub fn run(args: Args) -> ExitCode {
    sweeper::sweep(std::io::stdin().lock(), args.folder, sweeper::kill_group);
    ExitCode::SUCCESS
}
