//! Cases of VirtualService: `v1.example`, which without one is answered by `v1`.

use crate::case::{Case, case};

/// A VirtualService of `v1.example` with this `spec`.
fn vs(spec: &str) -> String {
    format!("{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: a}}, spec: {{hosts: [v1.example], {spec}}}}}")
}

/// With subsets `v1` and `v2` of `heavy.example`, which sends nearly everything to `v1`.
fn vs_with_subsets(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: heavy}}
spec: {{host: heavy.example, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
---
{}",
        vs(spec)
    )
}

/// One rule after which everything goes to `v1`.
fn matching(condition: &str) -> String {
    vs(&format!("http: [{{match: [{{{condition}}}], $v2}}, {{$v1}}]"))
}

fn logged(spec: &str) -> String {
    format!("accessLogFile: $log\naccessLogEncoding: JSON\n---\n{}", vs(spec))
}

pub fn cases() -> Vec<Case> {
    let mut all = top();
    all.extend(matches());
    all.extend(routes());
    all.extend(answers());
    all.extend(resilience());
    all.extend(mirrors());
    all.extend(cors());
    all
}

fn top() -> Vec<Case> {
    vec![
        case("hosts", vs("http: [{$v2}]"))
            .fields(&["spec.hosts = [v3.example]", "spec.http = [{route: [{destination: {host: v3.example}}]}]"])
            .ask("GET http://v1.example/")
            .sees("by", "v2"),
        case("gateways", vs("gateways: [public], http: [{$v2}]"))
            .fields(&["spec.gateways"])
            .ask("GET http://v1.example/")
            .ask("gw:18080 GET http://v1.example/")
            .sees("status by", "200 v1, 200 v2"),
        case("exportTo", vs("exportTo: ['.'], http: [{$v2}]"))
            .fields(&["spec.exportTo"])
            .ask("GET http://v1.example/")
            .ask("other GET http://v1.example/")
            .sees("by", "v2, v1"),
        case("name of a rule", logged("http: [{name: rule, $v1}]"))
            .fields(&["spec.http[].name"])
            .ask("GET http://v1.example/")
            .sees("log:route_name", "rule"),
        case("name of a match", logged("http: [{name: rule, match: [{name: entry, uri: {prefix: /}}], $v1}]"))
            .fields(&["spec.http[].match[].name"])
            .ask("GET http://v1.example/")
            .sees("log:route_name", "rule.entry"),
        case(
            "delegate",
            vs("http: [{delegate: {name: d, namespace: other}}]")
                + "
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: d, namespace: other}, spec: {http: [{$v2}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: e, namespace: other}, spec: {http: [{$v3}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: d}, spec: {http: [{$v3}]}}
",
        )
        .fields(&["spec.http[].delegate = {name: e, namespace: other}", "spec.http[].delegate.name = e", "spec.http[].delegate.namespace"])
        .ask("GET http://v1.example/")
        .sees("by", "v2"),
    ]
}

