//! Hostile text made safe for terminals and logs.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with everything replaced that could move a cursor, end a line, hide or reorder what is shown: controls (C0,
/// DEL, C1), bidirectional and other invisible format characters, line separators, and the backslash itself, so that
/// the result reads back in one way only. Replaced characters appear as `\u{1b}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == '\\' { safe.push_str("\\\\") } else { push(&mut safe, c) }
    }
    Cow::Owned(safe)
}

/// Appends one character likewise, but a backslash as it is: for lines that are shown and never read back.
pub fn push(safe: &mut String, c: char) {
    if is_visible(c) {
        safe.push(c);
    } else {
        // Writing to a String cannot fail.
        let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
    }
}

fn is_plain(c: char) -> bool {
    c != '\\' && is_visible(c)
}

fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{ad}' // soft hyphen
                | '\u{61c}' // Arabic letter mark
                | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // Hangul fillers
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}' // zero width, directional marks
                | '\u{2028}'..='\u{202e}' // separators, embeddings, overrides
                | '\u{2060}'..='\u{206f}' // invisible operators, isolates
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{fe00}'..='\u{fe0f}' // variation selectors
                | '\u{e0000}'..='\u{e0fff}' // tags
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_reaches_the_terminal_s_parser() {
        assert_eq!(escape("\x1b]0;owned\x07\r\n"), "\\u{1b}]0;owned\\u{7}\\u{d}\\u{a}");
        assert_eq!(escape("a\u{202e}b\u{9b}31m\u{7f}"), "a\\u{202e}b\\u{9b}31m\\u{7f}");
        assert_eq!(escape("\\u{1b}"), "\\\\u{1b}");
    }

    #[test]
    fn ordinary_text_is_borrowed() {
        for text in ["www.example.com", "/home/jörg/a b", "日本"] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text));
        }
    }

    proptest! {
        #[test]
        fn every_text_is_told_apart(a in ".{0,8}", b in ".{0,8}") {
            prop_assert_eq!(a == b, escape(&a) == escape(&b));
            prop_assert!(escape(&a).chars().all(|c| c == '\\' || is_plain(c)));
        }
    }
}
