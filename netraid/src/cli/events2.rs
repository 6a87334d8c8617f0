//! `netraid events --events2`: the mirrors as objects, in the lines of `drbdsetup events2`: all that exists first, then what
//! changes. Lines are made from the documents alone: what is the same in two of them has not changed.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::daemon::Daemon;
use super::events::utc;
use super::exit::Exit;
use super::show::plain;
use crate::api::document::{Event, Events, Mirror, Mirrors, Node};
use crate::api::local_client::{LocalError, Stream};
use crate::mirror::word::Word;
use flags::Tag;

/// How it is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Form {
    /// Ends with what exists.
    pub(super) now: bool,
    /// Each line begins with the time.
    pub(super) timestamps: bool,
    /// Sizes as well, in KiB.
    pub(super) statistics: bool,
}

/// Something that a line is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    kind: &'static str,
    /// What makes it this one.
    key: Vec<(&'static str, String)>,
    /// How it is.
    fields: Vec<(&'static str, String)>,
}

impl Object {
    fn is(&self, other: &Object) -> bool {
        self.kind == other.kind && self.key == other.key
    }

    /// `word kind key...`, and the fields.
    fn line<'a>(
        &'a self,
        word: &str,
        fields: impl Iterator<Item = &'a (&'static str, String)>,
    ) -> String {
        let mut line = format!("{word} {}", self.kind);
        for (name, value) in self.key.iter().chain(fields) {
            // Nothing ever fails that is written to a string.
            let _ = write!(line, " {name}:{value}");
        }
        line
    }
}

/// A value without the spaces that end one.
fn value(text: &str) -> String {
    plain(text).replace(' ', "_")
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.into()
}

/// Everything that exists, each after what it belongs to.
fn objects(mirrors: &Mirrors, tag: Option<&Tag>, statistics: bool) -> Vec<Object> {
    let wanted = |mirror: &&Mirror| tag.is_none_or(|tag| mirror.tag == tag.as_str());
    let mut all = Vec::new();
    for mirror in mirrors.mirrors.iter().filter(wanted) {
        let name = || ("name", value(&mirror.tag));
        let primary = matches!(mirror.service.as_str(), "in" | "stopping");
        all.push(Object {
            kind: "resource",
            key: vec![name()],
            fields: vec![
                ("role", role(primary).into()),
                ("suspended", suspended(mirror).into()),
                (
                    "may_promote",
                    yes(mirror.service == "out" && mirror.refusal.is_none()),
                ),
            ],
        });
        if let Some(own) = mirror.nodes.iter().find(|node| node.own) {
            let mut fields = vec![
                ("backing_dev", value(&own.device)),
                ("disk", value(&own.disk)),
                ("client", "no".into()),
            ];
            if let Some(size) = mirror.size.filter(|_| statistics) {
                fields.push(("size", (size / 1024).to_string()));
            }
            all.push(Object {
                kind: "device",
                key: vec![name(), ("volume", "0".into())],
                fields,
            });
        }
        for node in mirror.nodes.iter().filter(|node| node.member && !node.own) {
            let key = || {
                vec![
                    name(),
                    ("peer-node-id", node.slot.to_string()),
                    ("conn-name", value(&node.name)),
                ]
            };
            all.push(Object {
                kind: "connection",
                key: key(),
                fields: vec![
                    ("connection", connection(node).into()),
                    (
                        "role",
                        match mirror.source.as_ref() == Some(&node.name) {
                            true => role(true),
                            false if node.reachable => role(false),
                            false => "Unknown",
                        }
                        .into(),
                    ),
                ],
            });
            let mut device = key();
            device.push(("volume", "0".into()));
            all.push(Object {
                kind: "peer-device",
                key: device,
                fields: peer_device(mirror, node, primary, statistics),
            });
        }
    }
    all
}

fn role(primary: bool) -> &'static str {
    match primary {
        true => "Primary",
        false => "Secondary",
    }
}

/// Who is not connected on purpose does not try again by itself.
fn connection(node: &Node) -> &'static str {
    match node.reachable {
        true if node.status == Word::SplitBrain.text() => "StandAlone",
        true => "Connected",
        false => "Connecting",
    }
}

