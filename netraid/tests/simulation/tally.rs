//! Counts of what happened, so that a simulation in which nothing happens is noticed.

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened in one schedule or in many.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Tally {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Tally {
            pub fn add(&mut self, other: &Tally) {
                $(self.$name += other.$name;)*
            }

            /// Every count with its name.
            pub fn counts(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

tally! {
    steps,
    /// Writes answered with success.
    acknowledged,
    crashes,
    failovers,
    /// Starts from a leg that lacked what had been answered, as protocol A allows.
    fallen_back,
    /// Answers given while a leg in sync did not have everything yet.
    ahead,
    /// Legs that became in sync.
    resyncs,
    /// Legs that were refused.
    refusals,
    /// Blank disks put in the place of others.
    replacements,
    /// Legs that another node began to copy to while they were away.
    foreign_resyncs,
    /// Legs with data of the mirror that had to be copied in full.
    full_resyncs,
    /// Legs removed, copied in full or overwritten on order.
    orders,
    /// Legs in sync that left for good.
    taken_away,
    /// Mirrors written on two sides, one of which was discarded.
    discarded,
    stops,
    /// Writes and flushes that were answered while some legs had to have them.
    guarded,
    /// Events while requests were held back.
    held,
    /// Legs that were left behind and let go when they had all that was on its way.
    behind,
    /// Mirrors that became larger.
    growths,
    /// Verifies that came to an end.
    verifies,
    /// Rotten blocks that they found.
    rot,
    /// Ranges written again to a source's leg that had failed there.
    repaired,
    /// Writes refused although a leg had taken them.
    passed_through,
    /// Ranges of which a leg told digests.
    digests,
    /// Mirrors that could take no writes any more.
    halts,
    /// Source crashed at each moment of a schedule in turn.
    crash_points,
    /// Schedules that ended with a leg that is refused until an administrator decides.
    unresolved,
}
