//! `make lab-shell`: boots nodes and gives a prompt on each, and one for the cables and the power.
//!
//! On a terminal the keys go to a shell on one of the nodes; Ctrl-] leads to the lab's own prompt. Without a terminal the
//! lab's commands are read from standard input, one a line.

use anyhow::{Context, Result, bail};
use netraid_lab::{Cache, Failing, Job, Lab, Node, available};
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const USAGE: &str = "lab-shell [--nodes N] [--disk MIB]... [--memory MIB]";
const HELP: &str = "\
  1, 2, ...            the prompt of that node; Ctrl-] there leads back here
  1 COMMAND            run a command on that node, and show what it says
  cut A B, join A B    pull the cable between two nodes, plug it in (cut-one-way A B)
  delay A B MS         packets take longer, each way; loss A B PERCENT: some are lost
  crash N, start N     power loss, power on; shutdown N: in order
  freeze N, thaw N     stop everything on a node, let it go on
  fail N DISK          the disk ends every request with an error (heal N DISK); stall N DISK, resume N DISK
  volatile N DISK      from now on a power loss takes what the disk was not told to flush
  status               nodes and disks; console N: what its kernel said
  quit                 the end of everything, nothing is kept";
/// Ctrl-].
const ESCAPE: u8 = 0x1d;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-shell: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (mut nodes, mut disks, mut memory) = (2, Vec::new(), 256);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u32> {
            let value = words
                .next()
                .with_context(|| format!("{word} needs a number\n{USAGE}"))?;
            value
                .parse()
                .with_context(|| format!("{word} {value}\n{USAGE}"))
        };
        match word.as_str() {
            "--nodes" => nodes = number()? as usize,
            "--disk" => disks.push(u64::from(number()?)),
            "--memory" => memory = number()?,
            "--help" | "-h" => {
                println!("{USAGE}\n\nThe lab's commands:\n{HELP}");
                return Ok(());
            }
            _ => bail!("{word}?\n{USAGE}"),
        }
    }
    available().map_err(anyhow::Error::msg)?;
    if disks.is_empty() {
        disks.push(256);
    }
    eprintln!("booting {nodes} nodes");
    let builder = Lab::builder().nodes(nodes).disks(&disks).memory(memory);
    let shell = Arc::new(Shell {
        lab: builder.start()?,
        sessions: Mutex::default(),
        shown: AtomicUsize::new(0),
    });
    println!("ready");
    status(&shell.lab)?;
    if io::stdin().is_terminal() {
        println!("\n{HELP}\n");
        on_a_terminal(&shell)
    } else {
        for line in io::stdin().lock().lines() {
            let line = line.context("standard input")?;
            if line.trim() == "quit" {
                break;
            }
            if let Err(error) = command(&shell.lab, &line) {
                eprintln!("{error:#}");
            }
        }
        Ok(())
    }
}

struct Shell {
    lab: Lab,
    /// A shell for each node that one was asked for.
    sessions: Mutex<Vec<(usize, Arc<Job>)>>,
    /// The node whose prompt is on the terminal; 0 for the lab's.
    shown: AtomicUsize,
}

fn on_a_terminal(shell: &Arc<Shell>) -> Result<()> {
    let before = stty(&["-g"])?;
    let mut next = Some(1);
    loop {
        if let Some(node) = next.take() {
            stty(&["raw", "-echo"])?;
            let attached = attach(shell, node);
            stty(&[before.trim()])?;
            if let Err(error) = attached {
                eprintln!("{error:#}");
            }
        }
        print!("\nlab> ");
        io::stdout().flush().context("the terminal")?;
        let mut line = String::new();
        if io::stdin().read_line(&mut line).context("the terminal")? == 0 || line.trim() == "quit" {
            return Ok(());
        }
        let lab = &shell.lab;
        match line.trim().parse() {
            Ok(node) if (1..=lab.nodes().len()).contains(&node) => next = Some(node),
            _ => {
                if let Err(error) = command(lab, &line) {
                    eprintln!("{error:#}");
                }
            }
        }
    }
}

/// Sends keys to a node's shell until Ctrl-].
fn attach(shell: &Arc<Shell>, number: usize) -> Result<()> {
    let job = session(shell, number)?;
    shell.shown.store(number, Ordering::SeqCst);
    print!("[node{number}, Ctrl-] leads to the lab]\r\n");
    io::stdout().flush().context("the terminal")?;
    // A new prompt: what was there before is on the screen no more.
    job.feed(b"\r")?;
    let mut keys = [0; 256];
    loop {
        // Read without the buffer of `io::stdin`: lines typed ahead belong to whoever reads next.
        let length = nix::unistd::read(io::stdin(), &mut keys).context("the terminal")?;
        let keys = &keys[..length];
        let end = keys.iter().position(|&key| key == ESCAPE);
        job.feed(&keys[..end.unwrap_or(length)])?;
        if end.is_some() || length == 0 || !job.is_running() {
            shell.shown.store(0, Ordering::SeqCst);
            return Ok(());
        }
    }
}

