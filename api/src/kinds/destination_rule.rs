//! DestinationRule: subsets of a host, and how connections to it are made.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `networking/v1alpha3/destination_rule.proto`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kinds::selector::WorkloadSelector;
use crate::kinds::virtual_service::PortSelector;
use crate::message::{enumeration, message, status};

message! {
    /// Istio's `DestinationRule`.
    pub struct DestinationRule = "DestinationRule" {
        /// A service, or a wildcard.
        "host" host: String, enforced;
        "trafficPolicy" traffic_policy: Option<TrafficPolicy>, enforced;
        "subsets" subsets: Vec<Subset>, enforced;
        "exportTo" export_to: Vec<String>, enforced;
        "workloadSelector" workload_selector: Option<WorkloadSelector>, pending;
    }
}

message! {
    /// Istio's `TrafficPolicy`.
    pub struct TrafficPolicy = "TrafficPolicy" {
        "loadBalancer" load_balancer: Option<LoadBalancerSettings>, enforced;
        "connectionPool" connection_pool: Option<ConnectionPoolSettings>, enforced;
        "outlierDetection" outlier_detection: Option<OutlierDetection>, pending;
        "tls" tls: Option<ClientTlsSettings>, pending;
        "portLevelSettings" port_level_settings: Vec<PortTrafficPolicy>, pending;
        "tunnel" tunnel: Option<TunnelSettings>, pending;
        "proxyProtocol" proxy_protocol: Option<ProxyProtocol>, pending;
        "retryBudget" retry_budget: Option<RetryBudget>, pending;
    }
}

message! {
    /// Istio's `TrafficPolicy.PortTrafficPolicy`.
    pub struct PortTrafficPolicy = "PortTrafficPolicy" {
        "port" port: Option<PortSelector>, pending;
        "loadBalancer" load_balancer: Option<LoadBalancerSettings>, pending;
        "connectionPool" connection_pool: Option<ConnectionPoolSettings>, pending;
        "outlierDetection" outlier_detection: Option<OutlierDetection>, pending;
        "tls" tls: Option<ClientTlsSettings>, pending;
    }
}

message! {
    /// Istio's `TrafficPolicy.TunnelSettings`.
    pub struct TunnelSettings = "TunnelSettings" {
        "protocol" protocol: String, pending;
        "targetHost" target_host: String, pending;
        "targetPort" target_port: u32, pending;
    }
}

message! {
    /// Istio's `TrafficPolicy.ProxyProtocol`.
    pub struct ProxyProtocol = "ProxyProtocol" {
        "version" version: ProxyProtocolVersion, pending;
    }
}

enumeration! {
    /// Istio's `TrafficPolicy.ProxyProtocol.VERSION`.
    pub enum ProxyProtocolVersion = "VERSION" {
        "V1" 0 V1, pending;
        "V2" 1 V2, pending;
    }
}

message! {
    /// Istio's `TrafficPolicy.RetryBudget`.
    pub struct RetryBudget = "RetryBudget" {
        "percent" percent: Option<f64>, pending;
        "minRetryConcurrency" min_retry_concurrency: u32, pending;
        "budgetInterval" budget_interval: Option<Duration>, pending;
    }
}

message! {
    /// Istio's `Subset`.
    pub struct Subset = "Subset" {
        "name" name: String, enforced;
        /// Endpoints that have all of them; every endpoint when empty.
        "labels" labels: BTreeMap<String, String>, enforced;
        "trafficPolicy" traffic_policy: Option<TrafficPolicy>, enforced;
    }
}

message! {
    /// Istio's `LoadBalancerSettings`.
    pub struct LoadBalancerSettings = "LoadBalancerSettings" {
        "simple" simple: Option<SimpleLb>, enforced;
        "consistentHash" consistent_hash: Option<ConsistentHashLb>, pending;
        "localityLbSetting" locality_lb_setting: Option<LocalityLoadBalancerSetting>, pending;
        "zoneAwareLbSetting" zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>, pending;
        "warmupDurationSecs" warmup_duration_secs: Option<Duration>, pending;
        "warmup" warmup: Option<WarmupConfiguration>, pending;
    }
    one_of [["simple", "consistentHash"]]
}

