//! `netraid dump-meta` and `netraid restore-meta`: what a node knows of a mirror as a text, and back.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use flags::{FlagFiles, Tag};

use super::daemon::tag;
use super::exit::Exit;
use super::orders::CODES;
use super::show::plain;
use crate::api::listen;
use crate::array::ArrayError;
use crate::array::disk::{Access, Disk};
use crate::config::{self, Config};
use crate::meta::document::{Document, DocumentError};
use crate::meta::dump::{Place, dump};
use crate::meta::restore::{Present, plan};
use crate::node::daemon;

/// Prints everything that this node knows of a mirror, as a text that can be read, kept, and written back.
///
/// JSON (netraid.meta/1) with a checksum: the state record with its generation ids and flags, the flag files, and of the
/// leg the md superblock, the record and the ranges that the write-intent bitmap has marked. It asks nobody but the files
/// and the disk, so it also works without netraidd; nothing is changed. Of a mirror in service it shows the moment in which
/// it was read. No data of the mirror is in it, and no secrets.
#[derive(Debug, clap::Args)]
#[command(
    name = "dump-meta",
    after_help = "Example: netraid dump-meta data >data.meta.json\n\
        Exit codes: 0 printed, although something may be missing: \"problems\" in the text says why; 1 the disk can't be \
        read; 2 wrong command line or configuration, or no such mirror."
)]
pub(super) struct Dump {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// Folder of netraid.toml and one TAG.toml a mirror [default: $NETRAID_CONFIG_DIR, else /etc/netraid]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
}

/// Writes a text of `netraid dump-meta` back: what of it is lost on this node, and what it has marked.
///
/// Only while netraidd is stopped and nobody uses the disk. The data on the disk is not of the text's moment, so the text
/// is believed less than what is there, and nothing that is marked as different is ever unmarked:
///
///  - A leg that can be read and has the text's generations gets the text's marks added to its own.
///  - A leg that can be read and has others is left alone; with --force it gets the text's generations.
///  - A leg that can't be read gets the text's superblock and generations, with --force: what it knew of newer data is lost.
///  - The state record and the flags come from the text if they are lost or damaged.
///
/// Wherever generations come from the text, everything is marked (a full resync, of which digests spare what is equal). Wherever
/// they or the state record do, TAG_data_corrupt is set: the mirror goes in service on this node only with netraid start
/// --force, until its leg has been brought in sync with another source.
///
/// A text of another mirror, node, array, disk size or mirror size is refused, as is one of a newer version of netraid, and
/// one that was changed.
#[derive(Debug, clap::Args)]
#[command(name = "restore-meta", after_help = CODES)]
pub(super) struct Restore {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// The text; - for standard input
    file: PathBuf,

    /// Prints what would be written, and writes nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask, and give the leg the text's generations where it has others, or none that can be read
    #[arg(long)]
    force: bool,

    /// Folder of netraid.toml and one TAG.toml a mirror [default: $NETRAID_CONFIG_DIR, else /etc/netraid]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
}

impl Dump {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let (_, place) = place(&self.tag, self.config_dir.as_ref())?;
        let meta = dump(&place).map_err(Exit::failed)?;
        for problem in &meta.problems {
            eprintln!("not in the text: {}", plain(problem));
        }
        let document = Document::new(meta).map_err(Exit::failed)?;
        let text = serde_json::to_string_pretty(&document).map_err(Exit::failed)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }
}

