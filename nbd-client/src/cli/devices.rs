//! `nbd-client list-devices`: the kernel's NBD devices.

use std::io::Write;

use nbd_client::kernel::{self, Driver, DriverError, Found, Tree, User};
use serde::Serialize;

use super::arguments::ListDevices;
use super::exit::Exit;
use super::show;

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    devices: Vec<Device>,
}

#[derive(Serialize)]
struct Device {
    device: String,
    index: u32,
    state: &'static str,
    size: u64,
    block_size: u32,
    read_only: bool,
    identifier: Option<String>,
    pid: Option<u32>,
    users: Vec<NamedUser>,
}

/// Somebody who uses a device, as JSON says it.
#[derive(Serialize)]
pub(super) struct NamedUser {
    kind: &'static str,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

impl From<&User> for NamedUser {
    fn from(user: &User) -> NamedUser {
        let (name, pid) = match user {
            User::Process { pid, name } => (name.clone(), Some(*pid)),
            other => (other.to_string(), None),
        };
        NamedUser {
            kind: user.kind(),
            name,
            pid,
        }
    }
}

pub(crate) fn run(arguments: &ListDevices) -> Result<(), Exit> {
    let mut driver = open_driver()?;
    let tree = Tree::system();
    let listed = driver.status().map_err(|error| failed(&error))?;
    let mut devices = Vec::new();
    for status in listed {
        let found = tree.device(status.index).unwrap_or_default();
        // Between the two looks it may have gone or come; the later one counts.
        let attached = found.pid.is_some();
        if attached || arguments.all {
            devices.push(described(&tree, status.index, found, attached));
        }
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let report = Report {
            schema: "nbd-client.list-devices/1",
            devices,
        };
        serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    if devices.is_empty() {
        eprintln!("nbd-client: no device is attached");
        return Ok(());
    }
    print(&mut out, &devices)?;
    Ok(())
}

fn described(tree: &Tree, index: u32, found: Found, attached: bool) -> Device {
    let users = match attached {
        true => tree.users(index).iter().map(NamedUser::from).collect(),
        false => Vec::new(),
    };
    Device {
        device: kernel::path(index),
        index,
        state: if attached { "attached" } else { "free" },
        size: found.size,
        block_size: found.block_size,
        read_only: found.read_only,
        identifier: found.identifier.filter(|_| attached),
        pid: found.pid,
        users,
    }
}

fn print(out: &mut impl Write, devices: &[Device]) -> std::io::Result<()> {
    let heads = [
        "DEVICE",
        "STATE",
        "SIZE",
        "ACCESS",
        "IDENTIFIER",
        "IN USE BY",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
    for device in devices {
        let attached = device.pid.is_some();
        let unless_free = |text: String| if attached { text } else { "-".to_owned() };
        let users: Vec<String> = device.users.iter().map(user).collect();
        let users = if users.is_empty() {
            "-".to_owned()
        } else {
            users.join(", ")
        };
        rows.push([
            device.device.clone(),
            device.state.to_owned(),
            unless_free(show::size(device.size)),
            unless_free(
                if device.read_only {
                    "read"
                } else {
                    "read, write"
                }
                .to_owned(),
            ),
            device
                .identifier
                .as_deref()
                .map_or("-".to_owned(), show::name),
            users,
        ]);
    }
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn user(user: &NamedUser) -> String {
    let name: String = user.name.chars().flat_map(char::escape_debug).collect();
    match user.pid {
        Some(pid) => format!("{name}({pid})"),
        None => name,
    }
}

/// The kernel's driver, or why it can't be asked.
pub(super) fn open_driver() -> Result<Driver, Exit> {
    Driver::open().map_err(|error| failed(&error))
}

/// What the kernel's driver refused, and what to do about it.
pub(super) fn failed(error: &DriverError) -> Exit {
    match (error, error.errno()) {
        (DriverError::Absent, _) => Exit::failed(error)
            .hint("load it with `modprobe nbd`, on the host if this is a container"),
        (_, Some(nix::libc::EPERM)) => Exit::failed(error)
            .hint("this needs CAP_SYS_ADMIN: run it as root, outside of containers"),
        _ => Exit::failed(error),
    }
}
