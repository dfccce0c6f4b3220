//! SPIFFE identities of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! In:  URIs from certificates, or the three parts from configuration.
//! Out: [`Identity`], and its URI.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest SPIFFE ID, in bytes (SPIFFE-ID section 2.3).
pub const MAX_ID_BYTES: usize = 2048;

/// Who a workload is. Source: Istio's `spiffe.Identity`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a text is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("a SPIFFE ID begins with spiffe://")]
    Scheme,
    #[error("a SPIFFE ID has at most {MAX_ID_BYTES} bytes")]
    Length,
    #[error("the path must be /ns/<namespace>/sa/<service account>")]
    Path,
    #[error("{part} {value:?} is empty or has a character that a SPIFFE ID does not allow")]
    Part { part: &'static str, value: String },
}

impl Identity {
    /// Checks the three parts by the SPIFFE rules: a trust domain is lower-case letters, digits, `.`, `-`, `_`; a path segment may
    /// have upper-case letters too, but is neither `.` nor `..`.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        let segment = |c: char| lower(c) || c.is_ascii_uppercase();
        let fault = |part, value: &str| Err(IdentityError::Part { part, value: value.chars().take(64).collect() });
        if trust_domain.is_empty() || trust_domain.len() > 255 || !trust_domain.chars().all(lower) {
            return fault("trust domain", trust_domain);
        }
        for (part, value) in [("namespace", namespace), ("service account", service_account)] {
            if value.is_empty() || value == "." || value == ".." || !value.chars().all(segment) {
                return fault(part, value);
            }
        }
        if "spiffe:///ns//sa/".len() + trust_domain.len() + namespace.len() + service_account.len() > MAX_ID_BYTES {
            return Err(IdentityError::Length);
        }
        Ok(Self { trust_domain: trust_domain.into(), namespace: namespace.into(), service_account: service_account.into() })
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// `<trust domain>/ns/<namespace>/sa/<service account>`: how Istio's policies write a principal.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_ID_BYTES {
            return Err(IdentityError::Length);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(IdentityError::Scheme)?;
        let mut parts = rest.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Self::new(domain, namespace, account),
            _ => Err(IdentityError::Path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_prints_as_it_was_read() {
        let text = "spiffe://cluster.local/ns/default/sa/product-service";
        let identity: Identity = text.parse().unwrap();
        assert_eq!((identity.namespace(), identity.service_account()), ("default", "product-service"));
        assert_eq!(identity.to_string(), text);
        assert_eq!(identity.principal(), "cluster.local/ns/default/sa/product-service");
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        let long = format!("spiffe://td/ns/{}/sa/b", "a".repeat(MAX_ID_BYTES));
        let cases = [
            "",
            "http://cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/a/sa",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:80/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            &long,
        ];
        for text in cases {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
