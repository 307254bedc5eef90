//! Where a registry is looked for.
//!
//! `--registry` replaces the search. Otherwise: the project folder (the nearest one upwards that holds one of
//! [`MARKERS`]), the user's configuration folder, the system's. The first of them that has any entry is the registry; they
//! do not merge. The first that has a `network_service` block has the settings.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Findings, Severity};
use super::placeholder::Environment;

/// What makes a folder a project.
pub const MARKERS: &[&str] = &[".netjail.yaml", ".wippy.yaml", "wippy.lock", "src/_index.yaml"];
/// The name of a registry file.
pub(super) const INDEX: &str = "_index.yaml";

/// How many registry files one place may have.
const MAX_FILES: usize = 1_000;
/// How many folder entries are looked at for them.
const MAX_ENTRIES: usize = 100_000;
/// How deep.
const MAX_DEPTH: usize = 32;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Search {
    /// The working folder, without symbolic links.
    pub cwd: PathBuf,
    /// `--registry`, in order; empty for the search.
    pub explicit: Vec<PathBuf>,
    /// `$XDG_CONFIG_HOME/netjail`.
    pub user: PathBuf,
    /// `/etc/netjail`.
    pub system: PathBuf,
    /// `$XDG_STATE_HOME/netjail`: the default state folder, and where trust is kept whatever a project says.
    pub state: PathBuf,
}

impl Search {
    /// The places as the environment has them. Relative XDG folders are ignored, as their specification says.
    pub fn from_environment(explicit: Vec<PathBuf>) -> io::Result<Self> {
        let cwd = std::env::current_dir()?.canonicalize()?;
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME").or_else(|| {
            let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten()?;
            Some(user.dir)
        });
        let home = home.unwrap_or_else(|| PathBuf::from("/"));
        let under = |name: &str, default: &str| absolute(name).unwrap_or_else(|| home.join(default)).join("netjail");
        Ok(Self {
            cwd,
            explicit,
            user: under("XDG_CONFIG_HOME", ".config"),
            system: PathBuf::from("/etc/netjail"),
            state: under("XDG_STATE_HOME", ".local/state"),
        })
    }

    /// The project folder of the working folder.
    pub(super) fn project(&self) -> Option<&Path> {
        // A marker of any type counts, even one that cannot be read: what is wrong with it is then an error of that
        // project, and not a reason to believe somebody else.
        self.cwd.ancestors().find(|folder| MARKERS.iter().any(|name| folder.join(name).symlink_metadata().is_ok()))
    }
}

/// The process's environment as the placeholders see it.
pub fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A check that [`process_environment`] fits where an [`Environment`] is wanted.
const _: Environment<'static> = &process_environment;

/// The registry files in a folder and below, in the order of their names. Links to folders are not followed; hidden
/// folders and `node_modules` are not entered.
pub(super) fn index_files(folder: &Path, findings: &mut Findings) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut seen = 0;
    let mut todo = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = todo.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(why) => {
                unreadable(
                    findings,
                    &folder,
                    &why.to_string(),
                    "make the folder readable, or name the files with --registry",
                );
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(why) => {
                    unreadable(findings, &folder, &why.to_string(), "name the files with --registry");
                    break;
                }
            };
            seen += 1;
            if seen > MAX_ENTRIES || found.len() >= MAX_FILES {
                let why = format!("more than {MAX_FILES} registry files or {MAX_ENTRIES} entries lie below it");
                unreadable(findings, &folder, &why, "name the files with --registry");
                return found;
            }
            let name = entry.file_name();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                let hidden = name.as_encoded_bytes().starts_with(b".");
                if !hidden && name != "node_modules" && depth < MAX_DEPTH {
                    todo.push((entry.path(), depth + 1));
                }
            } else if name == INDEX {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn unreadable(findings: &mut Findings, path: &Path, why: &str, help: &str) {
    findings.error(|| Diagnostic::whole(Severity::Error, path, format!("the folder was not read: {why}")).help(help));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(cwd: &Path) -> Search {
        Search { cwd: cwd.into(), explicit: vec![], user: "/x".into(), system: "/x".into(), state: "/x".into() }
    }

    #[test]
    fn the_nearest_folder_upwards_with_a_marker_is_the_project() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let deep = root.join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(root.join("wippy.lock"), "").unwrap();
        assert_eq!(search(&deep).project(), Some(root.as_path()));
        std::fs::create_dir(root.join("a/src")).unwrap();
        std::fs::write(root.join("a/src/_index.yaml"), "").unwrap();
        assert_eq!(search(&deep).project(), Some(root.join("a").as_path()));
        std::os::unix::fs::symlink("/nowhere", root.join("a/b/.netjail.yaml")).unwrap();
        assert_eq!(search(&deep).project(), Some(root.join("a/b").as_path()), "a dangling marker is a marker");
    }

    #[test]
    fn a_loop_of_links_ends_and_only_index_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("src/api")).unwrap();
        for name in ["src/_index.yaml", "src/api/_index.yaml", "src/other.yaml"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("..", dir.path().join("src/up")).unwrap();
        let mut findings = Findings::default();
        let found = index_files(&dir.path().join("src"), &mut findings);
        assert_eq!(found, [dir.path().join("src/_index.yaml"), dir.path().join("src/api/_index.yaml")]);
        assert!(findings.errors.is_empty());
    }
}