enumeration! {
    /// Istio's `LoadBalancerSettings.SimpleLB`.
    pub enum SimpleLb = "SimpleLB" {
        "UNSPECIFIED" 0 Unspecified, enforced;
        "LEAST_CONN" 1 LeastConn, enforced;
        "RANDOM" 2 Random, enforced;
        "PASSTHROUGH" 3 Passthrough, pending;
        "ROUND_ROBIN" 4 RoundRobin, enforced;
        "LEAST_REQUEST" 5 LeastRequest, enforced;
    }
}

message! {
    /// Istio's `LoadBalancerSettings.ConsistentHashLB`.
    pub struct ConsistentHashLb = "ConsistentHashLB" {
        "httpHeaderName" http_header_name: Option<String>, pending;
        "httpCookie" http_cookie: Option<HttpCookie>, pending;
        "useSourceIp" use_source_ip: Option<bool>, pending;
        "httpQueryParameterName" http_query_parameter_name: Option<String>, pending;
        "ringHash" ring_hash: Option<RingHash>, pending;
        "maglev" maglev: Option<MagLev>, pending;
        /// Deprecated.
        "minimumRingSize" minimum_ring_size: u64, pending;
    }
    one_of [["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"], ["ringHash", "maglev"]]
}

message! {
    /// Istio's `LoadBalancerSettings.ConsistentHashLB.RingHash`.
    pub struct RingHash = "RingHash" {
        "minimumRingSize" minimum_ring_size: u64, pending;
    }
}

message! {
    /// Istio's `LoadBalancerSettings.ConsistentHashLB.MagLev`.
    pub struct MagLev = "MagLev" {
        "tableSize" table_size: u64, pending;
    }
}

message! {
    /// Istio's `LoadBalancerSettings.ConsistentHashLB.HTTPCookie`.
    pub struct HttpCookie = "HTTPCookie" {
        "name" name: String, pending;
        "path" path: String, pending;
        "ttl" ttl: Option<Duration>, pending;
        "attributes" attributes: Vec<CookieAttribute>, pending;
    }
}

message! {
    /// Istio's `LoadBalancerSettings.ConsistentHashLB.HTTPCookie.Attribute`.
    pub struct CookieAttribute = "Attribute" {
        "name" name: String, pending;
        "value" value: String, pending;
    }
}

message! {
    /// Istio's `WarmupConfiguration`.
    pub struct WarmupConfiguration = "WarmupConfiguration" {
        "duration" duration: Option<Duration>, pending;
        "minimumPercent" minimum_percent: Option<f64>, pending;
        "aggression" aggression: Option<f64>, pending;
    }
}

message! {
    /// Istio's `ConnectionPoolSettings`.
    pub struct ConnectionPoolSettings = "ConnectionPoolSettings" {
        "tcp" tcp: Option<TcpSettings>, enforced;
        "http" http: Option<HttpSettings>, enforced;
    }
}

message! {
    /// Istio's `ConnectionPoolSettings.TCPSettings`.
    pub struct TcpSettings = "TCPSettings" {
        "maxConnections" max_connections: i32, pending;
        /// The mesh's `connectTimeout` (10 s) when missing.
        "connectTimeout" connect_timeout: Option<Duration>, enforced;
        "tcpKeepalive" tcp_keepalive: Option<TcpKeepalive>, pending;
        "maxConnectionDuration" max_connection_duration: Option<Duration>, pending;
        "idleTimeout" idle_timeout: Option<Duration>, pending;
    }
}

message! {
    /// Istio's `ConnectionPoolSettings.TCPSettings.TcpKeepalive`.
    pub struct TcpKeepalive = "TcpKeepalive" {
        "probes" probes: u32, pending;
        "time" time: Option<Duration>, pending;
        "interval" interval: Option<Duration>, pending;
    }
}

message! {
    /// Istio's `ConnectionPoolSettings.HTTPSettings`.
    pub struct HttpSettings = "HTTPSettings" {
        "http1MaxPendingRequests" http1_max_pending_requests: i32, pending;
        "http2MaxRequests" http2_max_requests: i32, pending;
        "maxRequestsPerConnection" max_requests_per_connection: i32, pending;
        "maxRetries" max_retries: i32, pending;
        "idleTimeout" idle_timeout: Option<Duration>, pending;
        "h2UpgradePolicy" h2_upgrade_policy: H2UpgradePolicy, enforced;
        "useClientProtocol" use_client_protocol: bool, enforced;
        "maxConcurrentStreams" max_concurrent_streams: i32, pending;
        "http2KeepAlive" http2_keep_alive: Option<ConnectionKeepalive>, pending;
    }
}

