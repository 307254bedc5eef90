//! The registry as a whole: projects on disk in, networks or findings out.

mod choosing;
mod hostile;
mod loading;
mod trusting;
mod wrong;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::*;

/// A folder with a project, a user's and a system's configuration and a state folder in it.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(world.path("project")).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// Writes a file, its folders too.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// Writes the project's registry: the entries of the namespace `app`.
    fn entries(&self, entries: &str) -> &Self {
        self.write("project/src/_index.yaml", format!("version: \"1.0\"\nnamespace: app\nentries:\n{entries}"))
    }

    fn search(&self, cwd: &str) -> Search {
        Search {
            cwd: self.path(cwd),
            explicit: Vec::new(),
            user: self.path("user"),
            system: self.path("system"),
            state: self.path("state"),
        }
    }

    fn load(&self) -> Result<Loaded, LoadError> {
        load(&self.search("project"), &environment)
    }

    fn good(&self) -> Loaded {
        self.load().unwrap_or_else(|LoadError(findings)| panic!("{}", report::errors(&findings, false)))
    }

    /// The errors of a load in one line each.
    fn errors(&self) -> Vec<String> {
        match self.load() {
            Ok(_) => Vec::new(),
            Err(LoadError(findings)) => findings.errors.iter().map(Diagnostic::to_string).collect(),
        }
    }
}

fn environment(name: &str) -> Option<OsString> {
    (name == "PW").then(|| "hunter2".into())
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

const TOR: &str = "  - {name: tor, kind: network.socks5, host: 127.0.0.1, port: 9050}\n";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
