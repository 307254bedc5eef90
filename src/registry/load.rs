//! Loading: files into entries, entries into networks, listeners and policies.
//!
//! Two passes. The first reads every file of the place that wins and lists its entries, so that a reference may point
//! forward and a repeated id can name both places. The second reads each entry by its kind and then looks the references
//! up. Every error of every file is found in one load; only broken YAML ends its own file early.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::diagnostic::{Diagnostic, Findings, Severity, Source, escape, word};
use super::fields::{Context, Fields};
use super::find::{Search, index_files};
use super::placeholder::{Environment, Placeholders};
use super::settings::{self, DefaultNetwork, Settings};
use super::source::read_text;
use super::suggest::{hint, nearest};
use super::yaml::{self, Node, Span, Value};
use super::{Id, Network, Policy, Service, canonical};

/// How many bytes all files of a load may have.
const MAX_TOTAL: usize = 32 << 20;
/// How many entries all files of a load may have.
const MAX_ENTRIES: usize = 20_000;

/// Where a registry was found, and so whose word it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `--registry`: the user's word.
    Explicit,
    /// A project folder: to be trusted first.
    Project(PathBuf),
    /// The user's configuration folder.
    User(PathBuf),
    /// The system's configuration folder.
    System(PathBuf),
}

/// A network of the registry.
#[derive(Clone, Debug)]
pub struct Defined {
    /// What to drive.
    pub network: Network,
    /// Its registry kind: `network.socks5`.
    pub kind: String,
    /// Where it dials, in words, escaped and without secrets.
    pub dials: String,
    /// `file:line:column` of the entry, escaped.
    pub location: String,
    /// Where its secrets come from, for the line of the first use: `${env:PW}`, `${file:…}`.
    pub secret_sources: Vec<String>,
    /// What it names and is not there now; choosing it is an error while this is not empty.
    pub missing: Vec<Diagnostic>,
}

/// A registry with its settings.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The working folder that the search began in.
    pub cwd: PathBuf,
    /// Where the entries were found; `None` where there are none.
    pub place: Option<Place>,
    /// The project folder of the working folder, whether or not anything was taken from it.
    pub project: Option<PathBuf>,
    /// Whether entries or settings come from the project.
    pub from_project: bool,
    /// The owners of the project's files that were read.
    pub owners: BTreeSet<u32>,
    /// The networks.
    pub networks: BTreeMap<Id, Defined>,
    /// The listeners.
    pub services: Vec<Service>,
    /// The policies.
    pub policies: Vec<Policy>,
    /// The settings.
    pub settings: Settings,
    /// How many entries there are, those passed over included.
    pub entries: usize,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// What a user may want to know; never an error.
    pub notes: Vec<Diagnostic>,
    /// How many notes were left out.
    pub omitted: usize,
    /// Environment variables that secrets are read from: no jail may have them.
    pub secret_env: BTreeSet<String>,
    /// Files that secrets are read from: no jail may read them.
    pub secret_files: BTreeSet<PathBuf>,
    /// A hash of what decisions depend on, without secrets: it is written to logs.
    pub generation: u64,
    /// What netjail believes of this registry, by name, as hashes, secrets included. For [`trust`](super::trust) only.
    pub(super) believed: BTreeMap<String, [u8; 32]>,
}

/// A registry that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the registry has {} error(s); see `netjail check`", .0.errors.len() + .0.omitted)]
pub struct LoadError(pub Findings);

/// One entry, as listed by the first pass.
pub(super) struct Entry {
    pub id: Id,
    pub kind: String,
    pub node: Node,
    pub name_span: Span,
    pub kind_span: Span,
    pub source: usize,
}

/// Loads what `search` finds.
pub fn load(search: &Search, environment: Environment<'_>) -> Result<Loaded, LoadError> {
    let mut loader = Loader {
        findings: Findings::default(),
        sources: Vec::new(),
        entries: Vec::new(),
        total: 0,
        owners: BTreeSet::new(),
        inline_secret_said: false,
        placeholders: Placeholders {
            environment,
            variables: BTreeMap::new(),
            secret_env: BTreeSet::new(),
            secret_files: BTreeSet::new(),
            contents: BTreeMap::new(),
            used_variables: BTreeMap::new(),
        },
    };
    let loaded = loader.run(search);
    loader.findings.sort();
    if loader.findings.errors.is_empty() { Ok(loaded) } else { Err(LoadError(loader.findings)) }
}

