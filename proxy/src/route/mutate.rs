//! Changes that configuration makes to headers.
//!
//! In:  lists of changes, innermost first (cluster, route, virtual host, table); facts for their templates.
//! Out: changed headers. All values are computed before anything is changed; removal precedes addition.

use http::header::Entry;
use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

use super::template::Facts;
use crate::config::route_table::{AppendAction, HeaderAddition, HeaderMutations};

/// Additions with their values, computed from the headers before any change.
pub type Rendered<'a> = SmallVec<[(&'a HeaderAddition, HeaderValue); 4]>;

/// Compute the values to add. Source: Envoy `HeaderParser::evaluateHeaders`.
pub fn render<'a>(lists: &[&'a HeaderMutations], facts: &impl Facts) -> Rendered<'a> {
    let additions = lists.iter().flat_map(|list| &list.add);
    let values = additions.filter_map(|addition| Some((addition, addition.value.render(facts)?)));
    values.filter(|(addition, value)| addition.keep_empty || !value.is_empty()).collect()
}

/// Whether a value refers to the request's head.
pub fn asks_for_request(lists: &[&HeaderMutations]) -> bool {
    lists.iter().flat_map(|list| &list.add).any(|addition| addition.value.asks_for_request())
}

/// Remove, then add.
pub fn apply(lists: &[&HeaderMutations], rendered: Rendered<'_>, headers: &mut HeaderMap) {
    for name in lists.iter().flat_map(|list| &list.remove) {
        headers.remove(name);
    }
    for (addition, value) in rendered {
        let name = &addition.name;
        match addition.action {
            AppendAction::AppendIfExistsOrAdd => {
                headers.append(name, value);
            }
            AppendAction::AddIfAbsent => {
                if let Entry::Vacant(entry) = headers.entry(name) {
                    entry.insert(value);
                }
            }
            AppendAction::OverwriteIfExistsOrAdd => {
                headers.insert(name, value);
            }
            AppendAction::OverwriteIfExists => {
                if headers.contains_key(name) {
                    headers.insert(name, value);
                }
            }
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

    fn add(name: &'static str, value: &str, action: AppendAction) -> HeaderAddition {
        HeaderAddition { name: HeaderName::from_static(name), value: Template::parse(value).unwrap(), action, keep_empty: false }
    }

    #[test]
    fn values_come_from_the_headers_before_any_change() {
        let mutations = HeaderMutations {
            remove: vec![HeaderName::from_static("x-old")],
            add: vec![
                add("x-copy", "%REQ(x-old)%", AppendAction::OverwriteIfExistsOrAdd),
                add("x-list", "b", AppendAction::AppendIfExistsOrAdd),
                add("x-there", "new", AppendAction::AddIfAbsent),
                add("x-absent", "new", AppendAction::OverwriteIfExists),
                add("x-there2", "new", AppendAction::OverwriteIfExists),
            ],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-old", "1"), ("x-list", "a"), ("x-there", "old"), ("x-there2", "old")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let rendered = render(&[&mutations], &Of(&headers.clone()));
        apply(&[&mutations], rendered, &mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        let cases: [(&str, &[&str]); 6] =
            [("x-old", &[]), ("x-copy", &["1"]), ("x-list", &["a", "b"]), ("x-there", &["old"]), ("x-absent", &[]), ("x-there2", &["new"])];
        for (name, want) in cases {
            assert_eq!(all(name), want, "{name}");
        }
    }
}
