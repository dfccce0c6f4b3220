//! Format strings: `%OPERATOR(argument):length%` between literal text.
//!
//! In:  a format, once; an entry, per line.
//! Out: bytes of one line, text or JSON.

use serde_json::Value;

use super::escape::{escape_json, escape_text, print_display, print_number};
use super::operator::{Operator, Rendered};
use super::{LogEntry, WantedHeaders};

/// Why a format does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("unknown operator %{0}%")]
    UnknownOperator(String),
    #[error("operator %{0}% is not closed")]
    Unclosed(String),
    #[error("operator %{operator}%: {argument:?} is not {wanted}")]
    Argument { operator: String, argument: String, wanted: &'static str },
    #[error("json_format is {0}, wanted an object")]
    NotAnObject(&'static str),
    #[error("json_format is nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// Nested objects of a JSON layout.
const MAX_DEPTH: usize = 8;

/// A text layout.
#[derive(Debug)]
pub(super) struct TextLine(Vec<Part>);

/// A JSON layout: text between values is rendered in advance.
#[derive(Debug)]
pub(super) struct JsonLine {
    root: Vec<(Box<str>, JsonPart)>,
    omit_empty: bool,
}

#[derive(Debug)]
enum JsonPart {
    /// A single operator keeps its type: numbers stay numbers, a missing value is `null`.
    Single(Field),
    /// Several parts make a string.
    Text(Vec<Part>),
    /// A value without operators, as JSON text.
    Literal(Box<str>),
    Object(Vec<(Box<str>, JsonPart)>),
}

#[derive(Debug)]
enum Part {
    Literal(Box<str>),
    Field(Field),
}

/// One operator and how many bytes of its value are printed at most.
#[derive(Debug)]
struct Field {
    operator: Operator,
    length: Option<usize>,
}

impl TextLine {
    pub(super) fn parse(format: &str, wanted: &mut WantedHeaders) -> Result<Self, FormatError> {
        parse(format, wanted).map(Self)
    }

    pub(super) fn render(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Field(field) => field.print(entry, out, escape_text),
            }
        }
    }
}

impl JsonLine {
    pub(super) fn parse(object: &Value, omit_empty: bool, wanted: &mut WantedHeaders) -> Result<Self, FormatError> {
        match object {
            Value::Object(_) => match JsonPart::parse(object, wanted, 0)? {
                JsonPart::Object(root) => Ok(Self { root, omit_empty }),
                _ => Err(FormatError::NotAnObject("not an object")),
            },
            Value::Null => Err(FormatError::NotAnObject("null")),
            Value::Array(_) => Err(FormatError::NotAnObject("a list")),
            _ => Err(FormatError::NotAnObject("a single value")),
        }
    }

    pub(super) fn render(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
        print_object(&self.root, self.omit_empty, entry, out);
        out.push(b'\n');
    }
}

impl JsonPart {
    fn parse(value: &Value, wanted: &mut WantedHeaders, depth: usize) -> Result<Self, FormatError> {
        if depth > MAX_DEPTH {
            return Err(FormatError::TooDeep);
        }
        match value {
            Value::String(format) => {
                let mut parts = parse(format, wanted)?;
                if parts.iter().all(|part| matches!(part, Part::Literal(_))) {
                    let text: String = parts.iter().map(|part| if let Part::Literal(text) = part { text } else { "" }).collect();
                    return Ok(Self::Literal(Value::String(text).to_string().into()));
                }
                Ok(match (parts.len(), parts.pop()) {
                    (1, Some(Part::Field(field))) => Self::Single(field),
                    (_, last) => {
                        parts.extend(last);
                        Self::Text(parts)
                    }
                })
            }
            Value::Object(map) => {
                let parsed = map
                    .iter()
                    .map(|(key, value)| Ok((Value::String(key.clone()).to_string().into(), Self::parse(value, wanted, depth + 1)?)));
                Ok(Self::Object(parsed.collect::<Result<_, FormatError>>()?))
            }
            other => Ok(Self::Literal(other.to_string().into())),
        }
    }
}

