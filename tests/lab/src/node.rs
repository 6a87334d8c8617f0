//! A node: a real kernel with disks and a cable, that can be switched off, frozen, and told to run commands.

use crate::available;
use crate::channel::{Channel, Console, Output};
use crate::control::{DISKS, Page};
use crate::disk::{Cache, Disk};
use crate::job::Job;
use crate::journal::Journal;
use crate::network::Wiring;
use crate::processes;
use crate::processor;
use crate::warden::{FOLDER, Warden};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::fs;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long [`Node::run`] waits.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
/// Alone it takes two to three seconds; many at once on a busy machine take long.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);
const END_DEADLINE: Duration = Duration::from_secs(20);

/// What a node is made with.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Sizes of its disks in bytes, besides the system disk; at most 7.
    pub disks: Vec<u64>,
    /// Memory in MiB.
    pub memory: u32,
}

/// A node of a [`Lab`](crate::Lab).
#[derive(Debug)]
pub struct Node {
    number: usize,
    memory: u32,
    disks: Vec<Disk>,
    power: Mutex<Power>,
    console: Arc<Console>,
    warden: Arc<Warden>,
    wiring: Arc<Wiring>,
    journal: Arc<Journal>,
}

#[derive(Debug, Default)]
struct Power {
    kernel: Option<Kernel>,
    frozen: bool,
}

#[derive(Debug)]
struct Kernel {
    /// `nsenter`, which ends when the last process of the node has ended.
    process: Child,
    channel: Arc<Channel>,
}

impl Node {
    pub(crate) fn new(
        number: usize,
        spec: &NodeSpec,
        system: &[u8],
        warden: &Arc<Warden>,
        wiring: &Arc<Wiring>,
        journal: &Arc<Journal>,
    ) -> Result<Node> {
        if spec.disks.len() >= DISKS {
            bail!("a node has at most {} disks", DISKS - 1);
        }
        let folder = format!("{FOLDER}/node{number}");
        fs::create_dir(warden.outside(&folder)).context("a folder for a node")?;
        let page = Arc::new(Page::create(&warden.outside(&format!("{folder}/control")))?);
        let image = format!("{folder}/disk0");
        write_sparse(&warden.outside(&image), system)?;
        let mut disks = Vec::new();
        for (index, &size) in std::iter::once(&(system.len() as u64))
            .chain(&spec.disks)
            .enumerate()
        {
            let inside = format!("{folder}/disk{index}");
            let outside = warden.outside(&inside);
            disks.push(Disk::new(index, inside, outside, size, &page)?);
        }
        Ok(Node {
            number,
            memory: spec.memory,
            disks,
            power: Mutex::default(),
            console: Arc::default(),
            warden: Arc::clone(warden),
            wiring: Arc::clone(wiring),
            journal: Arc::clone(journal),
        })
    }

    /// `node1` and so on; other nodes know it by this name.
    pub fn name(&self) -> String {
        format!("node{}", self.number)
    }

    /// 1 for the first.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its address, e.g. `10.77.0.1`.
    pub fn ip(&self) -> String {
        self.wiring.ip(self.number)
    }

    /// A disk by its number; 1 is the first of those asked for.
    ///
    /// # Panics
    /// There is no such disk.
    pub fn disk(&self, number: usize) -> &Disk {
        &self.disks[number]
    }

    /// All disks; the first one is the system disk.
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// The disk that holds /etc and /var.
    pub fn system_disk(&self) -> &Disk {
        &self.disks[0]
    }

    /// [`Disk::set_cache`] for all its disks, the system disk too.
    ///
    /// # Errors
    /// As [`Disk::set_cache`].
    pub fn set_cache(&self, cache: Cache) -> Result<()> {
        self.disks.iter().try_for_each(|disk| disk.set_cache(cache))
    }

    /// What its kernel said on the console, all boots, the last 256 KiB.
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// Whether its kernel runs (frozen or not).
    pub fn is_on(&self) -> bool {
        let power = self.lock();
        power
            .kernel
            .as_ref()
            .is_some_and(|kernel| kernel.channel.is_open())
    }

    /// Switches the node on and waits until it takes commands.
    ///
    /// # Errors
    /// It is on already, or its kernel did not come up.
    pub fn start(&self) -> Result<()> {
        let begun = Instant::now();
        self.switch_on()?;
        let channel = self.channel()?;
        let ready = channel
            .wait_ready(BOOT_DEADLINE)
            .with_context(|| format!("starting {}", self.name()));
        if ready.is_err() {
            self.power_off()?;
        }
        ready?;
        self.journal.note(&format!(
            "{} is up after {:.1?}",
            self.name(),
            begun.elapsed()
        ));
        self.wiring.dress(self)
    }

