//! The same thing many times over: nothing is left behind, no device, no socket, no process.

use anyhow::{Result, ensure};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Job, Lab, Load, Node, scenario, wait_until};

#[test]
fn two_hundred_attaches_and_detaches_leave_no_device_socket_or_process() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mirror = Mirror::of(lab);
        mirror.make()?;
        let (source, target) = (lab.node(1), lab.node(2));
        mirror.drop_leg(2)?;
        let before = (left(source)?, left(target)?);
        let attach = format!("nbd-client attach --timeout 3 nbd://{}/data", target.ip());
        for round in 0..10 {
            // By turns one connection and three, a device with a name and the next one.
            let cycles = format!(
                "set -e; for n in 1 2 3 4 5; do
                    nbd-client detach $({attach} --next)
                    {attach} /dev/nbd7 --connections 3 >/dev/null
                    dd if=/dev/nbd7 of=/dev/null bs=64k count=1 iflag=direct status=none
                    nbd-client detach /dev/nbd7
                    {attach} --block-size 4096 /dev/nbd0 >/dev/null; nbd-client detach /dev/nbd0
                    {attach} --read-only /dev/nbd9 >/dev/null; nbd-client detach /dev/nbd9
                done"
            );
            source.must(&cycles)?;
            if round % 5 == 4 {
                mirror.attach(2)?;
                mirror.add(2)?;
                mirror.wait_whole()?;
                mirror.drop_leg(2)?;
            }
        }
        nothing_is_left(source, &before.0)?;
        nothing_is_left(target, &before.1)?;
        mirror.attach(2)?;
        mirror.add(2)?;
        mirror.wait_whole()?;
        mirror.stop_and_compare()
    });
}

#[test]
fn forty_killed_servers_cost_no_leg_and_leave_no_device_socket_or_process() {
    scenario(Lab::builder().nodes(5).disks(&[32]), |lab| {
        let mut mirror = Mirror::of(lab);
        // The time is counted over all reconnections that follow each other closely.
        mirror.attach_words = "--timeout 1 --dead-timeout 600".to_owned();
        let watches = mirror.make_watched()?;
        let load = Load::start(lab.node(1), DEVICE, "16")?;
        let all = || lab.nodes().iter().map(left).collect::<Result<Vec<_>>>();
        let before = all()?;
        for round in 0..10 {
            for target in 2..=5 {
                lab.node(target).must("pkill -KILL -x nbd-server")?;
                mirror.export(target)?;
            }
            for watch in &watches {
                reconnected(watch, round + 1)?;
            }
            load.go_on(10)?;
        }
        for target in 2..=5 {
            ensure!(mirror.leg(target)? == "Target", "a leg was lost");
        }
        for (node, before) in lab.nodes().iter().zip(&before) {
            nothing_is_left(node, before)?;
        }
        println!("{:?}", load.finish()?);
        mirror.stop_and_compare()?;
        no_device_is_left(lab.node(1))
    });
}

#[test]
fn ten_power_losses_of_targets_lose_no_write_and_leave_no_device_socket_or_process() {
    scenario(Lab::builder().nodes(3), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 2".to_owned();
        mirror.start_words = "--speed-limit-min 100000".to_owned();
        let mut watches = mirror.make_watched()?;
        let load = Load::start(lab.node(1), DEVICE, "4")?;
        let before = left(lab.node(1))?;
        let targets = [lab.node(2), lab.node(3)];
        for _ in 0..5 {
            lab.crash_all(&targets)?;
            lab.start_all(&targets)?;
            // What they had not flushed is lost, so a new link alone would not do.
            for (target, watch) in [2, 3].into_iter().zip(&mut watches) {
                mirror.export(target)?;
                mirror.wait_lost(target, SOON)?;
                mirror.drop_leg(target)?;
                let said = watch.wait(SOON)?.stdout;
                ensure!(!said.contains("\"reconnected\""), "{said}");
                *watch = mirror.attach_watched(target)?;
                let added = mirror.add(target)?;
                ensure!(added["full"] == false, "all is copied: {added}");
            }
            mirror.wait_whole()?;
            load.go_on(20)?;
        }
        nothing_is_left(lab.node(1), &before)?;
        println!("{:?}", load.finish()?);
        mirror.stop_and_compare()?;
        no_device_is_left(lab.node(1))
    });
}

/// Waits until a watch has put new links in place for so many times.
fn reconnected(watch: &Job, times: usize) -> Result<()> {
    wait_until(SOON, "a new link", || {
        let said = watch.output().stdout;
        Ok((said.matches("\"reconnected\"").count() >= times).then_some(()))
    })
}

/// What a node has: attached devices, sockets, processes with their open files; a line each. What asks is not in it.
fn left(node: &Node) -> Result<String> {
    node.must(
        "cat /sys/block/nbd*/pid 2>/dev/null | wc -l
         ss -Htan '( sport = :10809 or dport = :10809 )' | grep -v TIME-WAIT | cut -d' ' -f1 | sort
         for p in /proc/[0-9]*; do
            read -r name <$p/comm && [ -e $p/exe ] || continue
            case $name in nbd*|netraid|mdadm|lab-load) echo $name $(ls $p/fd | wc -l);; esac
         done 2>/dev/null | sort
         # Threads of the kernel have no program.
         readlink /proc/[0-9]*/exe | grep -vc '/\\(dash\\|sh\\|readlink\\|grep\\)$'",
    )
}

fn nothing_is_left(node: &Node, before: &str) -> Result<()> {
    let mut now = String::new();
    wait_until(SOON, "nothing more than before is left", || {
        now = left(node)?;
        Ok((now == before).then_some(()))
    })
    .map_err(|error| error.context(format!("before:\n{before}\nnow:\n{now}")))
}

fn no_device_is_left(node: &Node) -> Result<()> {
    let devices = node.must("cat /sys/block/nbd*/pid 2>/dev/null | wc -l")?;
    let sockets = node.must("ss -Htan '( dport = :10809 )' | grep -vc TIME-WAIT || true")?;
    ensure!(
        devices == "0" && sockets == "0",
        "{devices} devices and {sockets} sockets are left"
    );
    Ok(())
}
