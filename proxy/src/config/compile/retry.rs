//! Retry policies.
//!
//! In:  `envoy.config.route.v3.RetryPolicy`.
//! Out: [`RetryPolicy`], or none where nothing would be retried.

use std::time::Duration;

use pillion_xds::wire::envoy::config::route::v3 as wire;

use super::at::{At, Compiled, note_set, refuse_set};
use super::value::{duration, header_match, timeout};
use crate::config::route_table::{RetryOn, RetryPolicy};

/// More tries are an outage of their own.
const MAX_RETRIES: u32 = 1000;

/// `None` when the policy retries nothing.
pub(super) fn policy(at: &At<'_>, policy: &wire::RetryPolicy, buffer_limit: Option<u64>) -> Compiled<Option<RetryPolicy>> {
    refuse_set!(policy, at, [retry_options_predicates]);
    note_set!(policy, at, [per_try_idle_timeout, rate_limited_retry_back_off, refresh_cluster_on_retry]);
    let (mut on, unknown) = RetryOn::parse(&policy.retry_on);
    for word in unknown {
        at.field("retry_on").note(format_args!("{word:?} is no condition"));
    }
    if !policy.retriable_status_codes.is_empty() && policy.retry_on.is_empty() {
        on = on.and(RetryOn::RETRIABLE_STATUS_CODES);
    }
    let retries = policy.num_retries.map_or(1, |retries| retries.value).min(MAX_RETRIES);
    let per_try_timeout = timeout(&at.field("per_try_timeout"), policy.per_try_timeout.as_ref(), None)?;
    if (retries == 0 || on == RetryOn::NONE) && per_try_timeout.is_none() {
        return Ok(None);
    }
    let codes = policy.retriable_status_codes.iter().enumerate().map(|(index, code)| {
        let known = u16::try_from(*code).ok().filter(|code| (100..600).contains(code));
        known.ok_or_else(|| at.index("retriable_status_codes", index).refuse(format_args!("{code} is no status")))
    });
    let headers = |name: &'static str, matchers: &[wire::HeaderMatcher]| {
        let matchers = matchers.iter().enumerate().map(|(index, matcher)| header_match(&at.index(name, index), matcher));
        matchers.collect::<Compiled<Vec<_>>>()
    };
    let (back_off_base, back_off_max) = back_off(at, policy.retry_back_off.as_ref())?;
    let defaults = RetryPolicy::default();
    Ok(Some(RetryPolicy {
        retries,
        on,
        status_codes: codes.collect::<Compiled<_>>()?,
        headers: headers("retriable_headers", &policy.retriable_headers)?,
        request_headers: headers("retriable_request_headers", &policy.retriable_request_headers)?,
        per_try_timeout,
        back_off_base,
        back_off_max,
        avoid_previous_hosts: avoids_previous_hosts(at, policy)?,
        host_selection_attempts: u32::try_from(policy.host_selection_retry_max_attempts.clamp(1, 100)).unwrap_or(1),
        // Envoy's own default is the connection's buffer limit (1 MiB); ours stays small, as bodies are kept for every request.
        buffer_limit: buffer_limit.map_or(defaults.buffer_limit, |limit| usize::try_from(limit).unwrap_or(usize::MAX).min(16 << 20)),
    }))
}

fn back_off(at: &At<'_>, back_off: Option<&wire::retry_policy::RetryBackOff>) -> Compiled<(Duration, Duration)> {
    let at = at.field("retry_back_off");
    let Some(back_off) = back_off else {
        let defaults = RetryPolicy::default();
        return Ok((defaults.back_off_base, defaults.back_off_max));
    };
    let at_base = at.field("base_interval");
    let base = back_off.base_interval.as_ref().ok_or_else(|| at_base.refuse("is missing"))?;
    let base = duration(&at_base, base)?;
    if base.is_zero() {
        return Err(at_base.refuse("is more than 0"));
    }
    // Envoy works in whole milliseconds.
    let base = base.max(Duration::from_millis(1));
    let max = match &back_off.max_interval {
        Some(max) => duration(&at.field("max_interval"), max)?,
        None => base.saturating_mul(10),
    };
    if max < base {
        return Err(at.field("max_interval").refuse("is at least base_interval"));
    }
    Ok((base, max))
}

fn avoids_previous_hosts(at: &At<'_>, policy: &wire::RetryPolicy) -> Compiled<bool> {
    if let Some(priority) = &policy.retry_priority {
        at.field("retry_priority").note(format_args!("{} has no effect yet", priority.name));
    }
    let mut avoids = false;
    for (index, predicate) in policy.retry_host_predicate.iter().enumerate() {
        match predicate.name.as_str() {
            "envoy.retry_host_predicates.previous_hosts" => avoids = true,
            name => return Err(at.index("retry_host_predicate", index).refuse(format_args!("{name} is not supported"))),
        }
    }
    Ok(avoids)
}
