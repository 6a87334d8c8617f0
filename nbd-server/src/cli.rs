//! The `nbd-server` program: command line, logs, signals, and talking to the service manager.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nix::sys::signal::{SigSet, Signal};
use sd_notify::NotifyState;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, DEFAULT_PORT, ExportConfig, ListenAddress};
use crate::export::Export;
use crate::file::FileDevice;
use crate::listener::{ListenError, Listener};
use crate::server::{Options, Server, ServerHandle};

/// Exports files and block devices over NBD (the Network Block Device protocol).
#[derive(Debug, Parser)]
#[command(name = "nbd-server", version, after_help = EXAMPLES)]
struct Arguments {
    /// Exports PATH, a regular file or block device, under NAME; with ",ro" nobody may write. Repeatable
    #[arg(long = "export", short = 'e', value_name = "NAME=PATH[,ro]")]
    exports: Vec<ExportConfig>,

    /// Listens on a TCP address, IPv4 or IPv6; the port may be left out (10809). Repeatable.
    /// Without any listener: [::]:10809, or 0.0.0.0:10809 where there is no IPv6
    #[arg(long, short = 'l', value_name = "ADDR:PORT")]
    listen: Vec<ListenAddress>,

    /// Listens on a unix socket; a file left behind by a dead server is replaced. Repeatable
    #[arg(long, short = 'u', value_name = "PATH")]
    unix: Vec<PathBuf>,

    /// Reads a TOML file with the same settings; the command line adds to it
    #[arg(long, short = 'c', value_name = "FILE")]
    config: Option<PathBuf>,

    /// Connections at once; more are closed as soon as they come [default: 1100]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: Option<u32>,

    /// Form of the log lines on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a filter such as nbd_server=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,

    /// Prints one line to standard output for each address, "listening ADDRESS", when clients can connect
    #[arg(long)]
    print_ready: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    // First of all: what the service manager passed must not be mistaken for something of our own.
    let passed = linux_sys::passed::take();
    // Threads come and go with clients; what each leaves in an arena of its own would add up.
    linux_sys::heap::limit_arenas(ARENAS);
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            let rendered = error.render().to_string();
            let problem = rendered
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("Usage:"));
            let problem = problem
                .filter(|line| !line.is_empty() && !line.starts_with("For more"))
                .collect::<Vec<_>>();
            let problem = problem.join("; ");
            let problem = problem.strip_prefix("error: ").unwrap_or(&problem);
            return complain(&format!("{problem} (see nbd-server --help)"), USAGE);
        }
        Err(help) => {
            // Fails only when the output is closed, and then nobody reads it.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    // Before any thread is started, so that all of them inherit it and only `wait` below takes signals.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    if let Err(error) = signals.thread_block() {
        return complain(&format!("signals can't be blocked: {error}"), FAILED);
    }
    let (handle, patience) = match set_up(&arguments, passed) {
        Ok(running) => running,
        Err(Problem::Usage(problem)) => return complain(&problem, USAGE),
        Err(Problem::Failed(problem)) => return complain(&problem, FAILED),
    };
    announce(&handle, arguments.print_ready);
    serve_until_told(handle, &signals, patience)
}

/// Whose fault it is that the server does not run.
enum Problem {
    Usage(String),
    Failed(String),
}

fn usage(error: impl std::fmt::Display) -> Problem {
    Problem::Usage(error.to_string())
}

fn set_up(
    arguments: &Arguments,
    passed: Vec<std::os::fd::OwnedFd>,
) -> Result<(ServerHandle, Duration), Problem> {
    let filter = EnvFilter::builder()
        .parse(&arguments.log_level)
        .map_err(|error| usage(format!("--log-level {:?}: {error}", arguments.log_level)))?;
    start_logging(arguments.log_format, filter);
    let mut config = match &arguments.config {
        Some(path) => Config::read(path).map_err(usage)?,
        None => Config::default(),
    };
    config.exports.extend(arguments.exports.iter().cloned());
    config.listen.extend(&arguments.listen);
    config.unix.extend(arguments.unix.iter().cloned());
    if config.exports.is_empty() {
        return Err(usage(
            "nothing is exported: give --export NAME=PATH or a --config with an [[export]]",
        ));
    }
    let mut options = Options::default();
    let most = arguments
        .max_connections
        .map(|number| number as usize)
        .or(config.max_connections);
    options.max_connections = most.unwrap_or(options.max_connections);
    options.handshake_timeout = config
        .handshake_seconds
        .map(Duration::from_secs)
        .unwrap_or(options.handshake_timeout);
    raise_descriptor_limit(options.max_connections);

    let mut server = Server::new(options);
    for ExportConfig {
        name,
        path,
        read_only,
        description,
        secret,
        lost_writes_note,
    } in &config.exports
    {
        let device = FileDevice::open(path, *read_only)
            .map_err(|error| usage(format!("export {name:?}: {error}")))?;
        if let Some(note) = lost_writes_note {
            device.note_lost_writes(note.clone());
        }
        let export = Export::new(name, Arc::new(device))
            .with_description(description)
            .with_secret_name(*secret);
        server.add_export(export).map_err(usage)?;
    }
    for listener in listeners(&config, passed).map_err(usage)? {
        server.add_listener(listener);
    }
    let handle = server
        .start()
        .map_err(|error| Problem::Failed(error.to_string()))?;
    Ok((
        handle,
        Duration::from_secs(config.stop_seconds.unwrap_or(STOP_SECONDS)),
    ))
}

