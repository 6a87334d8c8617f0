//! Tells a watcher what happens to the mirror.
//!
//! A watcher has a thread that looks at the engine when something changed, compares with what it told last, and sends
//! the difference. So nothing is queued, what changes twice before the watcher has read is told once, and the engine
//! never waits for anybody.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::answer::{Answerer, say};
use crate::array::{Event, GenerationIds, NodeState, Part};
use crate::raid1::leg::Slot;
use crate::report;

/// What a watcher is told of.
#[derive(Clone, Debug, Default)]
struct Look {
    nodes: Vec<NodeState>,
    /// How often each leg has been expelled.
    expulsions: Vec<u64>,
    /// `None` while the current one is not on disk.
    generations: Option<GenerationIds>,
    action: String,
    state: String,
    halted: Option<String>,
}

/// Tells events until the watcher goes away.
pub(super) fn tell(answerer: &Answerer, stream: &UnixStream) -> io::Result<()> {
    let mut told = Look::default();
    let mut seen = answerer.mirror.changes();
    say(stream, &Event::Watching)?;
    while !has_gone(stream) {
        let now = look(answerer);
        for event in changes(&told, &now) {
            say(stream, &event)?;
        }
        told = Look {
            // A generation that is not on disk yet is told when it is.
            generations: now.generations.clone().or(told.generations),
            ..now
        };
        answerer.mirror.wait_for_change(seen, LOOK);
        seen = answerer.mirror.changes();
    }
    Ok(())
}

fn look(answerer: &Answerer) -> Look {
    let status = answerer.status();
    let nodes = report::nodes(&status, &answerer.mirror);
    let action = match &status.resync {
        Some(resync) if resync.paused => "frozen",
        Some(_) => "recover",
        None => "idle",
    };
    let (expulsions, generations) = answerer.mirror.view(|view| {
        let engine = view.engine;
        let slots = Slot::first(engine.shape().slots);
        let durable = engine.generation_is_durable();
        (
            slots.map(|slot| engine.expulsions(slot)).collect(),
            durable.then(|| engine.generations().into()),
        )
    });
    Look {
        nodes,
        expulsions,
        generations,
        action: action.into(),
        state: status.array_state,
        halted: status.halted,
    }
}

fn changes(told: &Look, now: &Look) -> Vec<Event> {
    let mut events = Vec::new();
    let first = told.nodes.is_empty();
    for (slot, node) in now.nodes.iter().enumerate() {
        let before = told.nodes.get(slot);
        let lost = !first && told.expulsions.get(slot) != now.expulsions.get(slot);
        if lost && node.state != Part::Out {
            // It has come back already; that it was away must be known.
            events.push(Event::Node(NodeState {
                state: Part::Out,
                percent: None,
                missing_bytes: 0,
                behind_bytes: None,
                left_behind: false,
                ..node.clone()
            }));
        }
        if lost || before.is_none_or(|before| differ(before, node)) {
            events.push(Event::Node(node.clone()));
        }
        if node.local && node.state == Part::Out && before.is_none_or(|it| it.state != Part::Out) {
            let reason = node.reason.clone().unwrap_or_default();
            events.push(Event::OwnLegFailed { reason });
        }
    }
    let ids = |look: &Look| look.generations.as_ref().map(|it| it.current.clone());
    if let Some(generations) = &now.generations
        && ids(told) != ids(now)
    {
        events.push(Event::Minted(generations.clone()));
    }
    let missing = |look: &Look| {
        let whole = look.nodes.iter().filter(|node| node.state == Part::InSync);
        (look.nodes.len() - whole.count()) as u32
    };
    if first || missing(told) != missing(now) {
        events.push(Event::Degraded { legs: missing(now) });
    }
    if told.action != now.action {
        events.push(Event::Sync {
            action: now.action.clone(),
        });
    }
    if told.state != now.state {
        events.push(Event::State {
            state: now.state.clone(),
        });
    }
    if told.halted != now.halted
        && let Some(reason) = &now.halted
    {
        let reason = reason.clone();
        events.push(Event::Halted { reason });
    }
    events
}

/// Bytes that are still missing change all the time: they are told with the percentage. Those that a target is behind are
/// told when there are none any more, the first, and twice as many or half.
fn differ(before: &NodeState, now: &NodeState) -> bool {
    let magnitude = |node: &NodeState| node.behind_bytes.map(u64::leading_zeros);
    before.state != now.state
        || before.percent != now.percent
        || before.reason != now.reason
        || magnitude(before) != magnitude(now)
}

fn has_gone(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0]
            .revents()
            .is_some_and(|found| found.intersects(gone))
}

/// How often a resync's progress is looked at, when nothing else happens.
const LOOK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, state: Part, percent: Option<u8>) -> NodeState {
        NodeState {
            node: name.into(),
            local: name == "one",
            state,
            percent,
            missing_bytes: 0,
            behind_bytes: None,
            left_behind: false,
            reason: None,
        }
    }

    fn ids(current: &str) -> GenerationIds {
        GenerationIds {
            current: current.into(),
            away: Vec::new(),
            history: Vec::new(),
        }
    }

    #[test]
    fn all_that_lasts_is_told_first_and_then_only_what_changed() {
        let both = Look {
            nodes: vec![
                node("one", Part::InSync, None),
                node("two", Part::InSync, None),
            ],
            expulsions: vec![0, 0],
            generations: Some(ids("1")),
            action: "idle".into(),
            state: "clean".into(),
            halted: None,
        };
        let events = changes(&Look::default(), &both);
        assert_eq!(
            events[..2],
            both.nodes
                .clone()
                .into_iter()
                .map(Event::Node)
                .collect::<Vec<_>>()
        );
        assert!(events.contains(&Event::Minted(ids("1"))), "{events:?}");
        assert_eq!(changes(&both, &both), []);
        let alone = Look {
            nodes: vec![
                node("one", Part::InSync, None),
                node("two", Part::Out, None),
            ],
            expulsions: vec![0, 1],
            generations: Some(ids("2")),
            ..both.clone()
        };
        let events = changes(&both, &alone);
        assert_eq!(events[0], Event::Node(alone.nodes[1].clone()));
        assert!(events.contains(&Event::Minted(ids("2"))), "{events:?}");
    }

    #[test]
    fn a_leg_that_was_away_between_two_looks_is_told_to_have_been_out() {
        let before = Look {
            nodes: vec![
                node("one", Part::InSync, None),
                node("two", Part::InSync, None),
            ],
            expulsions: vec![0, 0],
            ..Look::default()
        };
        let back = Look {
            expulsions: vec![0, 1],
            ..before.clone()
        };
        let events = changes(&before, &back);
        assert_eq!(events[0], Event::Node(node("two", Part::Out, None)));
        assert_eq!(events[1], Event::Node(node("two", Part::InSync, None)));
    }

    #[test]
    fn the_own_legs_failure_is_told_apart() {
        let before = Look {
            nodes: vec![
                node("one", Part::InSync, None),
                node("two", Part::InSync, None),
            ],
            expulsions: vec![0, 0],
            ..Look::default()
        };
        let mut failed = before.clone();
        failed.nodes[0] = node("one", Part::Out, None);
        failed.nodes[0].reason = Some("failed a write".into());
        failed.expulsions[0] = 1;
        let reason = "failed a write".to_owned();
        assert!(changes(&before, &failed).contains(&Event::OwnLegFailed { reason }));
    }
}
