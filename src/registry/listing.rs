//! The first pass of a load: which files there are, and which entries are in them.

use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Severity, word};
use super::fields::Fields;
use super::find::{INDEX, Search, index_files};
use super::load::{Document, Entry, Loader, Place};
use super::suggest::{hint, nearest};
use super::yaml::{Node, Value};
use super::{Id, settings};

/// How many entries all files of a load may have.
const MAX_ENTRIES: usize = 20_000;

impl Loader<'_> {
    /// The first pass: the entries of the place that wins.
    pub(super) fn read_entries(&mut self, search: &Search, project: Option<&Path>) -> Option<Place> {
        if !search.explicit.is_empty() {
            for path in &search.explicit {
                let path = search.cwd.join(path);
                if path.is_dir() { self.read_named_folder(&path) } else { self.read_index(&path) }
            }
            return Some(Place::Explicit);
        }
        let project = project.map(|folder| (Place::Project(folder.to_owned()), folder.to_owned()));
        let user = (Place::User(search.user.clone()), search.user.clone());
        let system = (Place::System(search.system.clone()), search.system.clone());
        for (place, folder) in project.into_iter().chain([user, system]) {
            match place {
                Place::Project(_) => {
                    let sources = self.source_folder(&folder);
                    self.read_files_below(&sources);
                }
                _ => {
                    self.read_folder(&folder);
                }
            }
            // A broken place is not passed over for the next one: breaking a file must not choose another way out.
            if !self.entries.is_empty() || !self.findings.errors.is_empty() {
                return Some(place);
            }
        }
        None
    }

    /// A folder that was named, or a configuration folder: a project where it has a lock file.
    fn read_folder(&mut self, folder: &Path) -> usize {
        let below = match folder.join("wippy.lock").symlink_metadata() {
            Ok(_) => self.source_folder(folder),
            Err(_) => folder.to_owned(),
        };
        self.read_files_below(&below)
    }

    /// A folder that the user named, and in which there is nothing, is a mistake: going on would be direct.
    fn read_named_folder(&mut self, folder: &Path) {
        if self.read_folder(folder) == 0 && self.findings.errors.is_empty() {
            let message =
                format!("--registry names a folder without a registry file: there is no `{INDEX}` in it or below");
            self.findings.error(|| Diagnostic::whole(Severity::Error, folder, message));
        }
    }

    /// How many files there are.
    fn read_files_below(&mut self, folder: &Path) -> usize {
        let files = index_files(folder, &mut self.findings);
        files.iter().for_each(|path| self.read_index(path));
        files.len()
    }

    /// Where a project's registry files lie.
    fn source_folder(&mut self, folder: &Path) -> PathBuf {
        match self.read(&folder.join("wippy.lock"), false) {
            Some(lock) => settings::source_folder(&mut self.context(lock.source), &lock.documents),
            None => folder.join("src"),
        }
    }

    /// The first `network_service` block in the order of the search.
    pub(super) fn read_settings(
        &mut self,
        search: &Search,
        project: Option<&Path>,
    ) -> (Option<(Document, Node)>, Option<Place>) {
        // --registry replaces the search for entries; which of them is the default is still said where it is always said.
        let named = search.explicit.iter().map(|path| search.cwd.join(path)).filter(|path| path.is_dir());
        let mut places: Vec<_> = named.map(|folder| (Place::Explicit, folder)).collect();
        places.extend(project.map(|folder| (Place::Project(folder.to_owned()), folder.to_owned())));
        places.push((Place::User(search.user.clone()), search.user.clone()));
        places.push((Place::System(search.system.clone()), search.system.clone()));
        for (place, folder) in places {
            for name in settings::FILES {
                let Some(document) = self.read(&folder.join(name), false) else { continue };
                if *name == settings::FILES[0] {
                    settings::others(&mut self.context(document.source), &document.documents);
                }
                if let Some(node) = settings::block(&document.documents).cloned() {
                    return (Some((document, node)), Some(place));
                }
            }
        }
        (None, None)
    }

    /// Lists the entries of one registry file.
    fn read_index(&mut self, path: &Path) {
        let Some(document) = self.read(path, true) else { return };
        for node in &document.documents {
            if !node.is_null() {
                self.list_entries(document.source, node);
            }
        }
        if document.documents.iter().all(Node::is_null) && self.findings.errors.is_empty() {
            self.findings.note(|| Diagnostic::whole(Severity::Note, path, "the registry file is empty"));
        }
    }

    fn list_entries(&mut self, source: usize, node: &Node) {
        const KNOWN: &[&str] = &["version", "namespace", "entries", "meta", "name", "kind"];
        let mut listed = Vec::new();
        let mut cx = self.context(source);
        let Some(fields) = Fields::of(&mut cx, "a registry file", node) else { return };
        // A file may be one entry itself: then its other fields are the entry's.
        let single = fields.get("entries").is_none() && fields.get("kind").is_some();
        for (key, _) in node.mapping().into_iter().flatten().filter(|_| !single) {
            match key.text() {
                Some(name) if KNOWN.contains(&name) => {}
                Some(name) if nearest(name, KNOWN.iter().copied()).is_some() => {
                    let message = format!("a registry file has no field `{}`", word(name));
                    cx.error(&key.span, message, "unknown field", hint(name, KNOWN));
                }
                Some(name) => {
                    cx.note(&key.span, format!("`{}` has no meaning for netjail and is passed over", word(name)), "")
                }
                None => cx.error(
                    &key.span,
                    format!("a field whose name is {}", key.describe()),
                    "expected a field name",
                    "",
                ),
            }
        }
        match fields.get("version").map(|node| node.text().unwrap_or_default()) {
            // The first version there is, and Wippy's files leave it out.
            None | Some("1.0") => {}
            Some(version) => {
                let message = format!("version `{}` of the registry format is not known", word(version));
                fields.wrong(&mut cx, "version", message, "expected `version: \"1.0\"`", "");
            }
        }
        fields.require(&mut cx, "namespace", "such as `app` or `app.net`");
        let Some(namespace) = fields.get("namespace").and_then(Node::text) else { return };
        if Id::new(namespace, "x").is_err() {
            let message = format!("`{}` is not a namespace", word(namespace));
            fields.wrong(
                &mut cx,
                "namespace",
                message,
                "expected words of letters, digits, `-` and `_` with dots between",
                "",
            );
            return;
        }
        if namespace == "netjail" || namespace.starts_with("netjail.") {
            let message = "the namespace `netjail` is netjail's own";
            fields.wrong(
                &mut cx,
                "namespace",
                message,
                "expected another namespace",
                "rename it, for example to `app`",
            );
            return;
        }
        let list = match fields.get("entries").map(|node| (node, node.value())) {
            _ if single => std::slice::from_ref(node),
            Some((_, Value::Sequence(list))) => list.as_slice(),
            Some((node, _)) => {
                let message = format!("`entries` is {}", node.describe());
                fields.wrong(&mut cx, "entries", message, "expected a list: `- name: …`", "");
                return;
            }
            None => {
                // `entries:` with nothing below it is an empty list; Wippy writes such files.
                if fields.raw("entries").is_none() && fields.raw("meta").is_none() {
                    fields.require(&mut cx, "entries", "a list of entries");
                }
                return;
            }
        };
        for node in list {
            let Some(entry) = Fields::of(&mut cx, "an entry", node) else { continue };
            entry.require(&mut cx, "name", "the entry's name in its namespace");
            entry.require(&mut cx, "kind", "such as `network.socks5`");
            let (Some(name_node), Some(kind_node)) = (entry.get("name"), entry.get("kind")) else { continue };
            let (Some(name), Some(kind)) = (name_node.text(), kind_node.text()) else {
                entry.wrong(&mut cx, "name", "an entry's `name` and `kind` are texts", "expected `name: tor`", "");
                continue;
            };
            match Id::new(namespace, name) {
                Ok(id) => listed.push(Entry {
                    id,
                    kind: kind.to_owned(),
                    node: node.clone(),
                    name_span: name_node.span.clone(),
                    kind_span: kind_node.span.clone(),
                    source,
                }),
                Err(_) if !name.is_empty() => {
                    let message = format!("`{}` is not a name", word(name));
                    entry.wrong(
                        &mut cx,
                        "name",
                        message,
                        "expected letters, digits, `-` and `_` with dots between",
                        "",
                    );
                }
                Err(_) => {}
            }
        }
        if self.entries.len() + listed.len() > MAX_ENTRIES {
            let path = self.sources[source].path.clone();
            self.findings.error(|| {
                Diagnostic::whole(Severity::Error, &path, format!("the registry has more than {MAX_ENTRIES} entries"))
            });
            return;
        }
        self.entries.append(&mut listed);
    }
}
