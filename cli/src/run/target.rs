//! Where the outcomes go.

use std::path::{Path, PathBuf};

use promptmill_rowio::RowFormat;

use crate::exit::Failure;

/// A file, written aside and renamed, or standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// JSON lines on standard output.
    Stdout,
    /// A file in the format its name says.
    File { path: PathBuf, format: RowFormat },
}

impl Target {
    pub(crate) fn parse(out: &Path) -> Result<Self, Failure> {
        if out == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let format = RowFormat::from_path(out).map_err(|error| Failure::input(format!("--out: {error}")))?;
        let parent = parent_of(out);
        if !parent.is_dir() {
            return Err(Failure::input(format!("--out: the folder {} does not exist", parent.display())));
        }
        if out.is_dir() {
            return Err(Failure::input(format!("--out: {} is a folder", out.display())));
        }
        Ok(Self::File { path: out.to_owned(), format })
    }

    /// The default folder of the run's state.
    pub(crate) fn state_dir(&self) -> Option<PathBuf> {
        match self {
            Self::Stdout => None,
            Self::File { path, .. } => {
                let mut name = path.clone().into_os_string();
                name.push(".promptmill");
                Some(name.into())
            }
        }
    }
}

/// The folder a file is in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
