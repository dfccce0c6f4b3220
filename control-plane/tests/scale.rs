//! A large mesh: 10,000 VirtualServices and 1,000 services of 10 endpoints in release, a twentieth of that in debug.
//!
//! In:  objects made up here. Out: how long a generation takes when one VirtualService is edited, and that nothing else is translated.

#[allow(dead_code)] // each test takes what it needs
mod world;

use std::{sync::Arc, time::Instant};

use pillion_api::{
    object::Object,
    parse::parse,
    set::ObjectSet,
    validate::{Valid, validate},
};
use pillion_control_plane::model::world::World;
use pillion_xds::resource::ResourceType;
use world::{build, node};

const SHRINK: usize = if cfg!(debug_assertions) { 20 } else { 1 };
const ROUTES: usize = 10_000 / SHRINK;
const SERVICES: usize = 1_000 / SHRINK;

fn objects(text: &str) -> Vec<Arc<Valid<Object>>> {
    let parsed = parse("mesh.yaml", text);
    parsed.objects.into_iter().map(|object| Arc::new(validate(object).0.expect("valid"))).collect()
}

fn service(n: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{selector: {{app: s{n}}}, ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {{name: s{n}, labels: {{app: s{n}, version: v1}}}}\n\
         spec: {{replicas: 10, ports: [{{name: http, containerPort: 80}}]}}\n---\n"
    )
}

/// The first ones route services, the others hosts of their own.
fn route(n: usize, timeout: &str) -> String {
    let to = n % SERVICES;
    let host = if n < SERVICES { format!("s{n}") } else { format!("h{n}.example.com") };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{n}}}\n\
         spec: {{hosts: [{host}], http: [{{match: [{{uri: {{prefix: /a}}, headers: {{x-user: {{exact: ada}}}}}}], timeout: {timeout}, \
         route: [{{destination: {{host: s{to}}}, weight: 90}}, {{destination: {{host: s{n}}}, weight: 10}}]}}, \
         {{route: [{{destination: {{host: s{to}}}}}]}}]}}\n---\n"
    )
}

#[test]
fn one_edit_among_ten_thousand_routes_is_translated_alone_and_at_once() {
    let mut text = (0..SERVICES).fold(String::new(), |all, n| all + &service(n));
    (0..ROUTES).for_each(|n| text.push_str(&route(n, "1s")));
    let mut all = objects(&text);
    let translator = world::translator().0;

    let started = Instant::now();
    let first = build(1, ObjectSet::new(all.clone()).0, None);
    let built = started.elapsed();
    let who = node(&first, "s0 as pillion");
    let before = translator.translate(&first, &who);
    let cold = started.elapsed() - built;
    assert_eq!(before.of(ResourceType::Endpoint).len(), SERVICES);
    assert_eq!(before.of(ResourceType::VirtualHost).len(), 2 * (ROUTES + 1));
    let translated = translator.virtual_hosts_translated();

    let edited = objects(&route(ROUTES / 2, "2s")).remove(0);
    let name = edited.meta.name.clone();
    *all.iter_mut().find(|object| object.meta.name == name && object.virtual_service().is_some()).unwrap() = edited;
    let set = ObjectSet::new(all).0;
    let started = Instant::now();
    let second = Arc::new(World::build(2, set, first.instances.clone(), Some(&first)));
    let rebuilt = started.elapsed();
    let after = translator.translate(&second, &who);
    let warm = started.elapsed() - rebuilt;
    assert_eq!(translator.virtual_hosts_translated() - translated, 2);
    let touched =
        after.of(ResourceType::VirtualHost).iter().filter(|(name, host)| before.get(ResourceType::VirtualHost, name) != Some(*host));
    assert_eq!(touched.count(), 2);
    for kind in [ResourceType::Endpoint, ResourceType::NameTable] {
        assert!(std::ptr::eq(before.of(kind), after.of(kind)), "{kind}");
    }
    println!("{ROUTES} routes, {SERVICES} services: cold {built:?} + {cold:?}; one edit {rebuilt:?} + {warm:?}");
    assert!((rebuilt + warm).as_millis() < 500, "one edit took {rebuilt:?} + {warm:?}");
}
