//! All valid objects of one generation: immutable, indexed, cheap to clone.
//!
//! In:  [`Valid`] objects in any order.
//! Out: [`ObjectSet`]: objects by kind and by name, oldest first; a second object of the same kind and name is a finding.

use std::collections::HashMap;
use std::sync::Arc;

use crate::finding::{Finding, Severity};
use crate::kinds;
use crate::object::{Kind, Object};
use crate::validate::Valid;

/// A position in an [`ObjectSet`], in order of age: of two objects the one with the smaller number is the older.
pub type ObjectIndex = u32;

/// An object of one kind, as found in a set.
#[derive(Debug)]
pub struct Of<'a, T> {
    pub index: ObjectIndex,
    pub object: &'a Arc<Valid<Object>>,
    pub spec: &'a T,
}

impl<T> Clone for Of<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Of<'_, T> {}

impl<'a, T> Of<'a, T> {
    pub fn name(&self) -> &'a str {
        &self.object.meta.name
    }

    pub fn namespace(&self) -> &'a str {
        &self.object.meta.namespace
    }
}

/// A kind that a set can be asked for.
pub trait OfKind: Sized + 'static {
    const KIND: Kind;
    fn of(object: &Object) -> Option<&Self>;
}

macro_rules! kinds {
    ($($kind:ident $accessor:ident,)*) => {$(
        impl OfKind for kinds::$kind {
            const KIND: Kind = Kind::$kind;
            fn of(object: &Object) -> Option<&Self> {
                object.$accessor()
            }
        }
    )*};
}

kinds! {
    VirtualService virtual_service,
    DestinationRule destination_rule,
    Gateway gateway,
    ServiceEntry service_entry,
    WorkloadEntry workload_entry,
    WorkloadGroup workload_group,
    Sidecar sidecar,
    ProxyConfig proxy_config,
    PeerAuthentication peer_authentication,
    RequestAuthentication request_authentication,
    AuthorizationPolicy authorization_policy,
    Telemetry telemetry,
    MeshConfig mesh_config,
    Service service,
    Namespace namespace,
    ServiceAccount service_account,
    Secret secret,
    ConfigMap config_map,
    Deployment deployment,
    Workload workload,
}

/// The objects of one generation.
#[derive(Clone, Debug, Default)]
pub struct ObjectSet(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Oldest first.
    objects: Vec<Arc<Valid<Object>>>,
    by_kind: HashMap<Kind, ByName>,
}

#[derive(Debug, Default)]
struct ByName {
    /// Oldest first.
    all: Vec<ObjectIndex>,
    /// By namespace, then name.
    named: HashMap<String, HashMap<String, ObjectIndex>>,
}

impl ObjectSet {
    /// Sorts by age (file path, then position in the file) and drops every object whose kind, namespace and name an older one has already;
    /// each dropped one is an error.
    pub fn new(objects: impl IntoIterator<Item = Arc<Valid<Object>>>) -> (Self, Vec<Finding>) {
        let mut sorted: Vec<_> = objects.into_iter().collect();
        sorted.sort_by(|a, b| age(a).cmp(&age(b)));
        let mut inner = Inner { objects: Vec::with_capacity(sorted.len()), by_kind: HashMap::new() };
        let mut findings = Vec::new();
        for object in sorted {
            let index = inner.objects.len() as ObjectIndex;
            let kind = inner.by_kind.entry(object.kind).or_default();
            let names = kind.named.entry(object.meta.namespace.clone()).or_default();
            if let Some(first) = names.get(&object.meta.name) {
                findings.push(duplicate(&object, &inner.objects[*first as usize]));
                continue;
            }
            names.insert(object.meta.name.clone(), index);
            kind.all.push(index);
            inner.objects.push(object);
        }
        (Self(Arc::new(inner)), findings)
    }

    /// Every object, oldest first.
    pub fn objects(&self) -> &[Arc<Valid<Object>>] {
        &self.0.objects
    }

    pub fn len(&self) -> usize {
        self.0.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.objects.is_empty()
    }

    /// The objects of a kind, oldest first.
    pub fn of<T: OfKind>(&self) -> impl ExactSizeIterator<Item = Of<'_, T>> {
        let all = self.0.by_kind.get(&T::KIND).map_or(&[][..], |kind| &kind.all);
        all.iter().map(|index| self.at(*index))
    }

    /// How many objects of a kind there are.
    pub fn count<T: OfKind>(&self) -> usize {
        self.0.by_kind.get(&T::KIND).map_or(0, |kind| kind.all.len())
    }

    /// The object of this kind, namespace and name.
    pub fn named<T: OfKind>(&self, namespace: &str, name: &str) -> Option<Of<'_, T>> {
        let index = self.0.by_kind.get(&T::KIND)?.named.get(namespace)?.get(name)?;
        Some(self.at(*index))
    }

    /// The object of kind `T` at an index that this set gave out for `T`.
    pub fn at<T: OfKind>(&self, index: ObjectIndex) -> Of<'_, T> {
        let object = &self.0.objects[index as usize];
        let spec = T::of(object).expect("an index is given out with its kind");
        Of { index, object, spec }
    }
}

/// What decides which of two objects is the older: file path, then position in the file.
fn age(object: &Object) -> (&str, usize) {
    (&object.file, object.document_index)
}

fn duplicate(object: &Object, first: &Object) -> Finding {
    Finding {
        severity: Severity::Error,
        code: "PLN2001",
        istio: None,
        object: object.reference().to_string(),
        path: "metadata.name".into(),
        message: format!("{} is defined twice; this one is not used", object.reference()),
        help: Some("rename it or delete one of the two; the first by file path, then by position in the file, stays in force".into()),
        place: object.place("metadata.name"),
        related: vec![(first.place("metadata.name"), "the one in force".into())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{Service, VirtualService};
    use crate::parse::parse;
    use crate::validate::validate;

    fn objects(file: &str, names: &[&str]) -> Vec<Arc<Valid<Object>>> {
        let text: String = names
            .iter()
            .map(|n| format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {n}}}\nspec: {{ports: [{{port: 80}}]}}\n"))
            .collect();
        parse(file, &text).objects.into_iter().map(|o| Arc::new(validate(o).0.expect("valid"))).collect()
    }

    #[test]
    fn the_older_of_two_stays_and_the_other_is_an_error_that_shows_it() {
        let all = objects("b.yaml", &["x", "web"]).into_iter().chain(objects("a.yaml", &["z", "x"]));
        let (set, findings) = ObjectSet::new(all);
        let names: Vec<(&str, &str)> = set.of::<Service>().map(|s| (&*s.object.file, s.name())).collect();
        assert_eq!(names, [("a.yaml", "z"), ("a.yaml", "x"), ("b.yaml", "web")]);
        let [finding] = &findings[..] else { panic!("one finding, {findings:?}") };
        assert_eq!((&*finding.place.file, finding.place.line, &*finding.related[0].0.file), ("b.yaml", 4, "a.yaml"));
        assert_eq!(set.named::<Service>("default", "x").map(|s| s.index), Some(1));
        assert!(set.named::<Service>("other", "x").is_none() && set.named::<VirtualService>("default", "x").is_none());
        assert_eq!((set.count::<Service>(), set.count::<VirtualService>(), set.len()), (3, 0, 3));
    }
}
