//! The keys for split brains: DRBD's options with DRBD's values, and the programs that are told.

use super::fields::{Fields, Key};
use super::mirror::DraftNode;
use super::problem::{At, Complaint, Problems, quoted};
use super::source::Source;
use crate::mirror::node::NodeId;
use crate::mirror::policy::{BothInService, NoneInService, OneInService, Policies, RoleConflict};

/// Programs that are run when something happens, by DRBD's names; each a line for `sh -c`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handlers {
    /// A split brain was found, whatever the policies say of it.
    pub initial_split_brain: Option<String>,
    /// A split brain was found that an administrator has to end.
    pub split_brain: Option<String>,
    /// A policy gives up this node's data, and it is in service: it has to go out of service.
    pub pri_lost_after_sb: Option<String>,
    /// This node is in service with the older data: it has to go out of service.
    pub pri_lost: Option<String>,
    /// This node's own leg failed while in service (`on-io-error = "call-local-io-error"`).
    pub local_io_error: Option<String>,
    /// This node is in service and has lost its quorum.
    pub quorum_lost: Option<String>,
    /// A node that can't be reached has to be fenced (`fencing`); its exit code says what became of that.
    pub fence_peer: Option<String>,
    /// A node that was fenced is in sync again.
    pub unfence_peer: Option<String>,
}

/// The keys of a mirror's file that are read here.
pub(super) const POLICY_KEYS: [Key; 6] = [
    Key {
        name: "after-sb-0pri",
        example: "after-sb-0pri = \"discard-zero-changes\"",
    },
    Key {
        name: "after-sb-1pri",
        example: "after-sb-1pri = \"consensus\"",
    },
    Key {
        name: "after-sb-2pri",
        example: "after-sb-2pri = \"disconnect\"",
    },
    Key {
        name: "rr-conflict",
        example: "rr-conflict = \"disconnect\"",
    },
    Key {
        name: "always-asbp",
        example: "always-asbp = \"no\"",
    },
    Key {
        name: "handlers",
        example: "[handlers] with split-brain = \"/usr/local/sbin/tell-me\"",
    },
];

const HANDLER_KEYS: &[Key] = &[
    Key {
        name: "initial-split-brain",
        example: "initial-split-brain = \"/usr/local/sbin/tell-me\"",
    },
    Key {
        name: "split-brain",
        example: "split-brain = \"/usr/local/sbin/tell-me\"",
    },
    Key {
        name: "pri-lost-after-sb",
        example: "pri-lost-after-sb = \"/usr/local/sbin/end-the-application\"",
    },
    Key {
        name: "pri-lost",
        example: "pri-lost = \"/usr/local/sbin/end-the-application\"",
    },
    Key {
        name: "local-io-error",
        example: "local-io-error = \"/usr/local/sbin/tell-me\"",
    },
    Key {
        name: "quorum-lost",
        example: "quorum-lost = \"/usr/local/sbin/tell-me\"",
    },
    Key {
        name: "fence-peer",
        example: "fence-peer = \"/usr/lib/netraid/netraid-fence-peer\"",
    },
    Key {
        name: "unfence-peer",
        example: "unfence-peer = \"/usr/local/sbin/tell-me\"",
    },
];

