//! Access logs of a filter: file, standard output and error, in text or JSON, with filters.
//!
//! In:  `envoy.config.accesslog.v3.AccessLog`.
//! Out: one [`AccessLog`] for all of them.

use std::sync::Arc;

use pillion_xds::resource::is;
use pillion_xds::wire::envoy::config::accesslog::v3 as wire;
use pillion_xds::wire::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string::Format};
use pillion_xds::wire::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};
use pillion_xds::wire::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use pillion_xds::wire::google::protobuf as proto;

use super::at::{At, Compiled};
use super::value::{enumeration, inline_text, type_name, unpack};
use crate::http::record::ResponseFlags;
use crate::telemetry::access_log::{AccessLog, Comparison, DEFAULT_TEXT, LogFilter, LogFormat};

/// Logs of one filter. More would only repeat themselves.
const MAX_LOGS: usize = 8;
/// Nested filters.
const MAX_DEPTH: usize = 8;

pub(super) fn access_log(at: &At<'_>, logs: &[wire::AccessLog]) -> Compiled<Arc<AccessLog>> {
    let mut compiled = AccessLog::default();
    if logs.len() > MAX_LOGS {
        return Err(at.field("access_log").refuse(format_args!("has at most {MAX_LOGS} logs")));
    }
    for (index, log) in logs.iter().enumerate() {
        add(&at.index("access_log", index), log, &mut compiled)?;
    }
    Ok(Arc::new(compiled))
}

fn add(at: &At<'_>, log: &wire::AccessLog, compiled: &mut AccessLog) -> Compiled<()> {
    let at_config = at.field("typed_config");
    let Some(wire::access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
        return Err(at_config.refuse("is missing"));
    };
    let (path, format) = destination(&at_config, any)?;
    let filter = match &log.filter {
        Some(wire) => filter(&at.field("filter"), wire, 0)?,
        None => None,
    };
    let sink =
        at.context().sinks.open(&path).map_err(|error| at_config.field("path").refuse(format_args!("cannot open {path}: {error}")))?;
    compiled.add(sink, &format, filter).map_err(|error| at_config.field("log_format").refuse(error))
}

fn destination(at: &At<'_>, any: &proto::Any) -> Compiled<(String, LogFormat)> {
    let default = || Ok(LogFormat::Text(DEFAULT_TEXT.to_owned()));
    if is::<FileAccessLog>(any) {
        let file: FileAccessLog = unpack(at, any)?;
        if file.path.is_empty() {
            return Err(at.field("path").refuse("is missing"));
        }
        let format = match &file.access_log_format {
            None => default(),
            Some(AccessLogFormat::Format(text)) => Ok(LogFormat::Text(text.clone())),
            Some(AccessLogFormat::JsonFormat(object) | AccessLogFormat::TypedJsonFormat(object)) => Ok(json(object, false)),
            Some(AccessLogFormat::LogFormat(format)) => substitution(&at.field("log_format"), format),
        };
        return Ok((file.path, format?));
    }
    if is::<StdoutAccessLog>(any) {
        let stdout: StdoutAccessLog = unpack(at, any)?;
        let format = match &stdout.access_log_format {
            None => default(),
            Some(stdout_access_log::AccessLogFormat::LogFormat(format)) => substitution(&at.field("log_format"), format),
        };
        return Ok(("/dev/stdout".to_owned(), format?));
    }
    if is::<StderrAccessLog>(any) {
        let stderr: StderrAccessLog = unpack(at, any)?;
        let format = match &stderr.access_log_format {
            None => default(),
            Some(stderr_access_log::AccessLogFormat::LogFormat(format)) => substitution(&at.field("log_format"), format),
        };
        return Ok(("/dev/stderr".to_owned(), format?));
    }
    Err(at.refuse(format_args!("access log {} is not supported", type_name(any))))
}

fn substitution(at: &At<'_>, format: &SubstitutionFormatString) -> Compiled<LogFormat> {
    // Formatters add operators by name; an operator that we do not know is refused where it is used.
    match &format.format {
        None => Ok(LogFormat::Text(DEFAULT_TEXT.to_owned())),
        Some(Format::TextFormat(text)) => Ok(LogFormat::Text(text.clone())),
        Some(Format::TextFormatSource(source)) => {
            let at = at.field("text_format_source");
            let text = std::str::from_utf8(inline_text(&at, source)?).map_err(|_| at.refuse("is not UTF-8"))?;
            Ok(LogFormat::Text(text.to_owned()))
        }
        Some(Format::JsonFormat(object)) => Ok(json(object, format.omit_empty_values)),
    }
}

