//! Which network a jail gets.

use super::diagnostic::{Diagnostic, escape};
use super::kinds::network::DEFAULT_CONNECT_TIMEOUT;
use super::load::Loaded;
use super::settings::DefaultNetwork;
use super::suggest::nearest;
use super::{Id, Kind, NameFamilies, Network, Udp};

/// Who chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// `--network`.
    Request,
    /// `default_network`.
    Default,
    /// Nobody.
    Nobody,
}

/// The network of a jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What to drive.
    pub network: Network,
    /// Who chose it.
    pub by: ChosenBy,
    /// Nobody chose anything, so it is direct: to be said once.
    pub warn: bool,
    /// The registry has policies. Where groups are asked for and policies are not evaluated, that is an error of the
    /// caller's: nothing may be silently ignored.
    pub policies_present: bool,
}

/// Why no network was chosen. The text is complete; exit status 125.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// No network has that name.
    #[error("network {}: it is not in the registry; {help}", escape(.name))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What to do.
        help: String,
    },
    /// Several networks have that bare name.
    #[error("network {}: several networks have that name; write one of {}", escape(.name), list(.candidates))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// All that it could mean.
        candidates: Vec<Id>,
    },
    /// This netjail cannot do what the entry says.
    #[error("network {id}: {} not built into this netjail yet; choose another network{}", what(.kind.as_deref(), .fields), remove(.fields))]
    Unbuilt {
        /// The network.
        id: Id,
        /// Its kind, if that is what is missing.
        kind: Option<String>,
        /// The fields that are missing.
        fields: Vec<String>,
    },
    /// A variable or file that it names is not there.
    #[error("network {id}: {}", .missing.iter().map(|finding| finding.to_string()).collect::<Vec<_>>().join("; "))]
    Missing {
        /// The network.
        id: Id,
        /// One for each.
        missing: Vec<Diagnostic>,
    },
}

fn list(ids: &[Id]) -> String {
    ids.iter().map(Id::to_string).collect::<Vec<_>>().join(", ")
}

fn what(kind: Option<&str>, fields: &[String]) -> String {
    let fields: Vec<String> = fields.iter().map(|field| format!("the field `{field}`")).collect();
    let parts: Vec<String> = kind.map(|kind| format!("the kind {kind}")).into_iter().chain(fields).collect();
    format!("{} {}", parts.join(" and "), if parts.len() == 1 { "is" } else { "are" })
}

fn remove(fields: &[String]) -> &'static str {
    if fields.is_empty() { "" } else { " or take the field out of the entry" }
}

/// Why a name could not be completed.
pub(super) enum Incomplete {
    Unknown(String),
    Ambiguous(Vec<Id>),
}

impl Incomplete {
    /// For the middle of a sentence.
    pub(super) fn short(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "which is not in the registry",
            Self::Ambiguous(_) => "which is the name of several networks",
        }
    }

    /// What to do.
    pub(super) fn help(&self, loaded: &Loaded) -> String {
        match self {
            Self::Ambiguous(candidates) => format!("write one of {}", list(candidates)),
            Self::Unknown(name) => {
                let ids: Vec<String> = loaded.networks.keys().map(Id::to_string).collect();
                // A bare name is compared with bare names, and so is one in a namespace that has nothing alike.
                let near_bare = |given: &str| {
                    let names = loaded.networks.keys().map(Id::name).chain(["nil"]);
                    let bare = nearest(given, names).filter(|_| !given.is_empty())?;
                    let id = loaded.networks.keys().find(|id| id.name() == bare);
                    Some(id.map_or_else(|| bare.to_owned(), Id::to_string))
                };
                let near = match name.rsplit_once(':') {
                    Some((_, bare)) => nearest(name, ids.iter().map(String::as_str))
                        .map(str::to_owned)
                        .or_else(|| near_bare(bare).filter(|id| id != "nil")),
                    None => near_bare(name),
                };
                match near {
                    Some(id) if ids.is_empty() => format!("did you mean {id}? (the registry has no networks)"),
                    Some(id) => format!("did you mean {id}? (there are: {})", shortened(&ids)),
                    None if ids.is_empty() => "the registry has no networks".into(),
                    None => format!("there are: {}", shortened(&ids)),
                }
            }
        }
    }
}

fn shortened(ids: &[String]) -> String {
    let more = ids.len().saturating_sub(20);
    let shown = ids[..ids.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// The id of a network by its full or, where only one fits, bare name.
pub(super) fn complete(loaded: &Loaded, name: &str) -> Result<Id, Incomplete> {
    if name.contains(':') {
        let id = name.parse::<Id>().ok().filter(|id| loaded.networks.contains_key(id));
        return id.ok_or_else(|| Incomplete::Unknown(name.to_owned()));
    }
    let mut candidates: Vec<Id> = loaded.networks.keys().filter(|id| id.name() == name).cloned().collect();
    match (candidates.pop(), candidates.is_empty()) {
        (Some(id), true) => Ok(id),
        (None, _) => Err(Incomplete::Unknown(name.to_owned())),
        (Some(last), false) => {
            candidates.push(last);
            Err(Incomplete::Ambiguous(candidates))
        }
    }
}

/// The network that dials from the host itself.
pub fn direct() -> Network {
    Network {
        id: Id::direct(),
        kind: Kind::Direct,
        names: NameFamilies::Both,
        connect_timeout: DEFAULT_CONNECT_TIMEOUT,
        udp: Udp::Carry,
        allow_sockets: Vec::new(),
        unbuilt: Vec::new(),
    }
}

/// The network for `--network REQUESTED`, or for no such option.
pub fn choose(loaded: &Loaded, requested: Option<&str>) -> Result<Choice, ChooseError> {
    let choice = |network, by| Choice {
        network,
        by,
        warn: by == ChosenBy::Nobody,
        policies_present: !loaded.policies.is_empty(),
    };
    let (id, by) = match (requested, &loaded.settings.default_network) {
        (Some("nil" | "direct" | "netjail:direct"), _) => return Ok(choice(direct(), ChosenBy::Request)),
        (Some(name), _) => {
            let id = complete(loaded, name).map_err(|why| match why {
                Incomplete::Ambiguous(candidates) => ChooseError::Ambiguous { name: name.to_owned(), candidates },
                unknown @ Incomplete::Unknown(_) => {
                    ChooseError::Unknown { name: name.to_owned(), help: unknown.help(loaded) }
                }
            })?;
            (id, ChosenBy::Request)
        }
        (None, DefaultNetwork::Network(id)) => (id.clone(), ChosenBy::Default),
        (None, DefaultNetwork::Direct) => return Ok(choice(direct(), ChosenBy::Default)),
        (None, DefaultNetwork::Unset) => return Ok(choice(direct(), ChosenBy::Nobody)),
    };
    let Some(defined) = loaded.networks.get(&id) else {
        let help =
            "it is the default network of the settings; name another one with --network, or change default_network"
                .to_owned();
        return Err(ChooseError::Unknown { name: id.to_string(), help });
    };
    let kind = match &defined.network.kind {
        Kind::Unbuilt(kind) => Some(kind.clone()),
        _ => None,
    };
    if kind.is_some() || !defined.network.unbuilt.is_empty() {
        return Err(ChooseError::Unbuilt { id, kind, fields: defined.network.unbuilt.clone() });
    }
    if !defined.missing.is_empty() {
        return Err(ChooseError::Missing { id, missing: defined.missing.clone() });
    }
    Ok(choice(defined.network.clone(), by))
}
