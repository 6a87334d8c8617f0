//! The namespaces that hold a lab: network, mounts and processes that end with the test, however it ends.
//!
//! `unshare` makes them; the first process in there waits for the end of its standard input, a pipe from the test. When
//! the test ends, by SIGKILL too, that process ends, and with the first process of a process namespace the kernel kills
//! all others, frees the network with its taps, and unmounts the tmpfs that holds the disks. Nothing has a name outside.

use crate::processes;
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Where the lab's files are, inside of the namespaces: a tmpfs over a folder that every machine has.
pub(crate) const FOLDER: &str = "/media";

/// Makes all that is mounted read-only but for the lab's own tmpfs, lets the nodes' packets pass, and waits for the end.
const SCRIPT: &str = r#"
mount -t tmpfs -o size=90%,mode=755 lab /media || exit
echo 1 >/proc/sys/net/ipv4/ip_forward || exit
echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects
echo 0 >/proc/sys/net/ipv4/conf/default/send_redirects
ip link set lo up || exit
points=$(cut -d ' ' -f 5,6 /proc/self/mountinfo)
echo "$points" | while read -r point options; do
	case $point in
	/media | /media/* | /proc | /proc/*) continue ;;
	esac
	kept=$(echo "$options" | tr ',' '\n' | grep -x -e nosuid -e nodev -e noexec -e noatime -e nodiratime -e relatime | tr '\n' ',')
	mount -o "remount,bind,ro,$kept" "$(printf '%b' "$point")" 2>/dev/null || echo "not read-only: $point"
done
touch /usr/.lab-may-not-write 2>/dev/null && { rm /usr/.lab-may-not-write; echo "the host's files are writable"; exit 1; }
echo ready
exec cat >/dev/null
"#;

#[derive(Debug)]
pub(crate) struct Warden {
    unshare: Child,
    /// Closed, it ends everything.
    lifeline: Option<ChildStdin>,
}

impl Warden {
    pub(crate) fn start() -> Result<Warden> {
        let mut unshare = unshare_command(&["sh", "-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let lifeline = unshare.stdin.take();
        let stdout = unshare.stdout.take().context("no output of unshare")?;
        let mut stderr = unshare
            .stderr
            .take()
            .context("no error output of unshare")?;
        let mut said = String::new();
        for line in BufReader::new(stdout).lines() {
            let line = line.context("the lab's namespace")?;
            if line == "ready" {
                return Ok(Warden { unshare, lifeline });
            }
            said += &line;
            said.push('\n');
        }
        drop(lifeline);
        unshare.wait().context("unshare")?;
        stderr.read_to_string(&mut said).context("unshare")?;
        bail!("no namespace for the lab: {}", said.trim());
    }

    /// A file of the lab as the test sees it, from its place in the namespaces.
    pub(crate) fn outside(&self, inside: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.unshare.id())).join(inside.trim_start_matches('/'))
    }

    /// A command that will run in the lab's namespaces.
    pub(crate) fn command(&self, program: &str) -> Command {
        let ns = format!("/proc/{}/ns", self.unshare.id());
        let mut command = administrators(Command::new("nsenter"));
        if !is_root() {
            command.args([&format!("--user={ns}/user"), "--preserve-credentials"]);
        }
        command.args([
            &format!("--net={ns}/net"),
            &format!("--mount={ns}/mnt"),
            &format!("--pid={ns}/pid_for_children"),
            "--",
            program,
        ]);
        command
    }

    /// Runs lines for `ip` in the lab's network, all in one go.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("ip")?;
        let mut stdin = child.stdin.take().context("no input of ip")?;
        // A write that fails shows in the exit status below.
        let _ = std::io::Write::write_all(&mut stdin, lines.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().context("ip")?;
        if !output.status.success() {
            bail!("ip: {}of {lines}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        if let Ok(Some(first)) = processes::first_of_namespace(self.unshare.id()) {
            // It is about to end by itself, and the wait below shows that it did.
            let _ = processes::signal(first, Signal::SIGKILL);
        }
        let _ = self.unshare.wait();
    }
}

/// `unshare` with the namespaces of a lab, for a command.
pub(crate) fn unshare_command(words: &[&str]) -> Command {
    let mut command = administrators(Command::new("unshare"));
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .args(words);
    command
}

/// A process group of its own (a terminal's Ctrl-C is for the test), and a path with administrators' programs.
pub(crate) fn administrators(mut command: Command) -> Command {
    use std::os::unix::process::CommandExt;
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .process_group(0)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C");
    command
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
