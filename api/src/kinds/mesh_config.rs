//! MeshConfig: what holds for the whole mesh.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `mesh/v1alpha1/config.proto`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kinds::destination_rule::ClientTlsSettings;
use crate::kinds::destination_rule::ConnectionPoolSettings;
use crate::kinds::destination_rule::LocalityLoadBalancerSetting;
use crate::kinds::destination_rule::OutlierDetection;
use crate::kinds::destination_rule::TcpKeepalive;
use crate::kinds::destination_rule::ZoneAwareLoadBalancerSetting;
use crate::kinds::mesh_proxy_config::MeshProxyConfig;
use crate::kinds::virtual_service::HttpRetry;
use crate::message::{enumeration, message, status};

message! {
    /// Istio's `MeshConfig`.
    pub struct MeshConfig = "MeshConfig" {
        "proxyListenPort" proxy_listen_port: i32, pending;
        "proxyInboundListenPort" proxy_inbound_listen_port: i32, pending;
        "proxyHttpPort" proxy_http_port: i32, pending;
        /// 10 s when missing.
        "connectTimeout" connect_timeout: Option<Duration>, enforced;
        "hboneIdleTimeout" hbone_idle_timeout: Option<Duration>, pending;
        "protocolDetectionTimeout" protocol_detection_timeout: Option<Duration>, pending;
        "tcpKeepalive" tcp_keepalive: Option<TcpKeepalive>, pending;
        "ingressClass" ingress_class: String, pending;
        "ingressService" ingress_service: String, pending;
        "ingressControllerMode" ingress_controller_mode: IngressControllerMode, pending;
        "ingressSelector" ingress_selector: String, pending;
        "enableTracing" enable_tracing: bool, pending;
        "accessLogFile" access_log_file: String, enforced;
        "accessLogFormat" access_log_format: String, pending;
        "accessLogEncoding" access_log_encoding: AccessLogEncoding, enforced;
        "enableEnvoyAccessLogService" enable_envoy_access_log_service: bool, pending;
        "disableEnvoyListenerLog" disable_envoy_listener_log: bool, pending;
        "defaultConfig" default_config: Option<MeshProxyConfig>, pending;
        "outboundTrafficPolicy" outbound_traffic_policy: Option<MeshOutboundTrafficPolicy>, enforced;
        "inboundTrafficPolicy" inbound_traffic_policy: Option<InboundTrafficPolicy>, pending;
        "configSources" config_sources: Vec<ConfigSource>, pending;
        "enableAutoMtls" enable_auto_mtls: Option<bool>, pending;
        /// `cluster.local` when empty.
        "trustDomain" trust_domain: String, pending;
        "trustDomainAliases" trust_domain_aliases: Vec<String>, pending;
        "caCertificates" ca_certificates: Vec<CertificateData>, pending;
        "defaultServiceExportTo" default_service_export_to: Vec<String>, enforced;
        "defaultVirtualServiceExportTo" default_virtual_service_export_to: Vec<String>, enforced;
        "defaultDestinationRuleExportTo" default_destination_rule_export_to: Vec<String>, enforced;
        /// `istio-system` when empty.
        "rootNamespace" root_namespace: String, enforced;
        "localityLbSetting" locality_lb_setting: Option<LocalityLoadBalancerSetting>, pending;
        "zoneAwareLbSetting" zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>, pending;
        "dnsRefreshRate" dns_refresh_rate: Option<Duration>, enforced;
        "h2UpgradePolicy" h2_upgrade_policy: MeshH2UpgradePolicy, enforced;
        "inboundClusterStatName" inbound_cluster_stat_name: String, pending;
        "outboundClusterStatName" outbound_cluster_stat_name: String, pending;
        /// Deprecated.
        "certificates" certificates: Vec<Certificate>, pending;
        "serviceSettings" service_settings: Vec<ServiceSettings>, pending;
        "serviceScopeConfigs" service_scope_configs: Vec<ServiceScopeConfigs>, pending;
        "enablePrometheusMerge" enable_prometheus_merge: Option<bool>, pending;
        /// Deprecated.
        "verifyCertificateAtClient" verify_certificate_at_client: Option<bool>, pending;
        "ca" ca: Option<Ca>, pending;
        "extensionProviders" extension_providers: Vec<ExtensionProvider>, pending;
        "defaultProviders" default_providers: Option<DefaultProviders>, pending;
        "discoverySelectors" discovery_selectors: Vec<MeshLabelSelector>, pending;
        "pathNormalization" path_normalization: Option<ProxyPathNormalization>, enforced;
        "defaultHttpRetryPolicy" default_http_retry_policy: Option<HttpRetry>, enforced;
        /// Only `attempts`, `retryOn` and `backoff` count; `{}` switches it off.
        "defaultInboundHttpRetryPolicy" default_inbound_http_retry_policy: Option<InboundHttpRetry>, enforced;
        "meshMTLS" mesh_mtls: Option<TlsConfig>, pending;
        "tlsDefaults" tls_defaults: Option<TlsConfig>, pending;
        "defaultTrafficPolicy" default_traffic_policy: Option<DefaultTrafficPolicy>, pending;
        "serviceEntryVisibility" service_entry_visibility: Option<ServiceEntryVisibility>, pending;
    }
    retired [("authPolicy", "it has no effect in any current release: remove it"), ("auth_policy", "it has no effect in any current release: remove it"), ("disableMixerHttpReports", "it has no effect in any current release: remove it"), ("disablePolicyChecks", "it has no effect in any current release: remove it"), ("disableReportBatch", "it has no effect in any current release: remove it"), ("disable_mixer_http_reports", "it has no effect in any current release: remove it"), ("disable_policy_checks", "it has no effect in any current release: remove it"), ("disable_report_batch", "it has no effect in any current release: remove it"), ("enableClientSidePolicyCheck", "it has no effect in any current release: remove it"), ("enableSdsTokenMount", "it has no effect in any current release: remove it"), ("enable_client_side_policy_check", "it has no effect in any current release: remove it"), ("enable_sds_token_mount", "it has no effect in any current release: remove it"), ("fileFlushInterval", "it has no effect in any current release: remove it"), ("fileFlushMinSize", "it has no effect in any current release: remove it"), ("file_flush_interval", "it has no effect in any current release: remove it"), ("file_flush_min_size", "it has no effect in any current release: remove it"), ("mixerAddress", "it has no effect in any current release: remove it"), ("mixerCheckServer", "it has no effect in any current release: remove it"), ("mixerReportServer", "it has no effect in any current release: remove it"), ("mixer_address", "it has no effect in any current release: remove it"), ("mixer_check_server", "it has no effect in any current release: remove it"), ("mixer_report_server", "it has no effect in any current release: remove it"), ("policyCheckFailOpen", "it has no effect in any current release: remove it"), ("policy_check_fail_open", "it has no effect in any current release: remove it"), ("rdsRefreshDelay", "it has no effect in any current release: remove it"), ("rds_refresh_delay", "it has no effect in any current release: remove it"), ("reportBatchMaxEntries", "it has no effect in any current release: remove it"), ("reportBatchMaxTime", "it has no effect in any current release: remove it"), ("report_batch_max_entries", "it has no effect in any current release: remove it"), ("report_batch_max_time", "it has no effect in any current release: remove it"), ("sdsRefreshDelay", "it has no effect in any current release: remove it"), ("sdsUdsPath", "it has no effect in any current release: remove it"), ("sdsUseK8sSaJwt", "it has no effect in any current release: remove it"), ("sds_refresh_delay", "it has no effect in any current release: remove it"), ("sds_uds_path", "it has no effect in any current release: remove it"), ("sds_use_k8s_sa_jwt", "it has no effect in any current release: remove it"), ("sidecarToTelemetrySessionAffinity", "it has no effect in any current release: remove it"), ("sidecar_to_telemetry_session_affinity", "it has no effect in any current release: remove it"), ("terminationDrainDuration", "it has no effect in any current release: remove it"), ("termination_drain_duration", "it has no effect in any current release: remove it"), ("thriftConfig", "it has no effect in any current release: remove it"), ("thrift_config", "it has no effect in any current release: remove it")]
}

