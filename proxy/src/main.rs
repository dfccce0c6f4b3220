//! `pillion-proxy`: see the library.
#![deny(unsafe_code)]

use std::process::ExitCode;

/// Small, and quick to build; the system's allocator keeps more of what worker threads free.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pillion_proxy::main_with(std::env::args_os())
}
