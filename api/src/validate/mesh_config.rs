//! Rules of MeshConfig. Source: Istio's validation of it.
//!
//! In:  the body. Out: findings.

use super::check::{Check, is_dns_subdomain};
use super::destination_rule::{connection_pool, locality_setting, outlier_detection, tcp_keepalive};
use super::http_route::retries;
use super::workload_group::probe;
use crate::code;
use crate::kinds::mesh_config::MeshConfig;
use crate::parse::ROOT_NAMESPACE;
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &MeshConfig) {
    if cx.namespace() != ROOT_NAMESPACE {
        let message = format!("the ConfigMap `istio` is read from the namespace {ROOT_NAMESPACE} only: these settings are not used");
        cx.warning(code::MESH, path, message, format!("move it to {ROOT_NAMESPACE}"));
    }
    for (name, port) in [
        ("proxyListenPort", body.proxy_listen_port),
        ("proxyInboundListenPort", body.proxy_inbound_listen_port),
        ("proxyHttpPort", body.proxy_http_port),
    ] {
        if port != 0 {
            cx.port(&path.field(name), u32::try_from(port).unwrap_or(u32::MAX));
        }
    }
    cx.duration(&path.field("connectTimeout"), body.connect_timeout);
    cx.duration_or_zero(&path.field("protocolDetectionTimeout"), body.protocol_detection_timeout);
    cx.duration(&path.field("dnsRefreshRate"), body.dns_refresh_rate);
    for (index, domain) in body.trust_domain_aliases.iter().enumerate() {
        trust_domain(cx, &path.field("trustDomainAliases").index(index), domain);
    }
    if !body.trust_domain.is_empty() {
        trust_domain(cx, &path.field("trustDomain"), &body.trust_domain);
    }
    if !body.root_namespace.is_empty() {
        cx.dns_label(&path.field("rootNamespace"), &body.root_namespace, "namespace");
    }
    cx.export_to(&path.field("defaultServiceExportTo"), &body.default_service_export_to, true);
    cx.export_to(&path.field("defaultVirtualServiceExportTo"), &body.default_virtual_service_export_to, true);
    cx.export_to(&path.field("defaultDestinationRuleExportTo"), &body.default_destination_rule_export_to, true);
    if let Some(policy) = &body.default_http_retry_policy {
        retries(cx, &path.field("defaultHttpRetryPolicy"), policy);
    }
    if let Some(policy) = &body.default_inbound_http_retry_policy {
        retries(cx, &path.field("defaultInboundHttpRetryPolicy"), &policy.into());
    }
    if let Some(keepalive) = &body.tcp_keepalive {
        tcp_keepalive(cx, &path.field("tcpKeepalive"), keepalive);
    }
    if let Some(locality) = &body.locality_lb_setting {
        locality_setting(cx, &path.field("localityLbSetting"), locality);
    }
    if let Some(policy) = &body.default_traffic_policy {
        let path = path.field("defaultTrafficPolicy");
        if let Some(pool) = &policy.connection_pool {
            connection_pool(cx, &path.field("connectionPool"), pool);
        }
        if let Some(outlier) = &policy.outlier_detection {
            outlier_detection(cx, &path.field("outlierDetection"), outlier);
        }
    }
    outbound(cx, path, body);
    extensions(cx, path, body);
}

fn outbound(cx: &mut Check<'_>, path: &Path<'_>, body: &MeshConfig) {
    let path = path.field("outboundTrafficPolicy");
    if body.outbound_traffic_policy.is_some() && !cx.has(&path.field("mode")) {
        let message = "without `mode` this block means REGISTRY_ONLY: unknown hosts get 502";
        cx.warning(code::INEFFECTIVE, &path, message, "write the mode: REGISTRY_ONLY or ALLOW_ANY");
    }
}

fn extensions(cx: &mut Check<'_>, path: &Path<'_>, body: &MeshConfig) {
    let providers = path.field("extensionProviders");
    for (index, provider) in body.extension_providers.iter().enumerate() {
        cx.required(&providers.index(index).field("name"), &provider.name, "the name of the provider");
    }
    let names = body.extension_providers.iter().map(|provider| provider.name.as_str()).enumerate().filter(|(_, name)| !name.is_empty());
    cx.unique(names, |index| providers.index(index).field("name").to_string(), "provider");
    if let Some(proxy) = &body.default_config {
        let path = path.field("defaultConfig");
        cx.duration_or_zero(&path.field("drainDuration"), proxy.drain_duration);
        cx.duration_or_zero(&path.field("terminationDrainDuration"), proxy.termination_drain_duration);
        if let Some(readiness) = &proxy.readiness_probe {
            probe(cx, &path.field("readinessProbe"), readiness);
        }
    }
}

fn trust_domain(cx: &mut Check<'_>, path: &Path<'_>, domain: &str) {
    if !is_dns_subdomain(domain) {
        let help = "lower-case letters, digits, `-` and `.`";
        cx.error(code::MESH, path, format!("`{domain}` is not a trust domain"), help);
    }
}
