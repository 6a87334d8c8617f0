//! Makes identities: a private CA, the certificates of its nodes, and the bundle that carries one to another node.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flags::NodeName;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::identity::{
    CA_FILE, CA_KEY_FILE, IdentityError, MAX_FILE, NODE_FILE, NODE_KEY_FILE, Parts, Validity,
    dns_name, read, read_key,
};
use super::tls;

/// How long a CA is valid, and the certificates that it signs: 10 years. A private CA has no way to renew by itself.
pub const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86400 + 2 * 86400);
/// How long before its making a certificate is already valid: nodes whose clocks are a day behind take it.
pub const BACKDATED: Duration = Duration::from_secs(86400);

const HEADING: &str = "netraid certificate bundle 1, private, for node ";

/// Why an identity was not made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Something is there already, and it is another one.
    #[error("{} is there already; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// This node has no CA to sign with.
    #[error("{} is not there: invite from the node that ran 'netraid cert init'", .0.display())]
    NoCa(PathBuf),
    /// Only one node may have a name.
    #[error("{0:?} is this node's own name")]
    OwnName(NodeName),
    /// What is there, or in the bundle, is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No bundle of ours.
    #[error("{} is no bundle of 'netraid cert invite': {reason}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A file could not be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A certificate and its key as PEM.
pub struct Made {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// A certificate authority that can sign.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    not_after: u64,
}

impl Authority {
    /// Makes a new one; also returns its key, to be kept.
    pub fn generate(now: SystemTime) -> Result<(Authority, String), IssueError> {
        let key = KeyPair::generate()?;
        let text = key.serialize_pem();
        let not_after = seconds(now + LIFETIME);
        let wanted = authority(&key, now, not_after);
        let certificate = wanted.self_signed(&key)?.pem();
        let issuer = Issuer::new(wanted, key);
        Ok((
            Authority {
                certificate,
                issuer,
                not_after,
            },
            text,
        ))
    }

    /// Reads the CA of a folder.
    pub fn load(tls_dir: &Path) -> Result<Authority, IssueError> {
        let path = tls_dir.join(CA_KEY_FILE);
        let key = match read_key(&path) {
            Err(IdentityError::Missing(path)) => return Err(IssueError::NoCa(path)),
            other => other?,
        };
        let unusable = |path: &Path, reason: String| IdentityError::Unusable {
            what: path.display().to_string(),
            reason,
        };
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&key))
            .map_err(|error| unusable(&path, error.to_string()))?;
        let path = tls_dir.join(CA_FILE);
        let certificate = String::from_utf8_lossy(&read(&path)?).into_owned();
        let validity = CertificateDer::from_pem_slice(certificate.as_bytes())
            .ok()
            .and_then(|der| Validity::of(&der))
            .ok_or_else(|| unusable(&path, "it is no certificate".to_owned()))?;
        let wanted = authority(&key, SystemTime::now(), validity.not_after);
        Ok(Authority {
            certificate,
            issuer: Issuer::new(wanted, key),
            not_after: validity.not_after,
        })
    }

    /// The CA's certificate as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes the certificate of a node, for both roles, and checks it as that node will.
    pub fn issue(&self, node: &NodeName, now: SystemTime) -> Result<Made, IssueError> {
        let key = KeyPair::generate()?;
        let mut wanted = CertificateParams::new([dns_name(node)])?;
        wanted.distinguished_name = called(node.as_str());
        set_validity(
            &mut wanted,
            now,
            seconds(now + LIFETIME).min(self.not_after),
        );
        wanted.use_authority_key_identifier_extension = true;
        wanted.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        wanted.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let made = Made {
            certificate: wanted.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        };
        let what = "the new certificate";
        let texts = [&self.certificate, &made.certificate, &made.key].map(|text| text.as_bytes());
        Parts::from_pem(texts, [CA_FILE, what, what])?.check(node, what)?;
        Ok(made)
    }
}

