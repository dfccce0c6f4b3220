//! Text to objects: every document of a text, every finding of every document.
//!
//! In:  a file's name and text (YAML or JSON, any number of documents, `List`s unrolled).
//! Out: [`Parsed`]. Rules between fields are checked by `validate`, rules between objects by `analyze`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::code;
use crate::decode::{Decode, Decoder, place, suggestions};
use crate::finding::{Finding, Severity};
use crate::kinds::MeshConfig;
use crate::meta::{Metadata, ObjectRef};
use crate::node::{Node, Scalar, Span, Style, Value};
use crate::object::{Kind, Object, Spec};
use crate::path::Path;
use crate::table::Status;
use crate::yaml::{self, Document, YamlError, YamlErrorKind};

/// What a text holds.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// In the order of the text. Those that could not be read completely are here too, so that their names are known.
    pub objects: Vec<Object>,
    pub findings: Vec<Finding>,
    /// Objects of kinds that are no business of a mesh, counted by `apiVersion/Kind`.
    pub skipped: BTreeMap<String, usize>,
}

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Where the mesh configuration and mesh-wide policies live.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// Reads all objects of `text`.
pub fn parse(file: &str, text: &str) -> Parsed {
    let mut parser = Parser { file: file.into(), text, parsed: Parsed::default() };
    let (documents, errors) = yaml::documents(text);
    for error in errors {
        parser.yaml_error(error, &documents);
    }
    for document in documents {
        parser.object(document.root, document.broken);
    }
    parser.finish()
}

/// Reads a file of mesh settings: the fields of MeshConfig themselves, or objects such as the ConfigMap that carries them.
pub fn parse_mesh_config(file: &str, text: &str) -> Parsed {
    let mut parser = Parser { file: file.into(), text, parsed: Parsed::default() };
    let (documents, errors) = yaml::documents(text);
    for error in errors {
        parser.yaml_error(error, &documents);
    }
    for document in documents {
        if document.root.get("apiVersion").is_some() && document.root.get("kind").is_some() {
            parser.object(document.root, document.broken);
        } else {
            parser.mesh_config(document.root, ROOT_NAMESPACE, "istio", document.broken);
        }
    }
    parser.finish()
}

struct Parser<'t> {
    file: Arc<str>,
    text: &'t str,
    parsed: Parsed,
}

