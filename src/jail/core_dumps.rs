//! Core dumps must not make a program outside act for the jail.
//!
//! With a piped `core_pattern` (systemd-coredump, apport) the kernel itself starts that program, as root and in the first
//! namespaces, and feeds it the jail's memory. core(5) says that RLIMIT_CORE is not enforced for pipes, and a limit of 0 does
//! not stop it; the value 1 does, since the kernel takes it for a helper that has crashed (fs/coredump.c, `cprm.limit == 1`).
//! The payload could lower the limit to 0 and so switch the pipe on again, so its seccomp filter has to answer a change of
//! RLIMIT_CORE itself wherever [`limit`] returns a value.

use std::io;

use nix::sys::resource::{Resource, setrlimit};

/// The soft and hard RLIMIT_CORE that a payload needs on this host, or `None` where its core dumps are plain files.
/// An unreadable pattern counts as a pipe.
pub fn limit() -> Option<u64> {
    match std::fs::read("/proc/sys/kernel/core_pattern") {
        Ok(pattern) if !leaves_the_jail(&pattern) => None,
        _ => Some(1),
    }
}

/// Sets the limit for this process and its children.
pub fn apply(limit: u64) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, limit, limit).map_err(io::Error::from)
}

/// `|program` starts a process; `@path` (Linux 6.16) connects to a socket.
fn leaves_the_jail(pattern: &[u8]) -> bool {
    matches!(pattern.first(), Some(b'|' | b'@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_and_sockets_are_told_from_files() {
        assert!(leaves_the_jail(b"|/usr/lib/systemd/systemd-coredump %P\n"));
        assert!(leaves_the_jail(b"@/run/coredump.socket\n"));
        assert!(!leaves_the_jail(b"core\n"));
        assert!(!leaves_the_jail(b"/var/crash/core.%p\n"));
    }
}
