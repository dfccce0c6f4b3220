//! What the rules of all kinds are written with: a collector of findings, and the rules for small values.
//!
//! In:  values and where they stand. Out: findings.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use regex::bytes::RegexBuilder;

use crate::code;
use crate::finding::{Finding, Severity};
use crate::object::Object;
use crate::path::Path;
use crate::string_match::StringMatch;

/// Istio bounds the source of an expression, and we its compiled size.
const MAX_REGEX: usize = 1024;
const MAX_COMPILED_REGEX: usize = 1 << 20;
const MILLISECOND: Duration = Duration::from_millis(1);

/// Collects the findings of one object.
pub(super) struct Check<'a> {
    object: &'a Object,
    findings: Vec<Finding>,
    last_is_kept: bool,
}

impl<'a> Check<'a> {
    pub(super) fn new(object: &'a Object) -> Self {
        Check { object, findings: Vec::new(), last_is_kept: true }
    }

    pub(super) fn finish(self) -> Vec<Finding> {
        self.findings
    }

    /// Whether the field at `path` is written.
    pub(super) fn has(&self, path: &Path<'_>) -> bool {
        self.object.has(&path.to_string())
    }

    pub(super) fn namespace(&self) -> &'a str {
        &self.object.meta.namespace
    }

    fn report(&mut self, severity: Severity, code: &'static str, path: &Path<'_>, message: String, help: String) {
        let path = path.to_string();
        let istio = match severity {
            Severity::Error => Some(code::SCHEMA_ERROR),
            Severity::Warning => Some(code::SCHEMA_WARNING),
            Severity::Note => None,
        };
        let place = self.object.place(&path);
        let help = (!help.is_empty()).then_some(help);
        let object = self.object.reference().to_string();
        self.push(Finding { severity, code, istio, object, path, message, help, place, related: Vec::new() });
    }

    /// What could not be read is not said again as missing or empty, nor its surroundings as incomplete.
    fn push(&mut self, finding: Finding) {
        let inside =
            |path: &str, parent: &str| path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.last_is_kept = !self.object.unread.iter().any(|unread| inside(unread, &finding.path) || inside(&finding.path, unread));
        if self.last_is_kept {
            self.findings.push(finding);
        }
    }

    pub(super) fn error(&mut self, code: &'static str, path: &Path<'_>, message: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Error, code, path, message.into(), help.into());
    }

    pub(super) fn warning(&mut self, code: &'static str, path: &Path<'_>, message: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Warning, code, path, message.into(), help.into());
    }

    pub(super) fn note(&mut self, code: &'static str, path: &Path<'_>, message: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Note, code, path, message.into(), help.into());
    }

    /// The value `what` at `path` is accepted and does nothing yet.
    pub(super) fn not_enforced(&mut self, path: &Path<'_>, what: &str) {
        self.warning(code::NOT_ENFORCED, path, format!("{what} is accepted and not enforced yet: it changes nothing"), "");
    }

    /// Gives the last finding the code that Istio has for it.
    pub(super) fn istio(&mut self, code: &'static str) {
        if let Some(finding) = self.findings.last_mut().filter(|_| self.last_is_kept) {
            finding.istio = Some(code);
        }
    }

    /// Points at the first of two things as well.
    pub(super) fn related(&mut self, path: &Path<'_>, note: impl Into<String>) {
        let place = self.object.place(&path.to_string());
        if let Some(finding) = self.findings.last_mut().filter(|_| self.last_is_kept) {
            finding.related.push((place, note.into()));
        }
    }

    /// Reports an empty text; true when there is one.
    pub(super) fn required(&mut self, path: &Path<'_>, value: &str, what: &str) -> bool {
        if value.is_empty() {
            self.error(code::REQUIRED, path, format!("{what} is required"), "");
        }
        !value.is_empty()
    }

    /// Reports the second of two equal items; `path` leads to the item of an index.
    pub(super) fn unique<T: Ord + Display>(
        &mut self,
        items: impl IntoIterator<Item = (usize, T)>,
        path: impl Fn(usize) -> String,
        what: &str,
    ) {
        let mut seen: BTreeMap<T, usize> = BTreeMap::new();
        for (index, item) in items {
            if let Some(first) = seen.get(&item) {
                let (here, there) = (path(index), path(*first));
                let place = self.object.place(&there);
                let message = format!("the {what} `{item}` is here twice");
                let object = self.object.reference().to_string();
                self.push(Finding {
                    severity: Severity::Error,
                    code: code::DUPLICATE,
                    istio: Some(code::SCHEMA_ERROR),
                    object,
                    place: self.object.place(&here),
                    path: here,
                    message,
                    help: None,
                    related: vec![(place, "first here".into())],
                });
            } else {
                seen.insert(item, index);
            }
        }
    }

    /// A host name. `wildcard`: `*` and `*.suffix` too.
    pub(super) fn host(&mut self, path: &Path<'_>, host: &str, wildcard: bool) -> bool {
        let problem = host_problem(host, wildcard);
        if let Some(problem) = problem {
            let help = if problem.contains("wildcard") { "only `*` or `*.example.com` are wildcards" } else { "" };
            self.error(code::HOST_NAME, path, format!("`{host}` is not a host name: {problem}"), help);
        }
        problem.is_none()
    }

    /// A port, 1 to 65535.
    pub(super) fn port(&mut self, path: &Path<'_>, port: u32) {
        if !(1..=65535).contains(&port) {
            self.error(code::PORT, path, format!("{port} is not a port: 1 to 65535"), "");
        }
    }

    /// A required port: missing is zero.
    pub(super) fn required_port(&mut self, path: &Path<'_>, port: u32) {
        if port == 0 && !self.has(path) {
            self.error(code::REQUIRED, path, "a port is required", "");
        } else {
            self.port(path, port);
        }
    }

    /// `exportTo` lists: `*` or `~` alone, else `.` and namespaces.
    pub(super) fn export_to(&mut self, path: &Path<'_>, list: &[String], hidden: bool) {
        for (index, item) in list.iter().enumerate() {
            let path = path.index(index);
            match item.as_str() {
                "." => {}
                "*" if list.len() > 1 => {
                    self.error(code::EXPORT_TO, &path, "`*` already means every namespace", "remove the others");
                }
                "*" => {}
                "~" if hidden && list.len() == 1 => {}
                "~" => {
                    let help = "use `.` to keep it to its own namespace";
                    self.error(code::EXPORT_TO, &path, "`~` (nobody) cannot stand here", help);
                }
                name => self.dns_label(&path, name, "namespace"),
            }
        }
        self.unique(list.iter().enumerate(), |index| path.index(index).to_string(), "namespace");
    }

    /// A DNS label (RFC 1123): lower-case letters, digits, `-`, at most 63.
    pub(super) fn dns_label(&mut self, path: &Path<'_>, name: &str, what: &str) {
        if !is_dns_label(name) {
            let help = "lower-case letters, digits and `-`, at most 63, starting and ending with a letter or digit";
            self.error(code::LABEL, path, format!("`{name}` is not the name of a {what}"), help);
        }
    }

    /// Labels, or a selector made of them.
    pub(super) fn labels(&mut self, path: &Path<'_>, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            let path = path.key(key);
            if !is_qualified_name(key) {
                let help = "an optional `prefix/`, then letters, digits, `-`, `_`, `.`, at most 63";
                self.error(code::LABEL, &path, format!("`{key}` is not a label key"), help);
            }
            if !is_label_value(value) {
                let help = "letters, digits, `-`, `_`, `.`, at most 63, starting and ending with a letter or digit";
                self.error(code::LABEL, &path, format!("`{value}` is not a label value"), help);
            }
        }
    }

    /// At least a millisecond, and no finer: that is what the proxy's timers do.
    pub(super) fn duration(&mut self, path: &Path<'_>, duration: Option<Duration>) {
        let Some(duration) = duration else { return };
        if duration < MILLISECOND {
            self.error(code::DURATION, path, "must be at least 1ms", "");
        } else if duration.subsec_nanos() % 1_000_000 != 0 {
            self.error(code::DURATION, path, "durations are precise to 1ms", "");
        }
    }

    /// As [`Check::duration`], and zero, which switches off.
    pub(super) fn duration_or_zero(&mut self, path: &Path<'_>, duration: Option<Duration>) {
        self.duration(path, duration.filter(|duration| !duration.is_zero()));
    }

    /// 0 to 100.
    pub(super) fn percent(&mut self, path: &Path<'_>, percent: f64) {
        if !(0.0..=100.0).contains(&percent) {
            self.error(code::PERCENT, path, format!("{percent} is not a percentage: 0 to 100"), "");
        } else if percent > 0.0 && percent < 0.0001 {
            let help = "0.0001 (1 in 1,000,000) is the least";
            self.error(code::PERCENT, path, format!("{percent} % is less than the proxy can count"), help);
        }
    }

    /// A limit that must not be negative.
    pub(super) fn not_negative(&mut self, path: &Path<'_>, number: i32) {
        if number < 0 {
            self.error(code::NEGATIVE, path, format!("{number} is negative"), "");
        }
    }

    /// The name of a header.
    pub(super) fn header_name(&mut self, path: &Path<'_>, name: &str) {
        if name.is_empty() || !name.bytes().all(is_token) {
            let help = "letters, digits and `-`";
            self.error(code::HEADER_NAME, path, format!("`{name}` is not the name of a header"), help);
        }
    }

    /// An RE2 expression, as far as it can be said without RE2.
    pub(super) fn regex(&mut self, path: &Path<'_>, regex: &str) {
        if regex.len() > MAX_REGEX {
            let message = format!("the expression has {} bytes; at most {MAX_REGEX} are allowed", regex.len());
            return self.error(code::REGEX, path, message, "");
        }
        if let Err((problem, help)) = check_regex(regex) {
            self.error(code::REGEX, path, format!("`{regex}` is not an RE2 expression: {problem}"), help);
        }
    }

    /// A comparison. `empty_prefix`: an empty prefix is everything, and allowed.
    pub(super) fn string_match(&mut self, path: &Path<'_>, string: &StringMatch, empty_prefix: bool) {
        match string {
            StringMatch::Prefix(prefix) if prefix.is_empty() && !empty_prefix => {
                self.error(code::EMPTY_MATCH, &path.field("prefix"), "the prefix is empty", "write {} when presence is meant");
            }
            StringMatch::Regex(regex) if regex.is_empty() => {
                self.error(code::EMPTY_MATCH, &path.field("regex"), "the expression is empty", "write {} when presence is meant");
            }
            StringMatch::Regex(regex) if !string.is_presence() => self.regex(&path.field("regex"), regex),
            _ => {}
        }
    }

    /// An address, or a block of addresses when `block`.
    pub(super) fn address(&mut self, path: &Path<'_>, text: &str, block: bool) {
        if text.parse::<IpAddr>().is_err() && !(block && text.parse::<ipnet::IpNet>().is_ok()) {
            let what = if block { "an IP address or CIDR" } else { "an IP address" };
            self.error(code::ADDRESS, path, format!("`{text}` is not {what}"), "");
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `name` is a DNS label of RFC 1123.
pub(super) fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.len() <= 63 && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether `name` is a DNS subdomain of RFC 1123: labels with dots, at most 253.
pub(super) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

fn is_label_part(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.len() <= 63 && edge(text.bytes().next()) && edge(text.bytes().last()) && text.bytes().all(inner)
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_label_part(value)
}

fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_part(name),
        None => is_label_part(key),
    }
}

