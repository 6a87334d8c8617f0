//! `TAG.toml`: one mirror, the same file on each of its nodes.

use std::path::PathBuf;

use flags::{NodeName, Tag};

mod keys;

use keys::{KEYS, NODE_KEYS};

use super::address::Address;
use super::congestion;
use super::daemon::node_name;
use super::fencing;
use super::fields::{Fields, parse};
use super::io_errors::{self, OnIoError};
use super::parameters::Parameters;
use super::policies::{Handlers, handlers, policies};
use super::problem::{At, Complaint, Place, Problems, quoted};
use super::quorum;
use super::resync::{self, Resyncs};
use super::source::Source;
use crate::mirror::decision;
use crate::mirror::fencing::Fencing;
use crate::mirror::machine::Settings;
use crate::mirror::node::{Names, NodeId};
use crate::mirror::policy::Policies;
use crate::mirror::vote::Quorum;
use crate::raid1::engine::OnCongestion;

/// Nodes that a mirror may have: a source and seven targets.
pub const MAX_NODES: usize = 8;

/// Who keeps the legs of a mirror equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's md RAID1.
    Md,
    /// The RAID1 that runs as a process.
    Embedded,
}

impl Backend {
    /// As it is configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Md => "md",
            Backend::Embedded => "embedded",
        }
    }
}

/// When a write counts as done, by the letters that DRBD's users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// When it is on the source's disk, and in the send buffers of the targets: asynchronous.
    A,
    /// When it has reached the targets' memory; a flush reaches all disks. That is where our server has a write that it
    /// answers, so it is what C waits for, too.
    B,
    /// When every target in sync has it: synchronous. A flush reaches all disks.
    C,
}

impl Protocol {
    /// As it is configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::A => "A",
            Protocol::B => "B",
            Protocol::C => "C",
        }
    }

    /// What it means for whose data is good.
    pub fn decision(self) -> decision::Protocol {
        match self {
            Protocol::A => decision::Protocol::Async,
            Protocol::B | Protocol::C => decision::Protocol::Sync,
        }
    }
}

/// One mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorConfig {
    /// Its name.
    pub tag: Tag,
    /// 0 to 255, unique among the mirrors of a node; ports follow from it.
    pub number: u8,
    /// Who keeps the legs equal.
    pub backend: Backend,
    /// What applications use: `/dev/md/TAG` unless configured. An embedded array has its socket, `TAG.nbd` in the run
    /// folder, and needs none.
    pub device: Option<PathBuf>,
    /// When a write counts as done.
    pub protocol: Protocol,
    /// Bytes under one bit of the bitmap; `LKDR_CHUNK_SIZE` unless configured.
    pub chunk_bytes: u32,
    /// Whether there is a write-intent bitmap. Without it every resync is a full one.
    pub bitmap: bool,
    /// What becomes of a split brain.
    pub policies: Policies,
    /// Programs that are told of it.
    pub handlers: Handlers,
    /// How many nodes have to be there; `None`: nobody votes.
    pub quorum: Option<Quorum>,
    /// What is done about nodes that may not know that a source goes on without them.
    pub fencing: Fencing,
    /// `csums-alg`: resyncs compare by digests first, and send only what differs.
    pub compare: bool,
    /// Most bytes on the way to a target under protocol A whose writes are answered already.
    pub send_buffer: Option<u64>,
    /// What becomes of a target under protocol A to which too much is on its way.
    pub on_congestion: OnCongestion,
    /// `verify-rate`: most bytes a second that a verify reads of each leg; 0 for no bound.
    pub verify_rate: u64,
    /// `data-integrity-alg`: messages between the legs are followed by checksums.
    pub integrity: bool,
    /// What becomes of a leg that fails a write.
    pub on_io_error: OnIoError,
    /// With the first error above so many a leg is given up, 0 for no bound; `None` for the default.
    pub io_error_limit: Option<u64>,
    /// How fast its resyncs are, and after whose.
    pub resyncs: Resyncs,
    /// 1 to 8 nodes; a node's place in the list is its slot. One alone is a mirror that is not extended yet.
    pub nodes: Vec<NodeConfig>,
}

/// A node of a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeName,
    /// 1 to 999, unique within the mirror; the lowest takes over first.
    pub priority: Option<u32>,
    /// Where its netraidd is reached; its data is served on the same host.
    pub address: Address,
    /// Its disk or partition; `None`: it is a tie-breaker, which only votes.
    pub disk: Option<PathBuf>,
    /// Where its disk is served while it is a target.
    pub port: u16,
    /// Why a port was chosen that is not the first choice.
    pub port_reason: Option<String>,
    /// When a write counts as done that this node gets as a target.
    pub protocol: Protocol,
}

