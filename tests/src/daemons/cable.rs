//! Cables between nodes: TCP proxies that can all be cut at once, and count who tries to connect.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// What becomes of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cable {
    /// They go through.
    #[default]
    Whole,
    /// They are closed, and new ones as well.
    Cut,
}

/// All cables of a pair.
#[derive(Clone, Debug, Default)]
pub struct Cables(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cable: Cable,
    open: Vec<Weak<TcpStream>>,
    attempts: Vec<Instant>,
}

impl Cables {
    /// Another cable: whoever connects to the address that is given back is connected to `to`.
    ///
    /// # Panics
    /// If there is no address any more.
    pub fn lay(&self, to: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for a cable");
        let address = listener.local_addr().expect("the address of a listener");
        let cables = self.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                cables.lock().attempts.push(Instant::now());
                let cables = cables.clone();
                thread::spawn(move || cables.connect(near, to));
            }
        });
        address
    }

    /// Cuts them all, or makes them whole.
    pub fn set(&self, cable: Cable) {
        let mut state = self.lock();
        state.cable = cable;
        if cable == Cable::Cut {
            for stream in state.open.drain(..).filter_map(|stream| stream.upgrade()) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Attempts to connect since a moment: all, and the most within a second.
    pub fn attempts(&self, since: Instant) -> (usize, usize) {
        let state = self.lock();
        let attempts: Vec<Instant> = state
            .attempts
            .iter()
            .copied()
            .filter(|attempt| *attempt >= since)
            .collect();
        let within = |first: &Instant| {
            let end = *first + Duration::from_secs(1);
            let later = attempts.iter().filter(|at| *at >= first && **at < end);
            later.count()
        };
        let most = attempts.iter().map(within).max().unwrap_or(0);
        (attempts.len(), most)
    }

    /// Connections that go through now.
    pub fn open(&self) -> usize {
        let state = self.lock();
        let open = state.open.iter().filter(|open| open.strong_count() > 0);
        open.count() / 2
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn connect(&self, near: TcpStream, to: SocketAddr) {
        if self.lock().cable == Cable::Cut {
            return;
        }
        let Ok(far) = TcpStream::connect(to) else {
            return;
        };
        let (near, far) = (Arc::new(near), Arc::new(far));
        for stream in [&near, &far] {
            let _ = stream.set_nodelay(true);
        }
        {
            let mut state = self.lock();
            if state.cable == Cable::Cut {
                return;
            }
            state.open.retain(|stream| stream.strong_count() > 0);
            let ends = [Arc::downgrade(&near), Arc::downgrade(&far)];
            state.open.extend(ends);
        }
        let back = (Arc::clone(&far), Arc::clone(&near));
        thread::spawn(move || pump(&back.0, &back.1));
        pump(&near, &far);
    }
}

/// Carries bytes one way until an end closes; then both are closed.
fn pump(mut from: &TcpStream, mut to: &TcpStream) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut bytes) {
        if length == 0 || to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
