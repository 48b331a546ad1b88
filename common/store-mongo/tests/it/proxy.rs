//! A proxy before a `mongod` that swallows answers: the command took effect, and nobody is told.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes before the first element of a command: header, flags, kind of the section, length of the document, type of the element.
const BEFORE_NAME: usize = 16 + 4 + 1 + 4 + 1;

/// Which answers are lost.
#[derive(Debug, Default)]
struct Plan {
    /// The answer to one of these commands, after so many others of them.
    commands: Mutex<(Vec<String>, usize)>,
    /// How many answers were lost.
    lost: AtomicUsize,
}

impl Plan {
    /// Whether the answer to this message is lost.
    fn loses(&self, message: &[u8]) -> bool {
        let name = message.get(BEFORE_NAME..).unwrap_or_default().split(|byte| *byte == 0).next();
        let name = name.map(String::from_utf8_lossy).unwrap_or_default();
        let mut commands = self.commands.lock().unwrap();
        if commands.0.iter().all(|command| *command != name) {
            return false;
        }
        let loses = commands.1 == 0;
        if loses {
            commands.0.clear();
            self.lost.fetch_add(1, Ordering::SeqCst);
        } else {
            commands.1 -= 1;
        }
        loses
    }
}

/// The proxy; its threads end with the process.
pub(crate) struct Proxy {
    port: u16,
    plan: Arc<Plan>,
}

impl Proxy {
    /// Before the server on this port.
    pub(crate) fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Plan::default());
        let shared = Arc::clone(&plan);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let plan = Arc::clone(&shared);
                std::thread::spawn(move || {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", server)) {
                        // Whatever ends a connection is what the client then sees.
                        let _ = forward(&client, &server, &plan);
                        let _ = client.shutdown(Shutdown::Both);
                        let _ = server.shutdown(Shutdown::Both);
                    }
                });
            }
        });
        Self { port, plan }
    }

    /// The connection string through it; the driver must not look for the members by itself.
    pub(crate) fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port)
    }

    /// The answer to the next of these commands is lost, but for the first few.
    pub(crate) fn lose_answer_to(&self, commands: &[&str], first: usize) {
        *self.plan.commands.lock().unwrap() =
            (commands.iter().map(|name| (*name).to_owned()).collect(), first);
    }

    /// How many were lost.
    pub(crate) fn lost(&self) -> usize {
        self.plan.lost.load(Ordering::SeqCst)
    }
}

fn forward(mut client: &TcpStream, server: &TcpStream, plan: &Plan) -> io::Result<()> {
    // Answers of the heartbeat come without being asked for, so each direction has a thread; the one for answers is told what to lose.
    let losing = Arc::new(AtomicUsize::new(0));
    let (mut answers, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let shared = Arc::clone(&losing);
    let down = std::thread::spawn(move || -> io::Result<()> {
        loop {
            let answer = message(&mut answers)?;
            if shared.load(Ordering::SeqCst) > 0 {
                to_client.shutdown(Shutdown::Both)?;
                return answers.shutdown(Shutdown::Both);
            }
            to_client.write_all(&answer)?;
        }
    });
    let mut to_server = server.try_clone()?;
    while let Ok(request) = message(&mut client) {
        if plan.loses(&request) {
            losing.store(1, Ordering::SeqCst);
        }
        to_server.write_all(&request)?;
    }
    server.shutdown(Shutdown::Both)?;
    let _ = down.join();
    Ok(())
}

/// One whole message of the protocol: its length comes first.
fn message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let rest = usize::try_from(i32::from_le_bytes(length)).map_err(io::Error::other)?;
    let mut message = length.to_vec();
    message.resize(rest.max(16), 0);
    from.read_exact(&mut message[4..])?;
    Ok(message)
}
