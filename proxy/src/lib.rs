//! The sidecar and gateway: listener -> http -> route -> policy -> retry -> balance -> connect.
//!
//! In:  bytes from sockets, and xDS.
//! Out: bytes to sockets, and telemetry.
#![deny(unsafe_code)]

pub mod admin;
pub mod app;
pub mod balance;
pub mod bootstrap;
pub mod config;
pub mod connect;
pub mod drain;
pub mod http;
pub mod listener;
pub mod policy;
pub mod retry;
pub mod route;
pub mod tcp;
pub mod telemetry;
pub mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub use bootstrap::{Args, Bootstrap};

/// Runs the proxy of a command line, program name first, until it is told to stop. `pillion proxy` calls this too.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Args::try_parse_from(arguments) {
        Ok(args) => run(args),
        Err(error) => {
            // Nothing can be done when even the help cannot be printed.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        }
    }
}

/// The same, for settings that are read already.
pub fn run(args: Args) -> ExitCode {
    let result = match Bootstrap::new(args) {
        Ok(bootstrap) => app::run(bootstrap),
        Err(error) => {
            eprintln!("pillion-proxy: {error}");
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("pillion-proxy: {error:#}");
        ExitCode::FAILURE
    })
}
