//! Steps 1 to 5: data, a mirror with one leg, the second leg, a failure of it, and its return.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nbd_client::Client;

use super::{Plot, moved, writes_for};
use crate::cli::show::size;
use crate::md::Layout;
use crate::quickstart::files::{self, Gathered, Gatherer};
use crate::quickstart::ledger::{Ledger, SLOT};
use crate::quickstart::node::{self, NAMES};
use crate::quickstart::scene::{Scene, TAG};
use crate::quickstart::writer::{Plan, Writer};
use crate::quickstart::{Settings, disk};
use crate::status::word;

/// The file system on the mirror.
pub(super) struct Data {
    /// Its image.
    pub(super) image: PathBuf,
    /// Its bytes: the beginning of the mirror.
    pub(super) size: u64,
    /// The same files, outside of it.
    pub(super) originals: PathBuf,
}

/// Makes the file system; returns it and the size that the disks need.
pub(super) fn prepare(scene: &mut Scene, settings: &Settings) -> Result<(Data, u64)> {
    match &settings.image {
        Some(image) => use_image(scene, settings, image),
        None => make_image(scene, settings),
    }
}

fn make_image(scene: &mut Scene, settings: &Settings) -> Result<(Data, u64)> {
    scene
        .teller
        .begin("prepare", "Make an ext4 file system with real files");
    // What is left behind it is for the application that writes.
    let fs = settings.size / 32 * 27 / MIB * MIB;
    let (originals, image) = (
        scene.folder.file("files"),
        scene.folder.file("filesystem.img"),
    );
    let gathered = gather(scene, settings, &originals, fs)?;
    let (free, need) = (scene.folder.free()?, gathered.bytes.saturating_mul(5));
    if free < need {
        bail!(
            "{} are free in {}, {} are needed",
            size(free),
            scene.folder.path().display(),
            size(need)
        );
    }
    let log = scene.folder.file("tools.log");
    files::make_file_system(&scene.tools, &originals, &image, fs, &log, &scene.interrupt)?;
    tell_size(scene, gathered.files, gathered.bytes, fs);
    scene.teller.end();
    Ok((
        Data {
            image,
            size: fs,
            originals,
        },
        settings.size / MIB * MIB,
    ))
}

fn gather(scene: &Scene, settings: &Settings, to: &Path, fs: u64) -> Result<Gathered> {
    let folders = match settings.data.is_empty() {
        true => files::usual_folders(),
        false => settings.data.clone(),
    };
    let (room, entries) = files::room(fs);
    let gathered = Gathered::default();
    let mut gatherer = Gatherer {
        room,
        entries,
        interrupt: &scene.interrupt,
        gathered,
    };
    let mut sources = Vec::new();
    std::fs::create_dir(to).with_context(|| to.display().to_string())?;
    for (number, folder) in folders.iter().enumerate() {
        let folder = folder
            .canonicalize()
            .with_context(|| folder.display().to_string())?;
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Numbered, for two folders may have one name.
        gatherer.add(
            &folder,
            &to.join(format!("{}-{name}", number + 1)),
            scene.folder.path(),
        )?;
        sources.push(folder.display().to_string());
    }
    let gathered = gatherer.gathered;
    if gathered.files == 0 {
        bail!(
            "no file was found in {}; name a folder with --data",
            sources.join(" and ")
        );
    }
    let cut = if gathered.cut {
        ", as far as they fit"
    } else {
        ""
    };
    scene
        .teller
        .say(&format!("files from {}{cut}", sources.join(" and ")));
    Ok(gathered)
}