/// The state of one load.
pub(super) struct Loader<'e> {
    pub findings: Findings,
    pub sources: Vec<Source>,
    pub entries: Vec<Entry>,
    pub inline_secret_said: bool,
    pub placeholders: Placeholders<'e>,
    total: usize,
    owners: BTreeSet<u32>,
}

/// A text file that was read and parsed: its place in `sources`, and its documents.
pub(super) struct Document {
    pub source: usize,
    pub documents: Vec<Node>,
}

impl<'e> Loader<'e> {
    /// What reading something in a file needs.
    pub(super) fn context(&mut self, source: usize) -> Context<'_, 'e> {
        Context {
            source: &self.sources[source],
            findings: &mut self.findings,
            placeholders: &mut self.placeholders,
            missing: Vec::new(),
            inline_secret_said: &mut self.inline_secret_said,
        }
    }
}

impl<'e> Loader<'e> {
    fn run(&mut self, search: &Search) -> Loaded {
        let project = search.project().map(Path::to_owned);
        let place = self.read_entries(search, project.as_deref());
        let owners_of_entries = std::mem::take(&mut self.owners);
        let (block, settings_place) = self.read_settings(search, project.as_deref());
        let mut owners = std::mem::take(&mut self.owners);
        let from_project =
            matches!(place, Some(Place::Project(_))) || matches!(settings_place, Some(Place::Project(_)));
        if matches!(place, Some(Place::Project(_))) {
            owners.extend(owners_of_entries);
        }

        let mut loaded = Loaded {
            cwd: search.cwd.clone(),
            place,
            project: if search.explicit.is_empty() { project } else { None },
            from_project,
            owners,
            networks: BTreeMap::new(),
            services: Vec::new(),
            policies: Vec::new(),
            settings: Settings {
                file: block.as_ref().map(|(document, _)| self.sources[document.source].path.clone()),
                state_dir: search.state.clone(),
                default_network: DefaultNetwork::Unset,
            },
            entries: self.entries.len(),
            files: Vec::new(),
            notes: Vec::new(),
            omitted: 0,
            secret_env: BTreeSet::new(),
            secret_files: BTreeSet::new(),
            generation: 0,
            believed: BTreeMap::new(),
        };
        let mut generation = BTreeMap::new();
        self.interpret(&mut loaded, &mut generation);
        if let Some((document, node)) = block {
            self.apply_settings(&mut loaded, document.source, &node, &mut generation);
        }
        for (path, content) in &self.placeholders.contents {
            loaded.believed.insert(format!("file {}", escape(&path.to_string_lossy())), content.unwrap_or_default());
        }
        for (id, variable) in &self.placeholders.used_variables {
            loaded.believed.insert(format!("env.variable {id}"), Sha256::digest(variable).into());
        }
        loaded.generation = number(&generation);
        loaded.files = self.sources.iter().map(|source| source.path.clone()).collect();
        loaded.secret_env = std::mem::take(&mut self.placeholders.secret_env);
        loaded.secret_files = std::mem::take(&mut self.placeholders.secret_files);
        self.findings.sort();
        loaded.notes.clone_from(&self.findings.notes);
        loaded.omitted = self.findings.omitted;
        loaded
    }

