//! The table of system calls for what runs in a jail.
//!
//! Namespaces, capabilities and the second user namespace close almost everything; this table closes what they can not:
//! facilities that are one for the whole kernel, and entry points that go round the table itself. It is a deny-list on
//! purpose: ordinary programs (compilers, browsers, databases, debuggers) must run without knowing that it is there, so
//! each row names what a program could do to something *outside its jail*, and a call that only concerns the caller
//! has no row. Left open and looked at: `ptrace` (gdb, strace; other user namespaces are out of its reach), `clone3` and
//! `unshare` (sandboxes of browsers; new namespaces hold nothing that the jail does not), `chroot`, `personality`, `seccomp`.
//!
//! The errno of a row is the one that programs already know how to live with: ENOSYS where a library has a fallback for
//! older kernels, EPERM where the kernel would have asked for a capability.

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, EAFNOSUPPORT, ENOENT, ENOSYS, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT,
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM,
};

mod root;

use super::assembler::{Call, Clause, Field, Policy, Row, Rule, Test, Verdict, calls, is, one_of};
use super::shared::{TERMINAL_REQUESTS, mount_interface};

/// What a jail's programs may do with unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sockets {
    /// No AF_UNIX socket at all; `socketpair` stays, since a pair is connected to itself.
    None,
    /// Those bound inside the jail and those the user named: `connect` is executed by the mediator.
    #[default]
    Jail,
    /// Whatever the file system shows; no mediation.
    Host,
}

/// The choices of a user that change the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// `--sockets`.
    pub sockets: Sockets,
    /// `--allow-datagrams`. One end of any unix datagram socket reaches any path in `sendmsg`, where no filter sees it.
    pub allow_datagrams: bool,
    /// `--allow-nested-sandbox`: classic mount calls, which the kernel refuses without a further user namespace anyway.
    pub nested_sandbox: bool,
    /// RLIMIT_CORE is what keeps the host's piped core_pattern from running a program outside for the jail
    /// ([`crate::jail::core_dumps`]), so no program may change it.
    pub core_limit_is_fixed: bool,
    /// The payload is host uid 0 and owns root's files.
    pub is_root: bool,
    /// The kernel has no Landlock scopes to keep signals in the jail, whose command is in its caller's process group.
    pub refuse_group_signals: bool,
}

/// `IPPROTO_MPTCP`.
const IPPROTO_MPTCP: i32 = 262;
/// `SOCK_TYPE_MASK`: the rest of the word are SOCK_CLOEXEC and SOCK_NONBLOCK.
const TYPE_MASK: u32 = 0xf;
/// `TCP_ULP`.
const TCP_ULP: u32 = 31;
/// Lengths from here on are no unix address (`sizeof(struct sockaddr_un)` is 110).
const UNIX_ADDRESS_END: u32 = 111;

/// `PIDFD_SIGNAL_PROCESS_GROUP` (Linux 6.9).
const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;

/// Calls that libc has no constant for yet; numbers above 423 are the same on all architectures.
const STATMOUNT: Call = Call { name: "statmount", number: 457 };
const LISTMOUNT: Call = Call { name: "listmount", number: 458 };
const OPEN_TREE_ATTR: Call = Call { name: "open_tree_attr", number: 467 };
const LISTNS: Call = Call { name: "listns", number: 470 };

