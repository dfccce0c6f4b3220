//! Cases of Service and ConfigMap, in front of the Workloads `w1` and `w2`.

use crate::case::{Case, case};

fn service(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{{spec}}}}}\n")
}

const V2: &str = "selector: {app: w, version: v2}";

pub fn cases() -> Vec<Case> {
    vec![
        case("selector and ports", service(&format!("{V2}, ports: [{{name: http, port: 80, targetPort: http, protocol: TCP}}]")))
            .fields(&[
                "spec.selector = {app: w, version: v1}",
                "spec.ports = [{name: http, port: 81, targetPort: http}]",
                "spec.ports[].port = 81",
                "spec.ports[].targetPort",
                "spec.ports[].protocol = UDP",
            ])
            .ask("GET http://s/")
            .sees("status by", "200 v2"),
        case("name of a port", service(&format!("{V2}, ports: [{{name: http2-web, port: 80, targetPort: http}}]")))
            .fields(&["spec.ports[].name = http-web"])
            .ask("GET http://s/")
            .sees("by protocol", "v2 HTTP/2.0"),
        case("appProtocol", service(&format!("{V2}, ports: [{{name: http-web, port: 80, targetPort: http, appProtocol: http2}}]")))
            .fields(&["spec.ports[].appProtocol"])
            .ask("GET http://s/")
            .sees("by protocol", "v2 HTTP/2.0"),
        case("clusterIP", service(&format!("{V2}, clusterIP: 127.0.0.77, ports: [{{name: http, port: 80, targetPort: http}}]")))
            .fields(&["spec.clusterIP"])
            .ask("GET http://127.0.0.77/")
            .sees("status by", "200 v2"),
        case("clusterIPs", service(&format!("{V2}, clusterIPs: [127.0.0.77], ports: [{{name: http, port: 80, targetPort: http}}]")))
            .fields(&["spec.clusterIPs"])
            .ask("GET http://127.0.0.77/")
            .sees("status by", "200 v2"),
        // Without it the selector counts.
        case(
            "type",
            service(&format!(
                "type: ExternalName, externalName: nobody.invalid, {V2}, ports: [{{name: http, port: 80, targetPort: 8080}}]"
            )),
        )
        .fields(&["spec.type"])
        .ask("GET http://s/")
        .sees("status by", "503 -"),
        case("externalName", service("type: ExternalName, externalName: localhost, ports: [{name: http, port: 80, targetPort: $port-v1}]"))
            .fields(&["spec.externalName = nobody.invalid"])
            .ask("GET http://s/")
            .sees("status by", "200 v1"),
    ]
}

pub fn config_map() -> Vec<Case> {
    vec![
        case(
            "data",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}}",
        )
        .fields(&["data"])
        .ask("GET http://127.0.0.1:1/")
        .sees("status", "502"),
    ]
}
