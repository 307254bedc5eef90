//! What loads, and what it becomes.

use std::time::Duration;

use super::*;

#[test]
fn a_wippy_project_loads_unchanged() {
    let cwd = fixture("wippy").join("src/api").canonicalize().unwrap();
    let nowhere = PathBuf::from("/nonexistent");
    let search = Search { cwd, explicit: vec![], user: nowhere.clone(), system: nowhere.clone(), state: nowhere };
    let environment = |name: &str| (name == "TS_AUTHKEY").then(|| OsString::from("tskey-x"));
    let loaded = load(&search, &environment).unwrap_or_else(|LoadError(f)| panic!("{}", report::errors(&f, false)));
    assert_eq!(loaded.entries, 20);
    let ids: Vec<String> = loaded.networks.keys().map(Id::to_string).collect();
    assert_eq!(ids, ["app.net:i2p_bridge", "app.net:old_tailnet", "app.net:proxy", "app.net:tailnet", "app.net:tor"]);
    assert_eq!(loaded.settings.default_network, DefaultNetwork::Network(id("app.net:tor")));
    assert!(loaded.settings.state_dir.ends_with("wippy/.wippy/net"));
    assert_eq!(loaded.secret_env.iter().collect::<Vec<_>>(), ["TS_AUTHKEY"]);
    let gateway = loaded.services.iter().find(|s| s.id == id("app:gateway")).unwrap();
    assert_eq!((gateway.network.clone(), gateway.auto_start), (Some(id("app.net:tailnet")), true));
    let policy = |name: &str| loaded.policies.iter().find(|p| p.id == id(name)).unwrap();
    assert_eq!(policy("app.security:general").groups, [id("app.security:user"), id("app.security:untrusted")]);
    assert_eq!(policy("app.security:forbid_registry").conditions.len(), 3);
    let expression = policy("app.security:flexible");
    assert!(expression.expression && expression.effect == Effect::Deny, "what cannot be evaluated denies");
    assert!(loaded.notes.iter().any(|n| n.message.contains("process.lua")), "passed over with a note");
    assert!(loaded.notes.iter().any(|n| n.message.contains("lifecycle") || n.message.contains("meta")));
    assert!(loaded.notes.iter().any(|n| n.message.contains("security.policy.expr")));
    let report = report::check(&Ok(loaded), false);
    assert_eq!(report.status, 0, "{}", report.text);
}