/// The filter for the command of a jail and everything it starts.
pub fn policy(options: Options) -> Policy {
    let mut rows = vec![
        Row {
            calls: calls![SYS_socket],
            rule: socket_rule(options),
            why: "A family is code in the kernel and often one global space: AF_VSOCK reaches the hypervisor, Bluetooth, NFC \
                  and QIPCRTR reach radios, AF_ALG and others are attack surface, protocol 256 (SMC) shares RDMA devices \
                  across network namespaces. So what is listed is allowed, by family, type and protocol.",
        },
        Row {
            calls: calls![SYS_socketpair],
            rule: socketpair_rule(options),
            why: "A pair of unix datagram sockets can be re-aimed at any path by sendto(2), unseen by any filter; SOCK_RAW \
                  of AF_UNIX is a datagram socket under another name.",
        },
        Row {
            calls: calls![SYS_setsockopt],
            rule: Rule::when(
                Verdict::Errno(ENOENT),
                vec![vec![is(1, IPPROTO_TCP as u32), is(2, TCP_ULP)]],
                Verdict::Allow,
            ),
            why: "TCP_ULP turns a TCP socket into an SMC one, round the row of socket(2). ENOENT is the kernel's own word \
                  for a protocol it has not loaded; libraries that ask for kernel TLS go on without.",
        },
        Row {
            calls: calls![SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register],
            rule: errno(ENOSYS),
            why: "A ring makes and connects sockets in the kernel, past every filter.",
        },
        Row {
            calls: calls![SYS_keyctl, SYS_add_key, SYS_request_key],
            rule: errno(EPERM),
            why: "The user keyring is shared by all processes of a user, in any jail; request_key makes the kernel run a \
                  resolver as root in the initial namespaces.",
        },
        Row {
            calls: calls![SYS_ioctl],
            rule: Rule::when(
                Verdict::Errno(EPERM),
                one_of(
                    1,
                    TERMINAL_REQUESTS.into_iter().chain([
                        TUNSETIFF,
                        TUNSETQUEUE,
                        BTRFS_SNAPSHOT,
                        BTRFS_SNAPSHOT_V2,
                        BCACHEFS_SUBVOLUME,
                    ]),
                ),
                Verdict::Allow,
            ),
            why: "TIOCSTI and TIOCLINUX type into the caller's terminal, TIOCSETD puts another line discipline on it, \
                  TIOCCONS takes the console's messages. TUNSETIFF and TUNSETQUEUE would attach a TUN descriptor, \
                  however it was come by, to the jail's own device. A snapshot of a subvolume shows what the jail's \
                  mounts hide, and its owner may make one.",
        },
        Row {
            calls: calls![SYS_setns],
            rule: errno(EPERM),
            why: "Entering a namespace by descriptor is never needed inside, and is how one that leaked in would be used.",
        },
        Row {
            calls: calls![SYS_pidfd_getfd, SYS_process_vm_readv, SYS_process_vm_writev],
            rule: errno(EPERM),
            why: "Descriptors and memory of another process without ptrace's ceremony; a second wall behind the user \
                  namespace that keeps same-user processes outside apart.",
        },
        Row {
            calls: calls![SYS_open_by_handle_at],
            rule: errno(EPERM),
            why: "Opens any file of a file system by its inode number, whatever the jail's mounts hide.",
        },
        Row {
            calls: mount_interface().into_iter().chain([OPEN_TREE_ATTR]).collect(),
            rule: errno(ENOSYS),
            why: "The new mount interface: file systems' parsers are large attack surface, and nothing in a jail needs it. \
                  Tools fall back to mount(2).",
        },
        Row {
            calls: vec![STATMOUNT, LISTMOUNT, LISTNS],
            rule: errno(ENOSYS),
            why: "They list mounts (with the names of file servers) and namespaces by identifiers that are global.",
        },
        Row {
            calls: calls![SYS_bpf, SYS_perf_event_open, SYS_userfaultfd],
            rule: errno(EPERM),
            why: "Programs and counters in the kernel see more than one jail; userfaultfd stops the kernel in the middle \
                  of a copy, which is what races against it are made of.",
        },
        Row {
            calls: calls![SYS_init_module, SYS_finit_module, SYS_delete_module],
            rule: errno(EPERM),
            why: "Kernel code.",
        },
        Row {
            calls: calls![SYS_kexec_load, SYS_kexec_file_load, SYS_reboot, SYS_swapon, SYS_swapoff, SYS_acct],
            rule: errno(EPERM),
            why: "The machine's own running; acct writes every process's name to a file.",
        },
        Row {
            calls: calls![SYS_quotactl, SYS_quotactl_fd, SYS_lookup_dcookie, SYS_vhangup],
            rule: errno(EPERM),
            why: "Per-filesystem and per-terminal administration, all of it outside the jail.",
        },
        Row {
            calls: calls![SYS_setpriority],
            rule: Rule::when(Verdict::Errno(EPERM), vec![vec![is(0, PRIO_PGRP), is(1, 0)]], Verdict::Allow),
            why: "The process group of the command is its caller's: this would change the priority of processes outside.",
        },
        Row {
            calls: calls![SYS_ioprio_set],
            rule: Rule::when(Verdict::Errno(EPERM), vec![vec![is(0, IOPRIO_WHO_PGRP), is(1, 0)]], Verdict::Allow),
            why: "The same for the priority of disk access.",
        },
        Row {
            calls: calls![SYS_settimeofday, SYS_clock_settime],
            rule: errno(EPERM),
            why: "There is one clock. (The kernel asks for a capability that no payload has; so this is a second wall.)",
        },
        Row {
            calls: calls![SYS_syslog],
            rule: errno(EPERM),
            why: "The kernel's log names addresses, devices and mounts of the host.",
        },
    ];
    if options.is_root {
        rows.extend(root::rows());
    }
    if options.refuse_group_signals {
        let why = "kill(0) reaches the whole process group, and the caller's shell script or CI job is in it: a pid \
                   namespace does not stop that, Landlock scopes (Linux 6.12) do.";
        rows.push(Row {
            calls: calls![SYS_kill],
            rule: Rule::when(Verdict::Errno(EPERM), vec![vec![is(0, 0)]], Verdict::Allow),
            why,
        });
        rows.push(Row {
            calls: calls![SYS_pidfd_send_signal],
            rule: Rule::when(
                Verdict::Errno(EPERM),
                vec![vec![(Field::Low(3), Test::AnyOf(PIDFD_SIGNAL_PROCESS_GROUP))]],
                Verdict::Allow,
            ),
            why,
        });
    }
    if options.core_limit_is_fixed {
        let core = libc::RLIMIT_CORE;
        let why = "With a piped core_pattern the kernel runs a program outside for whoever dumps core, and feeds it the jail's \
                   memory; RLIMIT_CORE 1 is what stops that, 0 does not. Told that it worked: a program that switches its \
                   core dumps off has what it wants.";
        rows.push(Row {
            calls: calls![SYS_setrlimit],
            rule: Rule::when(Verdict::Errno(0), vec![vec![is(0, core)]], Verdict::Allow),
            why,
        });
        rows.push(Row {
            calls: calls![SYS_prlimit64],
            rule: Rule {
                clauses: vec![
                    // Reading it: no new limit is given.
                    Clause {
                        all: vec![is(1, core), (Field::Low(2), Test::Is(0)), (Field::High(2), Test::Is(0))],
                        verdict: Verdict::Allow,
                    },
                    Clause { all: vec![is(1, core)], verdict: Verdict::Errno(0) },
                ],
                otherwise: Verdict::Allow,
            },
            why,
        });
    }
    #[cfg(target_arch = "x86_64")]
    rows.push(Row {
        calls: calls![SYS_iopl, SYS_ioperm],
        rule: errno(EPERM),
        why: "Direct access to the machine's ports.",
    });
    if !options.nested_sandbox {
        rows.push(Row {
            calls: calls![SYS_mount, SYS_umount2, SYS_pivot_root],
            rule: errno(EPERM),
            why: "The jail's view of the file system is built, not patched; a further user namespace could mount over it. \
                  Opened by --allow-nested-sandbox for programs that build such a sandbox themselves.",
        });
    }
    if options.sockets == Sockets::Jail {
        rows.push(Row {
            calls: calls![SYS_connect],
            rule: Rule::when(
                Verdict::Allow,
                // AF_UNIX answers EINVAL to both, and so does the kernel itself to lengths below 0 or above 128.
                vec![vec![(Field::Low(2), Test::AtLeast(UNIX_ADDRESS_END))], vec![is(2, 0)], vec![is(2, 1)], vec![is(2, 2)]],
                Verdict::Notify,
            ),
            why: "Path sockets cross every namespace, and one of them (a user's systemd, docker, D-Bus) is enough to run \
                  programs outside. The mediator executes the call on its own copy of the address.",
        });
        rows.push(Row {
            calls: calls![SYS_listen],
            rule: Rule::always(Verdict::Notify),
            why: "The mediator notes which inode a listener is bound to: that is how it knows what was bound inside. It \
                  permits nothing by doing so, and the call goes on.",
        });
    }
    Policy { rows, otherwise: Verdict::Allow, foreign: Verdict::Notify }
}

