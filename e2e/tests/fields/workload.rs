//! Cases of Workload and Deployment. A probe is asked of a backend in this process, which does what the probe's path and headers say.

use crate::case::{Case, case};

/// A Workload whose program runs elsewhere, and the Service `s` in front of it.
fn probed(probe: &str) -> String {
    external(&format!("readinessProbe: {{{probe}}}"))
}

fn external(more: &str) -> String {
    format!(
        "{{apiVersion: pillion.io/v1alpha1, kind: Workload, metadata: {{name: x, labels: {{app: x}}}}, \
         spec: {{ports: [{{name: http, containerPort: 8080, localPort: $port}}], {more}}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{selector: {{app: x}}, ports: [{{name: http, port: 80, targetPort: http}}]}}}}
"
    )
}

pub fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "program",
            "{apiVersion: pillion.io/v1alpha1, kind: Workload, metadata: {name: x}, spec: {serviceAccount: anna, \
             command: [python3, -c, $script, first], ports: [{name: web, containerPort: 8080}], env: [{name: COLOR, value: blue}]}}",
        )
        .fields(&[
            "spec.serviceAccount",
            "spec.command = [python3, -c, $script, second]",
            "spec.ports = [{name: web, containerPort: 8081}]",
            "spec.ports[].name",
            "spec.ports[].containerPort = 8081",
            "spec.env",
            "spec.env[].name = HUE",
            "spec.env[].value = red",
        ])
        .sees("account argument ports env:COLOR", "anna first web:8080 blue"),
        case(
            "replicas",
            "{apiVersion: pillion.io/v1alpha1, kind: Workload, metadata: {name: x}, spec: {replicas: 2, \
             command: [python3, -c, $script], ports: [{name: web, containerPort: 8080}]}}",
        )
        .fields(&["spec.replicas"])
        .sees("replicas", "2"),
        case(
            "deployment",
            external("deployment: d")
                + "---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {template: {spec: {serviceAccountName: anna}}}}
",
        )
        .fields(&["spec.deployment"])
        .sees("account", "anna"),
        case(
            "gateway",
            "{apiVersion: pillion.io/v1alpha1, kind: Workload, metadata: {name: x, labels: {app: gateway}}, spec: {gateway: true}}
---
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g}, spec: {selector: {app: gateway}, \
             servers: [{port: {number: $free-1, name: http, protocol: HTTP}, hosts: ['*']}]}}
",
        )
        .fields(&["spec.gateway"])
        .sees("gateway", "yes"),
        case("proxy", external("proxy: {outboundPort: $free-1, inboundPort: $free-2}"))
            .fields(&["spec.proxy", "spec.proxy.outboundPort", "spec.proxy.inboundPort"])
            .sees("outbound inbound", "fixed fixed"),
        case("localPort", external("replicas: 1")).fields(&["spec.ports[].localPort"]).sees("local", "fixed"),
    ];
    all.extend(probes());
    all
}

fn probes() -> Vec<Case> {
    vec![
        case("httpGet", probed("httpGet: {path: /bad, port: http}"))
            .fields(&["spec.readinessProbe", "spec.readinessProbe.httpGet = {path: /good, port: http}", "spec.readinessProbe.httpGet.path"])
            .sees("answer", "503"),
        case("port of httpGet", probed("httpGet: {port: http}")).fields(&["spec.readinessProbe.httpGet.port = 1"]).sees("answer", "200"),
        case("scheme", probed("httpGet: {path: /bad, port: http, scheme: HTTPS}"))
            .fields(&["spec.readinessProbe.httpGet.scheme"])
            .sees("answer", "200"),
        case("httpHeaders", probed("httpGet: {port: http, httpHeaders: [{name: do-fail, value: '503'}]}"))
            .fields(&[
                "spec.readinessProbe.httpGet.httpHeaders",
                "spec.readinessProbe.httpGet.httpHeaders[].name = x-other",
                "spec.readinessProbe.httpGet.httpHeaders[].value = '204'",
            ])
            .sees("answer", "503"),
        case("tcpSocket", probed("tcpSocket: {port: 1}"))
            .fields(&["spec.readinessProbe.tcpSocket = {port: http}", "spec.readinessProbe.tcpSocket.port = http"])
            .sees("answer", "503"),
        case("grpc", probed("grpc: {port: $port, service: down}"))
            .fields(&["spec.readinessProbe.grpc = {port: $port}", "spec.readinessProbe.grpc.service"])
            .sees("answer", "503"),
        case("port of grpc", probed("grpc: {port: $port}")).fields(&["spec.readinessProbe.grpc.port = 1"]).sees("answer", "200"),
        case("exec", probed("exec: {command: ['false']}"))
            .fields(&["spec.readinessProbe.exec = {command: ['true']}", "spec.readinessProbe.exec.command = ['true']"])
            .sees("answer", "503"),
        case("timeoutSeconds", probed("httpGet: {path: /slow, port: http}, timeoutSeconds: 4"))
            .fields(&["spec.readinessProbe.timeoutSeconds"])
            .sees("answer", "200"),
        // Never twice in a row.
        case("successThreshold", probed("httpGet: {path: /alternate, port: http}, successThreshold: 2, periodSeconds: 1"))
            .fields(&["spec.readinessProbe.successThreshold"])
            .sees("answer", "503"),
        // Good once, then bad.
        case("failureThreshold", probed("httpGet: {path: /once, port: http}, failureThreshold: 100, periodSeconds: 1"))
            .fields(&["spec.readinessProbe.failureThreshold"])
            .sees("answer", "200"),
        case("periodSeconds", probed("httpGet: {path: /once, port: http}, failureThreshold: 1, periodSeconds: 1"))
            .fields(&["spec.readinessProbe.periodSeconds = 600"])
            .sees("answer", "503"),
    ]
}

