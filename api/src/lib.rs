//! Istio-shaped kinds: YAML text in, checked objects out, and which rule applies to whom.
//!
//! In:  YAML or JSON text. Out: `Valid<T>` objects or findings with places. Pure: no I/O, no clock.

#![deny(unsafe_code)]

mod message;

pub mod analyze;
pub mod check;
pub mod code;
pub mod compatibility;
pub mod decode;
pub mod duration;
pub mod effective;
pub mod finding;
pub mod host;
pub mod kinds;
pub mod meta;
pub mod node;
pub mod object;
pub mod parse;
pub mod path;
pub mod render;
pub mod set;
pub mod string_match;
pub mod table;
pub mod validate;
pub mod yaml;

pub use check::{Checked, check};
