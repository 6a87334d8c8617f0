//! The lab itself: what it promises to the scenarios.

use anyhow::{Context, Result, ensure};
use netraid_lab::{Cache, Failing, Lab, processes, scenario, wait_until};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

#[test]
fn two_nodes_boot_run_commands_and_reach_each_other() {
    scenario(Lab::builder().nodes(2), |lab| {
        for node in lab.nodes() {
            ensure!(node.must("hostname")? == node.name());
            let output = node.run("echo said; echo complained >&2; exit 3")?;
            ensure!(
                (output.status, &*output.stdout, &*output.stderr) == (3, "said\n", "complained\n")
            );
        }
        ensure!(lab.reaches(1, 2)? && lab.reaches(2, 1)?);
        let modules = lab.node(1).must("lsmod")?;
        for module in [
            "nbd",
            "raid1",
            "dm_mod",
            "dm_flakey",
            "dm_dust",
            "sch_netem",
            "overlay",
        ] {
            ensure!(modules.contains(module), "no module {module} in\n{modules}");
        }
        Ok(())
    });
}

#[test]
fn commands_run_side_by_side_get_input_and_are_killed_at_their_deadline() {
    scenario(Lab::builder().nodes(1), |lab| {
        let node = lab.node(1);
        let cat = node.spawn("echo up; cat; echo over")?;
        cat.wait_for("up", Duration::from_secs(10))?;
        ensure!(node.must("echo meanwhile")? == "meanwhile");
        cat.feed(b"a line\n")?;
        cat.wait_for("a line", Duration::from_secs(10))?;
        cat.close_input()?;
        ensure!(cat.wait(Duration::from_secs(10))?.stdout == "up\na line\nover\n");

        let begun = Instant::now();
        let error = node
            .run_within(Duration::from_millis(300), "echo so far; sleep 1000")
            .unwrap_err();
        ensure!(begun.elapsed() < Duration::from_secs(20));
        ensure!(error.to_string().contains("so far"), "{error:#}");
        wait_until(Duration::from_secs(10), "the sleeper is gone", || {
            Ok((!node.run("pgrep -x sleep")?.ok()).then_some(()))
        })?;

        // A child in the background that keeps the output open does not keep the command from its end.
        node.must_within(Duration::from_secs(10), "sleep 1000 & echo begun")?;
        let much = node.must("seq 1 100000")?;
        ensure!(much.lines().count() == 100_000 && much.ends_with("\n100000"));
        Ok(())
    });
}

#[test]
fn the_host_is_read_only_and_what_a_node_writes_is_its_own() {
    scenario(Lab::builder().nodes(2), |lab| {
        let checkout = env!("CARGO_MANIFEST_DIR");
        for folder in [checkout, "/usr", "/"] {
            let touch = format!("mount -o remount,rw / ; touch {folder}/lab-was-here");
            let output = lab.node(1).run(&touch)?;
            ensure!(!output.ok(), "{folder} is writable");
        }
        for folder in ["/etc", "/var/lib", "/run", "/tmp", "/mnt"] {
            lab.node(1).must(&format!("echo mine >{folder}/lab-file"))?;
            ensure!(!lab.node(2).run(&format!("cat {folder}/lab-file"))?.ok());
            ensure!(!std::path::Path::new(folder).join("lab-file").exists());
        }
        lab.node(1).must(&format!(
            "test -f {checkout}/Cargo.toml && lab-agent </dev/null"
        ))?;
        Ok(())
    });
}

#[test]
fn cables_are_cut_in_both_directions_or_one_and_joined() {
    scenario(Lab::builder().nodes(3), |lab| {
        lab.cut(1, 2)?;
        ensure!(!lab.reaches(1, 2)? && !lab.reaches(2, 1)?);
        ensure!(lab.reaches(1, 3)? && lab.reaches(3, 2)?);
        lab.join(1, 2)?;
        ensure!(lab.reaches(1, 2)? && lab.reaches(2, 1)?);

        lab.cut_one_way(1, 2)?;
        ensure!(!arrives(lab, 1, 2)?);
        ensure!(arrives(lab, 2, 1)?);
        lab.join(1, 2)?;
        ensure!(arrives(lab, 1, 2)?);

        lab.isolate(3)?;
        ensure!(!lab.reaches(1, 3)? && !lab.reaches(3, 2)? && lab.reaches(1, 2)?);
        lab.rejoin(3)?;
        ensure!(lab.reaches(1, 3)? && lab.reaches(2, 3)?);
        Ok(())
    });
}

