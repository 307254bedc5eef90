//! `${env:NAME}` and `${file:PATH}` in values.
//!
//! `NAME` is a variable of netjail's own environment, or the id of an `env.variable` entry, whose `variable` is then read;
//! `${env:NAME|text}` has a default. `PATH` is relative to the folder of the file that names it; one newline at the end is
//! dropped. `$${` stands for the characters `${`. Any other placeholder is an error: sent as it stands it would be a wrong
//! password.
//!
//! A missing variable or file does not make the registry unusable, only the network that needs it: a project with a
//! tailnet still runs over its Tor where no auth key is set.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::diagnostic::{escape, escape_path};
use super::source::{MAX_SECRET_FILE, read_bytes};

/// How many different files all placeholders of a registry may name.
const MAX_FILES: usize = 100;

/// The pieces of a value that say where a secret comes from, as written, without defaults.
pub(super) fn sources(text: &str) -> Vec<String> {
    let pieces = text.split("${").skip(1).filter_map(|piece| piece.split(['}', '|']).next());
    pieces
        .filter(|piece| piece.starts_with("env:") || piece.starts_with("file:"))
        .map(|piece| format!("${{{}}}", escape(piece)))
        .collect()
}

/// Looks up a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What placeholders of one load were resolved with, and to what.
pub(super) struct Placeholders<'a> {
    pub environment: Environment<'a>,
    /// `env.variable` entries: id to the variable's name.
    pub variables: BTreeMap<String, String>,
    /// Variables that a secret was read from, or would have been.
    pub secret_env: BTreeSet<String>,
    /// Files that a secret was read from, or would have been.
    pub secret_files: BTreeSet<PathBuf>,
    /// The content hashes of all files that were named; `None` where one could not be read.
    pub contents: BTreeMap<PathBuf, Option<[u8; 32]>>,
    /// The `env.variable` entries that were used.
    pub used_variables: BTreeMap<String, String>,
}

/// Why a value could not be resolved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// It is written wrongly.
    Malformed(String),
    /// What it names is not there now.
    Missing(String),
}

impl Placeholders<'_> {
    /// Replaces the placeholders of a value that is written in a file of `folder`.
    pub(super) fn resolve(&mut self, text: &str, folder: &Path, secret: bool) -> Result<String, Unresolved> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let before = &rest[..at];
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(before);
            let inner = &rest[at + 2..];
            let Some(end) = inner.find('}') else {
                return Err(Unresolved::Malformed("`${` without its `}`".into()));
            };
            out.push_str(&self.one(&inner[..end], folder, secret)?);
            rest = &inner[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn one(&mut self, inner: &str, folder: &Path, secret: bool) -> Result<String, Unresolved> {
        if let Some(name) = inner.strip_prefix("env:") {
            let (name, default) = name.split_once('|').map_or((name, None), |(name, default)| (name, Some(default)));
            return self.variable(name, default, secret);
        }
        if let Some(path) = inner.strip_prefix("file:") {
            return self.file(&folder.join(path), secret);
        }
        // What stands there may be a piece of a password: it is not repeated.
        Err(Unresolved::Malformed("an unknown placeholder".into()))
    }

    fn variable(&mut self, name: &str, default: Option<&str>, secret: bool) -> Result<String, Unresolved> {
        let name = match self.variables.get(name) {
            Some(variable) => {
                self.used_variables.insert(name.to_owned(), variable.clone());
                variable.clone()
            }
            None if name.contains(':') => {
                return Err(Unresolved::Missing(format!("no `env.variable` entry has the id `{}`", escape(name))));
            }
            None => name.to_owned(),
        };
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Unresolved::Malformed("`${env:…}` without the name of a variable".into()));
        }
        if secret {
            self.secret_env.insert(name.clone());
        }
        match ((self.environment)(&name).map(OsString::into_string), default) {
            (Some(Ok(value)), _) if !value.is_empty() => Ok(value),
            (Some(Err(_)), _) => {
                Err(Unresolved::Missing(format!("the environment variable `{}` is not UTF-8", escape(&name))))
            }
            (_, Some(default)) => Ok(default.to_owned()),
            (Some(Ok(_)), None) => {
                Err(Unresolved::Missing(format!("the environment variable `{}` is set, but empty", escape(&name))))
            }
            _ => Err(Unresolved::Missing(format!("the environment variable `{}` is not set", escape(&name)))),
        }
    }

    fn file(&mut self, path: &Path, secret: bool) -> Result<String, Unresolved> {
        if path.as_os_str().is_empty() || path.as_os_str().to_string_lossy().contains('\0') {
            return Err(Unresolved::Malformed("`${file:…}` without a path".into()));
        }
        if !self.contents.contains_key(path) && self.contents.len() >= MAX_FILES {
            return Err(Unresolved::Malformed(format!(
                "more than {MAX_FILES} different files are named by `${{file:…}}`"
            )));
        }
        if secret {
            self.secret_files.insert(path.to_owned());
        }
        let missing = |why: String| Unresolved::Missing(format!("the file {} was not read: {why}", escape_path(path)));
        let bytes = read_bytes(path, MAX_SECRET_FILE);
        let hash = bytes.as_ref().ok().map(|bytes| Sha256::digest(bytes).into());
        self.contents.insert(path.to_owned(), hash);
        let mut text = String::from_utf8(bytes.map_err(|e| missing(e.to_string()))?)
            .map_err(|_| missing("it is not UTF-8 text".into()))?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<R>(run: impl FnOnce(&mut Placeholders<'_>) -> R) -> R {
        let environment = |name: &str| (name == "PW").then(|| OsString::from("hunter2"));
        run(&mut Placeholders {
            environment: &environment,
            variables: [("app.env:key".into(), "PW".into())].into(),
            secret_env: BTreeSet::new(),
            secret_files: BTreeSet::new(),
            contents: BTreeMap::new(),
            used_variables: BTreeMap::new(),
        })
    }

    #[test]
    fn variables_defaults_entries_and_escapes_are_resolved() {
        with(|p| {
            let mut get = |text: &str| p.resolve(text, Path::new("/"), true).unwrap();
            assert_eq!(get("a${env:PW}b"), "ahunter2b");
            assert_eq!(get("${env:app.env:key}"), "hunter2");
            assert_eq!(get("${env:NONE|d}"), "d");
            assert_eq!(get("$${env:PW} $ {x}"), "${env:PW} $ {x}");
            assert_eq!(p.secret_env.iter().collect::<Vec<_>>(), ["NONE", "PW"]);
        });
    }

    #[test]
    fn a_file_is_relative_to_its_registry_and_loses_one_newline() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pw"), "hunter2\n\n").unwrap();
        with(|p| {
            assert_eq!(p.resolve("${file:pw}", dir.path(), true).unwrap(), "hunter2\n");
            assert!(p.secret_files.contains(&dir.path().join("pw")));
            assert!(p.contents[&dir.path().join("pw")].is_some());
            assert!(matches!(p.resolve("${file:none}", dir.path(), true), Err(Unresolved::Missing(_))));
            assert!(matches!(p.resolve("${file:/dev/zero}", dir.path(), true), Err(Unresolved::Missing(_))));
        });
    }

    #[test]
    fn wrong_placeholders_are_errors_that_do_not_repeat_the_value() {
        with(|p| {
            for text in ["${hunter2}", "${env:", "${env:}", "${hunter2", "${vault:hunter2}"] {
                match p.resolve(text, Path::new("/"), true) {
                    Err(Unresolved::Malformed(why)) => assert!(!why.contains("hunter2"), "{why}"),
                    other => panic!("{text}: {other:?}"),
                }
            }
        });
    }
}
