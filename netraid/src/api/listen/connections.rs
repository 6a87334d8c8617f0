//! How many connections there are, of one address and in all; and how often one address is complained about.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One complaint per address in this time.
const QUIET: Duration = Duration::from_secs(60);
/// Addresses whose last complaint is remembered; more than that at a time are counted and not logged.
const REMEMBERED: usize = 256;

/// The connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    /// For peers, before they have shown who they are.
    pub(super) handshakes: Arc<Semaphore>,
    /// Being served.
    pub(super) served: Arc<Semaphore>,
    per_address: usize,
    of: Mutex<HashMap<IpAddr, usize>>,
    complaints: Mutex<HashMap<IpAddr, Instant>>,
}

/// The place of one connection among those of its address; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    connections: Arc<Connections>,
}

impl Connections {
    pub(super) fn new(limits: &super::Limits) -> Arc<Connections> {
        Arc::new(Connections {
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            served: Arc::new(Semaphore::new(limits.connections)),
            per_address: limits.per_address,
            of: Mutex::default(),
            complaints: Mutex::default(),
        })
    }

    /// Takes a place for a connection from an address, if it has not too many.
    pub(super) fn place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        // No larger than the number of open connections: an address without any is removed.
        let count = of.entry(address).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        Some(Place {
            address,
            connections: Arc::clone(self),
        })
    }

    /// Whether it is time to complain about an address (again).
    pub(super) fn complain(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let address = network(address);
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if complaints
            .get(&address)
            .is_some_and(|last| now.duration_since(*last) < QUIET)
        {
            return false;
        }
        if complaints.len() >= REMEMBERED {
            complaints.retain(|_, last| now.duration_since(*last) < QUIET);
        }
        if complaints.len() >= REMEMBERED {
            return false;
        }
        complaints.insert(address, now);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self
            .connections
            .of
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                of.remove(&self.address);
            }
        }
    }
}

/// A place without waiting.
pub(super) fn take(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(of).try_acquire_owned().ok()
}

/// Whom an address stands for: everybody with IPv6 has a /64 to himself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_places_back_when_connections_end() {
        let connections = Connections::new(&super::super::Limits {
            per_address: 2,
            ..Default::default()
        });
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = connections.place(address("2001:db8::1")).unwrap();
        let _second = connections.place(address("2001:db8::2")).unwrap();
        assert!(
            connections.place(address("2001:db8::3")).is_none(),
            "one /64"
        );
        assert!(connections.place(address("2001:db8:0:1::3")).is_some());
        drop(first);
        assert!(connections.place(address("2001:db8::3")).is_some());
        assert_eq!(connections.of.lock().unwrap().len(), 1);
    }

    #[test]
    fn each_address_is_complained_about_once_and_not_too_many_are_remembered() {
        let connections = Connections::new(&super::super::Limits::default());
        let address = |n: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(n));
        assert!(connections.complain(address(1)));
        assert!(!connections.complain(address(1)));
        let complaints = (0..1000)
            .filter(|n| connections.complain(address(*n)))
            .count();
        assert_eq!(complaints, REMEMBERED - 1);
    }
}
