//! Reads whole trees of files and looks for texts that name the host.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Context, Outcome};

/// Of each file only so much is read.
const MOST_OF_A_FILE: u64 = 1 << 20;
/// A search ends then, with what it has.
const LIMIT: Duration = Duration::from_secs(12);

/// Files and folders that block, that are endless, or that hold this search's own words.
const PASSED_OVER: [&str; 12] = [
    "/proc/kmsg",
    "/proc/kcore",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/kpagecgroup",
    "/proc/sysrq-trigger",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/kernel/slab",
    "/sys/kernel/btf",
    "/run/netjail",
    "/sys/fs/cgroup",
];

/// Searches trees that the kernel makes for the host's strings.
pub fn trees(roots: &[&str], c: &Context) -> Outcome {
    search(roots, c.strings.iter())
}

/// Searches trees of files that people wrote: addresses of documentation stand in many of them, whoever the host is.
pub fn written_trees(roots: &[&str], c: &Context) -> Outcome {
    search(roots, c.strings.iter().filter(|(_, text)| !is_documentation(text)))
}

/// RFC 5737 and RFC 3849.
fn is_documentation(text: &str) -> bool {
    ["192.0.2.", "198.51.100.", "203.0.113.", "2001:db8"].iter().any(|prefix| text.starts_with(prefix))
}

fn search<'a>(roots: &[&str], strings: impl Iterator<Item = &'a (String, String)>) -> Outcome {
    let strings = strings.map(|(what, text)| (what.clone(), text.to_ascii_lowercase())).collect();
    let mut search =
        Search { strings, found: Vec::new(), files: 0, until: Instant::now() + LIMIT, seen: HashSet::new() };
    for root in roots {
        search.folder(Path::new(root), 0);
    }
    let Search { found, files, until, .. } = search;
    if !found.is_empty() {
        return Ok(found.join(", "));
    }
    let cut = if Instant::now() >= until { " (the search was cut short)" } else { "" };
    Err(format!("{files} files, none names the host{cut}"))
}

struct Search {
    /// What, and its text in lower case.
    strings: Vec<(String, String)>,
    found: Vec<String>,
    files: usize,
    until: Instant,
    seen: HashSet<(u64, u64)>,
}

impl Search {
    fn folder(&mut self, path: &Path, depth: usize) {
        if depth > 24 || self.found.len() >= 6 || Instant::now() > self.until {
            return;
        }
        let Ok(entries) = fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(found) = entry.metadata() else { continue };
            if passed_over(&path) || !self.seen.insert((found.dev(), found.ino())) {
                continue;
            }
            self.look(&path, entry.file_name().as_encoded_bytes(), true);
            if found.is_dir() {
                self.folder(&path, depth + 1);
            } else if found.is_file() {
                self.file(&path);
            } else if let Ok(target) = fs::read_link(&path) {
                self.look(&path, target.as_os_str().as_encoded_bytes(), true);
            }
        }
    }

    fn file(&mut self, path: &Path) {
        self.files += 1;
        let opened = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let Ok(file) = opened else { return };
        let mut bytes = Vec::new();
        // A read error may come after something was read.
        let _ = file.take(MOST_OF_A_FILE).read_to_end(&mut bytes);
        self.look(path, &bytes, false);
    }

    fn look(&mut self, path: &Path, bytes: &[u8], is_name: bool) {
        let haystack = lower(bytes);
        for (what, text) in &self.strings {
            if stands_in(&haystack, text) && self.found.len() < 6 {
                let place = if is_name { "the name of " } else { "" };
                self.found.push(format!("{place}{} has the {what}", path.display()));
                return;
            }
        }
    }
}

fn passed_over(path: &Path) -> bool {
    if PASSED_OVER.iter().any(|p| path == Path::new(p)) {
        return true;
    }
    // Of processes only this one and the first: others come and go. Each thread shows the same again.
    let Ok(inner) = path.strip_prefix("/proc") else { return false };
    let parts: Vec<_> = inner.iter().map(|p| p.to_string_lossy()).collect();
    let process = parts.first().is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    let other = process && parts.first().is_some_and(|p| p != "1" && p.parse() != Ok(std::process::id()));
    other
        || process && parts.get(1).is_some_and(|p| ["mem", "task", "map_files", "pagemap", "fd"].contains(&p.as_ref()))
}

/// Whether the text stands there by itself: not as part of a longer word or number. Both are compared without case.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    stands_in(&lower(bytes), &text.to_ascii_lowercase())
}

fn lower(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    text.make_ascii_lowercase();
    text
}

fn stands_in(haystack: &str, text: &str) -> bool {
    let word = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = haystack.as_bytes();
    !text.is_empty()
        && haystack.match_indices(text).any(|(at, _)| {
            let before = at.checked_sub(1).and_then(|i| bytes.get(i));
            !word(before) && !word(bytes.get(at + text.len()))
        })
}

/// Whether one file has one of the strings.
pub fn file(path: &str, c: &Context) -> Outcome {
    let bytes = fs::read(PathBuf::from(path)).map_err(|e| format!("{path}: {e}"))?;
    let found = c.strings.iter().find(|(_, text)| contains(&bytes, text));
    found.map(|(what, _)| format!("{path} has the {what}")).ok_or_else(|| format!("{path} does not name the host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_counts_only_by_itself() {
        assert!(contains(b"inet 10.0.0.2/24", "10.0.0.2"));
        assert!(!contains(b"inet 10.0.0.21/24", "10.0.0.2"));
        assert!(contains(b"10.0.0.21 10.0.0.2", "10.0.0.2"));
        assert!(contains(b"06:00:AC:10", "06:00:ac:10"));
        assert!(!contains(b"", "x"));
    }
}
