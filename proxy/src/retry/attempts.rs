//! The rule that says whether a try that ended badly is followed by another.
//!
//! In:  the policy, how the try ended, how many there were, random numbers.
//! Out: how long to wait before the next one, or that there is none.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::config::route_table::{RetryOn, RetryPolicy};
use crate::connect::Failure;
use crate::route::select::matches_response_header;

/// How a try ended without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// No connection.
    ConnectFailure,
    /// The peer refused the stream.
    Refused,
    /// Ended by the connection, the peer, or a broken protocol.
    Other,
    /// Ended by the per-try timeout.
    TryTimeout,
}

impl Reset {
    /// `None`: the downstream's fault, nothing to retry.
    pub fn of(failure: &Failure) -> Option<Self> {
        match failure {
            Failure::Connect { .. } => Some(Self::ConnectFailure),
            Failure::Disowned | Failure::Unsent(_) => Some(Self::Refused),
            Failure::Terminated(_) | Failure::RemoteReset | Failure::Protocol(_) => Some(Self::Other),
            Failure::RequestBody => None,
        }
    }
}

/// Counts the tries of one request.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Tries begun.
    pub made: u32,
    /// Retries that the policy granted.
    retries: u32,
    /// The policy wanted another one but its number was used up.
    pub exhausted: bool,
}

impl Attempts {
    /// The first try is being made.
    pub fn first() -> Self {
        Self { made: 1, ..Self::default() }
    }

    /// Whether a try that was reset is followed by another, and after which pause.
    ///
    /// Source: Envoy `RetryStateImpl::wouldRetryFromReset`.
    pub fn after_reset(&mut self, policy: Option<&RetryPolicy>, reset: Reset, request_written: bool, random: u64) -> Option<Duration> {
        let policy = policy?;
        let on = policy.on;
        let wanted = on.has(RetryOn::RESET.and(RetryOn::SERVER_ERROR).and(RetryOn::GATEWAY_ERROR))
            || (on.has(RetryOn::RESET_BEFORE_REQUEST) && !request_written)
            || (on.has(RetryOn::REFUSED_STREAM) && reset == Reset::Refused)
            || (on.has(RetryOn::CONNECT_FAILURE) && reset == Reset::ConnectFailure);
        if wanted { self.grant(policy, random) } else { None }
    }

    /// Whether a response is discarded for another try, and after which pause. `grpc`: of a gRPC request.
    ///
    /// Source: Envoy `RetryStateImpl::wouldRetryFromHeaders`.
    pub fn after_response(
        &mut self,
        policy: Option<&RetryPolicy>,
        (status, headers): (StatusCode, &HeaderMap),
        grpc: bool,
        random: u64,
    ) -> Option<Duration> {
        let policy = policy?;
        if wants_response_retry(policy, status, headers, grpc) { self.grant(policy, random) } else { None }
    }

    fn grant(&mut self, policy: &RetryPolicy, random: u64) -> Option<Duration> {
        if self.retries >= policy.retries {
            self.exhausted = policy.retries > 0;
            return None;
        }
        let pause = back_off(policy.back_off_base, policy.back_off_max, self.retries, random);
        self.retries += 1;
        Some(pause)
    }
}

fn wants_response_retry(policy: &RetryPolicy, status: StatusCode, headers: &HeaderMap, grpc: bool) -> bool {
    const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
    let on = policy.on;
    let code = status.as_u16();
    let wanted = (on.has(RetryOn::SERVER_ERROR) && (500..600).contains(&code))
        || (on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&code))
        || (on.has(RetryOn::RETRIABLE_4XX) && code == 409)
        || (on.has(RetryOn::RETRIABLE_STATUS_CODES) && policy.status_codes.contains(&code))
        || (on.has(RetryOn::RETRIABLE_HEADERS) && policy.headers.iter().any(|wanted| matches_response_header(wanted, headers)))
        || (grpc && on.has(RetryOn::GRPC) && grpc_condition(headers).is_some_and(|condition| on.has(condition)));
    // The header that overrules is looked for only where there is something to overrule.
    if !wanted && !on.has(RetryOn::ENVOY_RATE_LIMITED) {
        return false;
    }
    if headers.contains_key(RATE_LIMITED) { on.has(RetryOn::ENVOY_RATE_LIMITED) } else { wanted }
}

/// The condition that a trailers-only gRPC reply fulfils.
fn grpc_condition(headers: &HeaderMap) -> Option<RetryOn> {
    match headers.get("grpc-status")?.as_bytes() {
        b"1" => Some(RetryOn::GRPC_CANCELLED),
        b"4" => Some(RetryOn::GRPC_DEADLINE_EXCEEDED),
        b"8" => Some(RetryOn::GRPC_RESOURCE_EXHAUSTED),
        b"13" => Some(RetryOn::GRPC_INTERNAL),
        b"14" => Some(RetryOn::GRPC_UNAVAILABLE),
        _ => None,
    }
}

