//! A stand-in for netraidd: answers each request on its socket as a test says, and remembers what it was asked.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use netraid::api::document::{
    Answer, Decided, Flags, MIRRORS, Mirror, Mirrors, Node, Outcome, Resync,
};

/// What it does with a request.
pub(crate) enum Reply {
    /// Answers with this status and body.
    Say(u16, String),
    /// Keeps the connection, and says nothing.
    Hang,
}

/// What was asked: method, path and body.
pub(crate) type Asked = Arc<Mutex<Vec<(String, String, String)>>>;

/// Serves in a folder for as long as the test's process lives.
pub(crate) fn serve(
    folder: &Path,
    answer: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
) -> Asked {
    let listener = UnixListener::bind(folder.join("netraidd.sock")).unwrap();
    let asked = Asked::default();
    let (answer, kept) = (Arc::new(answer), Arc::clone(&asked));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, kept) = (Arc::clone(&answer), Arc::clone(&kept));
            thread::spawn(move || one(stream.unwrap(), &*answer, &kept));
        }
    });
    asked
}

fn one(mut stream: UnixStream, answer: &dyn Fn(&str, &str) -> Reply, asked: &Asked) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    let (head, body) = loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return;
        }
        text += std::str::from_utf8(&buffer[..count]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse::<usize>().unwrap());
        if body.len() >= length {
            break (head.to_owned(), body.to_owned());
        }
    };
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let known = (method.to_owned(), path.to_owned(), body);
    asked.lock().unwrap().push(known);
    match answer(method, path) {
        Reply::Say(status, body) => {
            let length = body.len();
            // Who asked may have gone.
            let _ = write!(
                stream,
                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                 connection: close\r\n\r\n{body}"
            );
        }
        // Until who asked goes.
        Reply::Hang => while stream.read(&mut buffer).is_ok_and(|count| count > 0) {},
    }
}

/// A daemon that knows these mirrors, and carries out every order in this way.
pub(crate) fn knowing(mirrors: Mirrors, order: Answer) -> impl Fn(&str, &str) -> Reply {
    move |method, path| {
        let path = path.split('?').next().unwrap();
        let tag = path.trim_start_matches("/v1/mirrors/").split('/').next();
        let found = mirrors
            .mirrors
            .iter()
            .find(|mirror| Some(mirror.tag.as_str()) == tag);
        match (method, path, found) {
            (_, "/v1/mirrors", _) => Reply::Say(200, serde_json::to_string(&mirrors).unwrap()),
            (_, "/v1/events", _) => Reply::Say(200, EVENTS.to_owned()),
            (_, _, None) => Reply::Say(404, serde_json::to_string(&unknown()).unwrap()),
            ("GET", _, Some(mirror)) => Reply::Say(200, serde_json::to_string(mirror).unwrap()),
            (_, _, Some(_)) => Reply::Say(
                match order.outcome {
                    Outcome::Done => 200,
                    Outcome::Failed => 500,
                    Outcome::Usage => 400,
                    Outcome::Refused => 409,
                    Outcome::Late => 504,
                },
                serde_json::to_string(&order).unwrap(),
            ),
        }
    }
}

fn unknown() -> Answer {
    Answer::not(
        Outcome::Usage,
        "there is no such mirror on server1; configured are data",
        Some("netraid config check".into()),
    )
}

/// The mirror `data` of server1 (this node and its source), server2 that is being resynced, and server3, not extended to.
pub(crate) fn data() -> Mirrors {
    let node = |slot: u8, status: &str, disk: &str, why: &str| Node {
        name: format!("server{}", slot + 1),
        slot,
        own: slot == 0,
        member: slot < 2,
        reachable: true,
        status: status.into(),
        disk: disk.into(),
        device: "/dev/sdb1".into(),
        address: format!("10.0.0.{}:10001", slot + 1),
        percent: (slot == 1).then_some(11),
        behind_bytes: None,
        left_behind: false,
        why: why.into(),
        waits_for: (slot == 1).then(|| "the end of the resync".into()),
        command: (slot == 2).then(|| "netraid extend data server3".into()),
        truck: None,
        last_resync: (slot == 1).then(|| Decided {
            rule: "target-behind".into(),
            full: false,
            merged_bytes: 0,
            dirty_bytes: 256 << 20,
        }),
        failure: None,
    };
    Mirrors {
        schema: MIRRORS.into(),
        node: "server1".into(),
        version: "0.1.0".into(),
        mirrors: vec![Mirror {
            tag: "data".into(),
            backend: "md".into(),
            protocol: "A".into(),
            service: "in".into(),
            source: Some("server1".into()),
            previous_source: None,
            places: vec!["/dev/md/data".into()],
            size: Some(1 << 30),
            chunk: Some(256 << 10),
            dirty_bytes: Some(256 << 20),
            generation: "00000000000000ab".into(),
            quorum: None,
            fencing: None,
            flags: Flags {
                last_owner: true,
                source: Some("server1".into()),
                data_corrupt: false,
            },
            refusal: None,
            nodes: vec![
                node(0, "Source", "UpToDate", "data is in service on server1"),
                node(1, "Resyncing", "Inconsistent", "server1 copies to it"),
                node(
                    2,
                    "Unknown",
                    "Diskless",
                    "server3 is configured, and no node of the mirror yet",
                ),
            ],
            verify: None,
            resync: Some(Resync {
                copied: 32 << 20,
                left: 256 << 20,
                percent: 11.1,
                speed: 1573 << 10,
                time_left_ms: Some(166_000),
                paused: false,
                waits_for: None,
                limited_by: Some("c-max-rate".into()),
                why: Some("c-max-rate bounds it at 1.5 MiB/s".into()),
                boosted: false,
            }),
            problems: vec![],
            notes: vec![],
        }],
    }
}

const EVENTS: &str = r#"{"schema":"netraid.events/1","node":"server1","events":[{"number":7,"time_ms":951782400000,"tag":"data","event":"in-service","text":"data is in service"}],"last":7}"#;