fn matches() -> Vec<Case> {
    vec![
        case("match", matching("uri: {exact: /a}"))
            .fields(&["spec.http[].match", "spec.http[].match[].uri"])
            .ask("GET http://v1.example/a")
            .ask("GET http://v1.example/b")
            .sees("by", "v2, v1"),
        case("uri, prefix", matching("uri: {prefix: /a}"))
            .fields(&["spec.http[].match[].uri"])
            .ask("GET http://v1.example/ab")
            .ask("GET http://v1.example/b")
            .sees("by", "v2, v1"),
        case("uri, regex", matching("uri: {regex: '/a[0-9]+'}"))
            .fields(&["spec.http[].match[].uri"])
            .ask("GET http://v1.example/a12")
            .ask("GET http://v1.example/ab")
            .sees("by", "v2, v1"),
        case("scheme", matching("scheme: {exact: https}"))
            .fields(&["spec.http[].match[].scheme"])
            .ask("GET http://v1.example/")
            .sees("by", "v1"),
        case("method", matching("method: {exact: PUT}"))
            .fields(&["spec.http[].match[].method"])
            .ask("PUT http://v1.example/")
            .ask("GET http://v1.example/")
            .sees("by", "v2, v1"),
        case("authority", matching("authority: {exact: 'v1.example:80'}"))
            .fields(&["spec.http[].match[].authority"])
            .ask("GET http://v1.example:80/")
            .ask("GET http://v1.example/")
            .sees("by", "v2, v1"),
        case("headers", matching("headers: {x-user: {exact: tester}}"))
            .fields(&["spec.http[].match[].headers"])
            .ask("GET http://v1.example/ x-user=tester")
            .ask("GET http://v1.example/ x-user=nobody")
            .sees("by", "v2, v1"),
        case("withoutHeaders", matching("withoutHeaders: {x-user: {exact: tester}}"))
            .fields(&["spec.http[].match[].withoutHeaders"])
            .ask("GET http://v1.example/ x-user=nobody")
            .ask("GET http://v1.example/ x-user=tester")
            .sees("by", "v2, v1"),
        case("queryParams", matching("queryParams: {q: {exact: a}}"))
            .fields(&["spec.http[].match[].queryParams"])
            .ask("GET http://v1.example/?q=a")
            .ask("GET http://v1.example/?q=b")
            .sees("by", "v2, v1"),
        case("ignoreUriCase", matching("uri: {exact: /Big}, ignoreUriCase: true"))
            .fields(&["spec.http[].match[].ignoreUriCase"])
            .ask("GET http://v1.example/bIG")
            .sees("by", "v2"),
        case("port", matching("port: 81")).fields(&["spec.http[].match[].port"]).ask("GET http://v1.example/").sees("by", "v1"),
        case("sourceLabels", matching("sourceLabels: {app: other}"))
            .fields(&["spec.http[].match[].sourceLabels"])
            .ask("other GET http://v1.example/")
            .ask("GET http://v1.example/")
            .sees("by", "v2, v1"),
        case("sourceNamespace", matching("sourceNamespace: other"))
            .fields(&["spec.http[].match[].sourceNamespace"])
            .ask("other GET http://v1.example/")
            .ask("GET http://v1.example/")
            .sees("by", "v2, v1"),
        case("gateways of a match", vs("gateways: [mesh, public], http: [{match: [{gateways: [public]}], $v2}, {$v1}]"))
            .fields(&["spec.http[].match[].gateways"])
            .ask("gw:18080 GET http://v1.example/")
            .ask("GET http://v1.example/")
            .sees("by", "v2, v1"),
    ]
}

/// What [`CHANGED`] observes.
const HEADERS: &str = "headers: {request: {set: {x-a: set}, add: {x-b: added}, remove: [x-c]}, \
                       response: {set: {x-one: set}, add: {x-new: added}, remove: [x-two]}}";
const CHANGED: &str = "seen:x-a seen:x-b seen:x-c header:x-one header:x-new header:x-two";

