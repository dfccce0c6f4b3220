//! Texts to a set of objects with everything that is worth saying about them: what `validate` prints and the control plane starts from.
//!
//! In:  file names and texts. No I/O.
//! Out: [`Checked`].

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::analyze::analyze;
use crate::effective::Effective;
use crate::finding::Finding;
use crate::meta::ObjectRef;
use crate::object::Kind;
use crate::parse::parse;
use crate::set::ObjectSet;
use crate::validate::validate;

/// What came of a set of texts.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The valid objects.
    pub set: ObjectSet,
    /// Who wins among them, from the MeshConfig among them.
    pub effective: Effective,
    /// By file, then position.
    pub findings: Vec<Finding>,
    /// Objects of kinds that are no business of a mesh, counted by `apiVersion/Kind`.
    pub skipped: BTreeMap<String, usize>,
    /// Documents that are objects: valid, invalid and skipped.
    pub documents: usize,
}

/// Reads, validates and analyses texts, each with the name under which findings show it.
pub fn check<F: AsRef<str>, T: AsRef<str>>(sources: &[(F, T)]) -> Checked {
    let (mut findings, mut skipped) = (Vec::new(), BTreeMap::<String, usize>::new());
    let (mut valid, mut invalid) = (Vec::new(), Vec::<ObjectRef>::new());
    for (file, text) in sources {
        let parsed = parse(file.as_ref(), text.as_ref());
        findings.extend(parsed.findings);
        for (kind, count) in parsed.skipped {
            *skipped.entry(kind).or_default() += count;
        }
        for object in parsed.objects {
            let reference = object.reference();
            let (object, mut more) = validate(object);
            findings.append(&mut more);
            match object {
                Some(object) => valid.push(Arc::new(object)),
                None => invalid.push(reference),
            }
        }
    }
    // The mesh configuration lies inside a ConfigMap, which counts already.
    let settings = valid.iter().filter(|object| object.kind == Kind::MeshConfig).count()
        + invalid.iter().filter(|r| r.kind == Kind::MeshConfig).count();
    let documents = valid.len() + invalid.len() + skipped.values().sum::<usize>() - settings;
    let (set, mut duplicates) = ObjectSet::new(valid);
    findings.append(&mut duplicates);
    let effective = Effective::new(set.clone(), None);
    findings.extend(analyze(&effective, &invalid));
    sort(&mut findings);
    Checked { set, effective, findings, skipped, documents }
}

/// By file, then position, then severity (worst first).
pub fn sort(findings: &mut [Finding]) {
    findings.sort_by(|a, b| {
        let key = |f: &Finding| (f.place.line, f.place.column, std::cmp::Reverse(f.severity), f.code);
        a.place.file.cmp(&b.place.file).then_with(|| key(a).cmp(&key(b)))
    });
}