impl NodeConfig {
    /// The disk as it is written in the file.
    pub fn disk_text(&self) -> String {
        match &self.disk {
            Some(disk) => disk.to_string_lossy().into_owned(),
            None => NO_DISK.to_owned(),
        }
    }
}

/// What stands for the disk of a tie-breaker, as in DRBD's configuration.
const NO_DISK: &str = "none";

impl MirrorConfig {
    /// A node's slot, by its name.
    pub fn slot_of(&self, name: &str) -> Option<NodeId> {
        let slot = self
            .nodes
            .iter()
            .position(|node| node.name.as_str() == name)?;
        NodeId::new(u8::try_from(slot).ok()?)
    }

    /// Targets that are not waited for, with their order kept; the kernel's RAID1 has none.
    pub fn streams(&self) -> crate::array::Streams {
        if self.backend == Backend::Md {
            return crate::array::Streams::default();
        }
        let trailing = self
            .nodes
            .iter()
            .filter(|node| node.protocol == Protocol::A);
        crate::array::Streams {
            nodes: trailing.map(|node| node.name.to_string()).collect(),
            send_buffer: self.send_buffer,
            on_congestion: self.on_congestion,
        }
    }

    /// What becomes of legs that fail.
    pub fn care(&self) -> crate::array::Care {
        crate::array::Care {
            pass_through: self.on_io_error == OnIoError::PassThrough,
            error_limit: self.io_error_limit,
            integrity: self.integrity,
            held: self.fencing == Fencing::ResourceAndStonith,
        }
    }

    /// The protocol that says most about whose data is good: any target that may lack what was answered counts.
    fn loosest(&self) -> Protocol {
        let mut all = self.nodes.iter().map(|node| node.protocol);
        match all.any(|protocol| protocol == Protocol::A) {
            true => Protocol::A,
            false => self.protocol,
        }
    }

    /// What people call the mirror and its nodes.
    pub fn names(&self) -> Names {
        let nodes = self.nodes.iter().map(|node| node.name.to_string());
        Names {
            tag: self.tag.to_string(),
            nodes: nodes.collect(),
        }
    }

    /// How the mirror behaves on node `own`; `None` if that is not one of its nodes.
    pub fn settings(&self, own: &str, parameters: &Parameters) -> Option<Settings> {
        Some(Settings {
            own: self.slot_of(own)?,
            rules: decision::Rules {
                protocol: self.loosest().decision(),
                policies: self.policies,
            },
            wait: parameters.wait_for_previous_source,
            connect_during_restore: parameters.connect_nbd_during_restore,
            no_full_sync: parameters.no_full_sync,
            wait_to_resync: parameters.wait_to_resync.is_some(),
            bitmap: self.bitmap,
            quorum: self.quorum,
            fencing: self.fencing,
        })
    }
}

/// Bytes a second unless configured: a disk of this century has several times that, and 1 TiB takes three hours.
const VERIFY_RATE: u64 = 100 << 20;

const LETTERS: [(&str, Protocol); 3] = [("C", Protocol::C), ("A", Protocol::A), ("B", Protocol::B)];

/// What a file says, as far as it can be understood, with the places for what other files may contradict.
pub(super) struct Draft {
    pub place: Place,
    pub tag: Option<Tag>,
    pub number: Option<At<u8>>,
    pub device: Option<At<PathBuf>>,
    pub nodes: Vec<DraftNode>,
    backend: Option<Backend>,
    protocol: Option<Protocol>,
    send_buffer: Option<u64>,
    on_congestion: OnCongestion,
    chunk_bytes: Option<u32>,
    bitmap: Option<bool>,
    policies: Policies,
    fencing: Fencing,
    handlers: Handlers,
    quorum: Option<Quorum>,
    compare: Option<bool>,
    verify_rate: Option<u64>,
    io_errors: (OnIoError, Option<u64>),
    integrity: bool,
    pub resync: resync::Draft,
}

pub(super) struct DraftNode {
    pub name: Option<At<NodeName>>,
    pub address: Option<At<Address>>,
    pub disk: Option<At<PathBuf>>,
    /// It has none.
    pub tie_breaker: Option<Place>,
    pub port: Option<At<u16>>,
    pub chosen: Option<super::ports::Choice>,
    priority: Option<u32>,
    protocol: Option<Protocol>,
}

