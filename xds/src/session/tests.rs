use super::*;

/// A session, the client's place in it, and a short way to write both down.
struct Bench {
    session: Session,
    now: Instant,
    /// The last nonce per type, as the client saw it.
    nonces: BTreeMap<ResourceType, String>,
    /// What the client asks for: repeated in every state-of-the-world request.
    names: BTreeMap<ResourceType, Vec<String>>,
}

fn kind(short: &str) -> ResourceType {
    ResourceType::ALL.into_iter().find(|kind| kind.short() == short).unwrap()
}

/// `"cds a=1 b=1; eds a=1"`: types, names, contents.
fn config(generation: u64, text: &str) -> Arc<NodeConfig> {
    let mut config = NodeConfig::new(generation);
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let mut words = part.split_whitespace();
        let kind = kind(words.next().unwrap());
        for word in words {
            let (name, content) = word.split_once('=').unwrap();
            config.insert(kind, Encoded::from_bytes(name, content.as_bytes().to_vec()));
        }
    }
    Arc::new(config)
}

impl Bench {
    fn new(variant: Variant) -> Self {
        let session = Session::new(variant, variant == Variant::Sotw);
        Self { session, now: Instant::now(), nonces: BTreeMap::new(), names: BTreeMap::new() }
    }

    fn delta() -> Self {
        Self::new(Variant::Delta)
    }

    fn config(&mut self, generation: u64, text: &str) -> Vec<String> {
        self.session.set_config(config(generation, text));
        self.poll()
    }

    fn poll(&mut self) -> Vec<String> {
        let responses = self.session.poll(self.now);
        responses.into_iter().map(|response| self.sketch(response)).collect()
    }

    /// `cds a=1 -b`
    fn sketch(&mut self, response: Response) -> String {
        self.nonces.insert(response.kind, response.nonce.clone());
        let mut text = response.kind.to_string();
        for resource in &response.resources {
            text += &format!(" {}={}", resource.name, String::from_utf8(resource.body.to_vec()).unwrap());
        }
        response.removed.iter().for_each(|name| text += &format!(" -{name}"));
        text
    }

    fn advance(&mut self, millis: u64) -> Vec<String> {
        self.now += Duration::from_millis(millis);
        self.poll()
    }

    fn request(&mut self, request: &DeltaDiscoveryRequest) -> Vec<String> {
        self.session.on_delta(request).unwrap();
        self.poll()
    }

    /// An incremental request: `"eds a b -c"`, `"cds"`, with versions reported as `"cds =a=1"`.
    fn ask(&mut self, text: &str) -> Vec<String> {
        let mut words = text.split_whitespace();
        let mut request = DeltaDiscoveryRequest { type_url: kind(words.next().unwrap()).type_url().into(), ..Default::default() };
        for word in words {
            if let Some(reported) = word.strip_prefix('=') {
                let (name, content) = reported.split_once('=').unwrap();
                let version = Encoded::from_bytes(name, content.as_bytes().to_vec()).version;
                request.initial_resource_versions.insert(name.into(), version.to_string());
            } else if let Some(name) = word.strip_prefix('-') {
                request.resource_names_unsubscribe.push(name.into());
            } else {
                request.resource_names_subscribe.push(word.into());
            }
        }
        self.request(&request)
    }

    fn answer(&mut self, short: &str, error: Option<&str>) -> (Outcome, Vec<String>) {
        let kind = kind(short);
        let nonce = self.nonces[&kind].clone();
        let error_detail = error.map(|message| Status { message: message.into(), ..Status::default() });
        let type_url = kind.type_url().to_owned();
        let outcome = match self.session.variant {
            Variant::Delta => {
                let request = DeltaDiscoveryRequest { type_url, response_nonce: nonce, error_detail, ..Default::default() };
                self.session.on_delta(&request).unwrap()
            }
            Variant::Sotw => {
                let resource_names = self.names.get(&kind).cloned().unwrap_or_default();
                let request = DiscoveryRequest { type_url, response_nonce: nonce, error_detail, resource_names, ..Default::default() };
                self.session.on_sotw(&request).unwrap()
            }
        };
        (outcome, self.poll())
    }

