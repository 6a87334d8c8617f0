//! `netraid verify`: the order goes to the array, which compares its legs while it is in use.

use super::{Broken, Driver, perform};
use crate::api::document::{Answer, Outcome};
use crate::array::VerifyRequest;
use crate::mirror::machine::Service;
use crate::mirror::node::NodeId;

impl Driver {
    /// Begins to verify, with the configured rate unless the order has one; or stops it (`None`).
    pub(super) fn verify(
        &mut self,
        request: Option<VerifyRequest>,
        dry_run: bool,
    ) -> Result<(), Broken> {
        let tag = self.names.tag.clone();
        if self.machine.service() != Service::In {
            let why = format!("{tag} is not in service here: its source verifies");
            let next = format!("netraid status {tag}");
            self.answer(Answer::not(Outcome::Refused, why, Some(next)));
            return Ok(());
        }
        if let Some(request) = &request {
            let targets = &request.nodes;
            let known = |name: &String| self.names.nodes.iter().any(|node| node == name);
            if let Some(stranger) = targets.iter().find(|name| !known(name)) {
                let why = format!("{stranger} is not one of the nodes of {tag}");
                let next = format!("netraid status {tag}");
                self.answer(Answer::not(Outcome::Usage, why, Some(next)));
                return Ok(());
            }
        }
        if dry_run {
            let step = match &request {
                Some(request) if request.repair => "compare the legs, and copy what differs",
                Some(_) => "compare the legs, and mark what differs",
                None => "stop the verify that is under way",
            };
            let steps = vec![format!("{step} ({tag})")];
            self.answer(Answer {
                steps,
                ..Answer::done()
            });
            return Ok(());
        }
        let begun = request.is_some();
        // The kernel's legs are read through the exports that it writes to.
        let others = self.tickets.iter().enumerate();
        let ways = others.filter_map(|(slot, secret)| {
            let node = NodeId::new(u8::try_from(slot).ok()?)?;
            let location = self.about.location(node, secret.as_ref()?);
            Some((self.names.node(node).to_owned(), location))
        });
        let ways: Vec<(String, String)> = ways.collect();
        match self.local.verify(request, &ways) {
            Ok(()) => {
                let text = match begun {
                    true => format!("the legs of {tag} are being compared"),
                    false => format!("the comparing of the legs of {tag} was stopped"),
                };
                self.tell(if begun { "verify" } else { "verify-stopped" }, text);
                self.answer(Answer::done());
            }
            Err(error) => self.answer(perform::answer(&error)),
        }
        Ok(())
    }
}
