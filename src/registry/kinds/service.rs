//! `http.service` entries: a server's listener. Wippy runs the server; netjail looks at the overlay it wants to be bound
//! through.

use super::network::Reference;
use crate::registry::Id;
use crate::registry::fields::{Context, Fields};

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its id.
    pub id: Id,
    /// The address as written: `:8080`.
    pub addr: String,
    /// The network it is bound through, if it names one.
    pub network: Option<Id>,
    /// Whether it starts by itself.
    pub auto_start: bool,
}

/// Reads one entry; the network's name is looked up later.
pub(in crate::registry) fn read(
    cx: &mut Context<'_, '_>,
    id: &Id,
    fields: &Fields<'_>,
) -> (Service, Option<Reference>) {
    let addr = fields.get("addr").and_then(|node| node.text()).unwrap_or_default().to_owned();
    let reference = fields
        .get("network")
        .and_then(|node| Some((node.text()?, node)))
        .filter(|(to, _)| !to.is_empty() && !matches!(*to, "nil" | "direct"))
        .map(|(to, node)| Reference { to: to.to_owned(), field: "network", span: node.span.clone() });
    if let Some(node) = fields.get("network").filter(|node| node.text().is_none()) {
        let message = format!("`network` of {} is {}", fields.owner, node.describe());
        fields.wrong(cx, "network", message, "expected the id of a network", "");
    }
    let auto_start = fields
        .get("lifecycle")
        .and_then(|node| node.get("auto_start"))
        .and_then(|node| node.text())
        .is_some_and(|text| text.eq_ignore_ascii_case("true"));
    if reference.is_some() && addr.is_empty() {
        fields.require(cx, "addr", "the address to listen on, such as `:8080`");
    }
    cx.note(
        &fields.span,
        format!("{} is passed over but for its network: its server is not netjail's", fields.owner),
        "",
    );
    (Service { id: id.clone(), addr, network: None, auto_start }, reference)
}
