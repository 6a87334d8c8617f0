//! `netraid truck unload`: puts a shipped leg in use on the node that it is for.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use flags::Tag;

use super::progress::Progress;
use crate::array::disk::{Access, Disk};
use crate::array::leg::LegError;
use crate::cli::daemon::tag;
use crate::cli::exit::Exit;
use crate::cli::meta::{alone, place};
use crate::cli::show::plain;
use crate::raid1::holds;
use crate::raid1::link::Link;
use crate::truck::copy::CopyError;
use crate::truck::manifest::Shipment;
use crate::truck::unload::{Holds, Present, is_same, plan};
use crate::truck::{check, seal};

/// Puts a shipped leg in use on the node that it is for: checks it, copies it to the disk of the mirror there, and reads it back.
///
/// Only while netraidd is stopped and nobody uses the disk. If the disk itself travelled and is the disk of TAG here, it is
/// checked, and nothing is copied. What the disk holds otherwise is overwritten with --force only.
///
/// The mirror does not go in service on this node from what was unloaded, but by force: the source went on without it. Start
/// netraidd, and go on with netraid truck connect on the source.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: netraid truck unload data /mnt/usb/data.image\n\
    Exit codes: 0 done, or already so; 1 it can't be read or written; 2 wrong command line or configuration; 3 it is not what \
    was loaded, or the disk may not be overwritten. After 1 and 3 the disk holds what it held, or nothing that is taken for a leg."
)]
pub(super) struct Unload {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// The image: a file or a block device
    image: PathBuf,

    /// The manifest [default: IMAGE.manifest]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// Checks all of the image, prints what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,

    /// Overwrite what the disk holds
    #[arg(long)]
    force: bool,

    /// Folder of netraid.toml and one TAG.toml a mirror [default: $NETRAID_CONFIG_DIR, else /etc/netraid]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
}

impl Unload {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let (config, place) = place(&self.tag, self.config_dir.as_ref())?;
        let shipment = super::manifest(&self.image, self.manifest.as_ref())?.shipment;
        let image = super::open(&self.image)?;
        // Held to the end: netraidd must not begin meanwhile.
        let _lock = alone(&config)?;
        let disk = Disk::open(&place.disk, Access::Exclusive)
            .map_err(|error| Exit::refused(plain(&error.to_string())))?;
        let disk = Arc::new(disk);
        let present = self.look(&disk, &shipment)?;
        let present = Present {
            record: match place.record().load() {
                Ok(record) => Ok(record.map(|chosen| chosen.record)),
                Err(error) => Err(error.to_string()),
            },
            ..present
        };
        let plan = plan(&place, self.tag.as_str(), &shipment, &present, self.force);
        let plan = plan.map_err(|refusal| {
            let exit = Exit::refused(plain(&refusal.why));
            match refusal.next {
                Some(next) => exit.hint(plain(&next)),
                None => exit,
            }
        })?;
        let mut out = io::stdout().lock();
        if plan.is_empty() {
            writeln!(out, "it is unloaded already; nothing had to be done")?;
            self.next(&shipment, &mut out)?;
            return Ok(out.flush()?);
        }
        let wrong = |error| super::not_good(&self.image, &error);
        check::head(&image, &shipment).map_err(wrong)?;
        for step in &plan.steps {
            writeln!(out, "{}", plain(step))?;
        }
        out.flush()?;
        if self.dry_run {
            let mut progress = Progress::new("checked", shipment.mirror_bytes);
            let found = check::data(&image, &shipment, &mut |bytes| progress.add(bytes));
            progress.end();
            return found.map_err(wrong);
        }
        let agreement = uuid::Uuid::new_v4().as_u128() as u32 >> 1;
        let mut progress = Progress::new("copied and checked", plan.bytes(&shipment));
        let done = plan.perform(
            &place,
            (&image, &disk),
            &shipment,
            agreement,
            &mut |bytes| progress.add(bytes),
        );
        progress.end();
        done.map_err(|error| match &error {
            CopyError::Image(wrong) => super::not_good(&self.image, wrong),
            CopyError::Write { .. } | CopyError::Disk(_) => Exit::failed(plain(&error.to_string()))
                .hint("the disk holds no leg now; mend it, and do the same again"),
        })?;
        writeln!(out, "{}: unloaded", self.tag)?;
        self.next(&shipment, &mut out)?;
        Ok(out.flush()?)
    }

    fn next(&self, shipment: &Shipment, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "next: systemctl start netraidd; then, on {}: netraid truck connect {} {}",
            plain(&shipment.source),
            self.tag,
            plain(&shipment.node)
        )
    }

    /// What the disk holds that is to become the leg.
    fn look(&self, disk: &Arc<Disk>, shipment: &Shipment) -> Result<Present, Exit> {
        let failed = |error: String| Exit::failed(plain(&error));
        let about = |path: &std::path::Path| std::fs::metadata(path).map_err(Exit::failed);
        let same = is_same(&about(&self.image)?, &about(disk.path())?);
        let leg = seal::read(disk);
        let sealed = seal::is_sealed(disk).map_err(|error| failed(error.to_string()))?;
        let holds = match &leg {
            Ok(leg) if same && sealed && shipment.is_of(leg).is_ok() => Holds::Image,
            Ok(leg) if same && !sealed && shipment.is_of(leg).is_ok() => Holds::Unloaded,
            // What is wrong with it is said like that of any image.
            _ if same => {
                check::head(disk, shipment)
                    .map_err(|error| super::not_good(&self.image, &error))?;
                Holds::Image
            }
            Err(LegError::Disk(error)) => return Err(failed(error.to_string())),
            Ok(_) | Err(_) => {
                let link = Link::Local(disk.clone());
                let found = holds::holds(&link, PATIENCE).map_err(|why| failed(why.to_string()))?;
                crate::truck::unload::holds(leg, sealed, shipment, found)
            }
        };
        Ok(Present {
            holds,
            bytes: disk.size(),
            record: Ok(None),
        })
    }
}

/// Longest wait for a look at what a disk holds.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
