//! Changes that configuration makes to headers.
//!
//! In:  lists of changes, innermost first (cluster, route, virtual host, table); facts for their templates.
//! Out: changed headers. Each list removes, then computes all its values, then adds; the next one sees what came of it.

use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

use super::template::Facts;
use crate::config::route_table::{AppendAction, HeaderAddition, HeaderMutations};

/// Additions of one list with their values.
pub type Rendered<'a> = SmallVec<[(&'a HeaderAddition, HeaderValue); 4]>;

/// Change headers by lists, innermost first. `subject` is what the values are rendered from, and has the headers.
///
/// Source: Envoy `HeaderParser::evaluateHeaders`.
pub fn change<'a, T>(
    lists: &[&'a HeaderMutations],
    subject: &mut T,
    headers: impl Fn(&mut T) -> &mut HeaderMap,
    render: impl Fn(&T, &'a HeaderMutations) -> Rendered<'a>,
) {
    for list in lists {
        remove(list, headers(subject));
        let rendered = render(subject, list);
        add(rendered, headers(subject));
    }
}

fn remove(list: &HeaderMutations, headers: &mut HeaderMap) {
    for name in &list.remove {
        headers.remove(name);
    }
}

/// Compute the values that a list adds.
pub fn render<'a>(list: &'a HeaderMutations, facts: &impl Facts) -> Rendered<'a> {
    let values = list.add.iter().filter_map(|addition| Some((addition, addition.value.render(facts)?)));
    values.filter(|(addition, value)| addition.keep_empty || !value.is_empty()).collect()
}

/// Whether a value refers to the request's head.
pub fn asks_for_request(lists: &[&HeaderMutations]) -> bool {
    lists.iter().flat_map(|list| &list.add).any(|addition| addition.value.asks_for_request())
}

/// Set and add what was computed: first what is set, whatever its place in the list.
fn add(rendered: Rendered<'_>, headers: &mut HeaderMap) {
    let mut added = Rendered::new();
    for (addition, value) in rendered {
        let name = &addition.name;
        match addition.action {
            AppendAction::AppendIfExistsOrAdd | AppendAction::AddIfAbsent => added.push((addition, value)),
            AppendAction::OverwriteIfExistsOrAdd => drop(headers.insert(name, value)),
            AppendAction::OverwriteIfExists => {
                if headers.contains_key(name) {
                    headers.insert(name, value);
                }
            }
        }
    }
    for (addition, value) in added {
        let name = &addition.name;
        if addition.action == AppendAction::AppendIfExistsOrAdd || !headers.contains_key(name) {
            headers.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::route_table::HeaderKey;
    use crate::route::template::{Fact, Template};
    use bytes::BytesMut;
    use http::HeaderName;

    struct Of<'a>(&'a HeaderMap);

    impl Facts for Of<'_> {
        fn request_header<'a>(&'a self, key: &'a HeaderKey) -> Option<&'a [u8]> {
            match key {
                HeaderKey::Name(name) => self.0.get(name).map(HeaderValue::as_bytes),
                _ => None,
            }
        }

        fn response_headers(&self) -> Option<&HeaderMap> {
            None
        }

        fn fact(&self, _: Fact, _: &mut BytesMut) {}
    }

    fn addition(name: &'static str, value: &str, action: AppendAction) -> HeaderAddition {
        HeaderAddition { name: HeaderName::from_static(name), value: Template::parse(value).unwrap(), action, keep_empty: false }
    }

    #[test]
    fn values_come_from_what_the_list_leaves_before_it_adds() {
        let mutations = HeaderMutations {
            remove: vec![HeaderName::from_static("x-old")],
            add: vec![
                addition("x-copy", "%REQ(x-list)%", AppendAction::OverwriteIfExistsOrAdd),
                addition("x-gone", "%REQ(x-old)%", AppendAction::OverwriteIfExistsOrAdd),
                addition("x-list", "b", AppendAction::AppendIfExistsOrAdd),
                addition("x-late", "added", AppendAction::AppendIfExistsOrAdd),
                addition("x-late", "set", AppendAction::OverwriteIfExistsOrAdd),
                addition("x-there", "new", AppendAction::AddIfAbsent),
                addition("x-absent", "new", AppendAction::OverwriteIfExists),
                addition("x-there2", "new", AppendAction::OverwriteIfExists),
            ],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-old", "1"), ("x-list", "a"), ("x-there", "old"), ("x-there2", "old")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        change(&[&mutations], &mut headers, |headers| headers, |headers, list| render(list, &Of(headers)));
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        let cases: [(&str, &[&str]); 8] = [
            ("x-late", &["set", "added"]),
            ("x-old", &[]),
            ("x-gone", &[]),
            ("x-copy", &["a"]),
            ("x-list", &["a", "b"]),
            ("x-there", &["old"]),
            ("x-absent", &[]),
            ("x-there2", &["new"]),
        ];
        for (name, want) in cases {
            assert_eq!(all(name), want, "{name}");
        }
    }
}
