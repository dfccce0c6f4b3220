//! What a request asks for itself: retries and timeouts in Envoy's headers, and the time that its upstream is told to have.
//!
//! In:  the head of a request, the route's policy and timeouts.
//! Out: the policy and the timeouts that hold for this one request; the headers taken away.
//!
//! An application beside its sidecar is believed. Everywhere else the headers are only taken away. Envoy believes them from addresses that
//! it is told are internal; without such a list, which Istio does not send, from nobody.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::route_table::{HeaderKey, HeaderMatch, RetryOn, RetryPolicy, ValueMatch};

const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const HEDGE: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// No request may ask for more.
const MOST_RETRIES: u32 = 1000;
/// Codes or names that a request may list.
const MOST_LISTED: usize = 64;

/// Wishes of one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    on: RetryOn,
    retries: Option<u32>,
    status_codes: Vec<u16>,
    headers: Vec<HeaderName>,
    /// Replaces the route's. `Some(None)`: no limit.
    pub timeout: Option<Option<Duration>>,
    /// Replaces the policy's. `Some(None)`: no limit.
    pub per_try_timeout: Option<Option<Duration>>,
}

/// Whether a header is one of those that are read or taken away here.
pub fn is_one(name: &str) -> bool {
    [RETRY_ON, RETRY_GRPC_ON, MAX_RETRIES, STATUS_CODES, HEADER_NAMES, TIMEOUT, PER_TRY_TIMEOUT, HEDGE, EXPECTED_TIMEOUT]
        .iter()
        .any(|known| known.as_str() == name)
}

/// Take the headers out of a head. `believed`: it comes from the application beside this proxy.
pub fn take(headers: &mut HeaderMap, believed: bool) -> Option<Asked> {
    let mut taken = |name: HeaderName| headers.remove(name).filter(|_| believed);
    let number = |value: HeaderValue| value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    let limit = |value: u64| (value > 0).then(|| Duration::from_millis(value.min(u64::from(u32::MAX))));
    let (on, grpc_on) = (taken(RETRY_ON), taken(RETRY_GRPC_ON));
    let mut asked = Asked {
        on: words(on.as_ref(), false).and(words(grpc_on.as_ref(), true)),
        retries: taken(MAX_RETRIES).and_then(number).map(|retries| u32::try_from(retries).unwrap_or(MOST_RETRIES).min(MOST_RETRIES)),
        timeout: taken(TIMEOUT).and_then(number).map(limit),
        per_try_timeout: taken(PER_TRY_TIMEOUT).and_then(number).map(limit),
        ..Asked::default()
    };
    let list = |value: Option<HeaderValue>| value.and_then(|value| value.to_str().map(str::to_owned).ok()).unwrap_or_default();
    let codes = list(taken(STATUS_CODES));
    asked.status_codes = codes.split(',').filter_map(|code| code.trim().parse().ok()).take(MOST_LISTED).collect();
    let names = list(taken(HEADER_NAMES));
    asked.headers = names.split(',').filter_map(|name| HeaderName::try_from(name.trim()).ok()).take(MOST_LISTED).collect();
    taken(HEDGE);
    taken(EXPECTED_TIMEOUT);
    (asked != Asked::default()).then_some(asked)
}

/// Words of the one header mean nothing in the other. Source: Envoy `RetryStateImpl::parseRetryOn`, `parseRetryGrpcOn`.
fn words(list: Option<&HeaderValue>, grpc: bool) -> RetryOn {
    let (on, _) = RetryOn::parse(list.and_then(|list| list.to_str().ok()).unwrap_or_default());
    RetryOn(if grpc { on.0 & RetryOn::GRPC.0 } else { on.0 & !RetryOn::GRPC.0 })
}

impl Asked {
    /// The route's policy with the request's wishes. `None`: they ask for no retry, the route's own policy holds as it is.
    ///
    /// Source: Envoy `RetryStateImpl`'s constructor: conditions, codes and headers are added, the number replaces the route's.
    pub fn policy(&self, route: Option<&RetryPolicy>) -> Option<Box<RetryPolicy>> {
        if self.on == RetryOn::NONE
            && (route.is_none() || self.retries.is_none() && self.status_codes.is_empty() && self.headers.is_empty())
        {
            return None;
        }
        let mut policy = route.cloned().unwrap_or_default();
        policy.on = policy.on.and(self.on);
        policy.retries = self.retries.unwrap_or(policy.retries);
        policy.status_codes.extend(&self.status_codes);
        policy.headers.extend(self.headers.iter().map(|name| HeaderMatch {
            header: HeaderKey::Name(name.clone()),
            value: ValueMatch::Present(true),
            invert: false,
            missing_is_empty: false,
        }));
        Some(Box::new(policy))
    }
}

/// The time that an upstream is told it has. Source: Envoy `FilterUtility::setTimeoutHeaders`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub request: Option<Duration>,
    pub per_try: Option<Duration>,
    /// gRPC's own header says the same.
    pub grpc: bool,
}

