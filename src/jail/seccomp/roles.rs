//! The cages of netjail's own roles: what each may still ask of the kernel once it is up.
//!
//! - **relay**: parses hostile packets and a proxy's replies. An allow-list of what a worker's loop needs, over
//!   descriptors that it already holds; and, unless it serves *direct*, an [`empty_network`] beneath, so that neither the
//!   kernel nor a mistake in this table gives it a way out. A connected TCP socket could be re-aimed by TCP fast open after a
//!   reset, and a connected datagram socket by an address beside a message: so no send flag passes that could, no address, and
//!   no sendmsg, whose address lies behind a pointer that a filter can not follow.
//! - **mediator**: touches descriptors of the jail. An allow-list too; it makes no socket of its own.
//! - **warden**: loads files, dials and listens, so it gets a deny-list: no new program, no other process's
//!   memory, no kernel-wide facility.
//!
//! Whatever is not allowed fails with EPERM, so that a test can watch it fail; a foreign architecture's call is never a
//! mistake and kills.

use std::io;

use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, ENOSYS, EPERM, IPPROTO_TCP, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET};
use nix::sched::{CloneFlags, unshare};

use super::assembler::{Field, Policy, Row, Rule, Test, Verdict, calls, is, one_of};
use super::shared::{TERMINAL_REQUESTS, mount_interface};

