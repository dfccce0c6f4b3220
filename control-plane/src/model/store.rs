//! Keeps what every text said last and what of it is in force. Pure: no I/O, no clock.
//!
//! In:  [`Change`]s of texts, lists of instances.
//! Out: the next [`World`] when something in force changed; [`Review`]s with everything that is wrong; what changed, in words.
//!
//! ```text
//!            reads and validates                       document or file deleted
//!   (new) ---------------------> in force -------------------------------------> gone
//!     |                          ^      |                                         ^
//!     | does not                 |      | does not, or its file has a document    |
//!     v                 does     |      v that is no YAML                         |
//!   not in force ----------------+-- held: its last good version is in force -----+
//! ```
//!
//! An object is judged alone: a bad one never touches its neighbours. Only when a file has a document that cannot be read at all, nothing of that
//! file is deleted, because what is missing may be what cannot be read.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use pillion_api::{
    analyze::analyze,
    check, code,
    effective::{Effective, Unenforced, unenforced_security},
    finding::{Finding, Place, Severity},
    meta::ObjectRef,
    object::{Kind, Object},
    parse::{Parsed, parse, parse_mesh_config},
    set::ObjectSet,
    validate::{Valid, validate},
};

use super::{
    instance::{InstanceId, Instances},
    world::World,
};
use crate::source::change::{Change, Content, Origin};

/// Changes of one generation that are put into words; the rest is counted.
const WORDS: usize = 20;

/// How an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As written.
    InForce,
    /// What is written now is not good; the last version that was is in force.
    Held,
    /// What is written is not good, and no earlier version is known; or an older object has its name.
    NotInForce,
}

/// One object of a file.
#[derive(Clone, Debug)]
pub struct Entry {
    pub reference: ObjectRef,
    /// Where the text names it now, or did last.
    pub place: Place,
    good: Option<Arc<Valid<Object>>>,
    /// What is written is not what is in force.
    quarantined: bool,
}

impl Entry {
    /// How it stands; objects behind an older one of the same name are for [`Review::objects`] to tell.
    pub fn state(&self) -> State {
        match (self.quarantined, &self.good) {
            (false, Some(_)) => State::InForce,
            (true, Some(_)) => State::Held,
            (_, None) => State::NotInForce,
        }
    }
}

/// What one text says.
#[derive(Debug)]
struct FileState {
    content: Content,
    entries: Vec<Entry>,
    /// Of reading and validating.
    findings: Vec<Finding>,
    skipped: BTreeMap<String, usize>,
}

impl FileState {
    fn entry(&self, reference: &ObjectRef) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.reference == *reference)
    }
}

/// How many objects passed and failed validation, by kind; for metrics.
pub type Tally = BTreeMap<Kind, (u64, u64)>;

/// What came of a round of changes.
#[derive(Debug, Default)]
pub struct Applied {
    /// The new generation, if what is in force changed.
    pub world: Option<Arc<World>>,
    /// In words, at most 20 and a count of the rest: `VirtualService default/product changed`.
    pub changes: Vec<String>,
    /// Objects validated in this round.
    pub tally: Tally,
    /// Findings may differ: [`Store::review`] tells.
    pub reviewable: bool,
}

/// The one owner of objects.
#[derive(Debug)]
pub struct Store {
    cluster_domain: String,
    files: BTreeMap<Origin, Arc<FileState>>,
    troubles: BTreeMap<Origin, Finding>,
    instances: Instances,
    world: Option<Arc<World>>,
    /// Objects of the newest generation that an older one of the same name keeps out.
    duplicates: Vec<Finding>,
}

/// Everything written, how it stands, and what is wrong with it, at one moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Review {
    pub generation: u64,
    /// By file, then position.
    pub findings: Arc<[Finding]>,
    /// Security policies in force that are not enforced.
    pub unenforced: Arc<[Unenforced]>,
    files: BTreeMap<Origin, Arc<FileState>>,
    duplicates: Arc<HashSet<(Arc<str>, u32, u32)>>,
}

