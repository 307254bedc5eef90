//! Stage one: every namespace in one `clone3(2)`, and who the users in it are.
//!
//! The child is pid 1 of a new pid namespace, the direct child of the process that the shell waits for, in the shell's own
//! session. It holds every capability of its user namespace (U1) and none of any other.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::unistd::{Gid, Pid, Uid};

use super::counters;

/// The parent's view of a new pid 1.
#[derive(Debug)]
pub struct Child {
    /// Its pid in the caller's pid namespace.
    pub pid: Pid,
    /// A descriptor that becomes readable when it has ended (`pidfd_open(2)`).
    pub pidfd: OwnedFd,
}

/// Which side of [`clone_into_new`] this is.
#[derive(Debug)]
pub enum Side {
    /// The caller.
    Parent(Child),
    /// The new pid 1.
    Child,
}

/// Forks into a new user, network, mount, pid, UTS, IPC and cgroup namespace.
///
/// # Errors
/// EPERM or ENOSPC where user namespaces are switched off or used up (`user_namespaces(7)`); EAGAIN where there may be no
/// further process.
///
/// # Safety
/// The caller must be single-threaded: the child goes on in a copy of the address space where only this thread exists.
pub unsafe fn clone_into_new() -> io::Result<Side> {
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWCGROUP;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain data for which all zeroes is the documented default.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (namespaces | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM this is a fork; the arguments live on this stack for the length of the call, and the caller
    // promises to be single-threaded.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => {
            let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
            // SAFETY: the kernel stored a fresh descriptor there when the call succeeded.
            Ok(Side::Parent(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }))
        }
    }
}

/// Maps one user and one group onto themselves: all that an ordinary user may do (`user_namespaces(7)`).
///
/// `process` is `self` or a pid. Must happen while the process is dumpable, else its /proc files belong to root (EACCES).
pub fn map_self_only(process: &str, uid: Uid, gid: Gid) -> io::Result<()> {
    fs::write(format!("/proc/{process}/setgroups"), "deny")?;
    fs::write(format!("/proc/{process}/uid_map"), format!("{uid} {uid} 1"))?;
    fs::write(format!("/proc/{process}/gid_map"), format!("{gid} {gid} 1"))
}

/// Maps every id that the caller has onto itself: what root may do for a child, so that owners keep their names. Root of a
/// container has fewer than all of them.
pub fn map_everyone(process: &str) -> io::Result<()> {
    for map in ["uid_map", "gid_map"] {
        let own = fs::read_to_string(format!("/proc/self/{map}"))?;
        fs::write(format!("/proc/{process}/{map}"), onto_itself(&own))?;
    }
    Ok(())
}

/// The identity map of the ids that a map (inside, outside, how many) has inside.
fn onto_itself(map: &str) -> String {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (first, count) = (fields.next()?, fields.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    };
    map.lines().filter_map(line).collect()
}

/// Why there are no namespaces, and what to do about it.
pub fn explain(error: &io::Error) -> String {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if error.raw_os_error() == Some(libc::EAGAIN) {
        return format!("can not make the jail's namespaces: {error}{}", counters::remedy(libc::EAGAIN));
    }
    let remedy = if read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        "unprivileged user namespaces are switched off; switch them on with: sudo sysctl -w kernel.unprivileged_userns_clone=1"
    } else if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        "user namespaces are limited to none; allow some with: sudo sysctl -w user.max_user_namespaces=15000"
    } else {
        match error.raw_os_error() {
            Some(libc::ENOSPC) => {
                "the limit of namespaces is reached; raise it with: sudo sysctl -w user.max_user_namespaces=15000 user.max_net_namespaces=15000"
            }
            Some(libc::EPERM) => {
                "this process may not make user namespaces: in a container allow them with docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined, or podman run --security-opt seccomp=unconfined"
            }
            Some(libc::EINVAL) => {
                "the kernel was built without one of the namespaces (user, network, mount, pid, UTS, IPC, cgroup)"
            }
            _ => "see user_namespaces(7)",
        }
    };
    format!("can not make the jail's namespaces: {error}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_processes_is_not_taken_for_one_of_namespaces() {
        let text = explain(&io::Error::from_raw_os_error(libc::EAGAIN));
        assert!(text.contains("ulimit -u") && text.contains("pids.max") && !text.contains("sysctl"), "{text}");
    }

    #[test]
    fn ids_keep_their_numbers_whatever_they_are_outside() {
        assert_eq!(onto_itself("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(onto_itself("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