/// `_IOW('T', 202, int)` and `_IOW('T', 217, int)` of linux/if_tun.h.
const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETQUEUE: u32 = 0x4004_54d9;

/// `BTRFS_IOC_SNAP_CREATE`, `BTRFS_IOC_SNAP_CREATE_V2` of linux/btrfs.h and `BCH_IOCTL_SUBVOLUME_CREATE`.
const BTRFS_SNAPSHOT: u32 = 0x5000_9401;
const BTRFS_SNAPSHOT_V2: u32 = 0x5000_9417;
const BCACHEFS_SUBVOLUME: u32 = 0x4020_bc10;

/// `PRIO_PGRP` (setpriority(2)); libc has it with another type on each C library.
const PRIO_PGRP: u32 = 1;
/// `IOPRIO_WHO_PGRP` (ioprio_set(2)).
const IOPRIO_WHO_PGRP: u32 = 2;

fn errno(errno: i32) -> Rule {
    Rule::always(Verdict::Errno(errno))
}

fn kind(kind: i32) -> (Field, Test) {
    (Field::Low(1), Test::Masked(TYPE_MASK, kind as u32))
}

fn allow(all: Vec<(Field, Test)>) -> Clause {
    Clause { all, verdict: Verdict::Allow }
}

fn refuse(all: Vec<(Field, Test)>, errno: i32) -> Clause {
    Clause { all, verdict: Verdict::Errno(errno) }
}

