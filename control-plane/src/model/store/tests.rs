use super::*;
use crate::model::instance::{Instance, InstanceRegistry};

const PRODUCT: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: product}
spec: {hosts: [product], http: [{route: [{destination: {host: product}}]}]}
";
const ORDER: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: order}
spec: {hosts: [order], http: [{route: [{destination: {host: order}}]}]}
";

/// A store with files that are put in and looked at in short.
struct Files(Store);

impl Default for Files {
    fn default() -> Self {
        Self(Store::new("cluster.local"))
    }
}

impl Files {
    fn change(&mut self, changes: Vec<Change>) -> Applied {
        self.0.apply(changes, None)
    }

    fn put(&mut self, files: &[(&str, &str)]) -> Applied {
        self.change(files.iter().map(|(file, text)| put(file, text)).collect())
    }

    /// `name=route host` of the VirtualServices in force.
    fn in_force(&self) -> Vec<String> {
        let set = self.0.world().unwrap().set();
        let mut all: Vec<String> =
            set.of::<pillion_api::kinds::VirtualService>().map(|item| format!("{}={}", item.name(), item.spec.hosts[0])).collect();
        all.sort();
        all
    }

    fn states(&self) -> Vec<(String, State)> {
        self.0.review().objects().map(|(entry, state)| (entry.reference.name.clone(), state)).collect()
    }

    fn errors(&self) -> usize {
        self.0.review().findings.iter().filter(|finding| finding.severity == Severity::Error).count()
    }
}

fn put(file: &str, text: &str) -> Change {
    Change::Put { origin: file.into(), content: Content::Objects, text: text.into() }
}

fn removed(file: &str) -> Change {
    Change::Removed { origin: file.into() }
}

fn both() -> String {
    format!("{PRODUCT}---\n{ORDER}")
}

#[test]
fn the_first_round_always_makes_generation_one() {
    let applied = Store::new("cluster.local").apply(Vec::new(), None);
    assert_eq!(applied.world.unwrap().generation, 1);
}

#[test]
fn a_bad_object_is_held_alone() {
    let good = both();
    let cases = [
        ("unknown field", good.replace("hosts: [product]", "hosts: [product], hots: [x]"), vec!["order=order", "product=product"]),
        ("wrong type", good.replace("hosts: [product]", "hosts: {a: b}"), vec!["order=order", "product=product"]),
        ("rule of the kind", good.replace("{host: product}", "{host: ''}"), vec!["order=order", "product=product"]),
        (
            "neighbour edited meanwhile",
            good.replace("hosts: [product]", "hosts: {}").replace("hosts: [order]", "hosts: [orders]"),
            vec!["order=orders", "product=product"],
        ),
    ];
    for (name, text, want) in cases {
        let mut files = Files::default();
        files.put(&[("a.yaml", &good)]);
        files.put(&[("a.yaml", &text)]);
        assert_eq!(files.in_force(), want, "{name}");
        assert_eq!(files.states(), [("product".into(), State::Held), ("order".into(), State::InForce)], "{name}");
        assert!(files.errors() > 0, "{name}");
        files.put(&[("a.yaml", &good)]);
        assert_eq!((files.states()[0].1, files.errors()), (State::InForce, 0), "{name}: mended");
    }
}

#[test]
fn a_bad_object_without_an_earlier_version_is_not_in_force() {
    let mut files = Files::default();
    files.put(&[("a.yaml", &both().replace("hosts: [product]", "hosts: {}"))]);
    assert_eq!(files.in_force(), ["order=order"]);
    assert_eq!(files.states(), [("product".into(), State::NotInForce), ("order".into(), State::InForce)]);
}

