//! RequestAuthentication: which tokens requests may carry.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `security/v1beta1/request_authentication.proto`.

use std::time::Duration;

use crate::kinds::selector::PolicyTargetReference;
use crate::kinds::selector::WorkloadSelector;
use crate::message::{message, status};

message! {
    /// Istio's `RequestAuthentication`.
    pub struct RequestAuthentication = "RequestAuthentication" {
        "selector" selector: Option<WorkloadSelector>, pending;
        "targetRef" target_ref: Option<PolicyTargetReference>, pending;
        "targetRefs" target_refs: Vec<PolicyTargetReference>, pending;
        "jwtRules" jwt_rules: Vec<JwtRule>, pending;
    }
}

message! {
    /// Istio's `JWTRule`.
    pub struct JwtRule = "JWTRule" {
        "issuer" issuer: String, pending;
        "audiences" audiences: Vec<String>, pending;
        "jwksUri" jwks_uri: String, pending;
        "jwks" jwks: String, pending;
        "fromHeaders" from_headers: Vec<JwtHeader>, pending;
        "fromParams" from_params: Vec<String>, pending;
        "outputPayloadToHeader" output_payload_to_header: String, pending;
        "fromCookies" from_cookies: Vec<String>, pending;
        "forwardOriginalToken" forward_original_token: bool, pending;
        "outputClaimToHeaders" output_claim_to_headers: Vec<ClaimToHeader>, pending;
        "timeout" timeout: Option<Duration>, pending;
        "spaceDelimitedClaims" space_delimited_claims: Vec<String>, pending;
    }
}

message! {
    /// Istio's `JWTHeader`.
    pub struct JwtHeader = "JWTHeader" {
        "name" name: String, pending;
        "prefix" prefix: String, pending;
    }
}

message! {
    /// Istio's `ClaimToHeader`.
    pub struct ClaimToHeader = "ClaimToHeader" {
        "header" header: String, pending;
        "claim" claim: String, pending;
    }
}
