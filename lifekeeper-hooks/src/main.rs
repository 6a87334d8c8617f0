//! The LifeKeeper resource scripts of NetRAID mirrors, all in one program: which one it is, its name or its first word says.
//!
//! It starts in milliseconds, asks netraidd over its socket, and always ends within a time that is written in `script`.

mod daemon;
mod hierarchy;
mod install;
mod lifekeeper;
mod log;
mod script;
mod service;

use std::process::ExitCode;

use script::{Call, Script};

fn main() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let own = words.next().unwrap_or_default();
    let own = own.rsplit('/').next().unwrap_or_default();
    let mut rest: Vec<String> = words.collect();
    let script = Script::of(own).or_else(|| {
        let named = Script::of(rest.first()?)?;
        rest.remove(0);
        Some(named)
    });
    if let Some(script) = script {
        return ExitCode::from(match Call::parse(script, &rest) {
            Ok(call) => perform(&call),
            Err(why) => {
                log::Log::new(script, None).error(log::USAGE, &why);
                USAGE
            }
        });
    }
    match rest.first().map(String::as_str) {
        Some("install") => install::main(&rest[1..]),
        Some("--version" | "-V") => {
            println!("lifekeeper-hooks {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("--help" | "-h") => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{HELP}");
            ExitCode::from(USAGE)
        }
    }
}

fn perform(call: &Call) -> u8 {
    match call.script {
        Script::Restore => service::restore(call),
        Script::Remove => service::remove(call),
        Script::QuickCheck => service::quick_check(call),
        Script::Recover => service::recover(call),
        Script::Delete => service::delete(call),
        Script::Parents => service::parents(call),
        Script::Create => hierarchy::create(call),
        Script::CanExtend => hierarchy::can_extend(call),
        Script::Extend => hierarchy::extend(call),
        Script::Unextend => hierarchy::unextend(call),
        Script::DepsToExtend => hierarchy::deps_to_extend(),
    }
}

/// The command line is wrong, or names what does not exist.
const USAGE: u8 = 2;

const HELP: &str = "\
The LifeKeeper scripts of NetRAID mirrors (scsi/netraid); the tag is the mirror's.

Usage: lifekeeper-hooks SCRIPT ARGUMENTS    (or by a link that has the script's name)

  restore    -t TAG -i ID     put the mirror in service here
  remove     -t TAG -i ID     take it out of service here
  quickCheck -t TAG -i ID     see whether all is well; raises netraid,recover if not
  recover    -t TAG -i ID     mend it here
  delete     -t TAG -i ID     forget it here
  create     -t TAG ...       make this node's disk its first leg, and the resource
  canextend    SYSTEM TAG     whether this node can become a target of SYSTEM
  extend       SYSTEM TAG ... make this node a target, and the resource
  unextend     SYSTEM TAG     let this node go
  depstoextend SYSTEM TAG     what has to be extended with it: nothing
  parents up|down -t TAG      what LKDR_WAIT_TO_RESYNC waits for is in service, or is not

  install --lkroot DIR [--dry-run] [--force]    lay them out below DIR

Exit codes: 0 done, or already so; 1 failed; 2 wrong usage or no such mirror; 3 refused by the
state, nothing was changed; 124 not done in time. quickCheck and recover: 0 or 1.

Environment: LKROOT [/opt/LifeKeeper], NETRAID_RUN_DIR [/run/netraid], NETRAID_SCRIPT_LIMIT
(such as NETRAID_REMOVE_LIMIT) in seconds.";
