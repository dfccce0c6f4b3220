//! YAML documents of which a field can be taken out.
//!
//! In:  text; the kind and path of a field, as in the compatibility table.
//! Out: text again.

use std::fmt;

use pillion_api::{
    node::{Node, Resolved, Style, Value},
    object::Kind,
    yaml,
};

/// What becomes of a field.
pub enum Change {
    Remove,
    /// This YAML stands in its place.
    Replace(&'static str),
}

/// Some documents. One that has no `kind` is a MeshConfig, and printed as the ConfigMap that holds it.
#[derive(Clone)]
pub struct Tree(Vec<Node>);

fn parse(text: &str) -> Vec<Node> {
    let (documents, errors) = yaml::documents(text);
    assert!(errors.is_empty(), "{errors:?}\n{text}");
    documents.into_iter().map(|document| document.root).collect()
}

impl Tree {
    pub fn read(text: &str) -> Self {
        Self(parse(text))
    }

    /// The same with every object in this namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        let mut other = self.clone();
        for root in &mut other.0 {
            if let Value::Mapping(entries) = &mut root.value
                && let Some(metadata) = entries.iter_mut().find(|entry| &*entry.key == "metadata")
                && let Value::Mapping(inside) = &mut metadata.value.value
            {
                let own = parse(&format!("{{namespace: {namespace}}}"));
                inside.retain(|entry| &*entry.key != "namespace");
                inside.extend(own[0].entries().iter().cloned());
            }
        }
        other
    }

    /// The same with a change at `path`, in the first document of the kind that has it; `None` when none has.
    pub fn with(&self, kind: Kind, path: &str, change: &Change) -> Option<Self> {
        let steps: Vec<&str> = path.split('.').collect();
        let mut other = self.clone();
        let mut of_kind = other.0.iter_mut().filter(|root| kind_of(root) == kind.as_str());
        of_kind.any(|root| at(root, &steps, change)).then_some(other)
    }
}

fn kind_of(root: &Node) -> &str {
    root.get("kind").and_then(Node::text).unwrap_or(Kind::MeshConfig.as_str())
}

/// Whether something was changed.
fn at(node: &mut Node, steps: &[&str], change: &Change) -> bool {
    let Value::Mapping(entries) = &mut node.value else { return false };
    let name = steps[0].trim_end_matches("[]").trim_end_matches("{}");
    let Some(position) = entries.iter().position(|entry| &*entry.key == name) else { return false };
    if steps.len() == 1 {
        match change {
            Change::Remove => drop(entries.remove(position)),
            Change::Replace(text) => entries[position].value = parse(text).remove(0),
        }
        return true;
    }
    let inside = &mut entries[position].value;
    let all: Vec<&mut Node> = match &mut inside.value {
        Value::Sequence(items) if steps[0].ends_with("[]") => items.iter_mut().collect(),
        Value::Mapping(entries) if steps[0].ends_with("{}") => entries.iter_mut().map(|entry| &mut entry.value).collect(),
        _ => vec![inside],
    };
    all.into_iter().fold(false, |changed, node| at(node, &steps[1..], change) | changed)
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for root in &self.0 {
            let text = flow(root);
            match root.get("kind") {
                Some(_) => writeln!(f, "---\n{text}")?,
                None => writeln!(
                    f,
                    "---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: {}}}}}",
                    quoted(&text)
                )?,
            }
        }
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn flow(node: &Node) -> String {
    match &node.value {
        Value::Scalar(scalar) if scalar.style == Style::Plain && scalar.resolve() != Resolved::Text => scalar.text.to_string(),
        Value::Scalar(scalar) => quoted(&scalar.text),
        Value::Sequence(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Mapping(entries) => {
            let entries = entries.iter().map(|entry| format!("{}: {}", quoted(&entry.key), flow(&entry.value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}
