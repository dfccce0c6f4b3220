//! Rules of AuthorizationPolicy. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use super::check::Check;
use super::selector::{selector, targets};
use crate::code;
use crate::kinds::authorization_policy::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source};
use crate::path::Path;

const CONDITION_KEYS: &[&str] = &[
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
];
/// Keys that carry a name in brackets.
const NAMED_KEYS: &[&str] = &["request.headers[", "request.auth.claims[", "experimental.envoy.filters."];

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &AuthorizationPolicy) {
    selector(cx, &path.field("selector"), body.selector.as_ref());
    targets(cx, path, body.selector.as_ref(), body.target_ref.as_ref(), &body.target_refs);
    action(cx, path, body);
    for (index, one) in body.rules.iter().enumerate() {
        rule(cx, &path.field("rules").index(index), one, body.action);
    }
}

fn action(cx: &mut Check<'_>, path: &Path<'_>, body: &AuthorizationPolicy) {
    match (body.action, &body.provider) {
        (Action::Custom, None) => {
            cx.error(code::ACTION, &path.field("action"), "CUSTOM needs a provider", "add `provider: {name: …}`");
        }
        (Action::Custom, Some(provider)) => {
            cx.required(&path.field("provider").field("name"), &provider.name, "the name of the provider");
        }
        (_, Some(_)) => {
            cx.error(code::ACTION, &path.field("provider"), format!("a provider goes with CUSTOM, not with {}", body.action.as_str()), "");
        }
        _ => {}
    }
    if body.rules.is_empty() && matches!(body.action, Action::Deny | Action::Custom) {
        let message = format!("{} without rules does nothing", body.action.as_str());
        cx.error(code::ACTION, &path.field("action"), message, "add `rules: [{}]` to mean every request");
    }
}

fn rule(cx: &mut Check<'_>, path: &Path<'_>, rule: &Rule, action: Action) {
    for name in ["from", "to"] {
        let empty = if name == "from" { rule.from.is_empty() } else { rule.to.is_empty() };
        let at = path.field(name);
        if empty && cx.has(&at) {
            cx.error(code::EMPTY_RULE, &at, format!("`{name}` is an empty list"), "remove it to mean anybody, or say who");
        }
    }
    for (index, from) in rule.from.iter().enumerate() {
        let at = path.field("from");
        let at = at.index(index);
        match &from.source {
            Some(one) => source(cx, &at.field("source"), one, action),
            None => cx.error(code::EMPTY_RULE, &at, "this `from` has no source", "add `source:`"),
        }
    }
    for (index, to) in rule.to.iter().enumerate() {
        let at = path.field("to");
        let at = at.index(index);
        match &to.operation {
            Some(one) => operation(cx, &at.field("operation"), one),
            None => cx.error(code::EMPTY_RULE, &at, "this `to` has no operation", "add `operation:`"),
        }
    }
    for (index, one) in rule.when.iter().enumerate() {
        condition(cx, &path.field("when").index(index), one, action);
    }
}

fn source(cx: &mut Check<'_>, path: &Path<'_>, source: &Source, action: Action) {
    let lists = [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ];
    says_something(cx, path, &lists, "source");
    for (name, list) in &lists[10..] {
        for (index, block) in list.iter().enumerate() {
            cx.address(&path.field(name).index(index), block, true);
        }
    }
    let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
    if accounts {
        for (name, list) in [lists[0], lists[1], lists[4], lists[5]] {
            if !list.is_empty() {
                cx.error(
                    code::EMPTY_RULE,
                    &path.field(name),
                    format!("`serviceAccounts` and `{name}` exclude each other"),
                    "keep one of them",
                );
            }
        }
    }
    for (name, list) in [lists[6], lists[7]] {
        for (index, account) in list.iter().enumerate() {
            if account.split('/').count() > 2 || account.contains('*') {
                let message = format!("`{account}` is not a service account");
                cx.error(code::EMPTY_RULE, &path.field(name).index(index), message, "`name` or `namespace/name`");
            }
        }
    }
    if action == Action::Custom {
        for (name, list) in [lists[2], lists[3]] {
            if !list.is_empty() {
                let message = format!("`{name}` cannot stand in a CUSTOM policy: it is decided before tokens are read");
                cx.error(code::ACTION, &path.field(name), message, "");
            }
        }
    }
    for (index, principal) in source.principals.iter().enumerate() {
        if let Some(bare) = principal.strip_prefix("spiffe://") {
            let message = format!("`{principal}` never matches: principals are written without the scheme");
            cx.warning(code::INEFFECTIVE, &path.field("principals").index(index), message, format!("write `{bare}`"));
        }
    }
}

