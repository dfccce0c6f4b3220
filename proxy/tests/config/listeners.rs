//! Listeners, filter chains, connection managers.

use std::sync::Arc;
use std::time::Duration;

use hcm::http_connection_manager::{CodecType, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig};
use pillion_proxy::config::listener::{
    Codec, Direction, EscapedSlashes, HttpManager, Listener, NetworkFilter, PathForm, RouteSource, TcpClusters, TransportMatch,
};
use pillion_xds::resource::pack;
use pillion_xds::wire::envoy::config::accesslog::v3 as log;
use pillion_xds::wire::envoy::config::core::v3 as core;
use pillion_xds::wire::envoy::config::listener::v3 as wire;
use pillion_xds::wire::envoy::config::route::v3::RouteConfiguration;
use pillion_xds::wire::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use pillion_xds::wire::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use pillion_xds::wire::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use pillion_xds::wire::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use pillion_xds::wire::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;

use super::wire::*;

fn compile(listener: wire::Listener) -> Arc<Listener> {
    let name = listener.name.clone();
    let mut bench = Bench::new();
    bench.accept(&[listener]);
    Arc::clone(bench.config().listeners.get(&name).unwrap())
}

fn http(listener: &Listener) -> &HttpManager {
    match &listener.chains[0].filter {
        NetworkFilter::Http(manager) => manager,
        NetworkFilter::Tcp(_) => panic!("a TCP proxy"),
    }
}

fn tcp_proxy(cluster: &str) -> TcpProxy {
    TcpProxy { cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())), ..Default::default() }
}

fn socket<M: prost::Message + prost::Name>(context: &M) -> Option<core::TransportSocket> {
    let config_type = Some(core::transport_socket::ConfigType::TypedConfig(pack(context)));
    Some(core::TransportSocket { name: "socket".into(), config_type })
}

#[test]
fn an_outbound_listener_of_the_contract_compiles() {
    let manager = hcm::HttpConnectionManager {
        http_filters: [
            "envoy.filters.http.fault",
            "envoy.filters.http.cors",
            "envoy.filters.http.dynamic_forward_proxy",
            "envoy.filters.http.router",
        ]
        .map(filter)
        .to_vec(),
        upgrade_configs: ["websocket", "CONNECT"].map(|kind| UpgradeConfig { upgrade_type: kind.into(), ..Default::default() }).to_vec(),
        stream_idle_timeout: seconds(0),
        server_name: "istio-envoy".into(),
        max_request_headers_kb: number(96),
        normalize_path: yes(),
        ..manager("http_proxy")
    };
    let compiled = compile(http_listener("http_proxy", "127.0.0.1:15001", &manager));
    assert_eq!((compiled.address, compiled.bind), ("127.0.0.1:15001".parse().unwrap(), true));
    assert_eq!(compiled.direction, Direction::Outbound);
    let manager = http(&compiled);
    assert!(
        manager.connect
            && manager.fault
            && manager.cors
            && manager.paths == PathForm { normalize: true, ..PathForm::AS_IT_IS }
            && manager.generate_request_id
            && !manager.use_remote_address
    );
    assert_eq!(manager.upgrades, ["websocket".into()]);
    assert_eq!((manager.stream_idle_timeout, manager.idle_timeout), (None, Some(Duration::from_secs(3600))));
    assert_eq!((manager.max_request_header_bytes, manager.max_request_headers), (96 << 10, 100));
    assert_eq!(manager.server_header.as_ref().unwrap(), "istio-envoy");
    assert!(matches!(&manager.routes, RouteSource::Named(name) if &**name == "http_proxy"));
    assert!(manager.access_log.is_off());
    assert_eq!(manager.codec, Codec::Auto);
}

#[test]
fn paths_get_the_form_that_the_manager_names() {
    let cases = [
        (0, false, EscapedSlashes::Keep),
        (1, true, EscapedSlashes::Keep),
        (2, false, EscapedSlashes::Refuse),
        (4, true, EscapedSlashes::Unescape),
    ];
    for (action, merge_slashes, escaped_slashes) in cases {
        let manager = hcm::HttpConnectionManager { path_with_escaped_slashes_action: action, merge_slashes, ..manager("80") };
        let compiled = compile(http_listener("0.0.0.0_80", "0.0.0.0:80", &manager));
        assert_eq!(http(&compiled).paths, PathForm { normalize: false, merge_slashes, escaped_slashes }, "{action}");
    }
}

