//! Small values that many resources share: durations, addresses, fractions, text matchers, header changes.
//!
//! In:  wire messages.
//! Out: compiled values, bounded and checked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pillion_xds::resource::UnpackError;
use pillion_xds::wire::envoy::config::core::v3 as core;
use pillion_xds::wire::envoy::config::route::v3 as route;
use pillion_xds::wire::envoy::r#type::matcher::v3 as matcher;
use pillion_xds::wire::envoy::r#type::v3 as types;
use pillion_xds::wire::google::protobuf as proto;
use prost::{Message, Name};
use regex::bytes::Regex;

use super::at::{At, Compiled, refuse_set};
use crate::config::expression::{anchored, unanchored};
use crate::config::listener::Http2Settings;
use crate::config::route_table::{AppendAction, Fraction, HeaderAddition, HeaderKey, HeaderMatch, HeaderMutations, TextMatch, ValueMatch};
use crate::route::template::Template;

/// The longest expression or literal of a matcher, in bytes.
const MAX_PATTERN_BYTES: usize = 16 << 10;

pub(super) fn unpack<M: Message + Name + Default>(at: &At<'_>, any: &proto::Any) -> Compiled<M> {
    pillion_xds::resource::unpack(any).map_err(|error| match error {
        UnpackError::Type { found, .. } => at.refuse(format_args!("type {found} is not supported")),
        other => at.refuse(other),
    })
}

/// The name after the last slash of a type URL.
pub(super) fn type_name(any: &proto::Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// A duration that is set: neither negative nor malformed.
pub(super) fn duration(at: &At<'_>, value: &proto::Duration) -> Compiled<Duration> {
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        // 10,000 years, protobuf's own limit.
        (Ok(seconds), Ok(nanos)) if seconds <= 315_576_000_000 && nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(at.refuse("is no duration of 0 or more")),
    }
}

/// The default when unset; 0 means never.
pub(super) fn timeout(at: &At<'_>, value: Option<&proto::Duration>, unset: Option<Duration>) -> Compiled<Option<Duration>> {
    match value {
        None => Ok(unset),
        Some(value) => Ok(Some(duration(at, value)?).filter(|time| !time.is_zero())),
    }
}

pub(super) fn flag(value: Option<&proto::BoolValue>, unset: bool) -> bool {
    value.map_or(unset, |value| value.value)
}

/// An enum's value; a number that we do not know is refused, never taken for the default.
pub(super) fn enumeration<T: TryFrom<i32>>(at: &At<'_>, value: i32) -> Compiled<T> {
    T::try_from(value).map_err(|_| at.refuse(format_args!("{value} is no known value")))
}

/// An integer within bounds, or the default when unset.
pub(super) fn bounded(at: &At<'_>, value: Option<&proto::UInt32Value>, unset: u32, range: std::ops::RangeInclusive<u32>) -> Compiled<u32> {
    match value {
        None => Ok(unset),
        Some(value) if range.contains(&value.value) => Ok(value.value),
        Some(value) => Err(at.refuse(format_args!("{} is not within {} and {}", value.value, range.start(), range.end()))),
    }
}

/// Host (name or IP address) and port of a TCP socket address.
pub(super) fn host_and_port<'w>(at: &At<'_>, address: Option<&'w core::Address>) -> Compiled<(&'w str, u16)> {
    let address = address.and_then(|address| address.address.as_ref()).ok_or_else(|| at.refuse("is missing"))?;
    let core::address::Address::SocketAddress(socket) = address else {
        return Err(at.refuse("only socket addresses are supported"));
    };
    if socket.protocol != core::socket_address::Protocol::Tcp as i32 {
        return Err(at.field("protocol").refuse("only TCP is supported"));
    }
    refuse_set!(socket, at, [resolver_name, network_namespace_filepath]);
    let port = match &socket.port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(port)) => *port,
        None => 0,
        Some(core::socket_address::PortSpecifier::NamedPort(_)) => return Err(at.field("named_port").unsupported()),
    };
    let port = u16::try_from(port).map_err(|_| at.field("port_value").refuse(format_args!("{port} is no port")))?;
    if socket.address.is_empty() || socket.address.len() > 255 {
        return Err(at.field("address").refuse("has 1 to 255 bytes"));
    }
    Ok((&socket.address, port))
}