    /// Reads a file and parses it. A file that is not there is nothing to report here.
    fn read(&mut self, path: &Path, required: bool) -> Option<Document> {
        let file = match read_text(path) {
            Ok(file) => file,
            Err(why) if why.is_absent() && !required => {
                // A link to nowhere is there: passing over it would let whoever placed it hide the rest.
                path.symlink_metadata().is_ok().then(|| self.unreadable(path, "it is a link to nowhere"));
                return None;
            }
            Err(why) => {
                self.unreadable(path, &why.to_string());
                return None;
            }
        };
        self.total += file.text.len();
        if self.total > MAX_TOTAL {
            self.unreadable(path, &format!("all files together are larger than {} MiB", MAX_TOTAL >> 20));
            return None;
        }
        self.owners.insert(file.owner);
        let parsed = yaml::parse(&file.text);
        let source = Source::new(path.to_owned(), file.text, &parsed.documents);
        for equal in parsed.equal_keys {
            self.findings.error(|| {
                let finding = Diagnostic::at(Severity::Error, &source, equal.span, equal.message)
                    .expected("second time")
                    .help("remove one of the two");
                match equal.related {
                    Some(first) => finding.related(&source, first, "first time"),
                    None => finding,
                }
            });
        }
        if let Some(broken) = parsed.syntax {
            let line_start = source.text[..broken.span.start].rfind('\n').map_or(0, |i| i + 1);
            let blank: String = source.text[line_start..].chars().take_while(|c| c.is_whitespace()).collect();
            let help = if blank.contains('\t') { "indent with spaces: YAML allows no tabs there" } else { "" };
            self.findings.error(|| {
                let message = format!("not valid YAML: {}", word(&broken.message));
                Diagnostic::syntax(&source, broken.span, message).help(help)
            });
        }
        self.sources.push(source);
        Some(Document { source: self.sources.len() - 1, documents: parsed.documents })
    }

    fn unreadable(&mut self, path: &Path, why: &str) {
        self.findings.error(|| {
            Diagnostic::whole(Severity::Error, path, format!("the file was not read: {why}"))
                .help("make it a readable text file, or name another one with --registry")
        });
    }

    /// The first pass: the entries of the place that wins.
    fn read_entries(&mut self, search: &Search, project: Option<&Path>) -> Option<Place> {
        if !search.explicit.is_empty() {
            for path in &search.explicit {
                let path = search.cwd.join(path);
                if path.is_dir() { self.read_folder(&path) } else { self.read_index(&path) }
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
                _ => self.read_folder(&folder),
            }
            // A broken place is not passed over for the next one: breaking a file must not choose another way out.
            if !self.entries.is_empty() || !self.findings.errors.is_empty() {
                return Some(place);
            }
        }
        None
    }

    /// A folder that was named, or a configuration folder: a project where it has a lock file.
    fn read_folder(&mut self, folder: &Path) {
        let below = match folder.join("wippy.lock").symlink_metadata() {
            Ok(_) => self.source_folder(folder),
            Err(_) => folder.to_owned(),
        };
        self.read_files_below(&below);
    }

    fn read_files_below(&mut self, folder: &Path) {
        for path in index_files(folder, &mut self.findings) {
            self.read_index(&path);
        }
    }

    /// Where a project's registry files lie.
    fn source_folder(&mut self, folder: &Path) -> PathBuf {
        match self.read(&folder.join("wippy.lock"), false) {
            Some(lock) => settings::source_folder(&mut self.context(lock.source), &lock.documents),
            None => folder.join("src"),
        }
    }

    /// The first `network_service` block in the order of the search.
    fn read_settings(&mut self, search: &Search, project: Option<&Path>) -> (Option<(Document, Node)>, Option<Place>) {
        let mut places = Vec::new();
        if search.explicit.is_empty() {
            places.extend(project.map(|folder| (Place::Project(folder.to_owned()), folder.to_owned())));
            places.push((Place::User(search.user.clone()), search.user.clone()));
            places.push((Place::System(search.system.clone()), search.system.clone()));
        } else {
            let folders = search.explicit.iter().map(|path| search.cwd.join(path)).filter(|path| path.is_dir());
            places.extend(folders.map(|folder| (Place::Explicit, folder)));
        }
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

/// A short public hash of what decisions depend on.
fn number(parts: &BTreeMap<String, [u8; 32]>) -> u64 {
    let mut hash = Sha256::new();
    for (name, part) in parts {
        canonical::feed_text(&mut hash, b'k', name.as_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
