//! Actions as lines that a person reads, with the nodes' names.

use netraid::mirror::action::{Action, DropReason, Flag, Note};
use netraid::mirror::generation::Extent;
use netraid::mirror::node::{Names, NodeId};

pub fn action(action: &Action, own: NodeId, names: &Names) -> String {
    let name = |node| names.node(node);
    match *action {
        Action::SetFlag(flag) => format!("set {}", self::flag(flag, names)),
        Action::ClearFlag(Flag::Source(_)) => "clear source".into(),
        Action::ClearFlag(flag) => format!("clear {}", self::flag(flag, names)),
        Action::Persist => "persist".into(),
        Action::Assemble { force: false, .. } => "assemble".into(),
        Action::Assemble { force: true, .. } => "assemble by force".into(),
        Action::Stop => "stop".into(),
        Action::Connect(node) => format!("connect {}", name(node)),
        Action::Merge(node) => format!("merge the bitmap of {}", name(node)),
        Action::Add {
            node,
            extent,
            rule,
            discard,
        } => {
            let much = if extent == Extent::Full {
                "in full"
            } else {
                "in part"
            };
            let discard = if discard {
                ", discarding what it has"
            } else {
                ""
            };
            format!("add {} {much}{discard} ({rule})", name(node))
        }
        Action::CopyAll(node) => format!("copy all to {}", name(node)),
        Action::Drop(node, why) => {
            let why = match why {
                DropReason::Paused => "paused".into(),
                DropReason::Unextended => "unextended".into(),
                DropReason::Superseded(by) => format!("superseded by {}", name(by)),
                DropReason::Restarted => "restarted".into(),
                DropReason::NotOrdered => "not ordered".into(),
                DropReason::OwnLegFailed => "own leg failed".into(),
            };
            format!("drop {} ({why})", name(node))
        }
        Action::Guard { members, only } => {
            let too = if only { "" } else { " as well" };
            format!("answer what {} has{too}", names.list(members))
        }
        Action::Fence(node) => format!("fence {}", name(node)),
        Action::Unfence(node) => format!("unfence {}", name(node)),
        Action::GaveUpStart(refusal) => {
            format!("give up the start: {}", refusal.reason(own, names))
        }
        Action::Hold(hold) => format!("requests: {hold:?}"),
        Action::Accept(Some(node)) => format!("accept writes of {}", name(node)),
        Action::Accept(None) => "accept no writes".into(),
        Action::Tell(nodes) => format!("tell {}", names.list(nodes)),
        Action::StartTimer(seconds) => format!("start timer of {seconds} s"),
        Action::StopTimer => "stop timer".into(),
        Action::Done => "done".into(),
        Action::Refuse(refusal) => format!("refuse: {}", refusal.reason(own, names)),
        Action::Note(note) => match note {
            Note::SetByHand(flag) => format!("note: by hand set {}", self::flag(flag, names)),
            Note::ClearedByHand(flag) => {
                format!("note: by hand cleared {}", self::flag(flag, names))
            }
            Note::SplitBrain(node) => format!("note: split brain with {}", name(node)),
            Note::Judged {
                judgement, lost, ..
            } => {
                let what = match (judgement.loser, judgement.must_stop) {
                    (None, _) => "nobody's data is touched".into(),
                    (Some(loser), true) => format!("{} has to stop", name(loser)),
                    (Some(loser), false) => {
                        format!("{} is given up, {lost:?} blocks", name(loser))
                    }
                };
                format!("note: {}: {}; {what}", judgement.policy, judgement.why)
            }
            Note::TwoSources(node) => format!("note: in service on {} as well", name(node)),
            Note::Superseded(node) => format!("note: superseded by {}", name(node)),
            Note::PeerIsNewer(node) => format!("note: {} is newer", name(node)),
            Note::WaitsFor(node) => format!("note: targets wait for {}", name(node)),
            Note::GaveUpWaiting(node) => format!("note: gave up waiting for {}", name(node)),
            Note::Merged(node) => format!("note: merged the bitmap of {}", name(node)),
            Note::Fenced(node, answer) => format!("note: {}", answer.says(&name(node))),
            Note::ResumedUnfenced(nodes) => format!("note: goes on without {}", names.list(nodes)),
            Note::Outdated(None) => "note: outdated".into(),
            Note::Outdated(Some(asker)) => format!("note: outdated for {}", name(asker)),
            Note::OutOfTurn => "note: out of turn".into(),
        },
    }
}

fn flag(flag: Flag, names: &Names) -> String {
    match flag {
        Flag::LastOwner => "last_owner".into(),
        Flag::Source(node) => format!("source = {}", names.node(node)),
        Flag::DataCorrupt => "data_corrupt".into(),
    }
}
