//! The second pass of a load: each entry by its kind, then the references between them.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest as _, Sha256};

use super::Place;
use super::diagnostic::{Diagnostic, Severity, word};
use super::fields::Fields;
use super::kinds::network::{self, Reference};
use super::kinds::{security, service};
use super::load::{Defined, Loaded, Loader};
use super::placeholder;
use super::settings::{self, DefaultNetwork};
use super::suggest::{hint, nearest};
use super::yaml::{Node, Span};
use super::{Id, Kind, canonical, trust};

/// Hashes by name; see [`canonical`].
type Hashes = BTreeMap<String, [u8; 32]>;

/// A reference and who makes it.
struct Pending {
    from: Id,
    source: usize,
    reference: Reference,
    /// Its place in `services`, where a listener makes it.
    service: Option<usize>,
}

impl Loader<'_> {
    /// Fills `loaded` from the listed entries.
    pub(super) fn interpret(&mut self, loaded: &mut Loaded, generation: &mut Hashes) {
        let entries = std::mem::take(&mut self.entries);
        for entry in entries.iter().filter(|entry| entry.kind == "env.variable") {
            let variable = entry.node.get("variable").and_then(Node::text).unwrap_or(entry.id.name());
            self.placeholders.variables.insert(entry.id.to_string(), variable.to_owned());
        }
        let mut first: HashMap<&Id, usize> = HashMap::new();
        let mut pending = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            if let Some(&earlier) = first.get(&entry.id) {
                let (here, there) = (&self.sources[entry.source], &self.sources[entries[earlier].source]);
                self.findings.error(|| {
                    Diagnostic::at(
                        Severity::Error,
                        here,
                        entry.name_span.clone(),
                        format!("{} is defined twice", entry.id),
                    )
                    .expected("second time")
                    .help("rename one of the two, or remove it")
                    .related(there, entries[earlier].name_span.clone(), "first time")
                });
                continue;
            }
            first.insert(&entry.id, index);
            let id = &entry.id;
            let mut cx = self.context(entry.source);
            let Some(mut fields) = Fields::of(&mut cx, &id.to_string(), &entry.node) else { continue };
            fields.span = entry.name_span.clone();
            match entry.kind.as_str() {
                kind if network::KINDS.contains(&kind) => {
                    if network::RESERVED.contains(&id.name()) {
                        let message = format!("`{}` has a meaning of its own where a network is named", id.name());
                        fields.wrong(&mut cx, "name", message, "expected another name", "");
                    }
                    let read = network::read(&mut cx, id, kind, &fields);
                    let missing = std::mem::take(&mut cx.missing);
                    let (line, column) = cx.source.place(entry.name_span.start);
                    let location = format!("{}:{line}:{column}", super::diagnostic::escape_path(&cx.source.path));
                    let mut secret_sources: Vec<String> = fields.texts().flat_map(placeholder::sources).collect();
                    let variable = fields.get("auth_key_env").and_then(Node::text);
                    secret_sources.extend(variable.map(|name| format!("${{env:{}}}", word(name))));
                    pending.extend(read.references.into_iter().map(|reference| Pending {
                        from: id.clone(),
                        source: entry.source,
                        reference,
                        service: None,
                    }));
                    loaded.believed.insert(id.to_string(), canonical::digest(&entry.node, false, network::PASSED));
                    generation.insert(id.to_string(), canonical::digest(&entry.node, true, network::PASSED));
                    for socket in &read.network.allow_sockets {
                        // Where it leads is believed too: a jail that can write its folder could put a link there.
                        let name = format!("the socket {} of {id}", socket.display());
                        let leads = trust::where_it_leads(socket);
                        loaded.believed.insert(name, Sha256::digest(leads.as_os_str().as_encoded_bytes()).into());
                    }
                    let defined = Defined {
                        network: read.network,
                        kind: kind.to_owned(),
                        dials: read.dials,
                        location,
                        secret_sources,
                        missing,
                    };
                    loaded.networks.insert(id.clone(), defined);
                }
                kind if kind == "network" || kind.starts_with("network.") => {
                    let message = format!("there is no kind `{}`", word(kind));
                    cx.error(&entry.kind_span, message, "unknown kind of network", hint(kind, network::KINDS));
                }
                kind if security::KINDS.contains(&kind) => {
                    if let Some(policy) = security::read(&mut cx, id, kind, &fields) {
                        loaded.policies.push(policy);
                    }
                    loaded.believed.insert(id.to_string(), canonical::digest(&entry.node, false, network::PASSED));
                    generation.insert(id.to_string(), canonical::digest(&entry.node, true, network::PASSED));
                }
                kind if kind.starts_with("security.") && !security::HARMLESS.contains(&kind) => {
                    let message = format!("there is no kind `{}`", word(kind));
                    cx.error(&entry.kind_span, message, "unknown kind of policy", hint(kind, security::KINDS));
                }
                "http.service" => {
                    let (service, reference) = service::read(&mut cx, id, &fields);
                    let index = loaded.services.len();
                    if let Some(reference) = reference {
                        let said = format!("{} {} {}", service.addr, reference.to, service.auto_start);
                        loaded.believed.insert(id.to_string(), Sha256::digest(&said).into());
                        generation.insert(id.to_string(), Sha256::digest(&said).into());
                        pending.push(Pending {
                            from: id.clone(),
                            source: entry.source,
                            reference,
                            service: Some(index),
                        });
                    }
                    loaded.services.push(service);
                }
                kind => {
                    let known = network::KINDS.iter().chain(security::KINDS).copied().chain(["http.service"]);
                    let help = nearest(kind, known).map(|word| format!("did you mean `{word}`?")).unwrap_or_default();
                    let message = format!("netjail has no use for the kind `{}` and passes {id} over", word(kind));
                    cx.note(&entry.kind_span, message, help);
                }
            }
        }
        self.link(loaded, pending);
    }

    /// Looks the references up.
    fn link(&mut self, loaded: &mut Loaded, pending: Vec<Pending>) {
        let mut edges: BTreeMap<Id, Vec<(Id, usize, Span)>> = BTreeMap::new();
        for Pending { from, source, reference, service } in pending {
            let Some(to) = self.find(loaded, source, &from.to_string(), Some(from.namespace()), &reference) else {
                continue;
            };
            match service {
                Some(index) => {
                    let socks =
                        loaded.networks.get(&to).is_some_and(|defined| matches!(defined.network.kind, Kind::Socks5(_)));
                    let auto_start = loaded.services[index].auto_start;
                    let mut cx = self.context(source);
                    if socks && auto_start {
                        let message = format!("{from} listens through {to}, which is outbound only");
                        let help =
                            "name a network that can listen (network.tailscale, network.i2p), or remove `network`";
                        cx.error(&reference.span, message, "a SOCKS5 proxy accepts no connections from outside", help);
                    } else if socks {
                        let message = format!("{from} names {to}, which is outbound only: it can not be started");
                        cx.note(&reference.span, message, "");
                    }
                    loaded.services[index].network = Some(to);
                }
                None => edges.entry(from).or_default().push((to, source, reference.span)),
            }
        }
        self.refuse_circles(&edges);
    }

    /// A network that leads through itself would never dial.
    fn refuse_circles(&mut self, edges: &BTreeMap<Id, Vec<(Id, usize, Span)>>) {
        for (start, first) in edges {
            for (next, source, span) in first {
                let mut seen = std::collections::BTreeSet::new();
                let mut todo = vec![next];
                while let Some(at) = todo.pop() {
                    if seen.insert(at) {
                        todo.extend(edges.get(at).into_iter().flatten().map(|(to, ..)| to));
                    }
                }
                if seen.contains(start) {
                    let message = format!("{start} leads back to itself");
                    self.context(*source).error(span, message, "expected a network that does not lead back here", "");
                }
            }
        }
    }

    /// The network that a reference means; a bare name belongs to `namespace`, or to the only network of that name.
    fn find(
        &mut self,
        loaded: &Loaded,
        source: usize,
        owner: &str,
        namespace: Option<&str>,
        reference: &Reference,
    ) -> Option<Id> {
        let own = namespace.and_then(|namespace| Id::new(namespace, &reference.to).ok());
        if let Some(id) = own.filter(|id| loaded.networks.contains_key(id)) {
            return Some(id);
        }
        match super::choose::complete(loaded, &reference.to) {
            Ok(id) => Some(id),
            Err(why) => {
                let message =
                    format!("`{}` of {owner} names {}, {}", reference.field, word(&reference.to), why.short());
                let help = why.help(loaded);
                self.context(source).error(&reference.span, message, "expected the id of a network", help);
                None
            }
        }
    }

    /// Settles the settings.
    pub(super) fn apply_settings(&mut self, loaded: &mut Loaded, source: usize, node: &Node, generation: &mut Hashes) {
        let mut cx = self.context(source);
        let block = settings::read(&mut cx, node);
        let missing = std::mem::take(&mut cx.missing);
        for finding in missing {
            self.findings.error(|| finding);
        }
        if let Some(path) = block.state_dir {
            loaded.believed.insert("state_dir".into(), Sha256::digest(path.as_os_str().as_encoded_bytes()).into());
            loaded.settings.state_dir = path;
        }
        if !block.probe_endpoints.is_empty() {
            let said = format!("{:?}", block.probe_endpoints);
            loaded.believed.insert("probe_endpoints".into(), Sha256::digest(&said).into());
            loaded.settings.probe_endpoints = block.probe_endpoints;
        }
        if let Some(chosen) = block.default_network {
            let default = match chosen {
                None => DefaultNetwork::Direct,
                Some((to, span)) => {
                    let reference = Reference { to, field: "default_network", span };
                    // Settings found beside a registry named by --registry may speak of another one; that matters only where
                    // nothing else is chosen, and then it is an error, never a direct connection.
                    let elsewhere = loaded.place == Some(Place::Explicit) && !loaded.names_settings;
                    match reference.to.parse::<Id>() {
                        Ok(id) if elsewhere && !loaded.networks.contains_key(&id) => DefaultNetwork::Network(id),
                        _ => match self.find(loaded, source, "`network_service`", None, &reference) {
                            Some(id) => DefaultNetwork::Network(id),
                            None => return,
                        },
                    }
                }
            };
            let said = format!("{default:?}");
            loaded.believed.insert("default_network".into(), Sha256::digest(&said).into());
            generation.insert("default_network".into(), Sha256::digest(&said).into());
            loaded.settings.default_network = default;
        }
    }
}