/// What is wrong with a host name; Istio's rules, which allow `_` and upper case.
pub(super) fn host_problem(host: &str, wildcard: bool) -> Option<&'static str> {
    if host.is_empty() {
        return Some("it is empty");
    }
    if host.len() > 255 {
        return Some("it is longer than 255 characters");
    }
    let rest = match host.strip_prefix('*') {
        None => host,
        Some(_) if !wildcard => return Some("a wildcard cannot stand here"),
        Some("") => return None,
        Some(rest) => rest.strip_prefix(['.', '-']).unwrap_or("*"),
    };
    if rest.contains('*') {
        return Some("a wildcard can only be its first label");
    }
    let labels = rest.strip_suffix('.').unwrap_or(rest);
    for label in labels.split('.') {
        if label.is_empty() {
            return Some("a label is empty");
        }
        if label.len() > 63 {
            return Some("a label is longer than 63 characters");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("a label starts or ends with `-`");
        }
        if let Some(other) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
            return Some(match other {
                '/' => "it contains `/`",
                ':' => "it contains `:`; ports go elsewhere",
                ' ' => "it contains a space",
                _ => "only letters, digits, `-` and `.` are allowed",
            });
        }
    }
    None
}

/// What is wrong with an expression, and what to do about it.
pub(super) fn check_regex(regex: &str) -> Result<(), (String, &'static str)> {
    for (group, name) in [("(?=", "look-ahead"), ("(?!", "look-ahead"), ("(?<=", "look-behind"), ("(?<!", "look-behind")] {
        if regex.contains(group) {
            return Err((format!("it has {name} `{group}…)`"), "RE2 has no look-around: match what is wanted, or use withoutHeaders"));
        }
    }
    if let Some(problem) = class_problem(regex) {
        return Err(problem);
    }
    let build = |unicode| RegexBuilder::new(&format!("^(?:{regex})$")).unicode(unicode).size_limit(MAX_COMPILED_REGEX).build();
    // RE2's classes are ASCII; only Unicode classes such as \p{Greek} need the other mode.
    let Err(error) = build(false) else { return Ok(()) };
    if build(true).is_ok() {
        return Ok(());
    }
    if matches!(error, regex::Error::CompiledTooBig(_)) {
        return Err(("it compiles to more than 1 MiB".into(), "shorten its repetitions"));
    }
    let text = error.to_string();
    let reason = text.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it cannot be read").to_owned();
    let help = if regex.starts_with('*') { "`*` repeats what stands before it: write `.*`" } else { "" };
    let help = if reason.contains("backreference") { "RE2 has no back-references" } else { help };
    Err((reason, help))
}

