//! Cases of ServiceEntry. A host that nobody registered is looked up in the DNS, and its requests end as 503.

use crate::case::{Case, case};

fn entry(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: a}}, spec: {{location: MESH_INTERNAL, {spec}}}}}\n"
    )
}

const HERE: &str = "resolution: STATIC, endpoints: [{address: 127.0.0.1, ports: {http: $port-v1}}]";
const TWO: &str = "resolution: STATIC, endpoints: [{address: 127.0.0.1, ports: {http: $port-v1}, labels: {version: v1}, weight: 1}, \
                   {address: 127.0.0.1, ports: {http: $port-v2}, labels: {version: v2}, weight: 10000}]";

pub fn cases() -> Vec<Case> {
    vec![
        case("host and ports", entry(&format!("hosts: [s.invalid], ports: [{{number: 80, name: http, protocol: HTTP}}], {HERE}")))
            .fields(&[
                "spec.hosts = [t.invalid]",
                "spec.ports = [{number: 81, name: http, protocol: HTTP}]",
                "spec.ports[].number = 81",
                "spec.endpoints = [{address: 127.0.0.1, ports: {http: $port-v2}}]",
                "spec.endpoints[].address = 127.0.0.9",
                "spec.endpoints[].ports",
            ])
            .ask("GET http://s.invalid/")
            .sees("status by", "200 v1"),
        case(
            "addresses",
            entry(&format!("hosts: [s.invalid], addresses: [127.0.0.77], ports: [{{number: 80, name: http, protocol: HTTP}}], {HERE}")),
        )
        .fields(&["spec.addresses"])
        .ask("GET http://127.0.0.77/")
        .sees("status by", "200 v1"),
        case("protocol", entry(&format!("hosts: [s.invalid], ports: [{{number: 80, name: http, protocol: HTTP2}}], {HERE}")))
            .fields(&["spec.ports[].protocol = HTTP"])
            .ask("GET http://s.invalid/")
            .sees("by protocol", "v1 HTTP/2.0"),
        case(
            "name of a port",
            entry("hosts: [s.invalid], ports: [{number: 80, name: http2-web, targetPort: $port-v1}], resolution: STATIC, endpoints: [{address: 127.0.0.1}]"),
        )
        .fields(&["spec.ports[].name = http-web"])
        .ask("GET http://s.invalid/")
        .sees("by protocol", "v1 HTTP/2.0"),
        case(
            "targetPort",
            entry("hosts: [s.invalid], ports: [{number: 80, name: http, protocol: HTTP, targetPort: $port-v1}], resolution: STATIC, endpoints: [{address: 127.0.0.1}]"),
        )
        .fields(&["spec.ports[].targetPort"])
        .ask("GET http://s.invalid/")
        .sees("status by", "200 v1"),
        // What is outside the mesh is not told who calls.
        case(
            "location",
            entry(&format!("hosts: [s.invalid], ports: [{{number: 80, name: http, protocol: HTTP}}], {HERE}"))
                .replace("MESH_INTERNAL", "MESH_EXTERNAL"),
        )
        .fields(&["spec.location = MESH_INTERNAL"])
        .ask("GET http://s.invalid/")
        .sees("by seen:x-envoy-peer-metadata-id", "v1 -"),
        case("resolution", entry("hosts: [localhost], ports: [{number: 80, name: http, protocol: HTTP, targetPort: $port-v1}], resolution: DNS"))
            .fields(&["spec.resolution = NONE"])
            .ask("GET http://localhost/")
            .sees("status by", "200 v1"),
        case("weight", entry(&format!("hosts: [s.invalid], ports: [{{number: 80, name: http, protocol: HTTP}}], {TWO}")))
            .fields(&["spec.endpoints[].weight"])
            .ask("30% GET http://s.invalid/")
            .sees("by", "v2"),
        case(
            "labels",
            entry(&format!("hosts: [s.invalid], ports: [{{number: 80, name: http, protocol: HTTP}}], {TWO}"))
                + "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: s}
spec: {host: s.invalid, subsets: [{name: s, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: s}
spec: {hosts: [s.invalid], http: [{route: [{destination: {host: s.invalid, subset: s}}]}]}
",
        )
        .fields(&["spec.endpoints[].labels"])
        .ask("GET http://s.invalid/")
        .sees("status by", "200 v1"),
        case(
            "exportTo",
            entry(&format!("hosts: [s.invalid], exportTo: ['.'], ports: [{{number: 80, name: http, protocol: HTTP}}], {HERE}")),
        )
        .fields(&["spec.exportTo"])
        .ask("GET http://s.invalid/")
        .ask("other GET http://s.invalid/")
        .sees("by", "v1, -"),
        case(
            "workloadSelector",
            entry(
                "hosts: [s.invalid], ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], resolution: STATIC, \
                 workloadSelector: {labels: {app: w, version: v2}}",
            ),
        )
        .fields(&["spec.workloadSelector = {labels: {app: nobody}}", "spec.workloadSelector.labels = {app: w, version: v1}"])
        .ask("GET http://s.invalid/")
        .sees("status by", "200 v2"),
        case(
            "locality",
            entry(
                "hosts: [s.invalid], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, \
                 endpoints: [{address: 127.0.0.1, ports: {http: $port-v1}, locality: eu/a}]",
            ) + &near("eu"),
        )
        .fields(&["spec.endpoints[].locality"])
        .ask("GET http://s.invalid/")
        .sees("status by", "200 v1"),
    ]
}

/// Only endpoints of a region.
fn near(region: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: s}}
spec: {{host: s.invalid, subsets: [{{name: near, labels: {{topology.kubernetes.io/region: {region}}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s}}
spec: {{hosts: [s.invalid], http: [{{route: [{{destination: {{host: s.invalid, subset: near}}}}]}}]}}
"
    )
}

/// Entries that `s.invalid` selects.
fn selected(entries: &[&str]) -> String {
    let mut text = entry(
        "hosts: [s.invalid], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, workloadSelector: {labels: {app: vm}}",
    );
    for (number, spec) in entries.iter().enumerate() {
        text += &format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: vm-{number}}}, spec: {{{spec}}}}}\n"
        );
    }
    text
}

pub fn workload_entry() -> Vec<Case> {
    vec![
        case("endpoint", selected(&["address: 127.0.0.1, ports: {http: $port-v1}, labels: {app: vm}"]))
            .fields(&["spec.address = 127.0.0.9", "spec.ports", "spec.labels"])
            .ask("GET http://s.invalid/")
            .sees("status by", "200 v1"),
        case(
            "weight",
            selected(&[
                "address: 127.0.0.1, ports: {http: $port-v1}, labels: {app: vm}, weight: 10000",
                "address: 127.0.0.1, ports: {http: $port-v2}, labels: {app: vm}, weight: 1",
            ]),
        )
        .fields(&["spec.weight = 1"])
        .ask("30% GET http://s.invalid/")
        .sees("by", "v1"),
        case("locality", selected(&["address: 127.0.0.1, ports: {http: $port-v1}, labels: {app: vm}, locality: eu/a"]) + &near("eu"))
            .fields(&["spec.locality"])
            .ask("GET http://s.invalid/")
            .sees("status by", "200 v1"),
    ]
}
