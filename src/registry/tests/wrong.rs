//! What is wrong is said where it stands, all of it at once, and without a secret.

use super::*;

#[test]
fn all_errors_of_all_files_are_found_at_once() {
    let world = World::new();
    world.entries(
        "  - {name: a, kind: network.sock5, host: h, port: 1}\n  - {name: b, kind: network.socks5, host: h, port: 65536}\n  - {name: c, kind: network.socks5, hots: h, port: 1}\n  - {name: d, kind: network.socks5, host: h, port: 1, via: app:bb}\n",
    );
    world.write("project/src/x/_index.yaml", "namespace: app\nentries:\n  - {name: b, kind: process.lua}\n  - {name: e, kind: security.policy, policy: {actions: '*', resource: '*', effect: alow}}\n");
    world.write("project/src/y/_index.yaml", "namespace: app\nentries: [\n");
    world.write("project/.netjail.yaml", "network_service:\n  default_netwrok: app:tor\n");
    let errors = world.errors();
    let expected = [
        (".netjail.yaml:2:3", "did you mean `default_network`?"),
        ("src/_index.yaml:4:21", "did you mean `network.socks5`?"),
        ("src/_index.yaml:5:52", "1 to 65535"),
        ("src/_index.yaml:6:12", "needs the field `host`"),
        ("src/_index.yaml:6:37", "did you mean `host`?"),
        ("src/_index.yaml:7:60", "did you mean app:b?"),
        ("src/x/_index.yaml:3:12", "defined twice"),
        ("src/x/_index.yaml:3:12", "src/_index.yaml:5:12 (rename"),
        ("src/x/_index.yaml:4:", "did you mean `resources`?"),
        ("src/x/_index.yaml:4:", "`allow` or `deny`"),
        ("src/y/_index.yaml:", "not valid YAML"),
    ];
    for (place, what) in expected {
        assert!(errors.iter().any(|e| e.contains(place) && e.contains(what)), "no {place} {what} in {errors:#?}");
    }
}

