//! Whatever the files hold, a load ends soon, holds little and does not panic.

use proptest::prelude::*;

use super::*;

fn processor_time() -> std::time::Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn survive(text: &[u8]) -> String {
    let world = World::new();
    world.write("project/src/_index.yaml", text).write("project/.netjail.yaml", text).write("project/wippy.lock", text);
    let started = processor_time();
    let loaded = world.load();
    let report = report::check(&loaded, false);
    serde_json::from_str::<serde_json::Value>(&report::check_json(&loaded, None).text).unwrap();
    if let Err(LoadError(findings)) = &loaded {
        assert!(!findings.errors.is_empty() && findings.errors.len() <= 200);
    }
    if let Ok(loaded) = &loaded {
        for name in loaded.networks.keys() {
            let _ = choose(loaded, Some(&name.to_string()));
        }
        trust::check(&trust::Store::new(&world.path("state")), loaded);
    }
    assert!(report.text.len() < 1 << 20 && !report.text.contains('\u{1b}'));
    // Of the processor, not the wall: a loaded machine must not decide. What grows with the square takes many minutes here.
    assert!(processor_time() - started < std::time::Duration::from_secs(60));
    report.text + &format!("{loaded:?}")
}

#[test]
fn large_and_deep_files_end_soon() {
    let many = format!("namespace: app\nentries:\n{}", "  - {name: x, kind: network.x}\n".repeat(15_000));
    survive(many.as_bytes());
    let one_line = format!("{{namespace: app, entries: [{}]}}", "{name: x, kind: network.x, a: 1},".repeat(15_000));
    survive(one_line.as_bytes());
    survive(format!("namespace: app\nentries: {}", "[".repeat(1 << 20)).as_bytes());
    survive(format!("namespace: {}", "a".repeat(3 << 20)).as_bytes());
    survive("? ".repeat(1 << 16).as_bytes());
    survive(format!("a: \"{}", "\\".repeat(1 << 20)).as_bytes());
    survive(&vec![b'x'; 5 << 20]);
    survive("- &a [*a]\n".repeat(1000).as_bytes());
}

/// A piece of the fixture's text or of YAML's syntax.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,8}",
        prop::sample::select(vec![
            "\n",
            "\n  - ",
            "\n    ",
            ": ",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ",",
            "&a ",
            "*a",
            "!t ",
            "|\n",
            ">\n",
            "\"",
            "'",
            "#",
            "---\n",
            "...\n",
            "%YAML 1.2\n",
            "\t",
            "\r\n",
            "? ",
            "<<: ",
            "${env:",
            "${file:",
            "}",
            "\u{feff}",
            "\u{0}",
            "\u{85}",
        ])
        .prop_map(str::to_owned),
        prop::sample::select(vec![
            "namespace: app\n",
            "entries:\n",
            "name: x\n",
            "kind: network.socks5\n",
            "host: h\n",
            "port: 1\n",
            "password: p\n",
            "network_service:\n",
            "default_network: x\n",
            "directories: {src: .}\n",
            "kind: security.policy\n",
            "policy:\n",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    // 256 cases; PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survive(&bytes);
    }

    #[test]
    fn random_pieces_of_yaml_never_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        survive(pieces.concat().as_bytes());
    }

    #[test]
    fn a_mutated_registry_never_panics_and_never_shows_its_secret(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, piece()), 1..6),
    ) {
        let mut text = String::from(
            "version: \"1.0\"\nnamespace: app\nentries:\n  - name: tor\n    kind: network.socks5\n    host: h\n    port: 1\n    username: u\n    password: hunter2-hunter2\n  - {name: b, kind: network.i2p, port: 7}\n",
        );
        for (at, remove, insert) in changes {
            let at = at.index(text.len() + 1);
            let at = (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap();
            let end = (at..=(at + remove).min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap();
            text.replace_range(at..end, &insert);
        }
        let report = survive(text.as_bytes());
        if text.contains("\n    password: hunter2-hunter2\n") {
            prop_assert!(!report.contains("hunter2"), "{report}\nof {text}");
        }
    }
}
