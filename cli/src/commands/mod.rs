//! One file per subcommand: its arguments, and the call that does it.
//!
//! In:  arguments. Out: exit codes.

pub mod child;
pub mod proxies;
pub mod proxy_config;
pub mod proxy_status;
pub mod run;
pub mod status;
pub mod suggest;
pub mod sweep;
pub mod translate;
pub mod validate;
pub mod version;
