//! VirtualService: how requests for a host are routed.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `networking/v1alpha3/virtual_service.proto`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::decode::Bytes;
use crate::message::{enumeration, message, status};
use crate::string_match::StringMatch;

message! {
    /// Istio's `VirtualService`.
    pub struct VirtualService = "VirtualService" {
        /// Host names (exact, or `*.` wildcards); empty only for a delegate.
        "hosts" hosts: Vec<String>, enforced;
        /// `mesh` for sidecars, else `name` or `namespace/name`; `[mesh]` when empty.
        "gateways" gateways: Vec<String>, enforced;
        /// Ordered; the first route that matches wins.
        "http" http: Vec<HttpRoute>, enforced;
        "tls" tls: Vec<TlsRoute>, pending;
        "tcp" tcp: Vec<TcpRoute>, pending;
        /// `.`, `*` or namespace names; the mesh default when empty.
        "exportTo" export_to: Vec<String>, enforced;
    }
}

message! {
    /// Istio's `Destination`.
    pub struct Destination = "Destination" {
        /// A short name means a service of the namespace of the rule.
        "host" host: String, enforced;
        "subset" subset: String, enforced;
        /// The service's only port, else the port the request arrived at, when missing.
        "port" port: Option<PortSelector>, enforced;
    }
}

message! {
    /// Istio's `HTTPRoute`.
    pub struct HttpRoute = "HTTPRoute" {
        "name" name: String, enforced;
        /// Any of them; everything when empty.
        "match" r#match: Vec<HttpMatchRequest>, enforced;
        /// Weighted destinations; a weight counts only among several.
        "route" route: Vec<HttpRouteDestination>, enforced;
        "redirect" redirect: Option<HttpRedirect>, enforced;
        "directResponse" direct_response: Option<HttpDirectResponse>, enforced;
        "delegate" delegate: Option<Delegate>, enforced;
        "rewrite" rewrite: Option<HttpRewrite>, enforced;
        /// For the whole request with its retries; none when missing.
        "timeout" timeout: Option<Duration>, enforced;
        /// The mesh default when missing; a block without `attempts` disables retries.
        "retries" retries: Option<HttpRetry>, enforced;
        "fault" fault: Option<HttpFaultInjection>, enforced;
        "mirror" mirror: Option<Destination>, enforced;
        "mirrors" mirrors: Vec<HttpMirrorPolicy>, enforced;
        /// Deprecated.
        "mirrorPercent" mirror_percent: Option<u32>, enforced;
        "mirrorPercentage" mirror_percentage: Option<Percent>, enforced;
        "corsPolicy" cors_policy: Option<CorsPolicy>, enforced;
        "headers" headers: Option<Headers>, enforced;
    }
    retired [("appendHeaders", "use `headers.request.add`"), ("appendRequestHeaders", "use `headers.request.add`"), ("appendResponseHeaders", "use `headers.response.add`"), ("append_headers", "use `headers.request.add`"), ("append_request_headers", "use `headers.request.add`"), ("append_response_headers", "use `headers.response.add`"), ("removeRequestHeaders", "use `headers.request.remove`"), ("removeResponseHeaders", "use `headers.response.remove`"), ("remove_request_headers", "use `headers.request.remove`"), ("remove_response_headers", "use `headers.response.remove`"), ("websocketUpgrade", "remove it: upgrades work without it"), ("websocket_upgrade", "remove it: upgrades work without it")]
}

message! {
    /// Istio's `Delegate`.
    pub struct Delegate = "Delegate" {
        "name" name: String, enforced;
        "namespace" namespace: String, enforced;
    }
}

message! {
    /// Istio's `Headers`.
    pub struct Headers = "Headers" {
        "request" request: Option<HeaderOperations>, enforced;
        "response" response: Option<HeaderOperations>, enforced;
    }
}

message! {
    /// Istio's `Headers.HeaderOperations`.
    pub struct HeaderOperations = "HeaderOperations" {
        "set" set: BTreeMap<String, String>, enforced;
        "add" add: BTreeMap<String, String>, enforced;
        "remove" remove: Vec<String>, enforced;
    }
}

message! {
    /// Istio's `TLSRoute`.
    pub struct TlsRoute = "TLSRoute" {
        "match" r#match: Vec<TlsMatchAttributes>, enforced;
        "route" route: Vec<RouteDestination>, enforced;
    }
}

message! {
    /// Istio's `TCPRoute`.
    pub struct TcpRoute = "TCPRoute" {
        "match" r#match: Vec<L4MatchAttributes>, enforced;
        "route" route: Vec<RouteDestination>, enforced;
    }
}

