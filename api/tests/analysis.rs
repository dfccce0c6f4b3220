//! Findings between objects: each has a minimal bad set, says what traffic will experience, and stays silent when the cause is gone.

use pillion_api::analyze::code;
use pillion_api::check;
use pillion_api::finding::{Finding, Severity};

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {selector: {app: reviews}, ports: [{port: 80, name: http}, {port: 90, name: http-admin}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: team}
spec: {ports: [{port: 80, name: http}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: v1, labels: {app: reviews, version: v1}}
spec: {replicas: 3, command: [./x], ports: [{name: http, containerPort: 80}]}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: v2, labels: {app: reviews, version: v2}}
spec: {command: [./x], ports: [{name: http, containerPort: 80}]}
";

struct Case {
    name: &'static str,
    /// Added to `SHOP`; with a `!` first it stands alone.
    yaml: &'static str,
    /// Code, path, parts of message, help and related labels. None: no finding at all.
    want: &'static [(&'static str, &'static str, &'static [&'static str])],
}

macro_rules! case {
    ($name:literal, $yaml:literal, [$(($code:expr, $path:literal, [$($part:literal),*])),*]) => {
        Case { name: $name, yaml: $yaml, want: &[$(($code, $path, &[$($part),*])),*] }
    };
}

fn all_text(finding: &Finding) -> String {
    let related = finding.related.iter().map(|(place, what)| format!("{what}@{}:{}", place.file, place.line)).collect::<Vec<_>>().join(" ");
    format!("{} | {} | {related}", finding.message, finding.help.as_deref().unwrap_or_default())
}

/// What `yaml` beside [`SHOP`] yields, without what single objects are told.
fn findings(yaml: &str) -> Vec<Finding> {
    let sources = match yaml.strip_prefix('!') {
        Some(alone) => vec![("case.yaml", alone)],
        None => vec![("a-shop.yaml", SHOP), ("case.yaml", yaml)],
    };
    let checked = check(&sources);
    let errors: Vec<_> = checked.findings.iter().filter(|f| f.severity == Severity::Error && f.code.starts_with("PLN1")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    checked.findings.into_iter().filter(|f| !f.code.starts_with("PLN1")).collect()
}

fn run(cases: &[Case]) {
    for case in cases {
        let got = findings(case.yaml);
        let shown: Vec<String> = got.iter().map(|f| format!("{} {} {}", f.code, f.path, all_text(f))).collect();
        assert_eq!(got.len(), case.want.len(), "{}: {shown:#?}", case.name);
        for (finding, (code, path, parts)) in got.iter().zip(case.want) {
            assert_eq!((finding.code, finding.path.as_str()), (*code, *path), "{}: {shown:#?}", case.name);
            for part in *parts {
                assert!(all_text(finding).contains(part), "{}: no {part:?} in {shown:#?}", case.name);
            }
            assert!(finding.place.line > 0, "{}: without a place", case.name);
        }
    }
}

#[test]
fn the_shop_itself_is_silent() {
    assert!(findings("").is_empty(), "{:#?}", findings(""));
}

#[test]
fn destinations_that_are_not_there_say_what_share_of_the_requests_fails() {
    run(&[
        case!(
            "an unknown host, with the name that was meant",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: reviws}}]}]}",
            [(
                code::UNKNOWN_HOST,
                "spec.http[0].route[0].destination.host",
                [
                    "no service has the host `reviws.default.svc.cluster.local`",
                    "every request of this route is answered 503 (flag NC)",
                    "did you mean `reviews`?"
                ]
            )]
        ),
        case!(
            "a short name of another namespace",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: far}}]}]}",
            [(code::UNKNOWN_HOST, "spec.http[0].route[0].destination.host", ["did you mean `far.team.svc.cluster.local`?"])]
        ),
        case!(
            "a missing subset of a tenth",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}, weight: 90}, {destination: {host: reviews, subset: v3}, weight: 10}]}]}",
            [(
                code::UNKNOWN_SUBSET,
                "spec.http[0].route[1].destination.subset",
                [
                    "no subset `v3`",
                    "10 % of this route's requests are answered 503 (flag NC)",
                    "did you mean `v1`?",
                    "is in force@a-shop.yaml:20"
                ]
            )]
        ),
        case!(
            "a missing subset that gets nothing",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}, weight: 1}, {destination: {host: reviews, subset: v3}, weight: 0}]}]}",
            []
        ),
        case!(
            "a mirror that leads nowhere",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{mirror: {host: nobody}, route: [{destination: {host: reviews}}]}]}",
            [(code::UNKNOWN_HOST, "spec.http[0].mirror.host", ["nothing is mirrored"])]
        ),
        case!(
            "no rule for the host",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [two], http: [{route: [{destination: {host: two, subset: v1, port: {number: 80}}}]}]}",
            [(
                code::UNKNOWN_SUBSET,
                "spec.http[0].route[0].destination.subset",
                ["no DestinationRule for `two.default.svc.cluster.local` is in force for clients in namespace default"]
            )]
        ),
        case!(
            "a port that is not there",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: two, port: {number: 81}}}]}]}",
            [(
                code::UNKNOWN_PORT,
                "spec.http[0].route[0].destination.port.number",
                ["has no port 81", "its ports are 80 (http) and 90 (http-admin)"]
            )]
        ),
        case!(
            "several ports and no choice",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: two}}]}]}",
            [(
                code::AMBIGUOUS_PORT,
                "spec.http[0].route[0].destination.host",
                ["several ports and none is chosen", "80 (http) and 90 (http-admin)"]
            )]
        ),
        case!(
            "several ports on the own host keep the caller's",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [two], http: [{route: [{destination: {host: two}}]}]}",
            [(code::AMBIGUOUS_PORT, "spec.http[0].route[0].destination.host", ["each request keeps the port on which it came in"])]
        ),
        case!(
            "not exported to the client",
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, namespace: team}\nspec: {hosts: [api.example.com], exportTo: ['.'], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: api.example.com}}]}]}",
            [(
                code::UNKNOWN_HOST,
                "spec.http[0].route[0].destination.host",
                ["is not exported to namespace default", "add default (or `*`) to its exportTo"]
            )]
        ),
        case!(
            "a host that is nobody's",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [review], http: [{route: [{destination: {host: reviews}}]}]}",
            [(code::UNUSED_HOST, "spec.hosts[0]", ["used only by requests to that name on port 80", "did you mean `reviews`?"])]
        ),
        case!(
            "a delegate that is not there",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{delegate: {name: leaf}}]}",
            [(code::UNKNOWN_DELEGATE, "spec.http[0].delegate.name", ["there is no VirtualService default/leaf"])]
        ),
        case!(
            "a delegate for other namespaces",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{delegate: {name: leaf, namespace: team}}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: leaf, namespace: team}\nspec: {exportTo: ['.'], http: [{directResponse: {status: 200}}]}",
            [(code::UNKNOWN_DELEGATE, "spec.http[0].delegate.name", ["VirtualService team/leaf is not exported to default"])]
        ),
        case!(
            "a delegate with hosts",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{delegate: {name: leaf}}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: leaf}\nspec: {hosts: [ratings.example.com], gateways: [g], http: [{directResponse: {status: 200}}]}",
            [(code::UNKNOWN_DELEGATE, "spec.http[0].delegate.name", ["VirtualService default/leaf has hosts of its own"])]
        ),
        case!(
            "a delegate that contradicts",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{match: [{uri: {prefix: /a}}], delegate: {name: leaf}}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: leaf}\nspec: {http: [{match: [{uri: {prefix: /a/b}}], directResponse: {status: 200}}, {match: [{uri: {prefix: /b}}], directResponse: {status: 200}}]}",
            [(code::DELEGATE_CONFLICT, "spec.http[0].delegate.name", ["http[1] of VirtualService default/leaf is left out"])]
        ),
    ]);
}

