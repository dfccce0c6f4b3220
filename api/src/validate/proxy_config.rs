//! Rules of ProxyConfig. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use super::check::Check;
use super::selector::selector;
use crate::kinds::proxy_config::ProxyConfig;
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &ProxyConfig) {
    selector(cx, &path.field("selector"), body.selector.as_ref());
    if let Some(concurrency) = body.concurrency {
        cx.not_negative(&path.field("concurrency"), concurrency);
    }
}
