//! `exportTo`: who may see an object.
//!
//! In:  the list as written, the object's namespace, the mesh's default.
//! Out: [`ExportTo`], which answers for a client's namespace.

/// The namespaces that see an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExportTo {
    /// `*`.
    All,
    /// Only these, sorted; `.` is replaced with the object's own namespace.
    Namespaces(Vec<String>),
    /// `~`.
    Nobody,
}

/// How directly an object was exported to a client: of several candidates the lower one comes first, whatever their age.
///
/// Source: `PushContext.VirtualServicesForGateway`, which lists private objects first, then those exported by name, then public ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Exported to its own namespace by name or `.`, where the client is.
    Private,
    /// Exported to the client's namespace by name.
    Named,
    Public,
}

impl ExportTo {
    /// `written` empty means `default`, empty again means everybody. `*` beats everything else in the list, `~` all but `*`.
    pub fn new(written: &[String], namespace: &str, default: &[String]) -> Self {
        let list = if written.is_empty() { default } else { written };
        if list.is_empty() || list.iter().any(|e| e == "*") {
            return Self::All;
        }
        if list.iter().any(|e| e == "~") {
            return Self::Nobody;
        }
        let mut namespaces: Vec<String> = list.iter().map(|e| if e == "." { namespace } else { e }.to_owned()).collect();
        namespaces.sort();
        namespaces.dedup();
        Self::Namespaces(namespaces)
    }

    /// Whether a client in `namespace` sees the object.
    pub fn visible_in(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(list) => list.iter().any(|n| n == namespace),
            Self::Nobody => false,
        }
    }

    /// How an object of namespace `own` reaches a client in `client`; `None` when it does not.
    pub fn reach(&self, own: &str, client: &str) -> Option<Reach> {
        match self {
            Self::All => Some(Reach::Public),
            Self::Nobody => None,
            Self::Namespaces(_) if !self.visible_in(client) => None,
            Self::Namespaces(_) if own == client => Some(Reach::Private),
            Self::Namespaces(_) => Some(Reach::Named),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_to_decides_who_sees_an_object() {
        type Words<'a> = &'a [&'a str];
        let cases: [(Words<'_>, Words<'_>, &str, Option<Reach>); 9] = [
            (&[], &[], "b", Some(Reach::Public)),
            (&[], &["."], "b", None),
            (&[], &["."], "a", Some(Reach::Private)),
            (&["."], &[], "a", Some(Reach::Private)),
            (&["."], &[], "b", None),
            (&["b"], &[], "b", Some(Reach::Named)),
            (&["b"], &[], "a", None),
            (&[".", "*"], &[], "c", Some(Reach::Public)),
            (&["~"], &[], "a", None),
        ];
        for (written, default, client, want) in cases {
            let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            assert_eq!(ExportTo::new(&owned(written), "a", &owned(default)).reach("a", client), want, "{written:?} {default:?} {client}");
        }
    }
}
