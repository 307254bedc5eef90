//! The nearest valid word.

/// The word of `known` that a person most likely meant by `given`, if any is near enough.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing costs the product of both lengths: what is too long to be a slip of the finger is not compared.
    if given.len() > 128 {
        return None;
    }
    let lower = given.to_ascii_lowercase();
    known
        .into_iter()
        .filter(|word| word.len() <= 128)
        .map(|word| (strsim::damerau_levenshtein(&lower, &word.to_ascii_lowercase()), word))
        .filter(|(distance, word)| *distance <= 1 + word.len().max(given.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// `did you mean X?`, or the whole list where nothing is near.
pub(super) fn hint(given: &str, known: &[&str]) -> String {
    match nearest(given, known.iter().copied()) {
        Some(word) => format!("did you mean `{word}`?"),
        None if known.is_empty() => String::new(),
        None => format!("one of: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_another_word_is_not() {
        assert_eq!(nearest("network.sock5", ["network.socks5", "network.i2p"]), Some("network.socks5"));
        assert_eq!(nearest("app:tro", ["app:tor", "app:tailnet"]), Some("app:tor"));
        assert_eq!(nearest("banana", ["host", "port"]), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), ["host"]), None);
    }
}
