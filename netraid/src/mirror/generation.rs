//! Which of two legs has the good data, decided from generation ids alone (never from clocks).
//!
//! A *generation* names a state of the data as "everything written to exactly these legs". A new one is minted when
//! the set of legs that receive writes shrinks, at the next write, and is durable before that write is answered. The
//! old one is kept as the absent leg's id, so that leg is recognised when it returns.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most legs that a mirror can have: one source and seven targets.
pub const SLOTS: usize = 8;

/// How many former generations a leg remembers.
pub const HISTORY: usize = 8;

/// Name of one generation; 0 is [`Generation::NONE`]. In JSON 16 hexadecimal digits: not every reader has whole numbers of
/// 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Generation(pub u64);

impl Generation {
    /// No generation: a leg that never had data, or a peer that was never away.
    pub const NONE: Generation = Generation(0);
}

impl TryFrom<String> for Generation {
    type Error = String;

    fn try_from(text: String) -> Result<Generation, String> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(&text, 16) {
            Ok(number) if digits => Ok(Generation(number)),
            _ => Err(format!("generation {text:?} has not 16 hexadecimal digits")),
        }
    }
}

impl From<Generation> for String {
    fn from(generation: Generation) -> String {
        format!("{generation:?}")
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a leg knows about generations; kept durably on the leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// The generation of this leg's data.
    pub current: Generation,
    /// For each slot that is away: the generation that was current when it was last in sync.
    pub away: [Generation; SLOTS],
    /// Former generations, newest first, at most [`HISTORY`].
    pub history: Vec<Generation>,
}

impl Generations {
    /// Makes `new` current; every slot in `absent` that is not yet marked as away is marked with the old one.
    pub fn mint(&mut self, new: Generation, absent: impl Iterator<Item = usize>) {
        let old = self.current;
        for slot in absent {
            if self.away[slot] == Generation::NONE {
                self.away[slot] = old;
            }
        }
        self.remember(old);
        self.current = new;
    }

    /// The leg in `slot` has been made equal: it is not away any more.
    pub fn returned(&mut self, slot: usize) {
        let old = std::mem::take(&mut self.away[slot]);
        self.remember(old);
    }

    fn remember(&mut self, old: Generation) {
        if old != Generation::NONE && !self.history.contains(&old) {
            self.history.insert(0, old);
            self.history.truncate(HISTORY);
        }
    }

    /// How much a leg in `slot` misses whose generation is `id`, one of the history.
    ///
    /// If that came after the generation since which the slot counts as away, the leg had returned meanwhile, and a
    /// crash kept that from being noted. It has been away ever since `id`, so no bit has been dropped since then.
    fn extent_since(&self, id: Generation, slot: usize) -> Extent {
        let age = |id: Generation| self.history.iter().position(|known| *known == id);
        match (age(id), age(self.away[slot])) {
            (Some(then), Some(away)) if then < away => Extent::Partial,
            _ => Extent::Full,
        }
    }

    fn away_from_any(&self, id: Generation) -> bool {
        id != Generation::NONE && self.away.contains(&id)
    }
}

/// How much must be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The chunks that are dirty in either leg's bitmap.
    Partial,
    /// Every chunk.
    Full,
}

/// What two legs are to each other, seen from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Neither ever had data.
    NoData,
    /// The same generation: whoever is source copies the chunks dirty in either bitmap.
    Same,
    /// The other leg is older.
    ToPeer(Extent),
    /// The other leg is newer.
    FromPeer(Extent),
    /// Both were written without the other.
    SplitBrain,
    /// They never belonged together, or too long ago to tell.
    Unrelated,
}

impl Verdict {
    /// The same verdict seen from the other leg.
    pub fn reversed(self) -> Verdict {
        match self {
            Verdict::ToPeer(extent) => Verdict::FromPeer(extent),
            Verdict::FromPeer(extent) => Verdict::ToPeer(extent),
            other => other,
        }
    }
}

/// A verdict and the name of the rule that gave it, for logs and the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The row of the table in [`decide`] that matched.
    pub rule: &'static str,
    /// What it says.
    pub verdict: Verdict,
}