/// `_IOW('T', 203, int)` of linux/if_tun.h.
const TUNSETPERSIST: u32 = 0x4004_54cb;
/// Linux 6.9's and older options of IP, IPV6 and UDP that a datagram socket of *direct* sets.
const DIRECT_OPTIONS: [(i32, i32); 9] = [
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::SOL_UDP, libc::UDP_GRO),
    (SOL_SOCKET, libc::SO_REUSEADDR),
];
const RELAY_OPTIONS: [(i32, i32); 14] = [
    (SOL_SOCKET, libc::SO_KEEPALIVE),
    (SOL_SOCKET, libc::SO_LINGER),
    (SOL_SOCKET, libc::SO_OOBINLINE),
    (SOL_SOCKET, libc::SO_RCVBUF),
    (SOL_SOCKET, libc::SO_SNDBUF),
    (IPPROTO_TCP, libc::TCP_CORK),
    (IPPROTO_TCP, libc::TCP_KEEPCNT),
    (IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (IPPROTO_TCP, libc::TCP_NODELAY),
    (IPPROTO_TCP, TCP_NOTSENT_LOWAT),
    (IPPROTO_TCP, libc::TCP_QUICKACK),
    (IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    // Where a write is cut into datagrams. They go where a smaller write would have gone.
    (libc::SOL_UDP, libc::UDP_SEGMENT),
];
const TCP_NOTSENT_LOWAT: i32 = 25;

/// The relay's cage; to be installed with [`Scope::Process`](super::install::Scope) when all its threads exist.
/// `direct`: it dials for itself, so it may make and connect INET and INET6 sockets and name the peer of a datagram.
pub fn relay(direct: bool) -> Policy {
    let fast_open = libc::MSG_FASTOPEN as u32;
    let mut send_to = vec![(Field::Low(3), Test::Masked(fast_open, 0))];
    if !direct {
        send_to.extend([(Field::Low(4), Test::Is(0)), (Field::High(4), Test::Is(0))]);
    }
    let options: Vec<(i32, i32)> =
        RELAY_OPTIONS.iter().chain(DIRECT_OPTIONS.iter().filter(|_| direct)).copied().collect();
    let mut rows = vec![
        allow(
            calls![SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg],
            "Packets and bytes.",
        ),
        Row {
            calls: calls![SYS_sendto],
            rule: permit(vec![send_to]),
            why: "Bytes to the peer; without direct never to another address.",
        },
        allow(event_calls(), "The loop."),
        allow(calls![SYS_close, SYS_shutdown, SYS_getsockopt, SYS_fstat], "The ends of flows, and how a dial went."),
        Row {
            calls: calls![SYS_setsockopt],
            rule: permit(options.iter().map(|&(level, name)| vec![is(1, level as u32), is(2, name as u32)]).collect()),
            why: "What tunes a flow. Not TCP_FASTOPEN_CONNECT, TCP_REPAIR, TCP_ULP, SO_BINDTODEVICE, SO_MARK, IP_OPTIONS.",
        },
        Row {
            calls: calls![SYS_ioctl],
            rule: permit(one_of(1, [TUNSETPERSIST, libc::FIONBIO as u32])),
            why: "The end of a jail leaves its TUN to the namespace, since closing it would take 23 ms.",
        },
        descriptor_flags("Descriptors that the warden hands over become non-blocking."),
        memory(),
        allow(runtime_calls(), "The runtime of a thread, up to its end."),
    ];
    if direct {
        rows.push(Row {
            calls: calls![SYS_sendmmsg],
            rule: permit(vec![vec![(Field::Low(3), Test::Masked(fast_open, 0))]]),
            why: "Datagrams; with MSG_FASTOPEN it would connect a socket that was reset.",
        });
        let mut sockets = Vec::new();
        for family in [AF_INET, AF_INET6] {
            for kind in [SOCK_STREAM, SOCK_DGRAM] {
                sockets.push(vec![is(0, family as u32), (Field::Low(1), Test::Masked(0xf, kind as u32)), is(2, 0)]);
            }
        }
        rows.push(Row { calls: calls![SYS_socket], rule: permit(sockets), why: "direct dials for itself." });
        rows.push(allow(calls![SYS_connect, SYS_getsockname, SYS_getpeername], "direct dials for itself."));
    }
    Policy { rows, otherwise: Verdict::Errno(EPERM), foreign: Verdict::Kill }
}

/// The mediator's cage: look a path up, copy a descriptor and an address, connect, answer. The `worker`, which touches what
/// belongs to the jail, gets a second one on top, in which it can neither send a signal nor make a process.
pub fn mediator(worker: bool) -> Policy {
    let mut rows = vec![
        allow(calls![SYS_read, SYS_write, SYS_recvmsg, SYS_recvfrom], "Messages, and /proc/TID/status."),
        messages(),
        messages_with_descriptors(),
        allow(
            calls![
                SYS_openat,
                SYS_openat2,
                SYS_readlinkat,
                SYS_statx,
                SYS_newfstatat,
                SYS_fstat,
                SYS_fstatfs,
                SYS_fchdir
            ],
            "Paths, as the target sees them. (The mediator holds nothing that a path could give it: it is the caller's user.)",
        ),
        #[cfg(target_arch = "x86_64")]
        allow(calls![SYS_readlink], "The same."),
        allow(
            calls![SYS_pidfd_open, SYS_pidfd_getfd, SYS_process_vm_readv],
            "The target's descriptor and the target's bytes, each once.",
        ),
        allow(calls![SYS_connect, SYS_getsockopt, SYS_close], "The call itself."),
        Row {
            calls: calls![SYS_socketpair],
            rule: permit(vec![vec![is(0, AF_UNIX as u32)]]),
            why: "Between the mediator and the worker that it replaces when a jail has blocked it.",
        },
        Row {
            calls: calls![SYS_ioctl],
            rule: Rule::when(Verdict::Errno(EPERM), one_of(1, TERMINAL_REQUESTS), Verdict::Allow),
            why: "Notifications (their numbers carry the size of a structure that may grow), SIOCGSKNS, SIOCUNIXFILE.",
        },
        descriptor_flags("O_NONBLOCK round a connect."),
        allow(event_calls(), "The loop."),
        deny(calls![SYS_clone3], ENOSYS, "Its flags are behind a pointer; libc falls back to clone."),
        allow(calls![SYS_prctl, SYS_prlimit64, SYS_rseq, SYS_sched_getaffinity], "The start of a thread or worker."),
        memory(),
        allow(runtime_calls(), "The runtime."),
    ];
    let thread = vec![vec![(Field::Low(0), Test::AnyOf(libc::CLONE_THREAD as u32))]];
    rows.push(Row {
        calls: calls![SYS_clone],
        rule: if worker { permit(thread) } else { Rule::always(Verdict::Allow) },
        why: "The supervisor forks a worker; a worker starts threads, for look-ups that may hang.",
    });
    if !worker {
        rows.push(allow(calls![SYS_wait4, SYS_kill], "The end of a worker that a jail has blocked."));
        rows.push(allow(calls![SYS_seccomp], "The worker's own filter; a further filter can only take away."));
    }
    Policy { rows, otherwise: Verdict::Errno(EPERM), foreign: Verdict::Kill }
}

/// The warden's cage. It may still fork (roles are forked from it) but never start a program.
pub fn warden() -> Policy {
    let mut sockets = Vec::new();
    for family in [AF_UNIX, AF_INET, AF_INET6] {
        for kind in [SOCK_STREAM, SOCK_DGRAM, libc::SOCK_SEQPACKET] {
            sockets.push(vec![is(0, family as u32), (Field::Low(1), Test::Masked(0xf, kind as u32))]);
        }
    }
    sockets.push(vec![is(0, AF_NETLINK as u32), is(2, libc::NETLINK_ROUTE as u32)]);
    let rows = vec![
        deny(calls![SYS_execve, SYS_execveat], EPERM, "The warden starts no program: a hole in it is not a shell."),
        deny(
            calls![
                SYS_ptrace,
                SYS_process_vm_readv,
                SYS_process_vm_writev,
                SYS_pidfd_getfd,
                SYS_process_madvise,
                SYS_kcmp
            ],
            EPERM,
            "Other processes' memory and descriptors.",
        ),
        deny(
            calls![SYS_setns, SYS_unshare, SYS_chroot, SYS_pivot_root],
            EPERM,
            "Its namespaces are the caller's, for good.",
        ),
        deny([calls![SYS_mount, SYS_umount2, SYS_open_by_handle_at], mount_interface()].concat(), EPERM, "Mounts."),
        deny(
            calls![
                SYS_setuid,
                SYS_setgid,
                SYS_setreuid,
                SYS_setregid,
                SYS_setresuid,
                SYS_setresgid,
                SYS_setgroups,
                SYS_setfsuid,
                SYS_setfsgid,
                SYS_capset
            ],
            EPERM,
            "Who it is, is settled.",
        ),
        deny(
            calls![
                SYS_bpf,
                SYS_perf_event_open,
                SYS_userfaultfd,
                SYS_init_module,
                SYS_finit_module,
                SYS_delete_module,
                SYS_kexec_load,
                SYS_kexec_file_load,
                SYS_reboot,
                SYS_swapon,
                SYS_swapoff,
                SYS_acct,
                SYS_syslog,
                SYS_keyctl,
                SYS_add_key,
                SYS_request_key,
                SYS_settimeofday,
                SYS_clock_settime,
                SYS_personality,
                SYS_mknodat
            ],
            EPERM,
            "Facilities of the whole machine.",
        ),
        deny(calls![SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register], ENOSYS, "Calls past this table."),
        Row {
            calls: calls![SYS_socket],
            rule: permit(sockets),
            why: "It dials a proxy and serves the control socket.",
        },
        Row {
            calls: calls![SYS_ioctl],
            rule: Rule::when(Verdict::Errno(EPERM), one_of(1, TERMINAL_REQUESTS), Verdict::Allow),
            why: "Typing into a terminal, and taking one over.",
        },
        Row {
            calls: calls![SYS_mmap, SYS_mprotect],
            rule: Rule::when(
                Verdict::Errno(EPERM),
                vec![vec![(Field::Low(2), Test::AnyOf(libc::PROT_EXEC as u32))]],
                Verdict::Allow,
            ),
            why: "No new code.",
        },
    ];
    Policy { rows, otherwise: Verdict::Allow, foreign: Verdict::Kill }
}

/// What a descriptor is open for and whether it survives an exec, and duplicates that do not.
fn descriptor_flags(why: &'static str) -> Row {
    let commands = [libc::F_GETFL, libc::F_SETFL, libc::F_GETFD, libc::F_SETFD, libc::F_DUPFD_CLOEXEC];
    Row { calls: calls![SYS_fcntl], rule: permit(one_of(1, commands.map(|command| command as u32))), why }
}

/// A channel's messages, to its other end only.
fn messages() -> Row {
    Row {
        calls: calls![SYS_sendto],
        rule: permit(vec![vec![
            (Field::Low(3), Test::Masked(libc::MSG_FASTOPEN as u32, 0)),
            (Field::Low(4), Test::Is(0)),
            (Field::High(4), Test::Is(0)),
        ]]),
        why: "Messages.",
    }
}

/// The same, with descriptors beside them.
fn messages_with_descriptors() -> Row {
    Row {
        calls: calls![SYS_sendmsg],
        rule: permit(vec![vec![(Field::Low(2), Test::Masked(libc::MSG_FASTOPEN as u32, 0))]]),
        why: "Messages with descriptors.",
    }
}

/// The usher's cage: read one request, look at what came with it, pass it on.
pub fn usher() -> Policy {
    let rows = vec![
        allow(calls![SYS_read, SYS_write, SYS_recvmsg, SYS_close], "One message, and what came with it."),
        messages(),
        messages_with_descriptors(),
        allow(
            calls![
                SYS_fstat,
                SYS_newfstatat,
                SYS_statx,
                SYS_fstatfs,
                SYS_readlinkat,
                SYS_openat,
                SYS_getsockopt,
                SYS_getsockname,
                SYS_getpeername
            ],
            "What a descriptor is.",
        ),
        #[cfg(target_arch = "x86_64")]
        allow(calls![SYS_readlink], "The same."),
        Row {
            calls: calls![SYS_fcntl],
            rule: permit(one_of(1, [libc::F_GETFL, libc::F_SETFL, libc::F_GETFD].map(|command| command as u32))),
            why: "What a descriptor is open for.",
        },
        Row {
            calls: calls![SYS_ioctl],
            rule: permit(one_of(1, [libc::TCGETS as u32, TIOCGPTN])),
            why: "Whether it is a terminal, and which side of one.",
        },
        memory(),
        allow(runtime_calls(), "The runtime."),
    ];
    Policy { rows, otherwise: Verdict::Errno(EPERM), foreign: Verdict::Kill }
}

/// `TIOCGPTN` (include/uapi/asm-generic/ioctls.h).
const TIOCGPTN: u32 = 0x8004_5430;

fn event_calls() -> Vec<super::assembler::Call> {
    #[allow(unused_mut)]
    let mut calls = calls![
        SYS_epoll_create1,
        SYS_epoll_ctl,
        SYS_epoll_pwait,
        SYS_epoll_pwait2,
        SYS_ppoll,
        SYS_eventfd2,
        SYS_timerfd_create,
        SYS_timerfd_settime
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend(calls![SYS_epoll_wait, SYS_poll]);
    calls
}

fn runtime_calls() -> Vec<super::assembler::Call> {
    calls![
        SYS_brk,
        SYS_clock_gettime,
        SYS_clock_nanosleep,
        SYS_nanosleep,
        SYS_exit,
        SYS_exit_group,
        SYS_futex,
        SYS_getrandom,
        SYS_gettid,
        SYS_madvise,
        SYS_membarrier,
        SYS_mremap,
        SYS_munmap,
        SYS_restart_syscall,
        SYS_rt_sigaction,
        SYS_rt_sigprocmask,
        SYS_rt_sigreturn,
        SYS_sched_yield,
        SYS_set_robust_list,
        SYS_sigaltstack
    ]
}

fn memory() -> Row {
    Row {
        calls: calls![SYS_mmap, SYS_mprotect],
        rule: permit(vec![vec![(Field::Low(2), Test::Masked(libc::PROT_EXEC as u32, 0))]]),
        why: "Memory, but no new code.",
    }
}

fn allow(calls: Vec<super::assembler::Call>, why: &'static str) -> Row {
    Row { calls, rule: Rule::always(Verdict::Allow), why }
}

fn deny(calls: Vec<super::assembler::Call>, errno: i32, why: &'static str) -> Row {
    Row { calls, rule: Rule::always(Verdict::Errno(errno)), why }
}

fn permit(any: Vec<Vec<(Field, Test)>>) -> Rule {
    Rule::when(Verdict::Allow, any, Verdict::Errno(EPERM))
}

/// Why a role has not lost what it should lose.
#[derive(Debug, thiserror::Error)]
pub enum CageError {
    /// unshare(2).
    #[error(
        "an empty network namespace for the relay could not be made: {0} (it needs user namespaces: \
         sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
    )]
    Namespace(io::Error),
    /// capset(2) or prctl(2).
    #[error("capabilities could not be dropped: {0}")]
    Capabilities(String),
    /// no_new_privs.
    #[error(transparent)]
    Install(#[from] super::install::InstallError),
}

/// Moves this process (single-threaded, or unshare answers EINVAL) into a network namespace in which there is nothing but
/// a loopback that is down, and takes all capabilities from it. Sockets that it holds already keep their own namespace.
///
/// An ordinary user gets the namespace through a user namespace of its own; root without one, since a root without
/// CAP_SYS_ADMIN (a container) falls back to the same way.
pub fn empty_network() -> Result<(), CageError> {
    if unshare(CloneFlags::CLONE_NEWNET).is_err() {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|e| CageError::Namespace(e.into()))?;
    }
    drop_capabilities()?;
    Ok(super::install::no_new_privs()?)
}

/// Empties every capability set of this thread, the bounding set included where the thread may still do that.
pub fn drop_capabilities() -> Result<(), CageError> {
    use caps::CapSet;
    let failed = |e: caps::errors::CapsError| CageError::Capabilities(e.to_string());
    // Without CAP_SETPCAP the bounding set stays, which is nothing to a thread that has no_new_privs and no capability.
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP).map_err(failed)? {
        caps::clear(None, CapSet::Bounding).map_err(failed)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
