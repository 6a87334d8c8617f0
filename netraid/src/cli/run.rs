//! `netraid run`: runs a mirror in the foreground, from this node's leg.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use flags::Tag;
use nbd_client::Target;
use nix::sys::signal::{SigSet, Signal};

use super::exit::Exit;
use super::run_dir;
use crate::raid1::engine::{IO_ERROR_LIMIT, OnCongestion, Settings};
use crate::run::{Plan, RunError, Running};

/// Runs a mirror in the foreground, from this node's leg, until SIGTERM or Ctrl-C.
///
/// Targets that are legs already are connected and resynced by themselves, now and whenever they return.
/// When the mirror can be used, one line "ready URI" is printed for each place where it is exported.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    netraid run --tag data --disk /dev/sdb1 --node server1 --target server2=nbd://server2/data --unix /run/data.nbd")]
pub(super) struct Arguments {
    /// Name of the mirror and of its export
    #[arg(long)]
    tag: String,

    /// This node's leg
    #[arg(long, value_name = "PATH")]
    disk: PathBuf,

    /// This node's name
    #[arg(long)]
    node: String,

    /// Another leg: its node and the NBD URI of its disk. Repeatable
    #[arg(long = "target", value_name = "NODE=URI", value_parser = target)]
    targets: Vec<(String, Target)>,

    /// Export the mirror on a unix socket. Repeatable
    #[arg(long, value_name = "SOCKET")]
    unix: Vec<PathBuf>,

    /// Export the mirror on a TCP address. Repeatable
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,

    /// Folder of the control socket [default: $NETRAID_RUN_DIR, else /run/netraid or $XDG_RUNTIME_DIR/netraid]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,

    /// Expel a target that does not answer for this long
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = milliseconds)]
    leg_timeout: u64,

    /// Most bytes a second that a resync reads; 0: as many as it can
    #[arg(long, default_value = "0", value_name = "SIZE", value_parser = super::size::parse)]
    resync_rate: u64,

    /// Compare legs by these digests before copying, and send only what differs; "none" sends all that is marked
    #[arg(long, default_value = "blake3", value_name = "ALGORITHM", value_parser = ["blake3", "none"])]
    csums_alg: String,

    /// How long a dirty bit stays after the last write
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = milliseconds)]
    clean_interval: u64,

    /// Answer writes without waiting for this node, which gets them in order (protocol A). Repeatable
    #[arg(long, value_name = "NODE")]
    asynchronous: Vec<String>,

    /// Most bytes on the way to each asynchronous node whose writes are answered already
    #[arg(long, default_value = "10M", value_name = "SIZE", value_parser = super::size::parse)]
    sndbuf_size: u64,

    /// When too much is on the way to an asynchronous node: let writes wait for room in its send buffer, cut it off, or let it
    /// have what is on the way and leave it behind until that is there; it gets what it missed afterwards
    #[arg(long, default_value = "block", value_name = "POLICY", value_parser = ["block", "disconnect", "pull-ahead"])]
    on_congestion: String,

    /// How many bytes on the way are too much; unless given, more than the send buffer holds
    #[arg(long, value_name = "SIZE", value_parser = super::size::parse)]
    congestion_fill: Option<u64>,

    /// What to do when this node's leg fails a write: give it up, or tell the application and keep it
    #[arg(long, default_value = "detach", value_name = "POLICY", value_parser = ["detach", "pass-through"])]
    on_io_error: String,

    /// Give a leg up with the first error above so many; 0: whatever it does
    #[arg(long, default_value_t = IO_ERROR_LIMIT, value_name = "COUNT")]
    io_error_limit: u64,

    /// Put checksums of this kind behind all that goes to and comes from the targets
    #[arg(long, default_value = "none", value_name = "ALGORITHM", value_parser = ["crc32", "none"])]
    data_integrity_alg: String,

    /// Take a leg that was being resynced as it is: its blocks may be of different times
    #[arg(long)]
    force: bool,

    /// Give the data a generation of its own before anything is written: what other nodes call newer is given up
    #[arg(long)]
    new_generation: bool,

    /// Connect no target but on order, and take none back that was lost (netraidd starts mirrors so)
    #[arg(long, conflicts_with = "targets")]
    supervised: bool,

    /// Hold requests back until whoever supervises the mirror says otherwise
    #[arg(long, hide = true, requires = "supervised")]
    held: bool,
}

