//! `netraid verify` over the kernel's RAID1: what rots on a target is found while an application writes, nothing else is, and
//! nobody has to wait for ever.

use anyhow::{Context, Result, ensure};
use netraid_lab::mirror::{DEVICE, SOON};
use netraid_lab::{Cluster, Lab, Load, Mirror, Node, scenario, wait_until};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// The application writes to so much of the mirror.
const BUSY: u64 = 16;
/// So much differs behind that.
const ROTTEN: u64 = 8 * MIB;
/// Ends when something is held, or the verify is over without anybody having seen that.
const UNTIL_HELD: &str = "cd /sys/block/md*/md; n=0; held=0; \
    while [ $held = 0 ] && [ $n -lt 2000 ]; do n=$((n + 1)); read held <suspend_hi; done";

#[test]
fn bytes_that_rot_on_a_target_are_found_alone_under_load_and_made_equal_without_its_leaving() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        let source = lab.node(1);
        // A write that is sent again is late on the target, while others, and reads, are not.
        lab.loss(1, 2, 4.0)?;
        let load = Load::start(source, DEVICE, "1 6")?;
        for _ in 0..8 {
            let verify = compare(source, "--stop 2M", 0)?;
            ensure!(verify["differing"] == 0, "nothing differs: {verify}");
            ensure!(verify["checked"] == verify["stop"], "{verify}");
        }
        lab.loss(1, 2, 0.0)?;
        let resynced = cluster.last_resync(1, 2)?;

        let places = [30 * MIB + 5 * 4096, 41 * MIB];
        for place in places {
            rot(lab, place)?;
        }
        let verify = compare(source, "", 1)?;
        let wanted = places.map(|at| json!({"node": "node2", "offset": at, "length": 4096}));
        ensure!(verify["differences"] == json!(wanted), "{verify}");
        ensure!(verify["differing"] == 2 * 4096, "{verify}");
        let problems = cluster.status(1)?["problems"].to_string();
        ensure!(problems.contains("--repair copies them"), "{problems}");
        // Who only looks changes nothing.
        let verify = compare(source, "--start 41M --stop 42M", 1)?;
        ensure!(verify["differences"] == json!([wanted[1]]), "{verify}");

        let verify = compare(source, "--repair", 0)?;
        ensure!(verify["differing"] == 2 * 4096, "{verify}");
        ensure!(cluster.words(1)? == ["Source", "Target"]);
        ensure!(cluster.last_resync(1, 2)? == resynced, "it was taken back");
        let problems = cluster.status(1)?["problems"].to_string();
        ensure!(!problems.contains("--repair"), "{problems}");
        ensure!(compare(source, "", 0)?["differing"] == 0);
        held_by_nobody(source)?;
        load.finish()?;
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

#[test]
fn a_verify_that_dies_with_its_daemon_keeps_no_write_waiting() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        let source = lab.node(1);
        // Much differs, so something is held much of the time.
        let (data, _) = Mirror::of(lab).place_of_data(2)?;
        let device = lab.node(2).disk(1).device();
        let (skip, count) = ((data + BUSY * MIB) / 4096, ROTTEN / 4096);
        lab.node(2).must(&format!(
            "dd if=/dev/urandom of={device} bs=4096 seek={skip} count={count} conv=notrunc oflag=direct status=none"
        ))?;
        let load = Load::start(source, DEVICE, &format!("{BUSY} 2"))?;
        for _ in 0..2 {
            cluster.order(1, "verify data --start 16M --no-wait")?;
            source.must(UNTIL_HELD)?;
            cluster.kill_daemon(1)?;
            wait_until(SOON, "nothing is held", || {
                Ok((held(source)? == "0").then_some(()))
            })?;
            load.go_on(20)?;
            // As if who waits for the daemon's end had been killed as well.
            source.must("cd /sys/block/md*/md && echo 64 >suspend_lo && echo 65 >suspend_hi")?;
            cluster.start_daemon(1)?;
            wait_until(SOON, "the daemon lets go", || {
                Ok((held(source)? == "0").then_some(()))
            })?;
            load.go_on(20)?;
            cluster.wait_words(1, &["Source", "Target"])?;
        }
        cluster.order(1, "verify data --start 16M --no-wait")?;
        cluster.order(1, "verify data --cancel")?;
        held_by_nobody(source)?;
        let found = compare(source, "--repair", 0)?;
        ensure!(found["differing"] == ROTTEN, "{found}");
        load.finish()?;
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

/// Runs a verify, which has to end with this status; the result.
fn compare(source: &Node, words: &str, status: i32) -> Result<Value> {
    let output = source.run(&format!("netraid verify data --json {words}"))?;
    ensure!(
        output.status == status,
        "it ended with {}: {}{}",
        output.status,
        output.stdout,
        output.stderr
    );
    serde_json::from_str(&output.stdout).context(output.stdout)
}

/// Writes something else to a page of the target's leg, beneath its server.
fn rot(lab: &Lab, at: u64) -> Result<()> {
    let (data, _) = Mirror::of(lab).place_of_data(2)?;
    let device = lab.node(2).disk(1).device();
    let page = (data + at) / 4096;
    lab.node(2).must(&format!(
        "dd if=/dev/urandom of={device} bs=4096 seek={page} count=1 conv=notrunc oflag=direct status=none"
    ))?;
    Ok(())
}

/// The upper end of what is held.
fn held(source: &Node) -> Result<String> {
    let text = source.must("cat /sys/block/md*/md/suspend_hi")?;
    Ok(text.trim().to_owned())
}

fn held_by_nobody(source: &Node) -> Result<()> {
    let both = source.must("cat /sys/block/md*/md/suspend_hi /sys/block/md*/md/suspend_lo")?;
    ensure!(both.split_whitespace().all(|word| word == "0"), "{both}");
    Ok(())
}