fn routes() -> Vec<Case> {
    vec![
        case("route", vs_with_subsets("http: [{route: [{destination: {host: heavy.example, subset: v2}}]}]"))
            .fields(&[
                "spec.http[].route = [{destination: {host: v3.example}}]",
                "spec.http[].route[].destination = {host: v3.example}",
                "spec.http[].route[].destination.host = v3.example",
                "spec.http[].route[].destination.subset",
            ])
            .ask("GET http://v1.example/")
            .sees("by", "v2"),
        case("port of a destination", vs("http: [{route: [{destination: {host: v1.example, port: {number: 81}}}]}]"))
            .fields(&["spec.http[].route[].destination.port", "spec.http[].route[].destination.port.number = 80"])
            .ask("GET http://v1.example/")
            .sees("by", "v3"),
        case(
            "weight",
            vs("http: [{route: [{destination: {host: v1.example}, weight: 0}, {destination: {host: v2.example}, weight: 100}]}]"),
        )
        .fields(&["spec.http[].route[].weight = 1"])
        .ask("30x GET http://v1.example/")
        .sees("by", "v2"),
        case("headers of a destination", vs(&format!("http: [{{route: [{{destination: {{host: v1.example}}, {HEADERS}}}]}}]")))
            .fields(&[
                "spec.http[].route[].headers",
                "spec.http[].route[].headers.request",
                "spec.http[].route[].headers.request.set",
                "spec.http[].route[].headers.request.add",
                "spec.http[].route[].headers.request.remove",
                "spec.http[].route[].headers.response",
                "spec.http[].route[].headers.response.set",
                "spec.http[].route[].headers.response.add",
                "spec.http[].route[].headers.response.remove",
            ])
            .ask("GET http://v1.example/ x-a=client x-b=client x-c=client")
            .sees(CHANGED, "set client,added - set added -"),
        case("headers of a rule", vs(&format!("http: [{{$v1, {HEADERS}}}]")))
            .fields(&[
                "spec.http[].headers",
                "spec.http[].headers.request",
                "spec.http[].headers.request.set",
                "spec.http[].headers.request.add",
                "spec.http[].headers.request.remove",
                "spec.http[].headers.response",
                "spec.http[].headers.response.set",
                "spec.http[].headers.response.add",
                "spec.http[].headers.response.remove",
            ])
            .ask("GET http://v1.example/ x-a=client x-b=client x-c=client")
            .sees(CHANGED, "set client,added - set added -"),
        case("rewrite", vs("http: [{match: [{uri: {prefix: /p}}], rewrite: {uri: /r, authority: h.example}, $v1}]"))
            .fields(&["spec.http[].rewrite", "spec.http[].rewrite.uri", "spec.http[].rewrite.authority"])
            .ask("GET http://v1.example/p/x")
            .sees("target host", "/r/x h.example"),
        case(
            "uriRegexRewrite",
            vs(r"http: [{rewrite: {authority: h.example, uriRegexRewrite: {match: '^/(\w+)/(\w+)$', rewrite: '/\2/\1'}}, $v1}]"),
        )
        .fields(&[
            "spec.http[].rewrite.uriRegexRewrite",
            "spec.http[].rewrite.uriRegexRewrite.match = '^/(a)(b)$'",
            r"spec.http[].rewrite.uriRegexRewrite.rewrite = '/\1/\2'",
        ])
        .ask("GET http://v1.example/a/b")
        .sees("target", "/b/a"),
    ]
}

fn answers() -> Vec<Case> {
    vec![
        case("redirect", vs("http: [{redirect: {uri: /u, authority: a.example, port: 8443, scheme: https, redirectCode: 307}}]"))
            .fields(&[
                "spec.http[].redirect = {uri: /u}",
                "spec.http[].redirect.uri",
                "spec.http[].redirect.authority",
                "spec.http[].redirect.port",
                "spec.http[].redirect.scheme",
                "spec.http[].redirect.redirectCode",
            ])
            .ask("GET http://v1.example/x")
            .sees("status header:location", "307 https://a.example:8443/u"),
        case("derivePort", vs("http: [{redirect: {authority: a.example, derivePort: FROM_REQUEST_PORT}}]"))
            .fields(&["spec.http[].redirect.derivePort"])
            .ask("GET http://v1.example:81/x")
            .sees("header:location", "http://a.example:81/x"),
        case("prefixRewrite", vs("http: [{match: [{uri: {prefix: /p}}], redirect: {authority: a.example, prefixRewrite: /q}}]"))
            .fields(&["spec.http[].redirect.prefixRewrite"])
            .ask("GET http://v1.example/p/x")
            .sees("header:location", "http://a.example/q/x"),
        case("directResponse", vs("http: [{directResponse: {status: 418, body: {string: tea}}}]"))
            .fields(&[
                "spec.http[].directResponse = {status: 200}",
                "spec.http[].directResponse.status = 419",
                "spec.http[].directResponse.body",
                "spec.http[].directResponse.body.string = coffee",
            ])
            .ask("GET http://v1.example/")
            .sees("status body", "418 tea"),
        case("bytes of a directResponse", vs("http: [{directResponse: {status: 418, body: {bytes: dGVh}}}]"))
            .fields(&["spec.http[].directResponse.body.bytes = Y29mZmVl"])
            .ask("GET http://v1.example/")
            .sees("status body", "418 tea"),
        case("abort", vs("http: [{fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, $v1}]"))
            .fields(&[
                "spec.http[].fault",
                "spec.http[].fault.abort = {httpStatus: 419, percentage: {value: 100}}",
                "spec.http[].fault.abort.httpStatus = 419",
                "spec.http[].fault.abort.percentage",
                "spec.http[].fault.abort.percentage.value = 0",
            ])
            .ask("GET http://v1.example/")
            .sees("status by", "418 -"),
        case("grpcStatus", vs("http: [{fault: {abort: {grpcStatus: NOT_FOUND, percentage: {value: 100}}}, $v1}]"))
            .fields(&["spec.http[].fault.abort.grpcStatus = UNAVAILABLE"])
            .ask("POST http://v1.example/s/m content-type=application/grpc")
            .sees("status header:grpc-status by", "200 5 -"),
        case("delay", vs("http: [{fault: {delay: {fixedDelay: 250ms, percentage: {value: 100}}}, $v1}]"))
            .fields(&[
                "spec.http[].fault.delay = {fixedDelay: 1ms}",
                "spec.http[].fault.delay.fixedDelay = 1ms",
                "spec.http[].fault.delay.percentage",
                "spec.http[].fault.delay.percentage.value = 0",
            ])
            .ask("GET http://v1.example/")
            .sees("status over:200", "200 slow"),
        case("percent of a delay", vs("http: [{fault: {delay: {fixedDelay: 250ms, percent: 100}}, $v1}]"))
            .fields(&["spec.http[].fault.delay.percent = 0"])
            .ask("GET http://v1.example/")
            .sees("status over:200", "200 slow"),
    ]
}

