//! Before there is a jail: the registry is loaded, believed or not, and the network chosen.

use std::fmt::Display;
use std::fs::File;
use std::io::{IsTerminal, Seek, Write, stderr, stdin};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{host, sockets};
use crate::control::channel::Channel;
use crate::control::messages::{FrontToWarden, HostView, Prepared, Refusal, RelaySetup, WardenToFront};
use crate::control::rundir;
use crate::escape::escape;
use crate::log::sink::Sink;
use crate::names::resolv;
use crate::overlay;
use crate::policy::{OwnAddress, Table};
use crate::registry::{self, Kind, LoadError, Loaded, Network, Search, trust};
use crate::roles::RunOptions;

/// The network of a jail and what was read to choose it.
#[derive(Debug)]
pub struct Chosen {
    /// What to drive.
    pub network: Network,
    /// The registry's generation.
    pub generation: u64,
    /// The jail's name.
    pub jail: String,
    /// Where control sockets are.
    pub run_folder: PathBuf,
    /// `-v`.
    pub verbose: bool,
    /// `-q`.
    pub quiet: bool,
    options: Options,
    secret_variables: Vec<String>,
    secret_files: Vec<PathBuf>,
    hidden_folders: Vec<PathBuf>,
    /// Unix sockets of the host that the jail may connect to.
    pub sockets: Vec<PathBuf>,
    addresses: Vec<OwnAddress>,
    host: HostView,
}

#[derive(Debug)]
struct Options {
    allow_lan: bool,
    mtu: u16,
    hostname: String,
}

fn refuse(e: impl Display) -> Refusal {
    Refusal(e.to_string())
}

/// Loads the registry, makes sure that it is believed, and chooses.
pub fn choose(options: &RunOptions, front: &Channel<WardenToFront, FrontToWarden>) -> Result<Chosen, Refusal> {
    let say = |text: String| {
        let _ = front.send(&WardenToFront::Say(text));
    };
    let search = Search::from_environment(options.registries.clone())
        .map_err(|e| Refusal(format!("the working folder can not be found: {e}; change to a folder that exists")))?;
    let loaded = registry::load(&search, &registry::process_environment).map_err(|LoadError(findings)| {
        let text = registry::report::errors(&findings, registry::report::colour(&stderr()));
        Refusal(format!("the registry can not be used, so nothing was started\n\n{}", text.trim_end()))
    })?;
    let choice = registry::choose(&loaded, options.network.as_deref()).map_err(refuse)?;
    believe(&search, &loaded, &choice, options, front)?;
    if let Some(group) = options.groups.first() {
        // Without a group no policy applies to a jail; with one it would be ignored, which nobody may believe to be kept.
        return Err(Refusal(format!(
            "--group {group}: policies are not evaluated by this netjail yet; run without groups"
        )));
    }
    if options.verbose {
        loaded.notes.iter().for_each(|note| say(note.render(registry::report::colour(&stderr()))));
    }
    if choice.warn && !options.quiet {
        say("no network was chosen (--network, default_network): connections are dialled directly from this host"
            .into());
    }

    let run_folder = rundir::path(&search.state);
    let jail = match &options.name {
        Some(name) => name.clone(),
        None => rundir::invent_name(&options.command[0].to_string_lossy()),
    };
    // Made if they do not exist, so that no jail can make them; but for the system's, which no jail could.
    let mut hidden_folders = vec![search.user, search.state, loaded.settings.state_dir.clone(), run_folder.clone()];
    // Where netjail looks when XDG_CONFIG_HOME and XDG_STATE_HOME are not set as they are now.
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    hidden_folders
        .extend(home.iter().flat_map(|home| [home.join(".config/netjail"), home.join(".local/state/netjail")]));
    hidden_folders.extend(Some(search.system).filter(|folder| folder.exists()));
    let sockets = sockets::opened(options, &choice.network)?;
    let mut chosen = Chosen {
        network: choice.network,
        generation: loaded.generation,
        jail,
        run_folder,
        verbose: options.verbose,
        quiet: options.quiet,
        options: Options { allow_lan: options.allow_lan, mtu: options.mtu, hostname: options.hostname.clone() },
        secret_variables: loaded.secret_env.into_iter().collect(),
        secret_files: loaded.secret_files.into_iter().collect(),
        hidden_folders,
        sockets,
        addresses: Vec::new(),
        host: HostView::default(),
    };
    chosen.read_host().map_err(|e| {
        Refusal(format!("the host's own addresses, which a jail must not reach, can not be read: {e}; choose another network, or allow netlink sockets here"))
    })?;
    Ok(chosen)
}

