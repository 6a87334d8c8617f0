//! A file system that was there before the mirror stays where it is.

use anyhow::{Context, ensure};
use netraid_lab::mirror::{DEVICE, Mirror};
use netraid_lab::{Lab, scenario};

#[test]
fn an_ext4_that_was_there_before_is_mirrored_in_place_with_its_uuid_and_its_files() {
    scenario(Lab::builder().nodes(2), |lab| {
        let source = lab.node(1);
        let uuid = |device: &str| format!("tune2fs -l {device} | sed -n 's/.*UUID: *//p'");
        let files = "cd /mnt && find . -type f | sort | xargs sha256sum | sha256sum";
        source.must("mkfs.ext4 -q /dev/ubdb && mount /dev/ubdb /mnt")?;
        source.must("cp -r /usr/share/zoneinfo/Europe /usr/share/zoneinfo/Asia /mnt")?;
        let (before, sums) = (source.must(&uuid("/dev/ubdb"))?, source.must(files)?);
        source.must("umount /mnt")?;

        // It fills the disk: no room for what a mirror needs. Nothing is written, and it is said what would help.
        let mut mirror = Mirror::of(lab);
        mirror.create_words = "--chunk 64 --keep".to_owned();
        let written = mirror.written_to(1, || {
            let refused = source.run(
                "netraid array create --tag data --disk /dev/ubdb --nodes node1,node2 --node node1 --chunk 64 --keep",
            )?;
            ensure!(refused.status == 3, "{refused:?}");
            let by = refused.stderr.split_once("shrink it by at least ");
            let by: u64 = by
                .and_then(|(_, by)| by.split(' ').next()?.parse().ok())
                .with_context(|| refused.stderr.clone())?;
            let size = (source.disk(1).size() - by) / 1024;
            lab.note(&format!("to be shrunk by {by} bytes, to {size} KiB"));
            Ok(())
        })?;
        ensure!(
            written == 0,
            "{written} bytes were written to a disk that was refused"
        );
        source.must(&format!(
            "by=$(netraid array create --tag data --disk /dev/ubdb --nodes node1,node2 --node node1 --chunk 64 --keep 2>&1 \
             | sed -n 's/.*shrink it by at least \\([0-9]*\\) bytes.*/\\1/p'); \
             e2fsck -fp /dev/ubdb && resize2fs /dev/ubdb $((({} - by) / 1024))K",
            source.disk(1).size()
        ))?;

        mirror.make()?;
        ensure!(source.must(&uuid(DEVICE))? == before, "another UUID");
        source.must(&format!("e2fsck -fn {DEVICE} && mount {DEVICE} /mnt"))?;
        ensure!(source.must(files)? == sums, "files differ");
        source.must("cp -r /usr/share/zoneinfo/America /mnt && rm -r /mnt/Europe")?;
        let sums = source.must(files)?;
        source.must("umount /mnt")?;
        mirror.stop_and_compare()?;

        // It can be used without a mirror, read-only at least, on either node.
        for node in lab.nodes() {
            node.must("pkill -x nbd-server; while pgrep -x nbd-server; do sleep 0.05; done; mount -t ext4 -o ro /dev/ubdb /mnt")?;
            ensure!(node.must(files)? == sums, "files differ on {}", node.name());
            node.must("umount /mnt")?;
        }

        // The other leg takes over.
        mirror.move_to(2, &[1])?;
        let target = lab.node(2);
        ensure!(target.must(&uuid(DEVICE))? == before, "another UUID");
        target.must(&format!("mount {DEVICE} /mnt && rm -r /mnt/Asia"))?;
        mirror.export(1)?;
        mirror.attach(1)?;
        let added = mirror.add(1)?;
        ensure!(added["full"] == false, "resynced in full: {added}");
        mirror.wait_whole()?;
        target.must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
        mirror.stop_and_compare()
    });
}
