//! The one door: what each object must satisfy by itself. Rules between objects are warnings of `analyze`.
//!
//! In:  an [`Object`]. Out: [`Valid`], which nothing else can make, or every [`Finding`] that stands in the way.

use std::ops::Deref;

use crate::finding::Finding;
use crate::object::Object;

/// Something that passed [`validate`]. Only this module makes one.
#[derive(Clone, Debug)]
pub struct Valid<T>(T);

impl<T> Valid<T> {
    /// The object, no longer known to be valid.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Valid<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Checks one object. Findings of reading it are in `Parsed::findings` already; an object that could not be read completely is not valid.
pub fn validate(object: Object) -> (Option<Valid<Object>>, Vec<Finding>) {
    let findings = Vec::new();
    let valid = object.is_readable() && findings.iter().all(|finding: &Finding| finding.severity != crate::finding::Severity::Error);
    (valid.then_some(Valid(object)), findings)
}
