//! Loading: files into entries, entries into networks, listeners and policies.
//!
//! Two passes. The first reads every file of the place that wins and lists its entries, so that a reference may point
//! forward and a repeated id can name both places. The second reads each entry by its kind and then looks the references
//! up. Every error of every file is found in one load; only broken YAML ends its own file early.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::diagnostic::{Diagnostic, Findings, Severity, Source, escape};
use super::fields::Context;
use super::find::Search;
use super::placeholder::{Environment, Placeholders};
use super::settings::{DefaultNetwork, Settings};
use super::source::read_text;
use super::yaml::{self, Node, Span};
use super::{Id, Network, Policy, Service, canonical};

/// How many bytes all files of a load may have.
const MAX_TOTAL: usize = 32 << 20;

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
    /// The variables and files that its fields name, for the line of the first use: `${env:PW}`, `${file:…}`.
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
    /// Whether the settings come from a place that the user named.
    pub names_settings: bool,
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
            project: project.filter(|_| search.explicit.is_empty() || from_project),
            from_project,
            names_settings: settings_place == Some(Place::Explicit),
            owners,
            networks: BTreeMap::new(),
            services: Vec::new(),
            policies: Vec::new(),
            settings: Settings {
                file: block.as_ref().map(|(document, _)| self.sources[document.source].path.clone()),
                state_dir: search.state.clone(),
                default_network: DefaultNetwork::Unset,
                probe_endpoints: Vec::new(),
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
    pub(super) fn read(&mut self, path: &Path, required: bool) -> Option<Document> {
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
        let source = Source::new(path.to_owned(), file.text, &parsed);
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
                let message = format!("not valid YAML: {}", escape(&broken.message));
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