impl Parser<'_> {
    fn finish(mut self) -> Parsed {
        self.parsed.findings.sort_by(|a, b| (a.place.start, a.code).cmp(&(b.place.start, b.code)));
        self.parsed
    }

    #[allow(clippy::too_many_arguments, reason = "one argument per field of a finding")]
    fn report(
        &mut self,
        severity: Severity,
        code: &'static str,
        object: String,
        path: &str,
        span: Span,
        message: String,
        help: Option<String>,
    ) {
        let istio = (severity == Severity::Error).then_some(code::SCHEMA_ERROR);
        let place = place(&self.file, span);
        let path = path.to_owned();
        self.parsed.findings.push(Finding { severity, code, istio, object, path, message, help, place, related: Vec::new() });
    }

    fn yaml_error(&mut self, error: YamlError, documents: &[Document]) {
        let code = match error.kind {
            YamlErrorKind::Syntax => code::SYNTAX,
            YamlErrorKind::DuplicateKey => code::DUPLICATE_KEY,
            YamlErrorKind::Limit => code::LIMIT,
        };
        // A tree that could be built knows better than a guess at the text.
        let at = documents.partition_point(|document| (document.root.span.start as usize) < error.document.start);
        let tree = documents.get(at).map(|document| &document.root).filter(|root| (root.span.start as usize) < error.document.end);
        let object = tree.map_or_else(|| guess_identity(&self.text[error.document.clone()]), identity);
        self.report(Severity::Error, code, object, "", error.span, error.message, error.help);
        if let (Some(other), Some(finding)) = (error.other, self.parsed.findings.last_mut()) {
            finding.related.push((place(&self.file, other), "first here".into()));
        }
    }

    fn object(&mut self, root: Node, broken: bool) {
        let text = |key: &str| root.get(key).and_then(Node::text).filter(|text| !text.is_empty());
        let (Some(api_version), Some(kind_name)) = (text("apiVersion"), text("kind")) else {
            if is_kustomization(&self.file) {
                *self.parsed.skipped.entry("Kustomization".to_owned()).or_default() += 1;
                return;
            }
            let missing = if text("kind").is_none() { "kind" } else { "apiVersion" };
            let message = format!("this document is not an object: it has no `{missing}`");
            let help = is_release_report(&root).then(|| HELM_REPORT.to_owned());
            return self.report(Severity::Error, code::NOT_AN_OBJECT, String::new(), missing, root.span, message, help);
        };
        let items = root.get("items");
        if kind_name == "List" && items.is_none_or(Node::is_null) {
            return;
        }
        if kind_name.ends_with("List") && matches!(items.map(|items| &items.value), Some(Value::Sequence(_))) {
            return self.list(root, broken);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        match Kind::find(group, kind_name).filter(|kind| *kind != Kind::MeshConfig) {
            Some(kind) if kind.versions().contains(&version) => self.known(kind, api_version.to_owned(), root, broken),
            Some(kind) => self.unknown_version(kind, version, &root),
            None => self.unknown_kind(group, api_version, kind_name, &root),
        }
    }

    fn list(&mut self, root: Node, broken: bool) {
        let Value::Mapping(entries) = root.value else { return };
        for entry in entries {
            if let ("items", Value::Sequence(items)) = (&*entry.key, entry.value.value) {
                for item in items {
                    self.object(item, broken);
                }
            }
        }
    }

    fn unknown_version(&mut self, kind: Kind, version: &str, root: &Node) {
        let group = if kind.group().is_empty() { String::new() } else { format!("{}/", kind.group()) };
        let known: Vec<String> = kind.versions().iter().map(|version| format!("{group}{version}")).collect();
        let message = format!("{kind} has no version `{version}`");
        let help = Some(format!("use {}", known.join(" or ")));
        self.report(Severity::Error, code::UNKNOWN_KIND, identity(root), "apiVersion", root.find("apiVersion").span(), message, help);
    }

    fn unknown_kind(&mut self, group: &str, api_version: &str, kind: &str, root: &Node) {
        let span = root.find("kind").span();
        if let Some(alternative) = refused(group, kind) {
            let message = format!("{kind} is not supported: it is not used");
            return self.report(Severity::Error, code::REFUSED_KIND, identity(root), "kind", span, message, Some(alternative.into()));
        }
        if group == "gateway.networking.k8s.io" {
            let message = format!("{kind} of the Gateway API is not supported yet: it changes nothing");
            let help = Some("use VirtualService and Gateway of networking.istio.io".into());
            return self.report(Severity::Warning, code::UNSUPPORTED_KIND, identity(root), "kind", span, message, help);
        }
        let ours = Kind::ALL
            .iter()
            .copied()
            .filter(|kind| *kind != Kind::MeshConfig && (kind.group().contains(".istio.io") || kind.group() == "pillion.io"));
        if group.ends_with(".istio.io") || group == "pillion.io" || group.contains("istio") {
            let message = format!("there is no kind `{kind}` in `{api_version}`");
            let help = match ours.clone().find(|known| known.as_str() == kind) {
                Some(known) => Some(format!("{known} is in {}/{}", known.group(), known.versions()[0])),
                None => suggestions(kind, ours.map(Kind::as_str)).first().map(|name| format!("did you mean {name}?")),
            };
            return self.report(Severity::Error, code::UNKNOWN_KIND, identity(root), "kind", span, message, help);
        }
        *self.parsed.skipped.entry(format!("{api_version}/{kind}")).or_default() += 1;
    }

    fn known(&mut self, kind: Kind, api_version: String, root: Node, broken: bool) {
        let object = identity(&root);
        let mut findings = Vec::new();
        let mut cx = Decoder::new(&self.file, &object, &mut findings);
        let mut meta = read_metadata(kind, &root, &mut cx);
        if kind.status() == Status::NotYetEnforced {
            cx.not_enforced(kind.as_str(), &Path::ROOT, root.find("kind").span());
        }
        let spec = read_body(kind, &root, &mut cx);
        let errors = cx.errors();
        let unread = error_paths(&findings);
        self.parsed.findings.append(&mut findings);
        if meta.namespace.is_empty() && kind.is_namespaced() {
            meta.namespace = DEFAULT_NAMESPACE.to_owned();
        } else if !kind.is_namespaced() {
            meta.namespace.clear();
        }
        if kind == Kind::ConfigMap && meta.name == "istio" {
            self.mesh_settings(&root, &meta.namespace);
        }
        let document_index = self.parsed.objects.len();
        let (node, file, broken) = (Arc::new(root), self.file.clone(), broken || errors > 0 || spec.is_none());
        let spec = spec.unwrap_or_else(|| kind.empty());
        self.parsed.objects.push(Object { api_version, kind, meta, spec, node, file, document_index, broken, unread });
    }

    /// The mesh configuration inside the ConfigMap `istio`.
    fn mesh_settings(&mut self, root: &Node, namespace: &str) {
        let Some(data) = root.get("data") else { return };
        let Some((value, Value::Scalar(scalar))) = data.get("mesh").map(|node| (node, &node.value)) else { return };
        let (documents, errors) = yaml::documents(&scalar.text);
        let lines = BlockLines::new(self.text, value.span, scalar);
        for mut error in errors {
            error.span = lines.outer(error.span);
            error.other = error.other.map(|span| lines.outer(span));
            error.document = 0..0;
            self.yaml_error(error, &[]);
        }
        for mut document in documents {
            lines.move_out(&mut document.root);
            self.mesh_config(document.root, namespace, "istio", document.broken);
        }
        if let Some(networks) =
            data.entry("meshNetworks").filter(|entry| entry.value.text().is_some_and(|text| !matches!(text.trim(), "" | "networks: {}")))
        {
            let message = "`meshNetworks` is accepted and not enforced yet: it changes nothing".to_owned();
            self.report(Severity::Warning, code::NOT_ENFORCED, identity(root), "data.meshNetworks", networks.key_span, message, None);
        }
    }

    fn mesh_config(&mut self, root: Node, namespace: &str, name: &str, broken: bool) {
        let reference = ObjectRef { kind: Kind::MeshConfig, namespace: namespace.to_owned(), name: name.to_owned() };
        let object = reference.to_string();
        let mut findings = Vec::new();
        let mut cx = Decoder::new(&self.file, &object, &mut findings);
        let spec = MeshConfig::decode(&root, &Path::ROOT, &mut cx);
        let broken = broken || cx.errors() > 0 || spec.is_none();
        let unread = error_paths(&findings);
        self.parsed.findings.append(&mut findings);
        let meta = Metadata { name: reference.name, namespace: reference.namespace, ..Metadata::default() };
        self.parsed.objects.push(Object {
            api_version: "mesh.istio.io/v1alpha1".to_owned(),
            kind: Kind::MeshConfig,
            meta,
            spec: Spec::MeshConfig(Box::new(spec.unwrap_or_default())),
            node: Arc::new(root),
            file: self.file.clone(),
            document_index: self.parsed.objects.len(),
            broken,
            unread,
        });
    }
}

