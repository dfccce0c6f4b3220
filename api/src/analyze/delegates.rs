//! Delegated rules that are not there.
//!
//! In:  VirtualServices that delegate. Out: a warning for each rule that is left out, with the place of the other side.

use super::{Draft, Report, code};
use crate::effective::LostWhy;
use crate::kinds::VirtualService;
use crate::meta::ObjectRef;
use crate::object::Kind;
use crate::set::Of;

pub(super) fn check(report: &mut Report<'_>, item: Of<'_, VirtualService>) {
    let effective = report.effective;
    for lost in effective.merged(item).into_iter().flat_map(|merged| &merged.lost) {
        let Some(reference) = &item.spec.http[lost.rule].delegate else { continue };
        let path = format!("spec.http[{}].delegate.name", lost.rule);
        let namespace = if reference.namespace.is_empty() { item.namespace() } else { &reference.namespace };
        let name = ObjectRef { kind: Kind::VirtualService, namespace: namespace.to_owned(), name: reference.name.clone() };
        let draft = |code, message: String| Draft::warning(code, item.object, path.clone(), message);
        let delegate = |index| effective.set().at::<VirtualService>(index);
        match lost.why {
            // It is reported where it was read.
            LostWhy::Missing if report.scope.invalid.contains(&name) => {}
            LostWhy::Missing => {
                let message = format!("there is no {name}: this rule has no routes and is left out");
                report.add(draft(code::UNKNOWN_DELEGATE, message).istio("IST0101"));
            }
            LostWhy::NoDelegate(index) => {
                let message = format!("{name} has hosts of its own, so it is no delegate: this rule has no routes and is left out");
                let place = delegate(index).object.place("spec.hosts");
                report
                    .add(draft(code::UNKNOWN_DELEGATE, message).help("remove its hosts, or name another one").related(place, "its hosts"));
            }
            LostWhy::NotExported(index) => {
                let message = format!("{name} is not exported to {}: this rule has no routes and is left out", item.namespace());
                let place = delegate(index).object.place("spec.exportTo");
                let help = format!("add `{}` to its exportTo", item.namespace());
                report.add(draft(code::UNKNOWN_DELEGATE, message).help(help).related(place, "who sees it"));
            }
            LostWhy::Conflict { delegate: index, rule } => {
                let message = format!(
                    "http[{rule}] of {name} is left out: it has a match that is not within any of this rule's, and a delegate's must be"
                );
                let place = delegate(index).object.place(&format!("spec.http[{rule}]"));
                let help = "a delegate's prefix or exact text begins with the prefix here; an expression fits into nothing";
                report.add(draft(code::DELEGATE_CONFLICT, message).help(help).related(place, "the rule that is left out"));
            }
        }
    }
}
