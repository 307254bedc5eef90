//! The one look of every table that netjail prints: columns as wide as their widest cell, two spaces between them.

use std::fmt::Write;

/// Renders a heading and rows; each ends with a newline and has no trailing spaces.
pub fn render<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let mut out = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(out, "{cell:width$}  ");
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(heading);
    for row in rows {
        line(std::array::from_fn(|column| row[column].as_str()));
    }
    text
}
