//! Everything one generation of configuration says, indexed for translation. Immutable.
//!
//! In:  the valid objects, the running instances, the previous generation.
//! Out: [`World`]: precedence answers, endpoints of every service, and revisions that tell what changed.

use std::{collections::HashMap, sync::Arc};

use pillion_api::{
    effective::{Effective, MeshService},
    kinds::{DestinationRule, Gateway, VirtualService, WorkloadEntry},
    set::{ObjectIndex, ObjectSet, Of, OfKind},
};

use super::{
    endpoints::{self, ServiceEndpoints},
    instance::{Instance, InstanceId, Instances},
    revision::Revision,
};

/// One generation.
#[derive(Debug)]
pub struct World {
    /// Counted from 1.
    pub generation: u64,
    pub instances: Instances,
    effective: Effective,
    /// By object; only kinds that translation caches by.
    objects: Vec<Revision>,
    /// In the order of `effective.services()`.
    services: Vec<ServiceFacts>,
    by_address: HashMap<usize, usize>,
    revisions: Revisions,
    label_sensitive: bool,
}

/// When whole groups of things last changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Revisions {
    pub mesh: Revision,
    pub services: Revision,
    pub endpoints: Revision,
    pub destination_rules: Revision,
    pub gateways: Revision,
    entries: Revision,
}

#[derive(Debug)]
struct ServiceFacts {
    revision: Revision,
    endpoints: Arc<ServiceEndpoints>,
}

impl World {
    /// The next generation. MeshConfig comes from the objects (ConfigMap `istio`).
    pub fn build(generation: u64, set: ObjectSet, instances: Instances, previous: Option<&World>) -> Self {
        Self::of(generation, Effective::new(set, None), instances, previous)
    }

    /// The next generation under these rules of precedence.
    ///
    /// What is equal to the previous generation keeps its revision, so that nothing of it is translated again.
    pub fn of(generation: u64, effective: Effective, instances: Instances, previous: Option<&World>) -> Self {
        let mut objects = vec![Revision::default(); effective.set().len()];
        let routes_are_label_sensitive = effective.set().of::<VirtualService>().any(is_label_sensitive);
        revise::<VirtualService>(&effective, previous, &mut objects);
        revise_delegating(&effective, previous, &mut objects);
        let rules = revise::<DestinationRule>(&effective, previous, &mut objects);
        let gateways = revise::<Gateway>(&effective, previous, &mut objects);
        let entries = revise::<WorkloadEntry>(&effective, previous, &mut objects)
            || previous.is_none_or(|world| !same_entries(&effective, &world.effective));
        let before = previous.map(|world| world.revisions);
        let same_mesh = previous.is_some_and(|world| {
            let (now, old) = (effective.mesh(), world.effective.mesh());
            now.config == old.config && now.root_namespace == old.root_namespace && now.cluster_domain == old.cluster_domain
        });
        let (service_revisions, old_facts, same_services) = revise_services(&effective, previous);
        let mut revisions = Revisions {
            mesh: Revision::keep(before.map(|r| r.mesh), same_mesh),
            services: Revision::keep(before.map(|r| r.services), same_services),
            endpoints: Revision::default(),
            destination_rules: Revision::keep(before.map(|r| r.destination_rules), !rules),
            gateways: Revision::keep(before.map(|r| r.gateways), !gateways),
            entries: Revision::keep(before.map(|r| r.entries), !entries),
        };
        let old_endpoints = |at: usize| previous.zip(old_facts[at]).map(|(world, old)| world.services[old].endpoints.clone());
        let same_places = previous.is_some_and(|world| same_services && !entries && Arc::ptr_eq(&world.instances, &instances));
        let endpoints: Vec<Arc<ServiceEndpoints>> = if same_places {
            (0..service_revisions.len()).map(|at| old_endpoints(at).unwrap_or_default()).collect()
        } else {
            endpoints::keep_unchanged(endpoints::resolve(&effective, &instances), old_endpoints)
        };
        let same_endpoints = previous.is_some_and(|world| {
            same_services && world.services.iter().map(|s| s.endpoints.revision).eq(endpoints.iter().map(|e| e.revision))
        });
        revisions.endpoints = Revision::keep(before.map(|r| r.endpoints), same_endpoints);
        let services =
            service_revisions.into_iter().zip(endpoints).map(|(revision, endpoints)| ServiceFacts { revision, endpoints }).collect();
        let by_address = effective.services().iter().enumerate().map(|(at, service)| (identity(service), at)).collect();
        let label_sensitive = routes_are_label_sensitive || effective.merged_rules().any(|rule| rule.clients.is_some());
        Self { generation, instances, effective, objects, services, by_address, revisions, label_sensitive }
    }

    pub fn set(&self) -> &ObjectSet {
        self.effective.set()
    }

    /// The precedence rules over this generation's objects.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }

    pub fn revisions(&self) -> Revisions {
        self.revisions
    }

