//! Writes that are held up past the timeout, are sent again, and are overtaken by newer ones: the newer ones stay.

use anyhow::{Result, ensure};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Job, Lab, Node, scenario, wait_until};

/// Holds up the first write of a block that begins with OLD, from the time that /run/hold is there until /run/held is gone.
const HOLD: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
static void hold(const void *data, size_t length) {
	if (length >= 3 && memcmp(data, "OLD", 3) == 0 && rename("/run/hold", "/run/held") == 0)
		while (access("/run/held", F_OK) == 0)
			usleep(10000);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
	hold(data, length);
	return ((ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64"))(fd, data, length, at);
}
ssize_t pwritev2(int fd, const struct iovec *pieces, int count, off_t at, int flags) {
	if (count > 0)
		hold(pieces[0].iov_base, pieces[0].iov_len);
	return ((ssize_t (*)(int, const struct iovec *, int, off_t, int))dlsym(RTLD_NEXT, "pwritev2"))(fd, pieces, count, at, flags);
}
"#;

#[test]
fn a_write_held_up_in_the_server_past_the_timeout_does_not_replace_a_newer_one() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 6".to_owned();
        let (watch, target) = (made_with_a_server_that_holds(&mirror)?, lab.node(2));
        target.must("touch /run/hold")?;
        let old = write(lab.node(1), "OLD")?;
        is_held(target)?;
        watch.wait_for("\"reconnected\"", SOON)?;
        // Either the server lets it be overtaken (then what follows shows it) or the leg is given up.
        ensure!(old.wait(SOON)?.ok(), "the old write failed");
        ensure!(
            write(lab.node(1), "NEW")?.wait(SOON)?.ok(),
            "a write failed"
        );
        target.must("rm /run/held")?;
        if mirror.leg(2)? != "Target" {
            mirror.take_back(2)?;
            mirror.wait_whole()?;
        }
        holds_the_newer_one(&mirror)
    });
}

#[test]
fn a_write_held_up_in_the_server_and_sent_again_costs_no_leg_if_it_goes_on_in_time() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 20".to_owned();
        let (watch, target) = (made_with_a_server_that_holds(&mirror)?, lab.node(2));
        target.must("touch /run/hold")?;
        let old = write(lab.node(1), "OLD")?;
        is_held(target)?;
        watch.wait_for("\"reconnected\"", SOON)?;
        target.must("rm /run/held")?;
        ensure!(old.wait(SOON)?.ok(), "the old write failed");
        ensure!(
            write(lab.node(1), "NEW")?.wait(SOON)?.ok(),
            "a write failed"
        );
        ensure!(mirror.leg(2)? == "Target", "the leg was lost");
        holds_the_newer_one(&mirror)
    });
}

#[test]
fn a_write_held_up_in_the_network_past_the_timeout_does_not_replace_a_newer_one() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 20".to_owned();
        let watch = mirror.make_watched()?.remove(0);
        let source = lab.node(1);
        // Packets are late as long as this is so; later ones overtake them, as they do when a route changes.
        let late = |ms: u32, verb: &str| {
            source.must(&format!(
                "tc qdisc {verb} dev vec0 root netem limit 9999 delay {ms}ms"
            ))
        };
        late(8000, "add")?;
        let old = write(source, "OLD")?;
        watch.wait_for("\"link_dead\"", SOON)?;
        late(0, "change")?;
        ensure!(old.wait(SOON)?.ok(), "the old write failed");
        ensure!(write(source, "NEW")?.wait(SOON)?.ok(), "a write failed");
        ensure!(!is_empty(source)?, "the old write was not late");
        wait_until(SOON, "the late packets have gone", || {
            Ok(is_empty(source)?.then_some(()))
        })?;
        // What came with them is done: the server answers on the new link what is asked for after it.
        source.must("dd if=/dev/nbd2 of=/dev/null bs=4k count=1 iflag=direct status=none")?;
        ensure!(mirror.leg(2)? == "Target", "the leg was lost");
        holds_the_newer_one(&mirror)
    });
}

/// Whether no packet waits in the node's queue.
fn is_empty(node: &Node) -> Result<bool> {
    Ok(node
        .must("tc -s qdisc show dev vec0")?
        .contains("backlog 0b 0p"))
}

fn made_with_a_server_that_holds(mirror: &Mirror) -> Result<Job> {
    mirror.create()?;
    mirror.start()?;
    let target = mirror.lab.node(2);
    target.must(&format!(
        "cc -shared -fPIC -o /run/hold.so -xc - <<'END'\n{HOLD}\nEND\n"
    ))?;
    let server = target.spawn(&format!(
        "LD_PRELOAD=/run/hold.so exec nbd-server --export data=/dev/ubdb --listen {}:10809 --print-ready",
        target.ip()
    ))?;
    server.wait_for("listening", SOON)?;
    let watch = mirror.attach_watched(2)?;
    mirror.add(2)?;
    mirror.wait_whole()?;
    Ok(watch)
}

fn is_held(target: &Node) -> Result<()> {
    wait_until(SOON, "the write is held up", || {
        Ok(target.run("test -e /run/held")?.ok().then_some(()))
    })
}

/// Writes a block of this word, always the same block.
fn write(source: &Node, word: &str) -> Result<Job> {
    source.spawn(&format!(
        "yes {word} | head -c 4096 | dd of={DEVICE} bs=4k seek=1000 count=1 iflag=fullblock oflag=direct conv=notrunc status=none"
    ))
}

fn holds_the_newer_one(mirror: &Mirror) -> Result<()> {
    let read =
        format!("dd if={DEVICE} bs=4k skip=1000 count=1 iflag=direct status=none | head -c 3");
    let word = mirror.source_node().must(&read)?;
    ensure!(word == "NEW", "the block holds {word}");
    mirror.stop_and_compare()
}