impl Restore {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let (config, place) = place(&self.tag, self.config_dir.as_ref())?;
        let document = self.read()?;
        // Held to the end: netraidd must not begin meanwhile.
        let _lock = alone(&config)?;
        let disk = Disk::open(&place.disk, Access::Exclusive)
            .map_err(|error| Exit::refused(error).hint(format!("netraid stop {}", self.tag)))?;
        let disk = Arc::new(disk);
        let present = Present::read(&place, &disk).map_err(failed)?;
        let agreement = uuid::Uuid::new_v4().as_u128() as u32 >> 1;
        let plan = plan(&place, &document.meta, &present, self.force, agreement);
        let plan = plan.map_err(|refusal| {
            let exit = Exit::refused(plain(&refusal.why));
            match refusal.next {
                Some(next) => exit.hint(next),
                None => exit,
            }
        })?;
        let mut out = io::stdout().lock();
        for step in &plan.steps {
            writeln!(out, "{}", plain(step))?;
        }
        out.flush()?;
        if self.dry_run {
            return Ok(());
        }
        if plan.is_empty() {
            writeln!(out, "nothing had to be written")?;
            return Ok(out.flush()?);
        }
        if !self.force && !agreed()? {
            return Err(Exit::refused("nothing was written")
                .hint("--force writes without asking; --dry-run shows what"));
        }
        plan.perform(&place, &disk).map_err(failed)?;
        writeln!(out, "{}: written", self.tag)?;
        Ok(out.flush()?)
    }

    fn read(&self) -> Result<Document, Exit> {
        let name = plain(&self.file.to_string_lossy());
        let failed = |error: io::Error| Exit::usage(format!("{name}: {error}"));
        let mut text = Vec::new();
        match self.file.as_os_str() == "-" {
            true => io::stdin().take(LONGEST + 1).read_to_end(&mut text),
            false => File::open(&self.file)
                .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut text)),
        }
        .map_err(failed)?;
        if text.len() as u64 > LONGEST {
            return Err(Exit::usage(format!(
                "{name} is longer than any text of netraid dump-meta"
            )));
        }
        Document::parse(&text).map_err(|error| {
            let why = plain(&format!("{name}: {error}"));
            match error {
                DocumentError::Newer(_) | DocumentError::Checksum { .. } => Exit::refused(why),
                _ => Exit::usage(why),
            }
        })
    }
}

/// The configuration, and where this node keeps what it knows of a mirror.
pub(super) fn place(tag: &Tag, folder: Option<&PathBuf>) -> Result<(Config, Place), Exit> {
    let folder = config::config_dir(folder.map(PathBuf::as_path));
    let config = Config::load(&folder, &config::defaults_file()).map_err(|problems| {
        let first = problems.iter().next().map(ToString::to_string);
        Exit::usage(plain(&first.unwrap_or_default())).hint("netraid config check")
    })?;
    let own = config.daemon.node.as_str();
    let mirror = config.mirrors.get(tag);
    let mirror = mirror.ok_or_else(|| {
        let folder = plain(&folder.to_string_lossy());
        Exit::usage(format!("{tag} is no mirror in {folder}")).hint("netraid config check")
    })?;
    let slot = mirror.slot_of(own).map(|node| node.slot());
    let slot = slot.ok_or_else(|| Exit::usage(format!("{own} is no node of {tag}")))?;
    let disk = mirror.nodes[slot].disk.clone();
    let disk = disk.ok_or_else(|| {
        Exit::usage(format!(
            "{own} is a tie-breaker of {tag}: it has no disk and no data, only votes"
        ))
    })?;
    let place = Place {
        flags: FlagFiles::in_folder(&config.daemon.state_dir, tag.clone()),
        disk,
        names: mirror.nodes.iter().map(|node| node.name.clone()).collect(),
        slot,
    };
    Ok((config, place))
}

/// The right to be the only one who writes what netraidd writes.
pub(super) fn alone(config: &Config) -> Result<impl Drop, Exit> {
    let folder = &config.daemon.run_dir;
    std::fs::create_dir_all(folder).map_err(Exit::failed)?;
    listen::lock(&daemon::socket(folder)).map_err(|error| match error {
        listen::ListenError::InUse(_) => {
            Exit::refused("netraidd runs on this node, and has in its memory what is to be written")
                .hint("systemctl stop netraidd; other mirrors go on meanwhile")
        }
        error => Exit::failed(error),
    })
}

/// Asks at the terminal; where there is none, nobody has agreed.
fn agreed() -> Result<bool, Exit> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Write that? yes or no: ");
    io::stderr().flush()?;
    let mut line = String::new();
    io::stdin().lock().take(100).read_line(&mut line)?;
    Ok(line.trim() == "yes")
}

fn failed(error: ArrayError) -> Exit {
    Exit::failed(plain(&error.to_string()))
}

/// Bytes of a text, at most: more than the most ranges take.
const LONGEST: u64 = 64 << 20;
