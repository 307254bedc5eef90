//! Settings: the block `network_service` of `.netjail.yaml` or `.wippy.yaml`, and `wippy.lock`'s source folder.

use std::path::{Path, PathBuf};

use super::diagnostic::word;
use super::fields::{Context, Fields};
use super::suggest::nearest;
use super::yaml::{Node, Span};
use super::{Endpoint, Id};

/// The files that may hold settings; the first with the block wins.
pub(super) const FILES: &[&str] = &[".netjail.yaml", ".wippy.yaml"];

/// What is used where nobody chooses a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DefaultNetwork {
    /// Nothing is said: direct, with a warning.
    #[default]
    Unset,
    /// `null` or `nil`: direct, on purpose.
    Direct,
    /// This network.
    Network(Id),
}

/// The settings of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file they come from, if any.
    pub file: Option<PathBuf>,
    /// Where networks keep their state.
    pub state_dir: PathBuf,
    /// `default_network`.
    pub default_network: DefaultNetwork,
    /// `probe_endpoints`: who `netjail probe` asks; empty for its own choice.
    pub probe_endpoints: Vec<Endpoint>,
}

/// The block as written: the network's name is looked up later.
pub(super) struct Block {
    pub state_dir: Option<PathBuf>,
    /// `Some(None)` is an explicit null.
    pub default_network: Option<Option<(String, Span)>>,
    pub probe_endpoints: Vec<Endpoint>,
}

/// The node of the block in a settings file.
pub(super) fn block(documents: &[Node]) -> Option<&Node> {
    documents.first()?.get("network_service")
}

/// Reads the block.
pub(super) fn read(cx: &mut Context<'_, '_>, node: &Node) -> Block {
    let mut block = Block { state_dir: None, default_network: None, probe_endpoints: Vec::new() };
    if node.is_null() {
        return block;
    }
    let Some(fields) = Fields::of(cx, "`network_service`", node) else { return block };
    fields.only(cx, "`network_service`", &["state_dir", "default_network", "probe_endpoints"], &[]);
    let folder = cx.source.path.parent().unwrap_or(Path::new("/")).to_owned();
    block.state_dir = fields.string(cx, "state_dir").map(|path| folder.join(path).components().collect());
    if let Some(value) = fields.raw("default_network") {
        let named = fields.reference(cx, "default_network");
        let named = named.filter(|(name, _)| !matches!(name.as_str(), "nil" | "direct"));
        // Wippy writes the empty text for "none chosen".
        let unset = value.text() == Some("") && !value.is_null();
        block.default_network = (!unset).then_some(named);
    }
    for (text, span) in fields.strings(cx, "probe_endpoints") {
        match text.parse() {
            Ok(endpoint) => block.probe_endpoints.push(endpoint),
            Err(why) => cx.error(&span, "`probe_endpoints` holds what is no endpoint", why.to_string(), ""),
        }
    }
    block
}

/// Notes or errors for what else a `.netjail.yaml` holds. `.wippy.yaml` is full of other things.
pub(super) fn others(cx: &mut Context<'_, '_>, documents: &[Node]) {
    for (key, _) in documents.iter().filter_map(Node::mapping).flatten() {
        let name = key.text().unwrap_or_default();
        match name {
            "network_service" | "version" => {}
            _ if nearest(name, ["network_service"]).is_some() => {
                let message = format!("settings have no block `{}`", word(name));
                cx.error(&key.span, message, "unknown block", "did you mean `network_service`?");
            }
            _ => cx.note(&key.span, format!("`{}` has no meaning for netjail and is passed over", word(name)), ""),
        }
    }
}

/// The source folder that a lock file names, `src` by default.
pub(super) fn source_folder(cx: &mut Context<'_, '_>, documents: &[Node]) -> PathBuf {
    let folder = cx.source.path.parent().unwrap_or(Path::new("/"));
    let named = documents.first().and_then(|node| node.get("directories")).and_then(|node| node.get("src"));
    match named.filter(|node| !node.is_null()) {
        None => folder.join("src"),
        Some(node) => match node.text() {
            // By components: `./src` leaves no `/./` in messages.
            Some(path) if !path.is_empty() && !path.contains('\0') => folder.join(path).components().collect(),
            _ => {
                let message = "`directories.src` is not a folder's path";
                cx.error(&node.span, message, "expected a path such as `./src`", "");
                folder.join("src")
            }
        },
    }
}
