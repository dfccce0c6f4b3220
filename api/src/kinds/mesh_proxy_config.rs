//! MeshConfig's `defaultConfig`: settings of every proxy.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `mesh/v1alpha1/proxy.proto`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kinds::destination_rule::ClientTlsSettings;
use crate::kinds::destination_rule::TcpKeepalive;
use crate::kinds::proxy_config::ProxyImage;
use crate::kinds::workload_group::GroupProbe;
use crate::message::{enumeration, message, status};

enumeration! {
    /// Istio's `AuthenticationPolicy`.
    pub enum AuthenticationPolicy = "AuthenticationPolicy" {
        "NONE" 0 None, pending;
        "MUTUAL_TLS" 1 MutualTls, pending;
        "INHERIT" 1000 Inherit, pending;
    }
}

message! {
    /// Istio's `Tracing`.
    pub struct Tracing = "Tracing" {
        "zipkin" zipkin: Option<Zipkin>, pending;
        "lightstep" lightstep: Option<Lightstep>, pending;
        "datadog" datadog: Option<Datadog>, pending;
        "stackdriver" stackdriver: Option<Stackdriver>, pending;
        "openCensusAgent" open_census_agent: Option<OpenCensusAgent>, pending;
        "customTags" custom_tags: BTreeMap<String, CustomTag>, pending;
        "maxPathTagLength" max_path_tag_length: u32, pending;
        "sampling" sampling: f64, pending;
        "tlsSettings" tls_settings: Option<ClientTlsSettings>, pending;
        "enableIstioTags" enable_istio_tags: Option<bool>, pending;
    }
    one_of [["zipkin", "lightstep", "datadog", "stackdriver", "openCensusAgent"]]
}

message! {
    /// Istio's `Tracing.Zipkin`.
    pub struct Zipkin = "Zipkin" {
        "address" address: String, pending;
    }
}

message! {
    /// Istio's `Tracing.Lightstep`.
    pub struct Lightstep = "Lightstep" {
        "address" address: String, pending;
        "accessToken" access_token: String, pending;
    }
}

message! {
    /// Istio's `Tracing.Datadog`.
    pub struct Datadog = "Datadog" {
        "address" address: String, pending;
    }
}

message! {
    /// Istio's `Tracing.Stackdriver`.
    pub struct Stackdriver = "Stackdriver" {
        "debug" debug: bool, pending;
        "maxNumberOfAttributes" max_number_of_attributes: Option<i64>, pending;
        "maxNumberOfAnnotations" max_number_of_annotations: Option<i64>, pending;
        "maxNumberOfMessageEvents" max_number_of_message_events: Option<i64>, pending;
    }
}

message! {
    /// Istio's `Tracing.OpenCensusAgent`.
    pub struct OpenCensusAgent = "OpenCensusAgent" {
        "address" address: String, pending;
        "context" context: Vec<TraceContext>, pending;
    }
}

enumeration! {
    /// Istio's `Tracing.OpenCensusAgent.TraceContext`.
    pub enum TraceContext = "TraceContext" {
        "UNSPECIFIED" 0 Unspecified, enforced;
        "W3C_TRACE_CONTEXT" 1 W3cTraceContext, pending;
        "GRPC_BIN" 2 GrpcBin, pending;
        "CLOUD_TRACE_CONTEXT" 3 CloudTraceContext, pending;
        "B3" 4 B3, pending;
    }
}

message! {
    /// Istio's `Tracing.CustomTag`.
    pub struct CustomTag = "CustomTag" {
        "literal" literal: Option<Literal>, pending;
        "environment" environment: Option<Environment>, pending;
        "header" header: Option<RequestHeader>, pending;
    }
    one_of [["literal", "environment", "header"]]
}

message! {
    /// Istio's `Tracing.Literal`.
    pub struct Literal = "Literal" {
        "value" value: String, pending;
    }
}

message! {
    /// Istio's `Tracing.Environment`.
    pub struct Environment = "Environment" {
        "name" name: String, pending;
        "defaultValue" default_value: String, pending;
    }
}

message! {
    /// Istio's `Tracing.RequestHeader`.
    pub struct RequestHeader = "RequestHeader" {
        "name" name: String, pending;
        "defaultValue" default_value: String, pending;
    }
}

message! {
    /// Istio's `SDS`.
    pub struct Sds = "SDS" {
        "enabled" enabled: bool, pending;
        "k8sSaJwtPath" k8s_sa_jwt_path: String, pending;
    }
}

