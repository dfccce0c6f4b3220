//! `pillion child --parent PID -- COMMAND`: what the local mesh starts everything with.
//!
//! In:  the parent's process id, a command.
//! Out: nothing: this process becomes the command, and dies with its parent.

use std::{ffi::OsString, process::ExitCode};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The process to die with; it must be the one that starts this.
    #[arg(long)]
    parent: u32,
    /// What to become.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Returns only when it fails.
pub fn run(args: &Args) -> ExitCode {
    eprintln!("{}", crate::local::child::become_child(args.parent, &args.command));
    ExitCode::from(127)
}
