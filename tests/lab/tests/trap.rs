//! Both sides wrote while they were apart. Plain mdadm takes the loser back, leaves what it wrote, and calls the legs in
//! sync; NetRAID refuses, and when told whose data is lost, makes the legs equal.

use anyhow::{Result, bail, ensure};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Lab, scenario};

#[test]
fn after_both_sides_wrote_a_leg_is_refused_and_then_made_equal_and_the_losers_writes_are_gone() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        let (loser, before) = part(&mirror)?;
        mirror.move_to(2, &[1])?;
        write(&mirror, 40)?;
        let winner = sum(&mirror, 0, 60)?;
        meet(&mirror)?;

        let written = mirror.written_to(1, || {
            let refused = lab
                .node(2)
                .run("netraid array add --tag data --node node1 --leg /dev/nbd1")?;
            ensure!(
                refused.status == 3 && refused.stderr.contains("split brain with node1"),
                "adding the loser: {refused:?}"
            );
            Ok(())
        })?;
        ensure!(
            written == 0,
            "{written} bytes were written to a leg that was refused"
        );

        let size = mirror.status()?["size"].as_u64().unwrap_or(0);
        let written = mirror.written_to(1, || {
            let added = mirror.add_with(1, "--discard")?;
            ensure!(added["full"] == false, "resynced in full: {added}");
            mirror.wait_whole()
        })?;
        ensure!(written < size / 2, "{written} bytes were copied");
        mirror.stop_and_compare()?;

        // The loser's own leg, started alone, holds the winner's data and none of its own.
        mirror.move_to(1, &[2])?;
        ensure!(
            sum(&mirror, 0, 60)? == winner,
            "the winner's data is not what it was"
        );
        ensure!(
            sum(&mirror, 10, 10)? == before,
            "what the loser overwrote is not back"
        );
        ensure!(
            sum(&mirror, 10, 10)? != loser,
            "the loser's writes are there"
        );
        mirror.export(2)?;
        mirror.attach(2)?;
        mirror.add(2)?;
        mirror.wait_whole()?;
        mirror.stop_and_compare()
    });
}

#[test]
fn with_mdadm_alone_the_legs_differ_after_both_sides_wrote_and_are_called_in_sync() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        part(&mirror)?;
        let node = lab.node(2);
        node.must("pkill -x nbd-server && while pgrep -x nbd-server; do sleep 0.05; done")?;
        node.must(&format!(
            "mdadm --assemble --run --config=none {DEVICE} /dev/ubdb"
        ))?;
        (mirror.source, mirror.targets) = (2, vec![1]);
        write(&mirror, 40)?;
        meet(&mirror)?;
        node.must(&format!("mdadm --manage {DEVICE} --re-add /dev/nbd1"))?;
        // Its status is 1 when there was nothing to wait for.
        node.run(&format!("mdadm --wait {DEVICE}"))?;
        let says = node.must("cat /proc/mdstat")?;
        ensure!(
            says.contains("[2/2] [UU]"),
            "mdadm did not take the leg back:\n{says}"
        );
        node.must(&format!(
            "mdadm --stop {DEVICE} && nbd-client detach /dev/nbd1"
        ))?;
        match mirror.check_equal() {
            Err(difference) => {
                let difference = format!("{difference:#}");
                lab.note(&difference);
                // The first of the loser's bytes that nobody copied over.
                ensure!(difference.contains("first at byte 104857"), "{difference}");
                Ok(())
            }
            Ok(()) => bail!(
                "the kernel no longer falls into the trap: what NetRAID does about it may have become needless"
            ),
        }
    });
}

/// Makes a mirror, cuts it, and lets the first node write 10 MiB at 10 MiB alone and die. The sums of these 10 MiB
/// after and before.
fn part(mirror: &Mirror) -> Result<(String, String)> {
    mirror.make()?;
    let source = mirror.source_node();
    source.must(&format!(
        "dd if=/dev/urandom of={DEVICE} bs=1M count=60 oflag=direct conv=fsync status=none"
    ))?;
    mirror.wait_clean()?;
    let before = sum(mirror, 10, 10)?;
    mirror.lab.cut(1, 2)?;
    write(mirror, 10)?;
    mirror.wait_lost(2, SOON)?;
    let after = sum(mirror, 10, 10)?;
    source.crash()?;
    Ok((after, before))
}

/// The dead node is there again, as a target.
fn meet(mirror: &Mirror) -> Result<()> {
    mirror.lab.join(1, 2)?;
    mirror.lab.node(1).start()?;
    mirror.export(1)?;
    mirror.attach(1)
}

fn write(mirror: &Mirror, at_mib: u32) -> Result<()> {
    mirror
        .source_node()
        .must(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=1M seek={at_mib} count=10 oflag=direct conv=fsync status=none"
        ))
        .map(drop)
}

/// A sum over some MiB of the mirror.
fn sum(mirror: &Mirror, from: u32, count: u32) -> Result<String> {
    mirror.source_node().must(&format!(
        "dd if={DEVICE} bs=1M skip={from} count={count} iflag=direct status=none | sha256sum"
    ))
}