message! {
    /// Istio's `HTTPMatchRequest`.
    pub struct HttpMatchRequest = "HTTPMatchRequest" {
        "name" name: String, enforced;
        /// Compared with the path, without query.
        "uri" uri: Option<StringMatch>, enforced;
        "scheme" scheme: Option<StringMatch>, enforced;
        "method" method: Option<StringMatch>, enforced;
        "authority" authority: Option<StringMatch>, enforced;
        "headers" headers: BTreeMap<String, StringMatch>, enforced;
        /// The port of the service, 0 when any.
        "port" port: u32, enforced;
        "sourceLabels" source_labels: BTreeMap<String, String>, enforced;
        "gateways" gateways: Vec<String>, enforced;
        "queryParams" query_params: BTreeMap<String, StringMatch>, enforced;
        /// For exact and prefix, never for regex.
        "ignoreUriCase" ignore_uri_case: bool, enforced;
        "withoutHeaders" without_headers: BTreeMap<String, StringMatch>, enforced;
        "sourceNamespace" source_namespace: String, enforced;
        "statPrefix" stat_prefix: String, pending;
    }
}

message! {
    /// Istio's `HTTPRouteDestination`.
    pub struct HttpRouteDestination = "HTTPRouteDestination" {
        "destination" destination: Option<Destination>, enforced;
        /// Relative to the other destinations of the route.
        "weight" weight: i32, enforced;
        "headers" headers: Option<Headers>, enforced;
    }
    retired [("appendRequestHeaders", "use `headers.request.add`"), ("appendResponseHeaders", "use `headers.response.add`"), ("append_request_headers", "use `headers.request.add`"), ("append_response_headers", "use `headers.response.add`"), ("removeRequestHeaders", "use `headers.request.remove`"), ("removeResponseHeaders", "use `headers.response.remove`"), ("remove_request_headers", "use `headers.request.remove`"), ("remove_response_headers", "use `headers.response.remove`")]
}

message! {
    /// Istio's `RouteDestination`.
    pub struct RouteDestination = "RouteDestination" {
        "destination" destination: Option<Destination>, enforced;
        "weight" weight: i32, enforced;
    }
}

message! {
    /// Istio's `L4MatchAttributes`.
    pub struct L4MatchAttributes = "L4MatchAttributes" {
        "destinationSubnets" destination_subnets: Vec<String>, enforced;
        "port" port: u32, enforced;
        "sourceSubnet" source_subnet: String, enforced;
        "sourceLabels" source_labels: BTreeMap<String, String>, enforced;
        "gateways" gateways: Vec<String>, enforced;
        "sourceNamespace" source_namespace: String, enforced;
    }
}

message! {
    /// Istio's `TLSMatchAttributes`.
    pub struct TlsMatchAttributes = "TLSMatchAttributes" {
        "sniHosts" sni_hosts: Vec<String>, enforced;
        "destinationSubnets" destination_subnets: Vec<String>, enforced;
        "port" port: u32, enforced;
        "sourceLabels" source_labels: BTreeMap<String, String>, enforced;
        "gateways" gateways: Vec<String>, enforced;
        "sourceNamespace" source_namespace: String, enforced;
    }
    retired [("sourceSubnet", "use `sourceLabels` or `sourceNamespace`"), ("source_subnet", "use `sourceLabels` or `sourceNamespace`")]
}

message! {
    /// Istio's `HTTPRedirect`.
    pub struct HttpRedirect = "HTTPRedirect" {
        /// The whole new path.
        "uri" uri: String, enforced;
        "authority" authority: String, enforced;
        "port" port: Option<u32>, enforced;
        "derivePort" derive_port: Option<RedirectPortSelection>, enforced;
        "scheme" scheme: String, enforced;
        /// 301 when 0.
        "redirectCode" redirect_code: u32, enforced;
        "prefixRewrite" prefix_rewrite: String, enforced;
    }
    one_of [["port", "derivePort"]]
}

enumeration! {
    /// Istio's `HTTPRedirect.RedirectPortSelection`.
    pub enum RedirectPortSelection = "RedirectPortSelection" {
        "FROM_PROTOCOL_DEFAULT" 0 FromProtocolDefault, enforced;
        "FROM_REQUEST_PORT" 1 FromRequestPort, enforced;
    }
}

message! {
    /// Istio's `HTTPDirectResponse`.
    pub struct HttpDirectResponse = "HTTPDirectResponse" {
        "status" status: u32, enforced;
        "body" body: Option<HttpBody>, enforced;
    }
}

