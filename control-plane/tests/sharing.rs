//! What is shared, and what an edit touches.
//!
//! In:  worlds of a few services, edited. Out: which resources change their version, and which bytes are the same memory.

#[allow(dead_code)] // each test takes what it needs
mod world;

use std::sync::Arc;

use pillion_api::{effective::Effective, set::ObjectSet};
use pillion_control_plane::model::{instance::Instances, world::World};
use pillion_xds::resource::{NodeConfig, ResourceType};
use world::{build, instances, node, parse};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {selector: {app: ratings}, ports: [{name: http, port: 80}]}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: client, labels: {app: client}}
spec: {replicas: 2}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: stranger, namespace: other, labels: {app: stranger}}
spec: {}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: reviews, labels: {app: reviews, version: v1}}
spec: {replicas: 2, ports: [{name: http, containerPort: 9080}]}
---
";

fn route(to: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\n\
         spec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}\n---\n"
    )
}

fn objects(text: &str) -> ObjectSet {
    let parsed = parse("in.yaml", text);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    parsed.set
}

fn changed(a: &NodeConfig, b: &NodeConfig) -> Vec<String> {
    let mut names = Vec::new();
    for kind in ResourceType::ALL {
        let (old, new) = (a.of(kind), b.of(kind));
        let all: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
        names.extend(all.into_iter().filter(|name| old.get(*name) != new.get(*name)).map(|name| format!("{kind} {name}")));
    }
    names
}

#[test]
fn an_edited_route_touches_its_virtual_hosts_only() {
    let translator = world::translator().0;
    let first = build(1, objects(&(SERVICES.to_owned() + &route("reviews"))), None);
    let client = node(&first, "client as pillion");
    let before = translator.translate(&first, &client);
    let translated = translator.virtual_hosts_translated();

    // The edited object stands elsewhere in the file, so that every other one moves, too.
    let second = build(2, objects(&(route("ratings") + SERVICES)), Some(&first));
    let after = translator.translate(&second, &client);
    assert_eq!(
        changed(&before, &after),
        ["vhds 80/reviews.default.svc.cluster.local:80", "vhds http_proxy/reviews.default.svc.cluster.local:80"]
    );
    assert_eq!(translator.virtual_hosts_translated() - translated, 2);
    assert_eq!(after.generation, 2);
    for kind in [ResourceType::Endpoint, ResourceType::NameTable] {
        assert!(std::ptr::eq(before.of(kind), after.of(kind)), "{kind} was made again");
    }
}

#[test]
fn an_edit_of_a_delegate_reaches_those_who_delegate_to_it() {
    let root = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n\
                spec: {hosts: [reviews], http: [{delegate: {name: leaf}}]}\n---\n";
    let leaf = |to: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: leaf}}\n\
             spec: {{http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}\n---\n"
        )
    };
    let first = build(1, objects(&format!("{SERVICES}{root}{}", leaf("reviews"))), None);
    let translator = world::translator().0;
    let client = node(&first, "client as pillion");
    let before = translator.translate(&first, &client);
    let cases = [(2, "reviews", false), (3, "ratings", true)];
    for (generation, to, changes) in cases {
        let next = build(generation, objects(&format!("{SERVICES}{root}{}", leaf(to))), Some(&first));
        assert_eq!(!changed(&before, &translator.translate(&next, &client)).is_empty(), changes, "{to}");
    }
}

#[test]
fn nothing_changes_when_nothing_does() {
    let translator = world::translator().0;
    let first = build(1, objects(SERVICES), None);
    let client = node(&first, "client as pillion");
    let before = translator.translate(&first, &client);
    let second = build(2, objects(SERVICES), Some(&first));
    assert!(translator.translate(&second, &client).same_resources(&before));
    // Without any memory of the first generation, too.
    let alone = build(2, objects(SERVICES), None);
    assert!(world::translator().0.translate(&alone, &client).same_resources(&before));
}

