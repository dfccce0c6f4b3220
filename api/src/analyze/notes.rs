//! Istio's surprises, each in one sentence with the remedy, at the field that causes it.
//!
//! In:  objects as they are in force. Out: notes.

use std::time::Duration;

use super::{Draft, Report, code, listed};
use crate::effective::{MeshService, RetryPolicy, Scoped};
use crate::kinds::authorization_policy::{Action, AuthorizationPolicy, Rule};
use crate::kinds::destination_rule::{DestinationRule, OutlierDetection};
use crate::kinds::virtual_service::{HttpRoute, Percent, VirtualService};
use crate::set::Of;

/// `maxEjectionPercent` when it is 0 or missing. Source: Envoy's outlier detection.
const DEFAULT_MAX_EJECTION_PERCENT: u32 = 10;

pub(super) fn check(report: &mut Report<'_>) {
    let effective = report.effective;
    for item in effective.set().of::<VirtualService>() {
        for (at, rule) in item.spec.http.iter().enumerate() {
            retries(report, item, at, rule);
            percentages(report, item, at, rule);
        }
    }
    for item in effective.set().of::<DestinationRule>() {
        ejection(report, item);
    }
    for item in effective.set().of::<AuthorizationPolicy>() {
        paths(report, item);
        allow(report, item);
    }
}

fn retries(report: &mut Report<'_>, item: Of<'_, VirtualService>, at: usize, rule: &HttpRoute) {
    let Some(block) = &rule.retries else { return };
    let Some(policy) = report.effective.mesh().retry_policy(Some(block)) else { return };
    let Some(per_try) = policy.per_try_timeout else { return };
    if !policy.retries_slow_tries() {
        let message = "a slow try is never retried: `perTryTimeout` cuts it and the caller gets 504, because `retryOn` has none of 5xx, gateway-error and reset";
        let draft = Draft::note(code::NOTE_PER_TRY, item.object, format!("spec.http[{at}].retries.perTryTimeout"), message);
        let add = if block.retry_on.is_empty() {
            "connect-failure,refused-stream,unavailable,cancelled,reset,gateway-error".to_owned()
        } else {
            format!("{},gateway-error", block.retry_on)
        };
        report.add(draft.help(format!("add them: `retryOn: {add}`, if the request may safely run twice")));
    }
    if let Some(timeout) = rule.timeout
        && let Some((message, help)) = cost(&policy, per_try, timeout)
    {
        report.add(Draft::note(code::NOTE_RETRY_COST, item.object, format!("spec.http[{at}].retries.attempts"), message).help(help));
    }
}

/// What all tries together need against what the route allows; `None` when they fit.
fn cost(policy: &RetryPolicy, per_try: Duration, timeout: Duration) -> Option<(String, String)> {
    let tries = policy.attempts.saturating_add(1);
    let need = per_try.checked_mul(tries)?;
    if need <= timeout || per_try.is_zero() || timeout.is_zero() {
        return None;
    }
    let whole = u32::try_from(timeout.as_nanos() / per_try.as_nanos()).unwrap_or(u32::MAX);
    let rest = timeout - per_try * whole;
    let mut story = Vec::new();
    if whole > 0 {
        story.push(if whole == 1 { "the first try runs in full".to_owned() } else { format!("{whole} tries run in full") });
    }
    let cut = if rest.is_zero() { 0 } else { 1 };
    if cut == 1 {
        story.push(format!("try {} is cut after {}", whole + 1, seconds(rest)));
    }
    let never: Vec<u32> = (whole + cut + 1..=tries).take(9).collect();
    match never.len() {
        0 => {}
        1 => story.push(format!("try {} never starts", never[0])),
        _ => story.push(format!("tries {} to {tries} never start", never[0])),
    }
    let message = format!(
        "{tries} tries of {} need {}, but `timeout` ends the request after {}: {}",
        seconds(per_try),
        seconds(need),
        seconds(timeout),
        listed(story)
    );
    let fewer = whole.saturating_sub(1);
    let fewer = if fewer > 0 { format!(" or `attempts: {fewer}`") } else { String::new() };
    Some((message, format!("use `timeout: {}`{fewer}", spelled(need))))
}