/// The shell of a node, started if there is none.
fn session(shell: &Arc<Shell>, number: usize) -> Result<Arc<Job>> {
    let mut sessions = shell
        .sessions
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    sessions.retain(|(_, job)| job.is_running());
    if let Some((_, job)) = sessions.iter().find(|(node, _)| *node == number) {
        return Ok(Arc::clone(job));
    }
    let size = stty(&["size"]).unwrap_or_default();
    let mut size = size.split_whitespace();
    let (rows, columns) = (size.next().unwrap_or("24"), size.next().unwrap_or("80"));
    let node = shell.lab.node(number);
    // `script` gives the shell a terminal of its own in the node.
    let job = Arc::new(node.spawn(&format!(
        "export TERM=${{TERM:-vt100}} PS1='node{number}# '; \
         exec script -qfc 'stty rows {rows} columns {columns}; exec bash --norc -i' /dev/null"
    ))?);
    let (output, shell) = (Arc::clone(&job), Arc::clone(shell));
    thread::spawn(move || {
        while let Some(bytes) = output.take(Duration::from_secs(1)) {
            // What a node says while another one is on the terminal is dropped.
            if shell.shown.load(Ordering::SeqCst) == number {
                let mut out = io::stdout().lock();
                if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                    return;
                }
            }
        }
        if shell.shown.load(Ordering::SeqCst) == number {
            print!("\r\n[the shell of node{number} has ended, press a key]\r\n");
            let _ = io::stdout().flush();
        }
    });
    sessions.push((number, Arc::clone(&job)));
    Ok(job)
}

fn command(lab: &Lab, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |n: usize| -> Result<usize> {
        let word = words
            .get(n)
            .context("a number is missing; `help` lists the commands")?;
        word.parse().with_context(|| format!("{word} is no number"))
    };
    let node = |n: usize| -> Result<&Node> {
        let number = number(n)?;
        lab.nodes()
            .get(number.wrapping_sub(1))
            .with_context(|| format!("there is no node {number}"))
    };
    let disk = |n: usize| {
        let (node, number) = (node(n)?, number(n + 1)?);
        node.disks()
            .get(number)
            .with_context(|| format!("there is no disk {number}"))
    };
    match words.first().copied() {
        None => Ok(()),
        Some("help") => {
            println!("{HELP}");
            Ok(())
        }
        Some("status") => status(lab),
        Some("console") => {
            println!("{}", node(1)?.console());
            Ok(())
        }
        Some("cut") => lab.cut(number(1)?, number(2)?),
        Some("cut-one-way") => lab.cut_one_way(number(1)?, number(2)?),
        Some("join") => lab.join(number(1)?, number(2)?),
        Some("delay") => lab.delay(
            node(1)?.number(),
            node(2)?.number(),
            u32::try_from(number(3)?)?,
        ),
        Some("loss") => lab.loss(node(1)?.number(), node(2)?.number(), number(3)? as f32),
        Some("crash") => node(1)?.crash(),
        Some("start") => node(1)?.start(),
        Some("shutdown") => node(1)?.shutdown(),
        Some("freeze") => node(1)?.freeze(),
        Some("thaw") => node(1)?.thaw(),
        Some("fail") => disk(1)?.fail(0..u64::MAX, Failing::Both),
        Some("heal") => disk(1)?.heal(),
        Some("stall") => disk(1)?.stall(),
        Some("resume") => disk(1)?.resume(),
        Some("volatile") => disk(1)?.set_cache(Cache::Volatile),
        Some(first) if first.parse::<usize>().is_ok() => {
            let job = node(0)?.spawn(line.trim_start().trim_start_matches(first))?;
            job.close_input()?;
            while let Some(bytes) = job.take(Duration::from_secs(1)) {
                io::stdout().write_all(&bytes).context("standard output")?;
            }
            match job.output().status {
                0 => Ok(()),
                status => bail!("status {status}"),
            }
        }
        Some(other) => bail!("{other}? `help` lists the commands"),
    }
}

fn status(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        let power = if node.is_on() { "on" } else { "off" };
        println!("{} {} {power}", node.name(), node.ip());
        for disk in node.disks().iter().skip(1) {
            let counts = disk.counts()?;
            println!(
                "  {} {} MiB, read {} MiB, written {} MiB, {} flushes, {} failed",
                disk.device(),
                disk.size() >> 20,
                counts.read_bytes >> 20,
                counts.written_bytes >> 20,
                counts.flushes,
                counts.failed
            );
        }
    }
    Ok(())
}

/// Asks or sets the terminal, through the program that every machine has.
fn stty(words: &[&str]) -> Result<String> {
    let mut command = Command::new("stty");
    let output = command
        .args(words)
        .stdin(Stdio::inherit())
        .output()
        .context("stty")?;
    if !output.status.success() {
        bail!("stty: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