impl Review {
    /// Every object of every file.
    pub fn objects(&self) -> impl Iterator<Item = (&Entry, State)> {
        self.files.values().flat_map(|file| &file.entries).map(|entry| {
            let duplicate = self.duplicates.contains(&(entry.place.file.clone(), entry.place.line, entry.place.column));
            (entry, if duplicate { State::NotInForce } else { entry.state() })
        })
    }

    /// Objects of kinds that are no business of a mesh, counted by `apiVersion/Kind`.
    pub fn skipped(&self) -> BTreeMap<&str, usize> {
        let mut all = BTreeMap::new();
        for (kind, count) in self.files.values().flat_map(|file| &file.skipped) {
            *all.entry(kind.as_str()).or_default() += count;
        }
        all
    }
}

impl Store {
    /// Nothing yet. `cluster_domain`: the suffix of service names, `cluster.local` as a rule.
    pub fn new(cluster_domain: &str) -> Self {
        Self {
            cluster_domain: cluster_domain.to_owned(),
            files: BTreeMap::new(),
            troubles: BTreeMap::new(),
            instances: Instances::default(),
            world: None,
            duplicates: Vec::new(),
        }
    }

    /// Applies changes of texts and, if given, a new list of instances. One call makes at most one generation; the first always makes one.
    pub fn apply(&mut self, changes: Vec<Change>, instances: Option<Instances>) -> Applied {
        let mut applied = Applied { reviewable: !changes.is_empty(), ..Applied::default() };
        let before: BTreeMap<Origin, Option<Arc<FileState>>> =
            changes.iter().map(|change| (change.origin().clone(), self.files.get(change.origin()).cloned())).collect();
        let mut fresh = Vec::new();
        for change in changes {
            match change {
                Change::Put { origin, content, text } => {
                    self.troubles.remove(&origin);
                    let state = read(&origin, content, &text, before.get(&origin).and_then(Option::as_deref), &mut applied.tally);
                    self.files.insert(origin.clone(), Arc::new(state));
                    fresh.push(origin);
                }
                Change::Removed { origin } => {
                    self.troubles.remove(&origin);
                    self.files.remove(&origin);
                }
                Change::Trouble { origin, finding: Some(finding) } => {
                    self.troubles.insert(origin, finding);
                }
                Change::Trouble { origin, finding: None } => {
                    self.troubles.remove(&origin);
                }
            }
        }
        self.hold_moved(&fresh);
        let texts = self.differences(&before);
        let mut words: Vec<String> = texts.words;
        let moved = instances.as_ref().is_some_and(|instances| **instances != *self.instances);
        if let Some(instances) = instances {
            words.extend(instance_differences(&self.instances, &instances));
            if moved {
                self.instances = instances;
            }
        }
        let first = self.world.is_none();
        if texts.different || moved || first {
            applied.world = Some(self.build());
        }
        if words.len() > WORDS {
            let rest = words.len() - WORDS;
            words.truncate(WORDS);
            words.push(format!("and {rest} more"));
        }
        applied.changes = words;
        applied
    }

    /// Everything that is wrong now. Costs an analysis of all objects: do it after the generation is on its way.
    pub fn review(&self) -> Review {
        let mut findings: Vec<Finding> = self.files.values().flat_map(|file| &file.findings).cloned().collect();
        findings.extend(self.troubles.values().cloned());
        findings.extend(self.duplicates.iter().cloned());
        let mut review = Review { files: self.files.clone(), ..Review::default() };
        if let Some(world) = &self.world {
            review.generation = world.generation;
            review.unenforced = unenforced_security(world.set()).into();
            let entries = self.files.values().flat_map(|file| &file.entries);
            let out: Vec<ObjectRef> = entries.filter(|entry| entry.good.is_none()).map(|entry| entry.reference.clone()).collect();
            findings.extend(analyze(world.effective(), &out));
        }
        check::sort(&mut findings);
        let place = |finding: &Finding| finding.place.clone();
        review.duplicates = Arc::new(self.duplicates.iter().map(place).map(|place| (place.file, place.line, place.column)).collect());
        review.findings = findings.into();
        review
    }