/// A socket address whose host is an IP address.
pub(super) fn socket_address(at: &At<'_>, address: Option<&core::Address>) -> Compiled<SocketAddr> {
    let (host, port) = host_and_port(at, address)?;
    let ip: IpAddr = host.parse().map_err(|_| at.field("address").refuse(format_args!("{host:?} is no IP address")))?;
    Ok(SocketAddr::new(ip, port))
}

pub(super) fn fraction(at: &At<'_>, value: &types::FractionalPercent) -> Compiled<Fraction> {
    use types::fractional_percent::DenominatorType;
    let denominator = match enumeration::<DenominatorType>(&at.field("denominator"), value.denominator)? {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    Ok(Fraction { numerator: value.numerator, denominator })
}

pub(super) fn regex(at: &At<'_>, value: &matcher::RegexMatcher) -> Compiled<Arc<Regex>> {
    expression(at, &value.regex)?;
    anchored(&value.regex).map_err(|error| at.field("regex").refuse(regex_reason(&value.regex, &error)))
}

/// Expression and substitution of a rewrite: unanchored, every match is replaced.
pub(super) fn regex_rewrite(at: &At<'_>, value: &matcher::RegexMatchAndSubstitute) -> Compiled<(Arc<Regex>, Bytes)> {
    let pattern_at = at.field("pattern");
    let pattern = value.pattern.as_ref().ok_or_else(|| pattern_at.refuse("is missing"))?;
    expression(&pattern_at, &pattern.regex)?;
    let built = unanchored(&pattern.regex).map_err(|error| pattern_at.field("regex").refuse(regex_reason(&pattern.regex, &error)))?;
    if !is_substitution(&value.substitution, built.captures_len()) {
        return Err(at.field("substitution").refuse(format_args!("{:?} names no group of the expression", value.substitution)));
    }
    Ok((built, crate::config::route_table::substitution(&value.substitution)))
}

/// Whether every backslash is followed by another one or by the number of a group. RE2 replaces nothing otherwise.
fn is_substitution(text: &str, groups: usize) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let known = byte != b'\\'
            || match bytes.next() {
                Some(b'\\') => true,
                Some(digit) => digit.is_ascii_digit() && usize::from(digit - b'0') < groups,
                None => false,
            };
        if !known {
            return false;
        }
    }
    true
}

fn expression(at: &At<'_>, text: &str) -> Compiled<()> {
    if text.is_empty() || text.len() > MAX_PATTERN_BYTES {
        return Err(at.field("regex").refuse(format_args!("has 1 to {MAX_PATTERN_BYTES} bytes")));
    }
    Ok(())
}

/// The last line of the error says what is wrong; the ones before draw it.
fn regex_reason(expression: &str, error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().next_back().unwrap_or_default();
    let shown: String = expression.chars().take(80).collect();
    format!("{shown:?} is no expression: {}", last.trim_start_matches("error: "))
}

pub(super) fn text_match(at: &At<'_>, value: &matcher::StringMatcher) -> Compiled<TextMatch> {
    use matcher::string_matcher::MatchPattern;
    let ignore_case = value.ignore_case;
    let text = |text: &str| -> Box<str> { if ignore_case { text.to_ascii_lowercase().into() } else { text.into() } };
    match value.match_pattern.as_ref().ok_or_else(|| at.refuse("matches nothing: no pattern is set"))? {
        MatchPattern::Exact(exact) => Ok(TextMatch::Exact { text: text(exact), ignore_case }),
        MatchPattern::Prefix(prefix) => Ok(TextMatch::Prefix { text: text(prefix), ignore_case }),
        MatchPattern::Suffix(suffix) => Ok(TextMatch::Suffix { text: text(suffix), ignore_case }),
        MatchPattern::Contains(part) => Ok(TextMatch::Contains { text: text(part), ignore_case }),
        MatchPattern::SafeRegex(expression) => Ok(TextMatch::Regex(regex(&at.field("safe_regex"), expression)?)),
        MatchPattern::Custom(_) => Err(at.field("custom").unsupported()),
    }
}

