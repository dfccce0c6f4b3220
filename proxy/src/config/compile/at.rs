//! Where in a resource we are reading, so that a refusal names the field.
//!
//! In:  steps from the resource's root. They live on the stack: a path costs nothing until it is printed.
//! Out: [`Refusal`]s, and notes about fields that are read but have no effect here.

use std::cell::RefCell;
use std::fmt;

use crate::telemetry::log_sink::LogSinks;

/// Why a resource cannot be used: the field's path in the message, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Refusal {
    pub path: String,
    pub reason: String,
}

pub(super) type Compiled<T> = Result<T, Refusal>;

/// What compiling needs beside the message.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) sinks: &'a LogSinks,
    notes: RefCell<Vec<String>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(sinks: &'a LogSinks) -> Self {
        Self { sinks, notes: RefCell::default() }
    }

    /// Fields that were set and have no effect, as `path: sentence`.
    pub(super) fn into_notes(self) -> Vec<String> {
        self.notes.into_inner()
    }
}

/// A place in a message.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    context: &'a Context<'a>,
    up: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'static str),
    Index(&'static str, usize),
    Key(&'static str, &'a str),
}

impl<'a> At<'a> {
    pub(super) fn root(context: &'a Context<'a>) -> Self {
        Self { context, up: None, step: Step::Root }
    }

    pub(super) fn field(&'a self, name: &'static str) -> At<'a> {
        At { context: self.context, up: Some(self), step: Step::Field(name) }
    }

    pub(super) fn index(&'a self, list: &'static str, index: usize) -> At<'a> {
        At { context: self.context, up: Some(self), step: Step::Index(list, index) }
    }

    pub(super) fn key(&'a self, map: &'static str, key: &'a str) -> At<'a> {
        At { context: self.context, up: Some(self), step: Step::Key(map, key) }
    }

    pub(super) fn context(&self) -> &'a Context<'a> {
        self.context
    }

    pub(super) fn refuse(&self, reason: impl fmt::Display) -> Refusal {
        Refusal { path: self.to_string(), reason: reason.to_string() }
    }

    pub(super) fn unsupported(&self) -> Refusal {
        self.refuse("is not supported")
    }

    /// Remembers that the field is read past.
    pub(super) fn note(&self, sentence: impl fmt::Display) {
        self.context.notes.borrow_mut().push(format!("{self}: {sentence}"));
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up
            && !matches!(up.step, Step::Root)
        {
            write!(formatter, "{up}.")?;
        }
        match self.step {
            Step::Root => formatter.write_str("resource"),
            Step::Field(name) => formatter.write_str(name),
            Step::Index(list, index) => write!(formatter, "{list}[{index}]"),
            Step::Key(map, key) => write!(formatter, "{map}[{key:?}]"),
        }
    }
}

/// Whether a field has its proto3 default, that is, is not set.
pub(super) fn is_unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Refuses the message when one of the fields is set: they would change what traffic does, and we do not do it.
macro_rules! refuse_set {
    ($message:expr, $at:expr, [$($field:ident),* $(,)?]) => {
        $(if !$crate::config::compile::at::is_unset(&$message.$field) {
            return Err($at.field(stringify!($field)).unsupported());
        })*
    };
}

/// Notes the fields that are set: they tune what we do otherwise or not at all.
macro_rules! note_set {
    ($message:expr, $at:expr, [$($field:ident),* $(,)?]) => {
        $(if !$crate::config::compile::at::is_unset(&$message.$field) {
            $at.field(stringify!($field)).note("has no effect yet");
        })*
    };
}

pub(super) use {note_set, refuse_set};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_field() {
        let sinks = LogSinks::default();
        let context = Context::new(&sinks);
        let root = At::root(&context);
        let chain = root.index("filter_chains", 2);
        let filter = chain.key("typed_per_filter_config", "envoy.cors");
        assert_eq!(filter.unsupported().to_string(), "filter_chains[2].typed_per_filter_config[\"envoy.cors\"]: is not supported");
        assert_eq!(root.refuse("has no name").to_string(), "resource: has no name");
        filter.field("x").note("has no effect");
        assert_eq!(context.into_notes(), ["filter_chains[2].typed_per_filter_config[\"envoy.cors\"].x: has no effect"]);
    }
}