enumeration! {
    /// Istio's `ConnectionPoolSettings.HTTPSettings.H2UpgradePolicy`.
    pub enum H2UpgradePolicy = "H2UpgradePolicy" {
        "DEFAULT" 0 Default, enforced;
        "DO_NOT_UPGRADE" 1 DoNotUpgrade, enforced;
        "UPGRADE" 2 Upgrade, enforced;
    }
}

message! {
    /// Istio's `ConnectionPoolSettings.HTTPSettings.ConnectionKeepalive`.
    pub struct ConnectionKeepalive = "ConnectionKeepalive" {
        "interval" interval: Option<Duration>, pending;
        "timeout" timeout: Option<Duration>, pending;
    }
}

message! {
    /// Istio's `OutlierDetection`.
    pub struct OutlierDetection = "OutlierDetection" {
        /// Deprecated.
        "consecutiveErrors" consecutive_errors: i32, pending;
        "splitExternalLocalOriginErrors" split_external_local_origin_errors: bool, pending;
        "consecutiveLocalOriginFailures" consecutive_local_origin_failures: Option<u32>, pending;
        "consecutiveGatewayErrors" consecutive_gateway_errors: Option<u32>, pending;
        "consecutive5xxErrors" consecutive_5xx_errors: Option<u32>, pending;
        "interval" interval: Option<Duration>, pending;
        "baseEjectionTime" base_ejection_time: Option<Duration>, pending;
        "maxEjectionPercent" max_ejection_percent: i32, pending;
        "minHealthPercent" min_health_percent: i32, pending;
        "outlierDetectionHttpErrorCodes" outlier_detection_http_error_codes: Vec<u32>, pending;
    }
}

message! {
    /// Istio's `ClientTLSSettings`.
    pub struct ClientTlsSettings = "ClientTLSSettings" {
        "mode" mode: ClientTlsMode, pending;
        "clientCertificate" client_certificate: String, pending;
        "privateKey" private_key: String, pending;
        "caCertificates" ca_certificates: String, pending;
        "credentialName" credential_name: String, pending;
        "subjectAltNames" subject_alt_names: Vec<String>, pending;
        "sni" sni: String, pending;
        "insecureSkipVerify" insecure_skip_verify: Option<bool>, pending;
        "caCrl" ca_crl: String, pending;
    }
}

enumeration! {
    /// Istio's `ClientTLSSettings.TLSmode`.
    pub enum ClientTlsMode = "TLSmode" {
        "DISABLE" 0 Disable, pending;
        "SIMPLE" 1 Simple, pending;
        "MUTUAL" 2 Mutual, pending;
        "ISTIO_MUTUAL" 3 IstioMutual, pending;
    }
}

message! {
    /// Istio's `LocalityLoadBalancerSetting`.
    pub struct LocalityLoadBalancerSetting = "LocalityLoadBalancerSetting" {
        "distribute" distribute: Vec<LocalityDistribute>, pending;
        "failover" failover: Vec<LocalityFailover>, pending;
        "failoverPriority" failover_priority: Vec<String>, pending;
        "enabled" enabled: Option<bool>, pending;
    }
}

message! {
    /// Istio's `LocalityLoadBalancerSetting.Distribute`.
    pub struct LocalityDistribute = "Distribute" {
        "from" from: String, pending;
        "to" to: BTreeMap<String, u32>, pending;
    }
}

message! {
    /// Istio's `LocalityLoadBalancerSetting.Failover`.
    pub struct LocalityFailover = "Failover" {
        "from" from: String, pending;
        "to" to: String, pending;
    }
}

message! {
    /// Istio's `ZoneAwareLoadBalancerSetting`.
    pub struct ZoneAwareLoadBalancerSetting = "ZoneAwareLoadBalancerSetting" {
        "enabled" enabled: Option<bool>, pending;
        "failover" failover: Vec<ZoneFailover>, pending;
        "failoverPriority" failover_priority: Vec<String>, pending;
        "minClusterSize" min_cluster_size: Option<u64>, pending;
    }
}

message! {
    /// Istio's `ZoneAwareLoadBalancerSetting.Failover`.
    pub struct ZoneFailover = "Failover" {
        "from" from: String, pending;
        "to" to: String, pending;
    }
}