pub(super) fn header_match(at: &At<'_>, value: &route::HeaderMatcher) -> Compiled<HeaderMatch> {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    let exact = |text: &str| TextMatch::Exact { text: text.into(), ignore_case: false };
    let matches = match &value.header_match_specifier {
        None => ValueMatch::Present(true),
        Some(Specifier::PresentMatch(present)) => ValueMatch::Present(*present),
        Some(Specifier::ExactMatch(text)) => ValueMatch::Text(exact(text)),
        Some(Specifier::PrefixMatch(text)) => ValueMatch::Text(TextMatch::Prefix { text: text.as_str().into(), ignore_case: false }),
        Some(Specifier::SuffixMatch(text)) => ValueMatch::Text(TextMatch::Suffix { text: text.as_str().into(), ignore_case: false }),
        Some(Specifier::ContainsMatch(text)) => ValueMatch::Text(TextMatch::Contains { text: text.as_str().into(), ignore_case: false }),
        Some(Specifier::SafeRegexMatch(expression)) => {
            ValueMatch::Text(TextMatch::Regex(regex(&at.field("safe_regex_match"), expression)?))
        }
        Some(Specifier::StringMatch(matcher)) => ValueMatch::Text(text_match(&at.field("string_match"), matcher)?),
        Some(Specifier::RangeMatch(range)) => ValueMatch::Range { start: range.start, end: range.end },
    };
    Ok(HeaderMatch {
        header: header_key(&at.field("name"), &value.name)?,
        value: matches,
        invert: value.invert_match,
        missing_is_empty: value.treat_missing_header_as_empty,
    })
}

pub(super) fn header_key(at: &At<'_>, name: &str) -> Compiled<HeaderKey> {
    Ok(match name {
        ":method" => HeaderKey::Method,
        ":authority" => HeaderKey::Authority,
        ":scheme" => HeaderKey::Scheme,
        ":path" => HeaderKey::Path,
        _ => match header_name(at, name)? {
            name if name == http::header::HOST => HeaderKey::Authority,
            name => HeaderKey::Name(name),
        },
    })
}

pub(super) fn header_name(at: &At<'_>, name: &str) -> Compiled<HeaderName> {
    HeaderName::try_from(name).map_err(|_| at.refuse(format_args!("{name:?} is no header name")))
}

pub(super) fn header_value(at: &At<'_>, value: &str) -> Compiled<HeaderValue> {
    HeaderValue::try_from(value).map_err(|_| at.refuse(format_args!("{value:?} is no header value")))
}

/// The lists of headers to add and to remove; `names` are the fields' names, for refusals.
pub(super) fn mutations(
    at: &At<'_>,
    names: (&'static str, &'static str),
    add: &[core::HeaderValueOption],
    remove: &[String],
) -> Compiled<HeaderMutations> {
    let add = add.iter().enumerate().map(|(index, option)| addition(&at.index(names.0, index), option));
    let remove = remove.iter().enumerate().map(|(index, name)| changeable(&at.index(names.1, index), name));
    Ok(HeaderMutations { add: add.collect::<Compiled<_>>()?, remove: remove.collect::<Compiled<_>>()? })
}

/// Field names of the request's mutations, which every level has.
pub(super) const REQUEST: (&str, &str) = ("request_headers_to_add", "request_headers_to_remove");
/// The same for the response.
pub(super) const RESPONSE: (&str, &str) = ("response_headers_to_add", "response_headers_to_remove");