/// Enough to keep a broken object from saying things twice.
const MAX_UNREAD: usize = 200;

fn error_paths(findings: &[Finding]) -> Vec<String> {
    findings.iter().filter(|finding| finding.severity == Severity::Error).map(|finding| finding.path.clone()).take(MAX_UNREAD).collect()
}

fn read_metadata(kind: Kind, root: &Node, cx: &mut Decoder<'_>) -> Metadata {
    let path = Path::ROOT.field("metadata");
    let missing = |cx: &mut Decoder<'_>, span| {
        let help = Some("add `metadata: {name: …}`".to_owned());
        cx.error(code::NOT_AN_OBJECT, &path.field("name"), span, format!("this {kind} has no name"), help);
    };
    let Some(entry) = root.entry("metadata").filter(|entry| !entry.value.is_null()) else {
        missing(cx, root.span);
        return Metadata::default();
    };
    let before = cx.errors();
    let meta = Metadata::decode(&entry.value, &path, cx).unwrap_or_default();
    if meta.name.is_empty() && cx.errors() == before && entry.value.get("generateName").is_none() {
        missing(cx, entry.key_span);
    }
    meta
}

fn read_body(kind: Kind, root: &Node, cx: &mut Decoder<'_>) -> Option<Spec> {
    if kind.at_root() {
        return kind.decode(root, &Path::ROOT, cx);
    }
    if !kind.info().open {
        for entry in root.entries() {
            if !matches!(&*entry.key, "apiVersion" | "kind" | "metadata" | "spec" | "status") {
                let help = if kind.info().field(&entry.key).is_some() {
                    Some(format!("`{}` belongs under `spec`", entry.key))
                } else if is_release_report(root) {
                    Some(HELM_REPORT.to_owned())
                } else {
                    suggestions(&entry.key, ["metadata", "spec", "status"].into_iter())
                        .first()
                        .map(|name| format!("did you mean `{name}`?"))
                };
                let message = format!("unknown field `{}` in {kind}", entry.key);
                cx.error(code::UNKNOWN_FIELD, &Path::ROOT.key(&entry.key), entry.key_span, message, help);
            }
        }
    }
    match root.get("spec").filter(|spec| !spec.is_null()) {
        Some(spec) => kind.decode(spec, &Path::ROOT.field("spec"), cx),
        None => Some(kind.empty()),
    }
}