fn print_object(members: &[(Box<str>, JsonPart)], omit_empty: bool, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (key, part) in members {
        let start = out.len();
        if !first {
            out.push(b',');
        }
        out.extend_from_slice(key.as_bytes());
        out.push(b':');
        let printed = match part {
            JsonPart::Literal(text) => {
                out.extend_from_slice(text.as_bytes());
                true
            }
            JsonPart::Single(field) => field.print_json(entry, out),
            JsonPart::Text(parts) => {
                out.push(b'"');
                for part in parts {
                    match part {
                        Part::Literal(text) => escape_json(text.as_bytes(), out),
                        Part::Field(field) => field.print(entry, out, escape_json),
                    }
                }
                out.push(b'"');
                true
            }
            JsonPart::Object(members) => {
                print_object(members, omit_empty, entry, out);
                true
            }
        };
        if !printed && omit_empty {
            out.truncate(start);
        } else {
            first = false;
        }
    }
    out.push(b'}');
}

impl Field {
    fn print(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>, escape: fn(&[u8], &mut Vec<u8>)) {
        let mut cut = |text: &[u8]| escape(&text[..text.len().min(self.length.unwrap_or(usize::MAX))], out);
        match self.operator.value(entry) {
            Rendered::Missing => out.push(b'-'),
            Rendered::Text(text) => cut(text),
            Rendered::Owned(text) => cut(&text),
            Rendered::Number(number) => print_number(number, out),
            Rendered::Address(address) => print_display(address, out),
            Rendered::Ip(ip) => print_display(ip, out),
            Rendered::Flags(flags) => print_display(flags, out),
        }
    }

    /// Whether there was a value; `null` is printed when not.
    fn print_json(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) -> bool {
        match self.operator.value(entry) {
            Rendered::Missing => {
                out.extend_from_slice(b"null");
                return false;
            }
            Rendered::Number(number) => print_number(number, out),
            _ => {
                out.push(b'"');
                self.print(entry, out, escape_json);
                out.push(b'"');
            }
        }
        true
    }
}

/// Splits a format at its operators. `%%` is a percent sign.
fn parse(format: &str, wanted: &mut WantedHeaders) -> Result<Vec<Part>, FormatError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        literal.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let end = operator_end(rest).ok_or_else(|| FormatError::Unclosed(rest.chars().take(40).collect()))?;
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        parts.push(Part::Field(parse_field(&rest[..end], wanted)?));
        rest = &rest[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts)
}

/// The closing `%`: not one inside parentheses, which hold `%` of their own (`%START_TIME(%Y)%`).
fn operator_end(source: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (place, byte) in source.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'%' if depth == 0 => return Some(place),
            _ => {}
        }
    }
    None
}

