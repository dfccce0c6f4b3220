use super::super::testing::{labels, object, of};
use super::*;

/// Services `name.namespace` with their ports, and a Sidecar `s` of namespace `web`.
fn world(sidecar: &str, more: &str) -> Effective {
    let service = |namespace: &str, name: &str, ports: &[u32]| {
        let ports: Vec<String> = ports.iter().map(|port| format!("{{port: {port}, name: http-{port}}}")).collect();
        object("Service", namespace, name, &format!("{{ports: [{}]}}", ports.join(", ")))
    };
    let entry = |namespace: &str, name: &str, host: &str, export: &str| {
        let spec = format!(
            "{{hosts: ['{host}'], exportTo: ['{export}'], resolution: DNS, ports: [{{number: 443, name: tls, protocol: TLS}}, {{number: 80, name: http, protocol: HTTP}}]}}"
        );
        object("ServiceEntry", namespace, name, &spec)
    };
    let text = [
        service("web", "a", &[80, 9090]),
        service("web", "b", &[8080]),
        service("shop", "c", &[80, 9090]),
        service("team", "d", &[80]),
        entry("team", "old", "api.example.com", "*"),
        entry("web", "own", "api.example.com", "."),
        entry("shop", "hidden", "hidden.example.org", "."),
        object("Sidecar", "web", "s", sidecar),
        more.to_owned(),
    ];
    of(&text.concat())
}

fn scope(effective: &Effective) -> SidecarScope {
    let labels = labels(&[]);
    effective.sidecar_scope("web", effective.sidecar("web", &labels).expect("there"))
}

/// `host:port,port`, without the cluster suffix.
fn shown(imports: &[Import]) -> Vec<String> {
    let ports = |import: &Import| import.ports.iter().map(|port| port.number.to_string()).collect::<Vec<_>>().join(",");
    imports.iter().map(|i| format!("{}:{}", i.service.host.trim_end_matches(".svc.cluster.local"), ports(i))).collect()
}

fn vs(namespace: &str, name: &str, rest: &str) -> String {
    object("VirtualService", namespace, name, &format!("{{{rest}}}"))
}

#[test]
fn hosts_say_which_services_are_seen() {
    let all = &["a.web:80,9090", "api.example.com:443,80", "b.web:8080", "c.shop:80,9090", "d.team:80"][..];
    let cases: [(&str, &[&str]); 13] = [
        ("{outboundTrafficPolicy: {mode: ALLOW_ANY}}", all),
        ("{egress: [{hosts: ['*/*']}]}", all),
        ("{egress: [{hosts: ['./*']}]}", &["a.web:80,9090", "api.example.com:443,80", "b.web:8080"]),
        ("{egress: [{hosts: ['shop/*']}]}", &["c.shop:80,9090"]),
        ("{egress: [{hosts: ['./b.web.svc.cluster.local', 'team/d.team.svc.cluster.local']}]}", &["b.web:8080", "d.team:80"]),
        ("{egress: [{hosts: ['*/D.team.svc.cluster.local']}]}", &["d.team:80"]),
        ("{egress: [{hosts: ['*/*.shop.svc.cluster.local']}]}", &["c.shop:80,9090"]),
        ("{egress: [{hosts: ['shop/d.team.svc.cluster.local']}]}", &[]),
        ("{egress: [{hosts: ['./a']}]}", &[]),
        ("{egress: [{hosts: ['~/*']}]}", &[]),
        ("{egress: [{hosts: ['*/*', '~shop/*', '~/a.web.svc.cluster.local']}]}", &["api.example.com:443,80", "b.web:8080", "d.team:80"]),
        ("{egress: [{hosts: ['*/*', '~web/*']}]}", &["api.example.com:443,80", "c.shop:80,9090", "d.team:80"]),
        ("{egress: [{hosts: ['shop/hidden.example.org']}]}", &[]),
    ];
    for (sidecar, want) in cases {
        let scope = scope(&world(sidecar, ""));
        assert_eq!(shown(&scope.services), want, "{sidecar}");
        assert_eq!(shown(&scope.called), want, "{sidecar}");
    }
}