    fn ack(&mut self, short: &str) -> Vec<String> {
        self.answer(short, None).1
    }

    fn nack(&mut self, short: &str, message: &str) -> Vec<String> {
        self.answer(short, Some(message)).1
    }

    /// A state-of-the-world request with these names, as a client sends it that has seen the last response.
    fn sotw(&mut self, short: &str, names: &[&str]) -> Vec<String> {
        let kind = kind(short);
        self.names.insert(kind, names.iter().map(|name| (*name).to_owned()).collect());
        let request = DiscoveryRequest {
            type_url: kind.type_url().into(),
            response_nonce: self.nonces.get(&kind).cloned().unwrap_or_default(),
            resource_names: self.names[&kind].clone(),
            ..Default::default()
        };
        self.session.on_sotw(&request).unwrap();
        self.poll()
    }

    fn settled(&self) -> bool {
        self.session.progress().settled
    }

    /// An incremental client with all of `text`, which lists clusters with endpoints.
    fn with(text: &str, endpoints: &str) -> Self {
        let mut bench = Self::delta();
        bench.config(1, text);
        bench.ask("cds");
        bench.ask("lds");
        bench.ask("vhds *");
        bench.ask(&format!("eds {endpoints}"));
        for short in ["cds", "eds", "lds", "vhds"] {
            bench.ack(short);
        }
        assert!(bench.settled());
        bench
    }
}

const NONE: [&str; 0] = [];

#[test]
fn a_first_stream_gets_clusters_then_endpoints_then_the_rest() {
    let mut bench = Bench::delta();
    assert_eq!(bench.ask("cds"), NONE, "no configuration yet");
    bench.ask("lds");
    bench.ask("vhds *");
    assert_eq!(bench.config(1, "cds a=1; eds a=1; lds l=1; rds r=1; vhds r/h=1"), ["cds a=1"]);
    assert_eq!(bench.ask("eds a"), ["eds a=1"]);
    assert_eq!(bench.ack("cds"), NONE);
    assert_eq!(bench.ack("eds"), ["lds l=1", "vhds r/h=1"]);
    assert_eq!(bench.ask("rds r"), ["rds r=1"]);
    bench.ack("lds");
    bench.ack("vhds");
    assert!(!bench.settled());
    assert_eq!(bench.ack("rds"), NONE);
    assert_eq!(bench.session.progress(), Progress { target: 1, settled: true, refused: false });
    assert!(bench.session.acked().values().all(|generation| *generation == 1));
}

#[test]
fn a_wildcard_is_answered_even_with_nothing() {
    let mut bench = Bench::delta();
    bench.config(1, "");
    assert_eq!(bench.ask("cds"), ["cds"]);
    assert_eq!(bench.ask("lds"), ["lds"]);
    assert_eq!(bench.ask("eds"), NONE, "no names, no wildcard");
}

#[test]
fn routes_wait_for_new_clusters_and_removed_clusters_wait_for_routes() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds h=1", "a");
    assert_eq!(bench.config(2, "cds b=1; eds b=1; lds l=1; vhds h=2"), ["cds b=1"], "b added, a kept, the route held");
    assert_eq!(bench.ask("eds b"), ["eds b=1"]);
    assert_eq!(bench.ack("eds"), NONE);
    assert_eq!(bench.ack("cds"), ["vhds h=2"]);
    assert_eq!(bench.ack("vhds"), ["cds -a", "eds -a"]);
    bench.ask("eds -a");
    bench.ack("cds");
    assert!(!bench.settled());
    assert_eq!(bench.ack("eds"), NONE);
    assert!(bench.settled());
}

#[test]
fn a_hold_ends_after_two_seconds_and_does_not_come_back_for_the_same_cluster() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds h=1", "a");
    assert_eq!(bench.config(2, "cds a=1 b=1; eds a=1 b=1; lds l=1; vhds h=2"), ["cds b=1"]);
    bench.ack("cds");
    assert_eq!(bench.session.deadline(), Some(bench.now + HOLD));
    assert_eq!(bench.advance(1999), NONE);
    assert_eq!(bench.advance(1), ["vhds h=2"], "nobody asked for the endpoints of b");
    assert_eq!(bench.session.deadline(), None);
    bench.ack("vhds");
    assert_eq!(bench.config(3, "cds a=1 b=1; eds a=1 b=1; lds l=1; vhds h=3"), ["vhds h=3"]);
}