#[test]
fn proxies_that_see_the_same_share_the_same_bytes() {
    let translator = world::translator().0;
    let world = build(1, objects(&(SERVICES.to_owned() + &route("reviews"))), None);
    let client = translator.translate(&world, &node(&world, "client as pillion"));
    let reviews = translator.translate(&world, &node(&world, "reviews as pillion"));
    for kind in [ResourceType::Endpoint, ResourceType::VirtualHost, ResourceType::Route, ResourceType::NameTable] {
        assert!(std::ptr::eq(client.of(kind), reviews.of(kind)), "{kind}");
    }
    let name = "0.0.0.0_80";
    let (a, b) = (client.get(ResourceType::Listener, name).unwrap(), reviews.get(ResourceType::Listener, name).unwrap());
    assert_eq!(a.body.as_ptr(), b.body.as_ptr());
    let again = translator.translate(&world, &node(&world, "client as pillion"));
    assert!(Arc::ptr_eq(&client, &again));

    let stranger = translator.translate(&world, &node(&world, "other/stranger as pillion"));
    let cluster = "outbound|80||reviews.default.svc.cluster.local";
    let (a, b) = (client.get(ResourceType::Endpoint, cluster).unwrap(), stranger.get(ResourceType::Endpoint, cluster).unwrap());
    assert_eq!(a.body.as_ptr(), b.body.as_ptr(), "endpoints do not depend on who asks");
}

#[test]
fn strangers_that_come_and_go_leave_nothing_behind() {
    let translator = world::translator().0;
    let world = build(1, objects(&(SERVICES.to_owned() + &route("reviews"))), None);
    let client = node(&world, "client as pillion");
    let held = translator.translate(&world, &client);
    for number in 0..500 {
        let mut stranger = client.clone();
        (stranger.id, stranger.namespace) = (format!("stranger-{number}"), format!("ns-{number}"));
        translator.translate(&world, &stranger);
    }
    assert!(translator.scopes() <= 40, "{} kinds of clients are remembered", translator.scopes());
    let translated = translator.virtual_hosts_translated();
    assert!(Arc::ptr_eq(&held, &translator.translate(&world, &client)), "who is served is remembered");
    assert_eq!(translator.virtual_hosts_translated(), translated);
}

fn with_ready(all: &Instances, name: &str, ready: bool) -> Instances {
    let mut all = all.as_ref().clone();
    all.values_mut().filter(|instance| instance.id.name == name).for_each(|instance| instance.ready = ready);
    Arc::new(all)
}

#[test]
fn an_endpoint_touches_the_endpoints_of_its_service_only() {
    let translator = world::translator().0;
    let set = objects(SERVICES);
    let all = instances(&Effective::new(set.clone(), None));
    let fewer = with_ready(&all, "reviews-1", false);
    let first = Arc::new(World::build(1, set.clone(), fewer, None));
    let client = node(&first, "client as pillion");
    let before = translator.translate(&first, &client);
    let second = Arc::new(World::build(2, set, all, Some(&first)));
    let after = translator.translate(&second, &client);
    assert_eq!(changed(&before, &after), ["eds outbound|80||reviews.default.svc.cluster.local"]);
}

#[test]
fn an_older_world_is_still_translated_as_it_was() {
    let translator = world::translator().0;
    let first = build(1, objects(&(SERVICES.to_owned() + &route("reviews"))), None);
    let client = node(&first, "client as pillion");
    let before = translator.translate(&first, &client);
    let second = build(2, objects(&(SERVICES.to_owned() + &route("ratings"))), Some(&first));
    translator.translate(&second, &client);
    assert!(translator.translate(&first, &client).same_resources(&before));
}

#[test]
fn an_edit_of_what_a_workload_entry_says_of_itself_reaches_those_who_select_it() {
    let text = |version: &str, zone: &str| {
        format!(
            "{SERVICES}apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
             metadata: {{name: vm, labels: {{app: ratings, version: {version}, istio-locality: {zone}}}}}\nspec: {{address: 10.8.0.1}}\n"
        )
    };
    let translator = world::translator().0;
    let first = build(1, objects(&text("v1", "eu.a")), None);
    let client = node(&first, "client as pillion");
    let mut before = translator.translate(&first, &client);
    let mut world = first;
    for (generation, version, zone) in [(2, "v2", "eu.a"), (3, "v2", "eu.b")] {
        let next = Arc::new(World::build(generation, objects(&text(version, zone)), world.instances.clone(), Some(&world)));
        let after = translator.translate(&next, &client);
        assert_eq!(changed(&before, &after), ["eds outbound|80||ratings.default.svc.cluster.local"], "{version} {zone}");
        (before, world) = (after, next);
    }
}