fn use_image(scene: &mut Scene, settings: &Settings, image: &Path) -> Result<(Data, u64)> {
    scene.teller.begin(
        "prepare",
        &format!("Look at the file system in {}", image.display()),
    );
    let image = image
        .canonicalize()
        .with_context(|| image.display().to_string())?;
    let fs = File::open(&image)?.metadata()?.len();
    if fs == 0 || fs % 4096 != 0 {
        bail!(
            "{} is no image of a file system: {fs} bytes",
            image.display()
        );
    }
    let log = scene.folder.file("tools.log");
    files::check_file_system(&scene.tools, &image, &log, &scene.interrupt)?;
    let originals = scene.folder.file("files");
    files::extract(&scene.tools, &image, &originals, &log, &scene.interrupt)?;
    let found = files::compare(&originals, &originals, &scene.interrupt)?;
    let need = (fs / 27 * 32).next_multiple_of(MIB) + 16 * MIB;
    tell_size(scene, found.files, found.bytes, fs);
    scene.teller.end();
    Ok((
        Data {
            image,
            size: fs,
            originals,
        },
        settings.size.max(need) / MIB * MIB,
    ))
}

fn tell_size(scene: &mut Scene, files: u64, bytes: u64, fs: u64) {
    scene.teller.say(&format!(
        "{files} files, {}, in a file system of {}",
        size(bytes),
        size(fs)
    ));
    scene.teller.number("files", files);
    scene.teller.number("file_bytes", bytes);
    scene.teller.number("filesystem_bytes", fs);
}

/// Makes a mirror of one leg and copies the file system to it.
pub(super) fn create(scene: &mut Scene, data: Data, disk_size: u64) -> Result<Plot> {
    scene.teller.begin(
        "create",
        "Create the mirror on server1, alone for now, and copy the file system to it",
    );
    for node in &scene.nodes {
        let made = File::create(&node.disk).and_then(|file| file.set_len(disk_size));
        made.with_context(|| node.disk.display().to_string())?;
    }
    let chunk = Layout::default_chunk(disk_size);
    node::configure(&scene.nodes, chunk, &scene.folder.file("server2.bundle"))?;
    scene.boot(0)?;
    scene.boot(1)?;
    scene.command(0, &["create", TAG])?;
    let client = scene.connect(0)?;
    let mirror = client.export().size;
    if mirror <= data.size {
        bail!("the mirror has {mirror} bytes, no more than the file system");
    }
    let advance = scene.advance("copying", data.size);
    let written = scene.wait(disk::copy_in(&data.image, &client, advance))?;
    let advance = scene.advance("reading back", data.size);
    scene.wait(disk::compare(&data.image, &client, advance))?;
    client.close();
    let status = scene.status(0)?;
    let leg = status
        .legs
        .iter()
        .find(|leg| leg.node == "server1")
        .context("it has no leg of server1")?;
    if leg.status != word::SOURCE {
        bail!("server1 is {} instead of {}", leg.status, word::SOURCE);
    }
    scene.teller.say(&format!(
        "{} copied, read back and compared; server1 is {}",
        size(written),
        leg.status
    ));
    scene.teller.number("device_bytes", mirror);
    scene.teller.number("copied_bytes", written);
    scene.teller.end();
    let ledger = Ledger::new(data.size.next_multiple_of(MIB)..mirror, SEED)?;
    ledger.record_to(&scene.folder.file("writes.log"))?;
    Ok(Plot {
        mirror,
        data,
        ledger,
    })
}

/// Gives the mirror its second leg.
pub(super) fn extend(scene: &mut Scene, plot: &Plot) -> Result<()> {
    scene
        .teller
        .begin("extend", "Extend the mirror to server2: full resync");
    scene.command(0, &["extend", TAG, NAMES[1]])?;
    let end = scene.wait_in_sync(0, 0)?;
    scene.teller.say(&format!(
        "{} sent of {}, in {:.1} s: what is zero was not sent",
        size(end.sent),
        size(plot.mirror),
        end.elapsed_ms as f64 / 1000.0
    ));
    scene.teller.number("copied_bytes", end.copied);
    scene.teller.number("sent_bytes", end.sent);
    scene.teller.number("device_bytes", plot.mirror);
    if end.copied != plot.mirror {
        bail!(
            "a full resync covered {} of {} bytes",
            end.copied,
            plot.mirror
        );
    }
    if end.sent > plot.ledger.area().start {
        bail!(
            "holes were sent: {} bytes, more than the file system has",
            end.sent
        );
    }
    scene.check_legs_equal()?;
    scene.wait_clean(0)?;
    scene.teller.end();
    Ok(())
}

