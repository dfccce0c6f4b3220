//! The access log: where the mesh configuration wants it and in which layout.
//!
//! In:  `accessLogFile`, `accessLogEncoding`, `accessLogFormat` of the mesh configuration.
//! Out: Envoy's file access logger, or nothing when no file is named.

use super::wire::{self, any, core, file_log};

/// Istio's default line. Source: `EnvoyTextLogFormat` in `pilot/pkg/model/telemetry_logging.go`.
pub const TEXT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
     %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% \
     %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
     \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% \
     %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default keys. Source: `EnvoyJSONLogFormatIstio`.
const JSON_FORMAT: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// How one line looks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Empty: Istio's default line.
    Text(String),
    /// Empty: Istio's default keys; else a JSON object of key to format.
    Json(String),
}

/// The logger for connection managers and TCP proxies; empty when `path` is.
pub fn access_log(path: &str, layout: &Layout) -> Vec<wire::accesslog::AccessLog> {
    if path.is_empty() {
        return Vec::new();
    }
    use core::{data_source::Specifier, substitution_format_string::Format};
    let text = |line| Format::TextFormatSource(core::DataSource { specifier: Some(Specifier::InlineString(line)), ..Default::default() });
    let format = match layout {
        Layout::Text(custom) if custom.is_empty() => text(TEXT_FORMAT.to_owned()),
        Layout::Text(custom) => text(with_line_end(custom)),
        Layout::Json(custom) => Format::JsonFormat(json_keys(custom).unwrap_or_else(default_keys)),
    };
    let file = file_log::FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(file_log::file_access_log::AccessLogFormat::LogFormat(core::SubstitutionFormatString {
            format: Some(format),
            ..Default::default()
        })),
    };
    vec![wire::accesslog::AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter: None,
        config_type: Some(wire::accesslog::access_log::ConfigType::TypedConfig(any(&file))),
    }]
}

fn with_line_end(format: &str) -> String {
    if format.ends_with('\n') { format.to_owned() } else { format!("{format}\n") }
}

fn default_keys() -> wire::Struct {
    wire::object(JSON_FORMAT.iter().map(|(key, format)| (*key, wire::text(*format))))
}

/// A custom JSON layout; `None` when it is no object (the default is used then, as Istio does).
fn json_keys(custom: &str) -> Option<wire::Struct> {
    match serde_json::from_str(custom) {
        Ok(serde_json::Value::Object(keys)) => Some(wire::object(keys.into_iter().map(|(key, value)| (key, json_value(value))))),
        _ => None,
    }
}

fn json_value(value: serde_json::Value) -> pillion_xds::wire::google::protobuf::Value {
    match value {
        serde_json::Value::String(format) => wire::text(format),
        serde_json::Value::Object(keys) => wire::nested(wire::object(keys.into_iter().map(|(key, value)| (key, json_value(value))))),
        serde_json::Value::Array(values) => wire::list(values.into_iter().map(json_value).collect()),
        serde_json::Value::Number(number) => wire::number(number.as_f64().unwrap_or_default()),
        other => wire::text(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_means_no_log() {
        assert!(access_log("", &Layout::Text(String::new())).is_empty());
        assert_eq!(access_log("/dev/stdout", &Layout::Text(String::new())).len(), 1);
    }

    #[test]
    fn the_default_line_has_istios_fields_in_order() {
        assert!(TEXT_FORMAT.starts_with("[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE%"));
        assert!(TEXT_FORMAT.ends_with("%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"));
        assert!(!TEXT_FORMAT.contains("  "));
    }

    #[test]
    fn a_json_layout_that_is_no_object_falls_back_to_the_default_keys() {
        assert!(json_keys("[1]").is_none());
        assert!(json_keys("not json").is_none());
        assert_eq!(json_keys("{\"a\":\"%DURATION%\"}").unwrap().fields.len(), 1);
        assert_eq!(default_keys().fields.len(), 24);
    }
}
