//! AuthorizationPolicy: who may call what.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `security/v1beta1/authorization_policy.proto`.

use crate::kinds::selector::PolicyTargetReference;
use crate::kinds::selector::WorkloadSelector;
use crate::message::{enumeration, message, status};

message! {
    /// Istio's `AuthorizationPolicy`.
    pub struct AuthorizationPolicy = "AuthorizationPolicy" {
        "selector" selector: Option<WorkloadSelector>, pending;
        "targetRef" target_ref: Option<PolicyTargetReference>, pending;
        "targetRefs" target_refs: Vec<PolicyTargetReference>, pending;
        "rules" rules: Vec<Rule>, pending;
        "action" action: Action, pending;
        "provider" provider: Option<ExtensionProvider>, pending;
    }
}

enumeration! {
    /// Istio's `AuthorizationPolicy.Action`.
    pub enum Action = "Action" {
        "ALLOW" 0 Allow, pending;
        "DENY" 1 Deny, pending;
        "AUDIT" 2 Audit, pending;
        "CUSTOM" 3 Custom, pending;
    }
}

message! {
    /// Istio's `AuthorizationPolicy.ExtensionProvider`.
    pub struct ExtensionProvider = "ExtensionProvider" {
        "name" name: String, pending;
    }
}

message! {
    /// Istio's `Rule`.
    pub struct Rule = "Rule" {
        "from" from: Vec<From>, pending;
        "to" to: Vec<To>, pending;
        "when" when: Vec<Condition>, pending;
    }
}

message! {
    /// Istio's `Rule.From`.
    pub struct From = "From" {
        "source" source: Option<Source>, pending;
    }
}

message! {
    /// Istio's `Rule.To`.
    pub struct To = "To" {
        "operation" operation: Option<Operation>, pending;
    }
}

message! {
    /// Istio's `Source`.
    pub struct Source = "Source" {
        "principals" principals: Vec<String>, pending;
        "notPrincipals" not_principals: Vec<String>, pending;
        "requestPrincipals" request_principals: Vec<String>, pending;
        "notRequestPrincipals" not_request_principals: Vec<String>, pending;
        "namespaces" namespaces: Vec<String>, pending;
        "notNamespaces" not_namespaces: Vec<String>, pending;
        "serviceAccounts" service_accounts: Vec<String>, pending;
        "notServiceAccounts" not_service_accounts: Vec<String>, pending;
        "ipBlocks" ip_blocks: Vec<String>, pending;
        "notIpBlocks" not_ip_blocks: Vec<String>, pending;
        "remoteIpBlocks" remote_ip_blocks: Vec<String>, pending;
        "notRemoteIpBlocks" not_remote_ip_blocks: Vec<String>, pending;
        "trustDomains" trust_domains: Vec<String>, pending;
        "notTrustDomains" not_trust_domains: Vec<String>, pending;
    }
}

message! {
    /// Istio's `Operation`.
    pub struct Operation = "Operation" {
        "hosts" hosts: Vec<String>, pending;
        "notHosts" not_hosts: Vec<String>, pending;
        "ports" ports: Vec<String>, pending;
        "notPorts" not_ports: Vec<String>, pending;
        "methods" methods: Vec<String>, pending;
        "notMethods" not_methods: Vec<String>, pending;
        "paths" paths: Vec<String>, pending;
        "notPaths" not_paths: Vec<String>, pending;
    }
}

message! {
    /// Istio's `Condition`.
    pub struct Condition = "Condition" {
        "key" key: String, pending;
        "values" values: Vec<String>, pending;
        "notValues" not_values: Vec<String>, pending;
    }
}
