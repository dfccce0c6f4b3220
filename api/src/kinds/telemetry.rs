//! Telemetry: metrics, access logs and traces of workloads.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `telemetry/v1alpha1/telemetry.proto`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kinds::selector::PolicyTargetReference;
use crate::kinds::selector::WorkloadSelector;
use crate::message::{enumeration, message, status};

message! {
    /// Istio's `Telemetry`.
    pub struct Telemetry = "Telemetry" {
        "selector" selector: Option<WorkloadSelector>, pending;
        "targetRef" target_ref: Option<PolicyTargetReference>, pending;
        "targetRefs" target_refs: Vec<PolicyTargetReference>, pending;
        "tracing" tracing: Vec<Tracing>, pending;
        "metrics" metrics: Vec<Metrics>, pending;
        "accessLogging" access_logging: Vec<AccessLogging>, pending;
    }
}

message! {
    /// Istio's `Tracing`.
    pub struct Tracing = "Tracing" {
        "match" r#match: Option<TracingSelector>, pending;
        "providers" providers: Vec<ProviderRef>, pending;
        "randomSamplingPercentage" random_sampling_percentage: Option<f64>, pending;
        "disableSpanReporting" disable_span_reporting: Option<bool>, pending;
        "customTags" custom_tags: BTreeMap<String, CustomTag>, pending;
        "useRequestIdForTraceSampling" use_request_id_for_trace_sampling: Option<bool>, pending;
        "enableIstioTags" enable_istio_tags: Option<bool>, pending;
        "disableContextPropagation" disable_context_propagation: Option<bool>, pending;
    }
}

message! {
    /// Istio's `Tracing.TracingSelector`.
    pub struct TracingSelector = "TracingSelector" {
        "mode" mode: WorkloadMode, pending;
    }
}

message! {
    /// Istio's `Tracing.CustomTag`.
    pub struct CustomTag = "CustomTag" {
        "literal" literal: Option<Literal>, pending;
        "environment" environment: Option<Environment>, pending;
        "header" header: Option<RequestHeader>, pending;
        "formatter" formatter: Option<Formatter>, pending;
    }
    one_of [["literal", "environment", "header", "formatter"]]
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
    /// Istio's `Tracing.Formatter`.
    pub struct Formatter = "Formatter" {
        "value" value: String, pending;
    }
}

message! {
    /// Istio's `ProviderRef`.
    pub struct ProviderRef = "ProviderRef" {
        "name" name: String, pending;
    }
}

message! {
    /// Istio's `Metrics`.
    pub struct Metrics = "Metrics" {
        "providers" providers: Vec<ProviderRef>, pending;
        "overrides" overrides: Vec<MetricsOverrides>, pending;
        "reportingInterval" reporting_interval: Option<Duration>, pending;
    }
}

enumeration! {
    /// Istio's `WorkloadMode`.
    pub enum WorkloadMode = "WorkloadMode" {
        "CLIENT_AND_SERVER" 0 ClientAndServer, pending;
        "CLIENT" 1 Client, pending;
        "SERVER" 2 Server, pending;
    }
}

message! {
    /// Istio's `MetricSelector`.
    pub struct MetricSelector = "MetricSelector" {
        "metric" metric: Option<IstioMetric>, pending;
        "customMetric" custom_metric: Option<String>, pending;
        "mode" mode: WorkloadMode, pending;
    }
    one_of [["metric", "customMetric"]]
}

enumeration! {
    /// Istio's `MetricSelector.IstioMetric`.
    pub enum IstioMetric = "IstioMetric" {
        "ALL_METRICS" 0 AllMetrics, pending;
        "REQUEST_COUNT" 1 RequestCount, pending;
        "REQUEST_DURATION" 2 RequestDuration, pending;
        "REQUEST_SIZE" 3 RequestSize, pending;
        "RESPONSE_SIZE" 4 ResponseSize, pending;
        "TCP_OPENED_CONNECTIONS" 5 TcpOpenedConnections, pending;
        "TCP_CLOSED_CONNECTIONS" 6 TcpClosedConnections, pending;
        "TCP_SENT_BYTES" 7 TcpSentBytes, pending;
        "TCP_RECEIVED_BYTES" 8 TcpReceivedBytes, pending;
        "GRPC_REQUEST_MESSAGES" 9 GrpcRequestMessages, pending;
        "GRPC_RESPONSE_MESSAGES" 10 GrpcResponseMessages, pending;
    }
}

message! {
    /// Istio's `MetricsOverrides`.
    pub struct MetricsOverrides = "MetricsOverrides" {
        "match" r#match: Option<MetricSelector>, pending;
        "disabled" disabled: Option<bool>, pending;
        "tagOverrides" tag_overrides: BTreeMap<String, TagOverride>, pending;
    }
}

message! {
    /// Istio's `MetricsOverrides.TagOverride`.
    pub struct TagOverride = "TagOverride" {
        "operation" operation: TagOperation, pending;
        "value" value: String, pending;
    }
}

enumeration! {
    /// Istio's `MetricsOverrides.TagOverride.Operation`.
    pub enum TagOperation = "Operation" {
        "UPSERT" 0 Upsert, pending;
        "REMOVE" 1 Remove, pending;
    }
}

message! {
    /// Istio's `AccessLogging`.
    pub struct AccessLogging = "AccessLogging" {
        "match" r#match: Option<LogSelector>, pending;
        "providers" providers: Vec<ProviderRef>, pending;
        "disabled" disabled: Option<bool>, pending;
        "filter" filter: Option<LogFilter>, pending;
    }
}

message! {
    /// Istio's `AccessLogging.LogSelector`.
    pub struct LogSelector = "LogSelector" {
        "mode" mode: WorkloadMode, pending;
    }
}

message! {
    /// Istio's `AccessLogging.Filter`.
    pub struct LogFilter = "Filter" {
        "expression" expression: String, pending;
    }
}
