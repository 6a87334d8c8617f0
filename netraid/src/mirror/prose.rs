//! What a node remembers of a mirror, each id and flag explained: `netraid show-gi`.

use super::generation::Generation;
use super::node::{Names, NodeId, NodeSet};
use super::record::Memory;

/// The lines: of each a name and what it is now, and then, indented, what that means.
pub fn prose(memory: &Memory, own: NodeId, names: &Names) -> Vec<String> {
    let mut lines = generations(memory, own, names);
    lines.extend(flags(memory, own, names));
    lines.extend(others(memory, own, names));
    let lines = lines.iter().flat_map(|entry| entry.lines());
    lines.map(str::to_owned).collect()
}

fn line(name: &str, value: &str, meaning: &str) -> String {
    format!("{name}: {value}\n    {meaning}")
}

fn generations(memory: &Memory, own: NodeId, names: &Names) -> Vec<String> {
    let (here, known) = (names.node(own), &memory.generations);
    let current = known.current;
    let mut lines = vec![match current {
        Generation::NONE => line(
            "current generation",
            "none",
            &format!(
                "the disk of {here} never had data of {}; it would get everything",
                names.tag
            ),
        ),
        current => line(
            "current generation",
            &format!("{current:?}"),
            "names what this leg has: everything that was written to exactly the legs that were in sync when it was named; \
             legs with the same id differ at most in what is marked",
        ),
    }];
    for node in NodeId::all() {
        let since = known.away[node.slot()];
        if since != Generation::NONE {
            let name = names.node(node);
            lines.push(line(
                &format!("away, {name}"),
                &format!("{since:?}"),
                &format!(
                    "{name} was left behind in this generation; if it returns with this id, it gets what is marked, and nothing \
                     of its own is lost"
                ),
            ));
        }
    }
    for (number, former) in known.history.iter().enumerate() {
        lines.push(line(
            &format!("history {}", number + 1),
            &format!("{former:?}"),
            "a former generation of this data; who has it as its current one is older, and gets everything",
        ));
    }
    lines
}

fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

fn flags(memory: &Memory, own: NodeId, names: &Names) -> Vec<String> {
    let (here, tag) = (names.node(own), &names.tag);
    let says = |name: &str, flag: bool, set: &str, unset: &str| {
        line(name, yes(flag), if flag { set } else { unset })
    };
    vec![
        says(
            "consistent",
            memory.consistent,
            "the data is of one moment",
            "it was being resynced, so the data is of no single moment: it can't go into service, except by force",
        ),
        says(
            "outdated",
            memory.outdated,
            &format!(
                "a source said that it goes on without {here}, or somebody did for it (netraid outdate): it can't go into \
                 service, except by force, before it is in sync again"
            ),
            "nobody has said that a source goes on without this leg",
        ),
        says(
            "fresh",
            memory.fresh,
            "known to have the newest data since netraidd began: the others need not be asked before it goes into service",
            "not known to have the newest data: the others that could have newer are asked first",
        ),
        says(
            "was source",
            memory.was_source,
            &format!(
                "{here} was in service when this was written; found after a start, it crashed as source"
            ),
            "out of service when this was written",
        ),
        says(
            &format!("{tag}_last_owner"),
            memory.last_owner,
            "in service here last, as far as this node knows",
            "another node was in service last, or nobody yet",
        ),
        line(
            &format!("{tag}_source"),
            &memory
                .source
                .map_or_else(|| "none".into(), |node| names.node(node)),
            match memory.source {
                None => "no source is known",
                Some(node) if node == own => "the last source is this node",
                Some(_) => {
                    "the last source that this node knows of; when this node takes over, other targets wait for its bitmap"
                }
            },
        ),
        says(
            &format!("{tag}_data_corrupt"),
            memory.data_corrupt,
            &format!(
                "refused before because another node may have newer data; it stays refused until mirror_action {tag} force {here}, \
                 or a resync to this node"
            ),
            "nothing forbids to go into service because of newer data elsewhere",
        ),
    ]
}

fn others(memory: &Memory, own: NodeId, names: &Names) -> Vec<String> {
    let set = |name: &str, nodes: NodeSet, meaning: &str| line(name, &names.list(nodes), meaning);
    let mut lines = vec![
        set(
            "nodes",
            memory.nodes,
            "the nodes of the mirror (netraid extend, unextend)",
        ),
        set(
            "could have newer data",
            memory.in_sync.without(own),
            "in sync when last heard of, so they could have gone into service since: asked before this node does",
        ),
        set(
            "settled",
            memory.settled,
            "can be resynced without the previous source's bitmap: in sync at a clean stop, or resynced since",
        ),
        set("full", memory.full, "their next resync copies everything"),
        set("paused", memory.paused, "an administrator paused them"),
    ];
    if !memory.unfenced.is_empty() {
        lines.push(set(
            "have to be fenced",
            memory.unfenced,
            "in sync with this source, or there when it began: when they leave, they have to learn of it (fencing)",
        ));
    }
    if !memory.fenced.is_empty() {
        lines.push(set(
            "fenced",
            memory.fenced,
            "they know, or are known to be off: they can't go into service before they were in sync with this node again",
        ));
    }
    for node in NodeId::all() {
        let given_up = memory.discarded[node.slot()];
        if given_up != Generation::NONE {
            let name = names.node(node);
            lines.push(line(
                &format!("given up, {name}"),
                &format!("{given_up:?}"),
                &format!(
                    "an administrator or a policy gave up what {name} has as long as this is its generation: it becomes a target"
                ),
            ));
        }
    }
    lines.push(line(
        "agreement",
        &memory.agreement.to_string(),
        "counts how often this node agreed to take a source's writes; a leg of an older agreement is not in sync any more",
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_and_flag_that_is_set_is_explained() {
        let names = Names {
            tag: "data".into(),
            nodes: vec!["a".into(), "b".into()],
        };
        let (a, b) = (NodeId::new(0).unwrap(), NodeId::new(1).unwrap());
        let mut memory = Memory {
            nodes: NodeSet::of(a).with(b),
            source: Some(b),
            ..Memory::default()
        };
        let text = prose(&memory, a, &names).join("\n");
        assert!(text.contains("current generation: none"), "{text}");
        memory.generations.current = Generation(1);
        memory.generations.mint(Generation(0xabc), [1].into_iter());
        memory.discarded[1] = Generation(7);
        memory.data_corrupt = true;
        let text = prose(&memory, a, &names).join("\n");
        for part in [
            "current generation: 0000000000000abc",
            "away, b: 0000000000000001",
            "history 1: 0000000000000001",
            "consistent: no",
            "data_source: b",
            "data_data_corrupt: yes",
            "mirror_action data force a",
            "nodes: a and b",
            "given up, b: 0000000000000007",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
