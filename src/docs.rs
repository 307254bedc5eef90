//! Holds the tables of the docs equal to those of the code.

use std::path::Path;

/// Fails unless the rows of the last table of `page` (what follows its `|---` line) are `rows`.
///
/// With `UPDATE_DOCS=1` in the environment the page is rewritten instead.
pub fn assert_table(page: &str, rows: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let start = text.rfind("\n|---").map(|at| at + 1).unwrap();
    let start = start + text[start..].find('\n').unwrap() + 1;
    let length: usize =
        text[start..].split_inclusive('\n').take_while(|line| line.starts_with('|')).map(str::len).sum();
    let end = start + length;
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{rows}{}", &text[..start], &text[end..])).unwrap();
    } else {
        assert_eq!(&text[start..end], rows, "{page} differs from the code: run the test with UPDATE_DOCS=1");
    }
}
