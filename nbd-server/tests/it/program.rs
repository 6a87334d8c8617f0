//! The program: its messages, its signals, its memory.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::*;
use crate::setup::wait_until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nbd-server");

/// A running program with one export "disk" of 1 MiB on a unix socket.
struct Running {
    child: Child,
    socket: PathBuf,
    directory: tempfile::TempDir,
}

impl Running {
    fn start(more: &[&str]) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let disk = make_disk(directory.path());
        let socket = directory.path().join("socket");
        let mut command = Command::new(PROGRAM);
        command
            .arg("--export")
            .arg(format!("disk={}", disk.display()))
            .arg("--unix")
            .arg(&socket);
        command.args(more).arg("--print-ready");
        Running::wait_ready(command, socket, directory)
    }

    fn wait_ready(mut command: Command, socket: PathBuf, directory: tempfile::TempDir) -> Running {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let mut running = Running {
            child,
            socket,
            directory,
        };
        if !line.starts_with("listening ") {
            panic!("not ready: {line:?}, {}", running.stop(Signal::SIGKILL).1);
        }
        running
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Sends a signal; the exit code and what was logged.
    fn stop(&mut self, signal: Signal) -> (Option<i32>, String) {
        // It may have ended already.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
        self.finish()
    }

    fn finish(&mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut log).unwrap();
        }
        (self.child.wait().unwrap().code(), log)
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_disk(directory: &Path) -> PathBuf {
    let path = directory.join("disk.img");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    path
}

/// Runs the program to its end: exit code, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn every_wrong_argument_gets_one_line_that_names_it_and_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let disk = make_disk(directory.path());
    let export = format!("disk={}", disk.display());
    let plain_file = directory.path().join("plain");
    std::fs::write(&plain_file, "").unwrap();
    let config = directory.path().join("config.toml");
    std::fs::write(&config, "[[export]]\nname = 'a'\npth = '/x'\n").unwrap();
    let (config, plain_file) = (config.to_str().unwrap(), plain_file.to_str().unwrap());
    let nowhere = directory.path().join("nowhere").display().to_string();
    let nowhere_export = format!("a={nowhere}");
    let directory_export = format!("a={}", directory.path().display());
    let cases: [(&[&str], &[&str]); 14] = [
        (&[], &["nothing is exported", "--export NAME=PATH"]),
        (&["--export", "disk"], &["\"disk\" is not NAME=PATH"]),
        (&["--expotr", "disk"], &["--expotr", "--export"]),
        (
            &["--export", &nowhere_export],
            &[&nowhere, "does not exist", "truncate -s"],
        ),
        (
            &["--export", &directory_export],
            &["is a directory", "regular files and block devices"],
        ),
        (
            &["--export", "a=/dev/null"],
            &["/dev/null is a character device"],
        ),
        (
            &["--export", &export, "--export", &export],
            &["in use", "read-only"],
        ),
        (
            &[
                "--export",
                &format!("{export},ro"),
                "--export",
                &format!("{export},ro"),
            ],
            &["\"disk\" exists already"],
        ),
        (
            &["--export", &export, "--listen", "localhost"],
            &["\"localhost\"", "ADDRESS:PORT"],
        ),
        (
            &["--export", &export, "--listen", "192.0.2.1:1"],
            &["192.0.2.1:1 can't be listened on"],
        ),
        (
            &["--export", &export, "--unix", plain_file],
            &["is not a socket", "another path"],
        ),
        (&["--config", &nowhere], &[&nowhere, "can't be read"]),
        (
            &["--config", config],
            &[":3:1: unknown field `pth`", "`path`"],
        ),
        (
            &["--export", &export, "--log-level", "a=b=c"],
            &["--log-level"],
        ),
    ];
    for (arguments, expected) in cases {
        let (code, stderr) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        for words in expected {
            assert!(
                stderr.contains(words),
                "{arguments:?}: {words:?} is not in {stderr}"
            );
        }
    }
    assert_eq!(std::fs::metadata(&disk).unwrap().len(), 1 << 20);
}

#[test]
fn help_teaches_with_examples() {
    let output = Command::new(PROGRAM).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && help.contains("truncate -s 1G") && help.contains("nbdinfo"),
        "{help}"
    );
}

#[test]
fn a_configuration_file_and_several_listeners_work_together() {
    let directory = tempfile::tempdir().unwrap();
    let disk = make_disk(directory.path());
    let socket = directory.path().join("socket");
    let config = directory.path().join("config.toml");
    let text = format!(
        "listen = ['127.0.0.1:0', '[::1]:0']\nunix = ['{}']\n[[export]]\nname = 'ro'\npath = '{}'\nread_only = true\n",
        socket.display(),
        disk.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .arg("--config")
        .arg(&config)
        .args(["--print-ready", "--log-format", "json"]);
    let mut running = Running::wait_ready(command, socket, directory);
    let mut client = Client::attach(&running.socket, "ro");
    assert_eq!(client.call_write(0, 0, &[1; 512]), EPERM);
    drop(client);
    let (code, log) = running.stop(Signal::SIGINT);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("listening on").count(), 3, "{log}");
    assert!(
        log.lines()
            .all(|line| line.starts_with('{') && line.ends_with('}')),
        "{log}"
    );
}

