//! The one door: what each object must satisfy by itself. Rules between objects are warnings of `analyze`.
//!
//! In:  an [`Object`]. Out: [`Valid`], which nothing else can make, or every [`Finding`] that stands in the way.

mod authorization_policy;
mod check;
mod core;
mod destination_rule;
mod gateway;
mod http_route;
mod mesh_config;
mod metadata;
mod peer_authentication;
mod proxy_config;
mod request_authentication;
mod selector;
mod service_entry;
mod sidecar;
mod telemetry;
mod tls;
mod virtual_service;
mod workload;
mod workload_entry;
mod workload_group;

use std::ops::Deref;

use crate::finding::{Finding, Severity};
use crate::object::{Object, Spec};
use crate::path::Path;
use check::Check;

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

/// Checks one object. The findings of reading it are in `Parsed::findings`; an object that could not be read completely is not valid.
pub fn validate(object: Object) -> (Option<Valid<Object>>, Vec<Finding>) {
    let mut check = Check::new(&object);
    metadata::check(&mut check, object.kind, &object.meta);
    let spec = Path::ROOT.field("spec");
    match &object.spec {
        Spec::VirtualService(body) => virtual_service::check(&mut check, &spec, body),
        Spec::DestinationRule(body) => destination_rule::check(&mut check, &spec, body),
        Spec::Gateway(body) => gateway::check(&mut check, &spec, body),
        Spec::ServiceEntry(body) => service_entry::check(&mut check, &spec, body),
        Spec::WorkloadEntry(body) => workload_entry::check(&mut check, &spec, body),
        Spec::WorkloadGroup(body) => workload_group::check(&mut check, &spec, body),
        Spec::Sidecar(body) => sidecar::check(&mut check, &spec, body),
        Spec::ProxyConfig(body) => proxy_config::check(&mut check, &spec, body),
        Spec::PeerAuthentication(body) => peer_authentication::check(&mut check, &spec, body),
        Spec::RequestAuthentication(body) => request_authentication::check(&mut check, &spec, body),
        Spec::AuthorizationPolicy(body) => authorization_policy::check(&mut check, &spec, body),
        Spec::Telemetry(body) => telemetry::check(&mut check, &spec, body),
        Spec::MeshConfig(body) => mesh_config::check(&mut check, &Path::ROOT, body),
        Spec::Service(body) => core::service(&mut check, &spec, body),
        Spec::Deployment(body) => core::deployment(&mut check, &spec, body),
        Spec::Workload(body) => workload::check(&mut check, &spec, body),
        Spec::Namespace(_) | Spec::ServiceAccount(_) | Spec::Secret(_) | Spec::ConfigMap(_) => {}
    }
    let mut findings = check.finish();
    findings.sort_by_key(|finding| finding.place.start);
    let valid = object.is_readable() && findings.iter().all(|finding| finding.severity != Severity::Error);
    (valid.then_some(Valid(object)), findings)
}
