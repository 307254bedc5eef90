//! Kernel limits that are counted per user across all namespaces: what a jail uses up is missing outside.
//!
//! A user namespace can lower them for what runs in it (`namespaces(7)`, /proc/sys/user), so a jail gets half of what its
//! user has.

use std::fs;

/// Where the limits are.
const FOLDER: &str = "/proc/sys/user";

/// The limits that a jail gets, read in the caller's user namespace.
#[derive(Clone, Debug, Default)]
pub struct Shares(Vec<(String, u64)>);

impl Shares {
    /// Half of each of the caller's own limits; empty where the kernel shows none.
    pub fn of_caller() -> Self {
        let Ok(entries) = fs::read_dir(FOLDER) else { return Self::default() };
        let half = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let limit: u64 = fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?;
            // Two at least: nested sandboxes need a namespace or two of each kind.
            Some((name, (limit / 2).max(2)))
        };
        Self(entries.filter_map(|entry| half(entry.ok()?)).collect())
    }

    /// Sets them for the calling process's user namespace, before /proc/sys becomes read-only. A limit that can not be set
    /// stays what it is; the kernel's own, further up, holds in any case.
    pub fn apply(&self) {
        for (name, limit) in &self.0 {
            let _ = fs::write(format!("{FOLDER}/{name}"), limit.to_string());
        }
    }
}