    /// Of a VirtualService, DestinationRule, Gateway or WorkloadEntry.
    pub fn object_revision(&self, index: ObjectIndex) -> Revision {
        self.objects.get(index as usize).copied().unwrap_or_default()
    }

    /// Of one of `effective().services()`.
    pub fn service_revision(&self, service: &Arc<MeshService>) -> Revision {
        self.facts(service).map(|facts| facts.revision).unwrap_or_default()
    }

    /// The endpoints of one of `effective().services()`; only ready instances are among them.
    pub fn endpoints(&self, service: &Arc<MeshService>) -> Option<&Arc<ServiceEndpoints>> {
        self.facts(service).map(|facts| &facts.endpoints)
    }

    pub fn instance(&self, namespace: &str, name: &str) -> Option<&Instance> {
        self.instances.get(&InstanceId { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Whether what a client sees may depend on its labels, not only on its namespace.
    pub fn is_label_sensitive(&self) -> bool {
        self.label_sensitive
    }

    fn facts(&self, service: &Arc<MeshService>) -> Option<&ServiceFacts> {
        self.by_address.get(&identity(service)).map(|at| &self.services[*at])
    }
}

/// A service by its place in memory; the world holds it there.
fn identity(service: &Arc<MeshService>) -> usize {
    Arc::as_ptr(service) as usize
}

fn is_label_sensitive(item: Of<'_, VirtualService>) -> bool {
    item.spec.http.iter().flat_map(|rule| &rule.r#match).any(|condition| !condition.source_labels.is_empty())
}

/// Gives every object of a kind its revision; true when anything of the kind changed, came or went.
fn revise<T: OfKind + PartialEq>(effective: &Effective, previous: Option<&World>, revisions: &mut [Revision]) -> bool {
    // A change of age changes who wins.
    let mut changed = previous.is_none_or(|world| {
        let (old, now) = (world.set().of::<T>(), effective.set().of::<T>());
        old.len() != now.len() || !old.zip(now).all(|(a, b)| a.name() == b.name() && a.namespace() == b.namespace())
    });
    for item in effective.set().of::<T>() {
        let old = previous.and_then(|world| world.set().named::<T>(item.namespace(), item.name()).map(|old| (world, old)));
        let same = old.is_some_and(|(_, old)| Arc::ptr_eq(old.object, item.object) || old.spec == item.spec);
        revisions[item.index as usize] = Revision::keep(old.map(|(world, old)| world.object_revision(old.index)), same);
        changed |= !same;
    }
    changed
}

/// Whether WorkloadEntries are labelled and named as they were: selectors ask for what the objects say of themselves, too.
fn same_entries(now: &Effective, old: &Effective) -> bool {
    let (now, old) = (now.set().of::<WorkloadEntry>(), old.set().of::<WorkloadEntry>());
    now.zip(old).all(|(a, b)| (&a.object.meta.labels, &a.object.meta.annotations) == (&b.object.meta.labels, &b.object.meta.annotations))
}

/// A VirtualService that delegates is another one when its delegates are.
fn revise_delegating(effective: &Effective, previous: Option<&World>, revisions: &mut [Revision]) {
    let Some(world) = previous else { return };
    for item in effective.set().of::<VirtualService>() {
        let Some(merged) = effective.merged(item) else { continue };
        let old = world.set().named::<VirtualService>(item.namespace(), item.name());
        if old.and_then(|old| world.effective.merged(old)).is_none_or(|old| old.rules != merged.rules) {
            revisions[item.index as usize] = Revision::fresh();
        }
    }
}

/// Revision of every service, its position in the previous generation, and whether all are as they were.
fn revise_services(effective: &Effective, previous: Option<&World>) -> (Vec<Revision>, Vec<Option<usize>>, bool) {
    let services = effective.services();
    let Some(world) = previous else {
        return (services.iter().map(|_| Revision::fresh()).collect(), vec![None; services.len()], false);
    };
    let old = world.effective.services();
    let index: HashMap<(&str, &str), usize> = old.iter().enumerate().map(|(at, s)| ((s.host.as_str(), s.namespace.as_str()), at)).collect();
    let positions: Vec<Option<usize>> = services.iter().map(|s| index.get(&(s.host.as_str(), s.namespace.as_str())).copied()).collect();
    let mut all_same = old.len() == services.len();
    let mut revisions = Vec::with_capacity(services.len());
    for (at, (service, position)) in services.iter().zip(&positions).enumerate() {
        let same = position.is_some_and(|position| same_service(service, &old[position]));
        // The order decides between services of one host.
        all_same &= same && *position == Some(at);
        revisions.push(Revision::keep(position.map(|position| world.services[position].revision), same));
    }
    (revisions, positions, all_same)
}

/// Whether two services say the same; where their object stands among the others does not matter.
fn same_service(a: &MeshService, b: &MeshService) -> bool {
    if a.object == b.object {
        return a == b;
    }
    let mut moved = a.clone();
    moved.object = b.object;
    moved == *b
}
