//! Mirrors of a route.
//!
//! In:  `request_mirror_policies`.
//! Out: [`Mirror`]s; those that would never be drawn are left out.

use pillion_xds::wire::envoy::config::core::v3::RuntimeFractionalPercent;
use pillion_xds::wire::envoy::config::route::v3::route_action::RequestMirrorPolicy;

use super::at::{At, Compiled, refuse_set};
use super::value::{fraction, header_value, resource_name};
use crate::config::cluster::ClusterName;
use crate::config::route_table::{Fraction, Mirror};

/// Each is another request: more is a mistake.
const MOST_MIRRORS: usize = 16;

pub(super) fn mirrors(at: &At<'_>, policies: &[RequestMirrorPolicy]) -> Compiled<Box<[Mirror]>> {
    if policies.len() > MOST_MIRRORS {
        return Err(at.field("request_mirror_policies").refuse(format_args!("has at most {MOST_MIRRORS}")));
    }
    let all = policies.iter().enumerate().map(|(index, policy)| mirror(&at.index("request_mirror_policies", index), policy));
    let all = all.collect::<Compiled<Vec<_>>>()?;
    Ok(all.into_iter().filter(|mirror| mirror.share.numerator > 0).collect())
}

fn mirror(at: &At<'_>, policy: &RequestMirrorPolicy) -> Compiled<Mirror> {
    refuse_set!(policy, at, [cluster_header, request_headers_mutations]);
    resource_name(&at.field("cluster"), &policy.cluster)?;
    let host =
        (!policy.host_rewrite_literal.is_empty()).then(|| header_value(&at.field("host_rewrite_literal"), &policy.host_rewrite_literal));
    Ok(Mirror {
        cluster: ClusterName::new(policy.cluster.as_str()),
        share: match &policy.runtime_fraction {
            Some(runtime) => share(&at.field("runtime_fraction"), runtime)?,
            None => Fraction::ALWAYS,
        },
        shadow_host: !policy.disable_shadow_host_suffix_append && host.is_none(),
        host: host.transpose()?,
    })
}

/// The share that a runtime value has without a runtime.
pub(super) fn share(at: &At<'_>, runtime: &RuntimeFractionalPercent) -> Compiled<Fraction> {
    let at = at.field("default_value");
    runtime.default_value.as_ref().map_or_else(|| Err(at.refuse("is missing")), |value| fraction(&at, value))
}