fn parse_field(source: &str, wanted: &mut WantedHeaders) -> Result<Field, FormatError> {
    let (operator, length) =
        match source.rfind(')').map_or_else(|| source.rfind(':'), |close| source[close..].find(':').map(|at| close + at)) {
            Some(colon) => {
                let number = source[colon + 1..].parse().map_err(|_| FormatError::Argument {
                    operator: source.to_owned(),
                    argument: source[colon + 1..].to_owned(),
                    wanted: "a length",
                })?;
                (&source[..colon], Some(number))
            }
            None => (source, None),
        };
    Ok(Field { operator: Operator::parse(operator, wanted)?, length })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::super::{Captured, DEFAULT_TEXT};
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn with_entry(wanted: &WantedHeaders, check: impl FnOnce(&LogEntry<'_>)) {
        let request = headers(&[("user-agent", "curl/8"), ("x-request-id", "id-1"), ("x-evil", "a\" b\\")]);
        let request = Captured::of(&wanted.request, &request);
        let response = Captured::of(&wanted.response, &headers(&[("x-envoy-upstream-service-time", "7")]));
        let trailers = Captured::of(&wanted.trailers, &headers(&[("grpc-status", "5")]));
        check(&LogEntry {
            duration: Duration::from_millis(12),
            response_duration: Some(Duration::from_millis(9)),
            method: Some("GET"),
            path: Some("/v2/products?page=2"),
            original_path: Some("/products?page=2"),
            authority: Some("product-service"),
            scheme: Some("http"),
            protocol: Some("HTTP/1.1"),
            request_headers: Some(&request),
            response_headers: Some(&response),
            response_trailers: Some(&trailers),
            response_code: 200,
            response_code_details: Some("via_upstream"),
            bytes_received: 3,
            bytes_sent: 1234,
            upstream_host: "127.0.0.1:9080".parse().ok(),
            upstream_cluster: Some("outbound|80|v1|product-service.default.svc.cluster.local"),
            downstream_local_address: "127.0.0.1:15001".parse().ok(),
            downstream_remote_address: "[::1]:4242".parse().ok(),
            route_name: Some("default"),
            ..LogEntry::at(UNIX_EPOCH + Duration::new(1_709_210_096, 789_012_345))
        });
    }

    fn text_of(format: &str) -> String {
        let mut wanted = WantedHeaders::default();
        let line = TextLine::parse(format, &mut wanted).unwrap();
        let mut out = Vec::new();
        with_entry(&wanted, |entry| line.render(entry, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_default_line_is_istios() {
        let want = concat!(
            "[2024-02-29T12:34:56.789Z] \"GET /products?page=2 HTTP/1.1\" 200 - via_upstream - \"-\" 3 1234 12 7 \"-\" \"curl/8\" ",
            "\"id-1\" \"product-service\" \"127.0.0.1:9080\" outbound|80|v1|product-service.default.svc.cluster.local - ",
            "127.0.0.1:15001 [::1]:4242 - default\n"
        );
        assert_eq!(text_of(DEFAULT_TEXT), want);
    }

    #[test]
    fn operators_print_what_envoy_prints() {
        let cases = [
            ("100%%", "100%"),
            ("%REQ(:PATH)%", "/v2/products?page=2"),
            ("%REQ(X-MISSING?:METHOD)%", "GET"),
            ("%REQ(USER-AGENT):4%", "curl"),
            ("%REQ(X-EVIL)%", r#"a\" b\\"#),
            ("%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/products"),
            ("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%ms", "7ms"),
            ("%TRAILER(GRPC-STATUS)%", "5"),
            ("%GRPC_STATUS%", "5"),
            ("%UPSTREAM_REMOTE_PORT%", "9080"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "::1"),
            ("%DYNAMIC_METADATA(istio)%", "-"),
            ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "9 3"),
            ("%START_TIME(%s.%6f)%", "1709210096.789012"),
            ("%START_TIME(%Y/%m/%d %T %b %a %j)%", "2024/02/29 12:34:56 Feb Thu 060"),
        ];
        for (format, want) in cases {
            assert_eq!(text_of(format), want, "{format}");
        }
    }

    #[test]
    fn a_bad_format_is_refused_with_its_operator() {
        let cases = [
            ("%NO_SUCH%", "unknown operator %NO_SUCH%"),
            ("%REQ%", "unknown operator %REQ%"),
            ("%PROTOCOL", "operator %PROTOCOL% is not closed"),
            ("%REQ(a b)%", "operator %REQ(a b)%: \"a b\" is not a header name"),
            ("%REQ(a):x%", "operator %REQ(a):x%: \"x\" is not a length"),
            ("%START_TIME(%Q)%", "operator %START_TIME(%Q)%: \"%Q\" is not a time conversion"),
        ];
        for (format, want) in cases {
            let error = TextLine::parse(format, &mut WantedHeaders::default()).unwrap_err();
            assert_eq!(error.to_string(), want, "{format}");
        }
    }

    #[test]
    fn json_keeps_types_and_says_null_for_what_is_missing() {
        let object = serde_json::json!({
            "code": "%RESPONSE_CODE%", "path": "%REQ(:PATH)%", "sni": "%REQUESTED_SERVER_NAME%",
            "mixed": "%PROTOCOL% %DURATION%", "fixed": "100%%", "n": 3, "nested": {"evil": "%REQ(X-EVIL)%"},
        });
        for (omit_empty, sni) in [(false, "\"sni\":null"), (true, "")] {
            let mut wanted = WantedHeaders::default();
            let line = JsonLine::parse(&object, omit_empty, &mut wanted).unwrap();
            let mut out = Vec::new();
            with_entry(&wanted, |entry| line.render(entry, &mut out));
            let text = String::from_utf8(out).unwrap();
            let parsed: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(parsed["code"], 200);
            assert_eq!(parsed["mixed"], "HTTP/1.1 12");
            assert_eq!(parsed["fixed"], "100%");
            assert_eq!(parsed["n"], 3);
            assert_eq!(parsed["nested"]["evil"], "a\" b\\");
            assert_eq!(parsed.get("sni").is_none(), omit_empty);
            assert!(text.contains(sni));
        }
        let error = JsonLine::parse(&Value::Null, false, &mut WantedHeaders::default()).unwrap_err();
        assert_eq!(error.to_string(), "json_format is null, wanted an object");
    }
}