enumeration! {
    /// Istio's `MeshConfig.IngressControllerMode`.
    pub enum IngressControllerMode = "IngressControllerMode" {
        "UNSPECIFIED" 0 Unspecified, enforced;
        "OFF" 1 Off, pending;
        "DEFAULT" 2 Default, pending;
        "STRICT" 3 Strict, pending;
    }
}

enumeration! {
    /// Istio's `MeshConfig.AccessLogEncoding`.
    pub enum AccessLogEncoding = "AccessLogEncoding" {
        "TEXT" 0 Text, enforced;
        "JSON" 1 Json, enforced;
    }
}

message! {
    /// `HTTPRetry` towards the application, which is one endpoint.
    pub struct InboundHttpRetry = "HTTPRetry towards the application" {
        /// Retries after the first try; 0 disables.
        "attempts" attempts: i32, enforced;
        "perTryTimeout" per_try_timeout: Option<Duration>, inert;
        /// Comma-separated conditions and status codes; `reset-before-request` when empty.
        "retryOn" retry_on: String, enforced;
        "retryRemoteLocalities" retry_remote_localities: Option<bool>, inert;
        "retryIgnorePreviousHosts" retry_ignore_previous_hosts: Option<bool>, inert;
        /// Base of the exponential back-off; 25 ms when missing.
        "backoff" backoff: Option<Duration>, enforced;
    }
}

