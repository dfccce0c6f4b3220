//! Gateway: what a gateway listens on.
//!
//! In:  `spec` of the kind. Out: its fields, as Istio has them. Source: Istio's `networking/v1alpha3/gateway.proto`.

use std::collections::BTreeMap;

use crate::message::{enumeration, message, status};

message! {
    /// Istio's `Gateway`.
    pub struct Gateway = "Gateway" {
        "servers" servers: Vec<GatewayServer>, enforced;
        /// Labels of the gateway workloads, in all namespaces; every workload when empty.
        "selector" selector: BTreeMap<String, String>, enforced;
    }
}

message! {
    /// Istio's `Server`.
    pub struct GatewayServer = "Server" {
        "port" port: Option<GatewayPort>, enforced;
        "bind" bind: String, enforced;
        /// `[namespace/]host`.
        "hosts" hosts: Vec<String>, enforced;
        "tls" tls: Option<ServerTlsSettings>, pending;
        "defaultEndpoint" default_endpoint: String, pending;
        "name" name: String, inert;
    }
}

message! {
    /// Istio's `Port`.
    pub struct GatewayPort = "Port" {
        "number" number: u32, enforced;
        "protocol" protocol: String, enforced;
        "name" name: String, enforced;
        /// Deprecated.
        "targetPort" target_port: u32, pending;
    }
}

message! {
    /// Istio's `ServerTLSSettings`.
    pub struct ServerTlsSettings = "ServerTLSSettings" {
        "httpsRedirect" https_redirect: bool, pending;
        "mode" mode: ServerTlsMode, pending;
        "serverCertificate" server_certificate: String, pending;
        "privateKey" private_key: String, pending;
        "caCertificates" ca_certificates: String, pending;
        "caCrl" ca_crl: String, pending;
        "credentialName" credential_name: String, pending;
        "credentialNames" credential_names: Vec<String>, pending;
        "caCertCredentialName" ca_cert_credential_name: String, pending;
        "tlsCertificates" tls_certificates: Vec<TlsCertificate>, pending;
        "subjectAltNames" subject_alt_names: Vec<String>, pending;
        "verifyCertificateSpki" verify_certificate_spki: Vec<String>, pending;
        "verifyCertificateHash" verify_certificate_hash: Vec<String>, pending;
        "minProtocolVersion" min_protocol_version: TlsProtocol, pending;
        "maxProtocolVersion" max_protocol_version: TlsProtocol, pending;
        "cipherSuites" cipher_suites: Vec<String>, pending;
        "insecureSkipVerify" insecure_skip_verify: Option<bool>, pending;
    }
}

enumeration! {
    /// Istio's `ServerTLSSettings.TLSmode`.
    pub enum ServerTlsMode = "TLSmode" {
        "PASSTHROUGH" 0 Passthrough, pending;
        "SIMPLE" 1 Simple, pending;
        "MUTUAL" 2 Mutual, pending;
        "AUTO_PASSTHROUGH" 3 AutoPassthrough, pending;
        "ISTIO_MUTUAL" 4 IstioMutual, pending;
        "OPTIONAL_MUTUAL" 5 OptionalMutual, pending;
    }
}

message! {
    /// Istio's `ServerTLSSettings.TLSCertificate`.
    pub struct TlsCertificate = "TLSCertificate" {
        "serverCertificate" server_certificate: String, pending;
        "privateKey" private_key: String, pending;
        "caCertificates" ca_certificates: String, pending;
    }
}

enumeration! {
    /// Istio's `ServerTLSSettings.TLSProtocol`.
    pub enum TlsProtocol = "TLSProtocol" {
        "TLS_AUTO" 0 TlsAuto, enforced;
        "TLSV1_0" 1 Tlsv10, pending;
        "TLSV1_1" 2 Tlsv11, pending;
        "TLSV1_2" 3 Tlsv12, pending;
        "TLSV1_3" 4 Tlsv13, pending;
    }
}
