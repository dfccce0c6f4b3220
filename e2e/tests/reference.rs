//! The mesh routes as the YAML says: a slow interpreter of the YAML and the mesh's own path, from translation to the proxy's choice of a route,
//! agree on every generated request.
//!
//! In:  a seed (`PILLION_SEED`, else a new one, printed), which makes worlds and requests.
//! Out: the first disagreements, with the YAML; and that the generator reached every kind of condition from both sides.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test's helpers may fail loudly

#[path = "reference/generate.rs"]
mod generate;
#[path = "reference/interpret.rs"]
mod interpret;
#[path = "reference/requests.rs"]
mod requests;
#[path = "reference/system.rs"]
mod system;

use std::collections::BTreeMap;

use fastrand::Rng;
use pillion_api::{finding::Severity, set::ObjectSet};

use interpret::{Door, Kind, Reference, Then, request_conditions, source_conditions};
use requests::Shot;

const WORLDS: usize = 300;
const REQUESTS: usize = 44;
/// Of each kind of condition at least so many were fulfilled, and so many alone in the way.
const LEAST: usize = 5;
/// Every kind there is.
const KINDS: [Kind; 25] = [
    "uri exact",
    "uri exact, any case",
    "uri prefix",
    "uri prefix, any case",
    "uri regex",
    "uri regex, any case",
    "method",
    "scheme",
    "authority",
    "header exact",
    "header prefix",
    "header regex",
    "header present",
    "without exact",
    "without prefix",
    "without regex",
    "without present",
    "query exact",
    "query empty",
    "query prefix",
    "query regex",
    "query present",
    "port",
    "sourceLabels",
    "sourceNamespace",
];

#[derive(Default)]
struct Tally {
    requests: usize,
    near_misses: usize,
    fulfilled: BTreeMap<Kind, usize>,
    refused: BTreeMap<Kind, usize>,
    outcomes: BTreeMap<&'static str, usize>,
    disagreements: Vec<String>,
}

impl Tally {
    /// The conditions of the entry aimed at: all fulfilled, or one alone not.
    fn count(&mut self, shot: &Shot, client: &interpret::Client) {
        self.requests += 1;
        self.near_misses += usize::from(shot.near_miss);
        let Some(aim) = &shot.aim else { return };
        let mut conditions = source_conditions(aim, client, port(&shot.request));
        conditions.extend(request_conditions(aim, &shot.request));
        let failed: Vec<Kind> = conditions.iter().filter(|(_, fulfilled)| !fulfilled).map(|(kind, _)| *kind).collect();
        match failed[..] {
            [] => conditions.iter().for_each(|(kind, _)| *self.fulfilled.entry(kind).or_default() += 1),
            [kind] => *self.refused.entry(kind).or_default() += 1,
            _ => {}
        }
    }

    fn outcome(&mut self, then: &Then) {
        let name = match then {
            Then::NoRoute => "no route",
            Then::Passthrough => "passthrough",
            Then::Forward { clusters, .. } if clusters.len() > 1 => "weighted",
            Then::Forward { missing, .. } if !missing.is_empty() => "no cluster",
            Then::Forward { .. } => "one cluster",
            Then::Redirect { .. } => "redirect",
            Then::Direct { .. } => "direct response",
        };
        *self.outcomes.entry(name).or_default() += 1;
    }
}

/// The service port that the request is for.
fn port(request: &interpret::Request) -> u32 {
    match request.door {
        Door::Port(port) => port,
        Door::Explicit => request.authority.rsplit_once(':').map_or(80, |(_, port)| port.parse().unwrap_or(0)),
    }
}

fn valid(yaml: &str) -> ObjectSet {
    let checked = pillion_api::check(&[("world.yaml", yaml)]);
    let errors: Vec<_> = checked.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:?}\n{yaml}");
    checked.set
}

fn try_world(random: &mut Rng, tally: &mut Tally) {
    let yaml = generate::world(random);
    let set = valid(&yaml);
    let clients = generate::clients(random);
    let world = system::world(&set);
    let translator = system::translator();
    let answers: Vec<_> =
        clients.iter().map(|client| (system::System::new(&world, &translator, client), Reference::new(&set, client))).collect();
    for _ in 0..REQUESTS {
        let shot = requests::shoot(random, &set, &clients);
        let (system, reference) = &answers[shot.client];
        if let Door::Port(port) = shot.request.door
            && !system.has_table(port)
        {
            continue;
        }
        let (got, want) = (system.decide(&shot.request), reference.decide(&shot.request));
        tally.count(&shot, &clients[shot.client]);
        tally.outcome(&want.then);
        if got != want {
            let (client, request) = (&clients[shot.client], &shot.request);
            tally.disagreements.push(format!("{client:?}\n{request:?}\n  the mesh:      {got:?}\n  the reference: {want:?}\n{yaml}"));
        }
    }
}

#[test]
fn the_mesh_routes_as_an_interpreter_of_the_yaml_does() {
    let seed = std::env::var("PILLION_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("PILLION_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let mut tally = Tally::default();
    for _ in 0..WORLDS {
        try_world(&mut random, &mut tally);
    }
    println!("{} requests, {} near misses; {:?}", tally.requests, tally.near_misses, tally.outcomes);
    for kind in KINDS {
        println!("{kind:22} {:6} {:6}", tally.fulfilled.get(kind).unwrap_or(&0), tally.refused.get(kind).unwrap_or(&0));
    }
    let (count, first) = (tally.disagreements.len(), tally.disagreements.first());
    assert_eq!(count, 0, "PILLION_SEED={seed}: {}", first.map_or("", String::as_str));
    assert!(tally.requests >= 10_000 && tally.near_misses * 5 >= tally.requests * 2, "{} {}", tally.requests, tally.near_misses);
    for kind in KINDS {
        let (fulfilled, refused) = (tally.fulfilled.get(kind).unwrap_or(&0), tally.refused.get(kind).unwrap_or(&0));
        assert!(*fulfilled >= LEAST && *refused >= LEAST, "{kind}: {fulfilled} fulfilled, {refused} refused");
    }
    for name in ["no route", "passthrough", "no cluster", "weighted", "one cluster", "redirect", "direct response"] {
        let count = tally.outcomes.get(name).unwrap_or(&0);
        assert!(*count >= LEAST, "{name}: {count}");
    }
}
