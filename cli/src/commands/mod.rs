//! One file per subcommand: its arguments, and the call that does it.
//!
//! In:  arguments. Out: exit codes.

pub mod child;
pub mod proxies;
pub mod run;
pub mod status;
pub mod sweep;
pub mod validate;
pub mod version;
