//! Probes that make one system call, most of them in a child because they change the process.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::finding::Finding;
use super::trial::{Failure, Outcome, check, in_child, in_jail_namespaces, step};
use crate::jail::seccomp::install;
use crate::tun;

fn finding(outcome: Outcome, remedy: &str) -> Finding {
    match outcome {
        Ok(()) => Finding::ok("works"),
        Err(failure) => Finding::missing(failure, remedy),
    }
}

const CONTAINER: &str = "or allow it in the container's seccomp profile (--security-opt seccomp=unconfined)";

pub fn no_new_privs() -> Finding {
    finding(in_child(|| nix::sys::prctl::set_no_new_privs().map_err(step("set it"))), "use Linux 3.5 or later")
}

/// A filter that allows everything and notifies of nothing; what matters is that the kernel takes it.
fn take_filter(flags: libc::c_ulong) -> Result<libc::c_long, Failure> {
    install::no_new_privs().map_err(|_| Failure { step: "set no_new_privs".into(), errno: Errno::EPERM })?;
    let mut allow = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let program = libc::sock_fprog { len: 1, filter: &raw mut allow };
    // SAFETY: the program is one live instruction; the kernel copies it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    check("install a filter", result)
}

pub fn seccomp() -> Finding {
    let outcome = in_child(|| take_filter(0).map(drop));
    finding(outcome, &format!("use a kernel with CONFIG_SECCOMP_FILTER, {CONTAINER}"))
}

pub fn seccomp_notify() -> Finding {
    match in_child(|| take_filter(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).map(drop)) {
        Err(failure) if failure.errno == Errno::EBUSY => Finding::missing(
            "an outer filter has a listener already",
            "start netjail outside that sandbox (strace --seccomp-bpf, a container manager with seccomp notification, another jail)",
        ),
        other => finding(other, &format!("use Linux 5.0 or later, {CONTAINER}")),
    }
}

pub fn wait_killable() -> Finding {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    finding(in_child(|| take_filter(flags).map(drop)), "use Linux 5.19 or later")
}

fn pidfd_of_self(flags: libc::c_uint) -> Result<OwnedFd, Failure> {
    // SAFETY: plain integers.
    let fd = check("pidfd_open", unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

pub fn pidfd_getfd() -> Finding {
    let outcome = in_child(|| {
        let own = pidfd_of_self(0)?;
        // SAFETY: plain integers.
        check("pidfd_getfd", unsafe { libc::syscall(libc::SYS_pidfd_getfd, own.as_raw_fd(), own.as_raw_fd(), 0) })
            .map(drop)
    });
    finding(outcome, &format!("use Linux 5.6 or later, {CONTAINER}"))
}

pub fn pidfd_thread() -> Finding {
    let outcome = in_child(|| pidfd_of_self(libc::PIDFD_THREAD).map(drop));
    finding(outcome, "use Linux 6.9 or later")
}

pub fn process_vm() -> Finding {
    let outcome = in_child(|| {
        let (from, mut to) = ([7u8; 8], [0u8; 8]);
        let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
        let remote = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
        // SAFETY: both vectors describe live buffers of this process, and the remote one is only read.
        let read = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        check("process_vm_readv", read as libc::c_long).map(drop)
    });
    finding(outcome, &format!("use a kernel with CONFIG_CROSS_MEMORY_ATTACH, {CONTAINER}"))
}

pub fn openat2() -> Finding {
    let outcome = in_child(|| {
        // SAFETY: all zeroes is a valid open_how.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
        how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        // SAFETY: the structure has the size passed, the path is a terminated string.
        check("openat2", unsafe {
            libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, c"/".as_ptr(), &raw const how, size_of::<libc::open_how>())
        })
        .map(drop)
    });
    finding(outcome, &format!("use Linux 5.6 or later, {CONTAINER}"))
}

pub fn close_range() -> Finding {
    let outcome = in_child(|| {
        // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed, and this child ends at once.
        let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        check("close_range", marked).map(drop)
    });
    finding(outcome, &format!("use Linux 5.11 or later, {CONTAINER}"))
}

pub fn clone3() -> Finding {
    // A size of zero is refused by the kernel itself with EINVAL, after any seccomp filter has had its say.
    // SAFETY: nothing is read at size zero.
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<libc::clone_args>(), 0) };
    match Errno::result(result) {
        Err(Errno::EINVAL) => Finding::ok("works"),
        Err(errno) => Finding::missing(errno.desc(), format!("use Linux 5.3 or later, {CONTAINER}")),
        Ok(_) => Finding::ok("works"),
    }
}

/// The Landlock ABI: 0 where there is none.
fn landlock_abi() -> libc::c_long {
    // SAFETY: with LANDLOCK_CREATE_RULESET_VERSION (1) the attributes are null and of size zero.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0, 1) }.max(0)
}

pub fn landlock() -> Finding {
    match landlock_abi() {
        0 => Finding::missing("none", "use Linux 5.13 or later with lsm=…,landlock on the kernel command line"),
        abi => Finding::ok(format!("ABI {abi}")),
    }
}

pub fn landlock_scopes() -> Finding {
    match landlock_abi() {
        abi @ 6.. => Finding::ok(format!("ABI {abi}")),
        abi => Finding::missing(format!("ABI {abi}, scopes come with 6"), "use Linux 6.12 or later"),
    }
}

pub fn uso() -> Finding {
    const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
    // TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6 (linux/if_tun.h)
    const ALL: libc::c_int = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;
    let outcome = in_jail_namespaces(|| {
        let queues = tun::open(tun::Source::Path(Path::new("/dev/net/tun")), "tun0", 1)
            .map_err(|_| Failure { step: "make a TUN device".into(), errno: Errno::ENODEV })?;
        for queue in &queues {
            // SAFETY: TUNSETOFFLOAD takes its argument by value.
            check("ask for USO", unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETOFFLOAD, ALL) }.into())?;
        }
        Ok(())
    });
    finding(outcome, "use Linux 6.2 or later")
}

pub fn sock_diag() -> Finding {
    let outcome = in_child(|| {
        // SAFETY: plain integers.
        let fd =
            unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) };
        check("open NETLINK_SOCK_DIAG", fd.into()).map(drop)
    });
    finding(outcome, "sudo modprobe unix_diag (CONFIG_UNIX_DIAG)")
}

pub fn keyrings() -> Finding {
    let outcome = in_child(|| {
        let name = std::ptr::null::<libc::c_char>();
        // SAFETY: an integer and a null pointer.
        let joined = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) };
        check("begin a session keyring", joined).map(drop)
    });
    match outcome {
        Err(failure) if failure.errno == Errno::ENOSYS => Finding::ok("this kernel has no keyrings to share"),
        other => finding(other, "raise kernel.keys.maxkeys, or allow keyctl in the container's seccomp profile"),
    }
}
