//! Cross-origin requests of browsers: who is answered by the proxy, and what responses say.
//!
//! In:  a route's policy, a request's head, a random number.
//! Out: the origin to allow in the response's head; the head of a preflight's answer.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::Head;
use super::select::matches_text;
use crate::config::route_table::{Cors, CorsList};

const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// What a policy makes of a request that names its origin.
#[derive(Debug, Default)]
pub struct Judged {
    /// The origin, when it is allowed: the response says so, whoever answers.
    pub allowed: Option<HeaderValue>,
    /// The head of the answer that this proxy gives instead of the upstream.
    pub preflight: Option<HeaderMap>,
}

/// Source: Envoy `CorsFilter::decodeHeaders`.
pub fn judge(policy: &Cors, head: &Head<'_>, random: impl FnOnce() -> u64) -> Judged {
    let present = |name: HeaderName| head.headers.get(name).filter(|value| !value.is_empty());
    let Some(origin) = present(ORIGIN).filter(|_| policy.share.hit(random())) else { return Judged::default() };
    let allowed = policy.any_origin || policy.origins.iter().any(|rule| matches_text(rule, origin.as_bytes()));
    let allowed = allowed.then(|| origin.clone());
    let asked = present(ACCESS_CONTROL_REQUEST_METHOD).filter(|_| head.method == Method::OPTIONS);
    let preflight = asked.filter(|_| allowed.is_some() || !policy.forward_unmatched).map(|method| preflight(policy, method, head.headers));
    Judged { allowed, preflight }
}

fn preflight(policy: &Cors, method: &HeaderValue, asked: &HeaderMap) -> HeaderMap {
    let mut answer = HeaderMap::new();
    if policy.credentials {
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
    let lists = [
        (ACCESS_CONTROL_ALLOW_METHODS, &policy.methods, Some(method)),
        (ACCESS_CONTROL_ALLOW_HEADERS, &policy.headers, asked.get(ACCESS_CONTROL_REQUEST_HEADERS)),
    ];
    for (name, list, asked) in lists {
        match list {
            CorsList::Unsaid => {}
            CorsList::Asked => drop(answer.insert(name, asked.cloned().unwrap_or(HeaderValue::from_static("")))),
            CorsList::Fixed(value) => drop(answer.insert(name, value.clone())),
        }
    }
    if let Some(age) = &policy.max_age {
        answer.insert(ACCESS_CONTROL_MAX_AGE, age.clone());
    }
    if policy.private_network && asked.get(REQUEST_PRIVATE_NETWORK).is_some_and(|value| value == "true") {
        answer.insert(ALLOW_PRIVATE_NETWORK, TRUE);
    }
    answer
}

/// Tell the browser that its origin may read the response. What the upstream said about it is replaced.
///
/// Source: Envoy `CorsFilter::encodeHeaders`; it runs for preflights too.
pub fn allow(policy: &Cors, origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if policy.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
    if let Some(expose) = &policy.expose {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::expression::anchored;
    use crate::config::route_table::{Fraction, TextMatch};
    use http::Uri;

    fn policy(origins: Vec<TextMatch>) -> Cors {
        Cors {
            share: Fraction::ALWAYS,
            any_origin: origins.iter().any(|rule| matches_text(rule, b"*")),
            origins,
            methods: CorsList::Fixed(HeaderValue::from_static("GET,POST")),
            headers: CorsList::Asked,
            expose: Some(HeaderValue::from_static("x-e")),
            max_age: Some(HeaderValue::from_static("600")),
            credentials: true,
            private_network: false,
            forward_unmatched: true,
        }
    }

    fn exact(text: &str) -> TextMatch {
        TextMatch::Exact { text: text.into(), ignore_case: false }
    }

    fn judged(policy: &Cors, method: &Method, headers: &[(&'static str, &'static str)]) -> Judged {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        let uri = Uri::from_static("/");
        judge(policy, &Head { method, authority: "a", uri: &uri, headers: &headers, grpc: false }, || 0)
    }

    #[test]
    fn origins_are_allowed_by_any_rule() {
        let cases = [
            (exact("https://a"), "https://a", true),
            (exact("https://a"), "https://A", false),
            (exact("*"), "https://b", true),
            (TextMatch::Prefix { text: "https://".into(), ignore_case: false }, "https://b", true),
            (TextMatch::Regex(anchored(r"https://[a-z]+\.example").unwrap()), "https://b.example", true),
            (TextMatch::Regex(anchored(r"https://[a-z]+\.example").unwrap()), "https://b.example.evil", false),
            (TextMatch::Regex(anchored(".*").unwrap()), "null", true),
        ];
        for (rule, origin, want) in cases {
            let got = judged(&policy(vec![exact("https://other"), rule.clone()]), &Method::GET, &[("origin", origin)]);
            assert_eq!((got.allowed.is_some(), got.preflight.is_none()), (want, true), "{rule:?} {origin}");
        }
        assert!(judged(&policy(vec![exact("*")]), &Method::GET, &[]).allowed.is_none());
    }

    #[test]
    fn preflights_are_answered_here_unless_their_origin_is_not_allowed() {
        const PREFLIGHT: &[(&str, &str)] =
            &[("origin", "https://a"), ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-q")];
        let ignoring = Cors { forward_unmatched: false, ..policy(vec![exact("https://b")]) };
        let cases = [
            ("allowed", policy(vec![exact("https://a")]), Method::OPTIONS, PREFLIGHT, true),
            ("no OPTIONS", policy(vec![exact("https://a")]), Method::GET, PREFLIGHT, false),
            ("no method asked", policy(vec![exact("https://a")]), Method::OPTIONS, &PREFLIGHT[..1], false),
            ("not allowed, forwarded", policy(vec![exact("https://b")]), Method::OPTIONS, PREFLIGHT, false),
            ("not allowed, ignored", ignoring, Method::OPTIONS, PREFLIGHT, true),
        ];
        for (name, policy, method, headers, want) in cases {
            let answer = judged(&policy, &method, headers).preflight;
            assert_eq!(answer.is_some(), want, "{name}");
            if let Some(answer) = answer {
                let said = |name: HeaderName| answer.get(name).map(|value| value.to_str().unwrap());
                assert_eq!(said(ACCESS_CONTROL_ALLOW_METHODS), Some("GET,POST"), "{name}");
                assert_eq!(said(ACCESS_CONTROL_ALLOW_HEADERS), Some("x-q"), "{name}");
                assert_eq!((said(ACCESS_CONTROL_MAX_AGE), said(ACCESS_CONTROL_ALLOW_CREDENTIALS)), (Some("600"), Some("true")), "{name}");
            }
        }
    }

    #[test]
    fn a_policy_for_a_share_of_requests_leaves_the_others_alone() {
        let never = Cors { share: Fraction { numerator: 0, denominator: 100 }, ..policy(vec![exact("*")]) };
        let got = judged(&never, &Method::OPTIONS, &[("origin", "a"), ("access-control-request-method", "PUT")]);
        assert!(got.allowed.is_none() && got.preflight.is_none());
    }
}
