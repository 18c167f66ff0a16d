//! A wire that fails: a proxy between a client and a server that delays, cuts, or swallows what comes back.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What happens on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Everything goes through.
    Sound,
    /// Everything goes through, so much later.
    Delays(Duration),
    /// Requests arrive, and nothing ever comes back.
    DropsReplies,
    /// Connections are closed, and new ones too.
    Cut,
}

/// A proxy on a free port of 127.0.0.1. It ends with its process; when it is dropped the wire is cut.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    wire: Mutex<Wire>,
    connections: Mutex<Vec<TcpStream>>,
    /// Times that something was delayed, swallowed or cut.
    struck: AtomicU64,
    ended: AtomicBool,
}

impl Proxy {
    /// Starts a proxy before the server on `target`.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (wire, connections, struck) = (Mutex::new(Wire::Sound), Mutex::default(), AtomicU64::new(0));
        let shared = Arc::new(Shared { target, wire, connections, struck, ended: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::Relaxed) {
                    return;
                }
                // A client that is gone, or a server that is, ends the connection.
                let _ = accepting.connect(client);
            }
        });
        Self { port, shared }
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what happens from now on, also to connections that are open.
    pub fn set(&self, wire: Wire) {
        *self.shared.wire.lock().unwrap_or_else(PoisonError::into_inner) = wire;
        if wire == Wire::Cut {
            self.shared.cut();
        }
    }

    /// How often the wire has failed.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.shared.struck.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.set(Wire::Cut);
        // The thread that accepts looks up once more.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn wire(&self) -> Wire {
        *self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strike(&self) {
        self.struck.fetch_add(1, Ordering::Relaxed);
    }

    fn cut(&self) {
        let connections =
            std::mem::take(&mut *self.connections.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in connections {
            self.strike();
            // It may be closed already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        if self.wire() == Wire::Cut {
            self.strike();
            return client.shutdown(Shutdown::Both);
        }
        let server = TcpStream::connect(("127.0.0.1", self.target))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut open = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        open.extend([client.try_clone()?, server.try_clone()?]);
        drop(open);
        self.pass(client.try_clone()?, server.try_clone()?, false);
        self.pass(server, client, true);
        Ok(())
    }

    /// Passes on what one side says, on a thread of its own.
    fn pass(self: &Arc<Self>, mut from: TcpStream, mut to: TcpStream, is_reply: bool) {
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                match shared.wire() {
                    Wire::Delays(delay) => {
                        shared.strike();
                        thread::sleep(delay);
                    }
                    Wire::DropsReplies if is_reply => {
                        shared.strike();
                        continue;
                    }
                    Wire::Sound | Wire::DropsReplies | Wire::Cut => {}
                }
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            // Either side may be gone.
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
}