#[test]
fn a_socks5_entry_with_all_its_fields() {
    let world = World::new();
    world.entries(
        "  - name: a\n    kind: network.socks5\n    host: proxy.example\n    port: 1080\n    username: u\n    password: ${env:PW}\n    isolate_streams: false\n    connect_timeout: 1m30s\n    names: both\n    udp: refuse\n  - name: b\n    kind: network.socks5\n    host: \"::1\"\n    port: \"9050\"\n    isolate_streams: jail\n",
    );
    let loaded = world.good();
    let a = &loaded.networks[&id("app:a")].network;
    let login = Some(Login { username: "u".into(), password: Secret::new("hunter2".into()) });
    let socks5 = Socks5 { host: "proxy.example".into(), port: 1080, login, isolate: Isolation::Off };
    assert_eq!(a.kind, Kind::Socks5(socks5));
    assert_eq!((a.connect_timeout, a.names, a.unbuilt.len()), (Duration::from_secs(90), NameFamilies::Both, 0));
    let b = &loaded.networks[&id("app:b")];
    assert!(matches!(&b.network.kind, Kind::Socks5(s) if s.isolate == Isolation::Jail && s.port == 9050));
    assert_eq!((b.network.names, b.network.connect_timeout), (NameFamilies::V4, DEFAULT_CONNECT_TIMEOUT));
    assert_eq!(b.dials, "SOCKS5 proxy [::1]:9050");
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn the_kinds_and_fields_of_the_design_load_and_are_marked_as_unbuilt() {
    let world = World::new();
    world.entries(&format!(
        "{TOR}  - {{name: ts, kind: network.tailscale, hostname: n, auth_key_env: K, state_dir: s, control_url: 'https://c', ephemeral: true, exit_node: e, accept_routes: false, control_ca: ca.pem}}\n  - {{name: i2p, kind: network.i2p}}\n  - {{name: web, kind: network.http, host: squid, port: 3128, username: u, password: '${{env:PW}}', tls: true, via: tor}}\n  - name: split\n    kind: network.route\n    rules:\n      - {{match: '*.corp.example', network: app:ts}}\n      - {{match: [10.0.0.0/8], ports: ['22', 80-90], network: deny}}\n    default: app:tor\n  - {{name: chained, kind: network.socks5, host: h, port: 1, via: app:tor, dns: 9.9.9.9, udp: associate, allow_sockets: [/run/x]}}\n"
    ));
    let loaded = world.good();
    for name in ["ts", "i2p", "web", "split"] {
        let network = &loaded.networks[&id(&format!("app:{name}"))].network;
        assert!(matches!(network.kind, Kind::Unbuilt(_)), "{name}");
    }
    assert_eq!(loaded.networks[&id("app:chained")].network.unbuilt, ["via", "dns"]);
}

#[test]
fn sockets_of_a_network_are_paths_from_the_folder_of_the_file() {
    let world = World::new();
    world.entries(
        "  - {name: a, kind: network.socks5, host: h, port: 1, allow_sockets: [run/x, '${env:PW}/y', /z]}\n  - {name: b, kind: network.socks5, host: h, port: 1, allow_sockets: /one}\n",
    );
    let loaded = world.good();
    let folder = world.path("project/src");
    let expected = [folder.join("run/x"), folder.join("hunter2/y"), "/z".into()];
    assert_eq!(loaded.networks[&id("app:a")].network.allow_sockets, expected);
    assert_eq!(loaded.networks[&id("app:b")].network.allow_sockets, [PathBuf::from("/one")]);
    assert!(loaded.networks.values().all(|defined| defined.network.unbuilt.is_empty()));
    let text = crate::registry::report::networks(&loaded).text;
    assert!(text.contains(&format!("opens {}, ", expected[0].display())) && text.contains("opens /one"), "{text}");
    let json = crate::registry::report::networks_json(&loaded).text;
    assert!(json.contains("\"allow_sockets\":[\"/one\"]"), "{json}");
    let text = crate::registry::report::check(&Ok(loaded), false).text;
    assert!(text.contains("app:b opens the unix socket /one\n"), "{text}");
    world.entries("  - {name: a, kind: network.socks5, host: h, port: 1, allow_sockets: [{x: y}, '~/s']}\n");
    let errors = world.errors();
    assert!(errors.len() == 2 && errors[1].contains("${env:HOME}"), "{errors:?}");
}

#[test]
fn the_nearest_place_with_entries_wins_and_nothing_merges() {
    let world = World::new();
    let registry = |name: &str| {
        format!("namespace: app\nentries:\n  - {{name: {name}, kind: network.socks5, host: h, port: 1}}\n")
    };
    let names = || world.good().networks.keys().map(|id| id.name().to_owned()).collect::<Vec<_>>();
    world.write("system/_index.yaml", registry("system"));
    assert_eq!(names(), ["system"]);
    world.write("user/net/_index.yaml", registry("user"));
    assert_eq!(names(), ["user"]);
    world.write("project/wippy.lock", "directories: {src: ./lib}\n");
    assert_eq!(names(), ["user"], "a project without entries is passed over");
    world.write("project/lib/_index.yaml", registry("project"));
    assert_eq!(names(), ["project"]);
    let mut search = world.search("project");
    search.explicit = vec![world.path("system/_index.yaml"), world.path("user")];
    let loaded = load(&search, &environment).unwrap();
    assert_eq!(loaded.networks.keys().map(Id::name).collect::<Vec<_>>(), ["system", "user"]);
    assert_eq!(loaded.place, Some(Place::Explicit));
}

#[test]
fn a_broken_project_is_not_passed_over_for_the_next_place() {
    let world = World::new();
    world.write("user/_index.yaml", format!("namespace: app\nentries:\n{TOR}"));
    world.write("project/src/_index.yaml", "namespace: [\n");
    assert!(world.load().is_err());
    std::fs::remove_file(world.path("project/src/_index.yaml")).unwrap();
    nix::unistd::mkfifo(&world.path("project/src/_index.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(world.errors()[0].contains("a FIFO"));
    std::fs::remove_file(world.path("project/src/_index.yaml")).unwrap();
    std::os::unix::fs::symlink("/nowhere", world.path("project/.netjail.yaml")).unwrap();
    assert!(world.errors()[0].contains("link to nowhere"));
}

#[test]
fn the_first_settings_file_with_the_block_wins() {
    let world = World::new();
    world.entries(TOR);
    world.write("project/.wippy.yaml", "network_service: {state_dir: b, default_network: app:tor}\n");
    assert_eq!(world.good().settings.state_dir, world.path("project/b"));
    world.write("project/.netjail.yaml", "# nothing here\n");
    assert_eq!(world.good().settings.state_dir, world.path("project/b"));
    world.write("project/.netjail.yaml", "network_service: {state_dir: /a, default_network: null}\n");
    let settings = world.good().settings;
    assert_eq!((settings.state_dir, settings.default_network), (PathBuf::from("/a"), DefaultNetwork::Direct));
    world.write("project/.netjail.yaml", "network_service: {}\n");
    let settings = world.good().settings;
    assert_eq!((settings.state_dir, settings.default_network), (world.path("state"), DefaultNetwork::Unset));
}

#[test]
fn settings_are_found_beside_an_explicit_registry_but_for_a_folders_own() {
    let world = World::new();
    world.write("project/.netjail.yaml", "network_service: {default_network: app:tor, state_dir: /elsewhere}\n");
    world.write("mine/_index.yaml", format!("namespace: app\nentries:\n{TOR}"));
    let mut search = world.search("project");
    search.explicit = vec![world.path("mine")];
    let loaded = load(&search, &environment).unwrap();
    assert_eq!(loaded.settings.default_network, DefaultNetwork::Network(id("app:tor")));
    assert!(loaded.from_project, "so that the settings have to be believed");
    world.write("mine/.netjail.yaml", "network_service: {default_network: null}\n");
    assert_eq!(load(&search, &environment).unwrap().settings.default_network, DefaultNetwork::Direct);
}

#[test]
fn a_default_that_an_explicit_registry_lacks_is_an_error_only_where_nothing_else_is_chosen() {
    let world = World::new();
    world.write("project/.netjail.yaml", "network_service: {default_network: app:other}\n");
    world.write("mine/_index.yaml", format!("namespace: app\nentries:\n{TOR}"));
    let mut search = world.search("project");
    search.explicit = vec![world.path("mine")];
    let loaded = load(&search, &environment).unwrap();
    assert!(crate::registry::choose(&loaded, Some("app:tor")).is_ok());
    assert!(crate::registry::choose(&loaded, None).is_err(), "never direct instead");
}

#[test]
fn secrets_that_are_not_there_matter_only_to_their_network() {
    let world = World::new();
    world.entries(&format!(
        "{TOR}  - {{name: a, kind: network.socks5, host: h, port: 1, username: u, password: '${{env:NONE}}'}}\n  - {{name: b, kind: network.socks5, host: h, port: 1, username: u, password: '${{file:none}}'}}\n"
    ));
    let loaded = world.good();
    assert!(choose(&loaded, Some("tor")).is_ok());
    let why = choose(&loaded, Some("a")).unwrap_err().to_string();
    assert!(why.contains("`password`") && why.contains("`NONE` is not set") && why.contains("_index.yaml:5:"), "{why}");
    let why = choose(&loaded, Some("b")).unwrap_err().to_string();
    assert!(why.contains("project/src/none"), "{why}");
    assert!(loaded.secret_env.contains("NONE"), "hidden from the jail even where it is not set");
    let report = report::check(&Ok(loaded), false);
    assert_eq!(report.status, 1);
    assert!(report.text.contains("${env:NONE}"), "{}", report.text);
}

#[test]
fn a_secret_written_inline_is_noted_once() {
    let world = World::new();
    world.entries(
        "  - {name: a, kind: network.socks5, host: h, port: 1, username: u, password: hunter2}\n  - {name: b, kind: network.socks5, host: h, port: 1, username: u, password: hunter2}\n",
    );
    let loaded = world.good();
    let notes: Vec<_> = loaded.notes.iter().filter(|n| n.help.contains("${env:NAME}")).collect();
    assert_eq!(notes.len(), 1);
    assert!(!notes[0].render(false).contains("hunter2"), "{}", notes[0].render(false));
}

#[test]
fn the_generation_is_the_same_for_every_way_to_write_it() {
    let world = World::new();
    let of = |entries: &str| world.entries(entries).good().generation;
    let plain = of(TOR);
    assert_eq!(
        plain,
        of(
            "  # a comment\n  - port: 9050\n    host: \"127.0.0.1\"\n    kind: network.socks5\n    name: tor\n  - {name: p, kind: process.lua}\n"
        )
    );
    assert_ne!(plain, of(&TOR.replace("9050", "9051")));
    world.write("project/.netjail.yaml", "network_service: {default_network: app:tor}\n");
    assert_ne!(plain, of(TOR));
}

#[test]
fn a_file_without_a_version_is_of_the_first_one() {
    let world = World::new();
    world.write("project/src/_index.yaml", format!("namespace: app\nentries:\n{TOR}"));
    assert!(world.good().networks.contains_key(&id("app:tor")));
    world.write("project/src/_index.yaml", format!("version: \"2.0\"\nnamespace: app\nentries:\n{TOR}"));
    assert!(world.errors()[0].contains("version `2.0`"));
}

#[test]
fn a_named_folder_without_a_registry_file_is_an_error() {
    let world = World::new();
    std::fs::create_dir(world.path("empty")).unwrap();
    let mut search = world.search("project");
    search.explicit = vec![world.path("empty")];
    let LoadError(findings) = load(&search, &environment).unwrap_err();
    let text = report::errors(&findings, false);
    assert!(text.contains("no `_index.yaml` in it or below"), "{text}");
    world.write("empty/_index.yaml", "");
    assert!(load(&search, &environment).is_ok(), "a file that is empty was at least there");
}

#[test]
fn a_path_of_a_lock_file_is_shown_without_its_dots() {
    let world = World::new();
    world.write("project/wippy.lock", "directories: {src: ./lib/.}\n");
    world.write("project/lib/_index.yaml", "version: \"2.0\"\nnamespace: app\nentries: []\n");
    assert!(world.errors()[0].contains("/project/lib/_index.yaml:1:"), "{:?}", world.errors());
}

#[test]
fn a_variable_that_is_empty_is_told_from_one_that_is_not_set() {
    let world = World::new();
    world.entries("  - {name: a, kind: network.socks5, host: h, port: 1, username: u, password: '${env:EMPTY}'}\n");
    let empty = |name: &str| (name == "EMPTY").then(OsString::new);
    let loaded = load(&world.search("project"), &empty).unwrap();
    let missing = &loaded.networks[&id("app:a")].missing;
    assert!(missing[0].message.contains("`EMPTY` is set, but empty"), "{missing:?}");
}

#[test]
fn the_endpoints_of_probe_are_read_checked_and_believed() {
    let world = World::new();
    world.entries(TOR);
    world.write("project/.netjail.yaml", "network_service: {probe_endpoints: ['https://a.test/']}\n");
    let loaded = world.good();
    assert_eq!(loaded.settings.probe_endpoints, ["https://a.test/".parse().unwrap()]);
    assert!(loaded.believed.contains_key("probe_endpoints"), "a change of it is a change of what is believed");
    world.write("project/.netjail.yaml", "network_service: {probe_endpoints: ['http://a.test/']}\n");
    assert!(world.errors()[0].contains("begins with https://"), "{:?}", world.errors());
}