impl Expected {
    /// Say it in the head of a try that begins `elapsed` after the request was complete.
    pub fn tell(&self, headers: &mut HeaderMap, elapsed: Duration) {
        let Some(mut left) = self.per_try.or(self.request).map(whole_milliseconds) else { return };
        if let Some(request) = self.request.map(whole_milliseconds) {
            // 0 would be no limit.
            left = left.min(request.saturating_sub(whole_milliseconds(elapsed)).max(1));
        }
        headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(left));
        if self.grpc
            && let Ok(value) = HeaderValue::try_from(grpc_timeout(left))
        {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

fn whole_milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// At most 8 digits and a unit. Source: Envoy `Grpc::Common::toGrpcTimeout`.
fn grpc_timeout(milliseconds: u64) -> String {
    const MOST: u64 = 99_999_999;
    let mut time = milliseconds;
    for (unit, next) in [("m", 1000), ("S", 60), ("M", 60)] {
        if time <= MOST {
            return format!("{time}{unit}");
        }
        time /= next;
    }
    format!("{}H", time.min(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    const ALL: &[(&str, &str)] = &[
        ("x-envoy-retry-on", "5xx,cancelled"),
        ("x-envoy-retry-grpc-on", "unavailable,reset"),
        ("x-envoy-max-retries", "3"),
        ("x-envoy-retriable-status-codes", "418, x,429"),
        ("x-envoy-retriable-header-names", "x-again"),
        ("x-envoy-upstream-rq-timeout-ms", "700"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "0"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-expected-rq-timeout-ms", "7"),
        ("x-other", "stays"),
    ];

    #[test]
    fn wishes_are_taken_out_of_the_head_and_believed_of_the_application_only() {
        for believed in [true, false] {
            let mut headers = map(ALL);
            let asked = take(&mut headers, believed);
            assert_eq!(headers.len(), 1, "{headers:?}");
            let want = believed.then(|| Asked {
                on: RetryOn::SERVER_ERROR.and(RetryOn::GRPC_UNAVAILABLE),
                retries: Some(3),
                status_codes: vec![418, 429],
                headers: vec![HeaderName::from_static("x-again")],
                timeout: Some(Some(Duration::from_millis(700))),
                per_try_timeout: Some(None),
            });
            assert_eq!(asked, want);
        }
        assert!(ALL[..9].iter().all(|(name, _)| is_one(name)) && !is_one("x-other"));
        assert_eq!(take(&mut map(&[("x-envoy-upstream-rq-timeout-ms", "soon")]), true), None);
    }

    #[test]
    fn wishes_add_to_the_routes_policy_and_their_number_replaces_its() {
        let route = RetryPolicy { on: RetryOn::RESET, retries: 2, status_codes: vec![503], ..RetryPolicy::default() };
        let all = take(&mut map(ALL), true).unwrap().policy(Some(&route)).unwrap();
        assert_eq!(all.on, RetryOn::SERVER_ERROR.and(RetryOn::GRPC_UNAVAILABLE).and(RetryOn::RESET));
        assert_eq!((all.retries, &all.status_codes[..], all.headers.len()), (3, &[503, 418, 429][..], 1));
        let cases = [
            (&[("x-envoy-retry-on", "5xx")][..], None, Some((1, RetryOn::SERVER_ERROR))),
            (&[("x-envoy-max-retries", "9")][..], None, None),
            (&[("x-envoy-max-retries", "0")][..], Some(&route), Some((0, RetryOn::RESET))),
            (&[("x-envoy-upstream-rq-timeout-ms", "9")][..], Some(&route), None),
        ];
        for (headers, route, want) in cases {
            let got = take(&mut map(headers), true).unwrap().policy(route).map(|policy| (policy.retries, policy.on));
            assert_eq!(got, want, "{headers:?}");
        }
    }

    #[test]
    fn upstreams_are_told_what_is_left() {
        let millis = |time: u64| Some(Duration::from_millis(time));
        let cases = [
            ("the request's", millis(3000), None, 0, Some("3000")),
            ("the try's", millis(3000), millis(1000), 0, Some("1000")),
            ("what is left of the request's", millis(3000), millis(1000), 2500, Some("500")),
            ("nothing left", millis(3000), None, 4000, Some("1")),
            ("the try's alone", None, millis(1000), 5000, Some("1000")),
            ("no limit", None, None, 0, None),
        ];
        for (name, request, per_try, elapsed, want) in cases {
            let mut headers = HeaderMap::new();
            Expected { request, per_try, grpc: true }.tell(&mut headers, Duration::from_millis(elapsed));
            let told = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(told(EXPECTED_TIMEOUT).as_deref(), want, "{name}");
            assert_eq!(told(GRPC_TIMEOUT), want.map(|want| format!("{want}m")), "{name}");
        }
        assert_eq!(
            (grpc_timeout(99_999_999), grpc_timeout(100_000_000), grpc_timeout(u64::MAX)),
            ("99999999m".into(), "100000S".into(), "99999999H".into())
        );
    }
}
