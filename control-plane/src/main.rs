//! `pillion-control-plane`.
#![deny(unsafe_code)]

fn main() -> std::process::ExitCode {
    pillion_control_plane::main_with(std::env::args_os())
}
