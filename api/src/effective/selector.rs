//! Which workload-scoped objects select a workload.
//!
//! In:  PeerAuthentication, AuthorizationPolicy, RequestAuthentication, Telemetry and Sidecar objects.
//! Out: the ones in force for a workload's namespace and labels.

use std::collections::HashMap;

use crate::kinds::selector::WorkloadSelector;
use crate::meta::{Labels, selects};
use crate::set::{ObjectIndex, ObjectSet, Of, OfKind};

/// How a kind says what it selects.
pub trait Scoped: OfKind {
    /// The wanted labels; `None`: everything in its namespace (in the root namespace: everything).
    fn selector(&self) -> Option<&Labels>;
    /// Attached to a Gateway or Service instead (`targetRefs`), so never to a workload by labels.
    fn is_attached(&self) -> bool {
        false
    }
}

/// Labels of a selector; an absent one and an empty one select alike.
pub fn labels_of(selector: Option<&WorkloadSelector>) -> Option<&Labels> {
    selector.map(|s| &s.match_labels).filter(|labels| !labels.is_empty())
}

/// The objects of one kind by namespace, oldest first.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    by_namespace: HashMap<String, Scope>,
}

#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Without selector.
    pub general: Vec<ObjectIndex>,
    pub selecting: Vec<ObjectIndex>,
}

impl Scopes {
    pub fn new<T: Scoped>(set: &ObjectSet) -> Self {
        let mut scopes = Self::default();
        for item in set.of::<T>().filter(|item| !item.spec.is_attached()) {
            let scope = scopes.by_namespace.entry(item.namespace().to_owned()).or_default();
            if item.spec.selector().is_some() { &mut scope.selecting } else { &mut scope.general }.push(item.index);
        }
        scopes
    }

    pub fn general<'a, T: Scoped>(&'a self, set: &'a ObjectSet, namespace: &str) -> impl Iterator<Item = Of<'a, T>> + use<'a, T> {
        self.by_namespace.get(namespace).into_iter().flat_map(|s| &s.general).map(|i| set.at(*i))
    }

    /// Those of `namespace` whose selector names these labels.
    pub fn selecting<'a, T: Scoped>(
        &'a self,
        set: &'a ObjectSet,
        namespace: &str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = Of<'a, T>> + use<'a, T> {
        let all = self.by_namespace.get(namespace).into_iter().flat_map(|s| &s.selecting).map(|i| set.at::<T>(*i));
        all.filter(|item| item.spec.selector().is_some_and(|wanted| selects(wanted, labels)))
    }

    /// Everything of the root namespace and of `namespace` that selects the workload, root first, oldest first within each.
    pub fn all<'a, T: Scoped>(&'a self, set: &'a ObjectSet, root: &str, namespace: &str, labels: &'a Labels) -> Vec<Of<'a, T>> {
        let mut found = Vec::new();
        let namespaces = if root == namespace { vec![namespace] } else { vec![root, namespace] };
        for ns in namespaces {
            let start = found.len();
            found.extend(self.general(set, ns));
            found.extend(self.selecting(set, ns, labels));
            found[start..].sort_by_key(|item: &Of<'_, T>| item.index);
        }
        found
    }
}
