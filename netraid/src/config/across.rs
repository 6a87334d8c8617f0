//! What only shows when all mirrors are looked at together: numbers, devices, disks and ports that two of them want, nodes
//! that are one system. Ports that nobody wrote are chosen here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use super::address::Address;
use super::mirror::{Draft, DraftNode};
use super::ports::{Services, choose};
use super::problem::{At, Complaint, Place, Problems};

/// Looks at all mirrors, and chooses ports.
pub(super) fn check(drafts: &mut [Draft], services: &Services, problems: &mut Problems) {
    let numbers = drafts.iter().filter_map(|draft| draft.number.as_ref());
    twice(numbers, problems, |number, first| {
        Complaint::new(
            format!("number {number} is that of another mirror, at {first}"),
            "give each mirror its own from 0 to 255",
        )
    });
    let devices = drafts.iter().filter_map(|draft| draft.device.as_ref());
    twice(devices, problems, |device, first| {
        Complaint::new(
            format!(
                "device {} is that of another mirror, at {first}",
                device.display()
            ),
            "give each mirror its own",
        )
    });
    resyncs(drafts, problems);
    systems(drafts, problems);
    disks(drafts, problems);
    let mut ports = Ports::default();
    ports.of_daemons(drafts);
    ports.written(drafts, problems);
    ports.choose_others(drafts, services, problems);
}

/// The order of resyncs, which are of the mirrors in these files.
fn resyncs(drafts: &[Draft], problems: &mut Problems) {
    let known: Vec<_> = drafts
        .iter()
        .filter_map(|draft| draft.tag.as_ref())
        .collect();
    let ordered = drafts.iter().filter_map(|draft| {
        let after = draft.resync.after.as_ref()?;
        Some((draft.tag.as_ref()?, after))
    });
    super::resync::order(&ordered.collect::<Vec<_>>(), &known, problems);
}

/// Notes values that come a second time.
fn twice<'a, T: Ord + 'a>(
    values: impl Iterator<Item = &'a At<T>>,
    problems: &mut Problems,
    complaint: impl Fn(&T, &Place) -> Complaint,
) {
    let mut known: BTreeMap<&T, &Place> = BTreeMap::new();
    for at in values {
        match known.entry(&at.value) {
            Entry::Occupied(first) => problems.note(&at.place, complaint(&at.value, first.get())),
            Entry::Vacant(free) => _ = free.insert(&at.place),
        }
    }
}

/// A node of a mirror is a system of its own, and an address is that of one node.
fn systems(drafts: &[Draft], problems: &mut Problems) {
    let mut owners: BTreeMap<&Address, (&str, &Place)> = BTreeMap::new();
    for draft in drafts {
        let mut here: BTreeMap<&str, &Place> = BTreeMap::new();
        for node in &draft.nodes {
            let Some(address) = &node.address else {
                continue;
            };
            // Several nodes on one machine are for trying things out, each with a netraidd and a port of its own.
            if !address.value.is_loopback() {
                let host = address.value.host.as_str();
                if let Some(first) = here.insert(host, &address.place) {
                    let complaint = Complaint::new(
                        format!("{host} has a copy of this mirror already, at {first}"),
                        "each node of a mirror is another system",
                    );
                    problems.note(&address.place, complaint);
                    continue;
                }
            }
            let Some(name) = &node.name else {
                continue;
            };
            let own = (name.value.as_str(), &address.place);
            let (owner, first) = *owners.entry(&address.value).or_insert(own);
            if owner != own.0 {
                let complaint = Complaint::new(
                    format!(
                        "{} is the address of node {owner}, at {first}",
                        address.value
                    ),
                    format!("call this node {owner}, or give it its own address"),
                );
                problems.note(&address.place, complaint);
            }
        }
    }
}

/// One disk is in one mirror, once. As with ports, one node may have several addresses, and several nodes one.
fn disks(drafts: &[Draft], problems: &mut Problems) {
    let mut known: BTreeMap<&PathBuf, Vec<&DraftNode>> = BTreeMap::new();
    for draft in drafts {
        let device = draft.device.as_ref().map(|device| &device.value);
        for node in &draft.nodes {
            let Some(disk) = &node.disk else {
                continue;
            };
            let shown = disk.value.display();
            if device == Some(&disk.value) {
                let complaint = Complaint::new(
                    format!("disk {shown} is the mirror's own device"),
                    "write the disk or partition below it",
                );
                problems.note(&disk.place, complaint);
            }
            let users = known.entry(&disk.value).or_default();
            let same = users.iter().find(|other| one_machine(node, other));
            match same.and_then(|other| other.disk.as_ref()) {
                Some(first) => {
                    let complaint = Complaint::new(
                        format!(
                            "disk {shown} of this node is in a mirror already, at {}",
                            first.place
                        ),
                        "give each mirror its own disk",
                    );
                    problems.note(&disk.place, complaint);
                }
                None => users.push(node),
            }
        }
    }
}

