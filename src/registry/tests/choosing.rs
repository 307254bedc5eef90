//! Which network a jail gets.

use super::*;

fn world() -> Loaded {
    let world = World::new();
    world.entries(&format!("{TOR}  - {{name: ts, kind: network.tailscale, hostname: n, auth_key_env: K}}\n  - {{name: v, kind: network.socks5, host: h, port: 1, via: tor}}\n"));
    world.write(
        "project/src/b/_index.yaml",
        "namespace: app.b\nentries:\n  - {name: twin, kind: network.socks5, host: h, port: 1}\n",
    );
    world.write(
        "project/src/c/_index.yaml",
        "namespace: app.c\nentries:\n  - {name: twin, kind: network.socks5, host: h, port: 1}\n",
    );
    world.good()
}

#[test]
fn a_name_is_completed_only_where_one_fits() {
    let loaded = world();
    assert_eq!(choose(&loaded, Some("tor")).unwrap().network.id, id("app:tor"));
    assert_eq!(choose(&loaded, Some("app.b:twin")).unwrap().network.id, id("app.b:twin"));
    let why = choose(&loaded, Some("twin")).unwrap_err().to_string();
    assert!(why.contains("app.b:twin, app.c:twin"), "{why}");
}

#[test]
fn an_unknown_name_gets_the_nearest_one_and_the_list() {
    for (asked, near) in [("app:tro", "app:tor"), ("twn", "app.b:twin"), ("xyz", "app.c:twin")] {
        let why = choose(&world(), Some(asked)).unwrap_err().to_string();
        assert!(why.contains(near) && why.contains("there are: app"), "{why}");
    }
    let why = choose(&world(), Some("\u{1b}[31m")).unwrap_err().to_string();
    assert!(!why.contains('\u{1b}'));
}

#[test]
fn what_is_not_built_yet_is_an_error_that_names_it() {
    let why = choose(&world(), Some("ts")).unwrap_err().to_string();
    assert!(why.contains("network.tailscale") && why.contains("not built"), "{why}");
    let why = choose(&world(), Some("v")).unwrap_err().to_string();
    assert!(why.contains("`via`") && why.contains("not built"), "{why}");
}

#[test]
fn choosing_nothing_is_the_default_network_or_direct_with_a_warning() {
    let mut loaded = world();
    let choice = choose(&loaded, None).unwrap();
    assert_eq!((choice.network.kind, choice.warn, choice.by), (Kind::Direct, true, ChosenBy::Nobody));
    let choice = choose(&loaded, Some("nil")).unwrap();
    assert_eq!((choice.network.kind, choice.warn), (Kind::Direct, false));
    loaded.settings.default_network = DefaultNetwork::Network(id("app:tor"));
    assert_eq!(choose(&loaded, None).unwrap().network.id, id("app:tor"));
    assert_eq!(choose(&loaded, Some("nil")).unwrap().network.kind, Kind::Direct);
    loaded.settings.default_network = DefaultNetwork::Direct;
    let choice = choose(&loaded, None).unwrap();
    assert_eq!((choice.network.kind, choice.warn), (Kind::Direct, false));
}

#[test]
fn policies_are_never_forgotten() {
    let world = World::new();
    world.entries(TOR);
    assert!(!choose(&world.good(), Some("tor")).unwrap().policies_present);
    world.entries(&format!(
        "{TOR}  - {{name: p, kind: security.policy, policy: {{actions: '*', resources: '*', effect: deny}}}}\n"
    ));
    assert!(choose(&world.good(), Some("tor")).unwrap().policies_present);
}

#[test]
fn the_table_marks_the_default_and_shows_no_secret() {
    let world = World::new();
    world.entries(&format!(
        "{TOR}  - {{name: a, kind: network.socks5, host: h, port: 1, username: u, password: hunter2}}\n"
    ));
    world.write("project/.netjail.yaml", "network_service: {default_network: tor}\n");
    let loaded = world.good();
    let text = report::networks(&loaded).text;
    assert!(text.contains("*  app:tor"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&report::networks_json(&loaded).text).unwrap();
    assert_eq!((&json[1]["id"], &json[1]["default"]), (&"app:tor".into(), &true.into()));
    let check = report::check_json(&Ok(loaded), None).text;
    serde_json::from_str::<serde_json::Value>(&check).unwrap();
    assert!(!text.contains("hunter2") && !check.contains("hunter2") && !json.to_string().contains("hunter2"));
}
