//! The embedded engine and the kernel take turns with one mirror: neither copies what the other left in sync.

use anyhow::{Context, Result, ensure};
use netraid_lab::acknowledged::{Writer, check};
use netraid_lab::mirror::{DEVICE, Mirror, RESYNC, SOON};
use netraid_lab::{Job, Lab, scenario, wait_until};
use serde_json::Value;

#[test]
fn a_mirror_of_the_embedded_engine_goes_on_in_the_kernel_and_back_with_nothing_copied_twice() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mirror = Mirror::of(lab);
        let source = lab.node(1);
        source.must(
            "netraid embedded create --tag data --disk /dev/ubdb --nodes node1,node2 --node node1 --chunk 64KiB",
        )?;
        let server = mirror.export(2)?;
        let engine = Engine::run(&mirror)?;
        source.must(&format!(
            "netraid embedded extend --tag data --node node2 --uri nbd://{}/data --wait",
            lab.node(2).ip()
        ))?;
        engine.open(&mirror)?;
        source.must(&format!(
            "mkfs.ext4 -q {ENGINE_DEVICE} && mount {ENGINE_DEVICE} /mnt"
        ))?;
        source.must("cp -r /usr/share/zoneinfo/Europe /usr/share/zoneinfo/Asia /mnt")?;
        let files = "cd /mnt && find . -type f | sort | xargs sha256sum | sha256sum";
        let sums = source.must(files)?;
        source.must("umount /mnt")?;
        engine.close(&mirror)?;
        mirror.check_equal()?;

        // The kernel: nothing to resync.
        mirror.start()?;
        mirror.attach(2)?;
        let written = mirror.written_to(2, || {
            let added = mirror.add(2)?;
            ensure!(
                added["dirty_bytes"] == 0,
                "something is to be copied: {added}"
            );
            mirror.wait_whole()
        })?;
        ensure!(
            written < 1 << 20,
            "{written} bytes were written to the target"
        );
        source.must(&format!("mount {DEVICE} /mnt"))?;
        ensure!(source.must(files)? == sums, "files differ");

        // The kernel writes alone.
        mirror.wait_clean()?;
        mirror.drop_leg(2)?;
        source.must("cp -r /usr/share/zoneinfo/America /mnt && sync")?;
        let sums = source.must(files)?;
        source.must("umount /mnt")?;
        mirror.stop()?;

        // The engine resyncs that and little more.
        let engine = Engine::run(&mirror)?;
        let status = engine.wait_whole(&mirror)?;
        let copied = status["last_resync"]["copied"].as_u64().unwrap_or(0);
        ensure!(copied > 0 && copied < 24 << 20, "not in part: {status}");
        engine.open(&mirror)?;
        source.must(&format!(
            "e2fsck -fn {ENGINE_DEVICE} && mount {ENGINE_DEVICE} /mnt"
        ))?;
        ensure!(source.must(files)? == sums, "files differ");
        source.must("umount /mnt")?;
        engine.close(&mirror)?;
        server.kill()?;
        mirror.check_equal()
    });
}

#[test]
fn after_a_power_loss_each_backend_takes_over_from_the_other_with_every_acknowledged_write() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.make()?;
        mirror
            .source_node()
            .must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        let writer = Writer::start(mirror.source_node(), "/mnt/told", 0)?;
        writer.wait_more(80, SOON)?;
        lab.node(1).crash()?;
        let told = writer.told()?;

        // The kernel died on node 1, the engine takes over on node 2.
        lab.node(2).must(FREE)?;
        (mirror.source, mirror.targets) = (2, vec![1]);
        let engine = Engine::run(&mirror)?;
        engine.open(&mirror)?;
        mirror
            .source_node()
            .must(&format!("mount {ENGINE_DEVICE} /mnt"))?;
        check(mirror.source_node(), "/mnt/told", told)?;
        lab.node(1).start()?;
        let server = mirror.export(1)?;
        engine.wait_whole(&mirror)?;
        let writer = Writer::start(mirror.source_node(), "/mnt/told", told)?;
        writer.wait_more(80, SOON)?;
        lab.node(2).crash()?;
        let told = writer.told()?;
        drop((server, engine));

        // The engine died on node 2, the kernel takes over on node 1.
        mirror.move_to(1, &[2])?;
        mirror.source_node().must(&format!("mount {DEVICE} /mnt"))?;
        check(mirror.source_node(), "/mnt/told", told)?;
        lab.node(2).start()?;
        mirror.export(2)?;
        mirror.attach(2)?;
        let added = mirror.add(2)?;
        ensure!(added["full"] == false, "resynced in full: {added}");
        mirror.wait_whole()?;
        mirror
            .source_node()
            .must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
        mirror.stop_and_compare()
    });
}

const FREE: &str = "pkill -x nbd-server && while pgrep -x nbd-server; do sleep 0.05; done";
/// The application's device while the engine runs the mirror.
const ENGINE_DEVICE: &str = "/dev/nbd9";

/// `netraid run` on the source, with the first target.
struct Engine(Job);

impl Engine {
    fn run(mirror: &Mirror) -> Result<Engine> {
        let target = mirror.targets[0];
        let engine = mirror.source_node().spawn(&format!(
            "exec netraid run --tag data --disk /dev/ubdb --node node{} --target node{target}=nbd://{}/data \
             --unix /run/mirror --leg-timeout 3s --clean-interval 1s",
            mirror.source,
            mirror.lab.node(target).ip()
        ))?;
        engine.wait_for("ready ", SOON)?;
        Ok(Engine(engine))
    }

    /// The mirror becomes a block device.
    fn open(&self, mirror: &Mirror) -> Result<()> {
        mirror
            .source_node()
            .must(&format!(
                "nbd-client attach 'nbd+unix:///data?socket=/run/mirror' {ENGINE_DEVICE}"
            ))
            .map(drop)
    }

    fn wait_whole(&self, mirror: &Mirror) -> Result<Value> {
        let slot = mirror.targets[0] - 1;
        wait_until(RESYNC, "the engine's target is in sync", || {
            let text = mirror
                .source_node()
                .must("netraid embedded status data --json")?;
            let status: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
            Ok((status["legs"][slot]["status"] == "Target").then_some(status))
        })
    }

    /// Gives the device up and ends in order.
    fn close(self, mirror: &Mirror) -> Result<()> {
        mirror
            .source_node()
            .must(&format!("nbd-client detach {ENGINE_DEVICE}"))?;
        self.0.signal(15)?;
        let output = self.0.wait(SOON)?;
        ensure!(output.ok(), "the engine did not end in order: {output:?}");
        Ok(())
    }
}
