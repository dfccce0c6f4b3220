//! What a client's Sidecar lets it see.
//!
//! In:  the Sidecar in force for a scope, and the world.
//! Out: [`Seen`], with a fingerprint that changes only when something that is seen does.

use std::{hash::Hash, sync::Arc};

use pillion_api::{
    effective::{Import, MeshService, ServicePort, SidecarScope},
    kinds::Sidecar,
};
use xxhash_rust::xxh3::Xxh3;

use super::scope::Scope;
use crate::model::world::World;

/// The answers of one Sidecar for one namespace.
#[derive(Debug)]
pub struct Seen {
    pub scope: SidecarScope,
    /// Of the services, their endpoints and the policy for unknown hosts; routes have revisions of their own.
    pub fingerprint: u128,
}

/// A service as far as a client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a> {
    pub service: &'a Arc<MeshService>,
    pub ports: &'a [ServicePort],
}

impl<'a> Visible<'a> {
    pub fn whole(service: &'a Arc<MeshService>) -> Self {
        Self { service, ports: &service.ports }
    }

    pub fn imported(import: &'a Import) -> Self {
        Self { service: &import.service, ports: &import.ports }
    }
}

impl Seen {
    /// `None`: no Sidecar is in force, and everything exported to the namespace is seen.
    pub fn of(world: &World, scope: &Scope) -> Option<Self> {
        let (namespace, name) = scope.sidecar.as_ref()?;
        let sidecar = world.set().named::<Sidecar>(namespace, name)?;
        let seen = world.effective().sidecar_scope(&scope.namespace, sidecar);
        let fingerprint = fingerprint(world, &seen);
        Some(Self { scope: seen, fingerprint })
    }
}

fn fingerprint(world: &World, scope: &SidecarScope) -> u128 {
    let mut hash = Xxh3::new();
    scope.registry_only.hash(&mut hash);
    for imports in [&scope.services, &scope.called] {
        imports.len().hash(&mut hash);
        for Import { service, ports } in imports {
            (&service.host, &service.namespace, world.service_revision(service)).hash(&mut hash);
            world.endpoints(service).map(|endpoints| endpoints.revision).hash(&mut hash);
            ports.iter().map(|port| (port.number, port.protocol)).collect::<Vec<_>>().hash(&mut hash);
        }
    }
    hash.digest128()
}
