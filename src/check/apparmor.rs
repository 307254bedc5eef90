//! The AppArmor profile that gives this program its user namespaces back.
//!
//! Ubuntu (23.10 and later) lets an unconfined program make a user namespace but takes all capabilities in it away
//! (`kernel.apparmor_restrict_unprivileged_userns`). A profile with the rule `userns,` lifts that for one program. The rule,
//! and the 4.0 feature ABI in which it means something, exist from AppArmor 4.0 on; older parsers know neither, and no kernel
//! that came with them restricts anything.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

/// Where administrators keep profiles.
const FOLDER: &str = "/etc/apparmor.d";

/// Why a profile was not written.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Only root writes there.
    #[error("the AppArmor profile can only be written by root; run: sudo {} doctor --fix", .0.display())]
    NotRoot(PathBuf),
    /// The program's path can not be said in AppArmor's language.
    #[error(
        "the path of this program, {0:?}, can not be written in an AppArmor profile; move it, for example to /usr/local/bin"
    )]
    Path(PathBuf),
    /// No AppArmor here.
    #[error("{FOLDER} does not exist, so there is no AppArmor to configure; install the package apparmor")]
    NoFolder,
    /// The file.
    #[error("can not write {path}: {source}; free some space or make the folder writable")]
    Io {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Whether the parser of this machine knows the rule.
fn knows_userns() -> bool {
    Path::new(FOLDER).join("abi/4.0").exists()
}

/// The profile's text. `attachment` is a path in AppArmor's own language; `userns` says whether the rule is known.
pub fn profile(attachment: &str, userns: bool) -> String {
    let (abi, rule) = if userns { ("abi <abi/4.0>,\n", "  userns,\n\n") } else { ("", "") };
    format!(
        "# Lets netjail make user namespaces where kernel.apparmor_restrict_unprivileged_userns is 1.\n\
         # It confines nothing: what a jail may do is netjail's own affair.\n\
         {abi}include <tunables/global>\n\n\
         profile netjail \"{attachment}\" flags=(unconfined) {{\n{rule}  # Local additions.\n  include if exists <local/netjail>\n}}\n"
    )
}

/// A file's path in AppArmor's language: its wildcards are escaped.
fn attachment(path: &Path) -> Option<String> {
    let text = path.to_str().filter(|t| t.starts_with('/') && !t.contains(|c: char| c.is_control() || c == '"'))?;
    let mut out = String::new();
    for c in text.chars() {
        if "*?[]{}^@\\,".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    Some(out)
}

/// Writes the profile for `program`; returns where it is. The new file replaces the old one in one step.
pub fn write(program: &Path) -> Result<PathBuf, ProfileError> {
    if !Uid::effective().is_root() {
        return Err(ProfileError::NotRoot(program.to_owned()));
    }
    write_into(Path::new(FOLDER), program)
}

fn write_into(folder: &Path, program: &Path) -> Result<PathBuf, ProfileError> {
    let attachment = attachment(program).ok_or_else(|| ProfileError::Path(program.to_owned()))?;
    if !folder.is_dir() {
        return Err(ProfileError::NoFolder);
    }
    let path = folder.join("netjail");
    let unnamed = folder.join(format!(".netjail.{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = fs::File::options().write(true).create_new(true).mode(0o644).open(&unnamed)?;
        file.write_all(profile(&attachment, knows_userns()).as_bytes())?;
        file.sync_all()?;
        fs::rename(&unnamed, &path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&unnamed);
        ProfileError::Io { path: path.clone(), source }
    })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Parses without a kernel that has AppArmor.
    fn parses(text: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profile");
        fs::write(&file, text).unwrap();
        let output = match Command::new("apparmor_parser").args(["-Q", "-K", "--skip-kernel-load"]).arg(&file).output()
        {
            Ok(output) => output,
            // The parser comes with Debian's package apparmor, which scripts/test installs; it lies in /usr/sbin.
            Err(_) => Command::new("/usr/sbin/apparmor_parser")
                .args(["-Q", "-K", "--skip-kernel-load"])
                .arg(&file)
                .output()
                .expect("install the package apparmor"),
        };
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn the_packaged_profile_is_the_one_that_fix_would_write_and_parses() {
        let packaged = include_str!("../../policy/apparmor/netjail");
        let path = "/usr/{bin,local/bin}/netjail";
        assert_eq!(packaged, profile(path, true));
        parses(&profile(path, knows_userns()));
    }

    #[test]
    fn fix_writes_a_profile_that_parses_whatever_the_path() {
        let folder = tempfile::tempdir().unwrap();
        for program in ["/usr/bin/netjail", "/opt/net jail/{a,b}*[x]?/n^j@\\,"] {
            let path = write_into(folder.path(), Path::new(program)).unwrap();
            parses(&fs::read_to_string(path).unwrap());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the profile is left");
    }

    #[test]
    fn a_path_that_would_end_the_profile_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for program in ["/a\"b", "/a\nb", "relative"] {
            assert!(matches!(write_into(folder.path(), Path::new(program)), Err(ProfileError::Path(_))), "{program:?}");
        }
    }
}