/// Reads one mirror's file; `None` if it is no TOML.
pub(super) fn read(source: &Source, problems: &mut Problems) -> Option<Draft> {
    let table = parse(source, problems)?;
    let fields = Fields::new(source, table.get_ref(), 0, KEYS, problems);
    for key in ["tag", "number", "backend", "nodes"] {
        fields.needed(key, problems);
    }
    let tag = fields.text("tag", problems, |text| tag(text, source.stem()));
    let tag = tag.map(|at| at.value);
    let number = fields.number("number", 0..=255, problems);
    let backends = [("md", Backend::Md), ("embedded", Backend::Embedded)];
    let backend = fields.word("backend", &backends, problems);
    let backend = backend.map(|at| at.value);
    let protocol = fields.word("protocol", &LETTERS, problems);
    let bitmaps = [("internal", true), ("none", false)];
    let bitmap = fields.word("bitmap", &bitmaps, problems);
    if let Some(protocol) = &protocol {
        let without = bitmap.as_ref().is_some_and(|bitmap| !bitmap.value);
        if let Err(complaint) = congestion::possible(backend, protocol.value, without) {
            problems.note(&protocol.place, complaint);
        }
    }
    let algorithms = [("blake3", true), ("none", false)];
    let compare = fields.word("csums-alg", &algorithms, problems);
    if let (Some(Backend::Md), Some(compare)) = (backend, &compare)
        && compare.value
    {
        let complaint = Complaint::new(
            "csums-alg \"blake3\" is not built for backend \"md\": the kernel copies all that its bitmap marks",
            "write backend = \"embedded\", or leave csums-alg out",
        );
        problems.note(&compare.place, complaint);
    }
    let integrity = io_errors::integrity(&fields, backend, problems);
    let verify_rate = resync::verify_rate(&fields, problems);
    let device = match (fields.has("device"), backend) {
        (true, _) => fields.path("device", problems),
        // The folder of names that mdadm keeps.
        (false, Some(Backend::Md)) => tag.as_ref().map(|tag| At {
            value: format!("/dev/md/{tag}").into(),
            place: fields.place.clone(),
        }),
        (false, Some(Backend::Embedded) | None) => None,
    };
    let streams = congestion::read(&fields, backend, problems);
    let resync = resync::read(&fields, backend, problems);
    // The limits of `LKDR_CHUNK_SIZE`.
    let chunk = fields.number::<u32>("chunk", 4..=1 << 20, problems);
    let chunk_bytes = chunk.and_then(|chunk| {
        let taken = chunk_bytes(chunk.value);
        problems.taken(&chunk.place, taken)
    });
    let nodes = nodes(source, &fields, backend, problems);
    let policies = policies(&fields, &nodes, problems);
    let handlers = handlers(source, &fields, problems);
    let io_errors = io_errors::read(&fields, backend, &handlers, problems);
    let protocol_of_all = protocol.as_ref().map(|at| at.value);
    let asynchronous = nodes
        .iter()
        .any(|node| node.protocol.or(protocol_of_all) == Some(Protocol::A));
    let quorum = quorum::read(&fields, backend, &nodes, asynchronous, problems);
    let others = fencing::Others {
        backend,
        handlers: &handlers,
        quorum: quorum.is_some(),
        pulls_ahead: matches!(streams.policy, OnCongestion::PullAhead(_)),
    };
    let fencing = fencing::read(&fields, &others, problems);
    Some(Draft {
        place: fields.place,
        tag,
        number,
        device,
        nodes,
        backend,
        protocol: protocol.map(|at| at.value),
        send_buffer: streams.send_buffer,
        on_congestion: streams.policy,
        chunk_bytes,
        bitmap: bitmap.map(|at| at.value),
        policies,
        handlers,
        quorum,
        fencing,
        compare: compare.map(|at| at.value),
        verify_rate,
        io_errors,
        integrity,
        resync,
    })
}

fn tag(text: &str, stem: &str) -> Result<Tag, Complaint> {
    let tag = Tag::new(text).map_err(|error| {
        let what = match text.len() > flags::MAX_NAME {
            true => format!("tag {} is too long", quoted(text)),
            false => error.to_string(),
        };
        Complaint::new(
            what,
            "write at most 64 letters, digits, '.', '_' and '-', for example \"data\"",
        )
    })?;
    match text == stem {
        // Each running mirror has a socket of its name, and so has the daemon.
        true if text == "netraidd" => Err(Complaint::new(
            "tag \"netraidd\" is the name of the daemon",
            "call the mirror and its file something else, for example \"data\"",
        )),
        true => Ok(tag),
        false => Err(Complaint::new(
            format!("tag {} is not the name of this file", quoted(text)),
            format!("write {}, or call the file {tag}.toml", quoted(stem)),
        )),
    }
}

/// KiB in the file, bytes for us.
fn chunk_bytes(kib: u32) -> Result<u32, Complaint> {
    match kib.is_power_of_two() {
        true => Ok(kib * 1024),
        false => Err(Complaint::new(
            format!("chunk {kib} is not a power of two (KiB)"),
            format!(
                "write chunk = {}, or leave it out for LKDR_CHUNK_SIZE",
                kib.next_power_of_two()
            ),
        )),
    }
}