/// `5 s`, `1.5 s`, `250 ms`.
fn seconds(duration: Duration) -> String {
    let ms = duration.as_millis();
    match (ms / 1000, ms % 1000) {
        (0, ms) => format!("{ms} ms"),
        (s, 0) => format!("{s} s"),
        (s, ms) => format!("{s}.{} s", format!("{ms:03}").trim_end_matches('0')),
    }
}

/// As YAML writes it.
fn spelled(duration: Duration) -> String {
    seconds(duration).replace(' ', "")
}

fn percentages(report: &mut Report<'_>, item: Of<'_, VirtualService>, at: usize, rule: &HttpRoute) {
    let fault = rule.fault.as_ref();
    let delay = fault.and_then(|f| f.delay.as_ref()).and_then(|d| d.percentage.as_ref());
    let abort = fault.and_then(|f| f.abort.as_ref()).and_then(|a| a.percentage.as_ref());
    let all: [(&str, Option<&Percent>); 3] =
        [("fault.delay.percentage", delay), ("fault.abort.percentage", abort), ("mirrorPercentage", rule.mirror_percentage.as_ref())];
    for (field, value) in all.into_iter().filter_map(|(field, percent)| Some((field, percent?.value))) {
        // From the smallest percentage that Envoy can express up to one percent: that is how fractions look.
        if !(0.0001..1.0).contains(&value) {
            continue;
        }
        let one_in = (100.0 / value).round() as u64;
        let message = format!("`{value}` means {value} %: 1 in {} requests", thousands(one_in));
        let draft = Draft::note(code::NOTE_PERCENTAGE, item.object, format!("spec.http[{at}].{field}.value"), message);
        report.add(draft.help(format!("for {} of the requests write {}", fraction(value), trimmed(value * 100.0))));
    }
}

