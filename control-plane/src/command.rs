//! `pillion-control-plane` as a program.
//!
//! In:  arguments, signals.
//! Out: a control plane until SIGINT or SIGTERM; an exit code.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::{self, StartError},
    bootstrap::Flags,
    telemetry,
};

const FAILED: u8 = 1;
const MISUSE: u8 = 2;

/// Runs until it is told to end. Exit codes: 0 ended in order, 1 could not start or failed, 2 wrong use.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let flags = match Flags::try_parse_from(arguments) {
        Ok(flags) => flags,
        Err(error) => {
            // Help and version are asked for, and go to standard output with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(MISUSE));
        }
    };
    if let Err(error) = telemetry::start_log(&flags.log_level, flags.log_format) {
        return complain(&error.context("--log-level"), MISUSE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into(), FAILED),
    };
    let code = runtime.block_on(run(&flags));
    // What still blocks a thread after the orderly end is not waited for.
    runtime.shutdown_background();
    code
}

async fn run(flags: &Flags) -> ExitCode {
    let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => return complain(&error.into(), FAILED),
    };
    let mut running = match app::start(flags.bootstrap()).await {
        Ok(running) => running,
        Err(error) => {
            let misuse = matches!(error.downcast_ref(), Some(StartError::Unreadable(_)));
            return complain(&error, if misuse { MISUSE } else { FAILED });
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        part = running.failed() => {
            tracing::error!(part, "a part of the control plane has ended by itself; start it again");
            running.shutdown().await;
            return ExitCode::from(FAILED);
        }
    }
    tracing::info!("ending");
    running.shutdown().await;
    ExitCode::SUCCESS
}

fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    use std::io::Write;
    // The log may be off, or in JSON for a machine; whoever started this reads standard error. Nobody is left to tell when that is closed.
    let _ = writeln!(std::io::stderr(), "pillion-control-plane: {error:#}");
    ExitCode::from(code)
}
