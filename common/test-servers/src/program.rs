//! Where the programs of the servers are.

use std::path::PathBuf;

/// The folder into which `./check` installs servers.
pub(crate) fn servers_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.test-servers"))
}

/// The program that `variable` names, or else the one at `usual`.
pub(crate) fn program(variable: &str, usual: PathBuf) -> PathBuf {
    let program = std::env::var_os(variable).map_or(usual, PathBuf::from);
    assert!(
        program.is_file(),
        "{} is missing: `./check servers` installs it, or {variable} names it",
        program.display()
    );
    program
}
