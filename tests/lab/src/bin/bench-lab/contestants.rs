//! Who is measured: mirrors of netraidd, embedded or the kernel's, and resources of DRBD, each on disks of its own.
//!
//! All of them are there during the whole run, so each row of a table is measured on all of them within seconds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netraid_lab::{Cluster, Lab, Node, wait_until};
use serde_json::Value;

use crate::drbd::{self, Resource};
use crate::load::Place;
use crate::{Reach, Settings};

/// Patience for a resync.
const RESYNC: Duration = Duration::from_secs(600);
/// Patience for a server.
const SOON: Duration = Duration::from_secs(40);
/// The first device of the source's nbd that an embedded mirror is attached to; netraidd takes the first free one.
const FIRST_NBD: usize = 8;

const NO_TARGET: &str = "it has no target";

/// What a contestant is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A mirror of netraidd: the backend, and more lines of its file.
    NetRaid {
        backend: &'static str,
        lines: String,
    },
    /// No mirror: nbd-server on the source, with a disk of the source. What the embedded engine can't be faster than, as
    /// the application reaches it in the same way.
    Alone,
    /// A resource of DRBD: its protocol, and more options of its sections `net` and `disk`.
    Drbd {
        protocol: char,
        net: String,
        options: String,
    },
}

/// A contestant before there is a lab.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// As shown.
    pub(crate) name: &'static str,
    /// As configured.
    pub(crate) tag: &'static str,
    pub(crate) kind: Kind,
}

/// One that runs.
pub(crate) struct Contestant<'a> {
    pub(crate) name: &'static str,
    tag: &'static str,
    lab: &'a Lab,
    what: Running,
    /// Where the application finds it; known when it is in service.
    place: Option<Place>,
}

enum Running {
    NetRaid { embedded: bool, nbd: usize },
    Alone { disk: usize, nbd: usize },
    Drbd(Resource),
}

/// Configures all of them on both nodes; none is in service yet. The daemons live as long as the first value.
pub(crate) fn configure<'a>(
    lab: &'a Lab,
    specs: &[Spec],
    settings: &Settings,
) -> Result<(Cluster<'a>, Vec<Contestant<'a>>)> {
    let mut files = Vec::new();
    let mut resources = Vec::new();
    let mut contestants = Vec::new();
    for (number, spec) in specs.iter().enumerate() {
        let disk = number + 1;
        let what = match &spec.kind {
            Kind::NetRaid { backend, lines } => {
                let text = file(lab, spec.tag, number, disk, backend, lines, settings.chunk);
                files.push((spec.tag, text));
                Running::NetRaid {
                    embedded: *backend == "embedded",
                    nbd: FIRST_NBD + number,
                }
            }
            Kind::Alone => Running::Alone {
                disk,
                nbd: FIRST_NBD + number,
            },
            Kind::Drbd {
                protocol,
                net,
                options,
            } => {
                let resource = Resource {
                    name: spec.tag,
                    minor: number,
                    protocol: *protocol,
                    disk,
                    net: net.clone(),
                    options: options.clone(),
                };
                resources.push(resource.clone());
                Running::Drbd(resource)
            }
        };
        contestants.push(Contestant {
            name: spec.name,
            tag: spec.tag,
            lab,
            what,
            place: None,
        });
    }
    if !resources.is_empty() {
        drbd::configure(lab, &resources)?;
    }
    Ok((Cluster::of_files(lab, "", &files)?, contestants))
}

/// A mirror's configuration.
fn file(
    lab: &Lab,
    tag: &str,
    number: usize,
    disk: usize,
    backend: &str,
    lines: &str,
    chunk: u32,
) -> String {
    let mut text = format!(
        "tag = \"{tag}\"\nnumber = {number}\nbackend = \"{backend}\"\nchunk = {chunk}\n{lines}\n"
    );
    for node in lab.nodes() {
        text += &format!(
            "[[nodes]]\nname = \"{}\"\naddress = \"{}\"\ndisk = \"{}\"\nport = {}\n",
            node.name(),
            node.ip(),
            node.disk(disk).device(),
            10001 + number
        );
    }
    text
}