/// Whether one of three datagrams to a port that nobody listens to is counted by the node that should get them.
fn arrives(lab: &Lab, from: usize, to: usize) -> Result<bool> {
    let count = || -> Result<u64> {
        let text = lab
            .node(to)
            .must("awk '/^Udp: [0-9]/ { print $3 }' /proc/net/snmp")?;
        text.parse().context("the count of datagrams to no port")
    };
    let before = count()?;
    let ip = lab.node(to).ip();
    lab.node(from).must(&format!(
        "bash -c 'for n in 1 2 3; do echo x >/dev/udp/{ip}/9; done 2>/dev/null; true'"
    ))?;
    // Sent later on the same way: when this has passed, or has had its second to do so, so have the datagrams.
    lab.reaches(from, to)?;
    Ok(count()? > before)
}

/// The time from a node to another and back, by its own clock; of five tries the shortest, for busy machines.
fn round_trip(lab: &Lab, from: usize, to: usize) -> Result<Duration> {
    let ip = lab.node(to).ip();
    let times = lab.node(from).must(&format!(
        "exec bash -c 'for n in 1 2 3 4 5; do \
         a=${{EPOCHREALTIME/./}}; (exec 3<>/dev/tcp/{ip}/1) 2>/dev/null; b=${{EPOCHREALTIME/./}}; echo $((b - a)); done'"
    ))?;
    let times = times
        .lines()
        .map(|line| Ok(Duration::from_micros(line.parse()?)));
    let times: Result<Vec<Duration>> = times.collect();
    times?.into_iter().min().context("no time")
}

#[test]
fn packets_are_delayed_and_lost_between_two_nodes_and_not_between_others() {
    scenario(Lab::builder().nodes(3), |lab| {
        lab.delay(1, 2, 150)?;
        let slow = Duration::from_millis(300);
        ensure!(round_trip(lab, 1, 2)? >= slow);
        ensure!(round_trip(lab, 1, 3)? < slow);

        lab.loss_one_way(3, 1, 100.0)?;
        ensure!(!arrives(lab, 3, 1)?);
        ensure!(arrives(lab, 1, 3)?);

        // Both are in force again after a power loss, and end when they are told to.
        lab.crash_all(&[lab.node(1), lab.node(3)])?;
        lab.loss_one_way(3, 1, 100.0)?;
        lab.start_all(&[lab.node(1), lab.node(3)])?;
        ensure!(round_trip(lab, 1, 2)? >= slow);
        ensure!(!arrives(lab, 3, 1)?);
        lab.delay(1, 2, 0)?;
        lab.loss(1, 3, 0.0)?;
        ensure!(round_trip(lab, 1, 2)? < slow);
        // Whole and half milliseconds, both ways together.
        let odd = Duration::from_millis(41);
        lab.round_trip(1, 2, odd)?;
        ensure!((odd..slow).contains(&round_trip(lab, 1, 2)?));
        lab.round_trip(1, 2, Duration::ZERO)?;
        ensure!(arrives(lab, 3, 1)?);
        Ok(())
    });
}

#[test]
fn a_crashed_node_is_gone_at_once_and_comes_back_with_its_disks() {
    scenario(Lab::builder().nodes(2), |lab| {
        let node = lab.node(1);
        node.must("echo kept >/etc/kept; sync /etc/kept; echo gone >/run/gone")?;
        node.must("printf 'on the disk' | dd of=/dev/ubdb conv=fsync status=none")?;
        let job = node.spawn("echo running; sleep 1000")?;
        job.wait_for("running", Duration::from_secs(10))?;

        node.crash()?;
        ensure!(!node.is_on() && !job.is_running());
        ensure!(job.wait(Duration::from_secs(1)).is_err());
        ensure!(node.run("true").is_err() && node.crash().is_err());
        ensure!(!lab.reaches(2, 1)?);
        ensure!(node.disk(1).read(0, 11)? == b"on the disk");

        node.start()?;
        ensure!(node.must("cat /etc/kept; head -c 11 /dev/ubdb")? == "kept\non the disk");
        ensure!(!node.run("cat /run/gone")?.ok());
        ensure!(lab.reaches(2, 1)?);

        node.shutdown()?;
        ensure!(!node.is_on());
        node.start()?;
        ensure!(node.must("cat /etc/kept")? == "kept");
        Ok(())
    });
}

