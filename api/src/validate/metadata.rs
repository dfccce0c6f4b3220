//! Rules of metadata, the same for every kind. Source: Kubernetes' naming rules.
//!
//! In:  metadata. Out: findings.

use super::check::{Check, is_dns_label, is_dns_subdomain};
use crate::code;
use crate::meta::Metadata;
use crate::object::Kind;
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, kind: Kind, meta: &Metadata) {
    if kind == Kind::MeshConfig {
        return;
    }
    let root = Path::ROOT.field("metadata");
    // A Service's and a Namespace's name is a label of host names.
    let label = matches!(kind, Kind::Service | Kind::Namespace | Kind::Workload);
    let good = if label { is_dns_label(&meta.name) } else { is_dns_subdomain(&meta.name) };
    if !good && !meta.name.is_empty() {
        let help =
            if label { "lower-case letters, digits and `-`, at most 63" } else { "lower-case letters, digits, `-` and `.`, at most 253" };
        cx.error(code::METADATA, &root.field("name"), format!("`{}` cannot be the name of a {kind}", meta.name), help);
    }
    if kind.is_namespaced() {
        cx.dns_label(&root.field("namespace"), &meta.namespace, "namespace");
    }
    cx.labels(&root.field("labels"), &meta.labels);
}