/// A value, or why it is not one here: what to write instead.
type Word<T> = (&'static str, Result<T, (&'static str, &'static str)>);

const VIOLENT: (&str, &str) = (
    "would change the data below an application that uses it",
    "write \"call-pri-lost-after-sb\" with a program handlers.pri-lost-after-sb that ends the application",
);

/// Reads the policies; the nodes' names may be values.
pub(super) fn policies(
    fields: &Fields<'_>,
    nodes: &[DraftNode],
    problems: &mut Problems,
) -> Policies {
    let zero = fields.text("after-sb-0pri", problems, |text| zero(text, nodes));
    let one = word(
        fields,
        "after-sb-1pri",
        &[
            ("disconnect", Ok(OneInService::Disconnect)),
            ("consensus", Ok(OneInService::Consensus)),
            ("discard-secondary", Ok(OneInService::DiscardSecondary)),
            ("call-pri-lost-after-sb", Ok(OneInService::CallPriLost)),
            ("violently-as0p", Err(VIOLENT)),
        ],
        problems,
    );
    let both = word(
        fields,
        "after-sb-2pri",
        &[
            ("disconnect", Ok(BothInService::Disconnect)),
            ("call-pri-lost-after-sb", Ok(BothInService::CallPriLost)),
            ("violently-as0p", Err(VIOLENT)),
        ],
        problems,
    );
    let roles = word(
        fields,
        "rr-conflict",
        &[
            ("disconnect", Ok(RoleConflict::Disconnect)),
            ("call-pri-lost", Ok(RoleConflict::CallPriLost)),
            (
                "violently",
                Err((
                    "would change the data below an application that uses it",
                    "write \"call-pri-lost\" with a program handlers.pri-lost that ends the application",
                )),
            ),
            (
                "retry-connect",
                Err((
                    "is what is done in any case: netraidd never ceases to try",
                    "write \"disconnect\"",
                )),
            ),
            (
                "auto-discard",
                Err((
                    "is what is done in any case: once another node is in service, the last writes of a crashed source of \
                     protocol A count as lost",
                    "write \"disconnect\"",
                )),
            ),
        ],
        problems,
    );
    let always = fields.word("always-asbp", &[("no", false), ("yes", true)], problems);
    Policies {
        none_in_service: zero.map(|at| at.value).unwrap_or_default(),
        one_in_service: one.unwrap_or_default(),
        both_in_service: both.unwrap_or_default(),
        role_conflict: roles.unwrap_or_default(),
        always: always.is_some_and(|at| at.value),
    }
}

/// One of some words, some of which are known and refused with a reason.
fn word<T: Copy>(
    fields: &Fields<'_>,
    key: &str,
    words: &[Word<T>],
    problems: &mut Problems,
) -> Option<T> {
    let found = fields.text(key, problems, |text| {
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, Ok(value))) => Ok(*value),
            Some((_, Err((why, instead)))) => Err(Complaint::new(
                format!("{key} {} {why}", quoted(text)),
                *instead,
            )),
            None => Err(Complaint::new(
                format!("{key} {} is not known", quoted(text)),
                format!("write {}", list(words)),
            )),
        }
    });
    found.map(|At { value, .. }| value)
}

fn list<T>(words: &[Word<T>]) -> String {
    let known = words.iter().filter(|(_, value)| value.is_ok());
    let known: Vec<String> = known.map(|(word, _)| format!("{word:?}")).collect();
    known.join(" or ")
}

fn zero(text: &str, nodes: &[DraftNode]) -> Result<NoneInService, Complaint> {
    let all = [
        NoneInService::Disconnect,
        NoneInService::DiscardYoungerPrimary,
        NoneInService::DiscardOlderPrimary,
        NoneInService::DiscardZeroChanges,
        NoneInService::DiscardLeastChanges,
    ];
    if let Some(found) = all.into_iter().find(|value| value.as_str() == text) {
        return Ok(found);
    }
    if let Some(name) = text.strip_prefix("discard-node-") {
        let slot = nodes.iter().position(|node| {
            let known = node.name.as_ref();
            known.is_some_and(|known| known.value.as_str() == name)
        });
        let node = slot.and_then(|slot| NodeId::new(u8::try_from(slot).ok()?));
        return node.map(NoneInService::DiscardNode).ok_or_else(|| {
            Complaint::new(
                format!(
                    "after-sb-0pri {} names no node of this mirror",
                    quoted(text)
                ),
                "write the name of one of its [[nodes]]",
            )
        });
    }
    if text == "discard-local" || text == "discard-remote" {
        return Err(Complaint::new(
            format!(
                "after-sb-0pri {} is another node on each node",
                quoted(text)
            ),
            "write \"discard-node-NAME\", the same on all nodes",
        ));
    }
    let known: Vec<String> = all
        .iter()
        .map(|value| format!("{:?}", value.as_str()))
        .collect();
    Err(Complaint::new(
        format!("after-sb-0pri {} is not known", quoted(text)),
        format!("write {} or \"discard-node-NAME\"", known.join(" or ")),
    ))
}

/// Reads the table `[handlers]`.
pub(super) fn handlers(source: &Source, fields: &Fields<'_>, problems: &mut Problems) -> Handlers {
    let Some((table, start)) = fields.table("handlers", problems) else {
        return Handlers::default();
    };
    let fields = Fields::new(source, table, start, HANDLER_KEYS, problems);
    let mut line = |key: &str| {
        let found = fields.text(key, problems, |text| {
            match text.trim().is_empty() || text.contains('\0') {
                true => Err(Complaint::new(
                    format!("{key} is empty"),
                    "write a line for the shell, or leave it out",
                )),
                false => Ok(text.to_owned()),
            }
        });
        found.map(|at| at.value)
    };
    Handlers {
        initial_split_brain: line("initial-split-brain"),
        split_brain: line("split-brain"),
        pri_lost_after_sb: line("pri-lost-after-sb"),
        pri_lost: line("pri-lost"),
        local_io_error: line("local-io-error"),
        quorum_lost: line("quorum-lost"),
        fence_peer: line("fence-peer"),
        unfence_peer: line("unfence-peer"),
    }
}
