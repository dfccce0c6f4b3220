//! Cases of MeshConfig, whose document has no `kind`.

use crate::case::{Case, case};

const RETRIES: &str = "defaultHttpRetryPolicy";

/// A policy for the whole mesh.
fn retries(policy: &str) -> String {
    format!("{RETRIES}: {{{policy}}}\n")
}

const RANDOM: &str = "---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: pair}, spec: {host: pair.example, trafficPolicy: {loadBalancer: {simple: RANDOM}}}}
";
const SUBSET: &str = "---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: heavy, namespace: $namespace}, spec: {host: heavy.example, subsets: [{name: s, labels: {version: v2}}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: heavy}, spec: {hosts: [heavy.example], http: [{route: [{destination: {host: heavy.example, subset: s}}]}]}}
";

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "connectTimeout",
            "connectTimeout: 50ms
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: {hosts: [mute.example], http: [{timeout: 600ms, retries: {attempts: 0}, route: [{destination: {host: mute.example}}]}]}}
",
        )
        .fields(&["connectTimeout"])
        .ask("GET http://mute.example/")
        .sees("status", "503"),
        case("access log", "accessLogFile: $log\naccessLogEncoding: JSON\n")
            .fields(&["accessLogFile", "accessLogEncoding"])
            .ask("GET http://v1.example/path")
            .sees("log:path", "/path"),
        case("outboundTrafficPolicy", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n")
            .fields(&["outboundTrafficPolicy", "outboundTrafficPolicy.mode = ALLOW_ANY"])
            .ask("GET http://127.0.0.1:1/")
            .sees("status", "502"),
        case("defaultServiceExportTo", "defaultServiceExportTo: ['.']\n")
            .fields(&["defaultServiceExportTo"])
            .ask("GET http://v1.example/")
            .ask("other GET http://v1.example/")
            .sees("by", "v1, -"),
        case(
            "defaultVirtualServiceExportTo",
            "defaultVirtualServiceExportTo: ['.']
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: {hosts: [v1.example], http: [{$v2}]}}
",
        )
        .fields(&["defaultVirtualServiceExportTo"])
        .ask("GET http://v1.example/")
        .ask("other GET http://v1.example/")
        .sees("by", "v2, v1"),
        case("defaultDestinationRuleExportTo", "defaultDestinationRuleExportTo: ['.']\n".to_owned() + &SUBSET.replace("$namespace", "default"))
            .fields(&["defaultDestinationRuleExportTo"])
            .ask("GET http://heavy.example/")
            .ask("other GET http://heavy.example/")
            .sees("status by", "200 v2, 503 -"),
        case("rootNamespace", "rootNamespace: root\n".to_owned() + &SUBSET.replace("$namespace", "root"))
            .fields(&["rootNamespace"])
            .ask("GET http://heavy.example/")
            .sees("status by", "200 v2"),
        case("retries", retries("attempts: 1, retryOn: 5xx"))
            .fields(&[RETRIES, "defaultHttpRetryPolicy.attempts = 3", "defaultHttpRetryPolicy.retryOn"])
            .ask("GET http://v1.example/ do-fail=500")
            .sees("status tries", "500 2"),
        case("perTryTimeout", retries("attempts: 1, perTryTimeout: 100ms, retryOn: 5xx"))
            .fields(&["defaultHttpRetryPolicy.perTryTimeout"])
            .ask("GET http://v1.example/ do-wait=400 do-until=2")
            .sees("status tries", "200 2"),
        // The figures are those of VirtualService's own policy.
        case("backoff", retries("attempts: 12, retryOn: 5xx, backoff: 1ms"))
            .fields(&["defaultHttpRetryPolicy.backoff"])
            .ask("GET http://v1.example/ do-fail=500")
            .sees("tries over:400", "13 quick"),
        case(
            "retryIgnorePreviousHosts",
            retries("attempts: 1, retryOn: 5xx, retryIgnorePreviousHosts: false, backoff: 1ms") + RANDOM,
        )
        .fields(&["defaultHttpRetryPolicy.retryIgnorePreviousHosts"])
        .ask("200% GET http://pair.example/ do-at=v1 do-fail=500")
        .sees("status", "200+500"),
        case("inbound retries", inbound("attempts: 1, retryOn: 5xx"))
            .fields(&[
                "defaultInboundHttpRetryPolicy",
                "defaultInboundHttpRetryPolicy.attempts = 3",
                "defaultInboundHttpRetryPolicy.retryOn",
            ])
            .ask("GET http://s/ do-fail=500")
            .sees("status tries", "500 2"),
        case("inbound backoff", inbound("attempts: 12, retryOn: 5xx, backoff: 1ms"))
            .fields(&["defaultInboundHttpRetryPolicy.backoff"])
            .ask("GET http://s/ do-fail=500")
            .sees("tries over:400", "13 quick"),
        case("h2UpgradePolicy", "h2UpgradePolicy: UPGRADE\n")
            .fields(&["h2UpgradePolicy"])
            .ask("GET http://v1.example/")
            .sees("by protocol", "v1 HTTP/2.0"),
        case("pathNormalization", "pathNormalization: {normalization: MERGE_SLASHES}\n")
            .fields(&["pathNormalization", "pathNormalization.normalization"])
            .ask("GET http://v1.example/a//b")
            .sees("by target", "v1 /a/b"),
        case(
            "dnsRefreshRate",
            "dnsRefreshRate: 1234s
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: s}, spec: {hosts: [localhost], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP, targetPort: $port-v1}]}}
",
        )
        .fields(&["dnsRefreshRate"])
        .ask("GET http://localhost/")
        .sees("by config:1234s", "v1 yes"),
    ]
}

/// A policy of the way in, with a service that leads to `w1`.
fn inbound(policy: &str) -> String {
    format!(
        "defaultInboundHttpRetryPolicy: {{{policy}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{selector: {{app: w, version: v1}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}
"
    )
}