#[test]
fn files_without_services_get_no_findings_about_services() {
    run(&[
        case!(
            "routes and rules alone",
            "!apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a], http: [{route: [{destination: {host: b, subset: v1}}]}]}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: c}\nspec: {host: c, subsets: [{name: v1, labels: {version: v1}}]}\n---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {istio: mine}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {selector: {matchLabels: {app: x}}, action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]}]}",
            []
        ),
        case!(
            "a subset that the rule beside it lacks",
            "!apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a], http: [{route: [{destination: {host: a, subset: v2}}]}]}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a, subsets: [{name: v1, labels: {version: v1}}]}",
            [(code::UNKNOWN_SUBSET, "spec.http[0].route[0].destination.subset", ["did you mean `v1`?"])]
        ),
        case!(
            "a gateway in another file",
            "!apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a.com], gateways: [g], http: [{route: [{destination: {host: b}}]}]}",
            []
        ),
    ]);
}

#[test]
fn what_refers_to_a_broken_object_is_not_reported_again() {
    let checked = check(&[(
        "a.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 99999}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 80}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}",
    )]);
    assert_eq!(checked.findings.len(), 1, "{:#?}", checked.findings);
    assert_eq!(checked.findings[0].severity, Severity::Error);
}

#[test]
fn routes_that_never_run_name_the_one_before_them() {
    run(&[
        case!(
            "after a rule without a match",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{name: all, route: [{destination: {host: reviews}}]}, {name: never, match: [{uri: {prefix: /x}}], route: [{destination: {host: reviews}}]}]}",
            [(
                code::UNREACHABLE_RULE,
                "spec.http[1]",
                ["http[1] (never) never runs: http[0] (all) before it takes every request", "this one runs@case.yaml:4"]
            )]
        ),
        case!(
            "a longer prefix after a shorter one",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}, {match: [{uri: {prefix: /ab}}, {uri: {exact: /a/c}}], route: [{destination: {host: reviews}}]}]}",
            [(code::UNREACHABLE_RULE, "spec.http[1]", ["already takes every request it matches"])]
        ),
        case!(
            "one match of two",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}, {match: [{uri: {prefix: /b}}, {uri: {exact: /a}}], route: [{destination: {host: reviews}}]}]}",
            [(code::INEFFECTIVE_MATCH, "spec.http[1].match[1]", ["http[0].match[0] already takes every request it matches"])]
        ),
        case!(
            "other clients",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{match: [{sourceLabels: {app: x}}], route: [{destination: {host: reviews}}]}, {route: [{destination: {host: reviews}}]}]}",
            []
        ),
        case!(
            "the same destination twice",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}, weight: 1}, {destination: {host: reviews.default.svc.cluster.local}, weight: 1}]}]}",
            [(code::REPEATED_DESTINATION, "spec.http[0].route[1].destination", ["the two weights add up", "first here"])]
        ),
    ]);
}