#[test]
fn sigterm_finishes_what_was_received_and_removes_the_socket() {
    let mut running = Running::start(&[]);
    let mut client = Client::attach(&running.socket, "disk");
    let mut message = Vec::new();
    for cookie in 0..100u64 {
        message.extend(request_bytes(WRITE, 0, cookie, cookie * 4096, 4096));
        message.extend([cookie as u8 + 1; 4096]);
    }
    client.send(&message);
    running.signal(Signal::SIGTERM);
    for _ in 0..100 {
        assert_eq!(client.answer(0).error, 0);
    }
    client.wait_for_close();
    let (code, log) = running.finish();
    assert_eq!(code, Some(0), "{log}");
    assert!(!running.socket.exists());
    let disk = std::fs::read(running.directory.path().join("disk.img")).unwrap();
    assert!((0..100).all(|block| disk[block * 4096] == block as u8 + 1));
}

#[test]
fn the_socket_of_a_dead_server_is_replaced_and_that_of_a_living_one_is_not() {
    let mut running = Running::start(&[]);
    let disk = running.directory.path().join("other.img");
    std::fs::File::create(&disk).unwrap().set_len(512).unwrap();
    let (export, socket) = (
        format!("disk={}", disk.display()),
        running.socket.display().to_string(),
    );
    let (code, stderr) = run(&["--export", &export, "--unix", &socket]);
    assert!(
        code == Some(2) && stderr.contains("in use by another process"),
        "{stderr}"
    );
    Client::attach(&running.socket, "disk");

    running.stop(Signal::SIGKILL);
    assert!(running.socket.exists());
    let mut command = Command::new(PROGRAM);
    command.args(["--export", &export, "--unix", &socket, "--print-ready"]);
    let next = Running::wait_ready(
        command,
        running.socket.clone(),
        tempfile::tempdir().unwrap(),
    );
    Client::attach(&next.socket, "disk");
}

#[test]
fn the_service_manager_hears_ready_and_stopping() {
    let directory = tempfile::tempdir().unwrap();
    let disk = make_disk(directory.path());
    let notify = directory.path().join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager
        .set_read_timeout(Some(crate::devices::PATIENCE))
        .unwrap();
    let socket = directory.path().join("socket");
    let mut command = Command::new(PROGRAM);
    command
        .arg("--export")
        .arg(format!("disk={}", disk.display()))
        .arg("--unix")
        .arg(&socket);
    command.arg("--print-ready").env("NOTIFY_SOCKET", &notify);
    let mut running = Running::wait_ready(command, socket, directory);
    let heard = || {
        let mut buffer = [0; 256];
        let count = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).trim().to_owned()
    };
    assert_eq!(heard(), "READY=1");
    running.stop(Signal::SIGTERM);
    assert_eq!(heard(), "STOPPING=1");
}

#[test]
fn a_socket_from_the_service_manager_is_served_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let disk = make_disk(directory.path());
    let socket = directory.path().join("activated");
    let listener = UnixListener::bind(&socket).unwrap();
    // The shell puts the socket where sd_listen_fds(3) says, and its own process id where it is asked for.
    let script = format!(
        "exec 3<&{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"",
        listener.as_raw_fd()
    );
    nix::fcntl::fcntl(
        &listener,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    // Not every sh takes a descriptor of two digits, and with the other tests in this process it may have.
    let mut command = Command::new("bash");
    command
        .args(["-c", &script, PROGRAM, "--print-ready", "--export"])
        .arg(format!("disk={}", disk.display()));
    let mut running = Running::wait_ready(command, socket, directory);
    assert_eq!(
        Client::attach(&running.socket, "disk").call_read(0, 4),
        [0; 4]
    );
    let (code, log) = running.stop(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
    assert!(
        running.socket.exists(),
        "the file belongs to the service manager"
    );
}

#[test]
fn an_idle_server_takes_less_than_10_mib_and_1000_idle_connections_less_than_64() {
    let running = Running::start(&["--log-level", "warn"]);
    let idle = running.resident_kib();
    println!("idle: {idle} KiB resident");
    assert!(idle < 10 << 10, "{idle} KiB");

    let mut clients: Vec<Client> = (0..1000)
        .map(|_| Client::attach_structured(&running.socket, "disk"))
        .collect();
    let connected = running.resident_kib();
    println!("1000 connections that did nothing yet: {connected} KiB resident");
    assert!(connected < 64 << 10, "{connected} KiB");

    // Each of them once busy: 256 KiB read and written.
    for client in &mut clients {
        assert_eq!(client.call_write(0, 0, &vec![1; 256 << 10]), 0);
        client.request(READ, 0, 1, 0, 256 << 10);
        client.chunks();
    }
    let busy = running.resident_kib();
    wait_until("memory to be given back", || {
        running.resident_kib() < 64 << 10
    });
    println!(
        "1000 connections: {busy} KiB after use, {} KiB later",
        running.resident_kib()
    );

    drop(clients);
    wait_until("an idle server", || running.resident_kib() < 10 << 10);
    println!("idle again: {} KiB resident", running.resident_kib());
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut running = Running::start(&[]);
    let disk = running.directory.path().join("disk.img");
    // A connection that can't finish: its client takes no answers.
    let mut greedy = Client::attach(&running.socket, "disk");
    greedy
        .stream
        .set_write_timeout(Some(std::time::Duration::from_millis(200)))
        .unwrap();
    while std::io::Write::write_all(&mut greedy.stream, &request_bytes(READ, 0, 1, 0, 1 << 20))
        .is_ok()
    {}
    running.signal(Signal::SIGTERM);
    wait_until("the first signal to be heard", || !running.socket.exists());
    let (code, log) = running.stop(Signal::SIGTERM);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("at once") && disk.exists());
}
