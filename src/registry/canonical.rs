//! A hash of what entries say, the same for every way to write it: order of fields, comments, quotes that change nothing,
//! aliases and the file it stands in do not matter.

use sha2::{Digest as _, Sha256};

use super::yaml::{Node, Value};

/// Fields whose values are left out of a hash that others may see: a short hash of a weak password could be searched for.
const SECRETS: &[&str] = &["password", "auth_key"];

/// Feeds a tree into a hash. `public` leaves secrets out.
pub(super) fn feed(hash: &mut Sha256, node: &Node, public: bool) {
    match node.value() {
        // Quotes decide whether `null` is nothing, so null is told apart; `"9050"` and `9050` are the same port.
        Value::Scalar { .. } if node.is_null() => hash.update([b'n']),
        Value::Scalar { text, .. } => feed_text(hash, b's', text.as_bytes()),
        Value::Sequence(list) => {
            feed_length(hash, b'l', list.len());
            list.iter().for_each(|item| feed(hash, item, public));
        }
        Value::Mapping(pairs) => {
            let mut sorted: Vec<_> = pairs.iter().map(|(key, value)| (key.text().unwrap_or("\0"), value)).collect();
            sorted.sort_by_key(|(key, _)| *key);
            feed_length(hash, b'm', sorted.len());
            for (key, value) in sorted {
                feed_text(hash, b'k', key.as_bytes());
                if public && SECRETS.contains(&key) { hash.update([b'x']) } else { feed(hash, value, public) }
            }
        }
    }
}

/// Feeds a length after a letter that says of what.
fn feed_length(hash: &mut Sha256, letter: u8, length: usize) {
    hash.update([letter]);
    hash.update((length as u64).to_le_bytes());
}

/// Feeds a text with its length, so that two texts never run together.
pub(super) fn feed_text(hash: &mut Sha256, letter: u8, text: &[u8]) {
    feed_length(hash, letter, text.len());
    hash.update(text);
}

/// The hash of one entry, without the fields `passed` that nothing depends on.
pub(super) fn digest(node: &Node, public: bool, passed: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut pairs: Vec<_> = node.mapping().into_iter().flatten().collect();
    pairs.sort_by_key(|(key, _)| key.text());
    for (key, value) in pairs {
        let name = key.text().unwrap_or("\0");
        if passed.contains(&name) {
            continue;
        }
        feed_text(&mut hash, b'k', name.as_bytes());
        if !(public && SECRETS.contains(&name)) {
            feed(&mut hash, value, public);
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    fn of(text: &str, public: bool) -> [u8; 32] {
        digest(&parse(text).documents[0], public, &["meta"])
    }

    #[test]
    fn order_comments_quotes_and_aliases_do_not_matter() {
        let plain = of("a: 1\nb: [x, y]\n", false);
        assert_eq!(plain, of("# c\nb:\n  - 'x'\n  - \"y\"\na: 1 # d\n", false));
        assert_eq!(of("a: {k: v}\nb: {k: v}\n", false), of("a: &x {k: v}\nb: *x\n", false));
    }

    #[test]
    fn every_value_matters_and_nothing_runs_together() {
        let all = [
            "a: 1\nb: 2\n",
            "a: 1\nmeta: 2\nb: 3\n",
            "a: 12\nb: ''\n",
            "a: 1\n",
            "a: [1]\n",
            "a: null\n",
            "a: 'null'\n",
            "a: {1: 2}\n",
            "ab: 1\n",
        ];
        for (i, one) in all.iter().enumerate() {
            for other in &all[i + 1..] {
                assert_ne!(of(one, false), of(other, false), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn the_public_hash_does_not_depend_on_secrets() {
        assert_eq!(of("{host: h, password: a}", true), of("{host: h, password: b}", true));
        assert_ne!(of("{host: h, password: a}", false), of("{host: h, password: b}", false));
    }
}