fn nodes(
    source: &Source,
    fields: &Fields<'_>,
    backend: Option<Backend>,
    problems: &mut Problems,
) -> Vec<DraftNode> {
    let tables = fields.tables("nodes", problems);
    if tables.is_empty() && fields.is_empty_list("nodes") {
        let complaint = Complaint::new("there is no node", "write a [[nodes]] for each node");
        problems.note(&fields.place, complaint);
    }
    if let Some((_, start)) = tables.get(MAX_NODES) {
        let complaint = Complaint::new(
            format!(
                "{} nodes are one source and {} targets, at most 7 targets are possible",
                tables.len(),
                tables.len() - 1
            ),
            "leave out the nodes from here on",
        );
        problems.note(&source.place(*start), complaint);
    }
    let mut nodes: Vec<DraftNode> = Vec::new();
    let mut priorities: Vec<At<u32>> = Vec::new();
    for (table, start) in tables.into_iter().take(MAX_NODES) {
        let fields = Fields::new(source, table, start, NODE_KEYS, problems);
        for key in ["name", "address", "disk"] {
            fields.needed(key, problems);
        }
        let name = fields.text("name", problems, node_name);
        let before = |name: &At<NodeName>, node: &DraftNode| {
            let known = node.name.as_ref()?;
            (known.value == name.value).then(|| known.place.clone())
        };
        if let Some(name) = &name
            && let Some(first) = nodes.iter().find_map(|node| before(name, node))
        {
            let complaint = Complaint::new(
                format!("node {} is there already, at {first}", name.value),
                "each node is named once",
            );
            problems.note(&name.place, complaint);
        }
        let priority = fields.number("priority", 1..=999, problems);
        if let Some(priority) = &priority {
            match priorities.iter().find(|at| at.value == priority.value) {
                Some(first) => {
                    let complaint = Complaint::new(
                        format!(
                            "priority {} is that of another node, at {}",
                            priority.value, first.place
                        ),
                        "give each node its own, the lowest takes over first",
                    );
                    problems.note(&priority.place, complaint);
                }
                None => priorities.push(priority.clone()),
            }
        }
        let protocol = fields.word("protocol", &LETTERS, problems);
        if let (Some(protocol), Some(Backend::Md)) = (&protocol, backend) {
            let what = "a node can't have a protocol of its own: the kernel's RAID1 waits for all targets or for none";
            let instead = "write protocol above the nodes, or backend = \"embedded\"";
            problems.note(&protocol.place, Complaint::new(what, instead));
        }
        let no_disk = fields
            .value("disk")
            .filter(|(value, _)| value.as_str() == Some(NO_DISK));
        let tie_breaker = no_disk.map(|(_, place)| place);
        nodes.push(DraftNode {
            name,
            address: fields.text("address", problems, Address::parse),
            disk: match tie_breaker {
                Some(_) => None,
                None => fields.path("disk", problems),
            },
            tie_breaker,
            port: fields.number("port", 1..=65535, problems),
            chosen: None,
            priority: priority.map(|at| at.value),
            protocol: protocol.map(|at| at.value),
        });
    }
    nodes
}

impl Draft {
    /// The mirror; `None` only if a problem was noted.
    pub(super) fn finish(self, parameters: &Parameters) -> Option<MirrorConfig> {
        let protocol = self.protocol.unwrap_or(Protocol::C);
        let nodes = self.nodes.into_iter().map(|node| node.finish(protocol));
        let nodes: Option<Vec<NodeConfig>> = nodes.collect();
        Some(MirrorConfig {
            tag: self.tag?,
            number: self.number?.value,
            backend: self.backend?,
            device: self.device.map(|device| device.value),
            protocol,
            send_buffer: self.send_buffer,
            on_congestion: self.on_congestion,
            chunk_bytes: self.chunk_bytes.unwrap_or(parameters.chunk_bytes),
            bitmap: self.bitmap.unwrap_or(true),
            policies: self.policies,
            handlers: self.handlers,
            quorum: self.quorum,
            fencing: self.fencing,
            verify_rate: self.verify_rate.unwrap_or(VERIFY_RATE),
            resyncs: self.resync.resyncs,
            compare: self.compare.unwrap_or(self.backend? == Backend::Embedded),
            integrity: self.integrity,
            on_io_error: self.io_errors.0,
            io_error_limit: self.io_errors.1,
            nodes: nodes?,
        })
    }
}

impl DraftNode {
    fn finish(self, protocol: Protocol) -> Option<NodeConfig> {
        let (port, port_reason) = match (self.port, self.chosen) {
            (Some(port), _) => (port.value, None),
            (None, Some(chosen)) => (chosen.port, chosen.passed),
            (None, None) => return None,
        };
        Some(NodeConfig {
            name: self.name?.value,
            priority: self.priority,
            address: self.address?.value,
            disk: match self.tie_breaker {
                Some(_) => None,
                None => Some(self.disk?.value),
            },
            port,
            port_reason,
            protocol: self.protocol.unwrap_or(protocol),
        })
    }
}
