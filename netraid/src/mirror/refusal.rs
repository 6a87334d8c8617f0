//! Why something is refused, in words, and the command that could help.

use super::fencing::{FenceAnswer, NotOutdated};
use super::node::{Names, NodeId, NodeSet};

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `TAG_data_corrupt` is set.
    DataCorrupt,
    /// It was source when it went down, and can't reach these, one of which may have gone into service since.
    CannotReach(NodeSet),
    /// It was not source when it went down, and can't reach these, which may have newer data.
    MayBeOld(NodeSet),
    /// A source went on without this leg, or somebody marked it as outdated.
    Outdated,
    /// The leg was being resynced.
    Inconsistent,
    /// The leg never had data of this mirror.
    NoData,
    /// That node has newer data.
    Newer(NodeId),
    /// That node and this one wrote without each other.
    SplitBrain(NodeId),
    /// This node's data was given up.
    GivenUp,
    /// It crashed as source of an asynchronous mirror: that node may have acknowledged more.
    MayHaveMore(NodeId),
    /// It is in service on that node.
    InService(NodeId),
    /// It is being started or stopped.
    Busy,
    /// Somebody uses the mirror, so it can't be stopped.
    InUse,
    /// The array could not be started.
    NotStarted,
    /// Only the source can do that.
    NotSource(Option<NodeId>),
    /// Another source is in service, with newer data.
    Superseded(NodeId),
    /// This node is not in the mirror, or is the source itself.
    NotATarget(NodeId),
    /// The source can't be a target of its own.
    OwnTarget,
    /// A mirror has at most seven targets.
    TooMany,
    /// There is no split brain with that node, and it has no newer data.
    NothingToResolve(NodeId),
    /// That node is in service: it has to be stopped first.
    StopFirst(NodeId),
    /// That node can't be reached, so what it has is not known.
    Unreachable(NodeId),
    /// Not enough nodes are there, or have voted for this one.
    NoQuorum {
        /// Those that have, this one included.
        present: usize,
        /// So many are needed.
        need: usize,
    },
    /// This node has no memory of votes, and may have forgotten one: it votes when it has met all others, these among them.
    NoVote(NodeSet),
    /// That node has no disk: it only votes.
    TieBreaker(NodeId),
    /// The newest that a majority knows of is that this source went on without this node.
    LeftOut(NodeId),
    /// This node's data was not marked as outdated.
    NotOutdated(NotOutdated),
    /// A node that can't be reached was not fenced (`fencing`).
    NotFenced(NodeId, FenceAnswer),
}

impl Refusal {
    /// One sentence, without a full stop.
    pub fn reason(&self, own: NodeId, names: &Names) -> String {
        let (tag, here) = (&names.tag, names.node(own));
        let name = |node: &NodeId| names.node(*node);
        match self {
            Refusal::DataCorrupt => format!(
                "{tag}_data_corrupt is set: {here} was source when it went down, and another node may have newer data"
            ),
            Refusal::CannotReach(nodes) => format!(
                "{here} was source when it went down, and {} can't be reached, where newer data may be; that is what \
                 {tag}_data_corrupt guards against",
                names.list(*nodes)
            ),
            Refusal::MayBeOld(nodes) => format!(
                "{} can't be reached, where newer data may be than on {here}",
                names.list(*nodes)
            ),
            Refusal::Outdated => {
                format!("{here} is not in sync: the source went on without it (Outdated)")
            }
            Refusal::Inconsistent => {
                format!("{here} was being resynced: its data is not of one moment")
            }
            Refusal::NoData => format!("{here} never had data of {tag}"),
            Refusal::Newer(node) => format!("{} has newer data than {here}", name(node)),
            Refusal::SplitBrain(node) => format!(
                "split brain: {here} and {} were both written without the other",
                name(node)
            ),
            Refusal::GivenUp => {
                format!("the data of {here} was given up")
            }
            Refusal::MayHaveMore(node) => format!(
                "{} crashed as source of an asynchronous mirror and may have acknowledged more than {here} has",
                name(node)
            ),
            Refusal::InService(node) => format!("{tag} is in service on {}", name(node)),
            Refusal::Busy => format!("{tag} is being started or stopped on {here}"),
            Refusal::InUse => format!("{tag} is in use on {here}"),
            Refusal::NotStarted => format!("the array of {tag} could not be started on {here}"),
            Refusal::NotSource(_) => {
                format!("{tag} is not in service on {here}: only the source can do that")
            }
            Refusal::Superseded(node) => format!(
                "{} took over {tag} and has newer data: {here} has lost its targets",
                name(node)
            ),
            Refusal::NotATarget(node) => format!("{} is not a target of {tag}", name(node)),
            Refusal::OwnTarget => {
                format!("{here} is the source of {tag}: it can't be a target of its own")
            }
            Refusal::TooMany => format!("{tag} has seven targets already"),
            Refusal::NothingToResolve(node) => {
                format!(
                    "there is nothing to decide between {here} and {}",
                    name(node)
                )
            }
            Refusal::StopFirst(node) => format!(
                "{tag} is in service on {}, whose data would be given up",
                name(node)
            ),
            Refusal::Unreachable(node) => {
                format!("{} can't be reached, so its data is not known", name(node))
            }
            Refusal::NoQuorum { present, need } => format!(
                "{tag} has no quorum: {present} of {} nodes can vote here, {need} are needed, so others may go on without {here}",
                names.nodes.len()
            ),
            Refusal::NoVote(nodes) => format!(
                "{here} can't vote before it has met all other nodes once, since it may have forgotten what it voted for; {} \
                 can't be reached",
                names.list(*nodes)
            ),
            Refusal::TieBreaker(node) => format!(
                "{} is a tie-breaker: it has no disk of {tag}, and only votes",
                name(node)
            ),
            Refusal::LeftOut(node) if *node == own => format!(
                "{here} is outdated: others went on without it, as a majority of the nodes knows"
            ),
            Refusal::LeftOut(node) => format!(
                "{here} is outdated: {} went on without it, as a majority of the nodes knows",
                name(node)
            ),
            Refusal::NotOutdated(why) => why.reason(own, names),
            Refusal::NotFenced(node, answer) => format!(
                "{} can't be reached and was not fenced: {}",
                name(node),
                answer.says(&name(node))
            ),
        }
    }

