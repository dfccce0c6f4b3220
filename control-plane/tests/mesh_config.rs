//! MeshConfig, live: an edit changes what it says and nothing else lasts, and taking it back restores what was.
//!
//! In:  a small mesh, one setting at a time.
//! Out: resources that say it.
#![allow(clippy::unwrap_used)] // a test's helpers may fail loudly

#[allow(dead_code)] // each test takes what it needs
mod world;

use pillion_api::set::ObjectSet;
use pillion_xds::{
    json::Descriptors,
    resource::{NodeConfig, ResourceType},
};
use world::{build, node, parse};

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{timeout: 9s, route: [{destination: {host: reviews}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: stranger, namespace: other, labels: {app: stranger}}
spec: {}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: reviews, labels: {app: reviews}}
spec: {ports: [{name: http, containerPort: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
";

fn objects(text: &str) -> ObjectSet {
    let parsed = parse("in.yaml", text);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    parsed.set
}

fn with(settings: &str) -> String {
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n";
    format!("{MESH}{config}    {}\n", settings.replace('\n', "\n    "))
}

/// The resources of a type whose names begin so, as JSON.
fn shown(descriptors: &Descriptors, config: &NodeConfig, kind: ResourceType, prefix: &str) -> String {
    let resources = config.of(kind).iter().filter(|(name, _)| name.starts_with(prefix));
    resources.map(|(_, resource)| descriptors.any_to_json(kind.type_url(), &resource.body).unwrap().to_string()).collect()
}

#[test]
fn an_edit_of_the_mesh_config_reaches_running_proxies_and_is_taken_back() {
    use ResourceType::{Cluster, Listener, VirtualHost};
    const REVIEWS: &str = "reviews as pillion";
    const STRANGER: &str = "other/stranger as pillion";
    const GATEWAY: &str = "istio-system/istio-ingressgateway as pillion router";
    const TO_REVIEWS: &str = "outbound|80||reviews";
    // Setting; whose resources; of which type and name; what stands in them with the setting alone, or without it alone.
    let cases = [
        ("accessLogFile: /dev/stdout", REVIEWS, Listener, "", "/dev/stdout", true),
        ("accessLogFile: /dev/stdout\naccessLogEncoding: JSON", REVIEWS, Listener, "", "json_format", true),
        ("connectTimeout: 3s", REVIEWS, Cluster, TO_REVIEWS, r#""connect_timeout":"3s""#, true),
        ("connectTimeout: 3s", REVIEWS, Cluster, "inbound|", r#""connect_timeout":"3s""#, true),
        ("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", REVIEWS, VirtualHost, "http_proxy/", "block_all", true),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY}", REVIEWS, VirtualHost, "http_proxy/", "block_all", false),
        ("pathNormalization: {normalization: NONE}", REVIEWS, Listener, "http_proxy", r#""normalize_path":false"#, true),
        ("pathNormalization: {normalization: NONE}", REVIEWS, Listener, "127.0.0.1_", r#""normalize_path":true"#, false),
        ("pathNormalization: {normalization: MERGE_SLASHES}", REVIEWS, Listener, "0.0.0.0_80", r#""merge_slashes":true"#, true),
        ("pathNormalization: {normalization: MERGE_SLASHES}", GATEWAY, Listener, "", r#""merge_slashes":true"#, true),
        ("pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}", GATEWAY, Listener, "", "UNESCAPE_AND_FORWARD", true),
        ("pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}", GATEWAY, Listener, "", r#""merge_slashes":true"#, true),
        ("h2UpgradePolicy: UPGRADE", STRANGER, Cluster, TO_REVIEWS, "http2_protocol_options", true),
        ("h2UpgradePolicy: UPGRADE", STRANGER, Cluster, TO_REVIEWS, r#""http_protocol_options""#, false),
        ("defaultHttpRetryPolicy: {attempts: 5}", REVIEWS, VirtualHost, "http_proxy/", r#""num_retries":5"#, true),
        ("defaultHttpRetryPolicy: {attempts: 0}", REVIEWS, VirtualHost, "80/reviews", "retry_policy", false),
        ("defaultInboundHttpRetryPolicy: {attempts: 6}", REVIEWS, Listener, "127.0.0.1_", r#""num_retries":6"#, true),
        ("defaultInboundHttpRetryPolicy: {}", REVIEWS, Listener, "127.0.0.1_", "retry_policy", false),
        ("defaultServiceExportTo: ['.']", STRANGER, Cluster, TO_REVIEWS, "reviews", false),
        ("defaultVirtualServiceExportTo: ['.']", STRANGER, VirtualHost, "80/reviews", r#""timeout":"9s""#, false),
        ("defaultDestinationRuleExportTo: ['.']", STRANGER, Cluster, TO_REVIEWS, "RANDOM", false),
    ];
    let descriptors = Descriptors::load().unwrap();
    for (settings, who, kind, prefix, needle, appears) in cases {
        // What everyone knew before is what a proxy that runs goes by: one translator, worlds that follow each other.
        let translator = world::translator().0;
        let plain = objects(MESH);
        let first = build(1, plain.clone(), None);
        let client = node(&first, who);
        let before = translator.translate(&first, &client);
        let second = build(2, objects(&with(settings)), Some(&first));
        let after = translator.translate(&second, &client);
        // Where it is the default that the needle stands for, the setting is what was there before.
        let default = settings.contains("ALLOW_ANY");
        let found = |config: &NodeConfig| shown(&descriptors, config, kind, prefix).contains(needle);
        assert_eq!((found(&before), found(&after)), (!appears && !default, appears), "{settings}: {needle} in {prefix} of {who}");
        assert_eq!(before.same_resources(&after), default, "{settings}");
        let third = build(3, plain, Some(&second));
        assert!(translator.translate(&third, &client).same_resources(&before), "{settings}: taken back");
        let alone = world::translator().0.translate(&second, &client);
        assert!(alone.same_resources(&after), "{settings}: as by a control plane that has just started");
    }
}

#[test]
fn upstreams_are_spoken_to_in_the_protocol_that_port_rule_and_mesh_make() {
    let upgrade = "h2UpgradePolicy: UPGRADE";
    // MeshConfig, connection pool of the DestinationRule; what clients speak to the ports http, http2, (undeclared) and tcp, and what their
    // sidecar speaks to the application.
    let cases = [
        ("", "", ["1", "2", "client", "none"], ["1", "2", "client", "none"]),
        (upgrade, "", ["2", "2", "client", "none"], ["1", "2", "client", "none"]),
        (upgrade, "{h2UpgradePolicy: DEFAULT, maxRetries: 1}", ["2", "2", "client", "none"], ["1", "2", "client", "none"]),
        (upgrade, "{h2UpgradePolicy: DO_NOT_UPGRADE}", ["1", "2", "client", "none"], ["1", "2", "client", "none"]),
        ("", "{h2UpgradePolicy: UPGRADE}", ["2", "2", "2", "2"], ["1", "2", "client", "none"]),
        ("", "{useClientProtocol: true}", ["client"; 4], ["client"; 4]),
        (upgrade, "{useClientProtocol: true, h2UpgradePolicy: UPGRADE}", ["client"; 4], ["client"; 4]),
    ];
    let descriptors = Descriptors::load().unwrap();
    for (settings, pool, outbound, inbound) in cases {
        let ports = "[{name: http, port: 80}, {name: http2-a, port: 81}, {name: other, port: 82}, {name: tcp-a, port: 83}]";
        let own =
            "[{name: a, containerPort: 80}, {name: b, containerPort: 81}, {name: c, containerPort: 82}, {name: d, containerPort: 83}]";
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: all}}\nspec: {{selector: {{app: all}}, ports: {ports}}}\n---\n\
             apiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {{name: all, labels: {{app: all}}}}\nspec: {{ports: {own}}}\n---\n"
        );
        if !pool.is_empty() {
            text += &format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: all}}\n\
                 spec: {{host: all, trafficPolicy: {{connectionPool: {{http: {pool}}}}}}}\n---\n"
            );
        }
        if !settings.is_empty() {
            text += with(settings).strip_prefix(MESH).unwrap();
        }
        let world = build(1, objects(&text), None);
        let config = world::translator().0.translate(&world, &node(&world, "all as pillion"));
        let spoken = |prefix: &str| {
            [80, 81, 82, 83].map(|port| {
                let text = shown(&descriptors, &config, ResourceType::Cluster, &format!("{prefix}|{port}||"));
                assert!(!text.is_empty(), "{prefix}|{port}||");
                match () {
                    () if text.contains("use_downstream_protocol_config") => "client",
                    () if text.contains(r#""http2_protocol_options""#) => "2",
                    () if text.contains(r#""http_protocol_options""#) => "1",
                    () => "none",
                }
            })
        };
        assert_eq!((spoken("outbound"), spoken("inbound")), (outbound, inbound), "{settings} {pool}");
    }
}