impl Contestant<'_> {
    fn source(&self) -> &Node {
        self.lab.node(1)
    }

    /// The source alone, in service.
    pub(crate) fn begin(&mut self, reach: Reach) -> Result<()> {
        let source = self.lab.node(1);
        self.place = Some(match &self.what {
            Running::Drbd(resource) => {
                resource.up(source)?;
                resource.promote(source)?;
                Place::Device(resource.device())
            }
            Running::NetRaid { embedded, nbd } => {
                source.must(&format!("netraid create {}", self.tag))?;
                let status = self.status()?;
                let place = status["places"][0].as_str();
                let place = place.with_context(|| format!("no place: {status}"))?;
                match embedded {
                    false => Place::Device(place.to_owned()),
                    true => reached(source, place, *nbd, reach)?,
                }
            }
            Running::Alone { disk, nbd } => {
                let socket = format!("/run/{}.nbd", self.tag);
                let device = source.disk(*disk).device();
                let server = source.spawn(&format!(
                    "exec nbd-server --export data={device} --unix {socket} --print-ready"
                ))?;
                server.wait_for("listening", SOON)?;
                let uri = format!("nbd+unix:///data?socket={socket}");
                reached(source, &uri, *nbd, reach)?
            }
        });
        Ok(())
    }

    /// The target joins, with an empty disk; how long its first sync took.
    pub(crate) fn join(&self) -> Result<Duration> {
        let begun = Instant::now();
        match &self.what {
            Running::Drbd(resource) => resource.up(self.lab.node(2))?,
            Running::NetRaid { .. } => {
                self.source()
                    .must(&format!("netraid extend {} node2", self.tag))?;
            }
            Running::Alone { .. } => {}
        }
        self.wait_in_sync()?;
        Ok(begun.elapsed())
    }

    /// Where the application finds it.
    pub(crate) fn place(&self) -> Result<&Place> {
        let place = self.place.as_ref();
        place.with_context(|| format!("{} is not in service", self.name))
    }

    /// Whether the target has everything.
    pub(crate) fn in_sync(&self) -> Result<bool> {
        Ok(match &self.what {
            Running::Drbd(resource) => resource.look(self.source())?.in_sync(),
            Running::NetRaid { .. } => self.status()?["nodes"][1]["status"] == "Target",
            Running::Alone { .. } => true,
        })
    }

    pub(crate) fn wait_in_sync(&self) -> Result<()> {
        let what = format!("{} is in sync", self.name);
        let waited = wait_until(RESYNC, &what, || Ok(self.in_sync()?.then_some(())));
        waited.with_context(|| match &self.what {
            Running::Drbd(resource) => format!("{:?}", resource.look(self.source())),
            Running::NetRaid { .. } => format!("{:?}", self.status()),
            Running::Alone { .. } => String::new(),
        })
    }

    /// Waits until no bit is set any more: bits of writes, and of the first sync, stay for some seconds.
    pub(crate) fn settle(&self) -> Result<()> {
        match &self.what {
            Running::Drbd(_) | Running::Alone { .. } => Ok(()),
            Running::NetRaid { .. } => wait_until(RESYNC, "no bit is set", || {
                Ok((self.status()?["dirty_bytes"] == 0).then_some(()))
            }),
        }
    }

    /// The target gets nothing more; what changes is marked.
    pub(crate) fn pause(&self) -> Result<()> {
        match &self.what {
            Running::Drbd(resource) => resource.order(self.source(), "disconnect"),
            Running::NetRaid { .. } => self.order("pause"),
            Running::Alone { .. } => bail!(NO_TARGET),
        }
    }

    /// It gets what was marked.
    pub(crate) fn resume(&self) -> Result<()> {
        match &self.what {
            Running::Drbd(resource) => resource.order(self.source(), "connect"),
            Running::NetRaid { .. } => self.order("resume"),
            Running::Alone { .. } => bail!(NO_TARGET),
        }
    }

    /// Everything is marked for the target, and its resync begins.
    pub(crate) fn mark_all(&self) -> Result<()> {
        match &self.what {
            Running::Drbd(resource) => {
                resource.wait_connected(self.source())?;
                resource.order(self.source(), "invalidate-remote")
            }
            Running::NetRaid { .. } => self.order("fullresync"),
            Running::Alone { .. } => bail!(NO_TARGET),
        }
    }

    /// Bytes that the target does not have yet.
    pub(crate) fn left(&self) -> Result<u64> {
        match &self.what {
            Running::Drbd(resource) => Ok(resource.look(self.source())?.left),
            Running::NetRaid { embedded, .. } => {
                // The array itself knows it at each moment; its daemon asks it once a second.
                let status = match embedded {
                    true => {
                        let words = format!("netraid embedded status {} --json", self.tag);
                        serde_json::from_str(&self.source().must(&words)?)?
                    }
                    false => self.status()?,
                };
                Ok(status["resync"]["left"].as_u64().unwrap_or(0))
            }
            Running::Alone { .. } => bail!(NO_TARGET),
        }
    }

    /// Compares all of it; how long that took.
    pub(crate) fn verify(&self) -> Result<Duration> {
        let source = self.source();
        let begun = Instant::now();
        match &self.what {
            Running::Drbd(resource) => {
                resource.order(source, "verify")?;
                wait_until(RESYNC, "DRBD's verify is over", || {
                    Ok(resource.look(source)?.in_sync().then_some(()))
                })?;
                Ok(begun.elapsed())
            }
            Running::NetRaid { .. } => {
                let text = source.must_within(
                    RESYNC,
                    &format!("netraid verify {} --json 2>/dev/null", self.tag),
                )?;
                let verify: Value = serde_json::from_str(&text).context("the verify")?;
                let at = |key: &str| verify[key].as_u64().context("a verify without times");
                if verify["differing"] != 0 {
                    bail!("legs differ: {verify}");
                }
                Ok(Duration::from_millis(at("ended_ms")? - at("began_ms")?))
            }
            Running::Alone { .. } => bail!(NO_TARGET),
        }
    }

    fn order(&self, verb: &str) -> Result<()> {
        self.source()
            .must(&format!("netraid {verb} {}", self.tag))?;
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        let text = self
            .source()
            .must(&format!("netraid status {} --json", self.tag))?;
        let mut value: Value =
            serde_json::from_str(&text).with_context(|| format!("status: {text}"))?;
        Ok(value["mirrors"][0].take())
    }
}

/// How the application reaches an export on its own node.
fn reached(source: &Node, uri: &str, nbd: usize, reach: Reach) -> Result<Place> {
    match reach {
        Reach::Fio => Ok(Place::Uri(uri.to_owned())),
        Reach::Kernel => {
            let device = format!("/dev/nbd{nbd}");
            source.must(&format!("nbd-client attach '{uri}' {device}"))?;
            Ok(Place::Device(device))
        }
    }
}

/// Bytes that a node has sent and received on its cable.
pub(crate) fn crossed(node: &Node) -> Result<u64> {
    let text = node.must("cd /sys/class/net/vec0/statistics && cat tx_bytes rx_bytes")?;
    let numbers = text.split_whitespace().map(str::parse::<u64>);
    numbers
        .sum::<Result<u64, _>>()
        .with_context(|| format!("the card's counters: {text}"))
}
