//! The binary to measure, built by cargo in the profile and the target folder of the program that asks.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Builds `promptmill`; answers where it is and the name of the profile.
///
/// # Errors
/// This program does not lie where cargo puts programs, or the build fails.
pub fn engine() -> anyhow::Result<(PathBuf, String)> {
    let own = std::env::current_exe().context("where this program lies is unknown")?;
    let folder = own.parent().context("this program lies in no folder")?;
    let (target, profile) = target_and_profile(folder)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    eprintln!("building promptmill (profile {profile})");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--package", "promptmill-cli", "--profile", &profile])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .arg("--target-dir")
        .arg(target)
        .status()
        .context("cargo cannot be started; name the binary with --binary")?;
    if !status.success() {
        bail!("the build of promptmill failed");
    }
    Ok((folder.join("promptmill"), format!("profile {profile}")))
}

/// The target folder and the profile of programs in `folder`.
fn target_and_profile(folder: &Path) -> anyhow::Result<(&Path, String)> {
    let (Some(target), Some(name)) = (folder.parent(), folder.file_name()) else {
        bail!("this program does not lie in a target folder; name the binary with --binary");
    };
    let name = name.to_string_lossy();
    // The one profile whose folder is called otherwise.
    let profile = if name == "debug" { "dev".to_owned() } else { name.into_owned() };
    Ok((target, profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_read_from_the_folder_a_program_lies_in() {
        for (folder, profile) in
            [("/t/target/debug", "dev"), ("/t/target/release", "release"), ("/t/target/dist", "dist")]
        {
            let found = target_and_profile(Path::new(folder)).unwrap();
            assert_eq!(found, (Path::new("/t/target"), profile.to_owned()));
        }
        assert!(target_and_profile(Path::new("/")).is_err());
    }
}