/// What holds the application's requests back; those that fail are not suspended.
fn suspended(mirror: &Mirror) -> &'static str {
    match &mirror.quorum {
        Some(quorum) if quorum.requests == "suspended" => "quorum",
        _ => match &mirror.fencing {
            Some(fencing) if fencing.requests == "suspended" => "fencing",
            _ => "no",
        },
    }
}

fn peer_device(
    mirror: &Mirror,
    node: &Node,
    primary: bool,
    statistics: bool,
) -> Vec<(&'static str, String)> {
    let own = mirror.nodes.iter().find(|node| node.own);
    // Of the two, the one that is written.
    let (target, source_is_there) = match primary {
        true => (Some(node), true),
        false => (own, mirror.source.as_ref() == Some(&node.name)),
    };
    let status = target
        .filter(|_| source_is_there && node.reachable)
        .map_or("", |target| target.status.as_str());
    let resync = mirror.resync.as_ref();
    let held = resync.is_some_and(|resync| resync.paused || resync.waits_for.is_some());
    let verifying = mirror
        .verify
        .as_ref()
        .is_some_and(|verify| verify.ended_ms.is_none() && verify.targets.contains(&node.name));
    let syncing = status == Word::Resyncing.text();
    let replication = match (syncing, primary) {
        (true, true) if held => "PausedSyncS",
        (true, true) => "SyncSource",
        (true, false) if held => "PausedSyncT",
        (true, false) => "SyncTarget",
        (false, true) if node.left_behind => "Ahead",
        (false, true) if verifying => "VerifyS",
        (false, _) if status == Word::Target.text() => "Established",
        (false, _) => "Off",
    };
    let suspended = match resync.filter(|_| syncing) {
        Some(resync) if resync.waits_for.is_some() => "dependency",
        Some(resync) if resync.paused => "user",
        _ => "no",
    };
    let mut fields = vec![
        ("replication", replication.into()),
        ("peer-disk", value(&node.disk)),
        ("peer-client", "no".into()),
        ("resync-suspended", suspended.into()),
    ];
    if let Some(percent) = target.and_then(|target| target.percent).filter(|_| syncing) {
        fields.push(("done", format!("{percent}.00")));
    }
    if let Some(resync) = resync.filter(|_| statistics && syncing) {
        fields.push(("out-of-sync", (resync.left / 1024).to_string()));
    }
    fields
}

/// The lines between two looks: what is gone, from the inner to the outer; what is new; and of what is left the fields that
/// differ.
fn changes(before: &[Object], after: &[Object]) -> Vec<String> {
    let gone = before.iter().rev();
    let gone = gone.filter(|old| !after.iter().any(|new| new.is(old)));
    let mut lines: Vec<String> = gone.map(|old| old.line("destroy", [].iter())).collect();
    for new in after {
        match before.iter().find(|old| old.is(new)) {
            None => lines.push(new.line("create", new.fields.iter())),
            Some(old) if old != new => {
                let differ = new
                    .fields
                    .iter()
                    .filter(|field| !old.fields.contains(field));
                lines.push(new.line("change", differ));
            }
            Some(_) => {}
        }
    }
    lines
}

/// The line of a handler that was called or has ended, with its exit status as `wait` has it.
fn helper(event: &Event) -> Option<String> {
    let name = event.tag.as_deref().map_or("-".into(), value);
    let (helper, rest) = event.text.strip_prefix("handlers.")?.split_once(' ')?;
    let helper = value(helper);
    let line =
        |status: &str| format!("response helper name:{name} helper:{helper} status:{status}");
    match (event.event.as_str(), rest) {
        ("handler", rest) if rest.starts_with("is called") => {
            Some(format!("call helper name:{name} helper:{helper}"))
        }
        ("handler", "has ended") => Some(line("0")),
        ("handler-failed", rest) => {
            let status = rest.strip_prefix("failed: exit status: ");
            let status = status.and_then(|status| status.parse::<u32>().ok());
            let status = status.and_then(|status| status.checked_mul(256));
            Some(line(
                &status.map_or("unknown".into(), |status| status.to_string()),
            ))
        }
        _ => None,
    }
}