#[test]
fn of_several_services_of_one_host_the_own_is_seen_else_the_one_imported() {
    for (hosts, want) in [("'*/*'", "web"), ("'team/*'", "team"), ("'*/*', '~web/*'", "team")] {
        let scope = scope(&world(&format!("{{egress: [{{hosts: [{hosts}]}}]}}"), ""));
        let found = scope.services.iter().find(|i| i.service.host == "api.example.com").expect("there");
        assert_eq!(found.service.namespace, want, "{hosts}");
    }
}

#[test]
fn a_port_belongs_to_the_first_listener_that_has_it() {
    let sidecar = "{egress: [
        {port: {number: 80, protocol: HTTP, name: web}, hosts: ['shop/*']},
        {port: {number: 9090, protocol: TCP, name: raw}, hosts: ['./*']},
        {hosts: ['./*', 'team/*']}]}";
    let scope = scope(&world(sidecar, ""));
    assert_eq!(shown(&scope.called), ["a.web:9090", "api.example.com:443", "b.web:8080", "c.shop:80"]);
    assert_eq!(shown(&scope.services), ["a.web:9090,80", "api.example.com:443,80", "b.web:8080", "c.shop:80", "d.team:80"]);
    let protocol = |imports: &[Import], host: &str| {
        let import = imports.iter().find(|i| i.service.host.starts_with(host)).expect("there");
        import.ports.iter().find(|port| port.number == 9090).map(|port| port.protocol)
    };
    assert_eq!(protocol(&scope.called, "a."), Some(Protocol::Tcp), "the listener says what its port speaks");
    assert_eq!(protocol(&scope.services, "a."), Some(Protocol::Http), "the upstream is spoken to as the service says");
    let ports: Vec<_> = [80, 9090, 81].map(|port| scope.listener(port).map(|listener| listener.port)).to_vec();
    assert_eq!(ports, [Some(Some(80)), Some(Some(9090)), Some(None)]);
    let only = self::scope(&world("{egress: [{port: {number: 80, protocol: HTTP, name: web}, hosts: ['*/*']}]}", ""));
    assert!(only.listener(81).is_none());
    assert_eq!(shown(&only.services), ["a.web:80", "api.example.com:80", "c.shop:80", "d.team:80"]);
}

#[test]
fn virtual_services_are_imported_by_host_and_bring_their_destinations() {
    let to = |host: &str, port: &str| format!("http: [{{route: [{{destination: {{host: {host}{port}}}}}]}}]");
    let routes = [
        vs("web", "own", &format!("hosts: [a], {}", to("c.shop.svc.cluster.local", ", port: {number: 9090}"))),
        vs("web", "wide", &format!("hosts: ['*.example.com'], {}", to("d.team.svc.cluster.local", ""))),
        vs("shop", "far", &format!("hosts: [c], {}", to("d.team.svc.cluster.local", ""))),
        vs("web", "edge", &format!("hosts: [b], gateways: [g], {}", to("d.team.svc.cluster.local", ""))),
        vs("shop", "private", &format!("hosts: [b.web.svc.cluster.local], exportTo: ['.'], {}", to("d.team.svc.cluster.local", ""))),
    ];
    let cases: [(&str, &[&str], &[&str]); 6] = [
        ("'./*'", &["own", "wide"], &["a.web:80,9090", "api.example.com:443,80", "b.web:8080", "c.shop:9090", "d.team:80"]),
        ("'./a.web.svc.cluster.local'", &["own"], &["a.web:80,9090", "c.shop:9090"]),
        ("'./api.example.com'", &["wide"], &["api.example.com:443,80", "d.team:80"]),
        ("'./x.example.com'", &["wide"], &["d.team:80"]),
        ("'shop/*'", &["far"], &["c.shop:80,9090", "d.team:80"]),
        ("'*/*.svc.cluster.local', '~web/*', '~team/*'", &["far"], &["c.shop:80,9090", "d.team:80"]),
    ];
    for (hosts, names, services) in cases {
        let effective = world(&format!("{{egress: [{{hosts: [{hosts}]}}]}}"), &routes.concat());
        let scope = scope(&effective);
        let mut found: Vec<&str> = scope.listeners[0]
            .virtual_services
            .iter()
            .map(|index| effective.set().at::<crate::kinds::VirtualService>(*index).name())
            .collect();
        found.sort_unstable();
        assert_eq!(found, names, "{hosts}");
        assert_eq!(shown(&scope.services), services, "{hosts}");
        assert!(!shown(&scope.called).iter().any(|called| called.starts_with("d.team")), "{hosts}: destinations are not called by name");
    }
}