/// A Deployment and the Workload that takes everything from it; what is done with that is the business of the Workload's cases.
fn deployed(pod: &str, more: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d}}, spec: {{template: {{metadata: {{labels: {{app: x}}}}, spec: {{{pod}}}}}, {more}}}}}
---
{{apiVersion: pillion.io/v1alpha1, kind: Workload, metadata: {{name: x}}, spec: {{deployment: d, command: ['true']}}}}
"
    )
}

fn with_probe(probe: &str) -> String {
    deployed(&format!("containers: [{{readinessProbe: {{{probe}}}}}]"), "replicas: 1")
}

pub fn deployment() -> Vec<Case> {
    vec![
        case("template", deployed("serviceAccountName: anna", "replicas: 2"))
            .fields(&[
                "spec.replicas",
                "spec.template = {}",
                "spec.template.metadata",
                "spec.template.metadata.labels",
                "spec.template.spec",
                "spec.template.spec.serviceAccountName",
            ])
            .resolves("replicas labels account", "2 app=x anna"),
        case("serviceAccount", deployed("serviceAccount: anna", "replicas: 1"))
            .fields(&["spec.template.spec.serviceAccount"])
            .resolves("account", "anna"),
        case("selector", deployed("", "selector: {matchLabels: {app: other}}"))
            .fields(&["spec.selector", "spec.selector.matchLabels"])
            .finds("PLN1902"),
        case(
            "containers",
            deployed("containers: [{ports: [{name: web, containerPort: 8080}], env: [{name: COLOR, value: blue}]}]", "replicas: 1"),
        )
        .fields(&[
            "spec.template.spec.containers",
            "spec.template.spec.containers[].ports",
            "spec.template.spec.containers[].ports[].name",
            "spec.template.spec.containers[].ports[].containerPort = 8081",
            "spec.template.spec.containers[].env",
            "spec.template.spec.containers[].env[].name = HUE",
            "spec.template.spec.containers[].env[].value = red",
        ])
        .resolves("ports env", "web:8080 COLOR=blue"),
        case("protocol", deployed("containers: [{ports: [{name: web, containerPort: 8080, protocol: UDP}]}]", "replicas: 1"))
            .fields(&["spec.template.spec.containers[].ports[].protocol"])
            .resolves("ports", ""),
        case("httpGet", with_probe("httpGet: {path: /p, port: 8080, scheme: HTTPS, httpHeaders: [{name: a, value: b}]}"))
            .fields(&[
                "spec.template.spec.containers[].readinessProbe",
                "spec.template.spec.containers[].readinessProbe.httpGet = {port: 8080}",
                "spec.template.spec.containers[].readinessProbe.httpGet.path",
                "spec.template.spec.containers[].readinessProbe.httpGet.port = 8081",
                "spec.template.spec.containers[].readinessProbe.httpGet.scheme",
                "spec.template.spec.containers[].readinessProbe.httpGet.httpHeaders",
                "spec.template.spec.containers[].readinessProbe.httpGet.httpHeaders[].name = c",
                "spec.template.spec.containers[].readinessProbe.httpGet.httpHeaders[].value = c",
            ])
            .resolves("probe", "HTTPS /p Int(8080) a=b, every 10s, 1s, 1 good, 3 bad"),
        case(
            "tcpSocket",
            with_probe("tcpSocket: {port: 8080}, periodSeconds: 5, timeoutSeconds: 2, successThreshold: 2, failureThreshold: 4"),
        )
        .fields(&[
            "spec.template.spec.containers[].readinessProbe.tcpSocket = {port: 8081}",
            "spec.template.spec.containers[].readinessProbe.tcpSocket.port = 8081",
            "spec.template.spec.containers[].readinessProbe.periodSeconds",
            "spec.template.spec.containers[].readinessProbe.timeoutSeconds",
            "spec.template.spec.containers[].readinessProbe.successThreshold",
            "spec.template.spec.containers[].readinessProbe.failureThreshold",
        ])
        .resolves("probe", "tcp Int(8080), every 5s, 2s, 2 good, 4 bad"),
        case("grpc", with_probe("grpc: {port: 8080, service: s}"))
            .fields(&[
                "spec.template.spec.containers[].readinessProbe.grpc = {port: 8080}",
                "spec.template.spec.containers[].readinessProbe.grpc.port = 8081",
                "spec.template.spec.containers[].readinessProbe.grpc.service",
            ])
            .resolves("probe", "grpc 8080 s, every 10s, 1s, 1 good, 3 bad"),
        case("exec", with_probe("exec: {command: [a, b]}"))
            .fields(&[
                "spec.template.spec.containers[].readinessProbe.exec = {command: [c]}",
                "spec.template.spec.containers[].readinessProbe.exec.command = [c]",
            ])
            .resolves("probe", "exec a b, every 10s, 1s, 1 good, 3 bad"),
    ]
}
