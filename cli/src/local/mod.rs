//! The local mesh: `pillion run`. Control plane in this process, one sidecar process per workload, and the programs.
//!
//! In:  folders of YAML with Workloads; signals.
//! Out: processes, lines or JSON events, and an end that leaves nothing behind.
//!
//! Forward through the files: `sample` (which YAML) -> `control` (the control plane) -> `from_world` and `plan` (what should run) ->
//! `mesh` (start, end, change) -> `replica` (`env`, `proxy_command`, `child`, `supervise`) -> `readiness` and `probe` -> `banner` and `news`.

pub mod banner;
pub mod child;
mod control;
mod env;
pub mod events;
mod from_world;
mod hints;
mod mesh;
mod news;
pub mod output;
mod plan;
mod ports;
mod probe;
mod proxy_command;
mod readiness;
mod replica;
mod run;
mod sample;
mod signals;
mod state;
mod supervise;
pub mod sweeper;

pub use run::run;
