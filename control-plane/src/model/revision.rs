//! Says cheaply whether something is still what it was.
//!
//! In:  nothing. Out: [`Revision`]s: equal means unchanged since an earlier generation; never sent anywhere.

use std::sync::atomic::{AtomicU64, Ordering};

/// Identifies one content of one thing. Equal revisions mean equal content; the reverse does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(u64);

impl Revision {
    /// One that nothing has had before.
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The previous one when `unchanged`, else a fresh one.
    pub fn keep(previous: Option<Self>, unchanged: bool) -> Self {
        previous.filter(|_| unchanged).unwrap_or_else(Self::fresh)
    }
}
