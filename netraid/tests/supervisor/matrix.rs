//! Every state and every event, pinned in `matrix.txt`: each cell says what is done, and what is shown afterwards if that
//! is another thing than before. A reviewer reads what a change does from the difference of that file.
//!
//! ```text
//! NETRAID_UPDATE=1 cargo test -p netraid --test supervisor every_cell       writes it anew
//! ```

use std::fmt::Write;
use std::path::Path;

use netraid::mirror::action::Action;
use netraid::mirror::explain::{explain, text};
use netraid::mirror::machine::Machine;
use netraid::mirror::node::Names;

use crate::states::{events, one, states, three, two};

fn names() -> Names {
    Names {
        tag: "data".into(),
        nodes: ["one", "two", "three", "four"].map(String::from).to_vec(),
    }
}

fn shown(machine: &Machine) -> String {
    let words: Vec<String> = [one(), two(), three()]
        .iter()
        .map(|node| machine.detailed_word(*node).to_string())
        .collect();
    format!("{:?}: {}", machine.service(), words.join(" | "))
}

fn cell(machine: &Machine, event: netraid::mirror::event::Event) -> String {
    let before = shown(machine);
    let mut machine = machine.clone();
    let actions = machine.handle(event);
    let mut lines: Vec<String> = actions
        .iter()
        .map(|action| crate::show::action(action, one(), &names()))
        .collect();
    if lines.is_empty() {
        lines.push("-".into());
    }
    let after = shown(&machine);
    if after != before {
        lines.push(format!("=> {after}"));
    }
    lines.join("; ")
}

fn matrix() -> String {
    let mut out = String::from(
        "Every state of a mirror on node one and every event; written by the test every_cell_is_as_it_was_reviewed.\n",
    );
    for (name, machine) in states() {
        writeln!(out, "\n== {name}\n{}", shown(&machine)).unwrap();
        for line in text(&explain(&machine, &names()), &names()).lines() {
            writeln!(out, "    {line}").unwrap();
        }
        for (event, input) in events() {
            writeln!(out, "{event:32} {}", cell(&machine, input)).unwrap();
        }
    }
    out
}

#[test]
fn every_cell_is_as_it_was_reviewed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/supervisor/matrix.txt");
    let now = matrix();
    if std::env::var_os("NETRAID_UPDATE").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (now, reviewed)) in now.lines().zip(reviewed.lines()).enumerate() {
        assert_eq!(
            now,
            reviewed,
            "matrix.txt:{}; if that is what you want: NETRAID_UPDATE=1 cargo test -p netraid --test supervisor \
             every_cell",
            number + 1
        );
    }
    assert_eq!(now.lines().count(), reviewed.lines().count(), "matrix.txt");
}

#[test]
fn whatever_is_refused_has_a_reason_and_changes_nothing_but_data_corrupt() {
    for (state, machine) in states() {
        for (name, event) in events() {
            let mut after = machine.clone();
            let actions = after.handle(event);
            let Some(refusal) = actions.iter().find_map(|action| match action {
                Action::Refuse(refusal) => Some(refusal),
                _ => None,
            }) else {
                continue;
            };
            assert!(!refusal.reason(one(), &names()).is_empty());
            let mut expected = machine.memory().clone();
            expected.data_corrupt = after.memory().data_corrupt;
            if name == "assemble failed" {
                continue;
            }
            assert_eq!(*after.memory(), expected, "{state}, {name}");
            let commands = |action: &&Action| {
                !matches!(
                    action,
                    Action::Refuse(_) | Action::SetFlag(_) | Action::Persist | Action::Tell(_)
                )
            };
            let done: Vec<&Action> = actions.iter().filter(commands).collect();
            assert!(done.is_empty(), "{state}, {name}: {done:?}");
        }
    }
}

#[test]
fn what_is_durable_comes_before_what_it_describes() {
    for (state, machine) in states() {
        for (name, event) in events() {
            let actions = machine.clone().handle(event);
            let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted);
            let persist = place(|action| matches!(action, Action::Persist));
            let deed = place(|action| {
                matches!(
                    action,
                    Action::Assemble { .. }
                        | Action::Add { .. }
                        | Action::Tell(_)
                        | Action::Accept(_)
                )
            });
            if let (Some(persist), Some(deed)) = (persist, deed) {
                assert!(persist < deed, "{state}, {name}: {actions:?}");
            }
            // A crash in between leaves a flag too many rather than one too few.
            let last_set = actions
                .iter()
                .rposition(|action| matches!(action, Action::SetFlag(_)));
            let cleared = place(|action| matches!(action, Action::ClearFlag(_)));
            assert!(last_set.is_none_or(|set| persist.is_some_and(|persist| set < persist)));
            assert!(cleared.is_none_or(|cleared| persist.is_some_and(|persist| persist < cleared)));
        }
    }
}
