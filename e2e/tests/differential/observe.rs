//! What can be seen of one request at one proxy, written so that equal behaviour is equal text.
//!
//! In:  the client's answer, the backends' ledger, the proxy's access log.
//! Out: an [`Observation`]; what differs by nature (identifiers, times, ports) is a word in angle brackets.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    backends::Received,
    requests::{Body as Sent, Shot},
    wire::{Body, Got},
};

/// The keys of the access log that are compared: not times, not the ports of connections.
const KEYS: [&str; 15] = [
    "route_name",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "bytes_received",
    "bytes_sent",
    "x_forwarded_for",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_transport_failure_reason",
];

/// Everything seen of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    pub client: Vec<String>,
    pub upstream: Vec<Vec<String>>,
    pub log: Vec<String>,
}

/// How texts of one request become comparable.
pub struct Names<'a> {
    /// Addresses of backends and their names.
    pub backends: &'a [(String, String)],
    /// The request, whose known differences are left out; `None` where they are looked at.
    pub shot: Option<&'a Shot>,
}

impl Names<'_> {
    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (address, name) in self.backends {
            text = text.replace(address, name);
        }
        text
    }

    fn field(&self, name: &str, value: &str, later_try: bool) -> String {
        let value = match name {
            "x-request-id" if !self.has(name, value) => {
                if value.len() == 36 {
                    "<id>"
                } else {
                    value
                }
            }
            "date" => "<date>",
            "x-envoy-upstream-service-time" => "<ms>",
            "x-envoy-expected-rq-timeout-ms" | "grpc-timeout" if later_try => "<what is left>",
            _ => value,
        };
        format!("{name}: {}", self.text(value))
    }

    fn fields(&self, fields: &[(String, String)], later_try: bool) -> impl Iterator<Item = String> {
        fields.iter().map(move |(name, value)| self.field(name, value, later_try))
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.shot.is_some_and(|shot| shot.headers.iter().any(|(other, given)| other == name && given == value))
    }

    /// Fields that are known to differ, in the tests of [`crate::known`].
    fn known(&self, name: &str, value: &str, upstream: bool) -> bool {
        let Some(shot) = self.shot else { return false };
        match name {
            "x-envoy-peer-metadata" | "x-envoy-peer-metadata-id" => upstream,
            "content-length" => upstream && value == "0" && shot.body == Sent::None,
            "transfer-encoding" => !upstream && shot.method == "HEAD",
            "connection" => !upstream && shot.body != Sent::None,
            _ => false,
        }
    }

    /// What the client got.
    pub fn client(&self, got: &std::io::Result<Got>) -> Vec<String> {
        let got = match got {
            Ok(got) => got,
            Err(error) => return vec![format!("no answer: {:?}", error.kind())],
        };
        let Body { bytes, trailers, whole, until_close } = &got.body;
        // The reason is known to differ.
        let words = if self.shot.is_some() { 2 } else { usize::MAX };
        let mut all = vec![got.line.split(' ').take(words).collect::<Vec<_>>().join(" ")];
        let fields: Vec<_> = got.headers.iter().filter(|(name, value)| !self.known(name, value, false)).cloned().collect();
        all.extend(self.fields(&fields, false));
        all.push(self.text(&String::from_utf8_lossy(bytes)));
        all.extend(self.fields(trailers, false).map(|trailer| format!("trailer {trailer}")));
        all.push(format!("whole: {whole}, until the end of the connection: {until_close}"));
        all
    }

    /// What a backend got.
    pub fn upstream(&self, received: &Received) -> Vec<String> {
        // A copy is a request of the proxy's own: Envoy says the machine's address there, ours what it knows of its node.
        let copied = received.backend.starts_with("mirror");
        let later_try = received.headers.iter().any(|(name, value)| name == "x-envoy-attempt-count" && value != "1");
        let mut all = vec![format!("at {}", received.backend), received.line.clone()];
        let fields: Vec<_> =
            received.headers.iter().filter(|(name, value)| name != "user-agent" && !self.known(name, value, true)).cloned().collect();
        all.extend(self.fields(&fields, later_try).map(|field| match field.rsplit_once([',', ' ']) {
            Some((before, _)) if copied && field.starts_with("x-forwarded-for: ") => format!("{before} <proxy>"),
            _ => field,
        }));
        all.push(String::from_utf8_lossy(&received.body).into_owned());
        all
    }

    /// What the access log says.
    pub fn log(&self, line: &Value) -> Vec<String> {
        let local = line["upstream_host"].is_null() && matches!(line["response_flags"].as_str(), Some("-" | "FI" | "DI" | "DI,FI"));
        let known = |key: &&&str| match **key {
            "upstream_cluster" => local,
            "bytes_received" => {
                let received = !line["upstream_host"].is_null() && line["upstream_transport_failure_reason"].is_null();
                !received && self.shot.is_some_and(|shot| shot.body != Sent::None)
            }
            _ => false,
        };
        let keys = KEYS.iter().filter(|key| self.shot.is_none() || !known(key));
        keys.map(|key| format!("{key}: {}", self.text(&line[key].to_string()))).collect()
    }
}

/// The clusters of a real split, so that either of them is the same text.
pub fn blur(observation: &mut Observation, subsets: &[&str]) {
    let all = observation.client.iter_mut().chain(observation.upstream.iter_mut().flatten()).chain(&mut observation.log);
    for text in all {
        for subset in subsets {
            for (around, instead) in [
                ("|{}|pool", "|<split>|pool"),
                ("from {}\n", "from <split>\n"),
                ("at {}", "at <split>"),
                ("x-backend: {}", "x-backend: <split>"),
                ("<{}>", "<split>"),
            ] {
                *text = text.replace(&around.replace("{}", subset), instead);
            }
            if let Some(name) = text.strip_suffix(subset).filter(|name| name.ends_with(": ")) {
                *text = format!("{name}<split>");
            }
        }
    }
    observation.upstream.sort();
}

/// Both, line by line, those that differ marked.
pub fn difference(envoy: &Observation, ours: &Observation) -> String {
    let mut text = String::new();
    let upstream = |observation: &Observation| observation.upstream.iter().flatten().cloned().collect::<Vec<_>>();
    for (what, envoy, ours) in [
        ("the client got", envoy.client.clone(), ours.client.clone()),
        ("upstreams got", upstream(envoy), upstream(ours)),
        ("the access log", envoy.log.clone(), ours.log.clone()),
    ] {
        text.push_str(&format!("  {what}:\n"));
        let mut counts: BTreeMap<&String, (i32, i32)> = BTreeMap::new();
        envoy.iter().for_each(|line| counts.entry(line).or_default().0 += 1);
        ours.iter().for_each(|line| counts.entry(line).or_default().1 += 1);
        for line in envoy.iter() {
            text.push_str(&format!("    {} {line}\n", if counts[line].1 == counts[line].0 { "   both" } else { "  envoy" }));
        }
        for line in ours.iter().filter(|line| counts[line].0 != counts[line].1) {
            text.push_str(&format!("    pillion {line}\n"));
        }
    }
    text
}