/// What was shown last, and where the events have come to.
struct Shown<'a> {
    daemon: &'a Daemon,
    tag: Option<&'a Tag>,
    form: Form,
    objects: Vec<Object>,
    /// The newest event that was heard of.
    last: u64,
}

impl Shown<'_> {
    fn say(&self, lines: impl IntoIterator<Item = String>) -> Result<(), Exit> {
        let mut out = io::stdout().lock();
        for line in lines {
            if self.form.timestamps {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                let ms = since.map_or(0, |since| since.as_millis() as u64);
                write!(out, "{} ", utc(ms))?;
            }
            writeln!(out, "{line}")?;
        }
        Ok(out.flush()?)
    }

    fn look(&self) -> Result<Vec<Object>, Exit> {
        let mirrors = self.daemon.mirrors()?;
        Ok(objects(&mirrors, self.tag, self.form.statistics))
    }

    /// Shows what is different from what was shown.
    fn refresh(&mut self) -> Result<(), Exit> {
        let found = self.look()?;
        let lines = changes(&self.objects, &found);
        self.objects = found;
        self.say(lines)
    }

    /// Shows what events alone tell: handlers, and that some of them are forgotten.
    fn hear(&mut self, events: &Events) -> Result<(), Exit> {
        let mut lines = Vec::new();
        if let Some(first) = events.events.first().map(|event| event.number)
            && first > self.last.saturating_add(1)
        {
            lines.push(format!("gap from:{} to:{}", self.last + 1, first - 1));
        }
        let wanted = |event: &&Event| {
            self.tag
                .is_none_or(|tag| event.tag.as_deref() == Some(tag.as_str()))
        };
        lines.extend(events.events.iter().filter(wanted).filter_map(helper));
        self.last = events.last;
        self.say(lines)
    }

    /// Goes on until the daemon ends.
    fn follow(&mut self, mut stream: Stream) -> Result<(), Exit> {
        loop {
            // Not all that is shown is an event: how far a resync is, for one.
            match stream.next_line(Some(LOOK)) {
                Ok(Some(line)) => {
                    let events: Events = serde_json::from_slice(&line).map_err(|error| {
                        Exit::failed(format!("netraidd sent no event: {error}"))
                    })?;
                    self.hear(&events)?;
                }
                Ok(None) => return Ok(()),
                Err(LocalError::Late { .. }) => {}
                Err(_) => return Ok(()),
            }
            if self.refresh().is_err() {
                return Ok(());
            }
        }
    }
}

/// Shows it all, and goes on for ever; over a restart of netraidd too, which is a gap.
pub(super) fn perform(daemon: &Daemon, tag: Option<&Tag>, form: Form) -> Result<(), Exit> {
    // Before the first look, so that nothing happens unseen between the two.
    let last = daemon.events(u64::MAX, None)?.last;
    let mut shown = Shown {
        daemon,
        tag,
        form,
        objects: Vec::new(),
        last,
    };
    let mut stream = match form.now {
        true => None,
        false => Some(daemon.follow(last, None)?),
    };
    shown.objects = shown.look()?;
    let exists = shown.objects.iter();
    let mut lines: Vec<String> = exists
        .map(|object| object.line("exists", object.fields.iter()))
        .collect();
    lines.push("exists -".into());
    shown.say(lines)?;
    if form.now {
        return Ok(());
    }
    loop {
        if let Some(stream) = stream.take() {
            shown.follow(stream)?;
            shown.say(["gap netraidd:ended".to_owned()])?;
        }
        thread::sleep(LOOK);
        let Ok(now) = daemon.events(u64::MAX, None) else {
            continue;
        };
        // Numbers of events begin anew with each run of netraidd.
        if now.last < shown.last {
            shown.last = 0;
        }
        if let Ok(found) = daemon.follow(shown.last, None) {
            shown.say(["gap netraidd:begun".to_owned()])?;
            stream = Some(found);
        }
    }
}

/// From one look to the next, where nothing was told in between.
const LOOK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
