//! `pillion status`: what the running mesh has in force, who has it, and what is wrong.
//!
//! In:  `/api/v1/{generations,proxies,config,findings}`.
//! Out: a few lines or JSON; exit code 1 when something is wrong, 3 when nobody answers.

use std::{collections::BTreeMap, process::ExitCode};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::proxies::{self, List};
use crate::{
    admin_client::{Api, Where},
    output::{self, Format, count},
};

const EXAMPLES: &str = "\
Examples:
  pillion status                        the mesh that `pillion run` runs here
  pillion status --api 127.0.0.1:15080
  pillion status -o json | jq .findings.errors

Exit code: 0 all is well, 1 something is wrong (an error in the configuration, a policy that is not enforced, a proxy that is late, refuses
or is not connected), 2 wrong use, 3 when no control plane answers.";

/// Findings that are shown; `pillion validate` shows all.
const SHOWN: usize = 5;
/// Proxies that are named in a line.
const NAMED: usize = 5;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    api: Where,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

/// Everything that is asked for. Other versions may say more or less.
#[derive(Debug, Default)]
struct Answers {
    generations: Generations,
    proxies: List,
    config: Config,
    findings: Findings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Generations {
    generation: u64,
    generations: Vec<Generation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Generation {
    generation: u64,
    time: Option<Timestamp>,
    changes: Vec<String>,
    ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    objects: Vec<Object>,
    skipped: BTreeMap<String, usize>,
    unenforced: Vec<Policy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Object {
    kind: String,
    namespace: String,
    name: String,
    file: String,
    line: u32,
    state: String,
    last_good: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Policy {
    kind: String,
    namespace: String,
    name: String,
    file: String,
    line: u32,
    consequence: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Findings {
    errors: usize,
    warnings: usize,
    notes: usize,
    findings: Vec<Finding>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Finding {
    severity: String,
    code: String,
    object: String,
    path: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    place: Place,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Place {
    file: String,
    line: u32,
    column: u32,
}

/// What `-o json` prints. Fields are added, never renamed.
#[derive(Debug, Serialize)]
struct Summary {
    api: String,
    generation: u64,
    /// `null` as long as not every proxy has answered.
    ms: Option<u64>,
    proxies: ProxySummary,
    objects: ObjectSummary,
    findings: FindingSummary,
    unenforced: Vec<Policy>,
    ok: bool,
}

#[derive(Debug, Serialize)]
struct ProxySummary {
    connected: usize,
    synced: usize,
    pending: usize,
    late: Vec<String>,
    refusing: Vec<String>,
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ObjectSummary {
    in_force: usize,
    quarantined: Vec<String>,
    skipped: usize,
}

#[derive(Debug, Serialize)]
struct FindingSummary {
    errors: usize,
    warnings: usize,
    notes: usize,
    /// Errors and warnings, the worst first.
    first: Vec<Finding>,
}

/// Asks and prints.
pub fn run(args: Args) -> ExitCode {
    output::finish(show(args))
}

async fn show(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::find(&args.api);
    let answers = Answers {
        generations: api.get("/api/v1/generations").await?,
        proxies: api.get("/api/v1/proxies").await?,
        config: api.get("/api/v1/config").await?,
        findings: api.get("/api/v1/findings").await?,
    };
    let newest = answers.generations.generations.iter().find(|entry| entry.generation == answers.generations.generation);
    let story = newest.map(|newest| story(newest, Timestamp::now())).unwrap_or_default();
    let ms = newest.and_then(|newest| newest.ms);
    let summary = summary(api.to_string(), answers, ms);
    match args.output {
        Format::Json => output::json(&summary)?,
        Format::Table => output::say(&text(&summary, &story)),
    }
    Ok(ExitCode::from(if summary.ok { 0 } else { output::WRONG }))
}

/// `12 s ago: VirtualService default/product changed`
fn story(generation: &Generation, now: Timestamp) -> String {
    let ago = generation.time.map(|time| format!("{} ago", output::rough(proxies::age(time, now))));
    let parts = [ago.unwrap_or_default(), generation.changes.join(", ")];
    parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(": ")
}

fn summary(api: String, answers: Answers, ms: Option<u64>) -> Summary {
    let Answers { generations, proxies, config, findings } = answers;
    let names = |test: fn(&proxies::Proxy) -> bool| {
        proxies.proxies.iter().filter(|proxy| test(proxy)).map(proxies::Proxy::name).collect::<Vec<_>>()
    };
    let (late, refusing) = (names(proxies::Proxy::is_late), names(proxies::Proxy::is_refusing));
    let synced = proxies.proxies.iter().filter(|proxy| proxy.state == "synced").count();
    let connected = proxies.proxies.len();
    let quarantined: Vec<String> = config.objects.iter().filter(|object| object.state != "in_force").map(quarantine).collect();
    let mut first: Vec<Finding> =
        findings.findings.into_iter().filter(|finding| matches!(finding.severity.as_str(), "error" | "warning")).collect();
    first.sort_by_key(|finding| finding.severity != "error");
    first.truncate(SHOWN);
    let missing = proxies.missing.clone();
    let ok = findings.errors == 0
        && missing.is_empty()
        && late.is_empty()
        && refusing.is_empty()
        && config.unenforced.is_empty()
        && quarantined.is_empty();
    Summary {
        api,
        generation: generations.generation,
        ms,
        proxies: ProxySummary {
            connected,
            synced,
            pending: connected.saturating_sub(synced + late.len() + refusing.len()),
            late,
            refusing,
            missing,
        },
        objects: ObjectSummary { in_force: config.objects.len() - quarantined.len(), quarantined, skipped: config.skipped.values().sum() },
        findings: FindingSummary { errors: findings.errors, warnings: findings.warnings, notes: findings.notes, first },
        unenforced: config.unenforced,
        ok,
    }
}

fn quarantine(object: &Object) -> String {
    let name = if object.namespace.is_empty() { object.name.clone() } else { format!("{}/{}", object.namespace, object.name) };
    let what = if object.last_good { "its last good version is in force" } else { "not in force" };
    format!("{} {name} ({}:{}): {what}", object.kind, object.file, object.line)
}

fn text(summary: &Summary, story: &str) -> String {
    let (red, yellow, bold) = (colour(AnsiColor::Red), colour(AnsiColor::Yellow), Style::new().bold());
    let mut lines = Vec::new();
    if !summary.unenforced.is_empty() {
        let policies = count(summary.unenforced.len(), "security policy is", "security policies are");
        lines.push(format!("{red}{policies} NOT ENFORCED by this version:{red:#}"));
        let line = |policy: &Policy| {
            format!("  {} {}/{} ({}:{}): {}", policy.kind, policy.namespace, policy.name, policy.file, policy.line, policy.consequence)
        };
        lines.extend(summary.unenforced.iter().map(line));
        lines.push(String::new());
    }
    let reached = summary.ms.map(|ms| format!(", at every proxy in {ms} ms")).unwrap_or_default();
    let story = if story.is_empty() { String::new() } else { format!(" ({story})") };
    lines.push(format!("{bold}generation{bold:#}  {}{reached}{story}", summary.generation));
    let proxies = &summary.proxies;
    lines.push(format!("{bold}proxies{bold:#}     {} of {} in sync{}", proxies.synced, proxies.connected, pending(proxies.pending)));
    let groups = [
        (&proxies.late, "late for more than 30 s"),
        (&proxies.refusing, "refusing a part (`pillion proxies` says what)"),
        (&proxies.missing, "not connected"),
    ];
    for (names, words) in groups {
        if !names.is_empty() {
            let rest = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
            lines.push(format!("            {red}{words}: {}{rest}{red:#}", names[..names.len().min(NAMED)].join(", ")));
        }
    }
    let objects = &summary.objects;
    let skipped =
        if objects.skipped == 0 { String::new() } else { format!(", {} of kinds that are no business of a mesh", objects.skipped) };
    lines.push(format!("{bold}objects{bold:#}     {} in force, {} quarantined{skipped}", objects.in_force, objects.quarantined.len()));
    lines.extend(objects.quarantined.iter().map(|object| format!("            {red}{object}{red:#}")));
    let findings = &summary.findings;
    let counts = [
        count(findings.errors, "error", "errors"),
        count(findings.warnings, "warning", "warnings"),
        count(findings.notes, "note", "notes"),
    ];
    lines.push(format!("{bold}findings{bold:#}    {}", counts.join(", ")));
    for finding in &findings.first {
        let style = if finding.severity == "error" { red } else { yellow };
        lines.push(format!("  {style}{}{style:#} {}", finding.severity, finding_line(finding)));
        lines.extend(finding.help.iter().map(|help| format!("          {help}")));
    }
    let more = (findings.errors + findings.warnings).saturating_sub(findings.first.len());
    if more > 0 {
        lines.push(format!("  and {more} more: run `pillion validate` on the folder, or ask {}/api/v1/findings", summary.api));
    }
    lines.join("\n")
}

fn pending(pending: usize) -> String {
    if pending == 0 { String::new() } else { format!(", {pending} on the way") }
}

/// `a.yaml:3:7 VirtualService default/product spec.http[0]: message [PLN1010]`
fn finding_line(finding: &Finding) -> String {
    let place = &finding.place;
    let place = if place.file.is_empty() {
        String::new()
    } else if place.line == 0 {
        place.file.clone()
    } else {
        format!("{}:{}:{}", place.file, place.line, place.column)
    };
    let head =
        [place.as_str(), &finding.object, &finding.path].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
    let colon = if head.is_empty() { "" } else { ": " };
    format!("{head}{colon}{} [{}]", finding.message, finding.code)
}

fn colour(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(colour.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn answers(config: &str, findings: &str, proxies: &str) -> Answers {
        Answers {
            generations: serde_json::from_str(
                r#"{"generation": 7, "generations": [{"generation": 7, "time": "2026-01-01T00:00:00Z", "changes": ["VirtualService default/product changed"], "ms": 41}]}"#,
            )
            .unwrap(),
            proxies: serde_json::from_str(proxies).unwrap(),
            config: serde_json::from_str(config).unwrap(),
            findings: serde_json::from_str(findings).unwrap(),
        }
    }

    #[test]
    fn a_healthy_mesh_is_four_lines() {
        let answers = answers(
            r#"{"objects": [{"state": "in_force"}, {"state": "in_force"}], "skipped": {"v1/Pod": 2}}"#,
            r#"{"errors": 0, "warnings": 0, "notes": 3, "findings": [{"severity": "note"}]}"#,
            r#"{"generation": 7, "proxies": [{"state": "synced"}, {"state": "pending", "lag_ms": 5}]}"#,
        );
        let story = story(&answers.generations.generations[0], "2026-01-01T00:00:12Z".parse().unwrap());
        let summary = summary("http://x".into(), answers, Some(41));
        assert!(summary.ok);
        assert_eq!(
            plain(&text(&summary, &story)),
            "generation  7, at every proxy in 41 ms (12 s ago: VirtualService default/product changed)\n\
             proxies     1 of 2 in sync, 1 on the way\n\
             objects     2 in force, 0 quarantined, 2 of kinds that are no business of a mesh\n\
             findings    0 errors, 0 warnings, 3 notes"
        );
    }

    #[test]
    fn what_is_wrong_is_named_and_counts() {
        let answers = answers(
            r#"{"objects": [{"kind": "VirtualService", "namespace": "default", "name": "product", "file": "a.yaml", "line": 3, "state": "quarantined", "last_good": true}],
                "unenforced": [{"kind": "AuthorizationPolicy", "namespace": "default", "name": "deny", "file": "p.yaml", "line": 1, "consequence": "every caller is let through"}]}"#,
            r#"{"errors": 1, "warnings": 6, "notes": 0, "findings": [
                {"severity": "warning", "code": "PLN2", "message": "second"},
                {"severity": "error", "code": "PLN1", "object": "VirtualService default/product", "path": "spec.hots", "message": "unknown field", "help": "did you mean `hosts`?", "place": {"file": "a.yaml", "line": 4, "column": 3}}]}"#,
            r#"{"generation": 7, "proxies": [{"instance": "a", "namespace": "n", "state": "pending", "lag_ms": 40000}, {"node": "b", "state": "refused"}], "missing": ["c-0.n"]}"#,
        );
        let summary = summary("http://x".into(), answers, None);
        assert!(!summary.ok);
        let text = plain(&text(&summary, ""));
        let wanted = [
            "1 security policy is NOT ENFORCED by this version:",
            "  AuthorizationPolicy default/deny (p.yaml:1): every caller is let through",
            "generation  7\n",
            "proxies     0 of 2 in sync\n",
            "            late for more than 30 s: a.n\n",
            "            refusing a part (`pillion proxies` says what): b\n",
            "            not connected: c-0.n\n",
            "objects     0 in force, 1 quarantined\n",
            "            VirtualService default/product (a.yaml:3): its last good version is in force\n",
            "findings    1 error, 6 warnings, 0 notes\n",
            "  error a.yaml:4:3 VirtualService default/product spec.hots: unknown field [PLN1]\n          did you mean `hosts`?\n  warning second [PLN2]\n",
            "  and 5 more: run `pillion validate` on the folder, or ask http://x/api/v1/findings",
        ];
        for line in wanted {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["proxies"]["late"][0], "a.n");
        assert_eq!(json["findings"]["first"][0]["code"], "PLN1");
        assert_eq!(json["ok"], false);
    }
}