    fn switch_on(&self) -> Result<()> {
        let mut power = self.lock();
        match &power.kernel {
            Some(kernel) if kernel.channel.is_open() => bail!("{} is on", self.name()),
            Some(_) => {
                // It had halted by itself.
                self.clear_away(&mut power)?;
                self.disks.iter().try_for_each(Disk::settle)?;
            }
            None => {}
        }
        self.console
            .add(format!("\n==== {} is switched on\n", self.name()).as_bytes());
        let mut process = self.kernel_command()?.spawn().context("linux.uml")?;
        let (stdin, stdout, stderr) = (
            process.stdin.take(),
            process.stdout.take(),
            process.stderr.take(),
        );
        let channel = Channel::new(
            stdin.context("no serial line to the node")?,
            stdout.context("no serial line from the node")?,
        );
        self.console
            .follow(stderr.context("no console of the node")?);
        *power = Power {
            kernel: Some(Kernel { process, channel }),
            frozen: false,
        };
        Ok(())
    }

    fn kernel_command(&self) -> Result<std::process::Command> {
        let folder = format!("{FOLDER}/node{}", self.number);
        let checkout = available::checkout()?;
        let programs = available::programs()?;
        let agent = programs.join("lab-agent");
        if !agent.is_file() {
            bail!("{} is missing: cargo build -p netraid-lab", agent.display());
        }
        let target = programs.parent().context("the target folder")?;
        let images: Vec<&str> = self.disks.iter().map(|disk| disk.inside.as_str()).collect();
        let mut command = self.warden.command("taskset");
        command.args([
            "--cpu-list",
            &processor::of_node(self.number)?.to_string(),
            "unshare",
        ]);
        // The kernel is not the first process of its namespace: that one ignores signals which the kernel sends itself.
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--",
            "sh",
            "-c",
            "\"$@\"; exit",
            "sh",
        ]);
        command.args([
            "env",
            &format!("LD_PRELOAD={}", crate::shim::object()?.display()),
            "linux.uml",
        ]);
        command.args([
            &format!("mem={}M", self.memory),
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "con=null",
            "con0=null,fd:2",
            "ssl=null",
            "ssl0=fd:0,fd:1",
            "quiet",
            "noreboot",
            "panic=-1",
            &format!("uml_dir={folder}/"),
            &format!(
                "init={}",
                checkout.join("tests/lab/guest/init.sh").display()
            ),
            &format!("vec0:{}", self.wiring.transport(self.number)),
            &format!("LAB_NAME={}", self.name()),
            &format!("LAB_IP={}", self.ip()),
            &format!("LAB_IPS={}", self.wiring.all_ips()),
            &format!("LAB_ROUTER={}", Wiring::ROUTER),
            &format!("LAB_CHECKOUT={}", checkout.display()),
            &format!("LAB_TARGET={}", target.display()),
            &format!("LAB_PROGRAMS={}", programs.display()),
            &format!("LAB_AGENT={}", agent.display()),
        ]);
        for disk in &self.disks {
            // "d": whatever it begins with, the image is the disk, and no copy-on-write layer of another one.
            command.arg(format!("ubd{}d={}", disk.index, disk.inside));
        }
        command
            .env("TMPDIR", FOLDER)
            .env("LAB_CONTROL", format!("{folder}/control"))
            .env("LAB_DISKS", images.join(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    /// Runs a command (`sh -c`) and waits for its end, at most a minute. Any exit status is an `Ok`.
    ///
    /// # Errors
    /// The node is off or goes off meanwhile, or the deadline passed (the command is killed).
    pub fn run(&self, command: &str) -> Result<Output> {
        self.run_within(COMMAND_DEADLINE, command)
    }

    /// [`Node::run`] with a deadline of the caller's.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn run_within(&self, deadline: Duration, command: &str) -> Result<Output> {
        let job = self.spawn(command)?;
        job.wait(deadline)
    }

    /// Runs a command that must succeed, and returns what it wrote, without white space at its end.
    ///
    /// # Errors
    /// As [`Node::run`], and an exit status other than 0, with all that the command said.
    pub fn must(&self, command: &str) -> Result<String> {
        self.must_within(COMMAND_DEADLINE, command)
    }

    /// [`Node::must`] with a deadline of the caller's.
    ///
    /// # Errors
    /// As [`Node::must`].
    pub fn must_within(&self, deadline: Duration, command: &str) -> Result<String> {
        let output = self.run_within(deadline, command)?;
        if !output.ok() {
            bail!(
                "{}: `{command}` ended with status {}\n{}{}",
                self.name(),
                output.status,
                output.stdout,
                output.stderr
            );
        }
        Ok(output.stdout.trim_end().to_owned())
    }

    /// Starts a command (`sh -c`) and returns at once.
    ///
    /// # Errors
    /// The node is off.
    pub fn spawn(&self, command: &str) -> Result<Job> {
        let channel = self.channel()?;
        let id = channel
            .start(command)
            .with_context(|| format!("{}: `{command}`", self.name()))?;
        self.journal.note(&format!("{}$ {command}", self.name()));
        Ok(Job {
            id,
            channel,
            node: self.name(),
            command: command.to_owned(),
            journal: Arc::clone(&self.journal),
        })
    }

    /// Power loss: everything in the node ends at once, unflushed writes are lost as each disk's cache says.
    ///
    /// # Errors
    /// The node is off, or its processes do not end.
    pub fn crash(&self) -> Result<()> {
        if self.lock().kernel.is_none() {
            bail!("{} is off", self.name());
        }
        let lost = self.power_off()?;
        self.journal
            .note(&format!("{} lost power ({lost} sectors lost)", self.name()));
        Ok(())
    }

    /// Shuts the node down in order: file systems are unmounted, disks write what they hold. Mirrors are not stopped.
    ///
    /// # Errors
    /// The node is off, or does not end within the deadline.
    pub fn shutdown(&self) -> Result<()> {
        self.run("sync; umount -a -t ext4,xfs 2>/dev/null; sync")?;
        let _halting = self.spawn("halt -f -f -p")?;
        let channel = self.channel()?;
        crate::wait_until(END_DEADLINE, "the kernel halts", || {
            Ok((!channel.is_open()).then_some(()))
        })?;
        let mut power = self.lock();
        self.clear_away(&mut power)?;
        self.disks.iter().try_for_each(Disk::settle)?;
        self.journal.note(&format!("{} was shut down", self.name()));
        Ok(())
    }

    /// Power loss without questions, also of a node that is off.
    pub(crate) fn power_off(&self) -> Result<usize> {
        let mut power = self.lock();
        if power.kernel.is_none() {
            return Ok(0);
        }
        self.clear_away(&mut power)?;
        self.disks.iter().map(Disk::lose_power).sum()
    }

    /// Kills the node's processes, and returns when the last one is gone.
    fn clear_away(&self, power: &mut Power) -> Result<()> {
        power.frozen = false;
        let Some(mut kernel) = power.kernel.take() else {
            return Ok(());
        };
        let begun = Instant::now();
        loop {
            if let Some(first) = processes::first_of_namespace(kernel.process.id())? {
                processes::signal(first, Signal::SIGKILL)?;
            }
            let ended = kernel.process.try_wait();
            // Whoever reads the serial line hears of the end a moment later: only then do its commands count as ended.
            if ended.context("the node's processes")?.is_some() && !kernel.channel.is_open() {
                return Ok(());
            }
            if begun.elapsed() > END_DEADLINE {
                bail!("{} has processes that do not end", self.name());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops the whole node: it does nothing, answers nothing, and its clock stands still as seen from inside.
    ///
    /// # Errors
    /// The node is off.
    pub fn freeze(&self) -> Result<()> {
        let mut power = self.lock();
        let Some(kernel) = &power.kernel else {
            bail!("{} is off", self.name());
        };
        for pid in kernel_processes(kernel)? {
            processes::signal(pid, Signal::SIGSTOP)?;
        }
        power.frozen = true;
        self.journal.note(&format!("{} is frozen", self.name()));
        Ok(())
    }

    /// Ends [`Node::freeze`].
    ///
    /// # Errors
    /// The node is off.
    pub fn thaw(&self) -> Result<()> {
        let mut power = self.lock();
        let Some(kernel) = &power.kernel else {
            bail!("{} is off", self.name());
        };
        for pid in kernel_processes(kernel)? {
            processes::signal(pid, Signal::SIGCONT)?;
        }
        power.frozen = false;
        drop(power);
        self.journal.note(&format!("{} runs again", self.name()));
        self.wiring.dress(self)
    }

    /// Whether it can take commands: on and not frozen.
    pub(crate) fn is_awake(&self) -> bool {
        self.is_on() && !self.lock().frozen
    }

    fn channel(&self) -> Result<Arc<Channel>> {
        let power = self.lock();
        let kernel = power.kernel.as_ref();
        kernel
            .map(|kernel| Arc::clone(&kernel.channel))
            .with_context(|| format!("{} is off", self.name()))
    }

    fn lock(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.power_off() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// The processes that are the kernel; programs inside of the node are traced by it, and stand still with it.
fn kernel_processes(kernel: &Kernel) -> Result<Vec<u32>> {
    let first =
        processes::first_of_namespace(kernel.process.id())?.context("the node has no process")?;
    let all = processes::descendants(first)?;
    Ok(all
        .into_iter()
        .filter(|&pid| !processes::is_traced(pid))
        .collect())
}

fn write_sparse(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).context("a system disk")?;
    file.set_len(bytes.len() as u64).context("a system disk")?;
    for (n, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            file.write_all_at(block, n as u64 * 4096)
                .context("a system disk")?;
        }
    }
    Ok(())
}
