//! Header operations of a route or a destination.
//!
//! In:  `headers` of a VirtualService.
//! Out: what to add and remove in either direction; a `Host` among them is a rewrite of the authority instead.

use std::collections::BTreeMap;

use pillion_api::kinds::virtual_service::{HeaderOperations, Headers};

use super::wire::{self, core::HeaderValueOption};

/// Operations in wire form. Removal goes before addition (Envoy), `set` before `add`, each in the order of names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operations {
    pub request_add: Vec<HeaderValueOption>,
    pub request_remove: Vec<String>,
    pub response_add: Vec<HeaderValueOption>,
    pub response_remove: Vec<String>,
    /// The new authority, when `host` or `:authority` is set or added to the request.
    pub authority: Option<String>,
}

impl Operations {
    pub fn new(headers: Option<&Headers>) -> Self {
        let Some(headers) = headers else { return Self::default() };
        let mut all = Self::default();
        if let Some(request) = &headers.request {
            (all.request_add, all.authority) = additions(request);
            all.request_remove = removals(request);
        }
        if let Some(response) = &headers.response {
            all.response_add = additions(response).0;
            all.response_remove = removals(response);
        }
        all
    }
}

fn additions(operations: &HeaderOperations) -> (Vec<HeaderValueOption>, Option<String>) {
    let mut options = Vec::with_capacity(operations.set.len() + operations.add.len());
    let mut authority = None;
    let mut take = |headers: &BTreeMap<String, String>, append: bool| {
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            if name == "host" || name == ":authority" {
                authority.get_or_insert_with(|| value.clone());
            } else if !name.starts_with(':') {
                options.push(wire::header(&name, value, append));
            }
        }
    };
    take(&operations.set, false);
    take(&operations.add, true);
    (options, authority)
}

/// Pseudo headers and `host` cannot be removed; Envoy refuses a configuration that tries.
fn removals(operations: &HeaderOperations) -> Vec<String> {
    let names = operations.remove.iter().map(|name| name.to_ascii_lowercase());
    names.filter(|name| !name.is_empty() && !name.starts_with(':') && name != "host").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn host_becomes_a_rewrite_and_other_pseudo_headers_are_ignored() {
        let request = HeaderOperations {
            set: map(&[("Host", "new.example.com"), ("X-A", "1"), (":path", "/x")]),
            add: map(&[("x-b", "2")]),
            remove: vec!["Host".to_owned(), ":method".to_owned(), "X-C".to_owned()],
        };
        let made = Operations::new(Some(&Headers { request: Some(request), response: None }));
        assert_eq!(made.authority.as_deref(), Some("new.example.com"));
        assert_eq!(made.request_add, [wire::header("x-a", "1", false), wire::header("x-b", "2", true)]);
        assert_eq!(made.request_remove, ["x-c"]);
    }
}