/// Whether a policy can ask for another try after the request was written, so that its head must be kept.
pub fn may_repeat_written(policy: &RetryPolicy, grpc: bool) -> bool {
    const WRITTEN: RetryOn = RetryOn::SERVER_ERROR
        .and(RetryOn::GATEWAY_ERROR)
        .and(RetryOn::RESET)
        .and(RetryOn::RETRIABLE_4XX)
        .and(RetryOn::RETRIABLE_HEADERS)
        .and(RetryOn::ENVOY_RATE_LIMITED);
    policy.retries > 0
        && (policy.on.has(WRITTEN)
            || (policy.on.has(RetryOn::RETRIABLE_STATUS_CODES) && !policy.status_codes.is_empty())
            || (grpc && policy.on.has(RetryOn::GRPC)))
}

/// A pause of 0 to `base` x 2^retries, at most `max`, evenly distributed.
///
/// Source: Envoy `JitteredExponentialBackOffStrategy`.
pub fn back_off(base: Duration, max: Duration, retries: u32, random: u64) -> Duration {
    let ceiling = base.saturating_mul(2_u32.saturating_pow(retries)).min(max).as_millis();
    let ceiling = u64::try_from(ceiling).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(random % ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(words: &str, retries: u32) -> RetryPolicy {
        RetryPolicy { on: RetryOn::parse(words).0, retries, status_codes: vec![418], ..RetryPolicy::default() }
    }

    #[test]
    fn resets_are_retried_by_the_conditions_that_cover_them() {
        let cases = [
            ("5xx", Reset::Other, true, true),
            ("gateway-error", Reset::TryTimeout, true, true),
            ("reset", Reset::Other, true, true),
            ("reset", Reset::TryTimeout, true, true),
            ("reset-before-request", Reset::Other, true, false),
            ("reset-before-request", Reset::Other, false, true),
            ("connect-failure", Reset::ConnectFailure, false, true),
            ("connect-failure", Reset::Other, true, false),
            ("refused-stream", Reset::Refused, true, true),
            ("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", Reset::TryTimeout, true, false),
            ("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", Reset::Other, true, false),
        ];
        for (words, reset, written, want) in cases {
            let got = Attempts::default().after_reset(Some(&policy(words, 2)), reset, written, 0).is_some();
            assert_eq!(got, want, "{words} {reset:?} written: {written}");
        }
    }

    #[test]
    fn responses_are_retried_by_the_conditions_that_cover_them() {
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(&str, u16, Headers, bool); 13] = [
            ("5xx", 503, &[], true),
            ("5xx", 404, &[], false),
            ("gateway-error", 500, &[], false),
            ("gateway-error", 502, &[], true),
            ("retriable-4xx", 409, &[], true),
            ("retriable-4xx", 404, &[], false),
            ("retriable-status-codes", 418, &[], true),
            ("retriable-status-codes", 503, &[], false),
            ("unavailable", 200, &[("grpc-status", "14")], true),
            ("cancelled", 200, &[("grpc-status", "14")], false),
            ("5xx", 503, &[("x-envoy-overloaded", "true")], true),
            ("5xx", 503, &[("x-envoy-ratelimited", "true")], false),
            ("5xx,envoy-ratelimited", 503, &[("x-envoy-ratelimited", "true")], true),
        ];
        for (words, status, headers, want) in cases {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            let status = StatusCode::from_u16(status).unwrap();
            let got = Attempts::default().after_response(Some(&policy(words, 1)), (status, &headers), true, 0).is_some();
            assert_eq!(got, want, "{words} {status} {headers:?}");
        }
    }

    #[test]
    fn the_number_of_retries_is_kept() {
        let policy = policy("5xx", 2);
        let mut attempts = Attempts::default();
        let got: Vec<_> = (0..3).map(|_| attempts.after_reset(Some(&policy), Reset::Other, true, 0).is_some()).collect();
        assert_eq!(got, [true, true, false]);
        assert!(attempts.exhausted);
        assert!(Attempts::default().after_reset(None, Reset::Other, true, 0).is_none());
    }

    #[test]
    fn back_off_doubles_up_to_its_maximum() {
        let (base, max) = (Duration::from_millis(25), Duration::from_millis(250));
        let cases = [(0, 24, 24), (0, 25, 0), (1, 49, 49), (3, 199, 199), (4, 249, 249), (4, 250, 0), (40, 251, 1)];
        for (retries, random, want) in cases {
            assert_eq!(back_off(base, max, retries, random), Duration::from_millis(want), "{retries} {random}");
        }
    }

    #[test]
    fn only_policies_that_repeat_written_requests_need_the_head_kept() {
        let cases = [
            ("connect-failure,refused-stream,unavailable,cancelled", false, false),
            ("connect-failure,refused-stream,unavailable,cancelled", true, true),
            ("5xx", false, true),
        ];
        for (words, grpc, want) in cases {
            assert_eq!(may_repeat_written(&policy(words, 1), grpc), want, "{words} grpc: {grpc}");
        }
    }
}
