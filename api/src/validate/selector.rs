//! Rules of selectors and targets, shared by the security and telemetry kinds.
//!
//! In:  `selector`, `targetRef`, `targetRefs`. Out: findings.

use std::collections::BTreeMap;

use super::check::Check;
use crate::code;
use crate::kinds::selector::{PolicyTargetReference, WorkloadSelector};
use crate::path::Path;

const MAX_TARGETS: usize = 16;
const TARGETS: [(&str, &str); 4] = [
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
];

pub(super) fn selector(cx: &mut Check<'_>, path: &Path<'_>, selector: Option<&WorkloadSelector>) {
    if let Some(selector) = selector {
        match_labels(cx, &path.field("matchLabels"), &selector.match_labels);
    }
}

/// Labels of a selector: no wildcards.
pub(super) fn match_labels(cx: &mut Check<'_>, path: &Path<'_>, labels: &BTreeMap<String, String>) {
    for (key, value) in labels {
        if key.contains('*') || value.contains('*') {
            let help = "selectors compare whole labels; leave the label out to select all of its values";
            cx.error(code::LABEL, &path.key(key), format!("`{key}: {value}` has a wildcard"), help);
            return;
        }
    }
    cx.labels(path, labels);
}

pub(super) fn targets(
    cx: &mut Check<'_>,
    path: &Path<'_>,
    selector: Option<&WorkloadSelector>,
    one: Option<&PolicyTargetReference>,
    many: &[PolicyTargetReference],
) {
    let given =
        usize::from(selector.is_some_and(|s| !s.match_labels.is_empty())) + usize::from(one.is_some()) + usize::from(!many.is_empty());
    if given > 1 {
        let last = if many.is_empty() { "targetRef" } else { "targetRefs" };
        cx.error(code::TARGET, &path.field(last), "selector, targetRef and targetRefs exclude each other", "keep one of them");
    }
    if many.len() > MAX_TARGETS {
        cx.error(code::TARGET, &path.field("targetRefs"), format!("at most {MAX_TARGETS} targets are allowed"), "");
    }
    if let Some(one) = one {
        target(cx, &path.field("targetRef"), one);
    }
    for (index, reference) in many.iter().enumerate() {
        target(cx, &path.field("targetRefs").index(index), reference);
    }
}

fn target(cx: &mut Check<'_>, path: &Path<'_>, reference: &PolicyTargetReference) {
    cx.required(&path.field("name"), &reference.name, "the name of the target");
    if cx.required(&path.field("kind"), &reference.kind, "the kind of the target") {
        let group = if reference.group == "core" { "" } else { reference.group.as_str() };
        if !TARGETS.contains(&(group, reference.kind.as_str())) {
            let message = format!("`{}` of `{}` cannot be a target", reference.kind, reference.group);
            cx.error(code::TARGET, &path.field("kind"), message, "Gateway, GatewayClass, Service or ServiceEntry, each with its group");
        }
    }
    if !reference.namespace.is_empty() && reference.namespace != cx.namespace() {
        cx.error(code::TARGET, &path.field("namespace"), "a target must be in the policy's own namespace", "remove it");
    }
}
