//! Cases of Sidecar. What is hidden is looked up in the DNS under `ALLOW_ANY`, and its requests end as 503.

use crate::case::{Case, case};

fn sidecar(spec: &str) -> String {
    format!("{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: a}}, spec: {{{spec}}}}}\n")
}

/// A way in of `w1`, with the service that leads there.
fn ingress(spec: &str) -> String {
    sidecar(&format!("workloadSelector: {{labels: {{app: w}}}}, ingress: [{{{spec}}}]"))
        + "---
{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {selector: {app: w, version: v1}, ports: [{name: http, port: 80, targetPort: 8080}]}}
"
}

pub fn cases() -> Vec<Case> {
    vec![
        case("egress", sidecar("egress: [{hosts: ['./v1.example']}]"))
            .fields(&["spec.egress", "spec.egress[].hosts = ['./v2.example']"])
            .ask("GET http://v1.example/")
            .ask("GET http://v2.example/")
            .sees("by", "v1, -"),
        case("workloadSelector", sidecar("workloadSelector: {labels: {app: w}}, egress: [{hosts: ['./v2.example']}]"))
            .fields(&["spec.workloadSelector", "spec.workloadSelector.labels = {app: client}"])
            .ask("GET http://v1.example/")
            .sees("by", "v1"),
        case(
            "port of an egress listener",
            sidecar("egress: [{port: {number: 81, protocol: HTTP, name: a}, hosts: ['./v2.example']}, {hosts: ['./v1.example']}]"),
        )
        .fields(&[
            "spec.egress[].port = {number: 82, protocol: HTTP, name: a}",
            "spec.egress[].port.number = 82",
            "spec.egress[].port.protocol = TCP",
        ])
        .ask("GET http://v1.example:81/")
        .ask("GET http://v2.example:81/")
        .sees("by", "-, v3"),
        case("outboundTrafficPolicy", sidecar("outboundTrafficPolicy: {mode: REGISTRY_ONLY}"))
            .fields(&["spec.outboundTrafficPolicy", "spec.outboundTrafficPolicy.mode = ALLOW_ANY"])
            .ask("GET http://127.0.0.1:1/")
            .sees("status", "502"),
        // What comes in as HTTP is told nothing of the proxy it came from.
        case("ingress", ingress("port: {number: 8080, protocol: HTTP, name: a}, defaultEndpoint: '127.0.0.1:$port-v3'"))
            .fields(&[
                "spec.ingress",
                "spec.ingress[].port = {number: 8081, protocol: HTTP, name: a}",
                "spec.ingress[].port.number = 8081",
                "spec.ingress[].port.protocol = TCP",
                "spec.ingress[].defaultEndpoint",
            ])
            .ask("GET http://s/")
            .sees("status by seen:x-envoy-peer-metadata-id", "200 v3 -"),
    ]
}