#[test]
fn a_frozen_node_does_nothing_until_it_is_thawed() {
    scenario(Lab::builder().nodes(2), |lab| {
        let node = lab.node(1);
        let job = node.spawn("while echo tick; do sleep 0.05; done")?;
        job.wait_for("tick", Duration::from_secs(10))?;
        node.freeze()?;
        ensure!(node.is_on());
        ensure!(!lab.reaches(2, 1)?);
        // What the serial line held has been read by now: the attempt above took a second.
        let ticks = job.output().stdout.len();
        ensure!(!lab.reaches(2, 1)?);
        ensure!(job.output().stdout.len() == ticks);
        node.thaw()?;
        wait_until(Duration::from_secs(10), "it ticks again", || {
            Ok((job.output().stdout.len() > ticks).then_some(()))
        })?;
        ensure!(lab.reaches(2, 1)?);
        node.freeze()?;
        node.crash()?;
        node.start()
    });
}

#[test]
fn a_volatile_disk_loses_what_was_not_flushed_and_keeps_the_rest() {
    scenario(Lab::builder().nodes(1), |lab| {
        let (node, disk) = (lab.node(1), lab.node(1).disk(1));
        let write = |what: &str, at: u64, flush: &str| {
            node.must(&format!(
                "printf %65536s | tr ' ' {what} | dd of=/dev/ubdb bs=64k iflag=fullblock seek={at} oflag=direct {flush} status=none"
            ))
        };
        let kept = |at: u64| -> Result<u8> { Ok(disk.read(at * 65536 + 4096, 1)?[0]) };
        disk.set_cache(Cache::Volatile)?;
        write("a", 0, "conv=fsync")?;
        write("b", 0, "")?;
        write("c", 0, "")?;
        write("d", 1, "")?;
        node.must("blkdiscard -o 0 -l 65536 /dev/ubdb")?;
        ensure!(
            (kept(0)?, kept(1)?) == (0, b'd'),
            "the node itself sees its writes"
        );
        node.crash()?;
        ensure!((kept(0)?, kept(1)?) == (b'a', 0));

        node.start()?;
        write("e", 0, "conv=fsync")?;
        write("f", 1, "")?;
        node.shutdown()?;
        ensure!(
            (kept(0)?, kept(1)?) == (b'e', b'f'),
            "a shutdown in order loses nothing"
        );

        node.start()?;
        disk.set_cache(Cache::Torn(7))?;
        write("g", 0, "")?;
        node.crash()?;
        let sectors: Vec<u8> = (0..128)
            .map(|n| Ok(disk.read(n * 512, 1)?[0]))
            .collect::<Result<_>>()?;
        let new = sectors.iter().filter(|&&byte| byte == b'g').count();
        ensure!(
            (20..108).contains(&new) && sectors.iter().all(|byte| b"eg".contains(byte)),
            "{sectors:?}"
        );
        Ok(())
    });
}

#[test]
fn disks_fail_where_and_how_they_are_told_to_and_can_stall() {
    scenario(Lab::builder().nodes(1), |lab| {
        let (node, disk) = (lab.node(1), lab.node(1).disk(1));
        let read = |mib: u64| {
            node.run(&format!(
                "dd if=/dev/ubdb of=/dev/null bs=4k count=1 skip={} iflag=direct",
                mib * 256
            ))
        };
        let write = |mib: u64| {
            node.run(&format!(
                "dd if=/dev/zero of=/dev/ubdb bs=4k count=1 seek={} oflag=direct",
                mib * 256
            ))
        };
        disk.fail(10 * MIB..11 * MIB, Failing::Reads)?;
        disk.fail(20 * MIB..21 * MIB, Failing::Writes)?;
        ensure!(!read(10)?.ok() && write(10)?.ok() && read(9)?.ok() && read(11)?.ok());
        ensure!(read(20)?.ok() && !write(20)?.ok() && write(19)?.ok());
        ensure!(disk.counts()?.failed >= 2);
        disk.heal()?;
        ensure!(read(10)?.ok() && write(20)?.ok());
        disk.fail_flushes()?;
        ensure!(
            !node
                .run("dd if=/dev/zero of=/dev/ubdb bs=4k count=1 conv=fsync")?
                .ok()
        );
        disk.heal()?;

        disk.stall()?;
        let stalled =
            node.spawn("dd if=/dev/zero of=/dev/ubdb bs=4k count=1 oflag=direct && echo done")?;
        ensure!(node.must("echo still there")? == "still there");
        ensure!(stalled.is_running());
        disk.resume()?;
        ensure!(
            stalled
                .wait(Duration::from_secs(10))?
                .stdout
                .contains("done")
        );

        let before = disk.counts()?;
        write(30)?;
        let after = disk.counts()?;
        ensure!(
            after.written_bytes == before.written_bytes + 4096,
            "{before:?} {after:?}"
        );
        Ok(())
    });
}