/// Whether two nodes share their name or their host, which may be this machine by any of its loopback addresses.
fn one_machine(a: &DraftNode, b: &DraftNode) -> bool {
    let host = |node: &DraftNode| {
        let address = &node.address.as_ref()?.value;
        Some(match address.is_loopback() {
            true => "localhost".to_owned(),
            false => address.host.clone(),
        })
    };
    let name = |node: &DraftNode| Some(node.name.as_ref()?.value.clone());
    let named = name(a).is_some() && name(a) == name(b);
    named || (host(a).is_some() && host(a) == host(b))
}

/// Who has which port. One node may have several addresses, and several nodes one (loopback), so either makes two ports
/// the same.
#[derive(Default)]
struct Ports(BTreeMap<u16, Vec<Holder>>);

struct Holder {
    name: Option<String>,
    host: Option<String>,
    what: String,
    place: Place,
}

impl Ports {
    fn take(&mut self, port: u16, node: &DraftNode, what: &str, place: &Place) {
        self.0.entry(port).or_default().push(Holder {
            name: node.name.as_ref().map(|name| name.value.to_string()),
            host: node.address.as_ref().map(|at| at.value.host.clone()),
            what: what.to_owned(),
            place: place.clone(),
        });
    }

    fn holder(&self, port: u16, node: &DraftNode) -> Option<&Holder> {
        let name = node.name.as_ref().map(|name| name.value.as_str());
        let host = node.address.as_ref().map(|at| at.value.host.as_str());
        let same = |own: Option<&str>, other: Option<&str>| own.is_some() && own == other;
        let holders = self.0.get(&port)?;
        holders
            .iter()
            .find(|holder| same(name, holder.name.as_deref()) || same(host, holder.host.as_deref()))
    }

    fn of_daemons(&mut self, drafts: &[Draft]) {
        for node in drafts.iter().flat_map(|draft| &draft.nodes) {
            if let Some(address) = &node.address {
                let port = address.value.port;
                if self.holder(port, node).is_none() {
                    self.take(port, node, "netraidd", &address.place);
                }
            }
        }
    }

    fn written(&mut self, drafts: &[Draft], problems: &mut Problems) {
        for draft in drafts {
            for node in &draft.nodes {
                let Some(port) = &node.port else {
                    continue;
                };
                match self.holder(port.value, node) {
                    Some(holder) => {
                        let complaint = Complaint::new(
                            format!(
                                "port {} of this node is taken by {}, at {}",
                                port.value, holder.what, holder.place
                            ),
                            "write another, or leave it out to have one chosen",
                        );
                        problems.note(&port.place, complaint);
                    }
                    None => self.take(port.value, node, &draft.called(), &port.place),
                }
            }
        }
    }

    fn choose_others(
        &mut self,
        drafts: &mut [Draft],
        services: &Services,
        problems: &mut Problems,
    ) {
        for draft in drafts {
            let Some(number) = &draft.number else {
                continue;
            };
            let (number, called) = (number.value, draft.called());
            for node in draft.nodes.iter_mut().filter(|node| node.port.is_none()) {
                let holder = |port| Some(self.holder(port, node)?.what.clone());
                let place = node.address.as_ref().map_or(&draft.place, |at| &at.place);
                match choose(number, services, holder) {
                    Some(chosen) => {
                        self.take(chosen.port, node, &called, place);
                        node.chosen = Some(chosen);
                    }
                    None => {
                        let complaint = Complaint::new(
                            format!("no port is free for mirror number {number} on this node"),
                            "write a port of your own",
                        );
                        problems.note(place, complaint);
                    }
                }
            }
        }
    }
}

impl Draft {
    fn called(&self) -> String {
        match &self.tag {
            Some(tag) => format!("mirror {tag}"),
            None => "another mirror".into(),
        }
    }
}