/// Kinds that Pillion knows and will not do, with what to do instead.
fn refused(group: &str, kind: &str) -> Option<&'static str> {
    match (group, kind) {
        ("networking.istio.io", "EnvoyFilter") => Some(
            "say what it should achieve with VirtualService, DestinationRule, Telemetry or AuthorizationPolicy; raw proxy configuration is not taken",
        ),
        ("extensions.istio.io", "WasmPlugin" | "TrafficExtension") => {
            Some("plug-ins do not run in the proxy; use AuthorizationPolicy and RequestAuthentication for access, Telemetry for tags")
        }
        (_, "ServiceRole" | "ServiceRoleBinding" | "RbacConfig" | "ClusterRbacConfig") if group.ends_with("istio.io") => {
            Some("use AuthorizationPolicy")
        }
        ("authentication.istio.io", "Policy" | "MeshPolicy") => Some("use PeerAuthentication and RequestAuthentication"),
        ("install.istio.io", "IstioOperator") => Some("put `meshConfig` into the ConfigMap `istio`, key `mesh`, or use --mesh-config"),
        _ => None,
    }
}

/// What `helm install --dry-run` prints around the objects.
const HELM_REPORT: &str = "this is what helm says about a release, not an object: `helm template` prints the objects alone";

fn is_release_report(root: &Node) -> bool {
    root.get("NOTES").is_some() || root.get("NAME").is_some() && root.get("LAST DEPLOYED").is_some()
}

/// A kustomization may leave out `apiVersion` and `kind`: its file name says what it is.
fn is_kustomization(file: &str) -> bool {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    matches!(name, "kustomization.yaml" | "kustomization.yml" | "Kustomization")
}

/// `Kind namespace/name`, as far as the document says.
fn identity(root: &Node) -> String {
    let text = |path: &str| root.get("metadata").and_then(|meta| meta.get(path)).and_then(Node::text).unwrap_or("");
    let kind = root.get("kind").and_then(Node::text).unwrap_or("");
    describe_identity(kind, text("namespace"), text("name"))
}

fn describe_identity(kind: &str, namespace: &str, name: &str) -> String {
    if kind.is_empty() || name.is_empty() {
        return String::new();
    }
    if Kind::named(kind).is_some_and(|kind| !kind.is_namespaced()) {
        return format!("{kind} {name}");
    }
    format!("{kind} {}/{name}", if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace })
}