#[test]
fn legs_are_compared_byte_by_byte_and_the_first_difference_is_told() {
    scenario(Lab::builder().node(&[8]).node(&[9]).off(), |lab| {
        let (left, right) = (lab.node(1).disk(1), lab.node(2).disk(1));
        left.write(MIB, &[1, 2, 3])?;
        right.write(2 * MIB, &[1, 2, 3])?;
        lab.legs_equal((left, MIB), (right, 2 * MIB), 7 * MIB)?;
        right.write(5 * MIB + 17, &[9])?;
        let error = lab
            .legs_equal((left, MIB), (right, 2 * MIB), 7 * MIB)
            .unwrap_err()
            .to_string();
        ensure!(
            error.contains("1 of 7340032 bytes, first at byte 3145745"),
            "{error}"
        );
        ensure!(
            lab.legs_equal((left, MIB), (right, 3 * MIB), 7 * MIB)
                .is_err(),
            "beyond the end"
        );
        Ok(())
    });
}

#[test]
fn a_killed_test_leaves_no_process_no_namespace_and_no_mount() {
    if let Err(reason) = netraid_lab::available() {
        return netraid_lab::skip(&reason).unwrap();
    }
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts_before = mounts();
    for how in ["SIGKILL", "the end of its input"] {
        let mut shell = Command::new(env!("CARGO_BIN_EXE_lab-shell"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap() == "ready"),
            "it did not come up"
        );
        let inside = processes::descendants(shell.id()).unwrap();
        let foreign = |kind: &str| -> BTreeSet<PathBuf> {
            let ours = namespace(std::process::id(), kind);
            let theirs = inside.iter().filter_map(|&pid| namespace(pid, kind));
            theirs.filter(|ns| Some(ns) != ours.as_ref()).collect()
        };
        let namespaces: Vec<_> = ["net", "mnt", "pid"]
            .map(foreign)
            .into_iter()
            .flatten()
            .collect();
        // As long as somebody has them open, no other lab's get their numbers.
        let held: Vec<File> = inside
            .iter()
            .flat_map(|pid| ["net", "mnt", "pid"].map(|kind| format!("/proc/{pid}/ns/{kind}")))
            .filter_map(|path| File::open(path).ok())
            .collect();
        let numbers: BTreeSet<PathBuf> = held
            .iter()
            .map(|file| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap())
            .collect();
        assert!(namespaces.iter().all(|ns| numbers.contains(ns)), "{held:?}");
        // Network and mounts for the lab, processes for the lab and each node.
        assert!(
            inside.len() > 10 && namespaces.len() == 5,
            "{inside:?} {namespaces:?}"
        );

        if how == "SIGKILL" {
            shell.kill().unwrap();
        } else {
            drop(shell.stdin.take());
        }
        shell.wait().unwrap();
        wait_until(Duration::from_secs(20), "everything is gone", || {
            let left: Vec<u32> = inside
                .iter()
                .copied()
                .filter(|&pid| namespace(pid, "net").is_some())
                .collect();
            Ok(left.is_empty().then_some(()))
        })
        .unwrap();
        let all = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        for pid in all {
            for kind in ["net", "mnt", "pid"] {
                let used = namespace(pid, kind).is_some_and(|ns| namespaces.contains(&ns));
                assert!(
                    !used,
                    "after {how} process {pid} is in a namespace of the lab"
                );
            }
        }
        drop(held);
        assert_eq!(mounts(), mounts_before, "after {how}");
    }
}

fn namespace(pid: u32, kind: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}
