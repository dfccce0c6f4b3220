//! ProxyConfig: settings of the proxies themselves.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `networking/v1beta1/proxy_config.proto`.

use std::collections::BTreeMap;

use crate::kinds::selector::WorkloadSelector;
use crate::message::{message, status};

message! {
    /// Istio's `ProxyConfig`.
    pub struct ProxyConfig = "ProxyConfig" {
        "selector" selector: Option<WorkloadSelector>, pending;
        "concurrency" concurrency: Option<i32>, pending;
        "environmentVariables" environment_variables: BTreeMap<String, String>, pending;
        "image" image: Option<ProxyImage>, pending;
    }
}

message! {
    /// Istio's `ProxyImage`.
    pub struct ProxyImage = "ProxyImage" {
        "imageType" image_type: String, pending;
    }
}
