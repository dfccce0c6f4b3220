//! HTTP connection managers.
//!
//! In:  `HttpConnectionManager`.
//! Out: [`HttpManager`].

use std::sync::Arc;
use std::time::Duration;

use pillion_xds::wire::envoy::config::core::v3::{ConfigSource, config_source::ConfigSourceSpecifier};
use pillion_xds::wire::envoy::extensions::filters::network::http_connection_manager::v3 as wire;
use wire::http_connection_manager::{
    CodecType, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation, StripPortMode, UpgradeConfig,
};

use super::access_log::access_log;
use super::at::{At, Compiled, note_set, refuse_set};
use super::filter_config;
use super::value::{bounded, enumeration, flag, header_value, http2, resource_name, timeout};
use super::virtual_host::inline_table;
use crate::config::listener::{Codec, EscapedSlashes, HttpManager, PathForm, RouteSource};

/// Envoy's, when the resource says nothing. Source: `stream_idle_timeout`.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Source: `common_http_protocol_options.idle_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) fn http_manager(at: &At<'_>, mut wire: wire::HttpConnectionManager) -> Compiled<HttpManager> {
    refuse_unsupported(at, &wire)?;
    let filters = filter_config::chain(at, &wire.http_filters)?;
    let (upgrades, connect) = upgrades(at, &wire.upgrade_configs)?;
    let routes = routes(at, wire.route_specifier.take())?;
    let common = wire.common_http_protocol_options.unwrap_or_default();
    let at_common = at.field("common_http_protocol_options");
    note_set!(
        common,
        at_common,
        [max_connection_duration, max_stream_duration, headers_with_underscores_action, max_requests_per_connection]
    );
    let kilobytes = bounded(&at.field("max_request_headers_kb"), wire.max_request_headers_kb.as_ref(), 60, 1..=8192)?;
    Ok(HttpManager {
        stat_prefix: wire.stat_prefix.as_str().into(),
        codec: match enumeration::<CodecType>(&at.field("codec_type"), wire.codec_type)? {
            CodecType::Auto => Codec::Auto,
            CodecType::Http1 => Codec::Http1,
            CodecType::Http2 => Codec::Http2,
            CodecType::Http3 => return Err(at.field("codec_type").refuse("HTTP3 is not supported")),
        },
        routes,
        server_header: server_header(at, wire.server_header_transformation, &wire.server_name)?,
        use_remote_address: flag(wire.use_remote_address.as_ref(), false),
        generate_request_id: flag(wire.generate_request_id.as_ref(), true),
        preserve_request_id: wire.preserve_external_request_id,
        paths: PathForm {
            normalize: flag(wire.normalize_path.as_ref(), false),
            merge_slashes: wire.merge_slashes,
            escaped_slashes: escaped_slashes(at, wire.path_with_escaped_slashes_action)?,
        },
        // 8 KiB is the least that the codec works with.
        max_request_header_bytes: (kilobytes << 10).max(8 << 10),
        max_request_headers: bounded(&at_common.field("max_headers_count"), common.max_headers_count.as_ref(), 100, 1..=10_000)?,
        request_headers_timeout: timeout(&at.field("request_headers_timeout"), wire.request_headers_timeout.as_ref(), None)?,
        stream_idle_timeout: timeout(&at.field("stream_idle_timeout"), wire.stream_idle_timeout.as_ref(), Some(STREAM_IDLE_TIMEOUT))?,
        idle_timeout: timeout(&at_common.field("idle_timeout"), common.idle_timeout.as_ref(), Some(IDLE_TIMEOUT))?,
        http2: http2(&at.field("http2_protocol_options"), wire.http2_protocol_options.as_ref())?,
        upgrades,
        connect,
        fault: filters.fault,
        cors: filters.cors,
        access_log: access_log(at, &wire.access_log)?,
    })
}

