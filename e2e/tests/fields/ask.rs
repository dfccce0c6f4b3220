//! Requests and observations in words.
//!
//! A request: `[who] [<n>x] METHOD URL [name=value …]`. `who` is `client` (when missing), `other`, or `gw:<port>`, the gateway's port; with a number
//! it is sent so many times; with `%` in the place of `x`, what is observed less often than one time in ten does not count;
//! with `~`, only whether no two in a row were the same: `in turns`. `name=value` are headers.
//!
//! An observation, of words:
//!
//! | word | what |
//! |---|---|
//! | `status`, `header:NAME`, `body` | of the answer |
//! | `by` | the backend that answered |
//! | `target`, `host`, `method`, `protocol`, `seen:NAME` | of the request as the backend saw it; `seen` is a header |
//! | `over:MS` | `slow` when the answer took longer, else `quick` |
//! | `tries` | how many requests reached backends |
//! | `at:NAME` | how many reached this backend; the first is waited for |
//! | `listener` | alone: the name of the gateway's listener; nothing is sent |
//! | `config:TEXT` | `yes` when the client's configuration has this text as a value: for what only time would show |
//! | `log:FIELD` | of the access log's line; the YAML's `accessLogFile` is `$log` |
//!
//! What is not there is `-`. Of several equal requests each different observation is said once, in order, with `+` between.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use pillion_e2e::client::{Answer, Client};
use serde_json::Value;

use crate::stage::Stage;

/// A copy or a line of the log that has not come after this long does not come.
const LATE: Duration = Duration::from_millis(500);

/// A request, so and so many times.
pub struct Ask {
    who: &'static str,
    times: usize,
    /// An observation counts from so many on.
    least: usize,
    /// Only whether two in a row are the same is said.
    turns: bool,
    method: Method,
    url: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

impl Ask {
    pub fn parse(text: &'static str) -> Self {
        let mut words = text.split_whitespace().peekable();
        let who = words.next_if(|word| *word == "client" || *word == "other" || word.starts_with("gw:")).unwrap_or("client");
        let times = words.next_if(|word| word.ends_with(['x', '%', '~'])).unwrap_or("1x");
        let (turns, shares) = (times.ends_with('~'), times.ends_with('%'));
        let times = times.trim_end_matches(['x', '%', '~']).parse().expect("a number");
        let least = if shares { times / 10 } else { 1 };
        let method = words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text}: a method"));
        let url = words.next().unwrap_or_else(|| panic!("{text}: a URL"));
        let headers = words.map(|word| word.split_once('=').unwrap_or_else(|| panic!("{text}: {word}"))).collect();
        Self { who, times, least, turns, method, url, headers }
    }

    pub async fn observe(&self, see: &str, stage: &Stage) -> String {
        let (mut seen, mut last, mut in_turns) = (BTreeMap::<String, usize>::new(), None, true);
        let door = match self.who.strip_prefix("gw:") {
            Some(port) => match stage.gateway(port).await {
                Some((name, _)) if see == "listener" => return name,
                Some((_, address)) => address,
                None => return format!("no listener {port}"),
            },
            None => stage.outbound(self.who),
        };
        let mut client = Client::new(&door);
        for _ in 0..self.times {
            let one = self.once(&mut client, see, stage).await;
            in_turns &= last.replace(one.clone()) != Some(one.clone());
            *seen.entry(one).or_default() += 1;
        }
        if self.turns {
            return if in_turns { "in turns" } else { "not in turns" }.to_owned();
        }
        let seen: Vec<String> = seen.into_iter().filter(|(_, count)| *count >= self.least).map(|(seen, _)| seen).collect();
        seen.join("+")
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let uri: http::Uri = self.url.parse().unwrap_or_else(|error| panic!("{}: {error}", self.url));
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let to_gateway = self.who.starts_with("gw:");
        let mut request = Request::builder().method(&self.method).uri(if to_gateway { target } else { self.url }).header("host", authority);
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        request.body(Full::default()).expect("a request")
    }

    async fn once(&self, client: &mut Client, see: &str, stage: &Stage) -> String {
        stage.records.clear();
        let began = Instant::now();
        let answer = match client.send(self.request()).await {
            Ok(answer) => answer,
            Err(error) => return format!("no answer: {error}"),
        };
        let took = began.elapsed();
        let saw: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        let mut words = Vec::new();
        for word in see.split_whitespace() {
            words.push(match word.split_once(':') {
                Some(("over", limit)) => word_for(took, limit).to_owned(),
                Some(("at", backend)) => at(backend, stage).await,
                Some(("config", text)) => stage.config_says(text).await.to_owned(),
                Some(("log", field)) => stage.log(field, LATE).await,
                Some(("header", name)) => joined(&answer, name),
                Some(("seen", name)) => text(&saw["headers"][name]),
                _ if word == "status" => answer.status.as_u16().to_string(),
                _ if word == "body" => answer.text(),
                _ if word == "tries" => stage.records.all().len().to_string(),
                _ if word == "by" => joined(&answer, "x-by"),
                _ if ["target", "host", "method", "protocol"].contains(&word) => text(&saw[word]),
                _ => panic!("{word}: no such observation"),
            });
        }
        words.join(" ")
    }
}

fn word_for(took: Duration, limit: &str) -> &'static str {
    if took > Duration::from_millis(limit.parse().expect("milliseconds")) { "slow" } else { "quick" }
}

/// How many requests the backend saw. Copies come when they like.
async fn at(backend: &str, stage: &Stage) -> String {
    let began = Instant::now();
    loop {
        let count = stage.records.all().iter().filter(|record| record["by"] == backend).count();
        if count > 0 || began.elapsed() > LATE {
            return count.to_string();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn joined(answer: &Answer, name: &str) -> String {
    let values: Vec<_> = answer.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    if values.is_empty() { "-".to_owned() } else { values.join(",") }
}

pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
