//! What the control plane reports, as lines and events of `pillion run`.
//!
//! In:  [`Event`](pillion_control_plane::app::Event)s.
//! Out: a line per generation, findings with their source lines, late and refusing proxies; the newest generation that all have, for whoever waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pillion_api::{
    finding::{Finding, Severity},
    render,
};
use pillion_control_plane::app;
use tokio::sync::{broadcast, watch};

use super::{
    banner,
    events::{Event, Problem},
    output::Output,
};

/// Source files that are read again to show a finding; longer ones are shown without their lines.
const SOURCE_LIMIT: u64 = 8 * 1024 * 1024;
/// Names in a sentence.
const NAMED: usize = 10;

/// Follows the control plane until it ends. Lines about generations begin when `announce` is true: before that the mesh is starting.
pub async fn follow(
    mut events: broadcast::Receiver<app::Event>,
    output: Output,
    acked: watch::Sender<u64>,
    announce: watch::Receiver<bool>,
) {
    loop {
        match events.recv().await {
            Ok(event) => tell(event, &output, &acked, *announce.borrow()),
            Err(broadcast::error::RecvError::Lagged(lost)) => output.say(&format!("… {lost} reports of the control plane were lost")),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn tell(event: app::Event, output: &Output, acked_so_far: &watch::Sender<u64>, announce: bool) {
    match event {
        app::Event::Acked { generation, acked, proxies, took } => {
            acked_so_far.send_replace(generation);
            if announce {
                output.say(&generation_line(generation, acked, proxies, took));
                let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                output.event(&Event::Generation { generation, acked, proxies, ms });
            }
        }
        app::Event::Late { generation, acked, proxies, late } => {
            let message = format!("generation {generation}: {acked}/{proxies} proxies after 30 s; not from {}", some(&late));
            output.problem(Problem { reason: "late", message, generation: Some(generation), late });
        }
        app::Event::Refused { proxy, generation, message } => {
            let message = format!("{proxy} refuses a part of generation {generation} and keeps what it had: {message}");
            output.problem(Problem { reason: "refused", message, generation: Some(generation), late: vec![proxy] });
        }
        app::Event::Findings { new, fixed } => findings(&new, fixed, output),
        app::Event::Unenforced { policies } => {
            let names: Vec<String> = policies.iter().map(unenforced_line).collect();
            output.say(banner::unenforced(&names).trim_end());
        }
        app::Event::Published { .. } | app::Event::ProxyConnected { .. } | app::Event::ProxyDisconnected { .. } => {}
    }
}

/// The first names, and how many more there are.
fn some(names: &[String]) -> String {
    let rest = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    format!("{}{rest}", names[..names.len().min(NAMED)].join(", "))
}

/// "generation 7: 10/10 proxies in 41 ms"
pub fn generation_line(generation: u64, acked: usize, proxies: usize, took: Duration) -> String {
    format!("generation {generation}: {acked}/{proxies} proxies in {} ms", took.as_millis())
}

/// `AuthorizationPolicy default/deny (a.yaml:3): every caller is let through`
pub fn unenforced_line(policy: &pillion_api::effective::Unenforced) -> String {
    let place = &policy.place;
    format!("{} {}/{} ({}:{}): {}", policy.kind, policy.namespace, policy.name, place.file, place.line, policy.consequence)
}

/// Findings as people read them: errors and warnings with their source lines, notes in a line each.
pub fn findings(new: &[Finding], fixed: usize, output: &Output) {
    let (notes, serious): (Vec<Finding>, Vec<Finding>) = new.iter().cloned().partition(|finding| finding.severity == Severity::Note);
    if !serious.is_empty() {
        let texts = sources(&serious);
        let sources = render::Sources::new(texts.iter().map(|(file, text)| (file.as_str(), text.as_str())));
        // The printing thread takes colour away where it is not wanted.
        output.say(render::text(&serious, &sources, true).trim_end());
    }
    for note in &notes {
        output.say(&render::line(note));
    }
    if serious.iter().any(|finding| finding.severity == Severity::Error) {
        output.say("An object with an error is not used; where an earlier version of it was good, that one stays in force.");
    }
    for finding in serious.iter().filter(|finding| finding.severity == Severity::Error) {
        output.event(&Event::Error(Problem { reason: "finding", message: render::line(finding), ..Problem::default() }));
    }
    if fixed > 0 && new.is_empty() {
        output.say(&format!("{fixed} {} gone", if fixed == 1 { "finding is" } else { "findings are" }));
    }
}

fn sources(findings: &[Finding]) -> BTreeMap<String, String> {
    let places = findings.iter().flat_map(|finding| std::iter::once(&finding.place).chain(finding.related.iter().map(|(place, _)| place)));
    let files: BTreeSet<&str> = places.map(|place| &*place.file).filter(|file| !file.is_empty()).collect();
    let readable = files.into_iter().filter(|file| std::fs::metadata(file).is_ok_and(|file| file.is_file() && file.len() <= SOURCE_LIMIT));
    readable.filter_map(|file| Some((file.to_owned(), std::fs::read_to_string(file).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_a_few() {
        let names: Vec<String> = (0..12).map(|number| format!("a{number}")).collect();
        assert_eq!(some(&names), "a0, a1, a2, a3, a4, a5, a6, a7, a8, a9 and 2 more");
        assert_eq!(some(&names[..2]), "a0, a1");
    }

    #[test]
    fn a_generation_is_one_line() {
        assert_eq!(generation_line(7, 10, 10, Duration::from_micros(41_900)), "generation 7: 10/10 proxies in 41 ms");
    }
}