message! {
    /// Istio's `HTTPBody`.
    pub struct HttpBody = "HTTPBody" {
        "string" string: Option<String>, enforced;
        "bytes" bytes: Option<Bytes>, enforced;
    }
    one_of [["string", "bytes"]]
}

message! {
    /// Istio's `HTTPRewrite`.
    pub struct HttpRewrite = "HTTPRewrite" {
        /// Replaces the matched prefix, or the whole path after an exact or regex match.
        "uri" uri: String, enforced;
        "authority" authority: String, enforced;
        "uriRegexRewrite" uri_regex_rewrite: Option<RegexRewrite>, enforced;
    }
}

message! {
    /// Istio's `RegexRewrite`.
    pub struct RegexRewrite = "RegexRewrite" {
        "match" r#match: String, enforced;
        "rewrite" rewrite: String, enforced;
    }
}

message! {
    /// Istio's `HTTPRetry`.
    pub struct HttpRetry = "HTTPRetry" {
        /// Retries after the first try; 0 disables.
        "attempts" attempts: i32, enforced;
        /// For each try, the first included.
        "perTryTimeout" per_try_timeout: Option<Duration>, enforced;
        /// Comma-separated conditions and status codes; Istio's default list when empty.
        "retryOn" retry_on: String, enforced;
        "retryRemoteLocalities" retry_remote_localities: Option<bool>, pending;
        /// True when missing.
        "retryIgnorePreviousHosts" retry_ignore_previous_hosts: Option<bool>, enforced;
        /// Base of the exponential back-off; 25 ms when missing.
        "backoff" backoff: Option<Duration>, enforced;
    }
}

message! {
    /// Istio's `CorsPolicy`.
    pub struct CorsPolicy = "CorsPolicy" {
        /// Deprecated.
        "allowOrigin" allow_origin: Vec<String>, enforced;
        "allowOrigins" allow_origins: Vec<StringMatch>, enforced;
        "allowMethods" allow_methods: Vec<String>, enforced;
        "allowHeaders" allow_headers: Vec<String>, enforced;
        "exposeHeaders" expose_headers: Vec<String>, enforced;
        "maxAge" max_age: Option<Duration>, enforced;
        "allowCredentials" allow_credentials: Option<bool>, enforced;
        "unmatchedPreflights" unmatched_preflights: UnmatchedPreflights, enforced;
    }
}

enumeration! {
    /// Istio's `CorsPolicy.UnmatchedPreflights`.
    pub enum UnmatchedPreflights = "UnmatchedPreflights" {
        "UNSPECIFIED" 0 Unspecified, enforced;
        "FORWARD" 1 Forward, enforced;
        "IGNORE" 2 Ignore, enforced;
    }
}

message! {
    /// Istio's `HTTPFaultInjection`.
    pub struct HttpFaultInjection = "HTTPFaultInjection" {
        "delay" delay: Option<FaultDelay>, enforced;
        "abort" abort: Option<FaultAbort>, enforced;
    }
}

message! {
    /// Istio's `HTTPFaultInjection.Delay`.
    pub struct FaultDelay = "Delay" {
        /// Deprecated.
        "percent" percent: i32, enforced;
        "fixedDelay" fixed_delay: Option<Duration>, enforced;
        "exponentialDelay" exponential_delay: Option<Duration>, inert;
        /// Nobody when missing.
        "percentage" percentage: Option<Percent>, enforced;
    }
    one_of [["fixedDelay", "exponentialDelay"]]
}

message! {
    /// Istio's `HTTPFaultInjection.Abort`.
    pub struct FaultAbort = "Abort" {
        "httpStatus" http_status: Option<i32>, enforced;
        /// The upper-case name, such as `UNAVAILABLE`.
        "grpcStatus" grpc_status: Option<String>, enforced;
        "http2Error" http2_error: Option<String>, inert;
        /// Nobody when missing.
        "percentage" percentage: Option<Percent>, enforced;
    }
    one_of [["httpStatus", "grpcStatus", "http2Error"]]
    retired [("percent", "use `percentage.value`")]
}

message! {
    /// Istio's `HTTPMirrorPolicy`.
    pub struct HttpMirrorPolicy = "HTTPMirrorPolicy" {
        "destination" destination: Option<Destination>, enforced;
        "percentage" percentage: Option<Percent>, enforced;
    }
}

message! {
    /// Istio's `PortSelector`.
    pub struct PortSelector = "PortSelector" {
        "number" number: u32, enforced;
    }
    retired [("name", "use `number`")]
}

message! {
    /// Istio's `Percent`.
    pub struct Percent = "Percent" {
        /// Percent, 0 to 100: 0.1 means 1 in 1,000.
        "value" value: f64, enforced;
    }
}