#[test]
fn every_kind_of_destination_is_brought_and_rules_of_other_namespaces_are_not() {
    let route = "hosts: [a], http: [
        {match: [{sourceNamespace: other}], route: [{destination: {host: d.team.svc.cluster.local}}]},
        {mirrors: [{destination: {host: c.shop.svc.cluster.local, port: {number: 80}}}], route: [{destination: {host: a}}]}]";
    let cases: [(String, &[&str]); 2] = [
        (vs("web", "v", route), &["a.web:80,9090", "c.shop:80"]),
        (
            vs(
                "web",
                "v",
                "hosts: [a], http: [{delegate: {name: leaf}}], tcp: [{route: [{destination: {host: d.team.svc.cluster.local}}]}]",
            ) + &vs("web", "leaf", "http: [{route: [{destination: {host: c.shop.svc.cluster.local}}]}]"),
            &["a.web:80,9090", "c.shop:80,9090", "d.team:80"],
        ),
    ];
    for (text, want) in cases {
        let scope = scope(&world("{egress: [{hosts: ['./a.web.svc.cluster.local']}]}", &text));
        assert_eq!(shown(&scope.services), want, "{text}");
    }
}

#[test]
fn hosts_without_a_seen_service_are_those_of_the_imported_virtual_services() {
    let route = "http: [{route: [{destination: {host: d.team.svc.cluster.local}}]}]";
    let text = vs("web", "hidden", &format!("hosts: [c.shop.svc.cluster.local, nothing.example.net], {route}"))
        + &vs("shop", "far", &format!("hosts: [far.example.net], {route}"));
    let cases: [(&str, &[&str]); 3] = [
        ("{egress: [{hosts: ['./*']}]}", &["c.shop.svc.cluster.local", "nothing.example.net"]),
        ("{egress: [{hosts: ['./*', 'shop/*']}]}", &["far.example.net", "nothing.example.net"]),
        ("{egress: [{port: {number: 81, protocol: HTTP, name: x}, hosts: ['*/*']}]}", &[]),
    ];
    for (sidecar, want) in cases {
        let effective = world(sidecar, &text);
        assert_eq!(effective.unregistered_hosts_of("web", &scope(&effective), 80), want, "{sidecar}");
    }
}

#[test]
fn the_sidecars_policy_for_unknown_hosts_beats_the_meshs() {
    let mesh = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n";
    let egress = "egress: [{hosts: ['*/*']}]";
    let cases = [
        ("", "", false),
        ("", mesh, true),
        ("outboundTrafficPolicy: {mode: REGISTRY_ONLY}, ", "", true),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY}, ", mesh, false),
        ("outboundTrafficPolicy: {}, ", "", true),
    ];
    for (policy, mesh, want) in cases {
        assert_eq!(scope(&world(&format!("{{{policy}{egress}}}"), mesh)).registry_only, want, "{policy:?} {mesh:?}");
    }
}