message! {
    /// Istio's `Topology`.
    pub struct Topology = "Topology" {
        "numTrustedProxies" num_trusted_proxies: u32, pending;
        "forwardClientCertDetails" forward_client_cert_details: ForwardClientCertDetails, pending;
        "proxyProtocol" proxy_protocol: Option<ProxyProtocolConfiguration>, pending;
    }
}

message! {
    /// Istio's `Topology.ProxyProtocolConfiguration`.
    pub struct ProxyProtocolConfiguration = "ProxyProtocolConfiguration" {
    }
}

enumeration! {
    /// Istio's `ForwardClientCertDetails`.
    pub enum ForwardClientCertDetails = "ForwardClientCertDetails" {
        "UNDEFINED" 0 Undefined, enforced;
        "SANITIZE" 1 Sanitize, pending;
        "FORWARD_ONLY" 2 ForwardOnly, pending;
        "APPEND_FORWARD" 3 AppendForward, pending;
        "SANITIZE_SET" 4 SanitizeSet, pending;
        "ALWAYS_FORWARD_ONLY" 5 AlwaysForwardOnly, pending;
    }
}

message! {
    /// Istio's `PrivateKeyProvider`.
    pub struct PrivateKeyProvider = "PrivateKeyProvider" {
        "cryptomb" cryptomb: Option<CryptoMb>, pending;
        "qat" qat: Option<Qat>, pending;
    }
    one_of [["cryptomb", "qat"]]
}

message! {
    /// Istio's `PrivateKeyProvider.CryptoMb`.
    pub struct CryptoMb = "CryptoMb" {
        "pollDelay" poll_delay: Option<Duration>, pending;
        "fallback" fallback: Option<bool>, pending;
    }
}

message! {
    /// Istio's `PrivateKeyProvider.QAT`.
    pub struct Qat = "QAT" {
        "pollDelay" poll_delay: Option<Duration>, pending;
        "fallback" fallback: Option<bool>, pending;
    }
}

message! {
    /// Istio's `ProxyConfig`.
    pub struct MeshProxyConfig = "ProxyConfig" {
        "configPath" config_path: String, pending;
        "binaryPath" binary_path: String, pending;
        "serviceCluster" service_cluster: Option<String>, pending;
        "tracingServiceName" tracing_service_name: Option<TracingServiceName>, pending;
        "drainDuration" drain_duration: Option<Duration>, pending;
        "discoveryAddress" discovery_address: String, pending;
        /// Deprecated.
        "discoveryRefreshDelay" discovery_refresh_delay: Option<Duration>, pending;
        /// Deprecated.
        "zipkinAddress" zipkin_address: String, pending;
        "statsdUdpAddress" statsd_udp_address: String, pending;
        /// Deprecated.
        "envoyMetricsServiceAddress" envoy_metrics_service_address: String, pending;
        "proxyAdminPort" proxy_admin_port: i32, pending;
        /// Deprecated.
        "availabilityZone" availability_zone: String, pending;
        "controlPlaneAuthPolicy" control_plane_auth_policy: AuthenticationPolicy, pending;
        "customConfigFile" custom_config_file: String, pending;
        "statNameLength" stat_name_length: i32, pending;
        "concurrency" concurrency: Option<i32>, pending;
        "proxyBootstrapTemplatePath" proxy_bootstrap_template_path: String, pending;
        "interceptionMode" interception_mode: InboundInterceptionMode, pending;
        "tracing" tracing: Option<Tracing>, pending;
        /// Deprecated.
        "sds" sds: Option<Sds>, pending;
        "envoyAccessLogService" envoy_access_log_service: Option<RemoteService>, pending;
        "envoyMetricsService" envoy_metrics_service: Option<RemoteService>, pending;
        "proxyMetadata" proxy_metadata: BTreeMap<String, String>, pending;
        "runtimeValues" runtime_values: BTreeMap<String, String>, pending;
        "statusPort" status_port: i32, pending;
        "extraStatTags" extra_stat_tags: Vec<String>, pending;
        "gatewayTopology" gateway_topology: Option<Topology>, pending;
        "terminationDrainDuration" termination_drain_duration: Option<Duration>, pending;
        "meshId" mesh_id: String, pending;
        "readinessProbe" readiness_probe: Option<GroupProbe>, pending;
        "proxyStatsMatcher" proxy_stats_matcher: Option<ProxyStatsMatcher>, pending;
        "holdApplicationUntilProxyStarts" hold_application_until_proxy_starts: Option<bool>, pending;
        "caCertificatesPem" ca_certificates_pem: Vec<String>, pending;
        "image" image: Option<ProxyImage>, pending;
        "privateKeyProvider" private_key_provider: Option<PrivateKeyProvider>, pending;
        "proxyHeaders" proxy_headers: Option<ProxyHeaders>, pending;
        "fileFlushInterval" file_flush_interval: Option<Duration>, pending;
        "fileFlushMinSizeKb" file_flush_min_size_kb: u32, pending;
        "statsCompression" stats_compression: Option<bool>, pending;
        "connectionSettings" connection_settings: Option<ConnectionSettings>, pending;
    }
    one_of [["serviceCluster", "tracingServiceName"]]
    retired [("connectTimeout", "it has no effect in any current release: remove it"), ("connect_timeout", "it has no effect in any current release: remove it"), ("parentShutdownDuration", "it has no effect in any current release: remove it"), ("parent_shutdown_duration", "it has no effect in any current release: remove it")]
}