#[test]
fn a_half_written_file_deletes_nothing() {
    let good = both();
    let halves = [
        ("cut in a key", good[..good.len() - 20].to_owned()),
        ("cut in the first document", good[..60].to_owned()),
        ("garbage", "\0\u{1}{{{".to_owned()),
        ("no object", "hello: world\n".to_owned()),
        ("a kind mistyped", good.replacen("VirtualService", "VirtualServce", 1)),
    ];
    for (name, text) in halves {
        let mut files = Files::default();
        files.put(&[("a.yaml", &good)]);
        files.put(&[("a.yaml", &text)]);
        assert_eq!(files.in_force(), ["order=order", "product=product"], "{name}");
        assert!(files.errors() > 0, "{name}");
        files.put(&[("a.yaml", ORDER)]);
        assert_eq!(files.in_force(), ["order=order"], "{name}: a readable file without the object deletes it");
    }
}

#[test]
fn what_is_deleted_is_gone() {
    let mut files = Files::default();
    files.put(&[("a.yaml", &both()), ("b.yaml", &ORDER.replace("name: order", "name: other"))]);
    assert_eq!(files.put(&[("a.yaml", PRODUCT)]).changes, ["VirtualService default/order removed"]);
    assert_eq!(files.in_force(), ["other=order", "product=product"]);
    files.change(vec![removed("a.yaml")]);
    assert_eq!(files.in_force(), ["other=order"]);
    files.put(&[("b.yaml", "")]);
    assert!(files.in_force().is_empty(), "an empty file says nothing");
}

#[test]
fn a_held_object_goes_with_its_document_and_with_its_file() {
    let bad = both().replace("hosts: [product]", "hosts: {}");
    for (name, change) in [("document", put("a.yaml", ORDER)), ("file", removed("a.yaml"))] {
        let mut files = Files::default();
        files.put(&[("a.yaml", &both())]);
        files.put(&[("a.yaml", &bad)]);
        files.change(vec![change]);
        assert!(!files.in_force().contains(&"product=product".to_owned()), "{name}");
    }
}

#[test]
fn an_object_that_moves_and_breaks_keeps_its_last_good_version() {
    let mut files = Files::default();
    files.put(&[("a.yaml", &both())]);
    let broken = PRODUCT.replace("hosts: [product]", "hosts: {}");
    files.change(vec![put("a.yaml", ORDER), put("b.yaml", &broken)]);
    assert_eq!(files.in_force(), ["order=order", "product=product"]);
    let changes = files.change(vec![put("a.yaml", ORDER), put("b.yaml", PRODUCT)]).changes;
    assert_eq!(changes, [""; 0], "mended as it was: nothing changed but its place");
}

#[test]
fn a_move_is_one_change() {
    let mut files = Files::default();
    files.put(&[("a.yaml", &both())]);
    let applied = files.change(vec![put("a.yaml", ORDER), put("b.yaml", PRODUCT)]);
    assert_eq!(applied.changes, ["VirtualService default/product moved"]);
    assert_eq!(files.in_force(), ["order=order", "product=product"]);
}

#[test]
fn only_what_is_in_force_makes_generations() {
    let mut files = Files::default();
    files.put(&[("a.yaml", PRODUCT)]);
    let bad = PRODUCT.replace("hosts: [product]", "hosts: {}");
    let cases = [
        ("nothing", vec![], false),
        ("a bad version", vec![put("a.yaml", &bad)], false),
        ("trouble with a file", vec![Change::Trouble { origin: "z.yaml".into(), finding: None }], false),
        ("a file of no interest", vec![put("b.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")], false),
        ("another host", vec![put("a.yaml", &PRODUCT.replace("hosts: [product]", "hosts: [other]"))], true),
        ("a new object", vec![put("c.yaml", ORDER)], true),
        ("a deletion", vec![removed("c.yaml")], true),
    ];
    for (name, changes, want) in cases {
        assert_eq!(files.change(changes).world.is_some(), want, "{name}");
    }
    assert_eq!(files.0.world().unwrap().generation, 4);
}

