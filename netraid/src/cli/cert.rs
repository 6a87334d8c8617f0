//! `netraid cert`: makes the private CA and the certificates by which the nodes of a cluster know each other.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flags::NodeName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;

use super::exit::{self, Exit};
use super::show;
use crate::api::identity::{
    self, CA_FILE, CA_KEY_FILE, DEFAULT_TLS_DIR, IdentityError, NODE_FILE, NODE_KEY_FILE, Validity,
};
use crate::api::issue::{self, IssueError};
use crate::api::tls;

/// Name and version of the document that `netraid cert show --json` prints.
const SCHEMA: &str = "netraid.cert/1";
/// How long before its end a certificate is warned about.
const WARN: Duration = Duration::from_secs(60 * 86400);

/// Makes the certificates by which the nodes of a cluster know each other.
///
/// `init` on the first node; there `invite` for each other node; carry the file over a way that you trust (scp), `join`
/// there, and delete it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 done, or already so; 1 failed; 2 wrong command line or no bundle; 3 refused, nothing was \
    changed."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes a new private CA, and this node's certificate
    Init {
        /// This node's name, as in the mirrors' configuration [default: the host name]
        #[arg(long)]
        node: Option<NodeName>,
        #[command(flatten)]
        folder: Folder,
    },
    /// Writes the file that lets another machine join as NODE; whoever has it is that node
    Invite {
        /// The other node's name, as in the mirrors' configuration
        node: NodeName,
        /// The file [default: NODE.netraid-join in the current folder]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        folder: Folder,
    },
    /// Installs the file that `invite` wrote for this node
    Join {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        folder: Folder,
    },
    /// Shows whose certificate this node has, until when, and its fingerprints
    Show {
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        folder: Folder,
    },
}

#[derive(Debug, clap::Args)]
struct Folder {
    /// Folder of the certificates and keys
    #[arg(long, value_name = "DIR", default_value = DEFAULT_TLS_DIR)]
    tls_dir: PathBuf,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    match &arguments.command {
        Command::Init { node, folder } => init(node.as_ref(), &folder.tls_dir),
        Command::Invite { node, out, folder } => invite(node, out.as_deref(), &folder.tls_dir),
        Command::Join { file, folder } => join(file, &folder.tls_dir),
        Command::Show { json, folder } => show(*json, &folder.tls_dir),
    }
}

fn init(node: Option<&NodeName>, tls_dir: &Path) -> Result<(), Exit> {
    let node = match node {
        Some(node) => node.clone(),
        None => host_name()?,
    };
    issue::init(tls_dir, &node)?;
    eprintln!(
        "{node} has a certificate of a new CA in {}",
        tls_dir.display()
    );
    eprintln!("for each other node: netraid cert invite NODE");
    Ok(())
}

fn host_name() -> Result<NodeName, Exit> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(|error| Exit::usage(format!("no host name ({error})")).hint("give --node NAME"))?;
    NodeName::new(name.trim())
        .map_err(|error| Exit::usage(format!("the host name: {error}")).hint("give --node NAME"))
}

fn invite(node: &NodeName, out: Option<&Path>, tls_dir: &Path) -> Result<(), Exit> {
    let usual = PathBuf::from(format!("{node}.netraid-join"));
    let out = out.unwrap_or(&usual);
    issue::invite(tls_dir, node, out)?;
    eprintln!(
        "{} makes a machine {node}: bring it there over a way that you trust, and",
        out.display()
    );
    eprintln!("  netraid cert join {}", out.display());
    eprintln!("then delete it on both");
    Ok(())
}

fn join(file: &Path, tls_dir: &Path) -> Result<(), Exit> {
    let (node, new) = issue::join(tls_dir, file)?;
    match new {
        true => eprintln!("this machine is {node} now; delete {}", file.display()),
        false => eprintln!("this machine is {node} already; nothing was changed"),
    }
    Ok(())
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    nodes: Vec<String>,
    tls_dir: String,
    node: Shown,
    ca: Shown,
    can_invite: bool,
}