#[test]
fn each_mistake_is_named() {
    let entry = |fields: &str| format!("  - {{name: n, kind: network.socks5, {fields}}}\n");
    for (entries, what) in [
        (entry("host: h, port: 0"), "1 to 65535"),
        (entry("host: h, port: -1"), "1 to 65535"),
        (entry("host: h, port: 1e3"), "1 to 65535"),
        (entry("host: h, port: [1]"), "expected a text"),
        (entry("host: 'h:1', port: 1"), "is not a host"),
        (entry("host: 0x7f.1, port: 1"), "is not a host"),
        (entry("host: h, port: 1, isolate_streams: yes"), "`false` or `true` or `jail`"),
        (entry("host: h, port: 1, isolate_streams: true, username: u"), "both `isolate_streams` and `username`"),
        (entry("host: h, port: 1, isolate_streams: jail, username: '${env:NONE}'"), "both `isolate_streams` and `username`"),
        (entry("host: h, port: 1, password: p"), "no `username`"),
        (entry(&format!("host: h, port: 1, username: {}", "u".repeat(256))), "at most 255 bytes"),
        (entry("host: h, port: 1, connect_timeout: 30"), "is not a time"),
        (entry("host: h, port: 1, connect_timeout: 0s"), "is not a time"),
        (entry("host: h, port: 1, names: v6"), "`v4` or `both`"),
        (entry("host: h, port: 1, data: {host: h}"), "without `data:`"),
        (entry("host: h, port: 1, [a]: b"), "a field whose name is a list"),
        (entry("host: h, port: 1, 5: b"), "no field `5`"),
        (entry("host: !include h, port: 1"), "has a tag"),
        (entry("host: h, host: i, port: 1"), "given twice"),
        (entry("host: h, port: 1, via: app:n"), "leads back to itself"),
        (entry("host: h, port: 1, via: 'no:such'"), "not in the registry"),
        (entry("host: '${HOST}', port: 1"), "unknown placeholder"),
        (entry("host: h, port: 1, via: '${env:PW}'"), "names ${env:PW}, which is not"),
        ("  - {name: direct, kind: network.i2p}\n".into(), "a meaning of its own"),
        ("  - {name: 'a b', kind: network.i2p}\n".into(), "is not a name"),
        ("  - {kind: network.i2p}\n".into(), "needs the field `name`"),
        ("  - {name: x}\n".into(), "needs the field `kind`"),
        ("  - hello\n".into(), "an entry is a text"),
        ("  - {name: x, kind: network.tailscale, hostname: ../../etc, auth_key: k}\n".into(), "not a host's name"),
        ("  - {name: x, kind: network.tailscale, hostname: h}\n".into(), "`auth_key` or `auth_key_env`"),
        ("  - {name: x, kind: network.route, rules: [{match: a, network: deny}]}\n".into(), "needs the field `default`"),
        ("  - {name: x, kind: network.route, default: app:none}\n".into(), "not in the registry"),
        ("  - {name: x, kind: security.polcy}\n".into(), "did you mean `security.policy`?"),
        ("  - {name: x, kind: security.policy}\n".into(), "needs the field `policy`"),
        ("  - {name: x, kind: security.policy, policy: {actions: [], resources: '*', effect: allow}}\n".into(), "empty list"),
        ("  - {name: x, kind: security.policy, policy: {actions: '*', resources: '*', effect: allow, conditions: [{field: f, operator: equals, value: 1}]}}\n".into(), "is not an operator"),
        ("  - {name: x, kind: http.service, addr: ':1', network: app:none}\n".into(), "not in the registry"),
        (format!("{TOR}  - {{name: x, kind: http.service, addr: ':1', network: app:tor, lifecycle: {{auto_start: true}}}}\n"), "outbound only"),
    ] {
        let errors = World::new().entries(&entries).errors();
        assert!(errors.iter().any(|e| e.contains(what)), "{entries} should say {what:?}, says {errors:#?}");
    }
}

#[test]
fn each_mistake_of_a_file_is_named() {
    for (text, what) in [
        ("entries: []\n", "needs the field `namespace`"),
        ("namespace: netjail\nentries: []\n", "netjail's own"),
        ("namespace: netjail.x\nentries: []\n", "netjail's own"),
        ("namespace: 'a b'\nentries: []\n", "is not a namespace"),
        ("version: \"2.0\"\nnamespace: app\nentries: []\n", "version `2.0`"),
        ("namespace: app\nentrys: []\n", "did you mean `entries`?"),
        ("namespace: app\nentries: {a: b}\n", "`entries` is a mapping"),
        ("hello\n", "a registry file is a text"),
        ("namespace: app\nentries:\n\t- name: x\n", "indent with spaces"),
        ("namespace: app\nentries: [\n", "not valid YAML: unclosed bracket"),
        ("namespace: app\nentries: *x\n", "not valid YAML"),
    ] {
        let world = World::new();
        world.write("project/src/_index.yaml", text);
        let errors = world.errors();
        assert!(errors.iter().any(|e| e.contains(what)), "{text:?} should say {what:?}, says {errors:#?}");
    }
    for harmless in
        ["", "\u{feff}", "# c\n", "---\n", "namespace: app\nentries:\n", "\u{feff}namespace: app\r\nentries: []\r\n"]
    {
        let world = World::new();
        world.write("project/src/_index.yaml", harmless);
        assert_eq!(world.errors(), Vec::<String>::new(), "{harmless:?}");
    }
    let world = World::new();
    world.write("project/src/_index.yaml", b"namespace: \xff\n");
    assert!(world.errors()[0].contains("not UTF-8"));
    let mut search = world.search("project");
    search.explicit = vec![world.path("none.yaml")];
    let LoadError(findings) = load(&search, &environment).unwrap_err();
    assert!(findings.errors[0].to_string().contains("none.yaml: error: the file was not read"), "{findings:?}");
}