impl From<&InboundHttpRetry> for HttpRetry {
    fn from(policy: &InboundHttpRetry) -> Self {
        let InboundHttpRetry { attempts, retry_on, backoff, .. } = policy.clone();
        Self { attempts, retry_on, backoff, ..Self::default() }
    }
}

message! {
    /// Istio's `MeshConfig.OutboundTrafficPolicy`.
    pub struct MeshOutboundTrafficPolicy = "OutboundTrafficPolicy" {
        "mode" mode: MeshOutboundTrafficPolicyMode, enforced;
        "tls" tls: Option<ClientTlsSettings>, pending;
    }
}

enumeration! {
    /// Istio's `MeshConfig.OutboundTrafficPolicy.Mode`.
    pub enum MeshOutboundTrafficPolicyMode = "Mode" {
        "REGISTRY_ONLY" 0 RegistryOnly, enforced;
        "ALLOW_ANY" 1 AllowAny, enforced;
        "ALLOW_ANY_DYNAMIC_DNS" 3 AllowAnyDynamicDns, enforced;
    }
}

message! {
    /// Istio's `MeshConfig.InboundTrafficPolicy`.
    pub struct InboundTrafficPolicy = "InboundTrafficPolicy" {
        "mode" mode: InboundTrafficPolicyMode, pending;
    }
}

enumeration! {
    /// Istio's `MeshConfig.InboundTrafficPolicy.Mode`.
    pub enum InboundTrafficPolicyMode = "Mode" {
        "PASSTHROUGH" 0 Passthrough, pending;
        "LOCALHOST" 1 Localhost, pending;
    }
}

message! {
    /// Istio's `MeshConfig.CertificateData`.
    pub struct CertificateData = "CertificateData" {
        "pem" pem: Option<String>, pending;
        "spiffeBundleUrl" spiffe_bundle_url: Option<String>, pending;
        "certSigners" cert_signers: Vec<String>, pending;
        "trustDomains" trust_domains: Vec<String>, pending;
    }
    one_of [["pem", "spiffeBundleUrl"]]
}

enumeration! {
    /// Istio's `MeshConfig.H2UpgradePolicy`.
    pub enum MeshH2UpgradePolicy = "H2UpgradePolicy" {
        "DO_NOT_UPGRADE" 0 DoNotUpgrade, enforced;
        "UPGRADE" 1 Upgrade, enforced;
    }
}

