//! Fencing in words: what is configured (`fencing`), what the program `fence-peer` answers, and what forbids to mark a
//! node's data as outdated, with the exit codes of `drbdadm outdate`.

use super::node::{Names, NodeId};

/// What is done before anybody goes on, or into service, without a node that may not know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fencing {
    /// Nothing.
    #[default]
    DontCare,
    /// `fence-peer` is called. A source goes on meanwhile.
    ResourceOnly,
    /// `fence-peer` is called. A source answers nothing meanwhile.
    ResourceAndStonith,
}

impl Fencing {
    /// Its value in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fencing::DontCare => "dont-care",
            Fencing::ResourceOnly => "resource-only",
            Fencing::ResourceAndStonith => "resource-and-stonith",
        }
    }
}

/// What `fence-peer` says by its exit code; the codes are DRBD's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceAnswer {
    /// 3: the peer's data is inconsistent, so it can't take over.
    Inconsistent,
    /// 4: the peer is outdated now, or was already.
    Outdated,
    /// 5: the peer can't be reached, and is taken for dead.
    Down,
    /// 6: the peer is in service itself, or has newer data.
    Primary,
    /// 7: the peer was shot.
    Stonithed,
    /// Anything else: nobody knows.
    Broken,
}

impl FenceAnswer {
    /// What an exit code says; `None` is that of a program that was ended, by a signal or for taking too long.
    pub const fn from_code(code: Option<i32>) -> FenceAnswer {
        match code {
            Some(3) => FenceAnswer::Inconsistent,
            Some(4) => FenceAnswer::Outdated,
            Some(5) => FenceAnswer::Down,
            Some(6) => FenceAnswer::Primary,
            Some(7) => FenceAnswer::Stonithed,
            _ => FenceAnswer::Broken,
        }
    }

    /// For the status: one word.
    pub const fn word(self) -> &'static str {
        match self {
            FenceAnswer::Inconsistent => "inconsistent",
            FenceAnswer::Outdated => "outdated",
            FenceAnswer::Down => "down",
            FenceAnswer::Primary => "primary",
            FenceAnswer::Stonithed => "stonithed",
            FenceAnswer::Broken => "failed",
        }
    }

    /// The same about a node: a part of a sentence.
    pub fn says(self, name: &str) -> String {
        match self {
            FenceAnswer::Inconsistent => format!("the data of {name} is inconsistent"),
            FenceAnswer::Outdated => format!("the data of {name} is outdated"),
            FenceAnswer::Down => format!("{name} can't be reached and is taken for dead"),
            FenceAnswer::Primary => format!("{name} is in service itself, or has newer data"),
            FenceAnswer::Stonithed => format!("{name} was shot"),
            FenceAnswer::Broken => format!("fence-peer has failed for {name}"),
        }
    }
}

/// Why a node's own data was not marked as outdated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOutdated {
    /// The mirror is in service here, or about to be.
    InService,
    /// The leg was being resynced: it can't go into service anyway.
    Inconsistent,
    /// The leg never had data of this mirror.
    NoData,
    /// It wrote without the node on whose behalf it is asked: that one's data is older.
    NewerThan(NodeId),
    /// No other node of the mirror has its data.
    OnlyCopy,
    /// That source can be reached, and writes to this leg.
    Follows(NodeId),
    /// It asks the other to be outdated itself, and its number is the lower one.
    AsksItself,
}

impl NotOutdated {
    /// The exit code of `netraid outdate`: that of `drbdadm outdate` where it has one.
    pub const fn exit_code(self) -> u8 {
        match self {
            NotOutdated::Inconsistent => 5,
            NotOutdated::InService => 17,
            NotOutdated::NewerThan(_) | NotOutdated::OnlyCopy => 18,
            NotOutdated::NoData => 20,
            NotOutdated::Follows(_) | NotOutdated::AsksItself => 3,
        }
    }

    /// One sentence, without a full stop.
    pub fn reason(self, own: NodeId, names: &Names) -> String {
        let (tag, here) = (&names.tag, names.node(own));
        match self {
            NotOutdated::InService => {
                format!("{tag} is in service on {here}, so its data is not outdated")
            }
            NotOutdated::Inconsistent => {
                format!(
                    "{here} was being resynced, so it can't go into service anyway: its data is not of one moment"
                )
            }
            NotOutdated::NoData => format!("{here} never had data of {tag}"),
            NotOutdated::NewerThan(node) => {
                format!(
                    "{here} wrote without {}: its data is newer",
                    names.node(node)
                )
            }
            NotOutdated::OnlyCopy => {
                format!("no other node of {tag} has what {here} has")
            }
            NotOutdated::Follows(source) => format!(
                "{here} is a target of {}, which can be reached: nobody goes on without it",
                names.node(source)
            ),
            NotOutdated::AsksItself => format!(
                "{tag} is being put into service on {here}, which asks the others to be outdated"
            ),
        }
    }

    /// The command that is most likely what is needed; `None` if there is none.
    pub fn next(self, own: NodeId, names: &Names) -> Option<String> {
        let (tag, here) = (&names.tag, names.node(own));
        match self {
            NotOutdated::InService => Some(format!("netraid stop {tag}")),
            NotOutdated::NewerThan(node) => Some(format!(
                "start it on {here}, or give up what {here} wrote, on {}: netraid resolve {tag} --discard {here}",
                names.node(node)
            )),
            NotOutdated::OnlyCopy => Some(format!("netraid show-gi {tag}")),
            NotOutdated::Follows(source) => Some(format!(
                "on {}: mirror_action {tag} pause {} {here}",
                names.node(source),
                names.node(source)
            )),
            NotOutdated::AsksItself => Some(format!("netraid status {tag}")),
            NotOutdated::Inconsistent | NotOutdated::NoData => None,
        }
    }
}
