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

/// Searches the trees for the host's strings.
pub fn trees(roots: &[&str], c: &Context) -> Outcome {
    let mut search = Search {
        strings: &c.strings,
        found: Vec::new(),
        files: 0,
        until: Instant::now() + LIMIT,
        seen: HashSet::new(),
    };
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

struct Search<'a> {
    strings: &'a [(String, String)],
    found: Vec<String>,
    files: usize,
    until: Instant,
    seen: HashSet<(u64, u64)>,
}

impl Search<'_> {
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
        for (what, text) in self.strings {
            if contains(bytes, text.as_bytes()) && self.found.len() < 6 {
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
    // Of processes only this one: others come and go. Its memory is its own, and each thread shows the same again.
    let Ok(inner) = path.strip_prefix("/proc") else { return false };
    let parts: Vec<_> = inner.iter().map(|p| p.to_string_lossy()).collect();
    let process = parts.first().is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    let other = process && parts.first().is_some_and(|p| p.parse() != Ok(std::process::id()));
    other
        || process && parts.get(1).is_some_and(|p| ["mem", "task", "map_files", "pagemap", "fd"].contains(&p.as_ref()))
}

/// Whether the text stands there by itself: not as part of a longer word or number.
pub fn contains(bytes: &[u8], text: &[u8]) -> bool {
    let word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    if text.is_empty() || bytes.len() < text.len() {
        return false;
    }
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(text.len()).position(|w| w.eq_ignore_ascii_case(text)) {
        let at = from + at;
        let before = at.checked_sub(1).and_then(|i| bytes.get(i));
        if !word(before) && !word(bytes.get(at + text.len())) {
            return true;
        }
        from = at + 1;
    }
    false
}

/// Whether one file has one of the strings.
pub fn file(path: &str, c: &Context) -> Outcome {
    let bytes = fs::read(PathBuf::from(path)).map_err(|e| format!("{path}: {e}"))?;
    let found = c.strings.iter().find(|(_, text)| contains(&bytes, text.as_bytes()));
    found.map(|(what, _)| format!("{path} has the {what}")).ok_or_else(|| format!("{path} does not name the host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_counts_only_by_itself() {
        assert!(contains(b"inet 10.0.0.2/24", b"10.0.0.2"));
        assert!(!contains(b"inet 10.0.0.21/24", b"10.0.0.2"));
        assert!(contains(b"10.0.0.21 10.0.0.2", b"10.0.0.2"));
        assert!(contains(b"06:00:AC:10", b"06:00:ac:10"));
        assert!(!contains(b"", b"x"));
    }
}