enumeration! {
    /// Istio's `ProxyConfig.TracingServiceName`.
    pub enum TracingServiceName = "TracingServiceName" {
        "APP_LABEL_AND_NAMESPACE" 0 AppLabelAndNamespace, pending;
        "CANONICAL_NAME_ONLY" 1 CanonicalNameOnly, pending;
        "CANONICAL_NAME_AND_NAMESPACE" 2 CanonicalNameAndNamespace, pending;
    }
}

enumeration! {
    /// Istio's `ProxyConfig.InboundInterceptionMode`.
    pub enum InboundInterceptionMode = "InboundInterceptionMode" {
        "REDIRECT" 0 Redirect, pending;
        "TPROXY" 1 Tproxy, pending;
        "NONE" 2 None, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyStatsMatcher`.
    pub struct ProxyStatsMatcher = "ProxyStatsMatcher" {
        "inclusionPrefixes" inclusion_prefixes: Vec<String>, pending;
        "inclusionSuffixes" inclusion_suffixes: Vec<String>, pending;
        "inclusionRegexps" inclusion_regexps: Vec<String>, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyHeaders`.
    pub struct ProxyHeaders = "ProxyHeaders" {
        "forwardedClientCert" forwarded_client_cert: ForwardClientCertDetails, pending;
        "setCurrentClientCertDetails" set_current_client_cert_details: Option<SetCurrentClientCertDetails>, pending;
        "requestId" request_id: Option<RequestId>, pending;
        "server" server: Option<ServerHeader>, pending;
        "attemptCount" attempt_count: Option<AttemptCount>, pending;
        "envoyDebugHeaders" envoy_debug_headers: Option<EnvoyDebugHeaders>, pending;
        "metadataExchangeHeaders" metadata_exchange_headers: Option<MetadataExchangeHeaders>, pending;
        "preserveHttp1HeaderCase" preserve_http1_header_case: Option<bool>, pending;
        "xForwardedHost" x_forwarded_host: Option<XForwardedHost>, pending;
        "xForwardedPort" x_forwarded_port: Option<XForwardedPort>, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyHeaders.Server`.
    pub struct ServerHeader = "Server" {
        "disabled" disabled: Option<bool>, pending;
        "value" value: String, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyHeaders.RequestId`.
    pub struct RequestId = "RequestId" {
        "disabled" disabled: Option<bool>, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyHeaders.AttemptCount`.
    pub struct AttemptCount = "AttemptCount" {
        "disabled" disabled: Option<bool>, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyHeaders.XForwardedHost`.
    pub struct XForwardedHost = "XForwardedHost" {
        "enabled" enabled: Option<bool>, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyHeaders.XForwardedPort`.
    pub struct XForwardedPort = "XForwardedPort" {
        "enabled" enabled: Option<bool>, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyHeaders.EnvoyDebugHeaders`.
    pub struct EnvoyDebugHeaders = "EnvoyDebugHeaders" {
        "disabled" disabled: Option<bool>, pending;
    }
}

enumeration! {
    /// Istio's `ProxyConfig.ProxyHeaders.MetadataExchangeMode`.
    pub enum MetadataExchangeMode = "MetadataExchangeMode" {
        "UNDEFINED" 0 Undefined, enforced;
        "IN_MESH" 1 InMesh, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyHeaders.MetadataExchangeHeaders`.
    pub struct MetadataExchangeHeaders = "MetadataExchangeHeaders" {
        "mode" mode: MetadataExchangeMode, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ProxyHeaders.SetCurrentClientCertDetails`.
    pub struct SetCurrentClientCertDetails = "SetCurrentClientCertDetails" {
        "subject" subject: Option<bool>, pending;
        "cert" cert: Option<bool>, pending;
        "chain" chain: Option<bool>, pending;
        "dns" dns: Option<bool>, pending;
        "uri" uri: Option<bool>, pending;
    }
}

message! {
    /// Istio's `ProxyConfig.ConnectionSettings`.
    pub struct ConnectionSettings = "ConnectionSettings" {
        "profile" profile: Profile, pending;
        "listenerPerConnectionBufferLimitBytes" listener_per_connection_buffer_limit_bytes: Option<i32>, pending;
        "clusterPerConnectionBufferLimitBytes" cluster_per_connection_buffer_limit_bytes: Option<i32>, pending;
        "httpIdleTimeout" http_idle_timeout: Option<Duration>, pending;
        "httpMaxConnectionDuration" http_max_connection_duration: Option<Duration>, pending;
        "httpDrainTimeout" http_drain_timeout: Option<Duration>, pending;
        "httpRequestTimeout" http_request_timeout: Option<Duration>, pending;
        "httpRequestHeadersTimeout" http_request_headers_timeout: Option<Duration>, pending;
        "httpStreamIdleTimeout" http_stream_idle_timeout: Option<Duration>, pending;
        "httpMaxStreamDuration" http_max_stream_duration: Option<Duration>, pending;
        "httpMaxConcurrentStreams" http_max_concurrent_streams: Option<i32>, pending;
        "http2InitialStreamWindowSize" http2_initial_stream_window_size: Option<i32>, pending;
        "http2InitialConnectionWindowSize" http2_initial_connection_window_size: Option<i32>, pending;
        "httpHeadersWithUnderscoresAction" http_headers_with_underscores_action: HeadersWithUnderscoresAction, pending;
        "httpMergeSlashes" http_merge_slashes: Option<bool>, pending;
        "httpPathWithEscapedSlashesAction" http_path_with_escaped_slashes_action: PathWithEscapedSlashesAction, pending;
        "listenerConnectionLimit" listener_connection_limit: Option<i32>, pending;
        "globalDownstreamConnectionLimit" global_downstream_connection_limit: Option<i32>, pending;
    }
}

enumeration! {
    /// Istio's `ProxyConfig.ConnectionSettings.Profile`.
    pub enum Profile = "Profile" {
        "SIDECAR" 0 Sidecar, pending;
        "EDGE" 1 Edge, pending;
    }
}

enumeration! {
    /// Istio's `ProxyConfig.ConnectionSettings.HeadersWithUnderscoresAction`.
    pub enum HeadersWithUnderscoresAction = "HeadersWithUnderscoresAction" {
        "HEADERS_WITH_UNDERSCORES_UNSPECIFIED" 0 HeadersWithUnderscoresUnspecified, pending;
        "HEADERS_WITH_UNDERSCORES_ALLOW" 1 HeadersWithUnderscoresAllow, pending;
        "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST" 2 HeadersWithUnderscoresRejectRequest, pending;
        "HEADERS_WITH_UNDERSCORES_DROP_HEADER" 3 HeadersWithUnderscoresDropHeader, pending;
    }
}

enumeration! {
    /// Istio's `ProxyConfig.ConnectionSettings.PathWithEscapedSlashesAction`.
    pub enum PathWithEscapedSlashesAction = "PathWithEscapedSlashesAction" {
        "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED" 0 PathWithEscapedSlashesUnspecified, pending;
        "KEEP_UNCHANGED" 1 KeepUnchanged, pending;
        "REJECT_REQUEST" 2 RejectRequest, pending;
        "UNESCAPE_AND_REDIRECT" 3 UnescapeAndRedirect, pending;
        "UNESCAPE_AND_FORWARD" 4 UnescapeAndForward, pending;
    }
}

message! {
    /// Istio's `RemoteService`.
    pub struct RemoteService = "RemoteService" {
        "address" address: String, pending;
        "tlsSettings" tls_settings: Option<ClientTlsSettings>, pending;
        "tcpKeepalive" tcp_keepalive: Option<TcpKeepalive>, pending;
    }
}
