//! `quorum` and `on-no-quorum`: how many nodes have to be there for a mirror to be used.

use super::fields::{Fields, Key};
use super::mirror::{Backend, DraftNode};
use super::problem::{Complaint, Problems, quoted};
use crate::mirror::node::{NodeId, NodeSet};
use crate::mirror::vote::Quorum;

/// The keys of a mirror's file that are read here.
pub(super) const QUORUM_KEYS: [Key; 2] = [
    Key {
        name: "quorum",
        example: "quorum = \"majority\"",
    },
    Key {
        name: "on-no-quorum",
        example: "on-no-quorum = \"suspend-io\"",
    },
];

/// Reads them, for a mirror of these nodes, some of which are `asynchronous` (protocol A).
pub(super) fn read(
    fields: &Fields<'_>,
    backend: Option<Backend>,
    drafts: &[DraftNode],
    asynchronous: bool,
    problems: &mut Problems,
) -> Option<Quorum> {
    let nodes = drafts.len();
    let quorum = number(fields, backend, nodes, asynchronous, problems);
    let without = drafts.iter().zip(NodeId::all());
    let without = without.filter_map(|(draft, node)| Some((node, draft.tie_breaker.as_ref()?)));
    let without: Vec<_> = without.collect();
    let complaint = match &quorum {
        None => Complaint::new(
            "a node without a disk only votes, and this mirror has no quorum",
            "write quorum = \"majority\" above the nodes, or give it a disk",
        ),
        // One alone is a mirror that is not extended yet; a majority of others could outvote all that have the data.
        Some(_) if (nodes - without.len()) <= without.len() => Complaint::new(
            format!("{} of {nodes} nodes have no disk", without.len()),
            "more nodes have to have one than not",
        ),
        // The metadata of the legs counts those alone, in the order of the nodes.
        Some(_)
            if drafts[..nodes - without.len()]
                .iter()
                .any(|draft| draft.tie_breaker.is_some()) =>
        {
            Complaint::new(
                "a node without a disk is not among the last ones",
                "write it behind those that have one",
            )
        }
        Some(quorum) => {
            return Some(Quorum {
                tie_breakers: without.iter().map(|(node, _)| *node).collect(),
                ..*quorum
            });
        }
    };
    if let Some((_, place)) = without.first() {
        problems.note(place, complaint);
    }
    None
}

/// Reads the two keys.
fn number(
    fields: &Fields<'_>,
    backend: Option<Backend>,
    nodes: usize,
    asynchronous: bool,
    problems: &mut Problems,
) -> Option<Quorum> {
    let majority = nodes / 2 + 1;
    let need = match fields.is_number("quorum") {
        true => fields
            .number::<u8>("quorum", 1..=8, problems)
            .map(|at| (usize::from(at.value), at.place)),
        false => {
            let taken = fields.text("quorum", problems, |text| match text {
                "off" => Ok(0),
                "majority" => Ok(majority),
                "all" => Ok(nodes),
                _ => Err(Complaint::new(
                    format!("quorum {} is not known", quoted(text)),
                    "write \"off\" or \"majority\" or \"all\" or a number of nodes",
                )),
            });
            taken.map(|at| (at.value, at.place))
        }
    };
    let words = [("suspend-io", false), ("io-error", true)];
    let fail = fields.word("on-no-quorum", &words, problems);
    let (need, place) = need?;
    let complaint = match backend {
        _ if need == 0 => return None,
        Some(Backend::Md) => Some((
            "quorum is not built for backend \"md\": the kernel can't hold answers back while the nodes vote".to_owned(),
            "write backend = \"embedded\", or quorum = \"off\"".to_owned(),
        )),
        // A vote says who has all that was answered: under protocol A nobody but the source does. Its own data would be given
        // up without an order after a failover, with what was answered from the send buffer.
        _ if asynchronous => Some((
            "quorum needs to know who has all that was answered, which protocol A does not say".to_owned(),
            "write protocol = \"C\", for each node as well, or quorum = \"off\"".to_owned(),
        )),
        _ if need < majority => Some((
            format!("quorum {need} is not more than half of {nodes} nodes: both halves could go on"),
            format!("write \"majority\", or {majority} to {nodes}"),
        )),
        _ if need > nodes => Some((
            format!("quorum {need} is more than the {nodes} nodes of this mirror"),
            format!("write \"majority\", or {majority} to {nodes}"),
        )),
        _ => None,
    };
    if let Some((what, instead)) = complaint {
        problems.note(&place, Complaint::new(what, instead));
        return None;
    }
    Some(Quorum {
        need,
        nodes,
        tie_breakers: NodeSet::NONE,
        fail: fail.is_some_and(|at| at.value),
    })
}