fn json(object: &proto::Struct, omit_empty: bool) -> LogFormat {
    LogFormat::Json { object: to_json(&proto::Value { kind: Some(proto::value::Kind::StructValue(object.clone())) }), omit_empty }
}

/// Depth is bounded by the decoder's recursion limit.
fn to_json(value: &proto::Value) -> serde_json::Value {
    use proto::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::NumberValue(number)) => serde_json::Number::from_f64(*number).map_or(serde_json::Value::Null, serde_json::Value::Number),
        Some(Kind::StringValue(text)) => serde_json::Value::String(text.clone()),
        Some(Kind::BoolValue(flag)) => serde_json::Value::Bool(*flag),
        Some(Kind::ListValue(list)) => serde_json::Value::Array(list.values.iter().map(to_json).collect()),
        Some(Kind::StructValue(object)) => {
            serde_json::Value::Object(object.fields.iter().map(|(key, value)| (key.clone(), to_json(value))).collect())
        }
    }
}

/// `None`: everything passes.
fn filter(at: &At<'_>, filter: &wire::AccessLogFilter, depth: usize) -> Compiled<Option<LogFilter>> {
    use wire::access_log_filter::FilterSpecifier;
    if depth > MAX_DEPTH {
        return Err(at.refuse(format_args!("is nested deeper than {MAX_DEPTH}")));
    }
    let parts = |name: &'static str, filters: &[wire::AccessLogFilter]| {
        let parts = filters.iter().enumerate().map(|(index, part)| self::filter(&at.index(name, index), part, depth + 1));
        parts.collect::<Compiled<Vec<_>>>()
    };
    Ok(match filter.filter_specifier.as_ref().ok_or_else(|| at.refuse("is empty"))? {
        FilterSpecifier::StatusCodeFilter(status) => {
            let (comparison, value) = comparison(&at.field("status_code_filter"), status.comparison.as_ref())?;
            Some(LogFilter::Status(comparison, value))
        }
        FilterSpecifier::DurationFilter(duration) => {
            let (comparison, value) = comparison(&at.field("duration_filter"), duration.comparison.as_ref())?;
            Some(LogFilter::Duration(comparison, value))
        }
        FilterSpecifier::ResponseFlagFilter(flags) if flags.flags.is_empty() => Some(LogFilter::Flagged),
        FilterSpecifier::ResponseFlagFilter(flags) => {
            // A flag that this proxy never sets matches nothing.
            let known = flags.flags.iter().filter_map(|flag| ResponseFlags::from_short(flag));
            Some(LogFilter::Flags(known.fold(ResponseFlags::NONE, ResponseFlags::with)))
        }
        // Health checks are not told apart from other requests.
        FilterSpecifier::NotHealthCheckFilter(_) => None,
        FilterSpecifier::AndFilter(and) => Some(LogFilter::All(parts("and_filter.filters", &and.filters)?.into_iter().flatten().collect())),
        FilterSpecifier::OrFilter(or) => {
            let parts = parts("or_filter.filters", &or.filters)?;
            // One part that lets everything pass makes the whole do so.
            if parts.iter().any(Option::is_none) { None } else { Some(LogFilter::Any(parts.into_iter().flatten().collect())) }
        }
        _ => return Err(at.refuse("this kind of filter is not supported")),
    })
}

fn comparison(at: &At<'_>, comparison: Option<&wire::ComparisonFilter>) -> Compiled<(Comparison, u32)> {
    let at = at.field("comparison");
    let comparison = comparison.ok_or_else(|| at.refuse("is missing"))?;
    let value = comparison.value.as_ref().ok_or_else(|| at.field("value").refuse("is missing"))?;
    let operator = match enumeration::<wire::comparison_filter::Op>(&at.field("op"), comparison.op)? {
        wire::comparison_filter::Op::Eq => Comparison::Equal,
        wire::comparison_filter::Op::Ge => Comparison::AtLeast,
        wire::comparison_filter::Op::Le => Comparison::AtMost,
        wire::comparison_filter::Op::Ne => Comparison::NotEqual,
    };
    Ok((operator, value.default_value))
}
