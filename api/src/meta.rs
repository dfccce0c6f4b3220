//! What every object has: its metadata, and how others refer to it.
//!
//! In:  `metadata`. Out: [`Metadata`], [`ObjectRef`].

use std::collections::BTreeMap;
use std::fmt;

use crate::message::{message, status};
use crate::object::Kind;

/// Labels, annotations and other maps of texts, in a stable order.
pub type Labels = BTreeMap<String, String>;

message! {
    /// Kubernetes' `ObjectMeta`, as far as a mesh reads it.
    pub struct Metadata = "metadata" {
        "name" name: String, enforced;
        /// `default` when missing; empty for kinds without a namespace.
        "namespace" namespace: String, enforced;
        "labels" labels: Labels, enforced;
        "annotations" annotations: Labels, enforced;
        /// RFC 3339; decides who is older in a cluster. Missing in files.
        "creationTimestamp" creation_timestamp: String, enforced;
        "resourceVersion" resource_version: String, enforced;
        "uid" uid: String, enforced;
        "generation" generation: i64, enforced;
    }
    ignored [
        "generateName", "managedFields", "ownerReferences", "finalizers", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds",
        "clusterName"
    ]
}

/// The identity of an object: prints as `Kind namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    pub kind: Kind,
    /// Empty for kinds without a namespace.
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// Whether `labels` has everything that `selector` asks for. An empty selector selects everything.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
