//! In service and out of it: restore, remove, quickCheck, recover, delete, parents.

use std::time::{Duration, Instant};

use netraid::api::document::{Order, Outcome};

use crate::daemon::{Daemon, Failure};
use crate::lifekeeper::{self, Ended};
use crate::log::{self, Log};
use crate::script::Call;

/// Puts the mirror in service here.
pub(crate) fn restore(call: &Call) -> u8 {
    let done = Daemon::new(call).order(&call.tag, &Order::Restore);
    end(call, "the mirror is in service", done)
}

/// Takes it out of service here. If netraidd can't be asked, it may still be in use: that is a failure.
pub(crate) fn remove(call: &Call) -> u8 {
    let done = Daemon::new(call).order(&call.tag, &Order::Remove);
    end(call, "the mirror is out of service", done)
}

/// Forgets it here. A mirror that is not known is forgotten already.
pub(crate) fn delete(call: &Call) -> u8 {
    let done = match Daemon::new(call).order(&call.tag, &Order::Delete) {
        Err(Failure {
            outcome: Outcome::Usage,
            ..
        }) => Ok(()),
        done => done,
    };
    end(call, "the mirror is forgotten here", done)
}

/// Tells netraidd of the parents that `LKDR_WAIT_TO_RESYNC` names.
pub(crate) fn parents(call: &Call) -> u8 {
    let done = Daemon::new(call).order(&call.tag, &Order::Parents { up: call.up });
    end(call, "netraidd knows of the parents", done)
}

/// Sees whether all is well. What is not raises `netraid,recover`. A resource that LifeKeeper has out of service is well.
pub(crate) fn quick_check(call: &Call) -> u8 {
    let log = Log::new(call.script, Some(&call.tag));
    let Err(failure) = Daemon::new(call).order(&call.tag, &Order::QuickCheck) else {
        return 0;
    };
    if out_of_service(call) {
        return 0;
    }
    log.error(log::NOT_DONE, &failure.why);
    let tag = call.tag.as_str();
    let words = ["-C", "netraid", "-E", "recover", "-n", tag];
    match lifekeeper::raise(&words, Instant::now() + EVENT) {
        Ended::Code(0, _) | Ended::Late => log.info(log::EVENT, "raised netraid,recover"),
        Ended::Code(code, _) => log.error(log::EVENT, &format!("sendevent ended with {code}")),
        Ended::Absent(why) => log.error(log::EVENT, &format!("no event was raised: {why}")),
    }
    1
}

/// Whether LifeKeeper itself has the resource out of service; not, if it can't be told.
fn out_of_service(call: &Call) -> bool {
    let until = Instant::now() + EVENT;
    match lifekeeper::run("ins_list", &["-t", call.tag.as_str()], until) {
        Ended::Code(0, text) => {
            let state = text
                .lines()
                .next()
                .and_then(|line| line.split('\u{1}').nth(6));
            matches!(state, Some("OSU" | "OSF"))
        }
        _ => false,
    }
}

/// Mends what can be mended here: tries again what failed, and puts a mirror that went out of service in service again. A
/// mirror that another node took over is not mended.
pub(crate) fn recover(call: &Call) -> u8 {
    let daemon = Daemon::new(call);
    let done = daemon
        .order(&call.tag, &Order::QuickCheck)
        .or_else(|failure| match daemon.mirror(&call.tag) {
            Ok(mirror) if mirror.service == "out" => daemon.order(&call.tag, &Order::Restore),
            _ => Err(failure),
        });
    end(call, "the mirror is well", done).min(1)
}

/// Logs how it ended; the exit code.
pub(crate) fn end(call: &Call, done: &str, ended: Result<(), Failure>) -> u8 {
    let log = Log::new(call.script, Some(&call.tag));
    if !call.ignored.is_empty() {
        let words = call.ignored.join(", ");
        log.info(log::NOTE, &format!("not needed: {words}"));
    }
    match ended {
        Ok(()) => {
            log.info(log::DONE, done);
            0
        }
        Err(failure) => {
            log.error(log::NOT_DONE, &failure.why);
            failure.outcome.exit_code().max(1)
        }
    }
}

/// How long an event may take to be raised, and a list to be given.
const EVENT: Duration = Duration::from_secs(5);