fn on_congestion(arguments: &Arguments) -> OnCongestion {
    let above = arguments.congestion_fill.unwrap_or(arguments.sndbuf_size);
    match arguments.on_congestion.as_str() {
        "disconnect" => OnCongestion::Disconnect(above),
        "pull-ahead" => OnCongestion::PullAhead(above),
        _ => OnCongestion::Block,
    }
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let tag = Tag::new(arguments.tag.as_str()).map_err(Exit::usage)?;
    if arguments.unix.is_empty() && arguments.listen.is_empty() {
        return Err(Exit::usage(
            "nobody could use the mirror: --unix SOCKET or --listen ADDR:PORT is needed",
        ));
    }
    let plan = Plan {
        tag: tag.as_str().to_owned(),
        disk: arguments.disk.clone(),
        node: arguments.node.clone(),
        targets: arguments.targets.clone(),
        unix: arguments.unix.clone(),
        listen: arguments.listen.clone(),
        run_dir: run_dir::resolve(arguments.run_dir.as_deref())?,
        settings: Settings {
            leg_timeout: arguments.leg_timeout,
            resync_rate: arguments.resync_rate,
            clean_interval: arguments.clean_interval,
            compare: arguments.csums_alg != "none",
            send_buffer: arguments.sndbuf_size,
            on_congestion: on_congestion(arguments),
            pass_through: arguments.on_io_error == "pass-through",
            io_error_limit: arguments.io_error_limit,
            new_generation: arguments.new_generation,
            ..Settings::default()
        },
        asynchronous: arguments.asynchronous.clone(),
        integrity: arguments.data_integrity_alg != "none",
        force: arguments.force,
        supervised: arguments.supervised,
        held: arguments.held,
    };
    // Before any thread is started, so that all of them inherit it and only `wait` below takes signals.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(Exit::failed)?;
    let running = Running::start(&plan).map_err(|error| match error {
        RunError::Usage(_) | RunError::Leg { .. } => Exit::usage(error),
        RunError::Refused { .. } => Exit::refused(error),
        RunError::Failed(_) => Exit::failed(error),
    })?;
    let mut out = std::io::stdout().lock();
    for uri in running.uris() {
        // Whoever started us may not be listening any more; the mirror runs all the same.
        let _ = writeln!(out, "ready {uri}").and_then(|()| out.flush());
    }
    drop(out);
    signals.wait().map_err(Exit::failed)?;
    running.stop().map_err(Exit::failed)
}

fn target(text: &str) -> Result<(String, Target), String> {
    let (node, uri) = text
        .split_once('=')
        .ok_or("NODE=URI is needed, like server2=nbd://server2/data")?;
    let target = uri.parse::<Target>().map_err(|error| error.to_string())?;
    Ok((node.to_owned(), target))
}

/// Reads a time such as `500ms`, `10s` or `2m`, in milliseconds.
fn milliseconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        other => return Err(format!("unit {other:?} is not ms, s or m")),
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a time like 500ms, 10s or 2m"))?;
    match count.checked_mul(unit) {
        Some(time) if time > 0 => Ok(time),
        _ => Err(format!(
            "{text:?}: more than nothing and less than ages is needed"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(milliseconds("500ms"), Ok(500));
        assert_eq!(milliseconds("10s"), Ok(10_000));
        assert_eq!(milliseconds("3"), Ok(3000));
        assert_eq!(milliseconds("2m"), Ok(120_000));
        for wrong in ["", "s", "0s", "-1s", "1h", "99999999999999999999s", "1.5s"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
    }
}
