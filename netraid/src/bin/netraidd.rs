//! `netraidd`: the daemon of a node; see `netraidd --help`.

use std::process::ExitCode;

use clap::Parser;
use netraid::cli::netraidd::Arguments;
use netraid::config::{Config, config_dir, defaults_file};
use netraid::node::daemon::{DaemonError, serve};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("NETRAID_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let folder = config_dir(arguments.config_dir.as_deref());
    let config = match Config::load(&folder, &defaults_file()) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("netraidd: {problems}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("netraidd: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ready = || {
        // Nobody may be there to be told.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        if arguments.print_ready {
            println!("ready");
        }
    };
    let reload =
        move || Config::load(&folder, &defaults_file()).map_err(|problems| problems.to_string());
    let ended = runtime.block_on(serve(config, reload, ready));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netraidd: {error}");
            ExitCode::from(match error {
                DaemonError::Usage(_) => 2,
                DaemonError::Failed(_) => 1,
            })
        }
    }
}