/// The CA's parameters follow from its key, so that the key is enough to sign again.
fn authority(key: &KeyPair, now: SystemTime, not_after: u64) -> CertificateParams {
    let id = tls::sha256(key.public_key_raw());
    let id: String = id
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut wanted = CertificateParams::default();
    wanted.distinguished_name = called(&format!("NetRAID CA {id}"));
    set_validity(&mut wanted, now, not_after);
    wanted.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    wanted.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    wanted
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

fn set_validity(wanted: &mut CertificateParams, now: SystemTime, not_after: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    let not_before = seconds(now).saturating_sub(BACKDATED.as_secs());
    wanted.not_before = epoch + Duration::from_secs(not_before);
    wanted.not_after = epoch + Duration::from_secs(not_after);
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Makes a CA and this node's certificate in a folder that has none.
pub fn init(tls_dir: &Path, node: &NodeName) -> Result<(), IssueError> {
    for name in [CA_FILE, CA_KEY_FILE, NODE_FILE, NODE_KEY_FILE] {
        let path = tls_dir.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(IssueError::Exists(path));
        }
    }
    let now = SystemTime::now();
    let (ca, ca_key) = Authority::generate(now)?;
    let made = ca.issue(node, now)?;
    make_private_folder(tls_dir)?;
    write_new(&tls_dir.join(CA_KEY_FILE), &ca_key, 0o600)?;
    write_new(&tls_dir.join(CA_FILE), &ca.certificate, 0o644)?;
    write_new(&tls_dir.join(NODE_KEY_FILE), &made.key, 0o600)?;
    write_new(&tls_dir.join(NODE_FILE), &made.certificate, 0o644)
}

/// Writes the bundle that makes another machine `node`. Whoever has the file is that node.
pub fn invite(tls_dir: &Path, node: &NodeName, out: &Path) -> Result<(), IssueError> {
    let ca = Authority::load(tls_dir)?;
    let own = read(&tls_dir.join(NODE_FILE)).ok();
    if let Some(own) = own.and_then(|text| CertificateDer::from_pem_slice(&text).ok())
        && webpki::EndEntityCert::try_from(&own)
            .is_ok_and(|own| super::identity::is_for(&own, node))
    {
        return Err(IssueError::OwnName(node.clone()));
    }
    let made = ca.issue(node, SystemTime::now())?;
    let bundle = format!(
        "{HEADING}{node}\n{}{}{}",
        ca.certificate, made.certificate, made.key
    );
    write_new(out, &bundle, 0o600)
}

/// Installs a bundle; false if this very identity was there already.
pub fn join(tls_dir: &Path, bundle: &Path) -> Result<(NodeName, bool), IssueError> {
    let wrong = |reason: &str| IssueError::Bundle {
        path: bundle.to_owned(),
        reason: reason.to_owned(),
    };
    let text = match fs::metadata(bundle) {
        Ok(about) if about.len() > MAX_FILE => return Err(wrong("it is too large")),
        Err(error) => return Err(wrong(&error.to_string())),
        Ok(_) => read_key(bundle)?,
    };
    let text = String::from_utf8(text).map_err(|_| wrong("it is no text"))?;
    let (heading, rest) = text.split_once('\n').unwrap_or_default();
    let node = heading
        .strip_prefix(HEADING)
        .ok_or_else(|| wrong("its first line is another"))?;
    let node = NodeName::new(node).map_err(|error| wrong(&error.to_string()))?;
    let mut sections = sections(rest);
    let (Some(ca), Some(certificate), Some(key), None) = (
        sections.next(),
        sections.next(),
        sections.next(),
        sections.next(),
    ) else {
        return Err(wrong("it has not three parts"));
    };
    let shown = bundle.display().to_string();
    let parts = Parts::from_pem([ca, certificate, key].map(str::as_bytes), [&shown; 3])?;
    // Also checks that the key fits.
    super::identity::Identity::new(parts, &node, &shown)?;

    // The certificate last: without it the identity is not there, and joining again completes it.
    let files = [
        (CA_FILE, ca, 0o644),
        (NODE_KEY_FILE, key, 0o600),
        (NODE_FILE, certificate, 0o644),
    ];
    let mut missing = Vec::new();
    for (name, text, mode) in files {
        let path = tls_dir.join(name);
        match read(&path) {
            Err(IdentityError::Missing(_)) => missing.push((path, text, mode)),
            Ok(there) if there == text.as_bytes() => {}
            Ok(_) => return Err(IssueError::Exists(path)),
            Err(error) => return Err(error.into()),
        }
    }
    make_private_folder(tls_dir)?;
    for (path, text, mode) in &missing {
        write_new(path, text, *mode)?;
    }
    Ok((node, !missing.is_empty()))
}

/// The PEM sections of a text, each from its BEGIN line on.
fn sections(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let next = rest
            .get(1..)?
            .find("-----BEGIN ")
            .map_or(rest.len(), |at| at + 1);
        let (section, after) = rest.split_at(next);
        rest = after;
        Some(section)
    })
}

fn make_private_folder(folder: &Path) -> Result<(), IssueError> {
    let failed = |error| IssueError::Write {
        path: folder.to_owned(),
        error,
    };
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    match folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => sync(parent).map_err(failed),
        None => Ok(()),
    }
}

/// Writes a file that is not there yet: complete and on the disk, or not there.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), IssueError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        renameat2(
            AT_FDCWD,
            &draft,
            AT_FDCWD,
            path,
            RenameFlags::RENAME_NOREPLACE,
        )?;
        sync(folder)
    })();
    written.map_err(|error: io::Error| {
        // The first error is the one that matters.
        let _ = fs::remove_file(&draft);
        match error.kind() {
            io::ErrorKind::AlreadyExists => IssueError::Exists(path.to_owned()),
            _ => IssueError::Write {
                path: path.to_owned(),
                error,
            },
        }
    })
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
