//! CORS policies of routes.
//!
//! In:  `corsPolicy` of a VirtualService.
//! Out: per-route configuration of the cors filter. Source: `TranslateCORSPolicy`.

use pillion_api::{
    kinds::virtual_service::{CorsPolicy, UnmatchedPreflights},
    string_match::StringMatch,
};

use super::wire::{self, boolean, core, cors, kind, matcher, regex};

/// The filter's name, and the key of per-route configuration.
pub const FILTER: &str = "envoy.filters.http.cors";

pub fn policy(policy: &CorsPolicy) -> cors::CorsPolicy {
    let origins = if policy.allow_origins.is_empty() {
        policy.allow_origin.iter().map(|origin| exact(origin)).collect()
    } else {
        policy.allow_origins.iter().filter_map(origin).collect()
    };
    let all = kind::FractionalPercent { numerator: 100, denominator: kind::fractional_percent::DenominatorType::Hundred as i32 };
    cors::CorsPolicy {
        allow_origin_string_match: origins,
        allow_methods: policy.allow_methods.join(","),
        allow_headers: policy.allow_headers.join(","),
        expose_headers: policy.expose_headers.join(","),
        // Whole seconds, the rest cut off.
        max_age: policy.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: policy.allow_credentials.and_then(boolean),
        filter_enabled: Some(core::RuntimeFractionalPercent { default_value: Some(all), runtime_key: String::new() }),
        forward_not_matching_preflights: boolean(policy.unmatched_preflights != UnmatchedPreflights::Ignore),
        ..Default::default()
    }
}

fn exact(text: &str) -> matcher::StringMatcher {
    pattern(matcher::string_matcher::MatchPattern::Exact(text.to_owned()))
}

fn pattern(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { ignore_case: false, match_pattern: Some(pattern) }
}

/// An origin that is compared with nothing allows nobody.
fn origin(origin: &StringMatch) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    match origin {
        StringMatch::Exact(text) => Some(exact(text)),
        StringMatch::Prefix(text) => Some(pattern(MatchPattern::Prefix(text.clone()))),
        StringMatch::Regex(text) => Some(pattern(MatchPattern::SafeRegex(regex(text)))),
        StringMatch::Present => None,
    }
}

/// The filter, which does nothing until a route speaks to it.
pub fn filter() -> wire::hcm::HttpFilter {
    wire::http_filter(FILTER, &cors::Cors::default())
}