/// A project's registry is believed if it is the one that was believed before, or the first one that is seen there.
fn believe(
    search: &Search,
    loaded: &Loaded,
    choice: &registry::Choice,
    options: &RunOptions,
    front: &Channel<WardenToFront, FrontToWarden>,
) -> Result<(), Refusal> {
    let store = trust::Store::new(&search.state);
    match trust::check(&store, loaded) {
        trust::Trust::Trusted => {
            // A failure only matters to a protection that notices projects which appear later.
            let _ = trust::remember_folder(&store, loaded);
            Ok(())
        }
        trust::Trust::FirstUse(folder) if trust::sockets_opened(loaded).is_some() => {
            let opened = trust::sockets_opened(loaded).unwrap_or_default();
            let first = format!("first use of the registry in {}: {opened}", escape(&folder.to_string_lossy()));
            if asked(front, format!("{first}; go on and allow it?")) {
                return trust::remember(&store, loaded).map_err(refuse);
            }
            Err(Refusal(format!(
                "{first}; that is not done unasked: if it is meant, say `netjail allow` in that folder"
            )))
        }
        trust::Trust::FirstUse(folder) => {
            // A project that somebody else wrote may send the user's own keys to a proxy that it names: that is said
            // whoever listens.
            if let Some(sent) = trust::secrets_sent(loaded) {
                let folder = escape(&folder.to_string_lossy()).into_owned();
                let _ = front.send(&WardenToFront::Say(format!("first use of the registry in {folder}: {sent}")));
            } else if stderr().is_terminal() && !options.quiet {
                let _ = front.send(&WardenToFront::Say(trust::first_use(loaded, choice)));
            }
            trust::remember(&store, loaded).map_err(refuse)
        }
        trust::Trust::Changed(changed) => {
            let question = format!("{changed}\nnetjail: {}; go on and allow it?", trust::first_use(loaded, choice));
            if asked(front, question) { trust::remember(&store, loaded).map_err(refuse) } else { Err(refuse(changed)) }
        }
    }
}

/// Whether there is a person at a terminal who says yes.
fn asked(front: &Channel<WardenToFront, FrontToWarden>, question: String) -> bool {
    stdin().is_terminal()
        && stderr().is_terminal()
        && front.send(&WardenToFront::Ask(question)).is_ok()
        && matches!(front.receive(), Ok((FrontToWarden::Answer(true), _)))
}

/// Opens the log that was asked for.
pub fn open_log(options: &RunOptions, chosen: &Chosen) -> Result<Option<Sink>, Refusal> {
    options.log.as_deref().map(|path: &Path| Sink::open(path, &chosen.jail).map_err(refuse)).transpose()
}

impl Chosen {
    /// What front and init must know.
    pub fn prepared(&self) -> Prepared {
        Prepared {
            network: self.network.id.clone(),
            names: self.network.names,
            secret_variables: self.secret_variables.clone(),
            secret_files: self.secret_files.clone(),
            hidden_folders: self.hidden_folders.clone(),
            sockets: self.sockets.clone(),
        }
    }

    /// What the relay must know.
    pub fn relay_setup(&self, workers: usize) -> RelaySetup {
        RelaySetup {
            network: self.network.clone(),
            table: self.table(),
            hostname: self.options.hostname.clone(),
            workers: u16::try_from(workers).unwrap_or(u16::MAX),
            mtu: self.options.mtu,
            host: self.host.clone(),
        }
    }

    /// The text of the host's hosts file in memory; empty on networks that do not answer with real addresses.
    pub fn hosts_file(&self) -> std::io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("netjail-hosts", MFdFlags::MFD_CLOEXEC)?);
        if self.is_direct() {
            file.write_all(host::read_text("/etc/hosts").as_bytes())?;
            file.rewind()?;
        }
        Ok(file.into())
    }

    /// The host's names and resolvers, as they were read last.
    pub fn host(&self) -> HostView {
        self.host.clone()
    }

    /// This generation's rules.
    pub fn table(&self) -> Table {
        Table {
            generation: self.generation,
            network: self.network.id.clone(),
            direct: self.is_direct(),
            allow_lan: self.options.allow_lan,
            host: self.addresses.clone(),
        }
    }

    fn is_direct(&self) -> bool {
        matches!(self.network.kind, Kind::Direct)
    }

    /// Reads the host's addresses, hosts file and resolvers (again). Where the addresses can not be read, all is left as it was.
    pub fn read_host(&mut self) -> std::io::Result<()> {
        if !self.is_direct() {
            return Ok(());
        }
        let resolvers = resolv::resolvers(host::read_text("/etc/resolv.conf").as_bytes());
        self.addresses = overlay::direct::host_addresses()?;
        self.host = HostView {
            name: nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            resolvers: resolvers.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect(),
        };
        Ok(())
    }
}
