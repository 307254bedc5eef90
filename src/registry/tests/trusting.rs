//! A payload writes its project's files and must not choose its own way out.

use super::trust::{Changed, Store, Trust};
use super::*;

impl World {
    fn store(&self) -> Store {
        Store::new(&self.path("state"))
    }

    fn trust_in(&self, cwd: &str) -> Trust {
        trust::check(&self.store(), &load(&self.search(cwd), &environment).unwrap())
    }

    fn trust(&self) -> Trust {
        self.trust_in("project")
    }

    /// A run that is let through, as the caller would do it.
    fn run_in(&self, cwd: &str) {
        let loaded = load(&self.search(cwd), &environment).unwrap();
        match trust::check(&self.store(), &loaded) {
            Trust::Trusted => trust::remember_folder(&self.store(), &loaded).unwrap(),
            Trust::FirstUse(_) => trust::remember(&self.store(), &loaded).unwrap(),
            Trust::Changed(changed) => panic!("{changed}"),
        }
    }

    fn used() -> Self {
        let world = Self::new();
        world.entries(TOR).write("project/.netjail.yaml", "network_service: {default_network: tor}\n");
        world.run_in("project");
        world
    }
}

fn what(trust: Trust) -> String {
    match trust {
        Trust::Changed(changed @ Changed { .. }) => changed.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_use_is_recorded_and_the_same_again_is_trusted() {
    let world = World::new();
    world.entries(TOR);
    assert_eq!(world.trust(), Trust::FirstUse(world.path("project")));
    assert_eq!(world.trust(), Trust::FirstUse(world.path("project")), "looking changes nothing");
    world.run_in("project");
    assert_eq!(world.trust(), Trust::Trusted);
    world.entries(&format!("  # a comment\n{TOR}  - {{name: p, kind: process.lua}}\n"));
    assert_eq!(world.trust(), Trust::Trusted, "what netjail does not act on does not count");
}

fn write(world: &World, name: &str, text: &str) {
    world.write(&format!("project/{name}"), text);
}

fn registry(entries: &str) -> String {
    format!("version: \"1.0\"\nnamespace: app\nentries:\n{entries}")
}

#[test]
fn every_change_of_what_netjail_acts_on_is_refused_and_named() {
    const POLICY: &str =
        "  - {name: p, kind: security.policy, policy: {actions: '*', resources: '*', effect: allow}}\n";
    type Change = fn(&World);
    let changes: [(Change, &str); 7] = [
        (|w| write(w, "src/_index.yaml", &registry(&TOR.replace("9050", "9051"))), "app:tor has changed"),
        (
            |w| write(w, "src/_index.yaml", &registry(&TOR.replace("9050", "9050, username: u, password: p"))),
            "app:tor has changed",
        ),
        (
            |w| write(w, "src/_index.yaml", &registry(&format!("{TOR}  - {{name: x, kind: network.i2p}}\n"))),
            "app:x is new",
        ),
        (|w| write(w, "src/_index.yaml", &registry(&format!("{TOR}{POLICY}"))), "app:p is new"),
        (|w| write(w, ".netjail.yaml", "network_service: {default_network: null}\n"), "default_network has changed"),
        (|w| write(w, ".netjail.yaml", "network_service: {default_network: tor, state_dir: x}\n"), "state_dir is new"),
        (|w| std::fs::remove_file(w.path("project/.netjail.yaml")).unwrap(), "default_network has gone"),
    ];
    for (change, expected) in changes {
        let world = World::used();
        change(&world);
        let said = what(world.trust());
        assert!(said.contains(expected) && said.contains("netjail allow"), "{said}");
        trust::allow(&world.store(), &world.good()).unwrap();
        assert_eq!(world.trust(), Trust::Trusted);
    }
}

#[test]
fn a_changed_secret_is_refused_without_being_named() {
    let world = World::new();
    let entry =
        |pw: &str| format!("  - {{name: a, kind: network.socks5, host: h, port: 1, username: u, password: '{pw}'}}\n");
    world.entries(&entry("${file:pw}")).write("project/src/pw", "one\n");
    world.run_in("project");
    world.write("project/src/pw", "two\n");
    assert!(what(world.trust()).contains("src/pw has changed"));
    world.entries(&entry("hunter2"));
    assert!(!what(world.trust()).contains("hunter2"));
}

#[test]
fn a_settings_state_folder_never_holds_the_trust() {
    let world = World::used();
    world.write("project/.netjail.yaml", "network_service: {default_network: tor, state_dir: mine}\n");
    assert!(what(world.trust()).contains("state_dir"));
}

#[test]
fn a_project_that_goes_does_not_fall_through_to_another_way_out() {
    let world = World::used();
    world.write("user/_index.yaml", format!("namespace: app\nentries:\n{TOR}"));
    std::fs::create_dir(world.path("project/sub")).unwrap();
    std::fs::remove_dir_all(world.path("project/src")).unwrap();
    std::fs::remove_file(world.path("project/.netjail.yaml")).unwrap();
    assert!(what(world.trust()).contains("has gone"));
    assert!(what(world.trust_in("project/sub")).contains("has gone"), "nor from a folder where netjail never ran");
    let said = trust::allow(&world.store(), &load(&world.search("project"), &environment).unwrap()).unwrap();
    assert!(said.contains("has gone"), "{said}");
    assert_eq!((world.trust(), world.trust_in("project/sub")), (Trust::Trusted, Trust::Trusted));
}

#[test]
fn a_nearer_project_inside_a_trusted_one_is_a_change_and_not_a_first_use() {
    let world = World::used();
    world.write("project/sub/src/_index.yaml", format!("namespace: app\nentries:\n{TOR}"));
    assert!(what(world.trust_in("project/sub")).contains("lies in"));
    let inner = load(&world.search("project/sub"), &environment).unwrap();
    trust::allow(&world.store(), &inner).unwrap();
    assert_eq!((world.trust_in("project/sub"), world.trust()), (Trust::Trusted, Trust::Trusted));
}

#[test]
fn a_project_that_appears_where_netjail_ran_without_one_is_a_change() {
    let world = World::new();
    std::fs::create_dir_all(world.path("project/deep")).unwrap();
    world.run_in("project/deep");
    world.write("project/.netjail.yaml", "network_service: {default_network: null}\n");
    assert!(what(world.trust_in("project/deep")).contains("appeared"), "above it");
    std::fs::remove_file(world.path("project/.netjail.yaml")).unwrap();
    world.write("project/deep/.netjail.yaml", "network_service: {default_network: null}\n");
    assert!(what(world.trust_in("project/deep")).contains("appeared"), "in it");
}

#[test]
fn a_project_that_moves_nearer_is_a_change() {
    let world = World::new();
    world.entries(TOR).write("project/sub/x", "");
    world.run_in("project/sub");
    world.write("project/sub/wippy.lock", "");
    assert!(what(world.trust_in("project/sub")).contains("nearest"));
}

#[test]
fn the_users_own_word_needs_no_trust() {
    let world = World::new();
    world.write("user/_index.yaml", format!("namespace: app\nentries:\n{TOR}"));
    assert_eq!(world.trust(), Trust::Trusted);
    let mut search = world.search("project");
    search.explicit = vec![world.path("user/_index.yaml")];
    let loaded = load(&search, &environment).unwrap();
    assert_eq!(trust::check(&world.store(), &loaded), Trust::Trusted);
    assert!(!world.path("state").exists(), "nothing is written for it");
}

#[test]
fn another_users_project_is_not_believed_at_first_use() {
    let world = World::new();
    world.entries(TOR);
    let mut loaded = world.good();
    loaded.owners.insert(54_321);
    assert!(what(trust::check(&world.store(), &loaded)).contains("uid 54321"));
}

#[test]
fn records_are_private_and_a_damaged_one_is_a_refusal() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::used();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let folder = world.path("state/trust");
    assert_eq!(mode(&folder), 0o700);
    let records: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(records.len(), 2, "no temporary file stays: {records:?}");
    for record in &records {
        assert_eq!(mode(record), 0o600);
        let kept = std::fs::read(record).unwrap();
        std::fs::write(record, &kept[..kept.len() / 2]).unwrap();
        assert!(what(world.trust()).contains("damaged"));
        std::fs::remove_file(record).unwrap();
        nix::unistd::mkfifo(record, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(what(world.trust()).contains("not read"));
        std::fs::remove_file(record).unwrap();
        std::fs::write(record, &kept).unwrap();
    }
    assert_eq!(world.trust(), Trust::Trusted);
}

#[test]
fn the_first_use_says_where_it_dials_and_what_it_sends() {
    let world = World::new();
    world.entries("  - {name: a, kind: network.socks5, host: h, port: 1, username: u, password: '${env:PW}'}\n");
    let loaded = world.good();
    let line = trust::first_use(&loaded, &choose(&loaded, Some("a")).unwrap());
    assert!(line.contains("app:a dials through SOCKS5 proxy h:1, sending ${env:PW}"), "{line}");
    assert!(trust::first_use(&loaded, &choose(&loaded, None).unwrap()).contains("directly"));
}

#[test]
fn settings_beside_an_explicit_registry_are_believed_once_and_their_change_or_end_is_refused() {
    let world = World::new();
    world.write("mine/_index.yaml", registry(TOR));
    let settings = |text: &str| world.write("project/.netjail.yaml", text);
    settings("network_service: {default_network: app:tor}\n");
    let mut search = world.search("project");
    search.explicit = vec![world.path("mine")];
    let look = || load(&search, &environment).unwrap();
    assert_eq!(trust::check(&world.store(), &look()), Trust::FirstUse(world.path("project")));
    trust::remember(&world.store(), &look()).unwrap();
    assert_eq!(trust::check(&world.store(), &look()), Trust::Trusted);
    settings("network_service: {default_network: null}\n");
    assert!(what(trust::check(&world.store(), &look())).contains("default_network"));
    std::fs::remove_file(world.path("project/.netjail.yaml")).unwrap();
    assert!(what(trust::check(&world.store(), &look())).contains("have gone"));
    trust::allow(&world.store(), &look()).unwrap();
    assert_eq!(trust::check(&world.store(), &look()), Trust::Trusted);
}

#[test]
fn a_socket_of_a_project_is_believed_with_the_place_that_it_leads_to() {
    let world = World::new();
    let listed = |sockets: &str| {
        world
            .entries(&format!("  - {{name: a, kind: network.socks5, host: h, port: 1, allow_sockets: [{sockets}]}}\n"));
    };
    let opened = || trust::sockets_opened(&load(&world.search("project"), &environment).unwrap());
    listed("own.sock");
    assert_eq!(opened(), None, "its own folder");
    world.run_in("project");
    assert_eq!(world.trust(), Trust::Trusted);
    // What a payload of the first run could do: the second would open the user's agent.
    let agent = world.path("agent").canonicalize().unwrap_or_else(|_| world.path("agent"));
    world.write("agent", "");
    std::os::unix::fs::symlink(&agent, world.path("project/src/own.sock")).unwrap();
    assert!(what(world.trust()).contains("own.sock"), "{:?}", world.trust());
    assert!(opened().unwrap().contains("/agent"));
    std::fs::remove_file(world.path("project/src/own.sock")).unwrap();
    assert_eq!(world.trust(), Trust::Trusted);
    listed(agent.to_str().unwrap());
    assert!(what(world.trust()).contains("/agent"));
    assert!(opened().unwrap().contains("app:a opens the socket /"));
}
