//! Kernel limits that are counted per user across all namespaces: what a jail uses up is missing outside.
//!
//! A user namespace can lower them for what runs in it (`namespaces(7)`, /proc/sys/user), so a jail gets half of what its
//! user has.

use std::fs;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use serde::{Deserialize, Serialize};

/// Where the limits are.
const FOLDER: &str = "/proc/sys/user";

/// The limits that a jail gets, read in the caller's user namespace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

/// What to do where there may be no further process (fork(2), EAGAIN).
pub const TOO_MANY_PROCESSES: &str = "raise the limit of processes and threads, the user's (ulimit -u) or the control group's \
     (pids.max: TasksMax= of a systemd unit, --pids-limit of a container), or end some of them";

/// The same behind the kernel's own words; nothing for another errno.
pub fn remedy(errno: i32) -> String {
    if errno == libc::EAGAIN { format!("; {TOO_MANY_PROCESSES}") } else { String::new() }
}

/// Lets the jail have half of the processes that its user may have. To be called in the jail's first user namespace by the
/// process that is about to make the second one: the kernel keeps the soft RLIMIT_NPROC of that moment as what all of the
/// jail together may have (5.14 and later), whatever limit the payload sets itself afterwards. Root is exempt.
pub fn share_processes() -> Result<(), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NPROC)?;
    let most = if soft == libc::RLIM_INFINITY { threads_of_the_machine().unwrap_or(soft) } else { soft };
    if most == libc::RLIM_INFINITY {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NPROC, (most / 2).max(2), hard)
}

fn threads_of_the_machine() -> Option<rlim_t> {
    fs::read_to_string("/proc/sys/kernel/threads-max").ok()?.trim().parse().ok()
}

/// Lifts the calling process's soft limit of descriptors to its hard one. The kernel compares what all processes of a user
/// have in flight over sockets with the soft limit of whoever sends the next (`SCM_RIGHTS`), and a jail may keep as many in
/// flight as its payload's hard limit: netjail's own has to lie above that, or no other jail could start meanwhile.
pub fn raise_descriptors() {
    // A refusal leaves the limit as it is.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
