//! Clusters and endpoints.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pillion_proxy::config::RuntimeConfig;
use pillion_proxy::config::cluster::{
    Cluster as Compiled, ClusterKind, ClusterName, EndpointList, LoadBalancing, LookupFamily, UpstreamProtocol,
};
use pillion_proxy::config::compile::WARMING;
use pillion_xds::resource::pack;
use pillion_xds::wire::envoy::config::cluster::v3::{Cluster, cluster};
use pillion_xds::wire::envoy::config::core::v3 as core;
use pillion_xds::wire::envoy::config::endpoint::v3::ClusterLoadAssignment;
use pillion_xds::wire::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use pillion_xds::wire::envoy::extensions::upstreams::http::v3::{HttpProtocolOptions, http_protocol_options as options};
use pillion_xds::wire::google::protobuf::{self as proto, value::Kind};
use pillion_xds::wire::istio::networking::nds::v1::{NameTable, name_table::NameInfo};

use super::wire::*;

fn get<'a>(config: &'a RuntimeConfig, name: &str) -> Option<&'a Arc<Compiled>> {
    config.clusters.get(&ClusterName::new(name))
}

fn list(cluster: &Compiled) -> &Arc<EndpointList> {
    match &cluster.kind {
        ClusterKind::Endpoints(list) => list,
        other => panic!("{other:?}"),
    }
}