fn addition(at: &At<'_>, option: &core::HeaderValueOption) -> Compiled<HeaderAddition> {
    use core::header_value_option::HeaderAppendAction as Wire;
    let header_at = at.field("header");
    let header = option.header.as_ref().ok_or_else(|| header_at.refuse("is missing"))?;
    refuse_set!(header, header_at, [raw_value]);
    let name = changeable(&header_at.field("key"), &header.key)?;
    let value = Template::parse(&header.value).map_err(|error| header_at.field("value").refuse(error))?;
    let action = match (&option.append, enumeration::<Wire>(&at.field("append_action"), option.append_action)?) {
        // The old field wins where it is set, as in Envoy.
        (Some(append), _) if append.value => AppendAction::AppendIfExistsOrAdd,
        (Some(_), _) => AppendAction::OverwriteIfExistsOrAdd,
        (None, Wire::AppendIfExistsOrAdd) => AppendAction::AppendIfExistsOrAdd,
        (None, Wire::AddIfAbsent) => AppendAction::AddIfAbsent,
        (None, Wire::OverwriteIfExistsOrAdd) => AppendAction::OverwriteIfExistsOrAdd,
        (None, Wire::OverwriteIfExists) => AppendAction::OverwriteIfExists,
    };
    Ok(HeaderAddition { name, value, action, keep_empty: option.keep_empty_value })
}

/// A header that routes may change: `Host` and pseudo-headers have fields of their own (Envoy refuses them too).
fn changeable(at: &At<'_>, name: &str) -> Compiled<HeaderName> {
    let parsed = if name.starts_with(':') { None } else { Some(header_name(at, name)?) };
    parsed.filter(|name| *name != http::header::HOST).ok_or_else(|| at.refuse(format_args!("{name} cannot be added or removed here")))
}

/// Limits of one HTTP/2 side.
pub(super) fn http2(at: &At<'_>, options: Option<&core::Http2ProtocolOptions>) -> Compiled<Http2Settings> {
    let mut settings = Http2Settings::default();
    let Some(options) = options else { return Ok(settings) };
    const MAX_WINDOW: u32 = (1 << 31) - 1;
    let window = 65_535..=MAX_WINDOW;
    let streams_at = at.field("max_concurrent_streams");
    settings.max_concurrent_streams =
        bounded(&streams_at, options.max_concurrent_streams.as_ref(), settings.max_concurrent_streams, 1..=MAX_WINDOW)?;
    let stream_at = at.field("initial_stream_window_size");
    settings.initial_stream_window =
        bounded(&stream_at, options.initial_stream_window_size.as_ref(), settings.initial_stream_window, window.clone())?;
    let connection_at = at.field("initial_connection_window_size");
    settings.initial_connection_window =
        bounded(&connection_at, options.initial_connection_window_size.as_ref(), settings.initial_connection_window, window)?;
    if let Some(keep_alive) = &options.connection_keepalive {
        let at = at.field("connection_keepalive");
        settings.keep_alive_interval = timeout(&at.field("interval"), keep_alive.interval.as_ref(), None)?;
        if let Some(time) = timeout(&at.field("timeout"), keep_alive.timeout.as_ref(), None)? {
            settings.keep_alive_timeout = time;
        }
    }
    Ok(settings)
}

/// Text given in the resource itself.
pub(super) fn inline_text<'w>(at: &At<'_>, source: &'w core::DataSource) -> Compiled<&'w [u8]> {
    use core::data_source::Specifier;
    match &source.specifier {
        Some(Specifier::InlineString(text)) => Ok(text.as_bytes()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        None => Ok(&[]),
        Some(Specifier::Filename(_)) => Err(at.field("filename").unsupported()),
        Some(Specifier::EnvironmentVariable(_)) => Err(at.field("environment_variable").unsupported()),
    }
}

/// A resource's own name must be there and bounded.
pub(super) fn resource_name(at: &At<'_>, name: &str) -> Compiled<()> {
    if name.is_empty() || name.len() > pillion_xds::resource::MAX_NAME_BYTES {
        return Err(at.refuse(format_args!("has 1 to {} bytes", pillion_xds::resource::MAX_NAME_BYTES)));
    }
    Ok(())
}

/// The text at a key of a `Struct`; empty when there is none.
pub(super) fn struct_text<'w>(fields: &'w proto::Struct, key: &str) -> &'w str {
    match fields.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(proto::value::Kind::StringValue(text)) => text,
        _ => "",
    }
}
