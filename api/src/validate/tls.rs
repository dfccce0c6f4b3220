//! Rules of TLS settings, of clients and of servers. Source: Istio's admission rules.
//!
//! In:  settings. Out: findings.

use super::check::Check;
use crate::code;
use crate::kinds::destination_rule::{ClientTlsMode, ClientTlsSettings};
use crate::kinds::gateway::{ServerTlsMode, ServerTlsSettings, TlsProtocol};
use crate::path::Path;

const MAX_CERTIFICATES: usize = 2;

pub(super) fn client(cx: &mut Check<'_>, path: &Path<'_>, tls: &ClientTlsSettings) {
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("caCrl", &tls.ca_crl),
    ];
    if tls.insecure_skip_verify == Some(true) {
        if !tls.ca_certificates.is_empty() {
            let message = "`insecureSkipVerify` ignores `caCertificates`";
            cx.error(code::CLIENT_TLS, &path.field("caCertificates"), message, "keep one of them");
        }
        if !tls.subject_alt_names.is_empty() {
            let message = "`insecureSkipVerify` ignores `subjectAltNames`";
            cx.error(code::CLIENT_TLS, &path.field("subjectAltNames"), message, "keep one of them");
        }
    }
    match tls.mode {
        ClientTlsMode::IstioMutual => {
            for (name, _) in files.iter().filter(|(_, value)| !value.is_empty()) {
                let message = format!("ISTIO_MUTUAL uses the mesh's own certificates: `{name}` cannot be given");
                cx.error(code::CLIENT_TLS, &path.field(name), message, "remove it, or use MUTUAL");
            }
            if !tls.credential_name.is_empty() {
                let message = "ISTIO_MUTUAL uses the mesh's own certificates: `credentialName` cannot be given";
                cx.error(code::CLIENT_TLS, &path.field("credentialName"), message, "remove it, or use MUTUAL");
            }
        }
        ClientTlsMode::Simple | ClientTlsMode::Mutual if !tls.credential_name.is_empty() => {
            for (name, _) in files.iter().filter(|(_, value)| !value.is_empty()) {
                cx.error(
                    code::CLIENT_TLS,
                    &path.field(name),
                    format!("`credentialName` and `{name}` exclude each other"),
                    "keep one of them",
                );
            }
        }
        ClientTlsMode::Simple => {
            for name in files[..2].iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name) {
                let message = format!("SIMPLE sends no client certificate: `{name}` has no effect");
                cx.error(code::CLIENT_TLS, &path.field(name), message, "use MUTUAL");
            }
        }
        ClientTlsMode::Mutual => {
            for (name, value) in &files[..2] {
                if value.is_empty() {
                    let message = format!("MUTUAL needs `{name}`");
                    cx.error(code::CLIENT_TLS, &path.field(name), message, "give clientCertificate and privateKey, or credentialName");
                }
            }
        }
        ClientTlsMode::Disable => {
            if !cx.has(&path.field("mode")) && *tls != ClientTlsSettings::default() {
                let message = "without `mode` this block switches TLS off";
                cx.warning(code::CLIENT_TLS, path, message, "add `mode: SIMPLE`, MUTUAL or ISTIO_MUTUAL");
            }
        }
    }
}

pub(super) fn server(cx: &mut Check<'_>, path: &Path<'_>, tls: &ServerTlsSettings) {
    certificates(cx, path, tls);
    if tls.mode == ServerTlsMode::IstioMutual {
        for (name, value) in
            [("serverCertificate", &tls.server_certificate), ("privateKey", &tls.private_key), ("caCertificates", &tls.ca_certificates)]
        {
            if !value.is_empty() {
                let message = format!("ISTIO_MUTUAL uses the mesh's own certificates: `{name}` cannot be given");
                cx.error(code::SERVER_TLS, &path.field(name), message, "remove it, or use MUTUAL");
            }
        }
    }
    let secret = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    let needs_certificate = matches!(tls.mode, ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    if needs_certificate && !secret && tls.tls_certificates.is_empty() {
        for (name, value) in [("serverCertificate", &tls.server_certificate), ("privateKey", &tls.private_key)] {
            if value.is_empty() {
                let message = format!("{} needs `{name}`", tls.mode.as_str());
                cx.error(code::SERVER_TLS, &path.field(name), message, "give serverCertificate and privateKey, or credentialName");
            }
        }
        let mutual = matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
        if mutual && tls.ca_certificates.is_empty() && tls.ca_cert_credential_name.is_empty() {
            let message = format!("{} needs `caCertificates` to check clients with", tls.mode.as_str());
            cx.error(code::SERVER_TLS, &path.field("caCertificates"), message, "");
        }
    }
    let (min, max) = (tls.min_protocol_version, tls.max_protocol_version);
    if max != TlsProtocol::TlsAuto && min > max {
        let message = format!("the least version {} is above the greatest, {}", min.as_str(), max.as_str());
        cx.error(code::SERVER_TLS, &path.field("minProtocolVersion"), message, "");
    }
    cx.unique(tls.cipher_suites.iter().enumerate(), |index| path.field("cipherSuites").index(index).to_string(), "cipher suite");
    for (index, hash) in tls.verify_certificate_hash.iter().enumerate() {
        let digits = hash.bytes().filter(|b| *b != b':').all(|b| b.is_ascii_hexdigit());
        if !digits || hash.bytes().filter(|b| *b != b':').count() != 64 {
            let message = "this is not a SHA-256 in hex";
            cx.error(code::SERVER_TLS, &path.field("verifyCertificateHash").index(index), message, "64 hex digits, with or without colons");
        }
    }
}

/// One way to name certificates.
fn certificates(cx: &mut Check<'_>, path: &Path<'_>, tls: &ServerTlsSettings) {
    let sources = [
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ("serverCertificate", !tls.server_certificate.is_empty()),
    ];
    let mut given = sources.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        cx.error(code::SERVER_TLS, &path.field(second), format!("`{first}` and `{second}` exclude each other"), "keep one of them");
    }
    for (name, count) in [("credentialNames", tls.credential_names.len()), ("tlsCertificates", tls.tls_certificates.len())] {
        if count > MAX_CERTIFICATES {
            let message = format!("at most {MAX_CERTIFICATES} certificates are allowed: one RSA, one ECDSA");
            cx.error(code::SERVER_TLS, &path.field(name), message, "");
        }
    }
}