#[test]
fn a_newer_configuration_does_not_prolong_a_hold() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds h=1", "a");
    bench.config(2, "cds a=1 b=1; eds a=1 b=1; lds l=1; vhds h=2");
    bench.ack("cds");
    bench.advance(1500);
    assert_eq!(bench.config(3, "cds a=1 b=1 c=1; eds a=1 b=1 c=1; lds l=1; vhds h=3"), ["cds c=1"]);
    assert_eq!(bench.advance(500), ["vhds h=3"]);
}

#[test]
fn changed_clusters_and_endpoints_hold_nothing() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds h=1", "a");
    assert_eq!(bench.config(2, "cds a=2; eds a=2; lds l=2; vhds h=2"), ["cds a=2", "eds a=2", "lds l=2", "vhds h=2"]);
}

#[test]
fn a_refused_cluster_holds_nothing() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds h=1", "a");
    assert_eq!(bench.config(2, "cds a=1 b=1; eds a=1 b=1; lds l=1; vhds h=2"), ["cds b=1"]);
    assert_eq!(bench.nack("cds", "b: bad"), ["vhds h=2"]);
    bench.ack("vhds");
    assert_eq!(bench.session.progress(), Progress { target: 2, settled: true, refused: true });
    assert_eq!(bench.session.acked()[&ResourceType::Cluster], 1);
    assert_eq!(bench.session.acked()[&ResourceType::VirtualHost], 2);
}

#[test]
fn a_refused_version_is_not_sent_again_until_it_changes() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds g=1 h=1", "a");
    assert_eq!(bench.config(2, "cds a=1; eds a=1; lds l=1; vhds g=2 h=2"), ["vhds g=2 h=2"]);
    let (outcome, _) = bench.answer("vhds", Some("h: no such cluster"));
    let want =
        Outcome::Nacked { kind: ResourceType::VirtualHost, generation: 2, names: vec!["h".into()], message: "h: no such cluster".into() };
    assert_eq!(outcome, want);
    assert_eq!(bench.config(3, "cds a=1; eds a=1; lds l=1; vhds g=3 h=2"), ["vhds g=3"]);
    bench.ack("vhds");
    assert!(bench.session.progress().refused);
    assert_eq!(bench.config(4, "cds a=1; eds a=1; lds l=1; vhds g=3 h=4"), ["vhds h=4"]);
    bench.ack("vhds");
    assert_eq!(bench.session.progress(), Progress { target: 4, settled: true, refused: false });
}

#[test]
fn a_refused_route_keeps_the_clusters_that_its_last_good_version_uses() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds h=1", "a");
    assert_eq!(bench.config(2, "lds l=1; vhds h=2"), ["vhds h=2"]);
    assert_eq!(bench.nack("vhds", "h: bad"), NONE, "a stays");
    assert!(bench.settled());
    assert_eq!(bench.config(3, "lds l=1; vhds h=3"), ["vhds h=3"]);
    assert_eq!(bench.ack("vhds"), ["cds -a", "eds -a"]);
}

#[test]
fn what_changes_in_flight_is_merged_and_the_newest_wins() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds h=1", "a");
    assert_eq!(bench.config(2, "cds a=1; eds a=2; lds l=1; vhds h=1"), ["eds a=2"]);
    assert_eq!(bench.config(3, "cds a=1; eds a=3; lds l=1; vhds h=1"), NONE);
    assert_eq!(bench.config(4, "cds a=1; eds a=4; lds l=1; vhds h=1"), NONE);
    assert_eq!(bench.ack("eds"), ["eds a=4"]);
    bench.ack("eds");
    assert_eq!(bench.session.progress(), Progress { target: 4, settled: true, refused: false });
}

