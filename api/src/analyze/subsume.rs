//! Whether one match entry takes every request that another one takes.
//!
//! In:  two conditions. Out: yes, or "cannot be shown": a `false` never causes a finding.

use std::collections::BTreeMap;

use regex::Regex;

use crate::kinds::virtual_service::HttpMatchRequest;
use crate::meta::selects;
use crate::string_match::StringMatch;

/// Regexes longer than this are not compiled for the comparison.
const MAX_REGEX: usize = 1024;
/// Compiled size limit, in bytes.
const MAX_COMPILED: usize = 1 << 20;

/// Whether every request (and client) that `b` admits is admitted by `a`.
pub(super) fn covers(a: &HttpMatchRequest, b: &HttpMatchRequest) -> bool {
    clients(a, b)
        && (a.port == 0 || a.port == b.port)
        && uri(a, b)
        && text(a.method.as_ref(), b.method.as_ref())
        && text(a.scheme.as_ref(), b.scheme.as_ref())
        && text(a.authority.as_ref(), b.authority.as_ref())
        && maps(&a.headers, &b.headers)
        && maps(&a.query_params, &b.query_params)
        && without(&a.without_headers, &b.without_headers)
}

/// Source conditions are not consulted where `gateways` is given.
fn clients(a: &HttpMatchRequest, b: &HttpMatchRequest) -> bool {
    if !a.gateways.is_empty() {
        return !b.gateways.is_empty() && b.gateways.iter().all(|g| a.gateways.contains(g));
    }
    if !b.gateways.is_empty() {
        return a.source_labels.is_empty() && a.source_namespace.is_empty();
    }
    (a.source_namespace.is_empty() || a.source_namespace == b.source_namespace) && selects(&a.source_labels, &b.source_labels)
}

fn uri(a: &HttpMatchRequest, b: &HttpMatchRequest) -> bool {
    let everything = match &a.uri {
        None | Some(StringMatch::Present) => true,
        Some(StringMatch::Prefix(prefix)) => prefix.is_empty() || prefix == "/",
        Some(StringMatch::Regex(regex)) => regex == ".*" || regex == "*",
        Some(StringMatch::Exact(_)) => false,
    };
    if everything {
        return true;
    }
    let is_regex = |m: &HttpMatchRequest| matches!(m.uri, Some(StringMatch::Regex(_)));
    match (a.ignore_uri_case, b.ignore_uri_case) {
        (true, _) if !is_regex(a) && !is_regex(b) => text(a.uri.as_ref().map(lower).as_ref(), b.uri.as_ref().map(lower).as_ref()),
        (false, true) => false,
        _ => text(a.uri.as_ref(), b.uri.as_ref()),
    }
}

fn lower(value: &StringMatch) -> StringMatch {
    match value {
        StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
        StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
        other => other.clone(),
    }
}

fn text(a: Option<&StringMatch>, b: Option<&StringMatch>) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => value(a, b),
    }
}

/// Conditions on something that both require to be there.
fn value(a: &StringMatch, b: &StringMatch) -> bool {
    if a.is_presence() {
        return true;
    }
    match (a, b) {
        (StringMatch::Exact(a), StringMatch::Exact(b)) => a == b,
        (StringMatch::Prefix(a), StringMatch::Exact(b) | StringMatch::Prefix(b)) => b.starts_with(a.as_str()),
        (StringMatch::Regex(a), StringMatch::Regex(b)) => a == ".*" || a == b,
        (StringMatch::Regex(a), StringMatch::Exact(b)) => a == ".*" || full_match(a, b),
        (StringMatch::Regex(a), _) => a == ".*",
        _ => false,
    }
}

fn full_match(regex: &str, text: &str) -> bool {
    if regex.len() > MAX_REGEX {
        return false;
    }
    let built = regex::RegexBuilder::new(&format!("^(?:{regex})$")).size_limit(MAX_COMPILED).build();
    built.is_ok_and(|compiled: Regex| compiled.is_match(text))
}

fn maps(a: &BTreeMap<String, StringMatch>, b: &BTreeMap<String, StringMatch>) -> bool {
    a.iter().all(|(key, wanted)| b.get(key).is_some_and(|given| value(wanted, given)))
}

/// `withoutHeaders`: `b` must exclude at least what `a` excludes.
fn without(a: &BTreeMap<String, StringMatch>, b: &BTreeMap<String, StringMatch>) -> bool {
    a.iter().all(|(key, excluded)| b.get(key).is_some_and(|other| other.is_presence() || value(other, excluded)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::VirtualService;
    use crate::parse::parse;

    fn condition(yaml: &str) -> HttpMatchRequest {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec: {{hosts: [a], http: [{{match: [{yaml}]}}]}}"
        );
        let parsed = parse("a.yaml", &text);
        let virtual_service: &VirtualService = parsed.objects[0].virtual_service().expect("a VirtualService");
        virtual_service.http[0].r#match[0].clone()
    }

    #[test]
    fn one_condition_covers_another_when_everything_it_asks_is_implied() {
        let cases = [
            ("{uri: {prefix: /}}", "{uri: {exact: /a}}", true),
            ("{uri: {prefix: /a}}", "{uri: {prefix: /ab}}", true),
            ("{uri: {prefix: /ab}}", "{uri: {prefix: /a}}", false),
            ("{uri: {exact: /a}}", "{uri: {exact: /a}, method: {exact: GET}}", true),
            ("{uri: {exact: /a}, method: {exact: GET}}", "{uri: {exact: /a}}", false),
            ("{uri: {regex: '/a/.*'}}", "{uri: {exact: /a/b}}", true),
            ("{uri: {regex: 'a/.*'}}", "{uri: {exact: /a/b}}", false),
            ("{uri: {regex: '/a/.*'}}", "{uri: {prefix: /a/}}", false),
            ("{uri: {prefix: /A}, ignoreUriCase: true}", "{uri: {exact: /abc}}", true),
            ("{uri: {prefix: /a}}", "{uri: {exact: /abc}, ignoreUriCase: true}", false),
            ("{headers: {x: {}}}", "{headers: {x: {exact: a}, y: {}}}", true),
            ("{headers: {x: {exact: a}}}", "{headers: {x: {}}}", false),
            ("{headers: {x: {prefix: a}}}", "{headers: {x: {exact: abc}}}", true),
            ("{withoutHeaders: {x: {exact: a}}}", "{withoutHeaders: {x: {}}}", true),
            ("{withoutHeaders: {x: {}}}", "{withoutHeaders: {x: {exact: a}}}", false),
            ("{withoutHeaders: {x: {exact: a}}}", "{uri: {exact: /a}}", false),
            ("{port: 80}", "{uri: {exact: /a}}", false),
            ("{sourceLabels: {app: a}}", "{sourceLabels: {app: a, v: b}}", true),
            ("{sourceNamespace: a}", "{uri: {exact: /a}}", false),
            ("{gateways: [g]}", "{gateways: [g, mesh]}", false),
            ("{gateways: [g, mesh]}", "{gateways: [g]}", true),
            ("{uri: {prefix: /}}", "{gateways: [g]}", true),
            ("{sourceLabels: {app: a}}", "{sourceLabels: {app: a}, gateways: [mesh]}", false),
        ];
        for (a, b, want) in cases {
            assert_eq!(covers(&condition(a), &condition(b)), want, "{a} covers {b}");
        }
    }
}