#[test]
fn virtual_services_that_fight_over_a_host_say_who_wins_and_why() {
    run(&[
        case!(
            "two for one host",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: b}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews.default.svc.cluster.local], http: [{route: [{destination: {host: reviews}}]}]}",
            [(
                code::CONFLICTING_ROUTES,
                "spec.hosts[0]",
                [
                    "VirtualService default/b is older and wins, this one is ignored",
                    "a cluster goes by creation time",
                    "this one is in force@case.yaml:4"
                ]
            )]
        ),
        case!(
            "a private one beside a public one is meant",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: b}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [reviews], exportTo: ['.'], http: [{route: [{destination: {host: reviews}}]}]}",
            []
        ),
        case!(
            "a wildcard beside an exact host is meant",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: b}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: ['*.default.svc.cluster.local'], http: [{route: [{destination: {host: reviews}}]}]}",
            []
        ),
        case!(
            "two catch-alls on a gateway",
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a.com], gateways: [g], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}, {route: [{destination: {host: reviews}}]}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: b}\nspec: {hosts: [a.com], gateways: [g], http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: reviews}}]}, {match: [{uri: {prefix: /}}], route: [{destination: {host: reviews}}]}]}",
            [(code::SECOND_CATCH_ALL, "spec.http[1]", ["on gateway default/g", "one of VirtualService default/a", "this one never runs"])]
        ),
    ]);
}