#[test]
fn an_equal_configuration_is_settled_at_once() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds h=1", "a");
    assert_eq!(bench.config(2, "cds a=1; eds a=1; lds l=1; vhds h=1"), NONE);
    assert_eq!(bench.session.progress(), Progress { target: 2, settled: true, refused: false });
    assert!(bench.session.acked().values().all(|generation| *generation == 2));
}

#[test]
fn a_reconnect_sends_only_the_difference_and_removes_what_is_gone_last() {
    let mut bench = Bench::delta();
    bench.config(5, "cds a=1 b=2; eds a=1 b=1; lds l=1; vhds h=2");
    assert_eq!(bench.ask("cds =a=1 =b=1 =old=1"), ["cds b=2"]);
    assert_eq!(bench.ask("eds a b old =a=1 =b=1 =old=1"), ["eds"], "nothing is new, but the first request is answered");
    assert_eq!(bench.ask("lds =l=1 =gone=1"), ["lds -gone"]);
    assert_eq!(bench.ask("vhds * =h=1"), ["vhds h=2"]);
    bench.ack("eds");
    bench.ack("cds");
    bench.ack("lds");
    assert_eq!(bench.ack("vhds"), ["cds -old", "eds -old"]);
}

#[test]
fn a_client_that_asks_for_clusters_alone_gets_its_removals_in_the_end() {
    let mut bench = Bench::delta();
    bench.config(5, "cds a=1");
    assert_eq!(bench.ask("cds =a=1 =old=1"), ["cds"]);
    assert_eq!(bench.ack("cds"), NONE);
    assert!(!bench.settled());
    assert_eq!(bench.session.deadline(), Some(bench.now + HOLD));
    assert_eq!(bench.advance(2000), ["cds -old"]);
}

#[test]
fn a_name_that_is_not_there_is_said_to_be_removed_once() {
    let mut bench = Bench::delta();
    bench.config(1, "eds a=1");
    assert_eq!(bench.ask("eds a x"), ["eds a=1 -x"]);
    assert_eq!(bench.ack("eds"), NONE);
    assert_eq!(bench.config(2, "eds a=1 x=1"), ["eds x=1"]);
}

#[test]
fn a_name_asked_for_again_is_sent_again() {
    let mut bench = Bench::delta();
    bench.config(1, "eds a=1");
    bench.ask("eds a");
    bench.ack("eds");
    assert_eq!(bench.ask("eds a"), ["eds a=1"]);
    bench.ack("eds");
    assert_eq!(bench.ask("eds -a"), NONE);
    assert_eq!(bench.config(2, "eds a=2"), NONE, "no longer wanted");
}

#[test]
fn the_wildcard_can_be_taken_back() {
    let mut bench = Bench::delta();
    bench.config(1, "cds a=1 b=1");
    assert_eq!(bench.ask("cds * a"), ["cds a=1 b=1"]);
    bench.ack("cds");
    assert_eq!(bench.ask("cds -*"), NONE);
    assert_eq!(bench.config(2, "cds a=2 b=2"), ["cds a=2"]);
}

#[test]
fn a_name_given_up_under_a_wildcard_is_repeated_or_removed() {
    let mut bench = Bench::delta();
    bench.config(1, "cds a=1");
    bench.ask("cds * a x");
    bench.ack("cds");
    assert_eq!(bench.ask("cds -a"), ["cds a=1"], "the wildcard still covers it");
}

#[test]
fn an_answer_to_an_older_response_changes_nothing() {
    let mut bench = Bench::with("cds a=1; eds a=1; lds l=1; vhds h=1", "a");
    let old = bench.nonces[&ResourceType::Endpoint].clone();
    bench.config(2, "cds a=1; eds a=2; lds l=1; vhds h=1");
    let request = DeltaDiscoveryRequest { type_url: ResourceType::Endpoint.type_url().into(), response_nonce: old, ..Default::default() };
    assert_eq!(bench.session.on_delta(&request), Ok(Outcome::Ignored));
    assert!(bench.session.in_flight().contains_key(&ResourceType::Endpoint));
}

