//! CORS policies.
//!
//! In:  `CorsPolicy` of a route and of its virtual host.
//! Out: one [`Cors`], or none where neither has one.

use http::HeaderValue;
use pillion_xds::wire::envoy::extensions::filters::http::cors::v3::CorsPolicy;

use super::at::{At, Compiled};
use super::mirror::share;
use super::value::{header_value, text_match};
use crate::config::route_table::{Cors, CorsList, Fraction};
use crate::route::select::matches_text;

/// The route's fields, and the virtual host's where the route leaves them out; who is asked at all is said by the nearest policy alone.
///
/// Source: Envoy `CorsFilter::initializeCorsPolicies` and its accessors.
pub(super) fn policy(at: &At<'_>, route: Option<&CorsPolicy>, host: Option<&CorsPolicy>) -> Compiled<Option<Box<Cors>>> {
    let policies = || [route, host].into_iter().flatten();
    let Some(nearest) = policies().next() else { return Ok(None) };
    if nearest.shadow_enabled.is_some() {
        at.field("shadow_enabled").note("only counts, and is not counted");
    }
    let text = |field: fn(&CorsPolicy) -> &str| policies().map(field).find(|text| !text.is_empty()).unwrap_or_default();
    let fixed = |name: &'static str, text: &str| -> Compiled<Option<HeaderValue>> {
        if text.is_empty() { Ok(None) } else { header_value(&at.field(name), text).map(Some) }
    };
    let list = |name: &'static str, text: &str| -> Compiled<CorsList> {
        Ok(match fixed(name, text)? {
            None => CorsList::Unsaid,
            Some(_) if text == "*" => CorsList::Asked,
            Some(value) => CorsList::Fixed(value),
        })
    };
    let origins = policies().map(|policy| &policy.allow_origin_string_match[..]).find(|list| !list.is_empty()).unwrap_or_default();
    let origins = origins.iter().enumerate().map(|(index, rule)| text_match(&at.index("allow_origin_string_match", index), rule));
    let origins = origins.collect::<Compiled<Vec<_>>>()?;
    Ok(Some(Box::new(Cors {
        share: match &nearest.filter_enabled {
            Some(enabled) => share(&at.field("filter_enabled"), enabled)?,
            None => Fraction::ALWAYS,
        },
        any_origin: origins.iter().any(|rule| matches_text(rule, b"*")),
        origins,
        methods: list("allow_methods", text(|policy| &policy.allow_methods))?,
        headers: list("allow_headers", text(|policy| &policy.allow_headers))?,
        expose: fixed("expose_headers", text(|policy| &policy.expose_headers))?,
        max_age: fixed("max_age", text(|policy| &policy.max_age))?,
        credentials: policies().find_map(|policy| policy.allow_credentials).is_some_and(|allowed| allowed.value),
        private_network: policies().find_map(|policy| policy.allow_private_network_access).is_some_and(|allowed| allowed.value),
        forward_unmatched: policies().find_map(|policy| policy.forward_not_matching_preflights).is_none_or(|forward| forward.value),
    })))
}