#[test]
fn destination_rules_for_nobody_or_hidden_say_so() {
    run(&[
        case!(
            "an unknown host",
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: reviewz}",
            [(code::UNKNOWN_RULE_HOST, "spec.host", ["changes nothing", "did you mean `reviews`?"])]
        ),
        case!(
            "a wildcard for nobody",
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: '*.example.com'}",
            [(code::UNKNOWN_RULE_HOST, "spec.host", ["`*.example.com`"])]
        ),
        case!(
            "a client's rule hides the owner's subsets",
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: mine, namespace: team}\nspec: {host: reviews.default.svc.cluster.local, subsets: [{name: v1, labels: {version: v1}}]}",
            [(
                code::HIDDEN_RULE,
                "spec.host",
                [
                    "for clients in namespace team this DestinationRule hides DestinationRule default/reviews",
                    "its subsets `v2` do not exist",
                    "hidden by this one@a-shop.yaml:20"
                ]
            )]
        ),
        case!(
            "a subset that selects nothing, routed to",
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: two}\nspec: {host: two, subsets: [{name: v3, labels: {version: v3}}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [two], http: [{route: [{destination: {host: two, subset: v3, port: {number: 80}}}]}]}",
            [(
                code::EMPTY_SUBSET,
                "spec.subsets[0].labels",
                [
                    "selects no workload: requests routed to it are answered 503 (flag UH)",
                    "it asks for version: v3; the workloads have version: v1 (1) and version: v2 (1)",
                    "routed to here@case.yaml:9"
                ]
            )]
        ),
        case!(
            "merged rules that repeat each other",
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: two, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v1}}]}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: b}\nspec: {host: two, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: v1, labels: {version: v2}}]}",
            [
                (code::SECOND_POLICY, "spec.trafficPolicy", ["has a trafficPolicy in DestinationRule default/a already"]),
                (code::REPEATED_SUBSET, "spec.subsets[0].name", ["is defined by DestinationRule default/a already"])
            ]
        ),
    ]);
}

#[test]
fn gateways_without_a_proxy_or_without_the_host_say_so() {
    run(&[
        case!(
            "no workload for the selector",
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {istio: mine}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}",
            [(
                code::UNATTACHED_GATEWAY,
                "spec.selector",
                ["nothing listens for this Gateway", "the built-in gateway has app: istio-ingressgateway and istio: ingressgateway"]
            )]
        ),
        case!(
            "an unknown gateway",
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: team}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a.com], gateways: [g], http: [{route: [{destination: {host: reviews}}]}]}",
            [(code::UNKNOWN_GATEWAY, "spec.gateways[0]", ["there is no Gateway default/g", "did you mean `team/g`?"])]
        ),
        case!(
            "a host that the gateway does not serve",
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com']}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [example.com], gateways: [g], http: [{route: [{destination: {host: reviews}}]}]}",
            [(code::HOST_NOT_IN_GATEWAY, "spec.hosts[0]", ["does not serve `example.com`", "answered 404"])]
        ),
        case!(
            "two gateways for one host",
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['a.com']}]}\n---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: h}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['a.com']}]}",
            [(code::CONFLICTING_GATEWAYS, "spec.servers[0].hosts[0]", ["port 80 and host `a.com` belong to Gateway default/g too"])]
        ),
    ]);
}