fn resilience() -> Vec<Case> {
    vec![
        case("timeout", vs("http: [{timeout: 100ms, $v1}]"))
            .fields(&["spec.http[].timeout"])
            .ask("GET http://v1.example/ do-wait=300")
            .sees("status", "504"),
        case("retries", vs("http: [{retries: {attempts: 1, retryOn: 5xx}, $v1}]"))
            .fields(&["spec.http[].retries", "spec.http[].retries.attempts = 3", "spec.http[].retries.retryOn"])
            .ask("GET http://v1.example/ do-fail=500")
            .sees("status tries", "500 2"),
        case("perTryTimeout", vs("http: [{retries: {attempts: 1, perTryTimeout: 100ms, retryOn: 5xx}, $v1}]"))
            .fields(&["spec.http[].retries.perTryTimeout"])
            .ask("GET http://v1.example/ do-wait=400 do-until=2")
            .sees("status tries", "200 2"),
        // With Envoy's 25 ms, twelve retries take 1.3 s on the average, and 0.4 s one time in 100,000.
        case("backoff", vs("http: [{retries: {attempts: 12, retryOn: 5xx, backoff: 1ms}, $v1}]"))
            .fields(&["spec.http[].retries.backoff"])
            .ask("GET http://v1.example/ do-fail=500")
            .sees("tries over:400", "13 quick"),
        // A retry that may go where the first try went fails half of the time, so a quarter of all fails; else one in 128.
        case(
            "retryIgnorePreviousHosts",
            "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pair}
spec: {host: pair.example, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
---
"
            .to_owned()
                + &vs("http: [{retries: {attempts: 1, retryOn: 5xx, retryIgnorePreviousHosts: false, backoff: 1ms}, route: [{destination: {host: pair.example}}]}]"),
        )
        .fields(&["spec.http[].retries.retryIgnorePreviousHosts"])
        .ask("200% GET http://v1.example/ do-at=v1 do-fail=500")
        .sees("status", "200+500"),
    ]
}

fn mirrors() -> Vec<Case> {
    vec![
        case("mirror", vs("http: [{$v2, mirror: {host: v1.example, port: {number: 81}}}]"))
            .fields(&[
                "spec.http[].mirror",
                "spec.http[].mirror.host = nowhere.example",
                "spec.http[].mirror.port",
                "spec.http[].mirror.port.number = 80",
            ])
            .ask("GET http://v1.example/")
            .sees("by at:v3", "v2 1"),
        case("subset of a mirror", vs_with_subsets("http: [{$v3, mirror: {host: heavy.example, subset: v2}}]"))
            .fields(&["spec.http[].mirror.subset"])
            .ask("GET http://v1.example/")
            .sees("by at:v2", "v3 1"),
        case("mirrorPercent", vs("http: [{$v2, mirror: {host: v3.example}, mirrorPercent: 0}]"))
            .fields(&["spec.http[].mirrorPercent"])
            .ask("GET http://v1.example/")
            .sees("by at:v3", "v2 0"),
        case("mirrorPercentage", vs("http: [{$v2, mirror: {host: v3.example}, mirrorPercentage: {value: 0}}]"))
            .fields(&["spec.http[].mirrorPercentage", "spec.http[].mirrorPercentage.value = 100"])
            .ask("GET http://v1.example/")
            .sees("by at:v3", "v2 0"),
        case("mirrors", vs("http: [{$v2, mirrors: [{destination: {host: v1.example, port: {number: 81}}, percentage: {value: 100}}]}]"))
            .fields(&[
                "spec.http[].mirrors",
                "spec.http[].mirrors[].destination = {host: v1.example}",
                "spec.http[].mirrors[].destination.host = nowhere.example",
                "spec.http[].mirrors[].destination.port",
                "spec.http[].mirrors[].destination.port.number = 80",
                "spec.http[].mirrors[].percentage.value = 0",
            ])
            .ask("GET http://v1.example/")
            .sees("by at:v3", "v2 1"),
        case("mirrors, no share", vs("http: [{$v2, mirrors: [{destination: {host: v3.example}, percentage: {value: 0}}]}]"))
            .fields(&["spec.http[].mirrors[].percentage"])
            .ask("GET http://v1.example/")
            .sees("by at:v3", "v2 0"),
        case("subset of mirrors", vs_with_subsets("http: [{$v3, mirrors: [{destination: {host: heavy.example, subset: v2}}]}]"))
            .fields(&["spec.http[].mirrors[].destination.subset"])
            .ask("GET http://v1.example/")
            .sees("by at:v2", "v3 1"),
    ]
}

fn cors() -> Vec<Case> {
    vec![
        case(
            "corsPolicy, preflight",
            vs("http: [{$v1, corsPolicy: {allowOrigins: [{exact: 'https://a.example'}], allowMethods: [PUT], allowHeaders: [x-h], maxAge: 60s}}]"),
        )
        .fields(&[
            "spec.http[].corsPolicy",
            "spec.http[].corsPolicy.allowOrigins",
            "spec.http[].corsPolicy.allowMethods",
            "spec.http[].corsPolicy.allowHeaders",
            "spec.http[].corsPolicy.maxAge",
        ])
        .ask("OPTIONS http://v1.example/ origin=https://a.example access-control-request-method=PUT")
        .sees(
            "by header:access-control-allow-origin header:access-control-allow-methods header:access-control-allow-headers header:access-control-max-age",
            "- https://a.example PUT x-h 60",
        ),
        case(
            "corsPolicy, request",
            vs("http: [{$v1, corsPolicy: {allowOrigin: ['https://a.example'], exposeHeaders: [x-e], allowCredentials: true}}]"),
        )
        .fields(&["spec.http[].corsPolicy.allowOrigin", "spec.http[].corsPolicy.exposeHeaders", "spec.http[].corsPolicy.allowCredentials"])
        .ask("GET http://v1.example/ origin=https://a.example")
        .sees(
            "by header:access-control-allow-origin header:access-control-expose-headers header:access-control-allow-credentials",
            "v1 https://a.example x-e true",
        ),
        case(
            "unmatchedPreflights",
            vs("http: [{$v1, corsPolicy: {allowOrigins: [{exact: 'https://a.example'}], unmatchedPreflights: IGNORE}}]"),
        )
        .fields(&["spec.http[].corsPolicy.unmatchedPreflights"])
        .ask("OPTIONS http://v1.example/ origin=https://b.example access-control-request-method=PUT")
        .sees("status by", "200 -"),
    ]
}
