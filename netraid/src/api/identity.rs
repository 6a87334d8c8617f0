//! Who this node is to its peers: the certificate of the cluster's private CA, its own, and the key that proves it.

mod name;
mod validity;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flags::NodeName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{ClientConfig, ServerConfig};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::api::tls;
pub use name::{dns_name, node_of_dns_name};
pub use validity::{Validity, date};

/// Where a node keeps its identity.
pub const DEFAULT_TLS_DIR: &str = "/etc/netraid/tls";
/// The cluster's CA, the same file on all nodes.
pub const CA_FILE: &str = "ca.pem";
/// The CA's key; only on the node that ran `netraid cert init`.
pub const CA_KEY_FILE: &str = "ca.key";
/// This node's certificate.
pub const NODE_FILE: &str = "node.pem";
/// This node's key.
pub const NODE_KEY_FILE: &str = "node.key";
/// Bytes that any of these files may have; real ones have about 1000.
pub const MAX_FILE: u64 = 64 * 1024;

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is not there.
    #[error("{} is not there; make it with 'netraid cert init' on the first node, 'netraid cert join FILE' on others", .0.display())]
    Missing(PathBuf),
    /// A file can't be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others than the owner can read the key, so it proves nothing.
    #[error("{} can be read by others (mode {mode:04o}); make it private: chmod 0600 {}", path.display(), path.display())]
    KeyNotPrivate {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{what} is not usable: {reason}")]
    Unusable {
        /// The file, or the part of a bundle.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The certificate is of another node.
    #[error("the certificate in {what} is for {presented}, this node is {node:?}")]
    OtherNode {
        /// The file, or the part of a bundle.
        what: String,
        /// The node that was expected.
        node: NodeName,
        /// The names in the certificate.
        presented: String,
    },
}

/// The three parts of an identity, as PEM text and as what is in them.
pub struct Parts {
    /// The CA's certificate.
    pub ca: CertificateDer<'static>,
    /// The node's certificate.
    pub certificate: CertificateDer<'static>,
    /// The node's key.
    pub key: PrivateKeyDer<'static>,
}

impl Parts {
    /// Reads PEM text; `what` names each text in errors (CA, certificate, key).
    pub fn from_pem(texts: [&[u8]; 3], what: [&str; 3]) -> Result<Parts, IdentityError> {
        let wrong = |what: &str| {
            let what = what.to_owned();
            move |error: rustls::pki_types::pem::Error| IdentityError::Unusable {
                what,
                reason: format!("{error:?}"),
            }
        };
        Ok(Parts {
            ca: CertificateDer::from_pem_slice(texts[0]).map_err(wrong(what[0]))?,
            certificate: CertificateDer::from_pem_slice(texts[1]).map_err(wrong(what[1]))?,
            key: PrivateKeyDer::from_pem_slice(texts[2]).map_err(wrong(what[2]))?,
        })
    }

    /// Checks that the certificate is `node`'s and of this CA. Not at which time: a clock that is wrong must not keep a
    /// daemon from starting, and the peers look at the time themselves.
    pub fn check(&self, node: &NodeName, what: &str) -> Result<(), IdentityError> {
        let unusable = |reason: String| IdentityError::Unusable {
            what: what.to_owned(),
            reason,
        };
        let anchor = anchor_from_trusted_cert(&self.ca)
            .map_err(|error| unusable(format!("the CA's certificate: {error}")))?;
        let certificate = EndEntityCert::try_from(&self.certificate)
            .map_err(|error| unusable(error.to_string()))?;
        let both = |der: &[u8]| {
            Validity::of(der).ok_or_else(|| unusable("no period of validity in it".to_owned()))
        };
        let (ca_valid, node_valid) = (both(&self.ca)?, both(&self.certificate)?);
        let common = ca_valid.not_before.max(node_valid.not_before);
        let anchors = [anchor];
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            certificate
                .verify_for_usage(
                    tls::provider().signature_verification_algorithms.all,
                    &anchors,
                    &[],
                    UnixTime::since_unix_epoch(Duration::from_secs(common)),
                    usage,
                    None,
                    None,
                )
                .map_err(|error| unusable(format!("it is not of this CA: {error}")))?;
        }
        if !is_for(&certificate, node) {
            return Err(IdentityError::OtherNode {
                what: what.to_owned(),
                node: node.clone(),
                presented: presented(&self.certificate),
            });
        }
        Ok(())
    }
}

