//! The scenarios of the specification, once for every site that they can be played at and everybody who gives the orders:
//! LifeKeeper by the kit's scripts alone, or a person by commands alone.
//!
//! A site is a cluster of processes on loopback (netraid/tests/daemon) or of real kernels (tests/lab).
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on panics; both sites share this file"
)]

pub mod lifekeeper;
pub mod operator;
pub mod orders;
pub mod site;
pub mod stage;
pub mod three_nodes;
pub mod two_nodes;
pub mod written;

use lifekeeper::Core;
use operator::Person;
use site::Site;
use stage::Stage;

/// Who gives the orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Hooks,
    Commands,
}

/// Plays a scenario; `order` names the nodes by priority, the best first.
pub fn play(site: &dyn Site, by: By, order: &[usize], scenario: fn(&Stage<'_>)) {
    match by {
        By::Hooks => {
            let core = Core::new(site, order.to_vec());
            scenario(&Stage {
                site,
                operator: &core,
            });
        }
        By::Commands => scenario(&Stage {
            site,
            operator: &Person(site),
        }),
    }
}
