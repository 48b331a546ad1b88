//! A TCP proxy that passes everything on until it is told to fail, and heals when told to.
//!
//! It knows nothing of what flows through it, so it breaks databases and queues as well as HTTP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

const BACKLOG: u32 = 1_024;
const BUFFER_BYTES: usize = 64 << 10;

/// How connections are treated. A change touches open connections at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Toxic {
    /// Pass on.
    #[default]
    None,
    /// Nothing listens: new connections are refused, open ones are closed.
    Refuse,
    /// New and open connections are reset.
    ResetPeer,
    /// Connections stand, nothing passes in either direction; what was held back passes once the hole is gone.
    BlackHole,
    /// What clients send passes, and no answer does; what was held back passes once this is over.
    Mute,
    /// Everything read is held this long before it is passed on, in each direction.
    Latency(Duration),
}

/// A running proxy; dropping it closes its port and every connection.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    toxic: Option<watch::Sender<Toxic>>,
    /// Held from a change until its acknowledgement, or two changes at once would share one.
    applied: Mutex<mpsc::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// A proxy on a free port of 127.0.0.1 that passes everything on to `upstream`. Needs no async runtime.
    ///
    /// # Errors
    /// When no port can be bound or no thread can be started.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Bound and never listening, it keeps the port ours while connections to it are refused.
        let keeper = TcpSocket::new_v4()?;
        keeper.set_reuseaddr(true)?;
        keeper.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = keeper.local_addr()?;
        let listener = {
            let _context = runtime.enter();
            listen(addr)?
        };
        let (toxic, changes) = watch::channel(Toxic::None);
        let (apply, applied) = mpsc::channel();
        let thread = std::thread::Builder::new().name("fault-proxy".to_owned()).spawn(move || {
            let _keeper = keeper;
            runtime.block_on(run(listener, addr, upstream, changes, apply));
        })?;
        Ok(Self { addr, toxic: Some(toxic), applied: Mutex::new(applied), thread: Some(thread) })
    }

    /// Where to connect instead of to the upstream.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Treats connections as `toxic` says from now on; on return new connections already meet it.
    pub fn set(&self, toxic: Toxic) {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &self.toxic
            && sender.send(toxic).is_ok()
        {
            // An error means that the proxy's thread is gone, and with it every connection.
            let _ = applied.recv();
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.toxic.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Accepts until the handle is dropped.
async fn run(
    listener: TcpListener,
    addr: SocketAddr,
    upstream: SocketAddr,
    mut changes: watch::Receiver<Toxic>,
    apply: mpsc::Sender<()>,
) {
    let mut listener = Some(listener);
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let refuse = *changes.borrow_and_update() == Toxic::Refuse;
                if refuse {
                    listener = None;
                } else if listener.is_none() {
                    // The keeper holds the port, so this fails only when the process is out of descriptors.
                    listener = listen(addr).ok();
                }
                let _ = apply.send(());
            }
            accepted = accepted => {
                if let Ok((client, _)) = accepted {
                    tokio::spawn(connect(client, upstream, changes.clone()));
                }
            }
        }
    }
}

async fn connect(client: TcpStream, upstream: SocketAddr, changes: watch::Receiver<Toxic>) {
    if *changes.borrow() == Toxic::ResetPeer {
        let _ = client.set_zero_linger();
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, Direction::Up, changes.clone());
    let down = pump(from_server, to_client, Direction::Down, changes.clone());
    // An end on one side is passed on and the other direction goes on; a toxic ends both.
    let ((from_client, to_server), (from_server, to_client)) = tokio::join!(up, down);
    let reset = *changes.borrow() == Toxic::ResetPeer;
    for (read, write) in [(from_client, to_client), (from_server, to_server)] {
        if let Ok(stream) = read.reunite(write)
            && reset
        {
            let _ = stream.set_zero_linger();
        }
    }
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// To the upstream.
    Up,
    /// Back to the client.
    Down,
}

/// Passes bytes on until an end, an error, or a toxic that ends connections; gives the halves back.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut changes: watch::Receiver<Toxic>,
) -> (OwnedReadHalf, OwnedWriteHalf) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while open(direction, &mut changes).await {
        let length = tokio::select! {
            biased;
            _ = changes.changed() => continue,
            length = from.read(&mut buffer) => length.unwrap_or(0),
        };
        if length == 0 {
            break;
        }
        let latency = match *changes.borrow() {
            Toxic::Latency(latency) => latency,
            _ => Duration::ZERO,
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        // What was read before a hole opened waits here, and is lost with the connection if it is reset.
        if !open(direction, &mut changes).await {
            break;
        }
        let written = tokio::select! {
            biased;
            () = closed(&mut changes) => false,
            written = to.write_all(&buffer[..length]) => written.is_ok(),
        };
        if !written {
            break;
        }
    }
    if *changes.borrow() != Toxic::ResetPeer {
        let _ = to.shutdown().await;
    }
    (from, to)
}

/// Waits while nothing may pass; `false` when the connection must end.
async fn open(direction: Direction, changes: &mut watch::Receiver<Toxic>) -> bool {
    loop {
        match *changes.borrow_and_update() {
            Toxic::None | Toxic::Latency(_) => return true,
            Toxic::Mute if direction == Direction::Up => return true,
            Toxic::Refuse | Toxic::ResetPeer => return false,
            Toxic::BlackHole | Toxic::Mute => {}
        }
        if changes.changed().await.is_err() {
            return false;
        }
    }
}

/// Waits until connections must end.
async fn closed(changes: &mut watch::Receiver<Toxic>) {
    // The sender is dropped only together with the proxy, which ends everything.
    let _ = changes.wait_for(|toxic| matches!(toxic, Toxic::Refuse | Toxic::ResetPeer)).await;
}
