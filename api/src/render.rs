//! Findings as text in the manner of rustc (place, source line, caret, help, related places), as one line each, or as JSON.
//!
//! In:  [`Finding`]s and the texts they point into.
//! Out: strings; whether they are coloured is the caller's decision.

use std::collections::HashMap;
use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet, renderer::DecorStyle};

use crate::finding::{Finding, Place, Severity};

/// Related places shown with their source; more are counted.
const MAX_RELATED: usize = 6;
/// Two places of one file that lie further apart are shown in two snippets.
const MAX_GAP_LINES: usize = 40;
/// Of a longer line (JSON without line breaks), in bytes, only the neighbourhood of the place is shown: a report costs what it shows.
const MAX_LINE: usize = 2048;
/// Bytes shown before and after a place in such a line.
const AROUND: usize = 60;

/// The texts that places point into, by file name, with an index of their lines so that one report costs its own lines only.
#[derive(Default)]
pub struct Sources<'a> {
    texts: HashMap<&'a str, Text<'a>>,
}

struct Text<'a> {
    text: &'a str,
    /// Byte offset of each line's first character.
    lines: Vec<usize>,
}

impl<'a> Sources<'a> {
    pub fn new(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all = Self::default();
        for (file, text) in sources {
            let starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
            all.texts.insert(file, Text { text, lines: std::iter::once(0).chain(starts).collect() });
        }
        all
    }
}

impl<'a> Text<'a> {
    /// 0-based line that holds a byte.
    fn line_of(&self, byte: usize) -> usize {
        self.lines.partition_point(|start| *start <= byte).saturating_sub(1)
    }

    /// Bytes of the lines `first..=last`, without the last line feed.
    fn window(&self, first: usize, last: usize) -> Range<usize> {
        let start = self.lines.get(first).copied().unwrap_or(self.text.len());
        let end = self.lines.get(last + 1).map_or(self.text.len(), |next| next - 1);
        start..end.max(start)
    }

    /// The place's bytes, cut to its first line and to character boundaries; the whole line where the place has no width.
    fn span(&self, place: &Place) -> Range<usize> {
        let length = self.text.len();
        let (start, end) = ((place.start as usize).min(length), (place.end as usize).min(length));
        let line = if end > start { self.line_of(start) } else { (place.line as usize).saturating_sub(1).min(self.lines.len() - 1) };
        let window = self.window(line, line);
        if end <= start {
            let text = &self.text[window.clone()];
            let indent = text.len() - text.trim_start().len();
            return window.start + indent..window.start + text.trim_end().len().max(indent);
        }
        let shown = &self.text[window.clone()];
        let mut end = end.min(window.start + shown.trim_end().len()).max(start);
        let mut start = start;
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        start..end
    }

    /// What is shown of a line that is too long to be shown whole, and where the span stands in it.
    fn piece(&self, span: &Range<usize>) -> Option<(String, Range<usize>)> {
        let line = self.line_of(span.start);
        let window = self.window(line, line);
        if window.len() <= MAX_LINE {
            return None;
        }
        let boundary = |mut at: usize| {
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let end = boundary(span.end.min(span.start + AROUND)).max(span.start);
        let first = boundary(span.start.saturating_sub(AROUND)).max(window.start);
        let last = boundary((end + AROUND).min(window.end)).max(end);
        let before = if first > window.start { "… " } else { "" };
        let after = if last < window.end { " …" } else { "" };
        let at = before.len() + span.start - first;
        Some((format!("{before}{}{after}", &self.text[first..last]), at..at + end - span.start))
    }
}

/// All findings, a blank line after each. `color`: with ANSI escapes.
pub fn text(findings: &[Finding], sources: &Sources<'_>, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for finding in findings {
        out.push_str(&one(finding, sources, &renderer));
        out.push_str("\n\n");
    }
    out
}

/// One finding as a single line, `file:line:column: severity[code]: message`, for logs and refusals.
pub fn line(finding: &Finding) -> String {
    let place = &finding.place;
    let severity = severity_word(finding.severity);
    if place.file.is_empty() {
        format!("{}: {severity}[{}]: {}", finding.object, finding.code, finding.message)
    } else {
        format!("{}:{}:{}: {severity}[{}]: {}", place.file, place.line, place.column, finding.code, finding.message)
    }
}

/// The findings as a JSON array; each has `severity`, `code`, `istio`, `object`, `path`, `message`, `help`, `place` and `related`.
pub fn json(findings: &[Finding]) -> serde_json::Value {
    serde_json::to_value(findings).unwrap_or_default()
}

fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn one(finding: &Finding, sources: &Sources<'_>, renderer: &Renderer) -> String {
    let level = match finding.severity {
        Severity::Note => Level::NOTE,
        Severity::Warning => Level::WARNING,
        Severity::Error => Level::ERROR,
    };
    let code = match finding.istio {
        Some(istio) => format!("{}, {istio}", finding.code),
        None => finding.code.to_owned(),
    };
    let mut group = Group::with_title(level.primary_title(&finding.message).id(code));
    for shown in snippets(finding, sources) {
        group = shown.add_to(group);
    }
    if finding.related.len() > MAX_RELATED {
        group = group.element(Level::NOTE.message(format!("and {} more places", finding.related.len() - MAX_RELATED)));
    }
    if !finding.object.is_empty() {
        let path = if finding.path.is_empty() { String::new() } else { format!(", {}", finding.path) };
        group = group.element(Level::NOTE.with_name("in").message(format!("{}{path}", finding.object)));
    }
    if let Some(help) = &finding.help {
        group = group.element(Level::HELP.message(help));
    }
    without_empty_headers(&renderer.render(&[group]))
}

/// Leaves out the separators that stand before a snippet without a path: a piece of a long line has its place above it already.
fn without_empty_headers(rendered: &str) -> String {
    let bare = |line: &str| -> String {
        let mut pieces = line.split('\u{1b}');
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.filter_map(|piece| piece.split_once('m')).fold(first, |text, (_, rest)| text + rest).trim().to_owned()
    };
    let mut kept: Vec<&str> = Vec::new();
    for line in rendered.lines() {
        if !line.contains(":::") || bare(line) != ":::" {
            kept.push(line);
        } else if kept.last().is_some_and(|last| bare(last) == "|") {
            kept.pop();
        }
    }
    kept.join("\n")
}

/// What one box of the report shows: lines of a file with marks, or only where it is when the text is not at hand.
enum Shown<'a> {
    Lines {
        file: &'a str,
        text: &'a str,
        first_line: usize,
        marks: Vec<Annotation<'a>>,
    },
    /// A piece of a long line.
    Piece {
        place: &'a Place,
        text: String,
        mark: Annotation<'a>,
    },
    Origin {
        place: &'a Place,
    },
}

impl<'a> Shown<'a> {
    fn add_to(self, group: Group<'a>) -> Group<'a> {
        match self {
            Self::Lines { file, text, first_line, marks } => {
                group.element(Snippet::source(text).path(file).line_start(first_line).fold(true).annotations(marks))
            }
            Self::Piece { place, text, mark } => {
                // Columns of the piece are not those of the file: the place is given apart.
                group.element(origin(place)).element(Snippet::source(text).line_start(place.line as usize).annotation(mark))
            }
            Self::Origin { place } => group.element(origin(place)),
        }
    }
}

fn origin(place: &Place) -> Origin<'_> {
    Origin::path(&*place.file).line(place.line as usize).char_column(place.column as usize)
}

struct Mark<'a> {
    line: usize,
    span: Range<usize>,
    primary: bool,
    label: &'a str,
}

/// The boxes of a finding, the one with its own place first.
fn snippets<'a>(finding: &'a Finding, sources: &Sources<'a>) -> Vec<Shown<'a>> {
    let mut boxes = Vec::new();
    let mut by_file: Vec<(&'a str, Vec<Mark<'a>>)> = Vec::new();
    let related = finding.related.iter().take(MAX_RELATED).map(|(place, label)| (place, label.as_str(), false));
    for (place, label, primary) in std::iter::once((&finding.place, "", true)).chain(related) {
        if place.file.is_empty() {
            continue;
        }
        let Some(text) = sources.texts.get(&*place.file) else {
            boxes.push(Shown::Origin { place });
            continue;
        };
        let span = text.span(place);
        if let Some((piece, within)) = text.piece(&span) {
            let kind = if primary { AnnotationKind::Primary } else { AnnotationKind::Context };
            let mark = kind.span(within);
            let mark = if label.is_empty() { mark } else { mark.label(label) };
            boxes.push(Shown::Piece { place, text: piece, mark });
            continue;
        }
        let mark = Mark { line: text.line_of(span.start), span, primary, label };
        match by_file.iter_mut().find(|(file, _)| *file == &*place.file) {
            Some((_, marks)) => marks.push(mark),
            None => by_file.push((&place.file, vec![mark])),
        }
    }
    for (file, mut marks) in by_file {
        let Some(text) = sources.texts.get(file) else { continue };
        marks.sort_by_key(|m| m.line);
        let mut runs: Vec<Vec<Mark<'a>>> = Vec::new();
        for mark in marks {
            match runs.last_mut() {
                Some(run) if run.last().is_some_and(|m| mark.line - m.line <= MAX_GAP_LINES) => run.push(mark),
                _ => runs.push(vec![mark]),
            }
        }
        runs.sort_by_key(|run| !run.iter().any(|m| m.primary));
        boxes.extend(runs.into_iter().map(|run| lines_of(file, text, run)));
    }
    boxes
}