fn listeners(
    config: &Config,
    passed: Vec<std::os::fd::OwnedFd>,
) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    for socket in passed {
        listeners.push(Listener::passed(socket)?);
    }
    for ListenAddress(address) in &config.listen {
        listeners.push(Listener::tcp(*address)?);
    }
    for path in &config.unix {
        listeners.push(Listener::unix(path)?);
    }
    if listeners.is_empty() {
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT));
        listeners.push(match Listener::tcp(everywhere) {
            Err(ListenError::Failed { .. }) => {
                Listener::tcp((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into())?
            }
            other => other?,
        });
    }
    Ok(listeners)
}

fn start_logging(format: LogFormat, filter: EnvFilter) {
    let coloured = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(coloured);
    // Fails only if a logger was set before, which then serves as well.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Each connection takes a descriptor, and may be held by requests after its client has gone.
fn raise_descriptor_limit(connections: usize) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let wanted = 2 * connections as u64 + 256;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
        && setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_err()
    {
        tracing::warn!(soft, wanted, "the limit of open files can't be raised");
    }
}

fn announce(handle: &ServerHandle, print_ready: bool) {
    for address in handle.addresses() {
        tracing::info!("listening on {address}");
        if print_ready {
            // Whoever asked for the line and does not read it has nothing to lose.
            let _ = writeln!(std::io::stdout(), "listening {address}");
        }
    }
    notify(&[NotifyState::Ready]);
}

fn serve_until_told(handle: ServerHandle, signals: &SigSet, patience: Duration) -> ExitCode {
    let told = loop {
        match signals.wait() {
            // Sent to daemons to make them reload, which this one can't: going on is better than dying of it.
            Ok(Signal::SIGHUP) => {
                tracing::info!("SIGHUP ignored: the configuration is read only at the start")
            }
            other => break other,
        }
    };
    tracing::info!(
        signal = told.map_or("?", Signal::as_str),
        "stopping; a second signal stops at once"
    );
    notify(&[NotifyState::Stopping]);
    let signals = *signals;
    // If there is no thread for it, the second signal is not heard; the first one is obeyed all the same.
    let _ = std::thread::Builder::new()
        .name("nbd-signal".to_owned())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                if signal != Signal::SIGHUP {
                    tracing::warn!(
                        signal = signal.as_str(),
                        "stopping at once; what was not flushed may be lost"
                    );
                    // Nothing is to be waited for any more; destructors would wait.
                    #[allow(clippy::exit)]
                    std::process::exit(1);
                }
            }
        });
    let stopped = handle.stop(patience);
    if stopped.cut > 0 || stopped.unflushed > 0 {
        let crate::server::Stopped { cut, unflushed } = stopped;
        tracing::warn!(
            connections_cut = cut,
            exports_not_flushed = unflushed,
            "stopped, not everything was finished"
        );
        return FAILED.into();
    }
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

fn complain(problem: &str, code: u8) -> ExitCode {
    // There is nowhere else to complain.
    let _ = writeln!(std::io::stderr(), "nbd-server: {problem}");
    code.into()
}

/// Wrong usage or configuration.
const USAGE: u8 = 2;
const FAILED: u8 = 1;
const ARENAS: u16 = 2;
const STOP_SECONDS: u64 = 20;
const EXAMPLES: &str = "\
Examples:
  truncate -s 1G disk.img
  nbd-server --export disk=disk.img                      on TCP port 10809, for everybody
  nbd-server -e disk=disk.img -l 127.0.0.1               for this machine only
  nbd-server -e disk=disk.img -e cd=cd.iso,ro -u nbd.sock
  nbd-server --config /etc/nbd-server.toml

To look at what it serves:
  nbdinfo --list nbd://127.0.0.1
  nbdinfo 'nbd+unix:///disk?socket=nbd.sock'
  qemu-img info nbd://127.0.0.1/disk

SIGTERM and SIGINT finish what was accepted, flush and stop; a second one stops at once.
Exit status: 0 stopped, 1 failed, 2 wrong usage or configuration.";