fn addresses(cluster: &Compiled) -> Vec<String> {
    list(cluster).endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn static_cluster(name: &str, at: &[&str]) -> Cluster {
    let endpoints = at.iter().map(|at| endpoint(at, "")).collect();
    Cluster { load_assignment: Some(assignment(name, endpoints)), ..cluster_of(name, cluster::DiscoveryType::Static) }
}

fn with_protocol(name: &str, protocol: options::UpstreamProtocolOptions) -> Cluster {
    let options = HttpProtocolOptions { upstream_protocol_options: Some(protocol), ..Default::default() };
    let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned();
    Cluster { typed_extension_protocol_options: [(key, pack(&options))].into(), ..static_cluster(name, &[]) }
}

fn compile(cluster: Cluster) -> Arc<Compiled> {
    let mut bench = Bench::new();
    let name = cluster.name.clone();
    bench.accept(&[cluster]);
    Arc::clone(get(&bench.config(), &name).unwrap())
}

#[test]
fn every_kind_of_cluster_compiles() {
    let custom =
        |name: &str| cluster::ClusterDiscoveryType::ClusterType(cluster::CustomClusterType { name: name.into(), typed_config: None });
    let dynamic = Cluster {
        cluster_discovery_type: Some(custom("envoy.clusters.dynamic_forward_proxy")),
        lb_policy: cluster::LbPolicy::ClusterProvided as i32,
        ..cluster_of("PassthroughCluster", cluster::DiscoveryType::Static)
    };
    assert!(matches!(compile(dynamic).kind, ClusterKind::DynamicForwardProxy));
    let original = Cluster {
        lb_policy: cluster::LbPolicy::ClusterProvided as i32,
        ..cluster_of("PassthroughCluster", cluster::DiscoveryType::OriginalDst)
    };
    assert!(matches!(compile(original.clone()).kind, ClusterKind::OriginalDestination { port: None }));
    let elsewhere = cluster::OriginalDstLbConfig { upstream_port_override: number(8080), ..Default::default() };
    let elsewhere = Cluster { lb_config: Some(cluster::LbConfig::OriginalDstLbConfig(elsewhere)), ..original };
    assert!(matches!(compile(elsewhere).kind, ClusterKind::OriginalDestination { port: Some(8080) }));
    let inbound = compile(static_cluster("inbound|9080||", &["127.0.0.1:9080", "[::1]:9080", "127.0.0.1:9080"]));
    assert_eq!(addresses(&inbound), ["127.0.0.1:9080", "[::1]:9080"]);
    assert!(!inbound.sends_peer_metadata);
    for (kind, all) in [(cluster::DiscoveryType::StrictDns, true), (cluster::DiscoveryType::LogicalDns, false)] {
        let dns =
            Cluster { load_assignment: Some(assignment("dns", vec![endpoint("db.example.com:5432", "")])), ..cluster_of("dns", kind) };
        match &compile(dns).kind {
            ClusterKind::Dns(dns) => {
                assert_eq!((&*dns.hosts[0].host, dns.hosts[0].port, dns.all_addresses), ("db.example.com", 5432, all));
                assert_eq!((dns.refresh, dns.family), (Duration::from_secs(5), LookupFamily::Auto));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn dns_clusters_ask_as_often_and_for_what_they_say() {
    let dns = Cluster {
        load_assignment: Some(assignment("dns", vec![endpoint("db.example.com:5432", "")])),
        dns_refresh_rate: seconds(7),
        dns_lookup_family: cluster::DnsLookupFamily::V4Preferred as i32,
        ..cluster_of("dns", cluster::DiscoveryType::StrictDns)
    };
    let ClusterKind::Dns(dns) = &compile(dns).kind else { panic!("a DNS cluster") };
    assert_eq!((dns.refresh, dns.family), (Duration::from_secs(7), LookupFamily::V4Preferred));
}

#[test]
fn localities_of_one_priority_are_one_list_by_the_weights_of_the_endpoints() {
    let mut made = assignment("c", vec![endpoint("10.0.0.1:80", "")]);
    let mut far = made.endpoints[0].clone();
    far.lb_endpoints = vec![endpoint("10.0.0.2:80", ""), endpoint("10.0.0.3:80", "")];
    far.locality = Some(core::Locality { region: "far".into(), ..Default::default() });
    far.load_balancing_weight = number(100);
    made.endpoints.push(far);
    let cluster = Cluster { load_assignment: Some(made), ..cluster_of("c", cluster::DiscoveryType::Static) };
    let compiled = compile(cluster);
    assert_eq!(addresses(&compiled), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    assert!(list(&compiled).uniform, "weights of localities count only where a policy asks for them");
}

#[test]
fn settings_have_envoys_defaults() {
    let plain = compile(cluster_of("c", cluster::DiscoveryType::Static));
    assert_eq!((plain.connect_timeout, plain.idle_timeout), (Duration::from_secs(5), Some(Duration::from_secs(3600))));
    assert_eq!((plain.protocol, plain.policy), (UpstreamProtocol::Http1, LoadBalancing::LeastRequest));
    let http2 = options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
        protocol_config: Some(options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions {
            max_concurrent_streams: number(7),
            ..Default::default()
        })),
    });
    let http2 = compile(with_protocol("c", http2));
    assert_eq!((http2.protocol, http2.http2.max_concurrent_streams), (UpstreamProtocol::Http2, 7));
    let downstream = options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(Default::default());
    assert_eq!(compile(with_protocol("c", downstream)).protocol, UpstreamProtocol::Downstream);
    for (wire, want) in [(cluster::LbPolicy::RoundRobin, LoadBalancing::RoundRobin), (cluster::LbPolicy::Random, LoadBalancing::Random)] {
        let cluster = Cluster { lb_policy: wire as i32, connect_timeout: seconds(3), ..static_cluster("c", &[]) };
        let compiled = compile(cluster);
        assert_eq!((compiled.policy, compiled.connect_timeout), (want, Duration::from_secs(3)));
    }
}

#[test]
fn service_names_come_from_metadata_and_then_from_the_name() {
    let service = object(&[("host", text("h.example")), ("name", text("n")), ("namespace", text("ns"))]);
    let list = proto::ListValue { values: vec![proto::Value { kind: Some(Kind::StructValue(service)) }] };
    let istio = object(&[("services", proto::Value { kind: Some(Kind::ListValue(list)) }), ("subset", text("v1"))]);
    let named = |name: &str, metadata: Option<core::Metadata>| {
        let compiled = compile(Cluster { metadata, ..static_cluster(name, &[]) });
        let names = &compiled.service;
        [&names.host, &names.name, &names.namespace, &names.subset].map(|name| name.to_string())
    };
    assert_eq!(named("outbound|80|v2|x.y.svc.cluster.local", metadata(&[("istio", istio)])), ["h.example", "n", "ns", "v1"]);
    assert_eq!(named("outbound|80|v2|x.y.svc.cluster.local", None), ["x.y.svc.cluster.local", "x", "y", "v2"]);
    assert_eq!(named("outbound|443||api.example.com", None), ["api.example.com", "api.example.com", "", ""]);
    assert_eq!(named("PassthroughCluster", None), ["", "PassthroughCluster", "", ""]);
    assert_eq!(named("inbound|9080||", None), ["", "", "", ""]);
}

#[test]
fn endpoints_carry_labels_weights_and_health() {
    let mut labelled = endpoint("10.0.0.1:9080", "product-v1;shop;product;v1;Kubernetes");
    let ours = object(&[("app", text("product")), ("version", text("v1")), ("instance", text("product-v1-0"))]);
    labelled.metadata.as_mut().unwrap().filter_metadata.insert("pillion".into(), ours);
    labelled.load_balancing_weight = number(3);
    let mut draining = endpoint("10.0.0.2:9080", "");
    draining.health_status = core::HealthStatus::Draining as i32;
    let mut farther = assignment("c", vec![labelled, draining]);
    farther.endpoints.push(pillion_xds::wire::envoy::config::endpoint::v3::LocalityLbEndpoints {
        priority: 1,
        lb_endpoints: vec![endpoint("10.9.9.9:9080", "")],
        ..Default::default()
    });
    let mut bench = Bench::new();
    bench.accept(&[eds("c")]).accept(&[farther]);
    let config = bench.config();
    let cluster = get(&config, "c").unwrap();
    let endpoint = &list(cluster).endpoints[0];
    assert_eq!(addresses(cluster), ["10.0.0.1:9080"]);
    assert_eq!(endpoint.weight, 3);
    let peer = &endpoint.peer;
    let labels =
        [&peer.workload, &peer.namespace, &peer.canonical_service, &peer.canonical_revision, &peer.cluster, &peer.app, &peer.instance];
    assert_eq!(labels.map(|label| &**label), ["product-v1", "shop", "product", "v1", "Kubernetes", "product", "product-v1-0"]);
    assert!(cluster.sends_peer_metadata);
}

#[test]
fn what_cannot_be_done_is_refused_with_its_field() {
    let tls = core::TransportSocket {
        name: "tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(&UpstreamTlsContext::default()))),
    };
    let base = || static_cluster("c", &[]);
    let mut bad_endpoint = static_cluster("c", &["127.0.0.1:1"]);
    bad_endpoint.load_assignment.as_mut().unwrap().endpoints[0].lb_endpoints[0] = endpoint("no-address:80", "");
    let auto = options::UpstreamProtocolOptions::AutoConfig(Default::default());
    let cases = [
        (Cluster { name: String::new(), ..base() }, "name: has 1 to 1024 bytes"),
        (
            Cluster { transport_socket: Some(tls), ..base() },
            "transport_socket.typed_config: transport socket envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext is not supported yet",
        ),
        (Cluster { lb_policy: cluster::LbPolicy::Maglev as i32, ..base() }, "lb_policy: MAGLEV is not supported"),
        (Cluster { lb_policy: 99, ..base() }, "lb_policy: 99 is no known value"),
        (Cluster { connect_timeout: seconds(-1), ..base() }, "connect_timeout: is no duration of 0 or more"),
        (Cluster { connect_timeout: seconds(0), ..base() }, "connect_timeout: is more than 0"),
        (Cluster { lb_subset_config: Some(Default::default()), ..base() }, "lb_subset_config: is not supported"),
        (cluster_of("c", cluster::DiscoveryType::Eds), "eds_cluster_config: is missing"),
        (Cluster { eds_cluster_config: Some(Default::default()), ..eds("c") }, "eds_cluster_config.eds_config: is missing"),
        (bad_endpoint, "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.address: \"no-address\" is no IP address"),
        (
            with_protocol("c", auto),
            "typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"].auto_config: is not supported",
        ),
        (
            Cluster { load_assignment: Some(assignment("c", vec![])), ..cluster_of("c", cluster::DiscoveryType::LogicalDns) },
            "load_assignment: a LOGICAL_DNS cluster has exactly one endpoint",
        ),
    ];
    for (cluster, want) in cases {
        assert_eq!(refusal(cluster), want);
    }
    let weightless = ClusterLoadAssignment {
        endpoints: {
            let mut zero = endpoint("127.0.0.1:1", "");
            zero.load_balancing_weight = number(0);
            assignment("c", vec![zero]).endpoints
        },
        ..assignment("c", vec![])
    };
    assert_eq!(refusal(weightless), "endpoints[0].lb_endpoints[0].load_balancing_weight: 0 is not within 1 and 4294967295");
}

#[test]
fn what_only_tunes_is_noted() {
    let cluster = Cluster { circuit_breakers: Some(Default::default()), ..static_cluster("c", &[]) };
    assert_eq!(notes(cluster), ["c: circuit_breakers: has no effect yet"]);
}

#[test]
fn a_refused_cluster_keeps_its_last_good_version() {
    let mut bench = Bench::new();
    bench.accept(&[static_cluster("a", &["127.0.0.1:1"]), static_cluster("b", &["127.0.0.1:2"])]);
    let bad = Cluster { lb_policy: 99, ..static_cluster("a", &["127.0.0.1:9"]) };
    let verdict = bench.take(&[bad, static_cluster("b", &["127.0.0.1:3"])], &[]);
    assert_eq!(verdict.refused.len(), 1);
    assert_eq!(&*verdict.refused[0].name, "a");
    let config = bench.config();
    assert_eq!(addresses(get(&config, "a").unwrap()), ["127.0.0.1:1"]);
    assert_eq!(addresses(get(&config, "b").unwrap()), ["127.0.0.1:3"]);
}

#[test]
fn what_did_not_change_keeps_its_arc() {
    let mut bench = Bench::new();
    bench.accept(&[eds("a"), eds("b")]);
    bench.accept(&[
        assignment("a", vec![endpoint("10.0.0.1:1", "w"), endpoint("10.0.0.2:1", "w")]),
        assignment("b", vec![endpoint("10.0.0.3:1", "w")]),
    ]);
    let before = bench.config();
    let after = bench.config();
    assert!(Arc::ptr_eq(get(&before, "a").unwrap(), get(&after, "a").unwrap()));
    assert!(Arc::ptr_eq(&before.local, &after.local) && Arc::ptr_eq(&before.names, &after.names));
    // One endpoint leaves, one comes.
    let open = &list(get(&before, "a").unwrap()).endpoints[1];
    open.live.open_requests.store(5, Ordering::Relaxed);
    bench.accept(&[assignment("a", vec![endpoint("10.0.0.2:1", "w"), endpoint("10.0.0.9:1", "w")])]);
    let after = bench.config();
    assert!(Arc::ptr_eq(get(&before, "b").unwrap(), get(&after, "b").unwrap()));
    assert!(Arc::ptr_eq(open, &list(get(&after, "a").unwrap()).endpoints[0]));
    // Another connect timeout: a new cluster, the same endpoints and live state.
    bench.accept(&[Cluster { connect_timeout: seconds(9), ..eds("a") }]);
    let retuned = bench.config();
    let (old, new) = (get(&after, "a").unwrap(), get(&retuned, "a").unwrap());
    assert!(!Arc::ptr_eq(old, new) && Arc::ptr_eq(list(old), list(new)) && Arc::ptr_eq(&old.live, &new.live));
    // Another weight: a new endpoint with the same live state.
    let mut heavier = endpoint("10.0.0.2:1", "w");
    heavier.load_balancing_weight = number(4);
    bench.accept(&[assignment("a", vec![heavier])]);
    let weighted = bench.config();
    let endpoint = &list(get(&weighted, "a").unwrap()).endpoints[0];
    assert_eq!((endpoint.weight, endpoint.live.open_requests.load(Ordering::Relaxed)), (4, 5));
}

#[test]
fn an_endpoint_that_returns_while_requests_are_open_keeps_its_count() {
    let mut bench = Bench::new();
    bench.accept(&[eds("a")]).accept(&[assignment("a", vec![endpoint("10.0.0.1:1", "w")])]);
    let live = Arc::clone(&list(get(&bench.config(), "a").unwrap()).endpoints[0].live);
    live.open_requests.store(2, Ordering::Relaxed);
    bench.accept(&[assignment("a", vec![])]);
    assert!(list(get(&bench.config(), "a").unwrap()).endpoints.is_empty());
    bench.accept(&[assignment("a", vec![endpoint("10.0.0.1:1", "w")])]);
    assert!(Arc::ptr_eq(&live, &list(get(&bench.config(), "a").unwrap()).endpoints[0].live));
}

#[test]
fn a_new_cluster_is_seen_with_its_first_endpoints() {
    let mut bench = Bench::new();
    bench.accept(&[eds("a")]);
    assert!(get(&bench.config(), "a").is_none());
    assert_eq!(bench.compiler.next_deadline(), Some(bench.now + WARMING));
    bench.accept(&[assignment("a", vec![endpoint("10.0.0.1:1", "w")])]);
    assert_eq!(addresses(get(&bench.config(), "a").unwrap()), ["10.0.0.1:1"]);
    assert_eq!(bench.compiler.next_deadline(), None);
}

#[test]
fn a_new_cluster_without_endpoints_is_seen_after_a_while() {
    let mut bench = Bench::new();
    bench.accept(&[eds("a")]);
    bench.now += WARMING - Duration::from_millis(1);
    assert!(get(&bench.config(), "a").is_none());
    bench.now += Duration::from_millis(1);
    assert!(addresses(get(&bench.config(), "a").unwrap()).is_empty());
    assert_eq!(bench.compiler.next_deadline(), None);
}

#[test]
fn an_old_cluster_serves_until_the_retyped_one_has_endpoints() {
    let mut bench = Bench::new();
    bench.accept(&[static_cluster("a", &["10.0.0.1:1"])]);
    let before = bench.config();
    bench.accept(&[eds("a")]);
    assert!(Arc::ptr_eq(get(&before, "a").unwrap(), get(&bench.config(), "a").unwrap()));
    // An empty answer is no reason to take away what serves.
    bench.accept(&[assignment("a", vec![])]);
    assert!(Arc::ptr_eq(get(&before, "a").unwrap(), get(&bench.config(), "a").unwrap()));
    bench.accept(&[assignment("a", vec![endpoint("10.0.0.2:1", "w")])]);
    assert_eq!(addresses(get(&bench.config(), "a").unwrap()), ["10.0.0.2:1"]);
    bench.take::<Cluster>(&[], &["a"]);
    assert!(get(&bench.config(), "a").is_none());
}

#[test]
fn endpoints_nobody_follows_are_forgotten() {
    let mut bench = Bench::new();
    bench.accept(&[eds("a")]).accept(&[assignment("a", vec![endpoint("10.0.0.1:1", "w")])]);
    bench.config();
    bench.take::<Cluster>(&[], &["a"]);
    bench.config();
    // Asked for anew, so the old answer does not count.
    bench.accept(&[eds("a")]);
    assert!(get(&bench.config(), "a").is_none());
    assert_eq!(bench.compiler.missing().len(), 1);
}

#[test]
fn a_name_table_knows_every_spelling() {
    let info = |ips: &[&str]| NameInfo { ips: ips.iter().map(|ip| (*ip).to_owned()).collect(), ..Default::default() };
    let table = NameTable { table: [("Product.shop.svc.".to_owned(), info(&["240.240.0.1"]))].into() };
    let mut bench = Bench::new();
    bench.accept(&[table]);
    assert_eq!(bench.config().names.resolve("product.shop.svc"), "240.240.0.1".parse().ok());
    let bad = NameTable { table: [("x".to_owned(), info(&["1.2.3.4", "y"]))].into() };
    assert_eq!(refusal(bad), "table[\"x\"].ips[1]: \"y\" is no IP address");
}
