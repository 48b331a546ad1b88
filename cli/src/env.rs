//! The environment, and the `.env` file of the current folder that adds to it.

use crate::exit::Failure;

/// Reads `.env` of the current folder, if there is one; variables that are set already win.
pub(crate) fn load_dotenv() -> Result<(), Failure> {
    match dotenvy::from_path(".env") {
        Ok(()) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        // The line itself may hold a secret, so it is not repeated.
        Err(dotenvy::Error::LineParse(_, column)) => Err(Failure::input(format!(
            ".env holds a line that is not NAME=VALUE (near column {column}); quote values with spaces"
        ))),
        Err(error) => Err(Failure::work(".env cannot be read", error)),
    }
}
