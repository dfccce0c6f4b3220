//! Cases of Gateway: one more listener of the stage's gateway.

use crate::case::{Case, case};

fn gateway(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: a}}, spec: {{{spec}}}}}
---
{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: a}}, spec: {{hosts: [g.example], gateways: [a], http: [{{$v2}}]}}}}
"
    )
}

const SERVER: &str = "{port: {number: 18081, name: web, protocol: HTTP}, hosts: [g.example]}";
const OTHER: &str = "{port: {number: 18082, name: other, protocol: HTTP}, hosts: [g.example]}";

pub fn cases() -> Vec<Case> {
    vec![
        case("servers", gateway(&format!("selector: {{istio: gateway}}, servers: [{SERVER}]")))
            .fields(&[
                "spec.selector = {istio: elsewhere}",
                "spec.servers[].hosts = [h.example]",
                "spec.servers[].port.number = 18082",
                "spec.servers[].port.protocol = TCP",
                "spec.servers[].port = {number: 18082, name: web, protocol: HTTP}",
                "spec.servers = [{port: {number: 18082, name: web, protocol: HTTP}, hosts: [g.example]}]",
            ])
            .ask("gw:18081 GET http://g.example/")
            .sees("status by", "200 v2"),
        case(
            "bind",
            gateway(&format!("selector: {{istio: gateway}}, servers: [{SERVER}]"))
                .replace("hosts: [g.example]}]", "bind: 127.0.0.5, hosts: [g.example]}]"),
        )
        .fields(&["spec.servers[].bind"])
        .ask("gw:18081 GET http://g.example/")
        .sees("listener", "127.0.0.5_18081"),
        // A name does no more than name; two of one are an error.
        case("names of ports", gateway(&format!("selector: {{istio: gateway}}, servers: [{SERVER}, {OTHER}]")))
            .fields(&["spec.servers[].port.name = same"])
            .finds("none"),
    ]
}