    /// The newest generation.
    pub fn world(&self) -> Option<&Arc<World>> {
        self.world.as_ref()
    }

    /// A bad object that came from another file with its move takes its last good version along, unless that one is still in force elsewhere.
    fn hold_moved(&mut self, fresh: &[Origin]) {
        let is_orphan = |entry: &Entry| entry.quarantined && entry.good.is_none();
        let orphans: HashSet<ObjectRef> = fresh
            .iter()
            .filter_map(|origin| self.files.get(origin))
            .flat_map(|file| &file.entries)
            .filter(|entry| is_orphan(entry))
            .map(|entry| entry.reference.clone())
            .collect();
        let Some(world) = self.world.as_ref().filter(|_| !orphans.is_empty()) else { return };
        let at_home: HashSet<&ObjectRef> =
            self.files.values().flat_map(|file| &file.entries).filter(|entry| entry.good.is_some()).map(|entry| &entry.reference).collect();
        let mut last_good: HashMap<ObjectRef, Arc<Valid<Object>>> = HashMap::new();
        for object in world.set().objects() {
            let reference = object.reference();
            if orphans.contains(&reference) && !at_home.contains(&reference) {
                last_good.insert(reference, object.clone());
            }
        }
        for origin in fresh {
            let Some(file) = self.files.get_mut(origin).and_then(Arc::get_mut) else { continue };
            for entry in file.entries.iter_mut().filter(|entry| is_orphan(entry)) {
                entry.good = last_good.remove(&entry.reference);
            }
        }
    }

    fn build(&mut self) -> Arc<World> {
        let good = |content: Content| {
            let files = self.files.values().filter(move |file| file.content == content);
            files.flat_map(|file| &file.entries).filter_map(|entry| entry.good.clone())
        };
        let mesh = good(Content::MeshConfig).find_map(|object| object.mesh_config().cloned());
        let (set, duplicates) = ObjectSet::new(good(Content::Objects).collect::<Vec<_>>());
        self.duplicates = duplicates;
        let generation = self.world.as_ref().map_or(1, |world| world.generation + 1);
        let effective = Effective::in_domain(set, mesh, &self.cluster_domain);
        let world = World::of(generation, effective, self.instances.clone(), self.world.as_deref());
        self.world.insert(Arc::new(world)).clone()
    }

    fn differences(&self, before: &BTreeMap<Origin, Option<Arc<FileState>>>) -> Differences {
        fn good(file: Option<&FileState>) -> BTreeMap<&ObjectRef, &Entry> {
            file.into_iter()
                .flat_map(|file| &file.entries)
                .filter(|entry| entry.good.is_some())
                .map(|entry| (&entry.reference, entry))
                .collect()
        }
        let mut all = Differences::default();
        let (mut gone, mut come) = (BTreeMap::new(), BTreeMap::new());
        for (origin, old) in before {
            let (old, new) = (good(old.as_deref()), good(self.files.get(origin).map(|file| &**file)));
            for (reference, entry) in &old {
                match new.get(reference) {
                    Some(now) if same(entry, now) => {}
                    Some(now) => {
                        all.different = true;
                        if !equal(entry, now) {
                            all.words.push(format!("{reference} changed"));
                        }
                    }
                    None => _ = gone.insert((*reference).clone(), ()),
                }
            }
            let added = new.keys().filter(|reference| !old.contains_key(*reference));
            come.extend(added.map(|reference| ((*reference).clone(), ())));
        }
        all.different |= !gone.is_empty() || !come.is_empty();
        for reference in gone.keys() {
            let word = if come.contains_key(reference) { "moved" } else { "removed" };
            all.words.push(format!("{reference} {word}"));
        }
        all.words.extend(come.keys().filter(|reference| !gone.contains_key(*reference)).map(|reference| format!("{reference} added")));
        all
    }
}

