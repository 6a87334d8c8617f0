//! Lines of the log, in LifeKeeper's form: to standard error, which LifeKeeper keeps, and to syslog (local6).

use std::os::unix::net::UnixDatagram;

use flags::Tag;

use crate::script::Script;

/// It was done.
pub(crate) const DONE: u32 = 104_951;
/// It was not done.
pub(crate) const NOT_DONE: u32 = 104_952;
/// The arguments are wrong.
pub(crate) const USAGE: u32 = 104_953;
/// Something to know.
pub(crate) const NOTE: u32 = 104_954;
/// An event was raised.
pub(crate) const EVENT: u32 = 104_955;

/// The log of one call.
#[derive(Debug)]
pub(crate) struct Log {
    script: Script,
    tag: String,
}

impl Log {
    pub(crate) fn new(script: Script, tag: Option<&Tag>) -> Log {
        Log {
            script,
            tag: tag.map_or_else(String::new, ToString::to_string),
        }
    }

    pub(crate) fn error(&self, number: u32, text: &str) {
        self.write("ERROR", 3, number, text);
    }

    pub(crate) fn info(&self, number: u32, text: &str) {
        self.write("INFO", 6, number, text);
    }

    fn write(&self, level: &str, severity: u8, number: u32, text: &str) {
        let script = self.script.name();
        // One line, whatever somebody else wrote into it.
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let line = format!("{level}:dr:{script}:{}:{number}:{text}", self.tag);
        eprintln!("{line}");
        let priority = FACILITY * 8 + severity;
        let datagram = format!("<{priority}>{script}[{}]: {line}", std::process::id());
        // A syslog that is full or not there must not keep a script; LifeKeeper has the line on standard error.
        let _ = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to(datagram.as_bytes(), "/dev/log")
        });
    }
}

/// local6 (LKSYSLOGSELECTOR).
const FACILITY: u8 = 22;
