//! A cable between two nodes, one way round: a TCP proxy that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// They go through.
    Whole,
    /// They are reset, and new ones as well.
    Reset,
    /// Nothing gets through, and nobody is told; what was sent meanwhile comes out when the cable is whole again.
    Hung,
}

struct State {
    cable: Mutex<(Cable, Vec<Weak<TcpStream>>)>,
    changed: Condvar,
}

/// A proxy; it ends with the test's process.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Everybody who connects to the proxy's own address is connected to `to`.
    pub fn new(to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            cable: Mutex::new((Cable::Whole, Vec::new())),
            changed: Condvar::new(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || state.connect(near, to));
            }
        });
        Proxy { address, state }
    }

    pub fn set(&self, cable: Cable) {
        let mut guard = self.state.cable.lock().unwrap();
        guard.0 = cable;
        if cable == Cable::Reset {
            for stream in guard.1.drain(..).filter_map(|stream| stream.upgrade()) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        drop(guard);
        self.state.changed.notify_all();
    }
}

impl State {
    /// Waits while the cable hangs; false if it is cut off.
    fn passes(&self) -> bool {
        let mut guard = self.cable.lock().unwrap();
        while guard.0 == Cable::Hung {
            guard = self.changed.wait(guard).unwrap();
        }
        guard.0 == Cable::Whole
    }

    fn connect(self: Arc<State>, near: TcpStream, to: SocketAddr) {
        if !self.passes() {
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
            let mut guard = self.cable.lock().unwrap();
            if guard.0 == Cable::Reset {
                return;
            }
            guard.1.retain(|stream| stream.strong_count() > 0);
            guard
                .1
                .extend([Arc::downgrade(&near), Arc::downgrade(&far)]);
        }
        let (state, back) = (Arc::clone(&self), (Arc::clone(&far), Arc::clone(&near)));
        thread::spawn(move || state.pump(&back.0, &back.1));
        self.pump(&near, &far);
    }

    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut bytes);
            if !self.passes() {
                break;
            }
            match read {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(length) if to.write_all(&bytes[..length]).is_ok() => {}
                _ => break,
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
