//! Rules of Telemetry. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use super::check::Check;
use super::selector::{selector, targets};
use crate::code;
use crate::kinds::telemetry::{Metrics, ProviderRef, TagOperation, Telemetry, Tracing};
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &Telemetry) {
    selector(cx, &path.field("selector"), body.selector.as_ref());
    targets(cx, path, body.selector.as_ref(), body.target_ref.as_ref(), &body.target_refs);
    for (index, one) in body.tracing.iter().enumerate() {
        tracing(cx, &path.field("tracing").index(index), one);
    }
    for (index, one) in body.metrics.iter().enumerate() {
        metrics(cx, &path.field("metrics").index(index), one);
    }
    for (index, one) in body.access_logging.iter().enumerate() {
        providers(cx, &path.field("accessLogging").index(index).field("providers"), &one.providers);
    }
}

fn providers(cx: &mut Check<'_>, path: &Path<'_>, providers: &[ProviderRef]) {
    for (index, provider) in providers.iter().enumerate() {
        cx.required(&path.index(index).field("name"), &provider.name, "the name of the provider");
    }
}

fn tracing(cx: &mut Check<'_>, path: &Path<'_>, tracing: &Tracing) {
    let list = path.field("providers");
    providers(cx, &list, &tracing.providers);
    if tracing.providers.len() > 1 {
        cx.error(code::TELEMETRY, &list, "only one tracing provider is used", "keep one");
    }
    cx.percent(&path.field("randomSamplingPercentage"), tracing.random_sampling_percentage.unwrap_or(0.0));
    for (name, tag) in &tracing.custom_tags {
        let at = path.field("customTags");
        let at = at.key(name);
        if name.is_empty() {
            cx.error(code::TELEMETRY, &at, "the name of a tag is empty", "");
        }
        if let Some(literal) = &tag.literal {
            cx.required(&at.field("literal").field("value"), &literal.value, "the value");
        } else if let Some(environment) = &tag.environment {
            cx.required(&at.field("environment").field("name"), &environment.name, "the name of the variable");
        } else if let Some(header) = &tag.header {
            cx.required(&at.field("header").field("name"), &header.name, "the name of the header");
        } else if tag.formatter.is_none() {
            cx.error(code::TELEMETRY, &at, format!("the tag `{name}` has no value"), "give literal, environment or header");
        }
    }
}

fn metrics(cx: &mut Check<'_>, path: &Path<'_>, metrics: &Metrics) {
    providers(cx, &path.field("providers"), &metrics.providers);
    cx.duration(&path.field("reportingInterval"), metrics.reporting_interval);
    for (index, one) in metrics.overrides.iter().enumerate() {
        let at = path.field("overrides");
        let at = at.index(index);
        if one.r#match.as_ref().and_then(|m| m.custom_metric.as_deref()) == Some("") {
            cx.error(code::REQUIRED, &at.field("match").field("customMetric"), "the name of the metric is empty", "");
        }
        for (name, tag) in &one.tag_overrides {
            let at = at.field("tagOverrides");
            let at = at.key(name);
            match tag.operation {
                TagOperation::Upsert => {
                    cx.required(&at.field("value"), &tag.value, "the value of a tag that is set");
                }
                TagOperation::Remove if !tag.value.is_empty() => {
                    cx.error(code::TELEMETRY, &at.field("value"), "a tag that is removed has no value", "remove it");
                }
                TagOperation::Remove => {}
            }
        }
    }
}