/// Whether a certificate, already verified, is the one of a node.
pub fn is_for(certificate: &EndEntityCert<'_>, node: &NodeName) -> bool {
    rustls::pki_types::ServerName::try_from(dns_name(node))
        .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

/// The nodes that a certificate is for, as far as its names tell; one in those that we make.
pub fn nodes(certificate: &CertificateDer<'_>) -> Vec<NodeName> {
    match EndEntityCert::try_from(certificate) {
        Ok(certificate) => certificate
            .valid_dns_names()
            .take(8)
            .filter_map(node_of_dns_name)
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// The nodes and other names that a certificate is for, for people: `"server1"`, or `nobody`.
pub fn presented(certificate: &CertificateDer<'_>) -> String {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return "nobody".to_owned();
    };
    let names: Vec<String> = certificate
        .valid_dns_names()
        .take(8)
        .map(|name| match node_of_dns_name(name) {
            Some(node) => format!("{node:?}"),
            None => format!("{name:?}"),
        })
        .collect();
    if names.is_empty() {
        return "nobody".to_owned();
    }
    names.join(", ")
}

/// What a node shows to its peers, and what it asks of them.
pub struct Identity {
    node: NodeName,
    certificate: CertificateDer<'static>,
    ca: CertificateDer<'static>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the identity of `node` from a folder.
    pub fn load(tls_dir: &Path, node: &NodeName) -> Result<Identity, IdentityError> {
        let paths = [CA_FILE, NODE_FILE, NODE_KEY_FILE].map(|name| tls_dir.join(name));
        let ca = read(&paths[0])?;
        let certificate = read(&paths[1])?;
        let key = read_key(&paths[2])?;
        let what = paths.each_ref().map(|path| path.display().to_string());
        let parts = Parts::from_pem([&ca, &certificate, &key], [&what[0], &what[1], &what[2]])?;
        Identity::new(parts, node, &what[1])
    }

    /// Makes an identity of its parts; `what` names them in errors.
    pub fn new(parts: Parts, node: &NodeName, what: &str) -> Result<Identity, IdentityError> {
        parts.check(node, what)?;
        let (ca, certificate) = (parts.ca.clone(), parts.certificate.clone());
        let (server, client) =
            tls::configurations(parts).map_err(|error| IdentityError::Unusable {
                what: what.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Identity {
            node: node.clone(),
            certificate,
            ca,
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }

    /// The node whose identity it is.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// When this node's certificate is valid.
    pub fn validity(&self) -> Option<Validity> {
        Validity::of(&self.certificate)
    }

    /// SHA-256 of the CA's certificate: the same on all nodes of a cluster.
    pub fn ca_fingerprint(&self) -> String {
        tls::fingerprint(&self.ca)
    }

    /// For taking connections: TLS 1.3, a certificate of the CA is asked for.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For making connections: TLS 1.3, the certificate of the CA and of the name is asked for.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

/// Reads a file of an identity, at most [`MAX_FILE`] bytes.
pub fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing(path.to_owned()),
        _ => IdentityError::Read {
            path: path.to_owned(),
            error,
        },
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(IdentityError::Unusable {
            what: path.display().to_string(),
            reason: format!("it is larger than {MAX_FILE} bytes"),
        });
    }
    Ok(bytes)
}

/// Reads a key after checking that nobody else can.
pub fn read_key(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o7777,
        // Reading it will say why.
        Err(_) => 0,
    };
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyNotPrivate {
            path: path.to_owned(),
            mode,
        });
    }
    read(path)
}
