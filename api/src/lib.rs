#![deny(unsafe_code)]

pub mod finding;