#[test]
fn a_large_update_goes_out_in_parts() {
    let mut bench = Bench::delta();
    let mut config = NodeConfig::new(1);
    for n in 0..5 {
        config.insert(ResourceType::Cluster, Encoded::from_bytes(format!("c{n}"), vec![b'x'; MAX_RESPONSE_BYTES / 2 - 1000]));
    }
    bench.session.set_config(Arc::new(config));
    let counts = |lines: Vec<String>| lines.iter().map(|line| line.matches('=').count()).sum::<usize>();
    assert_eq!(counts(bench.ask("cds")), 2);
    assert_eq!(counts(bench.ack("cds")), 2);
    assert_eq!(counts(bench.ack("cds")), 1);
    assert_eq!(bench.ack("cds"), NONE);
    assert!(bench.settled());
}

#[test]
fn strangers_are_bounded() {
    let many: Vec<String> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let type_url = ResourceType::Endpoint.type_url().to_owned();
    let cases = [
        (many[..].to_vec(), Err(Violation::TooManyNames)),
        (vec!["x".repeat(MAX_NAME_BYTES + 1)], Err(Violation::LongName)),
        (many[..MAX_NAMES].to_vec(), Ok(Outcome::Asked)),
    ];
    for (names, want) in cases {
        let request = DeltaDiscoveryRequest { type_url: type_url.clone(), resource_names_subscribe: names.clone(), ..Default::default() };
        assert_eq!(Bench::delta().session.on_delta(&request), want);
        let request = DiscoveryRequest { type_url: type_url.clone(), resource_names: names, ..Default::default() };
        assert_eq!(Bench::new(Variant::Sotw).session.on_sotw(&request), want);
    }
    let mut bench = Bench::delta();
    let half = DeltaDiscoveryRequest { type_url, resource_names_subscribe: many[..MAX_NAMES].to_vec(), ..Default::default() };
    assert_eq!(bench.session.on_delta(&half), Ok(Outcome::Asked));
    let more = DeltaDiscoveryRequest { resource_names_subscribe: vec!["one more".into()], ..half };
    assert_eq!(bench.session.on_delta(&more), Err(Violation::TooManyNames));
}

#[test]
fn an_unknown_type_is_ignored() {
    let mut bench = Bench::delta();
    let request = DeltaDiscoveryRequest { type_url: "type.googleapis.com/x.Y".into(), ..Default::default() };
    assert_eq!(bench.session.on_delta(&request), Ok(Outcome::Ignored));
}

// ---- state of the world

fn envoy(text: &str, endpoints: &[&str]) -> Bench {
    let mut bench = Bench::new(Variant::Sotw);
    bench.config(1, text);
    bench.sotw("cds", &[]);
    bench.sotw("eds", endpoints);
    bench.ack("eds");
    bench.ack("cds");
    bench.sotw("lds", &[]);
    bench.sotw("rds", &["r"]);
    bench.ack("lds");
    bench.ack("rds");
    assert!(bench.settled());
    bench
}

#[test]
fn sotw_clusters_are_always_whole_and_endpoints_only_what_changed() {
    let mut bench = envoy("cds a=1 b=1; eds a=1 b=1; lds l=1; rds r=1", &["a", "b"]);
    assert_eq!(bench.config(2, "cds a=1 b=1; eds a=1 b=2; lds l=1; rds r=1"), ["eds b=2"]);
    bench.ack("eds");
    assert_eq!(bench.config(3, "cds a=1 b=1 c=1; eds a=1 b=2 c=1; lds l=1; rds r=1"), ["cds a=1 b=1 c=1"]);
    assert_eq!(bench.sotw("eds", &["a", "b", "c"]), ["eds c=1"]);
}

#[test]
fn sotw_endpoints_are_sent_again_after_their_cluster_changed() {
    let mut bench = envoy("cds a=1 b=1; eds a=1 b=1; lds l=1; rds r=1", &["a", "b"]);
    assert_eq!(bench.config(2, "cds a=2 b=1; eds a=1 b=1; lds l=1; rds r=2"), ["cds a=2 b=1", "eds a=1", "rds r=2"]);
    bench.ack("eds");
    assert_eq!(bench.ack("cds"), NONE);
}

