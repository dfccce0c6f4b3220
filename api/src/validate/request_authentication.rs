//! Rules of RequestAuthentication. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use super::check::Check;
use super::selector::{selector, targets};
use crate::code;
use crate::kinds::request_authentication::{JwtRule, RequestAuthentication};
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &RequestAuthentication) {
    selector(cx, &path.field("selector"), body.selector.as_ref());
    targets(cx, path, body.selector.as_ref(), body.target_ref.as_ref(), &body.target_refs);
    let rules = path.field("jwtRules");
    for (index, rule) in body.jwt_rules.iter().enumerate() {
        jwt_rule(cx, &rules.index(index), rule);
    }
    let headers = body.jwt_rules.iter().map(|rule| rule.output_payload_to_header.to_ascii_lowercase()).enumerate();
    let at = |index: usize| rules.index(index).field("outputPayloadToHeader").to_string();
    cx.unique(headers.filter(|(_, header)| !header.is_empty()), at, "header");
}

fn jwt_rule(cx: &mut Check<'_>, path: &Path<'_>, rule: &JwtRule) {
    cx.required(&path.field("issuer"), &rule.issuer, "the issuer of tokens");
    for (index, audience) in rule.audiences.iter().enumerate() {
        cx.required(&path.field("audiences").index(index), audience, "an audience");
    }
    keys(cx, path, rule);
    for (index, header) in rule.from_headers.iter().enumerate() {
        let path = path.field("fromHeaders");
        let path = path.index(index);
        if cx.required(&path.field("name"), &header.name, "the name of the header") {
            cx.header_name(&path.field("name"), &header.name);
        }
    }
    for (name, list) in [("fromParams", &rule.from_params), ("fromCookies", &rule.from_cookies)] {
        for (index, item) in list.iter().enumerate() {
            cx.required(&path.field(name).index(index), item, "a name");
        }
    }
    if !rule.output_payload_to_header.is_empty() {
        cx.header_name(&path.field("outputPayloadToHeader"), &rule.output_payload_to_header);
    }
    let outputs = path.field("outputClaimToHeaders");
    for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
        let path = outputs.index(index);
        cx.required(&path.field("claim"), &output.claim, "the claim");
        if cx.required(&path.field("header"), &output.header, "the header") {
            cx.header_name(&path.field("header"), &output.header);
        }
    }
    let headers = rule.output_claim_to_headers.iter().map(|output| output.header.to_ascii_lowercase()).enumerate();
    cx.unique(headers, |index| outputs.index(index).field("header").to_string(), "header");
    cx.duration(&path.field("timeout"), rule.timeout);
}

/// `jwks` or `jwksUri`; without both, the issuer's discovery document.
fn keys(cx: &mut Check<'_>, path: &Path<'_>, rule: &JwtRule) {
    if !rule.jwks.is_empty() && !rule.jwks_uri.is_empty() {
        cx.error(code::JWT, &path.field("jwksUri"), "`jwks` and `jwksUri` exclude each other", "keep one of them");
    }
    if !rule.jwks_uri.is_empty() {
        let host = rule.jwks_uri.strip_prefix("https://").or_else(|| rule.jwks_uri.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            cx.error(code::JWT, &path.field("jwksUri"), format!("`{}` is not a URL", rule.jwks_uri), "https://… or http://…");
        }
    }
    if !rule.jwks.is_empty() {
        let keys = serde_json::from_str::<serde_json::Value>(&rule.jwks).ok();
        if !keys.is_some_and(|keys| keys.get("keys").is_some_and(serde_json::Value::is_array)) {
            cx.error(code::JWT, &path.field("jwks"), "this is not a JSON Web Key Set", "JSON with a list `keys`");
        }
    }
}