/// Server2 fails while the application writes, and it goes on.
pub(super) fn cut(scene: &mut Scene, plot: &Plot) -> Result<u64> {
    scene
        .teller
        .begin("cut", "Cut server2 off while an application writes");
    let client = scene.connect(0)?;
    let writes = writes_for(plot.mirror, 100);
    let early = (writes / 10).max(2);
    let plan = Plan {
        writes: writes + early,
        pause: PACE,
    };
    let ledger = plot.ledger.clone();
    let writer = {
        let _inside = scene.runtime.enter();
        Writer::start(&client, &ledger, plan)
    };
    scene.interrupt.poll("the writer", WRITER, || {
        if writer.is_ending() {
            bail!("the writer ended early");
        }
        Ok((ledger.counts().acknowledged >= early).then_some(()))
    })?;
    let before = ledger.counts().acknowledged;
    ledger.watch();
    scene.nodes[1].lose_power()?;
    let finished = async {
        tokio::time::timeout(WRITER, writer.finish())
            .await
            .context("the writer is stuck")?
    };
    scene.wait(finished)?;
    let longest = ledger.longest_pause();
    let written = (ledger.counts().acknowledged - before) * SLOT;
    check_area(scene, &client, &ledger)?;
    client.close();
    let status = scene.status(0)?;
    let leg = status
        .legs
        .iter()
        .find(|leg| leg.node == "server2")
        .context("it has no leg of server2")?;
    if leg.status == word::TARGET || leg.disk == "UpToDate" {
        bail!("server2 is still called {}, {}", leg.status, leg.disk);
    }
    if status.dirty_bytes == 0 {
        bail!("nothing is marked dirty, although server2 missed writes");
    }
    let reason = leg
        .reason
        .as_ref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    scene
        .teller
        .say(&format!("server2 is {}{reason}", leg.status));
    scene.teller.say(&format!(
        "the application went on: {} written at {} places, longest pause {} ms; {} are marked dirty",
        size(written),
        written / SLOT,
        longest.as_millis(),
        size(status.dirty_bytes),
    ));
    scene.teller.number("written_bytes", written);
    scene.teller.number("dirty_bytes", status.dirty_bytes);
    scene
        .teller
        .number("longest_pause_ms", longest.as_millis() as u64);
    scene.teller.end();
    Ok(written)
}

/// Server2 returns.
pub(super) fn bring_back(scene: &mut Scene, plot: &Plot, written: u64) -> Result<()> {
    scene
        .teller
        .begin("return", "Bring server2 back: partial resync");
    let after = scene.status(0)?.last_resync.map_or(0, |end| end.number);
    scene.boot(1)?;
    let end = scene.wait_in_sync(0, after)?;
    moved(scene, plot, &end, written)?;
    scene.check_legs_equal()?;
    scene.wait_clean(0)?;
    scene.teller.end();
    Ok(())
}

/// Reads all that the application has written and makes sure that every acknowledged write is there.
pub(super) fn check_area(scene: &Scene, client: &Client, ledger: &Ledger) -> Result<()> {
    let area = ledger.area();
    let bar = scene
        .teller
        .bar("checking what was written", area.end - area.start);
    scene.wait(async {
        let mut offset = area.start;
        while offset < area.end {
            let length = (area.end - offset).min(4 * MIB);
            let bytes = client
                .read(offset, length as usize)
                .await
                .with_context(|| format!("read at {offset}"))?;
            ledger.check(offset, &bytes)?;
            bar.advance(length);
            offset += length;
        }
        Ok(())
    })
}

const MIB: u64 = 1 << 20;
/// Where the writer writes follows from it; the same each time.
const SEED: u64 = 20_260_101;
/// Pause of each of the writer's lanes: it is an application, not a benchmark.
pub(super) const PACE: Duration = Duration::from_millis(5);
/// Longest that the writer may take.
pub(super) const WRITER: Duration = Duration::from_secs(60);
