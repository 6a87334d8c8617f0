//! The processes of this machine, as /proc tells of them: a node is a tree of them.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs;

/// All descendants of a process, parents before children. A process that ends meanwhile may be missing.
pub fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let name = entry.context("/proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = field(pid, "PPid:").and_then(|value| value.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(children.remove(&parent).unwrap_or_default());
        next += 1;
    }
    found.remove(0);
    Ok(found)
}

/// The first process of the process namespace that starts below `root`: when it dies, so do all in there.
pub fn first_of_namespace(root: u32) -> Result<Option<u32>> {
    Ok(descendants(root)?.into_iter().find(|&pid| {
        field(pid, "NSpid:")
            .and_then(|value| value.split_whitespace().last().map(str::to_owned))
            .is_some_and(|last| last == "1")
    }))
}

/// Whether another process traces this one (a program inside of a node, which the node's kernel holds).
pub fn is_traced(pid: u32) -> bool {
    field(pid, "TracerPid:").is_some_and(|tracer| tracer != "0")
}

/// Sends a signal; a process that is gone is none to send to.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let number = i32::try_from(pid).context("a process id")?;
    match kill(Pid::from_raw(number), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{signal} for process {pid}")),
    }
}

fn field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}
