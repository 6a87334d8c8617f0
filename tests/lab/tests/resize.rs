//! A mirror on the kernel's RAID1 grows with its disks, as LVM grows them: real kernels, legs that are compared over all of it.

use std::path::Path;

use anyhow::{Result, ensure};
use netraid_lab::acknowledged::{Writer, check};
use netraid_lab::mirror::{DEVICE, SOON};
use netraid_lab::{Cluster, Lab, Node, scenario};

/// A logical volume on the first MiB of the node's disk.
const LEG: &str = "/dev/mapper/leg";
const BEFORE: u64 = 32;
const AFTER: u64 = 48;
/// What a leg's metadata takes, in MiB.
const METADATA: u64 = 1;

fn table(node: &Node, mib: u64) -> String {
    format!("0 {} linear {} 0", mib << 11, node.disk(1).device())
}

fn volume(node: &Node, mib: u64) -> Result<()> {
    let table = table(node, mib);
    node.must(&format!(
        "modprobe dm-mod && dmsetup create --noudevsync leg --table '{table}' && dmsetup mknodes"
    ))?;
    Ok(())
}

fn enlarge(node: &Node) -> Result<()> {
    let table = table(node, AFTER);
    node.must(&format!(
        "dmsetup reload leg --table '{table}' && dmsetup suspend --noudevsync leg && dmsetup resume --noudevsync leg"
    ))?;
    Ok(())
}

fn bytes(cluster: &Cluster, node: usize) -> Result<u64> {
    let device = cluster
        .lab
        .node(node)
        .must(&format!("blockdev --getsize64 {DEVICE}"))?;
    Ok(device.trim().parse()?)
}

#[test]
fn the_kernels_raid1_grows_out_of_service_and_all_of_it_is_equal_after_a_failover_too() {
    if !["/usr/sbin/dmsetup", "/sbin/dmsetup"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        netraid_lab::skip("dmsetup is not installed (Debian package dmsetup)").unwrap();
        return;
    }
    scenario(Lab::builder().node(&[64]).node(&[64]), |lab| {
        let (first, second) = (lab.node(1), lab.node(2));
        for node in lab.nodes() {
            volume(node, BEFORE)?;
        }
        let cluster = Cluster::on(lab, "md", "", |_| LEG.to_owned())?;
        cluster.make()?;
        ensure!(bytes(&cluster, 1)? == (BEFORE - METADATA) << 20);
        first.must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        let writer = Writer::start(first, "/mnt/told", 0)?;
        writer.wait_more(20, SOON)?;
        // What is behind the old end differs from leg to leg.
        for node in lab.nodes() {
            let disk = node.disk(1).device();
            node.must(&format!(
                "yes {} | dd of={disk} bs=1M seek={BEFORE} count=16 iflag=fullblock oflag=direct 2>/dev/null",
                node.name()
            ))?;
        }
        enlarge(first)?;
        let why = cluster.refused(1, "resize data")?;
        ensure!(why.contains("that of node2 holds"), "{why}");
        enlarge(second)?;
        let why = cluster.refused(1, "resize data")?;
        ensure!(why.contains("only out of service"), "{why}");
        let told = writer.stop()?;
        first.must("umount /mnt")?;
        cluster.order(1, "stop data")?;
        cluster.order(1, "resize data")?;
        cluster.order(1, "start data")?;
        first.must(&format!("mount {DEVICE} /mnt"))?;
        let writer = Writer::start(first, "/mnt/told", told)?;
        ensure!(bytes(&cluster, 1)? == (AFTER - METADATA) << 20);
        writer.wait_more(20, SOON)?;
        cluster.wait_words(1, &["Source", "Target"])?;
        let resync = cluster.last_resync(1, 2)?;
        ensure!(resync["full"] == false, "resynced in full: {resync}");
        ensure!(
            resync["dirty_bytes"].as_u64() >= Some((AFTER - BEFORE) << 20),
            "what is new was not copied: {resync}"
        );
        // The file system ends before what is new.
        first.must(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=1M seek={BEFORE} count=8 oflag=direct 2>/dev/null"
        ))?;
        writer.wait_more(20, SOON)?;
        let told = writer.stop()?;
        first.must("umount /mnt")?;
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])?;

        cluster.order(2, "start data")?;
        ensure!(bytes(&cluster, 2)? == (AFTER - METADATA) << 20);
        second.must(&format!("mount {DEVICE} /mnt"))?;
        check(second, "/mnt/told", told)?;
        second.must("umount /mnt")?;
        cluster.wait_words(2, &["Target", "Source"])?;
        cluster.order(2, "stop data")?;
        cluster.check_equal(&[2, 1])
    });
}