#[test]
fn an_inbound_listener_sniffs_what_its_chains_ask_for() {
    let routes = inline_routes("inbound|9080||", vec![host("inbound", &["*"], vec![route_of(forward_to("inbound|9080||"))])]);
    let inline = hcm::HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        codec_type: CodecType::Http2 as i32,
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        ..manager("")
    };
    let matched = wire::FilterChain {
        name: "http".into(),
        filter_chain_match: Some(wire::FilterChainMatch {
            application_protocols: vec!["http/1.1".into(), "h2c".into()],
            transport_protocol: "raw_buffer".into(),
            destination_port: number(9080),
            prefix_ranges: vec![core::CidrRange { address_prefix: "10.0.0.0".into(), prefix_len: number(8) }],
            server_names: vec!["*.Example.com".into()],
            ..Default::default()
        }),
        transport_socket: socket(&RawBuffer::default()),
        ..chain(&inline)
    };
    let listener = wire::Listener {
        traffic_direction: core::TrafficDirection::Inbound as i32,
        listener_filters: vec![wire::ListenerFilter { name: "envoy.filters.listener.http_inspector".into(), ..Default::default() }],
        listener_filters_timeout: seconds(0),
        continue_on_listener_filters_timeout: true,
        filter_chains: vec![matched, chain(&tcp_proxy("inbound|9080||"))],
        default_filter_chain: Some(chain(&tcp_proxy("BlackHoleCluster"))),
        bind_to_port: Some(Default::default()),
        ..http_listener("127.0.0.1_20080", "127.0.0.1:20080", &inline)
    };
    let compiled = compile(listener);
    assert_eq!((compiled.direction, compiled.bind), (Direction::Inbound, false));
    assert!(compiled.needs_sniff() && compiled.sniff_timeout.is_none() && compiled.continue_on_sniff_timeout);
    let matches = &compiled.chains[0].matches;
    assert_eq!((matches.transport, matches.destination_port), (TransportMatch::RawBuffer, Some(9080)));
    assert_eq!(matches.destination_ranges, [("10.0.0.0".parse().unwrap(), 8)]);
    assert_eq!(matches.server_names, ["*.example.com".into()]);
    assert_eq!((&*compiled.chains[0].name, &*compiled.chains[1].name), ("http", "chain-1"));
    let manager = http(&compiled);
    assert!(manager.server_header.is_none() && manager.codec == Codec::Http2);
    assert!(matches!(&manager.routes, RouteSource::Inline(table) if table.virtual_host("anything").is_some()));
    assert_eq!(manager.stream_idle_timeout, Some(Duration::from_secs(300)));
}

#[test]
fn a_tcp_proxy_weighs_its_clusters() {
    let weighted = tcp_proxy::WeightedCluster {
        clusters: [("a", 1), ("b", 3)]
            .map(|(name, weight)| tcp_proxy::weighted_cluster::ClusterWeight { name: name.into(), weight, metadata_match: None })
            .to_vec(),
    };
    let proxy = TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)),
        idle_timeout: seconds(0),
        max_connect_attempts: number(3),
        ..Default::default()
    };
    let compiled = compile(wire::Listener { filter_chains: vec![chain(&proxy)], ..http_listener("tcp", "240.240.0.1:5432", &manager("")) });
    let NetworkFilter::Tcp(proxy) = &compiled.chains[0].filter else { panic!("an HTTP filter") };
    assert!(matches!(&proxy.clusters, TcpClusters::Weighted(list) if list.iter().map(|(sum, _)| *sum).eq([1, 4])));
    assert_eq!((proxy.idle_timeout, proxy.max_connect_attempts), (None, 3));
}

