//! The one place that chooses how peers encrypt: TLS 1.3, certificates on both sides, the `ring` provider, no resumption.

use std::fmt::Write;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

use crate::api::identity::Parts;

/// The cryptography in use, given explicitly: a default of the process could be changed by anybody in it.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The configurations of both roles. An error is a key that does not fit its certificate, or a CA that is none.
pub fn configurations(parts: Parts) -> Result<(ServerConfig, ClientConfig), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(parts.ca)?;
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![parts.certificate.clone()], parts.key.clone_key())?;
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![parts.certificate], parts.key)?;
    // A resumed session is not verified again: a certificate that has expired meanwhile would stay good.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    client.resumption = Resumption::disabled();
    Ok((server, client))
}

/// SHA-256 of a certificate in DER, as `openssl x509 -fingerprint -sha256` shows it: `AB:CD:...`.
pub fn fingerprint(der: &[u8]) -> String {
    let mut text = String::new();
    for byte in sha256(der) {
        let separator = if text.is_empty() { "" } else { ":" };
        // Writing to a String can't fail.
        let _ = write!(text, "{separator}{byte:02X}");
    }
    text
}

/// SHA-256, from the provider that is here anyway.
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    match ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13() {
        Some(suite) => suite.common.hash_provider.hash(bytes).as_ref().to_vec(),
        None => Vec::new(),
    }
}