fn socket_rule(options: Options) -> Rule {
    let mut clauses = Vec::new();
    let unix = is(0, AF_UNIX as u32);
    if options.sockets == Sockets::None {
        clauses.push(refuse(vec![unix], EAFNOSUPPORT));
    }
    clauses.push(allow(vec![unix, kind(SOCK_STREAM)]));
    clauses.push(allow(vec![unix, kind(SOCK_SEQPACKET)]));
    if options.allow_datagrams {
        clauses.push(allow(vec![unix, kind(SOCK_DGRAM)]));
    }
    clauses.push(refuse(vec![unix], ESOCKTNOSUPPORT));
    for (family, icmp) in [(AF_INET, IPPROTO_ICMP), (AF_INET6, IPPROTO_ICMPV6)] {
        let family = is(0, family as u32);
        for protocol in [0, IPPROTO_TCP, IPPROTO_MPTCP] {
            clauses.push(allow(vec![family, kind(SOCK_STREAM), is(2, protocol as u32)]));
        }
        for protocol in [0, IPPROTO_UDP, icmp] {
            clauses.push(allow(vec![family, kind(SOCK_DGRAM), is(2, protocol as u32)]));
        }
        // What the kernel says to a program without CAP_NET_RAW, and what ping and traceroute know.
        clauses.push(refuse(vec![family, kind(SOCK_RAW)], EPERM));
        clauses.push(refuse(vec![family], EPROTONOSUPPORT));
    }
    let netlink = is(0, AF_NETLINK as u32);
    clauses.push(allow(vec![netlink, is(2, libc::NETLINK_ROUTE as u32)]));
    clauses.push(refuse(vec![netlink], EPROTONOSUPPORT));
    Rule { clauses, otherwise: Verdict::Errno(EAFNOSUPPORT) }
}

fn socketpair_rule(options: Options) -> Rule {
    let unix = is(0, AF_UNIX as u32);
    let mut clauses = vec![allow(vec![unix, kind(SOCK_STREAM)]), allow(vec![unix, kind(SOCK_SEQPACKET)])];
    if options.allow_datagrams && options.sockets != Sockets::None {
        clauses.push(allow(vec![unix, kind(SOCK_DGRAM)]));
    }
    clauses.push(refuse(vec![unix], ESOCKTNOSUPPORT));
    Rule { clauses, otherwise: Verdict::Errno(EAFNOSUPPORT) }
}

#[cfg(test)]
mod tests;