#[test]
fn sotw_removed_clusters_are_repeated_until_routes_are_acknowledged() {
    let mut bench = envoy("cds a=1 b=1; eds a=1 b=1; lds l=1; rds r=1", &["a", "b"]);
    assert_eq!(bench.config(2, "cds b=1 c=1; eds b=1 c=1; lds l=1; rds r=2"), ["cds b=1 c=1 a=1"]);
    assert_eq!(bench.sotw("eds", &["a", "b", "c"]), ["eds c=1"]);
    bench.ack("eds");
    assert_eq!(bench.ack("cds"), ["rds r=2"]);
    assert_eq!(bench.ack("rds"), ["cds b=1 c=1 -a"]);
    assert_eq!(bench.ack("cds"), NONE);
    assert!(bench.settled());
}

#[test]
fn sotw_repeats_the_good_version_of_what_was_refused() {
    let mut bench = envoy("cds a=1 b=1; eds a=1 b=1; lds l=1; rds r=1", &["a", "b"]);
    assert_eq!(bench.config(2, "cds a=2 b=1 n=1; eds a=1 b=1; lds l=1; rds r=1"), ["cds a=2 b=1 n=1", "eds a=1"]);
    bench.ack("eds");
    bench.nack("cds", "Error adding/updating cluster(s) a: bad, n: bad");
    assert_eq!(bench.config(3, "cds a=2 b=3 n=1; eds a=1 b=1; lds l=1; rds r=1"), ["cds a=1 b=3", "eds b=1"]);
}

#[test]
fn sotw_requests_with_an_old_nonce_are_outdated() {
    let mut bench = envoy("cds a=1; eds a=1; lds l=1; rds r=1", &["a"]);
    let old = bench.nonces[&ResourceType::Endpoint].clone();
    bench.config(2, "cds a=1; eds a=2; lds l=1; rds r=1");
    let request = DiscoveryRequest {
        type_url: ResourceType::Endpoint.type_url().into(),
        response_nonce: old,
        resource_names: vec!["b".into()],
        ..Default::default()
    };
    assert_eq!(bench.session.on_sotw(&request), Ok(Outcome::Ignored));
    assert_eq!(bench.ack("eds"), NONE);
}

#[test]
fn sotw_by_name_gets_what_it_names_and_learns_what_is_not_there() {
    let mut bench = Bench::new(Variant::Sotw);
    bench.config(1, "cds a=1 b=1; eds a=1; lds l=1; rds r=1");
    assert_eq!(bench.sotw("lds", &["x", "l"]), ["lds l=1 -x"]);
    assert_eq!(bench.ack("lds"), NONE);
    assert_eq!(bench.sotw("rds", &["r"]), ["rds r=1"]);
    assert_eq!(bench.sotw("cds", &["a"]), ["cds a=1"]);
    bench.ack("cds");
    assert_eq!(bench.sotw("cds", &["a", "x"]), ["cds a=1 -x"], "x is missing, and that is said");
    bench.ack("cds");
    assert_eq!(bench.sotw("cds", &["a"]), NONE);
    assert_eq!(bench.sotw("cds", &[]), NONE, "an empty list after names is no wildcard");
    assert_eq!(bench.config(2, "cds a=2 b=2; eds a=1; lds l=1; rds r=1"), NONE);
}

#[test]
fn sotw_says_of_what_is_not_there_that_it_was_not_found() {
    let response = Response {
        kind: ResourceType::Listener,
        generation: 1,
        nonce: "1".into(),
        resources: vec![Encoded::from_bytes("a", "1")],
        removed: vec!["x".into()],
    };
    let response = response.into_sotw();
    let [error] = &response.resource_errors[..] else { panic!("{response:?}") };
    assert_eq!(error.resource_name.as_ref().map(|name| name.name.as_str()), Some("x"));
    assert_eq!((response.resources.len(), error.error_detail.as_ref().map(|status| status.code)), (1, Some(5)));
}

#[test]
fn sotw_first_request_of_a_new_stream_may_carry_an_old_nonce() {
    let mut bench = Bench::new(Variant::Sotw);
    bench.config(1, "cds a=1");
    bench.nonces.insert(ResourceType::Cluster, "77".into());
    assert_eq!(bench.sotw("cds", &[]), ["cds a=1"]);
}