/// `0.1` as `one tenth (10 %)`: what somebody who thinks in fractions meant.
fn fraction(value: f64) -> String {
    format!("{} %", trimmed(value * 100.0))
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn ejection(report: &mut Report<'_>, item: Of<'_, DestinationRule>) {
    let effective = report.effective;
    let host = effective.mesh().expand(&item.spec.host, item.namespace());
    let service = effective.any_service(&host).cloned();
    let mut blocks: Vec<(String, &OutlierDetection)> = Vec::new();
    let top = item.spec.traffic_policy.as_ref().map(|p| ("spec.trafficPolicy".to_owned(), p));
    let subsets = item.spec.subsets.iter().enumerate();
    let subsets = subsets.filter_map(|(at, s)| Some((format!("spec.subsets[{at}].trafficPolicy"), s.traffic_policy.as_ref()?)));
    for (path, policy) in top.into_iter().chain(subsets) {
        let ports = policy.port_level_settings.iter().enumerate();
        let ports =
            ports.filter_map(|(at, p)| Some((format!("{path}.portLevelSettings[{at}].outlierDetection"), p.outlier_detection.as_ref()?)));
        blocks.extend(policy.outlier_detection.as_ref().map(|o| (format!("{path}.outlierDetection"), o)));
        blocks.extend(ports);
    }
    for (path, block) in blocks {
        let percent = u32::try_from(block.max_ejection_percent).ok().filter(|p| *p > 0);
        let limit = percent.unwrap_or(DEFAULT_MAX_EJECTION_PERCENT);
        let needed = 100_u32.div_ceil(limit);
        let known = service.as_ref().and_then(|s| endpoints(report, s));
        // A percentage that somebody chose is only worth a word where the endpoints are known to be too few.
        if needed <= 1 || known.is_some_and(|n| n >= needed) || (percent.is_some() && known.is_none()) {
            continue;
        }
        let now = known.map(|n| format!(", and it has {n}")).unwrap_or_default();
        let why =
            if percent.is_some() { format!("maxEjectionPercent is {limit}") } else { format!("maxEjectionPercent is {limit} when unset") };
        let message = format!("this ejects nothing while the service has fewer than {needed} endpoints{now}: {why}");
        let help = match known {
            Some(n) if n > 1 => format!("with {n} endpoints, `maxEjectionPercent: {}` lets one be ejected", 100_u32.div_ceil(n)),
            _ => "set maxEjectionPercent: 34 lets one of three endpoints be ejected, 50 one of two".to_owned(),
        };
        report.add(Draft::note(code::NOTE_INERT_EJECTION, item.object, path, message).help(help));
    }
}

/// How many endpoints a service will have; `None` when that is not written down here.
fn endpoints(report: &Report<'_>, service: &MeshService) -> Option<u32> {
    let workloads = report.effective.workloads().iter().filter(|w| service.selects(&w.namespace, &w.labels));
    let running: u32 = workloads.map(|w| w.replicas).sum();
    let count = running + service.endpoints.len() as u32;
    (count > 0).then_some(count)
}

/// `/api/products/*` is a prefix with its slash.
fn paths(report: &mut Report<'_>, item: Of<'_, AuthorizationPolicy>) {
    for (rule_at, rule) in item.spec.rules.iter().enumerate() {
        for (to_at, operation) in rule.to.iter().enumerate().filter_map(|(at, to)| Some((at, to.operation.as_ref()?))) {
            for (list, paths) in [("paths", &operation.paths), ("notPaths", &operation.not_paths)] {
                for (at, path) in paths.iter().enumerate() {
                    let Some(bare) = path.strip_suffix("/*").filter(|bare| !bare.is_empty() && !bare.contains(['*', '{'])) else {
                        continue;
                    };
                    let covered = |other: &String| other == bare || other.strip_suffix('*').is_some_and(|prefix| bare.starts_with(prefix));
                    if paths.iter().any(covered) {
                        continue;
                    }
                    let message = format!("`{path}` does not match `{bare}` itself, only what is below it");
                    let place = format!("spec.rules[{rule_at}].to[{to_at}].operation.{list}[{at}]");
                    report.add(
                        Draft::note(code::NOTE_PATH, item.object, place, message)
                            .help(format!("add `{bare}` to the list if it is meant too")),
                    );
                }
            }
        }
    }
}

/// One ALLOW policy turns "everything is allowed" into "nothing else is".
fn allow(report: &mut Report<'_>, item: Of<'_, AuthorizationPolicy>) {
    let always = |rule: &Rule| rule.from.is_empty() && rule.to.is_empty() && rule.when.is_empty();
    if item.spec.action != Action::Allow || item.spec.is_attached() || item.spec.rules.iter().any(always) {
        return;
    }
    let whom = match item.spec.selector() {
        Some(labels) => format!("workloads with {}", listed(labels.iter().map(|(key, value)| format!("{key}: {value}")))),
        None if item.namespace() == report.effective.mesh().root_namespace => "every workload of the mesh".to_owned(),
        None => format!("every workload of namespace {}", item.namespace()),
    };
    let (what, help) = if item.spec.rules.is_empty() {
        ("every request", "that is what an ALLOW policy without rules means; to allow everything write `rules: [{}]`")
    } else {
        ("everyone else", "add a rule for each other caller, health checks and metrics scrapers among them")
    };
    let message = format!("this ALLOW policy denies {what} at {whom}: what no ALLOW rule matches is answered 403");
    let path = if item.object.has("spec.rules") { "spec.rules" } else { "spec" };
    report.add(Draft::note(code::NOTE_ALLOW, item.object, path, message).help(help));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_retries_is_told_try_by_try() {
        let s = Duration::from_secs;
        let cases = [
            (
                3,
                s(2),
                s(5),
                Some(
                    "4 tries of 2 s need 8 s, but `timeout` ends the request after 5 s: 2 tries run in full, try 3 is cut after 1 s and try 4 never starts",
                ),
            ),
            (3, s(2), s(10), None),
            (3, s(2), s(8), None),
            (
                2,
                s(3),
                s(3),
                Some(
                    "3 tries of 3 s need 9 s, but `timeout` ends the request after 3 s: the first try runs in full and tries 2 to 3 never start",
                ),
            ),
            (
                1,
                s(4),
                Duration::from_millis(2500),
                Some(
                    "2 tries of 4 s need 8 s, but `timeout` ends the request after 2.5 s: try 1 is cut after 2.5 s and try 2 never starts",
                ),
            ),
        ];
        for (attempts, per_try, timeout, want) in cases {
            let policy = RetryPolicy { attempts, ..RetryPolicy::built_in() };
            assert_eq!(cost(&policy, per_try, timeout).map(|(message, _)| message).as_deref(), want, "{attempts} {per_try:?} {timeout:?}");
        }
    }

    #[test]
    fn small_percentages_are_counted_in_requests() {
        let cases = [(1000, "1,000"), (999, "999"), (1_000_000, "1,000,000"), (200, "200")];
        for (number, want) in cases {
            assert_eq!(thousands(number), want);
        }
    }
}
