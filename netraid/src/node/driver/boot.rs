//! How a driver begins: what it believes when nothing was remembered, and what an earlier daemon left running.

use super::{Broken, Driver};
use crate::mirror::event::{Boot, Event};
use crate::mirror::generation::Generation;
use crate::mirror::node::{Names, NodeSet};
use crate::mirror::record::Memory;
use crate::node::local::{LegState, Local};

/// What to believe when nothing was remembered: the file may be gone, so every node may have newer data than a leg that has
/// some. Agreements are counted from a number that none before had.
pub(super) fn unremembered(local: &Local, names: &Names) -> Memory {
    let agreement = uuid::Uuid::new_v4().as_u128() as u32 >> 1;
    let blank = local
        .own_leg()
        .is_ok_and(|leg| leg.generations.current == Generation::NONE);
    let nodes = match blank {
        true => NodeSet::NONE,
        false => names
            .nodes
            .iter()
            .filter_map(|name| names.find(name))
            .collect(),
    };
    Memory {
        agreement,
        nodes,
        in_sync: nodes,
        ..Memory::default()
    }
}

impl Driver {
    /// Takes up what an earlier daemon left running.
    pub(super) fn boot(&mut self) -> Result<(), Broken> {
        let own = self.settings.own;
        let boot = match (self.local.view()?, self.local.accepts()) {
            (Some(view), _) => Boot::Running {
                members: match view.own_leg_failed {
                    true => view.with(|leg| leg == LegState::InSync),
                    false => view.with(|leg| leg == LegState::InSync).with(own),
                },
                resyncing: view.with(|leg| matches!(leg, LegState::Resyncing(_))),
            },
            (None, Some(ticket)) => Boot::Serving {
                source: ticket.source,
            },
            // In service when the daemon was last seen, and the array is gone without the machine having gone down: its
            // process died while nobody looked after it. Whether it may go on is decided as after a crash.
            (None, None) => Boot::Idle,
        };
        self.happen(Event::Boot(boot))?;
        // What a hand did to the flags while nobody looked counts from here on.
        self.look_at_flags()?;
        self.look_at_own_leg()?;
        if self.local.is_running() {
            // Another daemon, with other ones, may have started it.
            if let Err(error) = self.set_speed() {
                let why = format!("the resync goes on with its former limits: {error}");
                self.shared.tell(Some(&self.names.tag), "no-limits", why);
            }
            self.begin_turns();
            self.listen_to_array();
        }
        self.publish();
        // Peers that were met before this began are met again.
        self.shared.greet(&self.names.tag);
        Ok(())
    }
}