#[test]
fn selectors_that_match_nothing_and_objects_that_do_not_count_say_so() {
    run(&[
        case!(
            "a policy for nobody protects nothing",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {selector: {matchLabels: {app: review}}, action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}",
            [(code::SELECTS_NOTHING, "spec.selector.matchLabels", ["it protects nothing", "workloads have app: reviews"])]
        ),
        case!(
            "a policy in another namespace than its workloads",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: team}\nspec: {selector: {matchLabels: {app: reviews}}, action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}",
            [(
                code::SELECTS_NOTHING,
                "spec.selector.matchLabels",
                ["default/v1 has these labels; a selector matches in its own namespace only"]
            )]
        ),
        case!(
            "mesh-wide by selector",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: istio-system}\nspec: {selector: {matchLabels: {app: reviews}}, action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}",
            []
        ),
        case!(
            "two for a whole namespace",
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtls: {mode: STRICT}}\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: b}\nspec: {mtls: {mode: PERMISSIVE}}",
            [(
                code::SECOND_GENERAL,
                "metadata.name",
                ["PeerAuthentication default/a applies to all of namespace default already", "this one counts@case.yaml:3"]
            )]
        ),
        case!(
            "two for the same workloads",
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}}\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: b}\nspec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: PERMISSIVE}}",
            [(code::SECOND_SELECTING, "spec.selector.matchLabels", ["PeerAuthentication default/a selects the same workloads"])]
        ),
        case!(
            "a selector in the root namespace",
            "!apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: istio-system}\nspec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}}",
            [(code::IGNORED_SELECTOR, "spec.selector", ["in the root namespace istio-system is ignored"])]
        ),
        case!(
            "a principal that nobody has",
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: orders}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/order, cluster.local/ns/default/sa/orders, 'cluster.local/ns/*', cluster.local/ns/default/sa/default]}}]}]}",
            [(
                code::UNKNOWN_ACCOUNT,
                "spec.rules[0].from[0].source.principals[0]",
                ["this principal matches nobody", "did you mean `orders`?"]
            )]
        ),
    ]);
}

#[test]
fn what_cannot_run_here_is_said_before_anything_starts() {
    run(&[
        case!(
            "two fixed ports",
            "apiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {name: a, labels: {app: reviews, version: v1}}\nspec: {command: [./a], ports: [{name: http, containerPort: 80, localPort: 8080}]}\n---\napiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {name: b, labels: {app: reviews, version: v1}}\nspec: {ports: [{name: http, containerPort: 80}], proxy: {outboundPort: 8080}}",
            [(
                code::PORT_COLLISION,
                "spec.proxy.outboundPort",
                ["port 8080 of this machine is fixed by Workload default/a too", "here first@case.yaml:4"]
            )]
        ),
        case!(
            "a Deployment that is not there",
            "apiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {name: a, labels: {app: reviews}}\nspec: {deployment: web, command: [./a], ports: [{name: http, containerPort: 80}]}",
            [(
                code::UNKNOWN_DEPLOYMENT,
                "spec.deployment",
                ["there is no Deployment default/web", "load the file with the Deployment too"]
            )]
        ),
        case!(
            "a service with nothing behind it",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: {app: nobody}, ports: [{port: 80}]}",
            [(code::EMPTY_SERVICE, "spec.selector", ["requests to it are answered 503 (flag UH)"])]
        ),
        case!(
            "a target port that nobody names",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: {app: reviews}, ports: [{port: 80, targetPort: web}]}",
            [(code::UNKNOWN_TARGET_PORT, "spec.ports[0].targetPort", ["has a port named `web`", "its ports are named http"])]
        ),
        case!(
            "two ServiceEntries that disagree",
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec: {hosts: [x.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: b}\nspec: {hosts: [x.com], resolution: DNS, ports: [{number: 80, name: tcp, protocol: TCP}]}",
            [(code::CONFLICTING_PROTOCOL, "spec.ports[0].protocol", ["speaks HTTP according to ServiceEntry default/a, and TCP here"])]
        ),
    ]);
}

#[test]
fn findings_come_in_the_order_of_files_and_lines() {
    let route = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {{hosts: [{name}], http: [{{route: [{{destination: {{host: nobody}}}}]}}]}}\n---\n"
        )
    };
    let checked = check(&[("b.yaml", route("q") + &route("r")), ("a.yaml", SHOP.to_owned() + "---\n" + &route("s"))]);
    let places: Vec<(&str, u32)> = checked.findings.iter().map(|f| (&*f.place.file, f.place.line)).collect();
    let mut sorted = places.clone();
    sorted.sort();
    assert_eq!(places, sorted);
    assert_eq!(places.len(), 6);
}