/// Brackets within brackets, and operators between them: the proxies' engines read them in different ways.
fn class_problem(regex: &str) -> Option<(String, &'static str)> {
    let mut rest = regex.as_bytes();
    let mut inside = false;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\\' => rest = after.get(1..).unwrap_or_default(),
            b'[' if !inside => {
                inside = true;
                // What stands first is a member, a closing bracket too.
                let after = after.strip_prefix(b"^").unwrap_or(after);
                rest = after.strip_prefix(b"]").unwrap_or(after);
            }
            b'[' if after.first() == Some(&b':') => {
                // A named class, such as `[:alpha:]`.
                let end = after.windows(2).position(|pair| pair == b":]")?;
                rest = &after[end + 2..];
            }
            b'[' => return Some(("it has `[` within brackets".into(), "write `\\[` for the bracket itself")),
            b']' => inside = false,
            b'&' | b'~' if inside && after.first() == Some(byte) => {
                let operator = char::from(*byte);
                return Some((
                    format!("it has `{operator}{operator}` within brackets"),
                    "RE2 has no operators between classes: write it once",
                ));
            }
            _ => {}
        }
    }
    None
}

/// How a substitution of RE2 cannot be read: `\0` to `\9` stand for groups, a second backslash for the character.
pub(super) fn substitution_problem(regex: &str, substitution: &str) -> Option<String> {
    let groups = RegexBuilder::new(regex).unicode(false).size_limit(MAX_COMPILED_REGEX).build().map_or(10, |regex| regex.captures_len());
    let mut bytes = substitution.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            continue;
        }
        match bytes.next() {
            Some(b'\\') => {}
            Some(digit) if digit.is_ascii_digit() => {
                let group = usize::from(digit - b'0');
                if group >= groups {
                    return Some(format!("`\\{group}` is not there: the expression has {} groups", groups - 1));
                }
            }
            _ => return Some("a backslash stands before a digit or another backslash".to_owned()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_within_classes_are_refused_by_name() {
        let cases = [
            ("[a-z[b]]", Some("`[`")),
            ("[a&&b]", Some("`&&`")),
            ("[a~~b]", Some("`~~`")),
            ("[[:alpha:]x]+", None),
            (r"[\[\]]", None),
            ("[]a]", None),
            ("[^]a]b[c]", None),
            ("a&&b", None),
            (r"\[[a]", None),
        ];
        for (regex, want) in cases {
            let got = check_regex(regex).err().map(|(problem, _)| problem);
            assert_eq!(got.is_some(), want.is_some(), "{regex}: {got:?}");
            assert!(got.unwrap_or_default().contains(want.unwrap_or_default()), "{regex}");
        }
    }

    #[test]
    fn substitutions_name_groups_that_are_there() {
        let cases = [
            ("^/(a)(b)", r"/\2\1\0", None),
            ("^/a", r"/\1", Some("`\\1` is not there: the expression has 0 groups")),
            ("a", r"\\\\n", None),
            ("a", r"\n", Some("a backslash stands before")),
            ("a", "\\", Some("a backslash stands before")),
        ];
        for (regex, substitution, want) in cases {
            let got = substitution_problem(regex, substitution);
            assert_eq!(got.is_some(), want.is_some(), "{substitution}: {got:?}");
            assert!(got.unwrap_or_default().contains(want.unwrap_or_default()), "{substitution}");
        }
    }

    #[test]
    fn host_names_follow_istio() {
        for good in ["a", "reviews.prod.svc.cluster.local", "Example.com", "a_b.c", "example.com.", "1.2"] {
            assert_eq!(host_problem(good, false), None, "{good}");
        }
        for good in ["*", "*.com", "*.foo.com", "*-a.foo"] {
            assert_eq!(host_problem(good, true), None, "{good}");
            assert!(host_problem(good, false).is_some(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "a..b", "-a", "a-", "a b", "a/b", "a:80", "a.*.b", "**", "*a", "*.*.a", "ä.de", long.as_str()] {
            assert!(host_problem(bad, true).is_some(), "{bad}");
        }
    }

    #[test]
    fn expressions_are_re2() {
        for good in [r"\d+", "^/api/v[0-9]+$", "(?i)chrome", r"\p{Greek}+", "a{1,5}", ".*"] {
            assert_eq!(check_regex(good), Ok(()), "{good}");
        }
        for (bad, word) in
            [("(?=a)", "look-ahead"), ("(?<!a)b", "look-behind"), (r"(a)\1", "backreference"), ("*", ""), ("(", ""), ("a{1000}{1000}", "")]
        {
            let (problem, _) = check_regex(bad).expect_err(bad);
            assert!(problem.contains(word), "{bad}: {problem}");
        }
    }
}