message! {
    /// Istio's `MeshConfig.ServiceSettings`.
    pub struct ServiceSettings = "ServiceSettings" {
        "settings" settings: Option<ServiceSettingsSettings>, pending;
        "hosts" hosts: Vec<String>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ServiceSettings.Settings`.
    pub struct ServiceSettingsSettings = "Settings" {
        "clusterLocal" cluster_local: bool, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ServiceScopeConfigs`.
    pub struct ServiceScopeConfigs = "ServiceScopeConfigs" {
        "namespaceSelector" namespace_selector: Option<MeshLabelSelector>, pending;
        "servicesSelector" services_selector: Option<MeshLabelSelector>, pending;
        "scope" scope: ServiceScope, pending;
    }
}

enumeration! {
    /// Istio's `MeshConfig.ServiceScopeConfigs.Scope`.
    pub enum ServiceScope = "Scope" {
        "LOCAL" 0 Local, pending;
        "GLOBAL" 1 Global, pending;
    }
}

message! {
    /// Istio's `MeshConfig.CA`.
    pub struct Ca = "CA" {
        "address" address: String, pending;
        "tlsSettings" tls_settings: Option<ClientTlsSettings>, pending;
        "requestTimeout" request_timeout: Option<Duration>, pending;
        "istiodSide" istiod_side: bool, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider`.
    pub struct ExtensionProvider = "ExtensionProvider" {
        "name" name: String, pending;
        "envoyExtAuthzHttp" envoy_ext_authz_http: Option<EnvoyExternalAuthorizationHttpProvider>, pending;
        "envoyExtAuthzGrpc" envoy_ext_authz_grpc: Option<EnvoyExternalAuthorizationGrpcProvider>, pending;
        "zipkin" zipkin: Option<ZipkinTracingProvider>, pending;
        /// Deprecated.
        "lightstep" lightstep: Option<LightstepTracingProvider>, pending;
        "datadog" datadog: Option<DatadogTracingProvider>, pending;
        "stackdriver" stackdriver: Option<StackdriverProvider>, pending;
        /// Deprecated.
        "opencensus" opencensus: Option<OpenCensusAgentTracingProvider>, pending;
        "skywalking" skywalking: Option<SkyWalkingTracingProvider>, pending;
        "opentelemetry" opentelemetry: Option<OpenTelemetryTracingProvider>, pending;
        "prometheus" prometheus: Option<PrometheusMetricsProvider>, pending;
        "envoyFileAccessLog" envoy_file_access_log: Option<EnvoyFileAccessLogProvider>, pending;
        "envoyHttpAls" envoy_http_als: Option<EnvoyHttpGrpcV3LogProvider>, pending;
        "envoyTcpAls" envoy_tcp_als: Option<EnvoyTcpGrpcV3LogProvider>, pending;
        "envoyOtelAls" envoy_otel_als: Option<EnvoyOpenTelemetryLogProvider>, pending;
        "sds" sds: Option<SdsProvider>, pending;
    }
    one_of [["envoyExtAuthzHttp", "envoyExtAuthzGrpc", "zipkin", "lightstep", "datadog", "stackdriver", "opencensus", "skywalking", "opentelemetry", "prometheus", "envoyFileAccessLog", "envoyHttpAls", "envoyTcpAls", "envoyOtelAls", "sds"]]
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationRequestBody`.
    pub struct EnvoyExternalAuthorizationRequestBody = "EnvoyExternalAuthorizationRequestBody" {
        "maxRequestBytes" max_request_bytes: u32, pending;
        "allowPartialMessage" allow_partial_message: bool, pending;
        "packAsBytes" pack_as_bytes: bool, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationHttpProvider`.
    pub struct EnvoyExternalAuthorizationHttpProvider = "EnvoyExternalAuthorizationHttpProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "timeout" timeout: Option<Duration>, pending;
        "pathPrefix" path_prefix: String, pending;
        "failOpen" fail_open: bool, pending;
        "clearRouteCache" clear_route_cache: bool, pending;
        "statusOnError" status_on_error: String, pending;
        /// Deprecated.
        "includeHeadersInCheck" include_headers_in_check: Vec<String>, pending;
        "includeRequestHeadersInCheck" include_request_headers_in_check: Vec<String>, pending;
        "includeAdditionalHeadersInCheck" include_additional_headers_in_check: BTreeMap<String, String>, pending;
        "includeRequestBodyInCheck" include_request_body_in_check: Option<EnvoyExternalAuthorizationRequestBody>, pending;
        "headersToUpstreamOnAllow" headers_to_upstream_on_allow: Vec<String>, pending;
        "headersToDownstreamOnDeny" headers_to_downstream_on_deny: Vec<String>, pending;
        "headersToDownstreamOnAllow" headers_to_downstream_on_allow: Vec<String>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationGrpcProvider`.
    pub struct EnvoyExternalAuthorizationGrpcProvider = "EnvoyExternalAuthorizationGrpcProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "timeout" timeout: Option<Duration>, pending;
        "failOpen" fail_open: bool, pending;
        "clearRouteCache" clear_route_cache: bool, pending;
        "statusOnError" status_on_error: String, pending;
        "includeRequestBodyInCheck" include_request_body_in_check: Option<EnvoyExternalAuthorizationRequestBody>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.ZipkinTracingProvider`.
    pub struct ZipkinTracingProvider = "ZipkinTracingProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "maxTagLength" max_tag_length: u32, pending;
        "enable64bitTraceId" enable_64bit_trace_id: bool, pending;
        "path" path: String, pending;
        "traceContextOption" trace_context_option: TraceContextOption, pending;
        "timeout" timeout: Option<Duration>, pending;
        "headers" headers: Vec<HttpHeader>, pending;
    }
}

enumeration! {
    /// Istio's `MeshConfig.ExtensionProvider.ZipkinTracingProvider.TraceContextOption`.
    pub enum TraceContextOption = "TraceContextOption" {
        "USE_B3" 0 UseB3, pending;
        "USE_B3_WITH_W3C_PROPAGATION" 1 UseB3WithW3cPropagation, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.LightstepTracingProvider`.
    pub struct LightstepTracingProvider = "LightstepTracingProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "accessToken" access_token: String, pending;
        "maxTagLength" max_tag_length: u32, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.DatadogTracingProvider`.
    pub struct DatadogTracingProvider = "DatadogTracingProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "maxTagLength" max_tag_length: u32, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.SkyWalkingTracingProvider`.
    pub struct SkyWalkingTracingProvider = "SkyWalkingTracingProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "accessToken" access_token: String, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.StackdriverProvider`.
    pub struct StackdriverProvider = "StackdriverProvider" {
        /// Deprecated.
        "debug" debug: bool, pending;
        /// Deprecated.
        "maxNumberOfAttributes" max_number_of_attributes: Option<i64>, pending;
        /// Deprecated.
        "maxNumberOfAnnotations" max_number_of_annotations: Option<i64>, pending;
        /// Deprecated.
        "maxNumberOfMessageEvents" max_number_of_message_events: Option<i64>, pending;
        "maxTagLength" max_tag_length: u32, pending;
        "logging" logging: Option<StackdriverLogging>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.StackdriverProvider.Logging`.
    pub struct StackdriverLogging = "Logging" {
        "labels" labels: BTreeMap<String, String>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.OpenCensusAgentTracingProvider`.
    pub struct OpenCensusAgentTracingProvider = "OpenCensusAgentTracingProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "context" context: Vec<TraceContext>, pending;
        "maxTagLength" max_tag_length: u32, pending;
    }
}

enumeration! {
    /// Istio's `MeshConfig.ExtensionProvider.OpenCensusAgentTracingProvider.TraceContext`.
    pub enum TraceContext = "TraceContext" {
        "UNSPECIFIED" 0 Unspecified, enforced;
        "W3C_TRACE_CONTEXT" 1 W3cTraceContext, pending;
        "GRPC_BIN" 2 GrpcBin, pending;
        "CLOUD_TRACE_CONTEXT" 3 CloudTraceContext, pending;
        "B3" 4 B3, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.PrometheusMetricsProvider`.
    pub struct PrometheusMetricsProvider = "PrometheusMetricsProvider" {
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.EnvoyFileAccessLogProvider`.
    pub struct EnvoyFileAccessLogProvider = "EnvoyFileAccessLogProvider" {
        "path" path: String, pending;
        "logFormat" log_format: Option<FileLogFormat>, pending;
        "omitEmptyValues" omit_empty_values: bool, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.EnvoyFileAccessLogProvider.LogFormat`.
    pub struct FileLogFormat = "LogFormat" {
        "text" text: Option<String>, pending;
        "labels" labels: Option<serde_json::Value>, pending;
    }
    one_of [["text", "labels"]]
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.EnvoyHttpGrpcV3LogProvider`.
    pub struct EnvoyHttpGrpcV3LogProvider = "EnvoyHttpGrpcV3LogProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "logName" log_name: String, pending;
        "filterStateObjectsToLog" filter_state_objects_to_log: Vec<String>, pending;
        "additionalRequestHeadersToLog" additional_request_headers_to_log: Vec<String>, pending;
        "additionalResponseHeadersToLog" additional_response_headers_to_log: Vec<String>, pending;
        "additionalResponseTrailersToLog" additional_response_trailers_to_log: Vec<String>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.EnvoyTcpGrpcV3LogProvider`.
    pub struct EnvoyTcpGrpcV3LogProvider = "EnvoyTcpGrpcV3LogProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "logName" log_name: String, pending;
        "filterStateObjectsToLog" filter_state_objects_to_log: Vec<String>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.EnvoyOpenTelemetryLogProvider`.
    pub struct EnvoyOpenTelemetryLogProvider = "EnvoyOpenTelemetryLogProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "logName" log_name: String, pending;
        "logFormat" log_format: Option<OpenTelemetryLogFormat>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.EnvoyOpenTelemetryLogProvider.LogFormat`.
    pub struct OpenTelemetryLogFormat = "LogFormat" {
        "text" text: String, pending;
        "labels" labels: Option<serde_json::Value>, pending;
    }
}

enumeration! {
    /// Istio's `MeshConfig.ExtensionProvider.ServiceAttributeEnrichment`.
    pub enum ServiceAttributeEnrichment = "ServiceAttributeEnrichment" {
        "ISTIO_CANONICAL" 0 IstioCanonical, pending;
        "OTEL_SEMANTIC_CONVENTIONS" 1 OtelSemanticConventions, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider`.
    pub struct OpenTelemetryTracingProvider = "OpenTelemetryTracingProvider" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "maxTagLength" max_tag_length: u32, pending;
        "http" http: Option<HttpService>, pending;
        "grpc" grpc: Option<GrpcService>, pending;
        "resourceDetectors" resource_detectors: Option<ResourceDetectors>, pending;
        "serviceAttributeEnrichment" service_attribute_enrichment: ServiceAttributeEnrichment, pending;
        "dynatraceSampler" dynatrace_sampler: Option<DynatraceSampler>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler`.
    pub struct DynatraceSampler = "DynatraceSampler" {
        "tenant" tenant: String, pending;
        "clusterId" cluster_id: i32, pending;
        "rootSpansPerMinute" root_spans_per_minute: u32, pending;
        "httpService" http_service: Option<DynatraceApi>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler.DynatraceApi`.
    pub struct DynatraceApi = "DynatraceApi" {
        "service" service: String, pending;
        "port" port: u32, pending;
        "http" http: Option<HttpService>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.SDSProvider`.
    pub struct SdsProvider = "SDSProvider" {
        "name" name: String, pending;
        "service" service: String, pending;
        "port" port: u32, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.HttpService`.
    pub struct HttpService = "HttpService" {
        "path" path: String, pending;
        "timeout" timeout: Option<Duration>, pending;
        "headers" headers: Vec<HttpHeader>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.HttpHeader`.
    pub struct HttpHeader = "HttpHeader" {
        "name" name: String, pending;
        "value" value: Option<String>, pending;
        "envName" env_name: Option<String>, pending;
    }
    one_of [["value", "envName"]]
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.ResourceDetectors`.
    pub struct ResourceDetectors = "ResourceDetectors" {
        "environment" environment: Option<EnvironmentResourceDetector>, pending;
        "dynatrace" dynatrace: Option<DynatraceResourceDetector>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.ResourceDetectors.EnvironmentResourceDetector`.
    pub struct EnvironmentResourceDetector = "EnvironmentResourceDetector" {
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.ResourceDetectors.DynatraceResourceDetector`.
    pub struct DynatraceResourceDetector = "DynatraceResourceDetector" {
    }
}

message! {
    /// Istio's `MeshConfig.ExtensionProvider.GrpcService`.
    pub struct GrpcService = "GrpcService" {
        "timeout" timeout: Option<Duration>, pending;
        "initialMetadata" initial_metadata: Vec<HttpHeader>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.DefaultProviders`.
    pub struct DefaultProviders = "DefaultProviders" {
        "tracing" tracing: Vec<String>, pending;
        "metrics" metrics: Vec<String>, pending;
        "accessLogging" access_logging: Vec<String>, pending;
    }
}

message! {
    /// Istio's `MeshConfig.ProxyPathNormalization`.
    pub struct ProxyPathNormalization = "ProxyPathNormalization" {
        "normalization" normalization: PathNormalization, enforced;
    }
}

enumeration! {
    /// Istio's `MeshConfig.ProxyPathNormalization.NormalizationType`.
    pub enum PathNormalization = "NormalizationType" {
        "DEFAULT" 0 Default, enforced;
        "NONE" 1 None, enforced;
        "BASE" 2 Base, enforced;
        "MERGE_SLASHES" 3 MergeSlashes, enforced;
        "DECODE_AND_MERGE_SLASHES" 4 DecodeAndMergeSlashes, enforced;
    }
}

message! {
    /// Istio's `MeshConfig.TLSConfig`.
    pub struct TlsConfig = "TLSConfig" {
        "minProtocolVersion" min_protocol_version: MeshTlsProtocol, pending;
        "ecdhCurves" ecdh_curves: Vec<String>, pending;
        "cipherSuites" cipher_suites: Vec<String>, pending;
    }
}

enumeration! {
    /// Istio's `MeshConfig.TLSConfig.TLSProtocol`.
    pub enum MeshTlsProtocol = "TLSProtocol" {
        "TLS_AUTO" 0 TlsAuto, enforced;
        "TLSV1_2" 1 Tlsv12, pending;
        "TLSV1_3" 2 Tlsv13, pending;
    }
}

message! {
    /// Istio's `MeshConfig.DefaultTrafficPolicy`.
    pub struct DefaultTrafficPolicy = "DefaultTrafficPolicy" {
        "connectionPool" connection_pool: Option<ConnectionPoolSettings>, pending;
        "outlierDetection" outlier_detection: Option<OutlierDetection>, pending;
    }
}

enumeration! {
    /// Istio's `Resource`.
    pub enum ConfigResource = "Resource" {
        "SERVICE_REGISTRY" 0 ServiceRegistry, pending;
    }
}

message! {
    /// Istio's `LabelSelector`.
    pub struct MeshLabelSelector = "LabelSelector" {
        "matchLabels" match_labels: BTreeMap<String, String>, pending;
        "matchExpressions" match_expressions: Vec<LabelSelectorRequirement>, pending;
    }
}

message! {
    /// Istio's `LabelSelectorRequirement`.
    pub struct LabelSelectorRequirement = "LabelSelectorRequirement" {
        "key" key: String, pending;
        "operator" operator: String, pending;
        "values" values: Vec<String>, pending;
    }
}

message! {
    /// Istio's `ServiceEntryVisibility`.
    pub struct ServiceEntryVisibility = "ServiceEntryVisibility" {
        "defaultVisibility" default_visibility: Visibility, pending;
        "applyToSidecars" apply_to_sidecars: bool, pending;
        "policies" policies: Vec<VisibilityPolicy>, pending;
    }
}

enumeration! {
    /// Istio's `ServiceEntryVisibility.Visibility`.
    pub enum Visibility = "Visibility" {
        "VISIBILITY_UNSPECIFIED" 0 VisibilityUnspecified, pending;
        "NONE" 1 None, pending;
        "NAMESPACE" 2 Namespace, pending;
        "PUBLIC" 3 Public, pending;
    }
}

message! {
    /// Istio's `ServiceEntryVisibility.Policy`.
    pub struct VisibilityPolicy = "Policy" {
        "visibility" visibility: Visibility, pending;
        "matchingRules" matching_rules: Vec<VisibilityMatchRule>, pending;
    }
}

message! {
    /// Istio's `ServiceEntryVisibility.MatchRule`.
    pub struct VisibilityMatchRule = "MatchRule" {
        "namespaceSelector" namespace_selector: Option<MeshLabelSelector>, pending;
    }
}

message! {
    /// Istio's `ConfigSource`.
    pub struct ConfigSource = "ConfigSource" {
        "address" address: String, pending;
        "tlsSettings" tls_settings: Option<ClientTlsSettings>, pending;
        "subscribedResources" subscribed_resources: Vec<ConfigResource>, pending;
    }
}

message! {
    /// Istio's `Certificate`.
    pub struct Certificate = "Certificate" {
        "secretName" secret_name: String, pending;
        "dnsNames" dns_names: Vec<String>, pending;
    }
}
