//! One node of a cluster: its folder, its netraidd, and every process that came of it.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use netraid::api::document::{Answer, Event, Events, Mirror, Order, Outcome};
use netraid::api::local_client::{LocalClient, LocalError};
use netraid::array::disk::{Access, Disk};
use netraid::array::leg::Leg;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const TAG: &str = "data";

/// Longest wait for anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// From one look at a condition to the next.
pub const LOOK: Duration = Duration::from_millis(10);

pub struct Node {
    pub name: String,
    pub folder: PathBuf,
    daemon: Mutex<Option<Child>>,
}

/// Which of a node's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Daemon,
    Array,
    Export,
}

impl Node {
    pub fn new(name: &str, folder: PathBuf) -> Node {
        let node = Node {
            name: name.to_owned(),
            folder,
            daemon: Mutex::new(None),
        };
        for part in [node.folder.join("etc"), node.run_dir(), node.state_dir()] {
            fs::create_dir_all(part).unwrap();
        }
        node
    }

    pub fn disk(&self) -> PathBuf {
        self.disk_of(TAG)
    }

    /// The disk of another mirror than the usual one.
    pub fn disk_of(&self, tag: &str) -> PathBuf {
        match tag {
            TAG => self.folder.join("disk"),
            tag => self.folder.join(format!("disk.{tag}")),
        }
    }

