//! Which requests a route takes.
//!
//! In:  one `match` entry of a VirtualService, conditions about the client already resolved.
//! Out: Envoy's route match; its conditions in the order of their names.

use std::collections::BTreeMap;

use pillion_api::{kinds::virtual_service::HttpMatchRequest, string_match::StringMatch};

use super::wire::{
    self, boolean,
    matcher::{self, string_matcher::MatchPattern},
    regex,
    route::{
        HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
    },
};

/// Keys of `headers` that Istio ignores: they have fields of their own.
const OWN_FIELDS: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// Everything when there is no entry.
pub fn route_match(condition: Option<&HttpMatchRequest>) -> RouteMatch {
    let Some(condition) = condition else { return wire::every_path() };
    RouteMatch {
        path_specifier: Some(path(condition.uri.as_ref())),
        case_sensitive: if condition.ignore_uri_case { boolean(false) } else { None },
        headers: headers(condition),
        query_parameters: condition.query_params.iter().map(|(name, value)| query_parameter(name, value)).collect(),
        ..Default::default()
    }
}

/// A prefix is compared as raw text: `/foo` takes `/foobar`.
fn path(uri: Option<&StringMatch>) -> PathSpecifier {
    match uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(pattern)) if pattern != "*" => PathSpecifier::SafeRegex(regex(pattern)),
        _ => PathSpecifier::Prefix("/".to_owned()),
    }
}

fn headers(condition: &HttpMatchRequest) -> Vec<HeaderMatcher> {
    let mut all = Vec::new();
    let pseudo = [(":method", &condition.method), (":authority", &condition.authority), (":scheme", &condition.scheme)];
    for (name, value) in pseudo {
        all.extend(value.as_ref().map(|value| header(name, value)));
    }
    all.extend(named(&condition.headers).map(|(name, value)| header(name, value)));
    all.extend(named(&condition.without_headers).map(|(name, value)| without(name, value)));
    all
}

fn named(headers: &BTreeMap<String, StringMatch>) -> impl Iterator<Item = (&String, &StringMatch)> {
    headers.iter().filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str()))
}

fn header(name: &str, value: &StringMatch) -> HeaderMatcher {
    let specifier = match string(value) {
        None => HeaderMatchSpecifier::PresentMatch(true),
        Some(value) => HeaderMatchSpecifier::StringMatch(value),
    };
    HeaderMatcher { name: name.to_ascii_lowercase(), header_match_specifier: Some(specifier), ..Default::default() }
}

/// A missing header counts as an empty value, so it satisfies every condition but presence.
fn without(name: &str, value: &StringMatch) -> HeaderMatcher {
    HeaderMatcher { invert_match: true, treat_missing_header_as_empty: !value.is_presence(), ..header(name, value) }
}

fn query_parameter(name: &str, value: &StringMatch) -> QueryParameterMatcher {
    let specifier = match string(value) {
        None => QueryParameterMatchSpecifier::PresentMatch(true),
        Some(value) => QueryParameterMatchSpecifier::StringMatch(value),
    };
    QueryParameterMatcher { name: name.to_owned(), query_parameter_match_specifier: Some(specifier) }
}

/// `None` when only presence counts.
fn string(value: &StringMatch) -> Option<matcher::StringMatcher> {
    let pattern = match value {
        _ if value.is_presence() => return None,
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern)),
        StringMatch::Present => return None,
    };
    Some(matcher::StringMatcher { ignore_case: false, match_pattern: Some(pattern) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(change: impl FnOnce(&mut HttpMatchRequest)) -> RouteMatch {
        let mut condition = HttpMatchRequest::default();
        change(&mut condition);
        route_match(Some(&condition))
    }

    #[test]
    fn no_condition_takes_every_path() {
        assert_eq!(route_match(None), wire::every_path());
        assert_eq!(entry(|_| ()), wire::every_path());
        assert_eq!(entry(|c| c.uri = Some(StringMatch::Regex("*".to_owned()))), wire::every_path());
    }

    #[test]
    fn presence_has_two_spellings() {
        for value in [StringMatch::Present, StringMatch::Regex("*".to_owned())] {
            let made = entry(|c| drop(c.headers.insert("X-User".to_owned(), value.clone())));
            assert_eq!(made.headers[0].name, "x-user");
            assert_eq!(made.headers[0].header_match_specifier, Some(HeaderMatchSpecifier::PresentMatch(true)));
        }
    }

    #[test]
    fn a_missing_header_satisfies_without_headers_unless_presence_is_asked() {
        let value = entry(|c| drop(c.without_headers.insert("x".to_owned(), StringMatch::Exact("a".to_owned()))));
        assert!(value.headers[0].invert_match && value.headers[0].treat_missing_header_as_empty);
        let presence = entry(|c| drop(c.without_headers.insert("x".to_owned(), StringMatch::Present)));
        assert!(presence.headers[0].invert_match && !presence.headers[0].treat_missing_header_as_empty);
    }

    #[test]
    fn header_keys_with_a_field_of_their_own_are_ignored() {
        let made = entry(|c| drop(c.headers.insert("uri".to_owned(), StringMatch::Exact("/x".to_owned()))));
        assert!(made.headers.is_empty());
    }

    #[test]
    fn letter_case_is_said_only_when_it_is_ignored() {
        assert_eq!(entry(|c| c.ignore_uri_case = true).case_sensitive, boolean(false));
        assert_eq!(entry(|_| ()).case_sensitive, None);
    }
}
