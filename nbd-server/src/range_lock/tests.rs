//! Tests of the range lock against a naive model.

use super::*;
use proptest::prelude::*;

#[test]
fn overlapping_operations_take_turns_in_order_of_arrival() {
    let mut lock = RangeLock::new();
    let Admission::Start(first, "a") = lock.admit(1, 0, 10, "a") else {
        panic!("the first one starts")
    };
    let Admission::Queued(second) = lock.admit(1, 5, 10, "b") else {
        panic!("the second overlaps the first")
    };
    let Admission::Queued(third) = lock.admit(2, 12, 10, "c") else {
        panic!("the third overlaps the second")
    };
    let Admission::Start(fourth, "d") = lock.admit(2, 30, 1, "d") else {
        panic!("the fourth overlaps nothing")
    };
    assert_eq!(lock.release(first), vec![(second, "b")]);
    assert_eq!(lock.release(second), vec![(third, "c")]);
    assert_eq!(lock.release(third), vec![]);
    assert_eq!(lock.release(third), vec![]);
    assert_eq!(lock.release(fourth), vec![]);
    assert!(lock.is_empty());
}

#[test]
fn dropping_an_owner_never_hands_out_another_operation_of_the_same_owner() {
    let mut lock = RangeLock::new();
    let Admission::Start(running, _) = lock.admit(1, 0, 4, "running") else {
        panic!()
    };
    lock.admit(2, 2, 4, "dropped");
    // Overlaps only the dropped one: it would become runnable by its drop.
    lock.admit(2, 5, 4, "dropped too");
    let Admission::Queued(other) = lock.admit(3, 8, 4, "other") else {
        panic!()
    };
    let result = lock.drop_queued(|owner| *owner == 2);
    assert_eq!(result.dropped, vec!["dropped", "dropped too"]);
    assert_eq!(result.runnable, vec![(other, "other")]);
    assert_eq!(lock.release(running), vec![]);
}

#[test]
fn an_operation_that_runs_survives_the_drop_of_its_owner() {
    let mut lock = RangeLock::new();
    let Admission::Start(running, _) = lock.admit(1, 0, 4, "a") else {
        panic!()
    };
    let Admission::Queued(newer) = lock.admit(2, 0, 4, "b") else {
        panic!()
    };
    let result = lock.drop_queued(|owner| *owner == 1);
    assert_eq!(
        result,
        Dropped {
            dropped: vec![],
            runnable: vec![]
        }
    );
    assert_eq!(lock.release(running), vec![(newer, "b")]);
}

#[test]
fn ranges_at_the_end_of_the_number_space_do_not_overflow() {
    let mut lock = RangeLock::new();
    assert!(matches!(
        lock.admit(1, u64::MAX - 1, 10, ()),
        Admission::Start(..)
    ));
    assert!(matches!(
        lock.admit(1, u64::MAX - 1, 1, ()),
        Admission::Queued(_)
    ));
    assert!(matches!(lock.admit(1, 0, 0, ()), Admission::Start(..)));
}

/// The same rules written naively: a list in order of arrival; an operation may run when nothing older overlaps it.
#[derive(Default)]
struct Model {
    list: Vec<(Ticket, u8, u64, u64, bool)>,
}

impl Model {
    fn start_what_can(&mut self) -> Vec<Ticket> {
        let mut started = Vec::new();
        for index in 0..self.list.len() {
            let (ticket, _, start, length, running) = self.list[index];
            let blocked = self.list[..index]
                .iter()
                .any(|(_, _, other, other_length, _)| {
                    (start..start + length)
                        .any(|byte| (*other..other + other_length).contains(&byte))
                });
            if !blocked && !running {
                self.list[index].4 = true;
                started.push(ticket);
            }
        }
        started
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit { owner: u8, start: u64, length: u64 },
    Release { pick: usize },
    Drop { owner: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4, 0u64..24, 0u64..8).prop_map(|(owner, start, length)| Step::Admit { owner, start, length }),
        3 => (0usize..64).prop_map(|pick| Step::Release { pick }),
        1 => (0u8..4).prop_map(|owner| Step::Drop { owner }),
    ]
}

proptest! {
    #[test]
    fn agrees_with_the_naive_model(steps in proptest::collection::vec(step(), 0..120)) {
        let mut lock = RangeLock::new();
        let mut model = Model::default();
        for step in steps {
            let mut started: Vec<Ticket> = Vec::new();
            match step {
                Step::Admit { owner, start, length } => {
                    let ticket = match lock.admit(owner, start, length, (owner, start)) {
                        Admission::Start(ticket, operation) => {
                            prop_assert_eq!(operation, (owner, start));
                            started.push(ticket);
                            ticket
                        }
                        Admission::Queued(ticket) => ticket,
                    };
                    model.list.push((ticket, owner, start, length, false));
                }
                Step::Release { pick } => {
                    let running: Vec<usize> =
                        (0..model.list.len()).filter(|index| model.list[*index].4).collect();
                    if running.is_empty() {
                        continue;
                    }
                    let entry = model.list.remove(running[pick % running.len()]);
                    started.extend(lock.release(entry.0).into_iter().map(|(ticket, _)| ticket));
                }
                Step::Drop { owner } => {
                    let result = lock.drop_queued(|of| *of == owner);
                    let before = model.list.len();
                    model.list.retain(|entry| entry.1 != owner || entry.4);
                    prop_assert_eq!(result.dropped.len(), before - model.list.len());
                    prop_assert!(result.dropped.iter().all(|(of, _)| *of == owner));
                    started.extend(result.runnable.into_iter().map(|(ticket, _)| ticket));
                }
            }
            started.sort();
            prop_assert_eq!(started, model.start_what_can());
            prop_assert_eq!(lock.len(), model.list.len());
        }
    }
}
