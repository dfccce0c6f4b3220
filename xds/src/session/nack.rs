//! Which resources a NACK is about.
//!
//! In:  the error of a NACK, what was sent.
//! Out: the refused names.

use std::sync::Arc;

use crate::{
    resource::unpack,
    wire::{envoy::service::discovery::v3::ResourceError, google::rpc::Status},
};

/// The most of a stranger's message that is kept, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

/// The message, bounded.
pub(super) fn message(error: &Status) -> String {
    error.message[..error.message.floor_char_boundary(MAX_MESSAGE_BYTES)].to_owned()
}

/// The names among `sent` that the error refuses: those of its details (`ResourceError`, as our client sends them), else those its
/// message names (as Envoy's do: "Error adding/updating cluster(s) a: …"), else all.
pub(super) fn refused_names(error: &Status, sent: &[(Arc<str>, Arc<str>)]) -> Vec<Arc<str>> {
    let details = error.details.iter().filter_map(|any| unpack::<ResourceError>(any).ok()?.resource_name);
    let told: Vec<String> = details.map(|name| name.name).collect();
    let by =
        |test: &dyn Fn(&str) -> bool| -> Vec<Arc<str>> { sent.iter().map(|(name, _)| name).filter(|name| test(name)).cloned().collect() };
    if !told.is_empty() {
        return by(&|name| told.iter().any(|told| told == name));
    }
    let message = message(error);
    let named = by(&|name| mentions(&message, name));
    if named.is_empty() { by(&|_| true) } else { named }
}

/// Whether `text` has `name` as a word of its own, not as a part of a longer name.
fn mentions(text: &str, name: &str) -> bool {
    let within = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '|' | '/' | '*');
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let mut after = text[at + name.len()..].chars();
        let (next, second) = (after.next(), after.next());
        let goes_on = match next {
            Some('.' | ':') => second.is_some_and(|c| c.is_alphanumeric()),
            Some(c) => within(c),
            None => false,
        };
        !goes_on && !before.is_some_and(|c| within(c) || c == '.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{resource::pack, wire::envoy::service::discovery::v3::ResourceName};

    fn refused(error: &Status) -> Vec<String> {
        let sent = ["outbound|80||a", "outbound|80||a.b", "outbound|80|v1|a"].map(|name| (Arc::from(name), Arc::from("1")));
        refused_names(error, &sent).iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_nack_refuses_what_it_names() {
        let all = vec!["outbound|80||a", "outbound|80||a.b", "outbound|80|v1|a"];
        let cases = [
            ("Error adding/updating cluster(s) outbound|80||a: bad", vec!["outbound|80||a"]),
            ("Error adding/updating cluster(s) outbound|80||a.b: bad, outbound|80|v1|a: bad", vec!["outbound|80||a.b", "outbound|80|v1|a"]),
            ("duplicate cluster outbound|80||a.", vec!["outbound|80||a"]),
            ("something is wrong", all.clone()),
            ("", all),
        ];
        for (message, want) in cases {
            let error = Status { message: message.into(), ..Status::default() };
            assert_eq!(refused(&error), want, "{message}");
        }
    }

    #[test]
    fn details_go_before_the_message() {
        let name = ResourceName { name: "outbound|80|v1|a".into(), ..ResourceName::default() };
        let detail = pack(&ResourceError { resource_name: Some(name), error_detail: None });
        let error = Status { message: "outbound|80||a: bad".into(), details: vec![detail], ..Status::default() };
        assert_eq!(refused(&error), ["outbound|80|v1|a"]);
    }
}
