//! The registry: what the user writes, as typed entries.
//!
//! - `id`: `namespace:name`.
//! - `network`: what a `network.*` entry says, ready to be driven.
//! - `find`: where a registry is looked for, and which place wins.
//! - `load`, `listing`, `interpret`: files into entries into networks, listeners and policies; every error at once.
//! - `kinds`: what each kind of entry may say.
//! - `settings`: the block `network_service`; `endpoint`: the URLs in it.
//! - `choose`: which network a jail gets.
//! - `trust`: whether a registry that was found in a project is believed.
//! - `report`: what `check`, `networks` and `allow` print.
//!
//! Below these: `source` reads files that may be hostile, `yaml` parses them within bounds and keeps every place,
//! `fields` reads typed values, `placeholder` resolves `${env:}` and `${file:}`, `diagnostic` says what is wrong and
//! where, `mask` keeps secrets out of that, `canonical` hashes what entries say, `suggest` finds the nearest word.

mod canonical;
mod choose;
mod diagnostic;
mod endpoint;
mod fields;
mod find;
mod id;
mod interpret;
mod kinds;
mod listing;
mod load;
mod mask;
mod network;
mod placeholder;
pub mod report;
mod settings;
mod source;
mod suggest;
pub mod trust;
mod yaml;

#[cfg(test)]
mod tests;

pub use choose::{Choice, ChooseError, ChosenBy, choose, direct};
pub use diagnostic::{Diagnostic, Findings, Severity, escape, escape_path};
pub use endpoint::{BadEndpoint, Endpoint};
pub use find::{MARKERS, Search, process_environment};
pub use id::{BadId, Id};
pub use kinds::network::DEFAULT_CONNECT_TIMEOUT;
pub use kinds::security::{Condition, Effect, Operand, Policy};
pub use kinds::service::Service;
pub use load::{Defined, LoadError, Loaded, Place, load};
pub use network::{Isolation, Kind, Login, NameFamilies, Network, Secret, Socks5, Udp};
pub use placeholder::Environment;
pub use settings::{DefaultNetwork, Settings};
pub use source::ReadError;
pub use suggest::nearest;
