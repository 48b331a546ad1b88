//! What can go wrong with one command, before it is told to a caller as a `StoreError`.
//!
//! The server's words may repeat stored values, so only codes and their names are kept of its errors.

use mongodb::bson::{Bson, Document};
use mongodb::error::{Error, ErrorKind, RETRYABLE_WRITE_ERROR};
use promptmill_ports::StoreError;

/// A unique index has the value already.
pub(crate) const DUPLICATE_KEY: i32 = 11_000;

/// Codes after which the same command may succeed at once or after an election: a node that steps down, shuts down or recovers, a
/// network that broke, two writers of one document, a snapshot or a cursor that is gone.
const MAY_PASS: [i32; 18] =
    [6, 7, 43, 89, 91, 112, 133, 134, 189, 239, 246, 262, 9_001, 10_058, 10_107, 11_600, 11_602, 13_435];
/// The same: not the primary any more, but recovering.
const RECOVERING: i32 = 13_436;
/// The value is larger than a document may be.
const TOO_LARGE: [i32; 4] = [10_334, 17_280, 17_419, 17_420];

/// A command that failed. Whether it took effect is unknown unless the server said that it refused it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// No answer within the time for it.
    #[error("no answer in time")]
    Unanswered,
    /// The server's error.
    #[error("the server answered with error {code} ({name})")]
    Server {
        /// Its number.
        code: i32,
        /// Its name.
        name: String,
    },
    /// The driver's: no connection, no primary.
    #[error("{what}")]
    Driver {
        /// What failed; holds no stored values.
        what: String,
        /// Whether the same command may succeed.
        may_pass: bool,
    },
    /// An answer that cannot be read.
    #[error("an answer that cannot be read")]
    Unreadable,
}

impl Fault {
    /// Of an error of the driver.
    pub(crate) fn of(error: &Error) -> Self {
        let labelled = error.contains_label(RETRYABLE_WRITE_ERROR);
        match error.kind.as_ref() {
            ErrorKind::Command(command) => {
                Self::Server { code: command.code, name: command.code_name.clone() }
            }
            ErrorKind::Io(io) => Self::Driver { what: format!("the connection broke: {io}"), may_pass: true },
            ErrorKind::ConnectionPoolCleared { .. } => {
                Self::Driver { what: "the connection was given up".to_owned(), may_pass: true }
            }
            ErrorKind::ServerSelection { message, .. } => {
                // It took the whole time for finding a primary. What it says of the servers may be their answers, word for word.
                let what = if message.contains("server response: Some") { "" } else { message };
                Self::Driver { what: format!("no primary was found: {what}"), may_pass: false }
            }
            ErrorKind::Authentication { .. } => {
                Self::Driver { what: "the server refused our credentials".to_owned(), may_pass: false }
            }
            ErrorKind::InvalidResponse { .. } | ErrorKind::Bson(_) => Self::Unreadable,
            other => {
                let name = format!("{other:?}");
                let name = name.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
                Self::Driver { what: format!("the driver failed: {name}"), may_pass: labelled }
            }
        }
    }

    /// What a reply that is `ok` says all the same: a document that could not be written, for another reason than that it is there, or
    /// a write that was not replicated in time.
    pub(crate) fn of_reply(reply: &Document) -> Option<Self> {
        let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        for error in errors {
            match error.as_document() {
                Some(error) if code_of(error) == DUPLICATE_KEY => {}
                Some(error) => return Some(Self::of_server(error)),
                None => return Some(Self::Unreadable),
            }
        }
        reply.get_document("writeConcernError").ok().map(Self::of_server)
    }

    fn of_server(error: &Document) -> Self {
        let name = error.get_str("codeName").unwrap_or_default().to_owned();
        Self::Server { code: code_of(error), name }
    }

    /// Whether the same command may succeed when it is sent again.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Server { code, .. } => MAY_PASS.contains(code) || *code == RECOVERING,
            Self::Driver { may_pass, .. } => *may_pass,
            Self::Unanswered | Self::Unreadable => false,
        }
    }
}

fn code_of(error: &Document) -> i32 {
    match error.get("code") {
        Some(Bson::Int32(code)) => *code,
        Some(Bson::Int64(code)) => i32::try_from(*code).unwrap_or(0),
        _ => 0,
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match &fault {
            Fault::Server { code, .. } if TOO_LARGE.contains(code) => {
                Self::Conflict("a value is larger than the store can keep".to_owned())
            }
            Fault::Server { code: DUPLICATE_KEY, .. } => {
                Self::Corrupt("a record exists that must not".to_owned())
            }
            Fault::Unreadable => Self::Corrupt(fault.to_string()),
            // An error nobody foresaw may go away.
            Fault::Unanswered | Fault::Server { .. } | Fault::Driver { .. } => Self::unavailable(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn server(code: i32) -> Fault {
        Fault::of_server(
            &doc! { "code": code, "codeName": "Name", "errmsg": "dup key: { idem_key: \"secret\" }" },
        )
    }

    #[test]
    fn an_election_may_pass_and_a_refusal_does_not() {
        for code in [91, 189, 10_107, 11_600, 13_435, 13_436, 112] {
            assert!(server(code).may_pass(), "{code}");
        }
        for code in [DUPLICATE_KEY, 10_334, 50, 64, 13, 2] {
            assert!(!server(code).may_pass(), "{code}");
        }
        assert!(!Fault::Unanswered.may_pass());
    }

    #[test]
    fn errors_are_sorted_by_what_the_caller_can_do_and_repeat_no_values() {
        assert!(matches!(StoreError::from(server(10_334)), StoreError::Conflict(_)));
        assert!(matches!(StoreError::from(server(DUPLICATE_KEY)), StoreError::Corrupt(_)));
        for code in [64, 91, 13, 50, 12_345] {
            let error = StoreError::from(server(code));
            assert!(matches!(error, StoreError::Unavailable(_)), "{code}");
            assert!(!format!("{error:?}").contains("secret"));
        }
    }

    #[test]
    fn a_write_that_failed_or_was_not_replicated_is_a_fault_and_one_that_was_there_is_none() {
        let duplicate = doc! { "index": 1, "code": 11_000 };
        assert!(Fault::of_reply(&doc! { "ok": 1.0, "n": 1, "writeErrors": [duplicate.clone()] }).is_none());
        let stepped_down = doc! { "index": 2, "code": 189 };
        let reply = doc! { "ok": 1.0, "n": 1, "writeErrors": [duplicate, stepped_down] };
        assert!(matches!(Fault::of_reply(&reply), Some(Fault::Server { code: 189, .. })));
        let reply =
            doc! { "ok": 1.0, "n": 1, "writeConcernError": { "code": 64, "codeName": "WriteConcernFailed" } };
        assert!(matches!(Fault::of_reply(&reply), Some(Fault::Server { code: 64, .. })));
    }
}