    /// Where the application finds a mirror that is in service here.
    pub fn device(&self, tag: &str) -> PathBuf {
        self.run_dir().join(format!("{tag}.nbd"))
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// `$LKROOT`.
    pub fn lkroot(&self) -> PathBuf {
        self.folder.join("lk")
    }

    /// Where flag files and records are.
    pub fn state_dir(&self) -> PathBuf {
        self.lkroot().join(flags::SUBFOLDER)
    }

    pub fn flag(&self, flag: &str) -> PathBuf {
        self.state_dir().join(format!("{TAG}_{flag}"))
    }

    // --- processes ----------------------------------------------------------------------------------------------

    /// Starts netraidd; returns when it listens.
    pub fn start_daemon(&self) {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        // A file that may not grow is an error for who writes (see `full_from`), and not the end of the process.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_netraidd"))
            .arg("--config-dir")
            .arg(self.folder.join("etc"))
            .arg("--print-ready")
            .env("NETRAID_DEFAULTS_FILE", self.folder.join("etc/defaults"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let before = self.daemon.lock().unwrap().replace(child);
        assert!(before.is_none(), "netraidd of {} runs already", self.name);
        assert_eq!(line, "ready\n", "netraidd of {}: {}", self.name, self.log());
    }

    /// SIGKILL to netraidd alone.
    pub fn kill_daemon(&self) {
        let mut child = self.daemon.lock().unwrap().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends netraidd as a service manager does.
    pub fn end_daemon(&self) {
        let mut child = self.daemon.lock().unwrap().take().unwrap();
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// Every process of this node that lives: those whose arguments name its folder, which no other test has.
    pub fn processes(&self) -> Vec<(i32, Process)> {
        let needle = self.folder.to_str().unwrap().as_bytes().to_vec();
        let numbers = fs::read_dir("/proc").unwrap().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let found = numbers.filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut words = line.split(|byte| *byte == 0);
            let program = words.next()?.rsplit(|byte| *byte == b'/').next()?;
            let which = match program {
                b"netraidd" => Process::Daemon,
                b"netraid" => Process::Array,
                b"nbd-server" => Process::Export,
                _ => return None,
            };
            let names_it = |word: &[u8]| word.starts_with(&needle[..]);
            words.any(names_it).then_some((pid, which))
        });
        found.collect()
    }

    /// A signal to the process of that kind, which is there.
    pub fn signal(&self, which: Process, signal: Signal) {
        let mut found = self.processes().into_iter();
        let (pid, _) = found.find(|(_, kind)| *kind == which).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// From here on the process of that kind can write nothing behind the first `bytes` of any file, as if the pool behind
    /// its disk was full; with `None` it can again.
    pub fn full_from(&self, which: Process, bytes: Option<u64>) {
        let mut found = self.processes().into_iter();
        let (pid, _) = found.find(|(_, kind)| *kind == which).unwrap();
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let done = Command::new("prlimit")
            .args(["--pid", &pid.to_string(), &format!("--fsize={limit}:")])
            .status();
        assert!(done.unwrap().success(), "prlimit");
    }

    /// SIGKILL to the process of that kind; whether there was one.
    pub fn kill_process(&self, which: Process) -> bool {
        let found = self
            .processes()
            .into_iter()
            .find(|(_, kind)| *kind == which);
        let Some((pid, _)) = found else { return false };
        kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
    }

    /// SIGKILL to all of its processes, and nothing of what a machine forgets is left.
    pub fn power_off(&self) {
        let daemon = self.daemon.lock().unwrap().take();
        if let Some(mut child) = daemon {
            let _ = child.kill();
            let _ = child.wait();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            std::thread::sleep(LOOK);
        }
        let _ = fs::remove_dir_all(self.run_dir());
        let _ = fs::create_dir_all(self.run_dir());
    }

    /// The machine begins anew; its disk and its flags are what they were.
    pub fn boot(&self) {
        self.start_daemon();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    // --- orders and status --------------------------------------------------------------------------------------

    pub fn client(&self) -> LocalClient {
        LocalClient::new(self.run_dir().join("netraidd.sock"), PATIENCE)
    }

    pub fn order(&self, order: &Order) -> Answer {
        self.order_as(order, "")
    }

    /// What would be done.
    pub fn rehearse(&self, order: &Order) -> Answer {
        self.order_as(order, "?dry-run=true")
    }

    fn order_as(&self, order: &Order, how: &str) -> Answer {
        self.order_to(TAG, order, how)
    }

    /// Orders something of any mirror.
    pub fn order_to(&self, tag: &str, order: &Order, how: &str) -> Answer {
        let path = format!("/v1/mirrors/{tag}/orders{how}");
        let body = serde_json::to_vec(order).unwrap();
        let (_, answer) = self.client().post(&path, &body).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// Gives an order whose answer may never come.
    pub fn try_order(&self, order: &Order) {
        let body = serde_json::to_vec(order).unwrap();
        let path = format!("/v1/mirrors/{TAG}/orders");
        let _ = self.client().post(&path, &body);
    }

    /// Orders what must be done.
    pub fn done(&self, order: &Order) {
        let answer = self.order(order);
        assert_eq!(
            answer.outcome,
            Outcome::Done,
            "{order:?} on {}: {answer:?}",
            self.name
        );
    }

    /// Orders what must be refused for a reason with these words, in the reason or the next command.
    pub fn refused(&self, order: &Order, words: &str) {
        self.not_done(order, Outcome::Refused, words);
    }

    pub fn not_done(&self, order: &Order, outcome: Outcome, words: &str) {
        let answer = self.order(order);
        assert_eq!(
            answer.outcome, outcome,
            "{order:?} on {}: {answer:?}",
            self.name
        );
        let reason = answer.reason.unwrap();
        let text = format!("{}; {}", reason.why, reason.next.unwrap_or_default());
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }

    pub fn try_status(&self) -> Result<Option<Mirror>, LocalError> {
        let (status, body) = self.client().get(&format!("/v1/mirrors/{TAG}"))?;
        // A thread that has just begun shows nothing yet.
        Ok((status == 200).then(|| serde_json::from_slice(&body).unwrap()))
    }

    pub fn status(&self) -> Mirror {
        let mut found = None;
        wait(&format!("{} shows nothing", self.name), || {
            found = self.try_status().unwrap();
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits until the status is as wanted.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Mirror) -> bool) -> Mirror {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mirror = self.status();
            if wanted(&mirror) {
                return mirror;
            }
            let seen = words(&mirror).join(", ");
            assert!(
                Instant::now() < deadline,
                "{} does not see {what}, but {seen}: {mirror:#?}\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until the status words of all members are these.
    pub fn sees(&self, wanted: &[&str]) -> Mirror {
        self.wait_for(&format!("{wanted:?}"), |mirror| words(mirror) == wanted)
    }

    pub fn events(&self) -> Vec<Event> {
        let (_, body) = self.client().get("/v1/events").unwrap();
        serde_json::from_slice::<Events>(&body).unwrap().events
    }

    /// Whether something like that was told since the daemon began.
    pub fn told(&self, event: &str, words: &str) -> bool {
        let events = self.events();
        events
            .iter()
            .any(|one| one.event == event && one.text.contains(words))
    }

    pub fn wait_told(&self, event: &str, words: &str) {
        wait(
            &format!(
                "{} did not tell {event} {words}:\n{}",
                self.name,
                self.log()
            ),
            || self.told(event, words),
        );
    }

    /// The flag files, as in the scenarios of the machine: `last_owner source=server1 data_corrupt`.
    pub fn flags(&self) -> String {
        let mut found = Vec::new();
        if self.flag("last_owner").exists() {
            found.push("last_owner".to_owned());
        }
        if let Ok(source) = fs::read_to_string(self.flag("source")) {
            found.push(format!("source={}", source.trim()));
        }
        if self.flag("data_corrupt").exists() {
            found.push("data_corrupt".to_owned());
        }
        found.join(" ")
    }

    // --- the disk -----------------------------------------------------------------------------------------------

    /// Whether this node's disk says that every leg has all that was written.
    pub fn is_clean(&self) -> bool {
        let disk = Disk::open(&self.disk(), Access::Read).unwrap();
        // It may just be written.
        Leg::read(&disk).is_ok_and(|leg| leg.superblock.is_clean())
    }

    /// The mirror's data on this node's disk.
    /// Whether the bitmap on its disk has no bit set.
    pub fn has_clean_bitmap(&self) -> bool {
        let disk = Disk::open(&self.disk(), Access::Read).unwrap();
        // Half of a page that is being written can't be read.
        Leg::read(&disk).is_ok_and(|leg| leg.dirty().is_empty())
    }

    pub fn data(&self) -> Vec<u8> {
        self.data_of(TAG)
    }

    pub fn data_of(&self, tag: &str) -> Vec<u8> {
        let path = self.disk_of(tag);
        let disk = Disk::open(&path, Access::Read).unwrap();
        let leg = Leg::read(&disk).unwrap();
        let from = leg.superblock.data_offset as usize * 512;
        fs::read(path).unwrap()[from..from + leg.size() as usize].to_vec()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
        if std::thread::panicking() {
            eprintln!("--- netraidd of {}:\n{}", self.name, self.log());
        }
    }
}

/// The status words of the members, by slot.
pub fn words(mirror: &Mirror) -> Vec<&str> {
    let members = mirror.nodes.iter().filter(|node| node.member);
    members.map(|node| node.status.as_str()).collect()
}

/// Waits for a condition.
pub fn wait(otherwise: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{otherwise}");
        std::thread::sleep(LOOK);
    }
}

/// Makes a disk of zeroes.
pub fn blank(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}