fn refuse_unsupported(at: &At<'_>, wire: &wire::HttpConnectionManager) -> Compiled<()> {
    refuse_set!(
        wire,
        at,
        [
            http3_protocol_options,
            scheme_header_transformation,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            local_reply_config,
            strip_matching_host_port,
            strip_trailing_host_dot,
            typed_header_validation_config,
            path_normalization_options,
            forward_client_cert_matcher,
            forward_proto_config,
        ]
    );
    note_set!(
        wire,
        at,
        [
            add_user_agent,
            tracing,
            request_timeout,
            stream_flush_timeout,
            access_log_options,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            via,
            skip_xff_append,
            always_set_request_id_in_response,
            append_x_forwarded_port,
            proxy_status_config,
            set_current_client_cert_details,
            request_id_extension,
        ]
    );
    if let Some(StripPortMode::StripAnyHostPort(true)) = wire.strip_port_mode {
        return Err(at.field("strip_any_host_port").unsupported());
    }
    if let Some(options) = &wire.http_protocol_options {
        let at = at.field("http_protocol_options");
        note_set!(options, at, [accept_http_10, header_key_format, enable_trailers, send_fully_qualified_url]);
        if !flag(options.allow_absolute_url.as_ref(), true) {
            at.field("allow_absolute_url").note("absolute URLs are always allowed");
        }
    }
    Ok(())
}

/// Escaped slashes hide path segments from policies: a wish to handle them must not be lost.
fn escaped_slashes(at: &At<'_>, action: i32) -> Compiled<EscapedSlashes> {
    let at = at.field("path_with_escaped_slashes_action");
    match enumeration::<PathWithEscapedSlashesAction>(&at, action)? {
        PathWithEscapedSlashesAction::ImplementationSpecificDefault | PathWithEscapedSlashesAction::KeepUnchanged => {
            Ok(EscapedSlashes::Keep)
        }
        PathWithEscapedSlashesAction::RejectRequest => Ok(EscapedSlashes::Refuse),
        PathWithEscapedSlashesAction::UnescapeAndForward => Ok(EscapedSlashes::Unescape),
        PathWithEscapedSlashesAction::UnescapeAndRedirect => Err(at.refuse("UNESCAPE_AND_REDIRECT is not supported")),
    }
}

fn server_header(at: &At<'_>, transformation: i32, name: &str) -> Compiled<Option<http::HeaderValue>> {
    let at_transformation = at.field("server_header_transformation");
    match enumeration::<ServerHeaderTransformation>(&at_transformation, transformation)? {
        ServerHeaderTransformation::Overwrite => {
            header_value(&at.field("server_name"), if name.is_empty() { "envoy" } else { name }).map(Some)
        }
        ServerHeaderTransformation::PassThrough => Ok(None),
        ServerHeaderTransformation::AppendIfAbsent => Err(at_transformation.refuse("APPEND_IF_ABSENT is not supported")),
    }
}

/// The upgrade tokens, and whether `CONNECT` is one.
fn upgrades(at: &At<'_>, configs: &[UpgradeConfig]) -> Compiled<(Vec<Box<str>>, bool)> {
    let mut tokens = Vec::new();
    let mut connect = false;
    for (index, config) in configs.iter().enumerate() {
        let at = at.index("upgrade_configs", index);
        refuse_set!(config, at, [filters]);
        // An upgrade that only single routes switch on is on for them by their own `upgrade_configs`.
        if !flag(config.enabled.as_ref(), true) {
            continue;
        }
        match config.upgrade_type.to_ascii_lowercase() {
            token if token == "connect" => connect = true,
            token if token.is_empty() => return Err(at.field("upgrade_type").refuse("is missing")),
            token => tokens.push(token.into()),
        }
    }
    Ok((tokens, connect))
}

fn routes(at: &At<'_>, specifier: Option<RouteSpecifier>) -> Compiled<RouteSource> {
    match specifier.ok_or_else(|| at.refuse("has no route_specifier"))? {
        RouteSpecifier::Rds(rds) => {
            let at = at.field("rds");
            resource_name(&at.field("route_config_name"), &rds.route_config_name)?;
            over_ads(&at.field("config_source"), rds.config_source.as_ref())?;
            Ok(RouteSource::Named(rds.route_config_name.as_str().into()))
        }
        RouteSpecifier::RouteConfig(routes) => Ok(RouteSource::Inline(Arc::new(inline_table(&at.field("route_config"), routes)?))),
        RouteSpecifier::ScopedRoutes(_) => Err(at.field("scoped_routes").unsupported()),
    }
}

/// Everything comes over the one stream.
pub(super) fn over_ads(at: &At<'_>, source: Option<&ConfigSource>) -> Compiled<()> {
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(()),
        None => Err(at.refuse("is missing")),
        Some(_) => Err(at.refuse("only ADS is supported")),
    }
}