#[derive(Default)]
struct Differences {
    different: bool,
    words: Vec<String>,
}

fn same(a: &Entry, b: &Entry) -> bool {
    matches!((&a.good, &b.good), (Some(a), Some(b)) if Arc::ptr_eq(a, b))
}

/// Whether the two mean the same, wherever they stand.
fn equal(a: &Entry, b: &Entry) -> bool {
    matches!((&a.good, &b.good), (Some(a), Some(b)) if a.meta == b.meta && a.spec == b.spec)
}

/// Reads a text, holding on to what `before` had in force.
fn read(origin: &Origin, content: Content, text: &str, before: Option<&FileState>, tally: &mut Tally) -> FileState {
    let Parsed { objects, mut findings, skipped } = match content {
        Content::Objects => parse(origin, text),
        Content::MeshConfig => parse_mesh_config(origin, text),
    };
    let unreadable = has_unreadable(&findings, &objects);
    let mut entries: Vec<Entry> = Vec::with_capacity(objects.len());
    for object in objects {
        let (reference, place) = (object.reference(), object.place("metadata.name"));
        let (valid, mut more) = validate(object);
        findings.append(&mut more);
        let counts = tally.entry(reference.kind).or_default();
        if valid.is_some() {
            counts.0 += 1
        } else {
            counts.1 += 1
        }
        if !reference.name.is_empty() {
            entries.push(Entry { reference, place, quarantined: valid.is_none(), good: valid.map(Arc::new) });
        }
    }
    let Some(before) = before else { return FileState { content, entries, findings, skipped } };
    let written: HashSet<ObjectRef> = entries.iter().map(|entry| entry.reference.clone()).collect();
    let in_force: HashSet<ObjectRef> = entries.iter().filter(|entry| entry.good.is_some()).map(|entry| entry.reference.clone()).collect();
    for entry in entries.iter_mut().filter(|entry| entry.good.is_none() && !in_force.contains(&entry.reference)) {
        entry.good = before.entry(&entry.reference).and_then(|old| old.good.clone());
    }
    if unreadable {
        let missing = before.entries.iter().filter(|old| !written.contains(&old.reference));
        entries.extend(missing.map(|old| Entry { quarantined: true, ..old.clone() }));
    }
    FileState { content, entries, findings, skipped }
}

/// Whether a document could not be made out, so that nobody can say which object it was.
fn has_unreadable(findings: &[Finding], objects: &[Object]) -> bool {
    let mut lost = findings.iter().filter(|finding| {
        finding.severity == Severity::Error
            && matches!(finding.code, code::SYNTAX | code::DUPLICATE_KEY | code::LIMIT | code::NOT_AN_OBJECT | code::UNKNOWN_KIND)
    });
    let named: HashSet<String> =
        objects.iter().filter(|object| !object.meta.name.is_empty()).map(|object| object.reference().to_string()).collect();
    lost.any(|finding| !named.contains(&finding.object))
}

fn instance_differences(old: &Instances, new: &Instances) -> Vec<String> {
    let name = |id: &InstanceId| format!("instance {}/{}", id.namespace, id.name);
    let mut words: Vec<String> = old.keys().filter(|id| !new.contains_key(*id)).map(|id| format!("{} left", name(id))).collect();
    for (id, instance) in new.iter() {
        match old.get(id) {
            None => words.push(format!("{} joined", name(id))),
            Some(before) if before.ready != instance.ready => {
                words.push(format!("{} is {}", name(id), if instance.ready { "ready" } else { "not ready" }));
            }
            Some(before) if before != instance => words.push(format!("{} changed", name(id))),
            Some(_) => {}
        }
    }
    words
}

#[cfg(test)]
mod tests;