#[test]
fn ten_thousand_virtual_services_over_a_thousand_services_take_seconds() {
    use std::fmt::Write as _;
    let mut text = String::new();
    for n in 0..1_000 {
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: n{}}}\nspec: {{ports: [{{port: 80, name: http}}]}}\n---\n",
            n % 10
        );
    }
    for n in 0..10_000 {
        let _ = write!(
            text,
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{n}, namespace: n{}}}\nspec: {{hosts: [h{n}.example.com, '*.h{n}.example.com'], http: [{{route: [{{destination: {{host: s{}.n{}.svc.cluster.local}}}}]}}]}}\n---\n",
            n % 10,
            n % 1_000,
            n % 10
        );
    }
    let started = std::time::Instant::now();
    let checked = check(&[("many.yaml", &text)]);
    let took = started.elapsed();
    assert!(checked.findings.is_empty(), "{:#?}", &checked.findings[..1]);
    assert_eq!(checked.effective.unregistered_hosts("n1").len(), 20_000);
    assert_eq!(checked.effective.services_for("n1").len(), 1_000);
    // Without optimisation and beside other work it may take ten times as long; anything quadratic takes minutes.
    let limit = if cfg!(debug_assertions) { 30 } else { 3 };
    assert!(took.as_secs() < limit, "{took:?}");
    println!("{} documents in {took:?}", checked.documents);
}

#[test]
fn a_sidecar_that_imports_nothing_or_declares_an_unknown_port_says_so() {
    run(&[
        case!(
            "what is there, is allowed to be empty, or is taken away",
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s}\nspec: {egress: [{hosts: ['./*', 'team/far.team.svc.cluster.local', 'istio-system/*', '~none/*', '*/*.team.svc.cluster.local']}], ingress: [{port: {number: 80, protocol: HTTP, name: http}}]}",
            []
        ),
        case!(
            "hosts of nothing",
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s}\nspec: {egress: [{hosts: ['./reviews', './far.team.svc.cluster.local', 'nowhere/*', 'team/fra.team.svc.cluster.local', './*']}]}",
            [
                (code::IMPORTS_NOTHING, "spec.egress[0].hosts[0]", ["write the whole name: `./reviews.default.svc.cluster.local`"]),
                (
                    code::IMPORTS_NOTHING,
                    "spec.egress[0].hosts[1]",
                    ["`./far.team.svc.cluster.local` imports nothing", "`team/far.team.svc.cluster.local`"]
                ),
                (code::IMPORTS_NOTHING, "spec.egress[0].hosts[2]", ["`nowhere/*` imports nothing"]),
                (code::IMPORTS_NOTHING, "spec.egress[0].hosts[3]", ["did you mean `far`?"])
            ]
        ),
        case!(
            "a host that only a VirtualService has, and every proxy's own namespace",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [old.example.com], http: [{route: [{destination: {host: reviews}}]}]}\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s}\nspec: {egress: [{hosts: ['./old.example.com']}]}\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: r, namespace: istio-system}\nspec: {egress: [{hosts: ['./*']}]}",
            []
        ),
        case!(
            "a port of nobody",
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s}\nspec: {workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: 80, protocol: HTTP, name: http}}, {port: {number: 8080, protocol: HTTP, name: http}}]}",
            [(code::UNKNOWN_INGRESS_PORT, "spec.ingress[1].port", ["no workload of this Sidecar has a port 8080", "their ports are 80"])]
        ),
        case!(
            "a port that a service leads to, and nobody listens on",
            "apiVersion: v1\nkind: Service\nmetadata: {name: w}\nspec: {selector: {app: w}, ports: [{port: 80, name: http}, {port: 90, name: http-two, targetPort: two}]}\n---\napiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {name: w, labels: {app: w}}\nspec: {command: [./x], ports: [{name: http, containerPort: 80}, {name: two, containerPort: 81}, {name: three, containerPort: 82}]}\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s}\nspec: {workloadSelector: {labels: {app: w}}, ingress: [{port: {number: 80, protocol: HTTP, name: http}}]}",
            [(code::UNDECLARED_PORT, "spec.ingress", ["port 81 has no inbound listener", "service w leads to it", "number: 81"])]
        ),
    ]);
}
