//! Questions that change nothing: what a connection to each peer would do (`netraid resolve TAG --tentative`), and what is
//! kept of the mirror (`netraid show-gi`).

use super::{Broken, Driver};
use crate::api::document::Answer;
use crate::mirror::decision::Outcome;
use crate::mirror::generation::Extent;
use crate::mirror::node::NodeId;
use crate::mirror::prose::prose;

impl Driver {
    /// Asks every peer how it is now, and tells what follows from it.
    pub(super) fn tentative(&mut self) -> Result<(), Broken> {
        self.ask_peers()?;
        let own = self.settings.own;
        let others = 0..u8::try_from(self.names.nodes.len()).unwrap_or(u8::MAX);
        let others = others.filter_map(NodeId::new).filter(|node| *node != own);
        let steps = others.map(|node| self.would_do(node)).collect();
        self.answer(Answer {
            steps,
            ..Answer::done()
        });
        Ok(())
    }

    /// Tells what is kept here of the mirror, and what each of it means.
    pub(super) fn show_gi(&mut self) -> Result<(), Broken> {
        self.look_at_own_leg()?;
        self.answer(Answer {
            steps: prose(self.memory(), self.settings.own, &self.names),
            ..Answer::done()
        });
        Ok(())
    }

    fn would_do(&self, node: NodeId) -> String {
        let (here, name) = (self.names.node(self.settings.own), self.names.node(node));
        let Some(decision) = self.machine.decision(node) else {
            return format!("{name}: can't be reached, so what it has is not known");
        };
        let copied = |from: &str, to: &str, extent: Extent| match extent {
            Extent::Partial => format!("what is marked would be copied from {from} to {to}"),
            Extent::Full => format!("everything would be copied from {from} to {to}"),
        };
        let judgement = decision.judgement;
        let must_stop = judgement.filter(|judgement| judgement.must_stop);
        let what = match (
            decision.outcome,
            must_stop.and_then(|judgement| judgement.loser),
        ) {
            (_, Some(loser)) => format!(
                "nothing would be copied before {} is out of service, whose data would then be given up",
                self.names.node(loser)
            ),
            (Outcome::Nothing, _) => "nothing would have to be copied".into(),
            (Outcome::ToPeer(extent), _) => copied(&here, &name, extent),
            (Outcome::FromPeer(extent), _) => copied(&name, &here, extent),
            (Outcome::SplitBrain(_), _) => {
                "split brain: nobody's data would be touched, an administrator decides".into()
            }
            (Outcome::Unrelated, _) => {
                "nothing in common: nobody's data would be touched, an administrator decides".into()
            }
            (Outcome::Again, _) => "it is about to change: ask again".into(),
        };
        let by = match judgement {
            Some(_) => self.policy(node),
            None => decision.rule.to_owned(),
        };
        format!("{name}: {what} ({by})")
    }
}