#[test]
fn what_cannot_be_done_is_refused_with_its_field() {
    let with = |change: fn(&mut hcm::HttpConnectionManager)| {
        let mut manager = manager("r");
        change(&mut manager);
        http_listener("l", "127.0.0.1:1", &manager)
    };
    let base = || http_listener("l", "127.0.0.1:1", &manager("r"));
    let chain_with = |change: fn(&mut wire::FilterChain)| {
        let mut listener = base();
        change(&mut listener.filter_chains[0]);
        listener
    };
    let at = "filter_chains[0].filters[0].typed_config";
    let cases = [
        (wire::Listener { address: None, ..base() }, "address: is missing".to_owned()),
        (wire::Listener { address: address("host:1"), ..base() }, "address.address: \"host\" is no IP address".into()),
        (wire::Listener { filter_chains: vec![], ..base() }, "resource: has no filter chain".into()),
        (wire::Listener { enable_mptcp: true, ..base() }, "enable_mptcp: is not supported".into()),
        (
            wire::Listener {
                listener_filters: vec![wire::ListenerFilter { name: "envoy.filters.listener.proxy_protocol".into(), ..Default::default() }],
                ..base()
            },
            "listener_filters[0]: filter envoy.filters.listener.proxy_protocol is not supported".into(),
        ),
        (
            chain_with(|chain| chain.transport_socket = socket(&DownstreamTlsContext::default())),
            "filter_chains[0].transport_socket.typed_config: transport socket \
             envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext is not supported yet"
                .into(),
        ),
        (chain_with(|chain| chain.filters.clear()), "filter_chains[0].filters: has no terminal filter".into()),
        (
            chain_with(|chain| chain.filters.push(network_filter(&TcpProxy::default()))),
            "filter_chains[0].filters[1]: filter filter comes after the terminal one".into(),
        ),
        (
            chain_with(|chain| chain.filters = vec![network_filter(&RawBuffer::default())]),
            format!("{at}: filter envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer is not supported"),
        ),
        (
            chain_with(|chain| {
                chain.filter_chain_match = Some(wire::FilterChainMatch { source_ports: vec![1], ..Default::default() });
            }),
            "filter_chains[0].filter_chain_match.source_ports: is not supported".into(),
        ),
        (
            wire::Listener {
                filter_chains: ["x", "x"].map(|name| wire::FilterChain { name: name.into(), ..chain(&tcp_proxy("c")) }).to_vec(),
                ..base()
            },
            "filter_chains[1].name: \"x\" is another chain's".into(),
        ),
        (
            with(|m| m.http_filters.insert(0, filter("envoy.filters.http.rbac"))),
            format!("{at}.http_filters[0]: filter envoy.filters.http.rbac is not supported"),
        ),
        (with(|m| m.http_filters.clear()), format!("{at}.http_filters: do not end with envoy.filters.http.router")),
        (with(|m| m.route_specifier = None), format!("{at}: has no route_specifier")),
        (with(|m| m.max_request_headers_kb = number(9000)), format!("{at}.max_request_headers_kb: 9000 is not within 1 and 8192")),
        (with(|m| m.codec_type = CodecType::Http3 as i32), format!("{at}.codec_type: HTTP3 is not supported")),
        (
            with(|m| m.path_with_escaped_slashes_action = 3),
            format!("{at}.path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT is not supported"),
        ),
        (
            with(|m| {
                m.route_specifier = Some(RouteSpecifier::RouteConfig(RouteConfiguration {
                    virtual_hosts: vec![host("a", &["x"], vec![]), host("b", &["X"], vec![])],
                    ..Default::default()
                }))
            }),
            format!("{at}.route_config.virtual_hosts: domain X is claimed by virtual hosts a and b"),
        ),
        (
            with(|m| {
                m.access_log = vec![log::AccessLog {
                    config_type: Some(log::access_log::ConfigType::TypedConfig(pack(&FileAccessLog {
                        path: "/no/such/folder/log".into(),
                        ..Default::default()
                    }))),
                    ..Default::default()
                }]
            }),
            format!("{at}.access_log[0].typed_config.path: cannot open /no/such/folder/log: No such file or directory (os error 2)"),
        ),
    ];
    for (listener, want) in cases {
        assert_eq!(refusal(listener), want);
    }
}

#[test]
fn an_optional_filter_is_skipped_and_said_so() {
    let optional = hcm::HttpFilter { is_optional: true, ..filter("some.thing") };
    let manager = hcm::HttpConnectionManager { http_filters: vec![optional, filter("envoy.filters.http.router")], ..manager("r") };
    let want = "l: filter_chains[0].filters[0].typed_config.http_filters[0]: optional filter some.thing is skipped";
    assert_eq!(notes(http_listener("l", "127.0.0.1:1", &manager)), [want]);
}

#[test]
fn access_logs_compile_from_the_contracts_formats() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log").to_str().unwrap().to_owned();
    let logs = |format: Option<core::substitution_format_string::Format>| {
        let format = format.map(|format| {
            file_access_log::AccessLogFormat::LogFormat(core::SubstitutionFormatString { format: Some(format), ..Default::default() })
        });
        let file = FileAccessLog { path: path.clone(), access_log_format: format };
        let config_type = Some(log::access_log::ConfigType::TypedConfig(pack(&file)));
        vec![log::AccessLog { name: "envoy.access_loggers.file".into(), filter: None, config_type }]
    };
    let source = |text: &str| {
        let specifier = Some(core::data_source::Specifier::InlineString(text.into()));
        core::substitution_format_string::Format::TextFormatSource(core::DataSource { specifier, ..Default::default() })
    };
    let json = core::substitution_format_string::Format::JsonFormat(object(&[("code", text("%RESPONSE_CODE%"))]));
    for format in [None, Some(source("%PROTOCOL%\n")), Some(json)] {
        let manager = hcm::HttpConnectionManager { access_log: logs(format), ..manager("r") };
        let compiled = compile(http_listener("l", "127.0.0.1:1", &manager));
        assert!(!http(&compiled).access_log.is_off());
    }
    let manager = hcm::HttpConnectionManager { access_log: logs(Some(source("%NOPE%"))), ..manager("r") };
    let want = "filter_chains[0].filters[0].typed_config.access_log[0].typed_config.log_format: unknown operator %NOPE%";
    assert_eq!(refusal(http_listener("l", "127.0.0.1:1", &manager)), want);
}

#[test]
fn listeners_that_did_not_change_keep_their_arc() {
    let mut bench = Bench::new();
    let (a, b) = (http_listener("a", "127.0.0.1:1", &manager("r")), http_listener("b", "127.0.0.1:2", &manager("r")));
    bench.accept(&[a.clone(), b]);
    let before = bench.config();
    bench.accept(&[a, http_listener("b", "127.0.0.1:3", &manager("r"))]);
    let after = bench.config();
    let same = |name: &str| Arc::ptr_eq(before.listeners.get(name).unwrap(), after.listeners.get(name).unwrap());
    assert!(same("a") && !same("b"));
    bench.take::<wire::Listener>(&[], &["a"]);
    assert!(bench.config().listeners.get("a").is_none());
}
