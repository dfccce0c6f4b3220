use super::*;
use crate::wire::{
    envoy::{config::listener::v3::Filter, extensions::filters::network::http_connection_manager::v3::Rds},
    google::protobuf::Any,
};

fn eds(name: &str) -> Cluster {
    let kind = Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32));
    Cluster { name: name.into(), cluster_discovery_type: kind, ..Cluster::default() }
}

fn listener(name: &str, route: &str) -> Listener {
    let rds = Rds { route_config_name: route.into(), ..Rds::default() };
    let hcm = HttpConnectionManager { route_specifier: Some(RouteSpecifier::Rds(rds)), ..HttpConnectionManager::default() };
    let filter = Filter { config_type: Some(filter::ConfigType::TypedConfig(pack(&hcm))), ..Filter::default() };
    let chain = FilterChain { filters: vec![filter], ..FilterChain::default() };
    Listener { name: name.into(), filter_chains: vec![chain], ..Listener::default() }
}

fn endpoints(name: &str) -> ClusterLoadAssignment {
    ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() }
}

fn response<M: ResourceMessage>(nonce: &str, generation: u64, resources: &[M], removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: generation.to_string(),
        type_url: M::TYPE.type_url().into(),
        nonce: nonce.into(),
        resources: resources.iter().map(|message| Encoded::of(message).to_resource(M::TYPE)).collect(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn accept<M: ResourceMessage>(
    subscription: &mut Subscription,
    nonce: &str,
    resources: &[M],
    removed: &[&str],
) -> Vec<DeltaDiscoveryRequest> {
    let update = subscription.receive(response(nonce, 1, resources, removed)).unwrap();
    assert!(update.refused.is_empty(), "{:?}", update.refused);
    subscription.answer(update, Vec::new())
}

fn client() -> Subscription {
    Subscription::new(Node::sidecar("127.0.0.1".parse().unwrap(), "a-0", "default"))
}

/// `type +subscribed -unsubscribed` of each request, with `ack N` or `nack N`.
fn sketch(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
    let line = |request: &DeltaDiscoveryRequest| {
        let mut text = ResourceType::from_type_url(&request.type_url).unwrap().to_string();
        request.resource_names_subscribe.iter().for_each(|name| text += &format!(" +{name}"));
        request.resource_names_unsubscribe.iter().for_each(|name| text += &format!(" -{name}"));
        request.initial_resource_versions.keys().for_each(|name| text += &format!(" ={name}"));
        if !request.response_nonce.is_empty() {
            text += if request.error_detail.is_some() { " nack " } else { " ack " };
            text += &request.response_nonce;
        }
        text
    };
    requests.iter().map(line).collect()
}

#[test]
fn a_first_stream_asks_for_the_wildcards_and_says_who_it_is_once() {
    let requests = client().connect();
    assert_eq!(sketch(&requests), ["cds", "lds", "vhds +*", "nds"]);
    let nodes: Vec<bool> = requests.iter().map(|request| request.node.is_some()).collect();
    assert_eq!(nodes, [true, false, false, false]);
}

#[test]
fn endpoints_follow_clusters_and_are_asked_for_before_the_ack() {
    let mut subscription = client();
    subscription.connect();
    let mut named = eds("b");
    named.eds_cluster_config = Some(cluster::EdsClusterConfig { service_name: "b-service".into(), ..cluster::EdsClusterConfig::default() });
    let fixed = Cluster { name: "static".into(), ..Cluster::default() };
    let requests = accept(&mut subscription, "1", &[eds("a"), named, fixed], &[]);
    assert_eq!(sketch(&requests), ["eds +a +b-service", "cds ack 1"]);
    assert_eq!(subscription.missing(ResourceType::Endpoint), [Arc::from("a"), Arc::from("b-service")]);
    assert_eq!(sketch(&accept(&mut subscription, "2", &[endpoints("a"), endpoints("b-service")], &[])), ["eds ack 2"]);
    assert_eq!(sketch(&accept(&mut subscription, "3", &[eds("a")], &["b"])), ["eds -b-service", "cds ack 3"]);
    assert_eq!(subscription.held(ResourceType::Endpoint).map(|(name, _)| name).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn routes_follow_listeners() {
    let mut subscription = client();
    subscription.connect();
    let requests = accept(&mut subscription, "1", &[listener("l", "80"), listener("m", "80"), listener("n", "http_proxy")], &[]);
    assert_eq!(sketch(&requests), ["rds +80 +http_proxy", "lds ack 1"]);
    assert_eq!(sketch(&accept::<Listener>(&mut subscription, "2", &[], &["l"])), ["lds ack 2"]);
    assert_eq!(sketch(&accept::<Listener>(&mut subscription, "3", &[], &["m"])), ["rds -80", "lds ack 3"]);
}

#[test]
fn a_refused_resource_keeps_its_last_good_version_and_is_named() {
    let mut subscription = client();
    subscription.connect();
    accept(&mut subscription, "1", &[eds("a"), eds("b")], &[]);
    let before = subscription.held(ResourceType::Cluster).map(|(_, version)| version.to_owned()).collect::<Vec<_>>();
    let changed = Cluster { alt_stat_name: "x".into(), ..eds("a") };
    let update = subscription.receive(response("2", 2, &[changed.clone(), eds("c")], &[])).unwrap();
    let requests = subscription.answer(update, vec![Refusal::new("a", "no such policy")]);
    assert_eq!(sketch(&requests), ["eds +c", "cds nack 2"]);
    let error = requests[1].error_detail.clone().unwrap();
    assert_eq!(error.message, "a: no such policy");
    let detail: ResourceError = unpack(&error.details[0]).unwrap();
    assert_eq!(detail.resource_name.unwrap().name, "a");
    let held: BTreeMap<_, _> = subscription.held(ResourceType::Cluster).collect();
    assert_eq!((held["a"], held.len()), (before[0].as_str(), 3));
    assert_eq!(subscription.refused().collect::<Vec<_>>(), [(ResourceType::Cluster, "a", "no such policy")]);
    accept(&mut subscription, "3", &[changed], &[]);
    assert_eq!(subscription.refused().count(), 0);
}

#[test]
fn what_cannot_be_decoded_is_refused_by_name_and_the_rest_goes_ahead() {
    let mut subscription = client();
    subscription.connect();
    let garbage = Any { type_url: ResourceType::Cluster.type_url().into(), value: vec![0xff; 3].into() };
    let other = Encoded::of(&endpoints("x")).to_any(ResourceType::Endpoint);
    let mut message = response("1", 1, &[eds("a"), eds("bad"), eds("other"), eds("none"), eds("a"), eds("")], &[]);
    message.resources[1].resource = Some(garbage);
    message.resources[2].resource = Some(other);
    message.resources[3].resource = None;
    let update = subscription.receive(message).unwrap();
    assert_eq!(update.changed.len(), 1);
    let refused: Vec<String> = update.refused.iter().map(|refusal| refusal.name.to_string()).collect();
    assert_eq!(refused, ["bad", "other", "none", "a", ""]);
}

#[test]
fn an_unknown_type_is_refused_with_its_nonce() {
    let mut subscription = client();
    let message = DeltaDiscoveryResponse { type_url: "type.googleapis.com/x.Y".into(), nonce: "7".into(), ..Default::default() };
    let refused = subscription.receive(message).unwrap_err();
    assert_eq!((refused.request.response_nonce.as_str(), refused.request.type_url.as_str()), ("7", "type.googleapis.com/x.Y"));
    assert!(refused.request.error_detail.is_some());
}

#[test]
fn a_new_stream_reports_what_is_held() {
    let mut subscription = client();
    subscription.connect();
    accept(&mut subscription, "1", &[eds("a"), eds("b")], &[]);
    accept(&mut subscription, "2", &[endpoints("a")], &[]);
    accept(&mut subscription, "3", &[listener("l", "80")], &[]);
    assert_eq!(sketch(&subscription.connect()), ["cds =a =b", "eds +a +b =a", "lds =l", "rds +80", "vhds +*", "nds"]);
}

#[test]
fn a_name_that_is_not_there_counts_as_answered_but_is_not_reported() {
    let mut subscription = client();
    subscription.connect();
    accept(&mut subscription, "1", &[eds("a")], &[]);
    assert_eq!(subscription.missing(ResourceType::Endpoint).len(), 1);
    accept::<ClusterLoadAssignment>(&mut subscription, "2", &[], &["a"]);
    assert_eq!(subscription.missing(ResourceType::Endpoint).len(), 0);
    assert_eq!(sketch(&subscription.connect())[..2], ["cds =a", "eds +a"]);
}

#[test]
fn a_stream_is_complete_when_every_type_and_every_name_was_answered() {
    let mut subscription = client();
    subscription.connect();
    accept(&mut subscription, "1", &[eds("a")], &[]);
    accept(&mut subscription, "2", &[listener("l", "80")], &[]);
    accept::<VirtualHost>(&mut subscription, "3", &[], &[]);
    accept::<NameTable>(&mut subscription, "4", &[], &[]);
    assert!(!subscription.is_complete());
    accept(&mut subscription, "5", &[endpoints("a")], &[]);
    assert!(!subscription.is_complete());
    accept(&mut subscription, "6", &[RouteConfiguration { name: "80".into(), ..Default::default() }], &[]);
    assert!(subscription.is_complete());
    assert_eq!(subscription.generation(), Some(1));
}

#[test]
fn a_disk_copy_spares_the_server_what_is_unchanged() {
    let mut subscription = client();
    subscription.restore(ResourceType::Cluster, [Encoded::of(&eds("a"))]);
    subscription.restore(ResourceType::Endpoint, [Encoded::of(&endpoints("a"))]);
    assert_eq!(sketch(&subscription.connect())[..2], ["cds =a", "eds +a =a"]);
}