#[derive(Serialize)]
struct Shown {
    file: String,
    sha256: String,
    not_before: String,
    not_after: String,
    days_left: i64,
    warning: Option<&'static str>,
}

fn show(json: bool, tls_dir: &Path) -> Result<(), Exit> {
    let (node, certificate) = shown(&tls_dir.join(NODE_FILE))?;
    let (ca, _) = shown(&tls_dir.join(CA_FILE))?;
    // Only whether it is there and private; what is in it is nobody's business.
    identity::read_key(&tls_dir.join(NODE_KEY_FILE)).map_err(IssueError::from)?;
    let document = Document {
        schema: SCHEMA,
        nodes: identity::nodes(&certificate)
            .iter()
            .map(ToString::to_string)
            .collect(),
        tls_dir: tls_dir.display().to_string(),
        can_invite: tls_dir.join(CA_KEY_FILE).exists(),
        node,
        ca,
    };
    let mut out = io::stdout().lock();
    if json {
        let text = serde_json::to_string(&document).map_err(Exit::failed)?;
        writeln!(out, "{text}")?;
    } else {
        let names = match document.nodes.is_empty() {
            true => "(no node)".to_owned(),
            false => show::plain(&document.nodes.join(", ")),
        };
        writeln!(out, "node         {names}")?;
        writeln!(
            out,
            "valid        {} to {}",
            document.node.not_before, document.node.not_after
        )?;
        writeln!(out, "SHA-256      {}", document.node.sha256)?;
        writeln!(
            out,
            "CA valid     {} to {}",
            document.ca.not_before, document.ca.not_after
        )?;
        writeln!(out, "CA SHA-256   {}", document.ca.sha256)?;
        let here = if document.can_invite {
            "here: this node can invite others"
        } else {
            "not here"
        };
        writeln!(out, "CA key       {here}")?;
    }
    for shown in [&document.node, &document.ca] {
        if let Some(warning) = shown.warning {
            eprintln!("warning: {} {warning}", shown.file);
        }
    }
    Ok(())
}

fn shown(path: &Path) -> Result<(Shown, CertificateDer<'static>), Exit> {
    let unusable = |reason: &str| {
        IssueError::from(IdentityError::Unusable {
            what: path.display().to_string(),
            reason: reason.to_owned(),
        })
    };
    let text = identity::read(path).map_err(IssueError::from)?;
    let certificate =
        CertificateDer::from_pem_slice(&text).map_err(|_| unusable("it is no certificate"))?;
    let validity =
        Validity::of(&certificate).ok_or_else(|| unusable("no period of validity in it"))?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let shown = Shown {
        file: path.display().to_string(),
        sha256: tls::fingerprint(&certificate),
        not_before: identity::date(validity.not_before),
        not_after: identity::date(validity.not_after),
        days_left: (validity.not_after.cast_signed() - now.cast_signed()).div_euclid(86400),
        warning: if now < validity.not_before {
            Some("is not valid yet: is this machine's clock right?")
        } else if now > validity.not_after {
            Some("is no longer valid: is this machine's clock right? else make a new one")
        } else if now + WARN.as_secs() > validity.not_after {
            Some("will soon not be valid any more: make a new one")
        } else {
            None
        },
    };
    Ok((shown, certificate))
}

impl From<IssueError> for Exit {
    fn from(error: IssueError) -> Exit {
        let code = match &error {
            IssueError::Exists(_)
            | IssueError::NoCa(_)
            | IssueError::OwnName(_)
            | IssueError::Identity(IdentityError::KeyNotPrivate { .. }) => exit::REFUSED,
            IssueError::Bundle { .. } => exit::USAGE,
            _ => exit::FAILED,
        };
        Exit::new(code, error)
    }
}
