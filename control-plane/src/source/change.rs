//! What every source of objects says to the store.
//!
//! In:  nothing; these are values.
//! Out: [`Batch`]es of [`Change`]s, each naming the text that changed by its origin.

use std::{sync::Arc, time::Instant};

use pillion_api::finding::Finding;

/// Where a text comes from: a file's path as the user gave it (joined with the folder that was named), or a cluster's address of an object.
pub type Origin = Arc<str>;

/// Which reader a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Objects, any number of documents.
    Objects,
    /// The file of `--mesh-config`: the fields of MeshConfig themselves, or the ConfigMap that carries them.
    MeshConfig,
}

/// One change of one text.
#[derive(Clone, Debug)]
pub enum Change {
    /// The text is new or another than before. Ends the trouble of its origin.
    Put { origin: Origin, content: Content, text: Arc<str> },
    /// The text is gone for good, and its objects with it.
    Removed { origin: Origin },
    /// The text cannot be read now: what was read last stays in force. `None`: it can be read again, and says what it said before.
    Trouble { origin: Origin, finding: Option<Finding> },
}

impl Change {
    /// Which text it is about.
    pub fn origin(&self) -> &Origin {
        match self {
            Self::Put { origin, .. } | Self::Removed { origin } | Self::Trouble { origin, .. } => origin,
        }
    }
}

/// Changes that belong together: the store makes at most one generation of them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// When the first of them was noticed.
    pub noticed: Instant,
    pub changes: Vec<Change>,
}
