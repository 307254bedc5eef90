//! Whether a registry that was found in a project is believed.
//!
//! A payload can write its project's files, and it must not choose its own way out with them. `--registry`, the user's
//! configuration folder and the system's are the user's word. A project is trusted on first use, and what was believed then
//! is kept outside every jail's reach, in `trust` below the *default* state folder (never in a `state_dir` that the project
//! itself names):
//!
//! - For each **project folder**: a hash of every entry, setting and named file that netjail acts on. When one differs,
//!   [`check`] says which. Comments, order, and the kinds that netjail passes over do not count, so a project's own work
//!   does not ask for trust again; and since the hash is taken of what *was loaded*, a file that is swapped between
//!   loading and checking gains nothing.
//! - For each **working folder**: which project it belonged to, or none. A project that appears where netjail has run
//!   without one, a nearer one than before, and one that has gone (so that the search would fall through to another
//!   registry or to direct) are changes too, not first uses.
//!
//! Beyond that, a new project *inside* a trusted one is a change (a payload of the outer one can have made it), and so is one
//! whose files belong to another user (somebody else's `/tmp/.netjail.yaml`). A new project *above* a trusted one, reached
//! from a folder where netjail never ran, is an ordinary first use.
//!
//! What this cannot know: a payload with a writable home can plant a project in a folder where netjail has never run. Its
//! first use says on a terminal where it dials.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::diagnostic::{escape, escape_path};
use super::load::Loaded;
use super::source::read_bytes;
use super::{Choice, ChosenBy, Place};

/// The largest record, in bytes.
const MAX_RECORD: u64 = 16 << 20;
/// The version of the records.
const VERSION: u32 = 1;

/// Why trust could not be looked up or kept.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The folder or a record could not be written.
    #[error(
        "trust in {folder} could not be recorded: {path}: {why}; make the folder writable, or name the registry with --registry"
    )]
    Write {
        /// The project folder, escaped.
        folder: String,
        /// What was being written, escaped.
        path: String,
        /// Why not.
        why: io::Error,
    },
}

/// Whether a registry is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The user's word, or the same as when it was allowed.
    Trusted,
    /// A project that was never used: [`remember`] it, and say [`first_use`] on a terminal.
    FirstUse(PathBuf),
    /// Not what was allowed: refuse.
    Changed(Changed),
}

/// What has changed; [`fmt::Display`](std::fmt::Display) is the whole message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the registry of {} is not the one that was allowed: {}; look at it with `netjail check`, then `netjail allow`, or name a registry with --registry", escape_path(.folder), .what.join(", "))]
pub struct Changed {
    /// The project folder, or the working folder where the project has gone.
    pub folder: PathBuf,
    /// Each difference, in words, escaped.
    pub what: Vec<String>,
}

/// Where trust is kept.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// What was believed of a project.
#[derive(Debug, Serialize, Deserialize)]
struct Believed {
    v: u32,
    /// The folder, for a reader; the file's name is what counts.
    folder: String,
    /// Hashes by name, in hexadecimal.
    items: BTreeMap<String, String>,
}

/// Which project a working folder had.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Resolved {
    v: u32,
    folder: String,
    /// The name of the project's record; `None` where there was no project.
    project: Option<String>,
}