/// The identity of a document that is not YAML, by its usual layout, so that its last good version can be kept.
fn guess_identity(document: &str) -> String {
    // Inside `metadata`: how far its fields are indented, once the first of them was seen.
    let mut metadata: Option<Option<usize>> = None;
    let (mut kind, mut namespace, mut name) = ("", "", "");
    for line in document.lines() {
        let body = line.trim_start_matches(' ');
        let indent = line.len() - body.len();
        if body.is_empty() || body.starts_with('#') {
            continue;
        }
        let (key, value) = body.split_once(':').unwrap_or((body, ""));
        if indent == 0 {
            metadata = (key == "metadata").then_some(None);
            match key {
                "kind" => kind = plain(value),
                "metadata" => {
                    let inside = value.trim().trim_start_matches('{').trim_end_matches('}');
                    for (key, value) in inside.split(',').filter_map(|pair| pair.split_once(':')) {
                        match plain(key) {
                            "name" => name = plain(value),
                            "namespace" => namespace = plain(value),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        } else if let Some(fields) = &mut metadata
            && *fields.get_or_insert(indent) == indent
        {
            match key {
                "name" => name = plain(value),
                "namespace" => namespace = plain(value),
                _ => {}
            }
        }
    }
    describe_identity(kind, namespace, name)
}

/// A value without its comment and quotes.
fn plain(value: &str) -> &str {
    value.split(" #").next().unwrap_or("").trim().trim_matches(['"', '\''])
}

/// Maps places inside the text of a block scalar to places of the file that has it.
struct BlockLines<'t> {
    text: &'t str,
    /// The scalar itself, for what cannot be mapped.
    whole: Span,
    /// Byte offset and line number of the first content line, and the indentation; `None` unless the scalar is a literal block.
    block: Option<(usize, u32, usize)>,
    /// Byte offsets of the content lines.
    starts: Vec<usize>,
}

impl<'t> BlockLines<'t> {
    fn new(text: &'t str, whole: Span, scalar: &Scalar) -> Self {
        let mut lines = BlockLines { text, whole, block: None, starts: Vec::new() };
        if scalar.style != Style::Literal {
            return lines;
        }
        // The content starts on the line after the `|`, wherever inside the scalar the parser's span starts.
        let first = scalar.text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
        let skipped = scalar.text.lines().take_while(|line| line.trim().is_empty()).count();
        let start = whole.start as usize;
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let mut offset = line_start;
        for (number, line) in text[line_start..].split_inclusive('\n').take(skipped + 3).enumerate() {
            let body = line.trim_end_matches(['\n', '\r']);
            if number >= skipped
                && !first.is_empty()
                && body.ends_with(first)
                && body[..body.len() - first.len()].bytes().all(|b| b == b' ')
            {
                let indent = body.len() - first.len();
                let back: usize = text[..offset].split_inclusive('\n').rev().take(skipped).map(str::len).sum();
                let start = offset - back;
                lines.block = Some((start, whole.line + number as u32 - skipped as u32, indent));
                let sizes = text[start..].split_inclusive('\n').take(scalar.text.lines().count() + 1).map(str::len);
                lines.starts = sizes.scan(start, |at, size| Some(std::mem::replace(at, *at + size))).collect();
                break;
            }
            offset += line.len();
        }
        lines
    }

    fn outer(&self, inner: Span) -> Span {
        let Some((start, line, indent)) = self.block else { return self.whole };
        let nth = inner.line.saturating_sub(1);
        let line_start = self.starts.get(nth as usize).or(self.starts.last()).copied().unwrap_or(start);
        let bytes: usize =
            self.text.get(line_start + indent..).map_or(0, |rest| rest.chars().take(inner.column as usize - 1).map(char::len_utf8).sum());
        let from = (line_start + indent + bytes).min(self.text.len());
        let end_of_line = self.text.get(from..).map_or(from, |rest| from + rest.find('\n').unwrap_or(rest.len()));
        let to = (from + (inner.end - inner.start) as usize).min(end_of_line);
        Span { start: from as u32, end: to as u32, line: line + nth, column: indent as u32 + inner.column }
    }

    fn move_out(&self, node: &mut Node) {
        node.span = self.outer(node.span);
        match &mut node.value {
            Value::Scalar(_) => {}
            Value::Sequence(items) => items.iter_mut().for_each(|item| self.move_out(item)),
            Value::Mapping(entries) => {
                for entry in entries {
                    entry.key_span = self.outer(entry.key_span);
                    self.move_out(&mut entry.value);
                }
            }
        }
    }
}