fn lines_of<'a>(file: &'a str, text: &Text<'a>, run: Vec<Mark<'a>>) -> Shown<'a> {
    let first = run.first().map_or(0, |m| m.line);
    let last = run.last().map_or(first, |m| m.line);
    let window = text.window(first, last);
    let marks = run.into_iter().map(|mark| {
        let kind = if mark.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
        let span = mark.span.start - window.start..mark.span.end.min(window.end) - window.start;
        let annotation = kind.span(span);
        if mark.label.is_empty() { annotation } else { annotation.label(mark.label) }
    });
    let marks = marks.collect();
    Shown::Lines { file, text: &text.text[window], first_line: first + 1, marks }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "kind: VirtualService\nspec:\n  http:\n  - retrys:\n      attempts: 3 # größer\n  - timeout: 5s\n";

    fn place(needle: &str) -> Place {
        let start = YAML.find(needle).expect("in the text");
        let line = YAML[..start].matches('\n').count();
        let column = YAML[..start].chars().rev().take_while(|c| *c != '\n').count();
        Place {
            file: "shop/a.yaml".into(),
            line: line as u32 + 1,
            column: column as u32 + 1,
            start: start as u32,
            end: (start + needle.len()) as u32,
        }
    }

    fn finding() -> Finding {
        Finding {
            severity: Severity::Error,
            code: "PLN1012",
            istio: Some("IST0106"),
            object: "VirtualService default/a".into(),
            path: "spec.http[0]".into(),
            message: "unknown field `retrys`".into(),
            help: Some("did you mean `retries`?".into()),
            place: place("retrys"),
            related: vec![(place("5s"), "this would bound it".into())],
        }
    }

    #[test]
    fn text_shows_place_source_caret_related_and_help() {
        let got = text(&[finding()], &Sources::new([("shop/a.yaml", YAML)]), false);
        let want = "\
error[PLN1012, IST0106]: unknown field `retrys`
 --> shop/a.yaml:4:5
  |
4 |   - retrys:
  |     ^^^^^^
5 |       attempts: 3 # größer
6 |   - timeout: 5s
  |              -- this would bound it
  |
  = in: VirtualService default/a, spec.http[0]
  = help: did you mean `retries`?

";
        assert_eq!(got, want);
    }

    #[test]
    fn of_a_long_line_only_the_neighbourhood_is_shown_with_the_columns_of_the_file() {
        let before = "é: 1, ".repeat(20_000);
        let line = format!("{{{before}\"retrys\": 1, {before}}}");
        let start = line.find("\"retrys").expect("there");
        let column = line[..start].chars().count() as u32 + 1;
        let mut finding = finding();
        finding.place = Place { file: "a.json".into(), line: 1, column, start: start as u32, end: start as u32 + 8 };
        finding.related = vec![(Place { start: 1, end: 3, column: 2, ..finding.place.clone() }, "first".into())];
        let sources = Sources::new([("a.json", line.as_str())]);
        let started = std::time::Instant::now();
        let got = text(&vec![finding.clone(); 200], &sources, false);
        assert!(started.elapsed().as_secs() < 5, "each report reads the whole line: {:?}", started.elapsed());
        let one = got.split("\n\n").next().expect("a report");
        assert!(one.contains(&format!("--> a.json:1:{column}")) && one.contains("a.json:1:2"), "{one}");
        assert!(one.lines().all(|l| l.chars().count() < 200) && one.contains("\"retrys\": 1") && one.contains("^^^^^^^^"), "{one}");
        assert!(!one.lines().any(|l| l.trim() == ":::"), "{one}");
        assert_eq!(text(&[finding], &sources, true).lines().count(), one.lines().count() + 1, "colours change nothing else");
    }

    #[test]
    fn a_place_without_its_text_is_still_named() {
        let got = text(&[finding()], &Sources::default(), false);
        assert!(got.contains("--> shop/a.yaml:4:5"), "{got}");
    }

    #[test]
    fn odd_places_never_panic() {
        let sources = Sources::new([("shop/a.yaml", YAML), ("empty", "")]);
        let length = YAML.len() as u32;
        let umlaut = YAML.find('ö').expect("there") as u32;
        let cases = [(0, 0, 0), (9999, 9999, 9999), (1, 3, 2), (2, 0, length * 2), (5, umlaut + 1, umlaut + 2), (7, length, length)];
        for file in ["shop/a.yaml", "empty", ""] {
            for (line, start, end) in cases {
                let mut finding = finding();
                finding.place = Place { file: file.into(), line, column: 1, start, end };
                assert!(text(&[finding], &sources, true).contains("unknown field"), "{file} {line} {start} {end}");
            }
        }
    }

    #[test]
    fn the_one_line_form_is_clickable() {
        assert_eq!(line(&finding()), "shop/a.yaml:4:5: error[PLN1012]: unknown field `retrys`");
    }

    #[test]
    fn json_carries_the_place() {
        let json = json(&[finding()]);
        assert_eq!(json[0]["place"]["line"], 4);
        assert_eq!(json[0]["severity"], "error");
        assert_eq!(json[0]["istio"], "IST0106");
    }
}
