//! What the command line may say.

mod device;

use std::time::Duration;

pub(crate) use device::{Attach, Detach, ListDevices};

use clap::{ArgAction, Args, Parser};
use nbd_client::uri::UriError;
use nbd_client::{Options, Target};

use super::exit::Exit;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "nbd-client",
    version,
    about = "Look at NBD exports, copy them, compare them, and make block devices of them",
    after_help = "\
Exports are named by NBD URIs:
  nbd://HOST[:PORT]/EXPORT             TCP; port 10809 if none is given; IPv6 in brackets
  nbd+unix:///EXPORT?socket=PATH       unix socket

Examples:
  nbd-client list nbd://server2/
  nbd-client info nbd://server2/disk
  nbd-client copy disk.img nbd://server2/disk
  nbd-client compare disk.img nbd://server2/disk
  nbd-client attach nbd://server2/disk /dev/nbd0

Exit codes: 0 done, 1 failed, 2 the command line names something that does not exist, 3 refused because
of what is there (nothing was changed), 124 the server did not answer in time. compare: 1 different,
4 could not find out.

NBD_CLIENT_LOG=debug shows what happens on the connections."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Subcommand,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Subcommand {
    Info(Info),
    List(List),
    Map(Map),
    Copy(Copy),
    Compare(Compare),
    Attach(Attach),
    Detach(Detach),
    ListDevices(ListDevices),
}

/// Show the size of an export and what it can do
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nbd-client info nbd://server2/disk
  nbd-client info --json 'nbd+unix:///disk?socket=/run/nbd.sock' | jq .size

JSON (schema nbd-client.info/1): uri, export, size, read_only, canonical_name, description, headers
(simple, structured or extended), block_sizes {minimum, preferred, maximum, given_by_server},
offers {flush, fua, trim, write_zeroes, fast_zero, cache, multiple_connections, rotational, ...}, contexts.")]
pub(crate) struct Info {
    /// NBD URI of the export
    #[arg(value_name = "URI")]
    pub(crate) target: String,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// List the exports of a server
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nbd-client list nbd://server2/
  nbd-client list --json 'nbd+unix:///?socket=/run/nbd.sock'

JSON (schema nbd-client.list/1): server, exports [{name, description, uri}].")]
pub(crate) struct List {
    /// NBD URI of the server; an export name in it is ignored
    #[arg(value_name = "URI")]
    pub(crate) target: String,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// Show which parts of an export hold data
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nbd-client map nbd://server2/disk
  nbd-client map --context x-netraid:dirty nbd://server2/disk
  nbd-client map --json nbd://server2/disk | jq '[.extents[] | select(.status == 0) | .length] | add'

Columns: offset, length, status, and for base:allocation what it means: data; hole (nothing is allocated,
what it reads as is open); zero (reads as zeroes); hole,zero.

JSON (schema nbd-client.map/1): uri, context, size, extents [{offset, length, status, type}].")]
pub(crate) struct Map {
    /// NBD URI of the export
    #[arg(value_name = "URI")]
    pub(crate) target: String,
    /// Block-status context to show
    #[arg(long, value_name = "NAME", default_value = "base:allocation")]
    pub(crate) context: String,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// Copy a disk: from and to a local file or device, or an NBD export
#[derive(Debug, Args)]
#[command(after_help = "\
Holes stay holes: what the source says is zero is neither read nor sent, and runs of zeroes that are found
are not written as data. A local file that does not exist is made; one that exists is overwritten.
A destination smaller than the source is refused before anything is written; of a larger one the rest stays
as it is. A source is reconnected to for a minute if it is lost; a destination that is lost ends the copy.

Examples:
  nbd-client copy disk.img nbd://server2/disk
  nbd-client copy nbd://server2/disk /backup/disk.img
  nbd-client copy nbd://server1/disk nbd://server2/disk
  nbd-client copy --json disk.img nbd://server2/disk | jq .bytes_written

JSON (schema nbd-client.copy/1): source, destination, size, bytes_read, bytes_written, bytes_zeroed,
flushed, seconds.")]
pub(crate) struct Copy {
    /// Local path or NBD URI to copy from
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Local path or NBD URI to copy to
    #[arg(value_name = "DESTINATION")]
    pub(crate) destination: String,
    /// Do not wait until the destination has everything on stable storage
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "flush")]
    no_flush: bool,
    /// Wait until the destination has everything on stable storage (the default)
    #[arg(long, action = ArgAction::SetTrue)]
    flush: bool,
    /// Allocate all of the destination: write zeroes so that no holes remain
    #[arg(long)]
    pub(crate) allocated: bool,
    /// The destination is known to read as zeroes: leave out what is zero
    #[arg(long)]
    pub(crate) destination_is_zero: bool,
    /// Print a JSON document at the end
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) traffic: Traffic,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

impl Copy {
    pub(crate) fn flushes(&self) -> bool {
        self.flush || !self.no_flush
    }
}

/// Compare two disks: local files or devices, or NBD exports
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 0: the same; 1: different; 4: could not find out.
Parts that both sides say are zero are not read.

Examples:
  nbd-client compare disk.img nbd://server2/disk && echo same
  nbd-client compare --common small.img nbd://server2/larger

JSON (schema nbd-client.compare/1): a, b, same, size_a, size_b, first_difference (offset or null),
bytes_compared, seconds.")]
pub(crate) struct Compare {
    /// Local path or NBD URI
    #[arg(value_name = "A")]
    pub(crate) a: String,
    /// Local path or NBD URI
    #[arg(value_name = "B")]
    pub(crate) b: String,
    /// Compare only as much as both have
    #[arg(long)]
    pub(crate) common: bool,
    /// Print a JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) traffic: Traffic,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// How much is under way at once.
#[derive(Debug, Args)]
pub(crate) struct Traffic {
    /// Requests in flight
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) requests: u16,
    /// Bytes of one request, a power of two; K and M are understood
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = parse_request_size)]
    pub(crate) request_size: u32,
    /// Connections to each server that allows several
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) connections: u8,
    /// Never show a progress bar
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// How long to wait for a server.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Patience {
    /// Seconds for each answer of the server, and for connecting
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_seconds)]
    timeout: Duration,
}

impl Patience {
    pub(crate) fn options(&self) -> Options {
        let connect_timeout = self.timeout.min(Options::default().connect_timeout);
        Options {
            connect_timeout,
            request_timeout: Some(self.timeout),
            ..Options::default()
        }
    }
}

#[cfg(test)]
impl Traffic {
    pub(crate) fn for_tests() -> Traffic {
        Traffic {
            requests: 16,
            request_size: 1 << 20,
            connections: 1,
            quiet: true,
        }
    }
}

#[cfg(test)]
impl Patience {
    pub(crate) fn for_tests() -> Patience {
        Patience {
            timeout: Duration::from_secs(10),
        }
    }
}

/// The export that a URI names; what is wrong with it is one line.
pub(crate) fn target(text: &str) -> Result<Target, Exit> {
    text.parse().map_err(|error: UriError| Exit::usage(error))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse::<f64>()
        .ok()
        .filter(|seconds| (0.001..=86_400.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected seconds from 0.001 to 86400".to_owned())
}

fn parse_request_size(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let size = digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    size.filter(|size| size.is_power_of_two() && (4096..=32 << 20).contains(size))
        .ok_or_else(|| "expected a power of two from 4K to 32M".to_owned())
}
