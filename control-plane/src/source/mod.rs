//! Where objects come from. Every source tells the store in one vocabulary, [`change`].

pub mod change;
pub mod files;
