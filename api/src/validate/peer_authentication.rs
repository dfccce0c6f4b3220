//! Rules of PeerAuthentication. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use super::check::Check;
use super::selector::selector;
use crate::code;
use crate::kinds::peer_authentication::PeerAuthentication;
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &PeerAuthentication) {
    selector(cx, &path.field("selector"), body.selector.as_ref());
    let selects = body.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    let ports = path.field("portLevelMtls");
    if !body.port_level_mtls.is_empty() && !selects {
        let help = "add `selector: {matchLabels: …}`: ports belong to a workload";
        cx.error(code::PORT_LEVEL_MTLS, &ports, "portLevelMtls needs a selector", help);
    }
    if body.port_level_mtls.is_empty() && cx.has(&ports) {
        cx.error(code::PORT_LEVEL_MTLS, &ports, "portLevelMtls is empty", "name a port, or remove it");
    }
    for port in body.port_level_mtls.keys() {
        cx.port(&ports.key(&port.to_string()), *port);
    }
}