    /// The exit code of the command that was refused, if it is another than that of all refusals.
    pub const fn exit_code(&self) -> Option<u8> {
        match self {
            Refusal::NotOutdated(why) => Some(why.exit_code()),
            _ => None,
        }
    }

    /// The command that is most likely what is needed; `None` if there is none.
    pub fn next(&self, own: NodeId, names: &Names) -> Option<String> {
        let (tag, here) = (&names.tag, names.node(own));
        let name = |node: &NodeId| names.node(*node);
        Some(match self {
            Refusal::DataCorrupt | Refusal::CannotReach(_) => {
                format!("mirror_action {tag} force {here}")
            }
            Refusal::MayBeOld(nodes) => format!(
                "start {}, or take {here}'s data as it is: mirror_action {tag} force {here}",
                names.list(*nodes)
            ),
            Refusal::Outdated | Refusal::Inconsistent => format!(
                "start it where it was source, or take {here}'s data as it is: mirror_action {tag} force {here}"
            ),
            Refusal::NoData => "start it on another node".into(),
            Refusal::Newer(node) | Refusal::MayHaveMore(node) => {
                format!("on {}: netraid start {tag}", name(node))
            }
            Refusal::SplitBrain(node) => format!(
                "netraid resolve {tag} --discard {}, or --discard {here}",
                name(node)
            ),
            Refusal::GivenUp => format!("mirror_action {tag} force {here}"),
            Refusal::InService(node) | Refusal::StopFirst(node) => {
                format!("on {}: netraid stop {tag}", name(node))
            }
            Refusal::InUse => format!("unmount it, then: netraid stop {tag}"),
            Refusal::NotStarted => format!("netraid events {tag}"),
            Refusal::Superseded(_) => format!("netraid stop {tag}"),
            Refusal::NotSource(Some(source)) => format!("run it on {}", name(source)),
            Refusal::NotSource(None) => format!("netraid start {tag}"),
            Refusal::Busy | Refusal::NothingToResolve(_) => format!("netraid status {tag}"),
            Refusal::NotATarget(_) | Refusal::OwnTarget => format!("netraid status {tag}"),
            Refusal::Unreachable(_) => format!("netraid explain {tag}"),
            Refusal::NoQuorum { .. } => format!(
                "start netraidd on more nodes, or write quorum = \"off\" into {tag}.toml on all nodes: netraid adjust"
            ),
            Refusal::NoVote(nodes) => format!(
                "start netraidd on {}; or, if that is gone for good, write quorum = \"off\" into {tag}.toml on all nodes: \
                 netraid adjust",
                names.list(*nodes)
            ),
            Refusal::TieBreaker(_) => format!("netraid status {tag}"),
            Refusal::LeftOut(node) if *node == own => format!(
                "start it on another node, or take {here}'s data as it is: mirror_action {tag} force {here}"
            ),
            Refusal::LeftOut(node) => format!(
                "start it where {} was in sync, or take {here}'s data as it is: mirror_action {tag} force {here}",
                name(node)
            ),
            Refusal::NotOutdated(why) => return why.next(own, names),
            Refusal::NotFenced(node, FenceAnswer::Primary) => {
                format!(
                    "see to the network between {here} and {}: netraid status {tag}",
                    name(node)
                )
            }
            Refusal::NotFenced(node, _) => format!(
                "start {}, or if it is surely off take {here}'s data as it is: mirror_action {tag} force {here}",
                name(node)
            ),
            Refusal::TooMany => return None,
        })
    }
}