impl Store {
    /// The store below a default state folder; see [`Search::state`](super::Search).
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join("trust") }
    }

    fn project_path(&self, folder: &Path) -> PathBuf {
        self.folder.join(format!("{}.project", key(folder)))
    }

    fn settings_path(&self, folder: &Path) -> PathBuf {
        self.folder.join(format!("{}.settings", key(folder)))
    }

    fn working_path(&self, folder: &Path) -> PathBuf {
        self.folder.join(format!("{}.folder", key(folder)))
    }

    /// A record: `Ok(None)` where there is none, `Err` where there is one that cannot be understood.
    fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, String> {
        let bytes = match read_bytes(path, MAX_RECORD) {
            Ok(bytes) => bytes,
            Err(why) if why.is_absent() => return Ok(None),
            Err(why) => {
                return Err(format!("the record of what was allowed was not read ({}: {why})", escape_path(path)));
            }
        };
        let damaged = || format!("the record of what was allowed is damaged ({})", escape_path(path));
        serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged())
    }

    /// Writes a record: a new file, flushed, then renamed over the old one.
    fn write(&self, path: &Path, record: &impl Serialize) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let found = std::fs::symlink_metadata(&self.folder)?;
        if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::other("the trust folder is not this user's own folder"));
        }
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let temporary = path.with_extension(format!("tmp-{}", hex(&random)));
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&temporary)?;
            file.write_all(&serde_json::to_vec(record).map_err(io::Error::other)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)?;
            // Without this a crash could bring the old record back.
            std::fs::File::open(&self.folder)?.sync_all()
        })();
        if written.is_err() {
            // Nothing more can be done about a file that cannot be removed.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

/// The name of a folder's record.
fn key(folder: &Path) -> String {
    hex(&Sha256::digest(folder.as_os_str().as_encoded_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is believed of a load, as it is kept.
fn items(loaded: &Loaded) -> BTreeMap<String, String> {
    match loaded.from_project {
        true => loaded.believed.iter().map(|(name, hash)| (name.clone(), hex(hash))).collect(),
        // A project without entries or settings of its own is remembered as just that.
        false => BTreeMap::new(),
    }
}

/// Looks up whether what was loaded is believed. Changes nothing.
pub fn check(store: &Store, loaded: &Loaded) -> Trust {
    if loaded.place == Some(Place::Explicit) {
        return check_settings(store, loaded);
    }
    let changed = |folder: &Path, what: Vec<String>| Trust::Changed(Changed { folder: folder.to_owned(), what });
    let project = loaded.project.as_deref();
    let here = project.unwrap_or(&loaded.cwd);
    let resolved: Option<Resolved> = match Store::read(&store.working_path(&loaded.cwd)) {
        Ok(resolved) => resolved,
        Err(why) => return changed(here, vec![why]),
    };
    if let Some(resolved) = resolved {
        match (resolved.project, project) {
            (None, None) => return Trust::Trusted,
            (None, Some(_)) => return changed(here, vec!["it has appeared where netjail has run without one".into()]),
            (Some(_), None) => return changed(here, vec!["it has gone, and another one would be used instead".into()]),
            (Some(before), Some(now)) if before != key(now) => {
                return changed(here, vec!["another project was the nearest one before".into()]);
            }
            (Some(_), Some(_)) => {}
        }
    }
    // No project here, and never one before that netjail ran in: but this may lie in a project that has gone.
    let above = here.ancestors().skip(usize::from(project.is_some()));
    let around = above.map(Path::to_owned).find(|folder| store.project_path(folder).symlink_metadata().is_ok());
    let Some(project) = project else {
        return match around {
            Some(gone) => changed(&gone, vec!["it has gone, and another one would be used instead".into()]),
            None => Trust::Trusted,
        };
    };
    let record: Option<Believed> = match Store::read(&store.project_path(project)) {
        Ok(record) => record,
        Err(why) => return changed(project, vec![why]),
    };
    let Some(record) = record else {
        let own = [0, nix::unistd::geteuid().as_raw()];
        let foreign = loaded.owners.iter().find(|owner| !own.contains(owner) && !sudo(**owner));
        return match (around, foreign) {
            (Some(outer), _) => {
                changed(project, vec![format!("it is new, and lies in {}, which is allowed", escape_path(&outer))])
            }
            (None, Some(owner)) if loaded.from_project => {
                changed(project, vec![format!("its files belong to another user (uid {owner})")])
            }
            _ => Trust::FirstUse(project.to_owned()),
        };
    };
    let what = if record.v == VERSION {
        differences(&record.items, &items(loaded))
    } else {
        vec!["it was allowed by another version of netjail".into()]
    };
    if what.is_empty() { Trust::Trusted } else { changed(project, what) }
}

/// Whether this is the user who became root by sudo(8).
fn sudo(owner: u32) -> bool {
    nix::unistd::geteuid().is_root() && std::env::var("SUDO_UID").is_ok_and(|uid| uid.parse() == Ok(owner))
}

fn differences(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let mut what = Vec::new();
    for (name, hash) in now {
        match before.get(name) {
            None => what.push(format!("{} is new", escape(name))),
            Some(old) if old != hash => what.push(format!("{} has changed", escape(name))),
            Some(_) => {}
        }
    }
    what.extend(before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{} has gone", escape(name))));
    let more = what.len().saturating_sub(10);
    what.truncate(10);
    if more > 0 {
        what.push(format!("and {more} more"));
    }
    what
}

/// A registry of the user's word with settings that were found in a project: only the settings have to be believed.
fn check_settings(store: &Store, loaded: &Loaded) -> Trust {
    let changed = |folder: &Path, what| Trust::Changed(Changed { folder: folder.to_owned(), what });
    let Some(project) = loaded.project.as_deref().filter(|_| loaded.from_project) else {
        // Settings that have gone would leave the choice to nobody.
        return match settings_around(store, loaded) {
            Some(folder) => changed(folder, vec!["its settings have gone".into()]),
            None => Trust::Trusted,
        };
    };
    match Store::read::<Believed>(&store.settings_path(project)) {
        Err(why) => changed(project, vec![why]),
        Ok(None) => Trust::FirstUse(project.to_owned()),
        Ok(Some(record)) => {
            let what = differences(&record.items, &settings_items(loaded));
            if what.is_empty() { Trust::Trusted } else { changed(project, what) }
        }
    }
}

/// The nearest folder whose settings were believed beside a registry of the user's word.
fn settings_around<'l>(store: &Store, loaded: &'l Loaded) -> Option<&'l Path> {
    loaded.cwd.ancestors().find(|folder| store.settings_path(folder).symlink_metadata().is_ok())
}

/// What is believed of the settings alone.
fn settings_items(loaded: &Loaded) -> BTreeMap<String, String> {
    let settings = ["state_dir", "default_network", "probe_endpoints"];
    items(loaded).into_iter().filter(|(name, _)| settings.contains(&name.as_str())).collect()
}

/// Records what was loaded as believed: after a first use, and for `netjail allow`.
pub fn remember(store: &Store, loaded: &Loaded) -> Result<(), TrustError> {
    let project = loaded.project.as_deref();
    let write = |path: PathBuf, record: &dyn Fn(&Path) -> io::Result<()>| {
        record(&path).map_err(|why| TrustError::Write {
            folder: escape_path(project.unwrap_or(&loaded.cwd)),
            path: escape_path(&path),
            why,
        })
    };
    let explicit = loaded.place == Some(Place::Explicit);
    if let Some(project) = project {
        let items = if explicit { settings_items(loaded) } else { items(loaded) };
        let believed = Believed { v: VERSION, folder: project.to_string_lossy().into_owned(), items };
        let record = if explicit { store.settings_path(project) } else { store.project_path(project) };
        write(record, &|path| store.write(path, &believed))?;
    }
    remember_folder(store, loaded).map_err(|why| TrustError::Write {
        folder: escape_path(project.unwrap_or(&loaded.cwd)),
        path: escape_path(&store.working_path(&loaded.cwd)),
        why,
    })
}

/// Records which project the working folder had. For every trusted run: a project that appears there later, or goes, is
/// then noticed. Writes nothing where it is known already; a failure matters only to that protection.
pub fn remember_folder(store: &Store, loaded: &Loaded) -> io::Result<()> {
    if loaded.place == Some(Place::Explicit) {
        return Ok(());
    }
    let folder = loaded.cwd.to_string_lossy().into_owned();
    let record = Resolved { v: VERSION, folder, project: loaded.project.as_deref().map(key) };
    let path = store.working_path(&loaded.cwd);
    if matches!(Store::read::<Resolved>(&path), Ok(Some(known)) if known == record) {
        return Ok(());
    }
    store.write(&path, &record)
}

/// For `netjail allow` where a project has gone on purpose: forgets it, its working folders follow by [`remember`].
pub fn forget(store: &Store, folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(store.project_path(folder)) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

/// Records the present state as allowed, whatever it is, and says so in a line.
pub fn allow(store: &Store, loaded: &Loaded) -> Result<String, TrustError> {
    if loaded.place == Some(Place::Explicit) && !loaded.from_project {
        let Some(folder) = settings_around(store, loaded) else {
            return Ok("a registry named by --registry is believed anyway: nothing to record".into());
        };
        let record = store.settings_path(folder);
        let folder = escape_path(folder);
        return match std::fs::remove_file(&record) {
            Ok(()) => Ok(format!("the settings of {folder} have gone: that is allowed")),
            Err(why) => Err(TrustError::Write { folder, path: escape_path(&record), why }),
        };
    }
    let here = loaded.project.as_deref().unwrap_or(&loaded.cwd);
    let start = usize::from(loaded.project.is_some());
    let mut gone = Vec::new();
    if loaded.project.is_none() {
        for folder in here.ancestors().skip(start) {
            if store.project_path(folder).symlink_metadata().is_ok() {
                forget(store, folder).map_err(|why| TrustError::Write {
                    folder: escape_path(folder),
                    path: escape_path(&store.project_path(folder)),
                    why,
                })?;
                gone.push(escape_path(folder));
            }
        }
    }
    remember(store, loaded)?;
    Ok(match (&loaded.project, gone.is_empty()) {
        (Some(project), _) => format!(
            "{} is allowed as it is now: networks: {}, policies: {}",
            escape_path(project),
            loaded.networks.len(),
            loaded.policies.len()
        ),
        (None, true) => format!("{} has no project registry: that is remembered", escape_path(here)),
        (None, false) => format!("the registry of {} has gone: that is allowed", gone.join(", ")),
    })
}

/// Which networks of a project are sent what it names by `${env:}` or `${file:}`, and where they dial; none where nothing
/// is. To be said at a first use whichever network is chosen: what is believed is the whole project.
pub fn secrets_sent(loaded: &Loaded) -> Option<String> {
    if !matches!(loaded.place, Some(Place::Project(_))) {
        return None;
    }
    let sent: Vec<String> = loaded
        .networks
        .values()
        .filter(|defined| !defined.secret_sources.is_empty())
        .map(|defined| {
            format!("{} sends {} to {}", defined.network.id, defined.secret_sources.join(" and "), defined.dials)
        })
        .collect();
    (!sent.is_empty()).then(|| sent.join("; "))
}

/// What a path of `allow_sockets` is without symbolic links, as far as there is anything: its server may not be up.
pub fn where_it_leads(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

/// Which sockets outside its own folder a project opens to its jails, in words; none where there are none. Whoever wrote the
/// project may mean the user's docker or session bus, behind which any program can be started outside: so that is not
/// believed at first use.
pub fn sockets_opened(loaded: &Loaded) -> Option<String> {
    let Some(Place::Project(folder)) = &loaded.place else { return None };
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
    let opened: Vec<String> = loaded
        .networks
        .values()
        .flat_map(|defined| defined.network.allow_sockets.iter().map(move |socket| (defined, where_it_leads(socket))))
        .filter(|(_, socket)| !socket.starts_with(&folder))
        .map(|(defined, socket)| format!("{} opens the socket {}", defined.network.id, escape_path(&socket)))
        .collect();
    (!opened.is_empty()).then(|| opened.join("; "))
}

/// The line for a terminal at a project's first use: where the chosen network dials and which secrets it sends there.
pub fn first_use(loaded: &Loaded, choice: &Choice) -> String {
    let folder = escape_path(loaded.project.as_deref().unwrap_or(&loaded.cwd));
    let by = match choice.by {
        ChosenBy::Request => "",
        ChosenBy::Default => ", its default,",
        ChosenBy::Nobody => ", as nothing is chosen,",
    };
    match loaded.networks.get(&choice.network.id) {
        None => format!("first use of the registry in {folder}: {}{by} dials directly", choice.network.id),
        Some(defined) => {
            let secrets = match defined.secret_sources.as_slice() {
                [] => String::new(),
                sources => format!(", sending {}", sources.join(" and ")),
            };
            format!(
                "first use of the registry in {folder}: {}{by} dials through {}{secrets}",
                defined.network.id, defined.dials
            )
        }
    }
}
