//! Cases of DestinationRule. `heavy.example` goes to `v1` unless a subset says otherwise; `mute.example` never accepts a connection.

use crate::case::{Case, case};

fn rule(host: &str, spec: &str) -> String {
    format!("{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: a}}, spec: {{host: {host}, {spec}}}}}\n")
}

/// A VirtualService for the rule's host.
fn route(host: &str, http: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: a}}, spec: {{hosts: [{host}], http: [{{{http}}}]}}}}\n"
    )
}

fn to_subset(host: &str) -> String {
    route(host, &format!("route: [{{destination: {{host: {host}, subset: s}}}}]"))
}

/// Tries once, for less than the default of `connectTimeout`.
fn once(subset: &str) -> String {
    route(
        "mute.example",
        &format!("timeout: 600ms, retries: {{attempts: 0}}, route: [{{destination: {{host: mute.example, subset: '{subset}'}}}}]"),
    )
}

pub fn cases() -> Vec<Case> {
    vec![
        case("subsets", rule("heavy.example", "subsets: [{name: s, labels: {version: v2}}]") + &to_subset("heavy.example"))
            .fields(&["spec.host = pair.example", "spec.subsets", "spec.subsets[].name = t", "spec.subsets[].labels = {version: v1}"])
            .ask("GET http://heavy.example/")
            .sees("status by", "200 v2"),
        case(
            "exportTo",
            rule("heavy.example", "exportTo: ['.'], subsets: [{name: s, labels: {version: v2}}]") + &to_subset("heavy.example"),
        )
        .fields(&["spec.exportTo"])
        .ask("GET http://heavy.example/")
        .ask("other GET http://heavy.example/")
        .sees("status by", "200 v2, 503 -"),
        case("loadBalancer", rule("pair.example", "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"))
            .fields(&["spec.trafficPolicy", "spec.trafficPolicy.loadBalancer = {simple: RANDOM}", "spec.trafficPolicy.loadBalancer.simple"])
            .ask("24~ GET http://pair.example/")
            .sees("by", "in turns"),
        case(
            "loadBalancer of a subset",
            rule("pair.example", "subsets: [{name: s, labels: {tier: all}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]")
                + &to_subset("pair.example"),
        )
        .fields(&[
            "spec.subsets[].trafficPolicy",
            "spec.subsets[].trafficPolicy.loadBalancer = {simple: RANDOM}",
            "spec.subsets[].trafficPolicy.loadBalancer.simple",
        ])
        .ask("24~ GET http://pair.example/")
        .sees("by", "in turns"),
        case("connectTimeout", rule("mute.example", "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 50ms}}}") + &once(""))
            .fields(&[
                "spec.trafficPolicy",
                "spec.trafficPolicy.connectionPool = {tcp: {connectTimeout: 5s}}",
                "spec.trafficPolicy.connectionPool.tcp = {connectTimeout: 5s}",
                "spec.trafficPolicy.connectionPool.tcp.connectTimeout = 5s",
            ])
            .ask("GET http://mute.example/")
            .sees("status", "503"),
        case(
            "connectTimeout of a subset",
            rule(
                "mute.example",
                "subsets: [{name: s, labels: {tier: all}, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 50ms}}}}]",
            ) + &once("s"),
        )
        .fields(&[
            "spec.subsets[].trafficPolicy",
            "spec.subsets[].trafficPolicy.connectionPool = {tcp: {connectTimeout: 5s}}",
            "spec.subsets[].trafficPolicy.connectionPool.tcp = {connectTimeout: 5s}",
            "spec.subsets[].trafficPolicy.connectionPool.tcp.connectTimeout = 5s",
        ])
        .ask("GET http://mute.example/")
        .sees("status", "503"),
        case("h2UpgradePolicy", rule("v1.example", "trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}"))
            .fields(&[
                "spec.trafficPolicy.connectionPool.http = {useClientProtocol: false}",
                "spec.trafficPolicy.connectionPool.http.h2UpgradePolicy = DO_NOT_UPGRADE",
            ])
            .ask("GET http://v1.example/")
            .sees("by protocol", "v1 HTTP/2.0"),
        case(
            "useClientProtocol",
            rule("v1.example", "trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}"),
        )
        .fields(&["spec.trafficPolicy.connectionPool.http.useClientProtocol = false"])
        .ask("GET http://v1.example/")
        .sees("by protocol", "v1 HTTP/1.1"),
        case(
            "h2UpgradePolicy of a subset",
            rule(
                "heavy.example",
                "subsets: [{name: s, labels: {version: v2}, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}}]",
            ) + &to_subset("heavy.example"),
        )
        .fields(&[
            "spec.subsets[].trafficPolicy.connectionPool.http = {useClientProtocol: false}",
            "spec.subsets[].trafficPolicy.connectionPool.http.h2UpgradePolicy = DO_NOT_UPGRADE",
        ])
        .ask("GET http://heavy.example/")
        .sees("by protocol", "v2 HTTP/2.0"),
        case(
            "useClientProtocol of a subset",
            rule(
                "heavy.example",
                "subsets: [{name: s, labels: {version: v2}, \
                 trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}}]",
            ) + &to_subset("heavy.example"),
        )
        .fields(&["spec.subsets[].trafficPolicy.connectionPool.http.useClientProtocol = false"])
        .ask("GET http://heavy.example/")
        .sees("by protocol", "v2 HTTP/1.1"),
    ]
}