#[test]
fn of_two_objects_of_a_name_the_first_file_wins_and_the_other_is_not_in_force() {
    let mut files = Files::default();
    files.put(&[("b.yaml", &PRODUCT.replace("hosts: [product]", "hosts: [second]")), ("a.yaml", PRODUCT)]);
    assert_eq!(files.in_force(), ["product=product"]);
    assert_eq!(files.states(), [("product".into(), State::InForce), ("product".into(), State::NotInForce)]);
    assert_eq!(files.errors(), 1);
    files.change(vec![removed("a.yaml")]);
    assert_eq!(files.in_force(), ["product=second"]);
}

#[test]
fn the_mesh_config_file_beats_the_config_map_and_is_no_object() {
    let mut files = Files::default();
    let config_map =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFile: /map\n";
    files.put(&[("a.yaml", config_map)]);
    let file = |files: &Files| files.0.world().unwrap().effective().mesh().config.access_log_file.clone();
    assert_eq!(file(&files), "/map");
    files.change(vec![Change::Put { origin: "mesh.yaml".into(), content: Content::MeshConfig, text: "accessLogFile: /file\n".into() }]);
    assert_eq!(file(&files), "/file");
    files.change(vec![Change::Put { origin: "mesh.yaml".into(), content: Content::MeshConfig, text: "accessLogFil: /typo\n".into() }]);
    assert_eq!(file(&files), "/file", "a bad one is held");
}

#[test]
fn instances_make_generations_when_they_differ() {
    let mut store = Store::new("cluster.local");
    store.apply(Vec::new(), None);
    let registry = InstanceRegistry::default();
    let id = InstanceId { namespace: "default".into(), name: "a-0".into() };
    let instance = Instance {
        id: id.clone(),
        workload: "a".into(),
        replica: 0,
        labels: Default::default(),
        service_account: "a".into(),
        gateway: false,
        ports: Vec::new(),
        ready: false,
    };
    registry.register(instance);
    let now = || registry.subscribe().borrow().clone();
    assert_eq!(store.apply(Vec::new(), Some(now())).changes, ["instance default/a-0 joined"]);
    assert!(store.apply(Vec::new(), Some(now())).world.is_none());
    registry.set_ready(&id, true);
    assert_eq!(store.apply(Vec::new(), Some(now())).changes, ["instance default/a-0 is ready"]);
    registry.deregister(&id);
    let applied = store.apply(Vec::new(), Some(now()));
    assert_eq!(applied.changes, ["instance default/a-0 left"]);
    assert_eq!(applied.world.unwrap().generation, 4);
}

#[test]
fn unenforced_policies_are_listed_as_long_as_they_are_there() {
    let mut files = Files::default();
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\nspec: {}\n";
    files.put(&[("a.yaml", policy)]);
    assert_eq!(files.0.review().unenforced.len(), 1);
    files.put(&[("a.yaml", "")]);
    assert!(files.0.review().unenforced.is_empty());
}

#[test]
fn services_are_called_after_the_domain_of_the_cluster() {
    let mut store = Store::new("corp.example");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{name: http, port: 80}]}\n";
    let world = store.apply(vec![put("a.yaml", service)], None).world.unwrap();
    assert_eq!(world.effective().services()[0].host, "a.default.svc.corp.example");
}

#[test]
fn an_edit_reads_its_own_file_only() {
    let mut store = Store::new("cluster.local");
    let text = |n: usize, host: &str| {
        PRODUCT.replace("name: product", &format!("name: v{n}")).replace("hosts: [product]", &format!("hosts: [{host}]"))
    };
    let file = |n: usize| format!("{n:05}.yaml");
    store.apply((0..500).map(|n| put(&file(n), &text(n, &format!("h{n}")))).collect(), None);
    let before = store.world().unwrap().clone();
    let applied = store.apply(vec![put(&file(7), &text(7, "other"))], None);
    assert_eq!(applied.tally.values().map(|(passed, failed)| passed + failed).sum::<u64>(), 1);
    let (old, new) = (before.set().objects(), applied.world.unwrap());
    let kept = old.iter().zip(new.set().objects()).filter(|(old, new)| Arc::ptr_eq(old, new)).count();
    assert_eq!(kept, 499);
}