/// At least one list with something in it, and no empty list or value.
fn says_something(cx: &mut Check<'_>, path: &Path<'_>, lists: &[(&'static str, &Vec<String>)], what: &str) {
    if lists.iter().all(|(_, list)| list.is_empty()) && !lists.iter().any(|(name, _)| cx.has(&path.field(name))) {
        return cx.error(
            code::EMPTY_RULE,
            path,
            format!("this {what} says nothing"),
            "say who or what, or leave the whole block out to mean anything",
        );
    }
    for (name, list) in lists {
        let path = path.field(name);
        if list.is_empty() && cx.has(&path) {
            cx.error(code::EMPTY_RULE, &path, format!("`{name}` is an empty list"), "name something, or remove it");
        }
        for (index, value) in list.iter().enumerate() {
            cx.required(&path.index(index), value, "a value");
        }
    }
}

fn operation(cx: &mut Check<'_>, path: &Path<'_>, operation: &Operation) {
    let lists = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ];
    says_something(cx, path, &lists, "operation");
    for (name, list) in &lists[2..4] {
        for (index, port) in list.iter().enumerate() {
            if !port.parse::<u16>().is_ok_and(|port| port != 0) {
                cx.error(code::PORT, &path.field(name).index(index), format!("`{port}` is not a port: 1 to 65535"), "");
            }
        }
    }
    for (name, list) in &lists[6..] {
        for (index, template) in list.iter().enumerate().filter(|(_, path)| path.contains(['{', '}'])) {
            if let Some(problem) = template_problem(template) {
                let help = "`{*}` is one segment, `{**}` any number of them at the end";
                cx.error(
                    code::PATH_TEMPLATE,
                    &path.field(name).index(index),
                    format!("`{template}` is not a path template: {problem}"),
                    help,
                );
            }
        }
    }
}

fn template_problem(template: &str) -> Option<&'static str> {
    let mut seen_rest = false;
    for segment in template.split('/') {
        if seen_rest && matches!(segment, "{*}" | "{**}") {
            return Some("nothing variable can follow `{**}`");
        }
        match segment {
            "{**}" => seen_rest = true,
            "{*}" => {}
            _ if segment.contains(['{', '}']) => return Some("braces hold `*` or `**` and fill a segment"),
            _ if segment.contains('*') => return Some("`*` outside braces does not go with templates"),
            _ => {}
        }
    }
    None
}

fn condition(cx: &mut Check<'_>, path: &Path<'_>, condition: &Condition, action: Action) {
    let key_path = path.field("key");
    if !cx.required(&key_path, &condition.key, "the key of a condition") {
        return;
    }
    let key = condition.key.as_str();
    let named = NAMED_KEYS.iter().any(|prefix| key.strip_prefix(prefix).is_some_and(|rest| rest.len() > 1 && rest.ends_with(']')));
    if !CONDITION_KEYS.contains(&key) && !named {
        let close = crate::decode::suggestions(key, CONDITION_KEYS.iter().copied());
        let help = match close.first() {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("{}, request.headers[NAME], request.auth.claims[NAME]", CONDITION_KEYS.join(", ")),
        };
        cx.error(code::CONDITION, &key_path, format!("`{key}` is not a condition"), help);
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        cx.error(code::CONDITION, path, format!("the condition `{key}` compares with nothing"), "add values or notValues");
    }
    for (name, list) in [("values", &condition.values), ("notValues", &condition.not_values)] {
        for (index, value) in list.iter().enumerate() {
            let path = path.field(name);
            let path = path.index(index);
            match key {
                "source.ip" | "remote.ip" | "destination.ip" => cx.address(&path, value, true),
                "destination.port" if !value.parse::<u16>().is_ok_and(|port| port != 0) => {
                    cx.error(code::PORT, &path, format!("`{value}` is not a port: 1 to 65535"), "");
                }
                _ => {
                    cx.required(&path, value, "a value");
                }
            }
        }
    }
    if action == Action::Custom && key.starts_with("request.auth.") {
        cx.error(code::ACTION, &key_path, format!("`{key}` cannot stand in a CUSTOM policy: it is decided before tokens are read"), "");
    }
}
