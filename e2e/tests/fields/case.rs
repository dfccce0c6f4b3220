//! A case: a world that uses some fields, requests, what they observe.
//!
//! In:  entries of the lists, a stage.
//! Out: what is wrong, in sentences.

use std::{
    fmt::Write as _,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use pillion_api::{
    code::NOT_ENFORCED,
    finding::{Finding, Severity},
    object::Kind,
};

use crate::{
    ask::Ask,
    resolved,
    stage::Stage,
    tree::{Change, Tree},
};

/// What takes longer is said.
const LONG: Duration = Duration::from_secs(1);

/// One entry of a list.
pub struct Case {
    pub name: &'static str,
    pub fields: Vec<Field>,
    yaml: String,
    asks: Vec<Ask>,
    pub see: &'static str,
    pub expected: &'static str,
    how: How,
}

/// How a case observes.
#[derive(PartialEq)]
enum How {
    /// By requests, or in a local mesh of its list.
    Mesh,
    /// By the findings of the check.
    Findings,
    /// By the Workload that is made of it.
    Resolved,
}

/// A field of a case, and what becomes of it in the other run.
pub struct Field {
    pub path: &'static str,
    pub change: Change,
}

/// A case over this YAML; `$v1` is a route to port 80 of `v1.example`, and so on.
pub fn case(name: &'static str, yaml: impl Into<String>) -> Case {
    let mut yaml = yaml.into();
    for to in ["v1", "v2", "v3"] {
        yaml = yaml.replace(&format!("${to}"), &format!("route: [{{destination: {{host: {to}.example, port: {{number: 80}}}}}}]"));
    }
    Case { name, fields: Vec::new(), yaml, asks: Vec::new(), see: "", expected: "", how: How::Mesh }
}

impl Case {
    pub fn fields(mut self, fields: &[&'static str]) -> Self {
        for field in fields {
            self.fields.push(match field.split_once(" = ") {
                Some((path, value)) => Field { path, change: Change::Replace(value) },
                None => Field { path: field, change: Change::Remove },
            });
        }
        self
    }

    pub fn ask(mut self, text: &'static str) -> Self {
        self.asks.push(Ask::parse(text));
        self
    }

    /// The words of `see` for each request; those of different requests are joined with `, `.
    pub fn sees(mut self, see: &'static str, expected: &'static str) -> Self {
        self.see = see;
        self.expected = expected;
        self
    }

    /// The errors of the YAML's check, `none` or codes: for a field that is only checked. Nothing is asked.
    pub fn finds(self, expected: &'static str) -> Self {
        Self { how: How::Findings, ..self.sees("", expected) }
    }

    /// The words of `fields/resolved.rs`. Nothing is asked.
    pub fn resolves(self, see: &'static str, expected: &'static str) -> Self {
        Self { how: How::Resolved, ..self.sees(see, expected) }
    }

    pub fn tree(&self) -> Tree {
        Tree::read(&self.yaml)
    }

    /// Runs the case as written and without each of its fields.
    pub async fn run(&self, kind: Kind, stage: &mut Stage) -> Vec<String> {
        let began = Instant::now();
        let mut wrong = Vec::new();
        let tree = self.tree();
        match self.observe(&tree, stage, true).await {
            Ok(seen) if seen == self.expected => {}
            Ok(seen) => wrong.push(format!("{kind} `{}`: expected {:?}, observed {seen:?}\n{tree}", self.name, self.expected)),
            Err(why) => wrong.push(format!("{kind} `{}`: {why}\n{tree}", self.name)),
        }
        for field in &self.fields {
            let Some(other) = tree.with(kind, field.path, &field.change) else {
                wrong.push(format!("{kind} `{}`: has no {}\n{tree}", self.name, field.path));
                continue;
            };
            match self.observe(&other, stage, false).await {
                Ok(seen) if seen == self.expected => {
                    wrong.push(format!("{kind} `{}`: nobody notices that {} is not there: {seen:?}\n{other}", self.name, field.path));
                }
                Ok(seen) => println!("{kind} {}: {:?} -> {seen:?}", field.path, self.expected),
                Err(why) => wrong.push(format!("{kind} `{}` without {}: {why}\n{other}", self.name, field.path)),
            }
        }
        if began.elapsed() > LONG {
            println!("{kind} `{}` took {:?}", self.name, began.elapsed());
        }
        wrong
    }

    /// `whole`: as written, where a field that is not enforced has no business.
    async fn observe(&self, tree: &Tree, stage: &mut Stage, whole: bool) -> Result<String, String> {
        let yaml = stage.fill(&tree.to_string());
        let mut findings = String::new();
        let checked = pillion_api::check(&[("base.yaml", stage.base()), ("case.yaml", &yaml)]);
        if self.how == How::Findings {
            let errors = checked.findings.iter().filter(|finding| finding.severity == Severity::Error);
            let codes: Vec<&str> = errors.map(|finding| finding.code).collect();
            return Ok(if codes.is_empty() { "none".to_owned() } else { codes.join(" ") });
        }
        let counts = |finding: &&Finding| finding.severity == Severity::Error || whole && finding.code == NOT_ENFORCED;
        for finding in checked.findings.iter().filter(counts) {
            let _ = writeln!(findings, "{finding:?}");
        }
        if !findings.is_empty() {
            return Err(findings);
        }
        if self.how == How::Resolved {
            return Ok(resolved::words(&checked.effective, self.see));
        }
        // A wait that ran out is a panic, and the other cases should be heard, too.
        let run = async {
            stage.apply(&yaml).await;
            let mut seen = Vec::new();
            for ask in &self.asks {
                seen.push(ask.observe(self.see, stage).await);
            }
            seen.join(", ")
        };
        AssertUnwindSafe(run).catch_unwind().await.map_err(|why| why.downcast_ref::<String>().cloned().unwrap_or_else(|| "panicked".into()))
    }
}
