//! Steps 6 to 8: the source crashes, the other node takes over, and the first one comes back as target.

use anyhow::{Context, Result, bail};

use super::before::{PACE, WRITER, check_area};
use super::{Plot, moved, writes_for};
use crate::cli::show::size;
use crate::quickstart::ledger::SLOT;
use crate::quickstart::scene::{Scene, TAG};
use crate::quickstart::writer::{Plan, Writer};
use crate::quickstart::{disk, files};
use crate::status::word;

/// Server1 stops without warning while the application writes.
pub(super) fn crash(scene: &mut Scene, plot: &Plot) -> Result<()> {
    scene.teller.begin(
        "crash",
        "Stop server1 without warning while an application writes",
    );
    let client = scene.connect(0)?;
    let ledger = plot.ledger.clone();
    let before = ledger.counts();
    let writes = writes_for(plot.mirror, 100);
    let writer = {
        let _inside = scene.runtime.enter();
        Writer::start(
            &client,
            &ledger,
            Plan {
                writes: writes * 2,
                pause: PACE,
            },
        )
    };
    scene.interrupt.poll("the writer", WRITER, || {
        if writer.is_ending() {
            bail!("the writer ended early");
        }
        Ok((ledger.counts().acknowledged >= before.acknowledged + writes / 2).then_some(()))
    })?;
    scene.nodes[0].lose_power()?;
    let ended = scene.wait(async { Ok(tokio::time::timeout(WRITER, writer.finish()).await) })?;
    if ended.context("the writer is stuck")?.is_ok() {
        bail!("the writer noticed nothing: it had ended before");
    }
    let now = ledger.counts();
    let (acknowledged, begun) = (
        now.acknowledged - before.acknowledged,
        now.begun - before.begun,
    );
    let unknown = begun - acknowledged;
    scene.teller.say(&format!(
        "{acknowledged} writes were acknowledged, the outcome of {unknown} is not known"
    ));
    // Before anything is started again: what differs now must be marked, or it would be forgotten.
    let legs = scene.legs()?;
    let found = scene.differences(&legs)?;
    let unmarked = legs[0].unmarked(&legs[1], &found);
    if let Some(chunk) = unmarked.first() {
        bail!(
            "the disks differ in {} chunks without a bit, the first is chunk {chunk}",
            unmarked.len()
        );
    }
    scene.teller.say(&match found.chunks.len() {
        0 => "the disks happen not to differ".to_owned(),
        differ => format!("the disks differ in {differ} chunks, each of them marked in the bitmap"),
    });
    scene.teller.number("acknowledged_writes", acknowledged);
    scene.teller.number("unknown_writes", unknown);
    scene.teller.number("different_chunks", found.chunks.len());
    scene.teller.number("unmarked_chunks", unmarked.len());
    scene.teller.end();
    Ok(())
}

/// Server2 takes over: everything has to be there.
pub(super) fn fail_over(scene: &mut Scene, plot: &Plot) -> Result<u64> {
    scene.teller.begin(
        "failover",
        "Bring the mirror up on server2, and check all data",
    );
    scene.command(1, &["start", TAG])?;
    let client = scene.connect(1)?;
    check_area(scene, &client, &plot.ledger)?;
    let counts = plot.ledger.counts();
    scene.teller.say(&format!(
        "all {} acknowledged writes are there",
        counts.acknowledged
    ));
    let (image, copy) = (
        scene.folder.file("after-failover.img"),
        scene.folder.file("after-failover"),
    );
    let advance = scene.advance("reading the file system", plot.data.size);
    scene.wait(disk::copy_out(&client, plot.data.size, &image, advance))?;
    let log = scene.folder.file("tools.log");
    let verdict = files::check_file_system(&scene.tools, &image, &log, &scene.interrupt)?;
    // "LABEL: 11/57344 files (0.0% non-contiguous), ..." - the label or path in front says nothing here.
    let verdict = verdict
        .split_once(": ")
        .map_or(verdict.as_str(), |(_, rest)| rest);
    scene
        .teller
        .say(&format!("e2fsck -fn finds nothing wrong: {verdict}"));
    files::extract(&scene.tools, &image, &copy, &log, &scene.interrupt)?;
    let compared = files::compare(&plot.data.originals, &copy, &scene.interrupt)?;
    scene.teller.say(&format!(
        "all {} files ({}) and {} links are as they were",
        compared.files,
        size(compared.bytes),
        compared.links
    ));
    scene
        .teller
        .number("acknowledged_writes", counts.acknowledged);
    scene.teller.number("files", compared.files);
    scene.teller.number("file_bytes", compared.bytes);
    let written = go_on(scene, plot, &client)?;
    client.close();
    scene.teller.end();
    Ok(written)
}

/// The application goes on, on server2. Returns the bytes that it wrote.
fn go_on(scene: &mut Scene, plot: &Plot, client: &nbd_client::Client) -> Result<u64> {
    let before = plot.ledger.counts().acknowledged;
    let writer = {
        let _inside = scene.runtime.enter();
        Writer::start(
            client,
            &plot.ledger,
            Plan {
                writes: writes_for(plot.mirror, 400),
                pause: PACE,
            },
        )
    };
    scene.wait(async {
        tokio::time::timeout(WRITER, writer.finish())
            .await
            .context("the writer is stuck")?
    })?;
    scene.wait(async { client.flush().await.context("flush") })?;
    let status = scene.status(1)?;
    let leg = status
        .legs
        .iter()
        .find(|leg| leg.node == "server2")
        .context("it has no leg of server2")?;
    if leg.status != word::SOURCE {
        bail!("server2 is {} instead of {}", leg.status, word::SOURCE);
    }
    let written = (plot.ledger.counts().acknowledged - before) * SLOT;
    scene.teller.say(&format!(
        "server2 is {}; the application wrote {} there",
        leg.status,
        size(written)
    ));
    scene.teller.number("written_bytes", written);
    Ok(written)
}

/// Server1 returns as target.
pub(super) fn rejoin(scene: &mut Scene, plot: &Plot, written: u64) -> Result<()> {
    scene.teller.begin(
        "rejoin",
        "Bring server1 back as target: partial resync in the other direction",
    );
    let after = scene.status(1)?.last_resync.map_or(0, |end| end.number);
    scene.boot(0)?;
    let end = scene.wait_in_sync(1, after)?;
    moved(scene, plot, &end, written)?;
    scene.check_legs_equal()?;
    let client = scene.connect(1)?;
    check_area(scene, &client, &plot.ledger)?;
    client.close();
    scene.teller.end();
    Ok(())
}
