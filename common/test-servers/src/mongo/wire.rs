//! Commands to a `mongod` as it speaks itself (OP_MSG), which needs no driver.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Bson, Document, doc};

const OP_MSG: i32 = 2013;
/// A command of a test takes milliseconds; an election or a checkpoint may stand before it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// A connection that is kept, for whoever sends many commands.
#[derive(Debug)]
pub struct MongoConnection(TcpStream);

impl MongoConnection {
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(ANSWERS_WITHIN))?;
        socket.set_nodelay(true)?;
        Ok(Self(socket))
    }

    /// Runs one command, which names its database as `$db`.
    ///
    /// # Errors
    /// The connection broke, or the answer is not `ok`.
    pub fn run(&mut self, command: &RawDocument) -> io::Result<Document> {
        let Self(socket) = self;
        let body = command.as_bytes();
        let length = i32::try_from(16 + 4 + 1 + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(16 + 4 + 1 + body.len());
        for word in [length, 1, 0, OP_MSG, 0] {
            message.extend_from_slice(&word.to_le_bytes());
        }
        message.push(0);
        message.extend_from_slice(body);
        socket.write_all(&message)?;
        // Header, flags and the kind of the one section.
        let mut head = [0; 21];
        socket.read_exact(&mut head)?;
        let answer = Document::from_reader(socket).map_err(io::Error::other)?;
        if is_true(&answer, "ok") { Ok(answer) } else { Err(io::Error::other(answer.to_string())) }
    }
}

/// Runs one command on a connection of its own. An answer that is not `ok` is an error.
pub(crate) fn command(port: u16, database: &str, mut command: Document) -> io::Result<Document> {
    command.insert("$db", database);
    let command = command.to_vec().and_then(RawDocumentBuf::from_bytes).map_err(io::Error::other)?;
    MongoConnection::open(port)?.run(&command)
}

/// Numbers and booleans as MongoDB mixes them.
pub(crate) fn is_true(answer: &Document, field: &str) -> bool {
    match answer.get(field) {
        Some(Bson::Boolean(value)) => *value,
        Some(Bson::Double(value)) => *value != 0.0,
        Some(Bson::Int32(value)) => *value != 0,
        Some(Bson::Int64(value)) => *value != 0,
        _ => false,
    }
}

/// Whether a `mongod` on the port may be written to.
pub(crate) fn is_primary(port: u16) -> bool {
    command(port, "admin", doc! { "hello": 1 }).is_ok_and(|answer| is_true(&answer, "isWritablePrimary"))
}

/// Whether the `mongod` on the port is this process: somebody else's may answer while ours finds the port taken and ends.
pub(crate) fn is_process(port: u16, process_id: u32) -> bool {
    let Ok(answer) = command(port, "admin", doc! { "serverStatus": 1 }) else { return false };
    match answer.get("pid") {
        Some(Bson::Int64(pid)) => *pid == i64::from(process_id),
        Some(Bson::Int32(pid)) => i64::from(*pid) == i64::from(process_id),
        _ => false,
    }
}