#[test]
fn a_finding_has_the_compilers_look() {
    let world = World::new();
    world.entries("  - name: tor\n    kind: network.socks5\n    host: 127.0.0.1\n    port: 90500\n");
    let LoadError(findings) = world.load().unwrap_err();
    let text = report::errors(&findings, false);
    let path = world.path("project/src/_index.yaml");
    let expected = format!(
        "error: `port` of app:tor is not a port\n --> {}:7:11\n  |\n7 |     port: 90500\n  |           ^^^^^ expected a number from 1 to 65535\n\n1 error\n",
        path.display()
    );
    assert_eq!(text, expected);
    assert!(report::errors(&findings, true).contains('\u{1b}'));
}

#[test]
fn the_place_is_that_of_the_file_where_the_excerpt_is_masked_and_escaped() {
    let world = World::new();
    world.entries("  - {name: n, kind: network.socks5, password: hunter2, host: \"\u{202e}\", username: u, port: x}\n");
    let LoadError(findings) = world.load().unwrap_err();
    let port = findings.errors.iter().find(|e| e.message.contains("`port`")).unwrap();
    assert_eq!(port.place, Some((4, 86)));
    let text = port.render(false);
    let lines: Vec<&str> = text.lines().collect();
    let column = |line: &str, c| line.chars().position(|found| found == c);
    assert!(text.contains("_index.yaml:4:86") && text.contains("\\u{202e}"), "{text}");
    assert_eq!(column(lines[4], '^'), column(lines[3], 'x').filter(|_| !lines[3].contains("hunter2")), "{text}");
}

#[test]
fn no_finding_shows_a_secret_or_a_control_character() {
    let secret = "hunter2";
    for entries in [
        "  - {name: a, kind: network.socks5, host: h, port: x, username: u, password: hunter2}\n".to_owned(),
        "  - {name: a, kind: network.socks5, host: h, port: 1, username: u, pasword: hunter2}\n".to_owned(),
        "  - {name: a, kind: network.socks5, host: h, port: 1, password: hunter2}\n".to_owned(),
        "  - {name: a, kind: network.socks5, host: h, port: 1, username: u, password: [hunter2]}\n".to_owned(),
        "  - {name: a, kind: network.socks5, host: h, port: 1, username: u, password: '${hunter2}'}\n".to_owned(),
        "  - {name: a, kind: network.socks5, host: h, port: 1, username: u, password: '${env:NONE|hunter2}', x: 1}\n"
            .to_owned(),
        "  - name: a\n    kind: network.tailscale\n    hostname: h\n    auth_key: hunter2: x\n".to_owned(),
        "  - name: a\n    kind: network.tailscale\n    hostname: h\n    auth_key: \"hunter2\n".to_owned(),
        "  - name: a\n    kind: network.tailscale\n    hostname: h\n    auth_key:\n      - hunter2\n     - x\n"
            .to_owned(),
        "  - {name: a, kind: network.tailscale, hostname: h, auth_key: &k hunter2, exit_node: {x: *k}}\n".to_owned(),
        format!(
            "  - {{name: a, kind: network.socks5, host: h, port: 1, username: u, password: {}}}\n",
            secret.repeat(60)
        ),
    ] {
        let world = World::new();
        world.entries(&entries);
        let LoadError(findings) = world.load().expect_err(&entries);
        let text = report::errors(&findings, false) + &format!("{findings:?}");
        assert!(!text.contains(secret), "{text}");
    }
    let world = World::new();
    world.entries("  - {name: \"a\\e[31m\", kind: \"network.\\e]0;x\\u202e\", host: h}\n  - {name: b, kind: network.i2p, \u{9b}31m: 1, \u{202e}: 2}\n");
    for error in world.load().unwrap_err().0.errors {
        let text = error.render(false) + &error.to_string();
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text:?}");
    }
}