/// Compares the generations of two legs; the first row that matches decides.
///
/// Seen from either side the answers are each other's [`Verdict::reversed`], under the same rule name.
pub fn decide(
    own: &Generations,
    own_slot: usize,
    peer: &Generations,
    peer_slot: usize,
) -> Decision {
    let none = Generation::NONE;
    let (mine, theirs) = (own.current, peer.current);
    let (i_was_away, they_were_away) = (peer.away[own_slot] == mine, own.away[peer_slot] == theirs);
    let (i_am_like_a_third, they_are_like_a_third) =
        (peer.away_from_any(mine), own.away_from_any(theirs));
    let (rule, verdict) = match () {
        () if mine == none && theirs == none => ("both just created", Verdict::NoData),
        () if mine == none => ("one just created", Verdict::FromPeer(Extent::Full)),
        () if theirs == none => ("one just created", Verdict::ToPeer(Extent::Full)),
        () if mine == theirs => ("same generation", Verdict::Same),
        // Minting can't make each the other's elder; damage or hand-made ids can. Nobody's data is touched then.
        () if i_was_away && they_were_away => {
            ("each says that the other was away", Verdict::SplitBrain)
        }
        () if i_was_away => ("was away", Verdict::FromPeer(Extent::Partial)),
        () if they_were_away => ("was away", Verdict::ToPeer(Extent::Partial)),
        // A third leg has been away since that generation, so no bit has been dropped since then either.
        () if i_am_like_a_third && they_are_like_a_third => {
            ("each says that the other was away", Verdict::SplitBrain)
        }
        () if i_am_like_a_third => ("away as another leg", Verdict::FromPeer(Extent::Partial)),
        () if they_are_like_a_third => ("away as another leg", Verdict::ToPeer(Extent::Partial)),
        () if peer.history.contains(&mine) && !own.history.contains(&theirs) => {
            let extent = peer.extent_since(mine, own_slot);
            (extent_rule(extent), Verdict::FromPeer(extent))
        }
        () if own.history.contains(&theirs) && !peer.history.contains(&mine) => {
            let extent = own.extent_since(theirs, peer_slot);
            (extent_rule(extent), Verdict::ToPeer(extent))
        }
        () if own.away[peer_slot] != none && own.away[peer_slot] == peer.away[own_slot] => {
            ("both written alone", Verdict::SplitBrain)
        }
        () if own.history.iter().any(|id| peer.history.contains(id)) => {
            ("common ancestor", Verdict::SplitBrain)
        }
        () => ("nothing in common", Verdict::Unrelated),
    };
    Decision { rule, verdict }
}

fn extent_rule(extent: Extent) -> &'static str {
    match extent {
        Extent::Partial => "returned unnoticed, then away",
        Extent::Full => "long away",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fresh(id: u64) -> Generations {
        Generations {
            current: Generation(id),
            ..Generations::default()
        }
    }

    #[test]
    fn a_leg_that_was_away_is_resynced_in_part() {
        let peer = fresh(1);
        let mut own = fresh(1);
        own.mint(Generation(2), [1].into_iter());
        assert_eq!(
            decide(&own, 0, &peer, 1).verdict,
            Verdict::ToPeer(Extent::Partial)
        );
        own.mint(Generation(3), [1, 2].into_iter());
        assert_eq!(
            decide(&own, 0, &peer, 1).verdict,
            Verdict::ToPeer(Extent::Partial)
        );
    }

    #[test]
    fn a_leg_that_returned_and_left_again_is_known_by_its_new_generation() {
        let mut own = fresh(1);
        own.mint(Generation(2), [1].into_iter());
        own.returned(1);
        let peer = Generations {
            history: own.history.clone(),
            ..fresh(2)
        };
        assert_eq!(decide(&own, 0, &peer, 1).verdict, Verdict::Same);
        own.mint(Generation(3), [1].into_iter());
        assert_eq!(
            decide(&own, 0, &peer, 1).verdict,
            Verdict::ToPeer(Extent::Partial)
        );
        assert_eq!(
            decide(&own, 0, &fresh(1), 1).verdict,
            Verdict::ToPeer(Extent::Full)
        );
    }

    #[test]
    fn a_return_that_a_crash_kept_from_being_noted_is_resynced_in_part() {
        let mut own = fresh(1);
        own.mint(Generation(2), [1].into_iter());
        own.mint(Generation(3), [1].into_iter());
        assert_eq!(
            decide(&own, 0, &fresh(2), 1).verdict,
            Verdict::ToPeer(Extent::Partial),
            "away since 1, but it has 2"
        );
        // A leg that was replaced before the slot was noted as away again is older than that.
        own.returned(1);
        own.mint(Generation(4), [1].into_iter());
        assert_eq!(
            decide(&own, 0, &fresh(2), 1).verdict,
            Verdict::ToPeer(Extent::Full)
        );
    }

    #[test]
    fn two_legs_written_alone_are_a_split_brain() {
        let (mut own, mut peer) = (fresh(1), fresh(1));
        own.mint(Generation(2), [1].into_iter());
        peer.mint(Generation(3), [0].into_iter());
        assert_eq!(decide(&own, 0, &peer, 1).verdict, Verdict::SplitBrain);
        own.mint(Generation(4), [1].into_iter());
        assert_eq!(decide(&own, 0, &peer, 1).verdict, Verdict::SplitBrain);
    }

    #[test]
    fn strangers_are_unrelated_and_blank_legs_are_filled() {
        assert_eq!(
            decide(&fresh(1), 0, &fresh(2), 1).verdict,
            Verdict::Unrelated
        );
        assert_eq!(
            decide(&fresh(1), 0, &fresh(0), 1).verdict,
            Verdict::ToPeer(Extent::Full)
        );
        assert_eq!(decide(&fresh(0), 0, &fresh(0), 1).verdict, Verdict::NoData);
    }

    fn any_generations() -> impl Strategy<Value = Generations> {
        (
            0u64..4,
            proptest::array::uniform8(0u64..4),
            proptest::collection::vec(1u64..5, 0..4),
        )
            .prop_map(|(current, away, history)| Generations {
                current: Generation(current),
                away: away.map(Generation),
                history: history.into_iter().map(Generation).collect(),
            })
    }

    proptest! {
        #[test]
        fn both_sides_give_complementary_answers(own in any_generations(), peer in any_generations()) {
            let here = decide(&own, 0, &peer, 1);
            let there = decide(&peer, 1, &own, 0);
            prop_assert_eq!(here.verdict, there.verdict.reversed());
            prop_assert_eq!(here.rule, there.rule);
        }
    }
}
