use super::super::assembler::NATIVE_ARCH;
use super::super::assembler::tests::assert_program_is_table;
use super::*;

fn all_options() -> Vec<Options> {
    let mut all = Vec::new();
    for sockets in [Sockets::None, Sockets::Jail, Sockets::Host] {
        for allow_datagrams in [false, true] {
            for nested_sandbox in [false, true] {
                all.push(Options {
                    sockets,
                    allow_datagrams,
                    nested_sandbox,
                    core_limit_is_fixed: nested_sandbox,
                    refuse_group_signals: allow_datagrams,
                    is_root: allow_datagrams,
                });
            }
        }
    }
    all
}

fn ask(options: Options, call: libc::c_long, arguments: [u64; 6]) -> Verdict {
    policy(options).decide(NATIVE_ARCH, call as u32, arguments)
}

#[test]
fn the_program_is_the_table_under_every_option() {
    for options in all_options() {
        assert_program_is_table(&policy(options));
    }
}

#[test]
fn every_row_has_a_reason_and_calls() {
    for options in all_options() {
        for row in policy(options).rows {
            assert!(row.why.len() > 10 && !row.calls.is_empty(), "{row:?}");
        }
    }
}

#[test]
fn sockets_are_an_allow_list_of_family_type_and_protocol() {
    let jail = Options::default();
    let socket = |family: i32, kind: i32, protocol: i32| {
        ask(jail, libc::SYS_socket, [family as u64, kind as u64, protocol as u64, 0, 0, 0])
    };
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    for (family, kind, protocol) in [
        (AF_UNIX, SOCK_STREAM, 0),
        (AF_UNIX, SOCK_SEQPACKET, 0),
        (AF_INET, SOCK_STREAM, 0),
        (AF_INET6, SOCK_STREAM, IPPROTO_TCP),
        (AF_INET, SOCK_STREAM, IPPROTO_MPTCP),
        (AF_INET6, SOCK_DGRAM, 0),
        (AF_INET, SOCK_DGRAM, IPPROTO_ICMP),
        (AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6),
        (AF_NETLINK, SOCK_RAW, libc::NETLINK_ROUTE),
    ] {
        assert_eq!(socket(family, kind | flags, protocol), Verdict::Allow, "{family} {kind} {protocol}");
    }
    for (family, kind, protocol, errno) in [
        (AF_UNIX, SOCK_DGRAM, 0, ESOCKTNOSUPPORT),
        (AF_UNIX, SOCK_RAW, 0, ESOCKTNOSUPPORT),
        (AF_INET, SOCK_RAW, IPPROTO_ICMP, EPERM),
        (AF_INET, SOCK_STREAM, 256, EPROTONOSUPPORT),
        (AF_INET, libc::SOCK_DCCP, 33, EPROTONOSUPPORT),
        (AF_INET, SOCK_SEQPACKET, 132, EPROTONOSUPPORT),
        (AF_NETLINK, SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT, EPROTONOSUPPORT),
        (libc::AF_VSOCK, SOCK_STREAM, 0, EAFNOSUPPORT),
        (libc::AF_PACKET, SOCK_RAW, 0, EAFNOSUPPORT),
        (libc::AF_ALG, SOCK_SEQPACKET, 0, EAFNOSUPPORT),
        (43, SOCK_STREAM, 0, EAFNOSUPPORT), // AF_SMC
    ] {
        assert_eq!(socket(family, kind | flags, protocol), Verdict::Errno(errno), "{family} {kind} {protocol}");
    }
}

#[test]
fn garbage_in_the_high_half_changes_nothing() {
    let jail = Options::default();
    let high = 0xdead_beef_u64 << 32;
    let tiocsti = [0, libc::TIOCSTI | high, 0, 0, 0, 0];
    assert_eq!(ask(jail, libc::SYS_ioctl, tiocsti), Verdict::Errno(EPERM));
    let datagram = [AF_UNIX as u64 | high, SOCK_DGRAM as u64 | high, high, 0, 0, 0];
    assert_eq!(ask(jail, libc::SYS_socket, datagram), Verdict::Errno(ESOCKTNOSUPPORT));
}

#[test]
fn connect_is_mediated_in_the_jail_and_nowhere_else() {
    let connect = |sockets, length: u64| {
        ask(Options { sockets, ..Options::default() }, libc::SYS_connect, [3, 0x1000, length, 0, 0, 0])
    };
    for length in 3..=110 {
        assert_eq!(connect(Sockets::Jail, length), Verdict::Notify, "{length}");
        assert_eq!(connect(Sockets::Jail, length | 1 << 32), Verdict::Notify, "{length}");
    }
    for length in [0, 1, 2, 111, 128, u64::from(u32::MAX)] {
        assert_eq!(connect(Sockets::Jail, length), Verdict::Allow, "no unix address is {length} bytes long");
    }
    assert_eq!(connect(Sockets::Host, 16), Verdict::Allow);
    assert_eq!(connect(Sockets::None, 16), Verdict::Allow);
}

#[test]
fn without_sockets_only_a_stream_pair_is_left_of_af_unix() {
    let none = Options {
        sockets: Sockets::None,
        allow_datagrams: true,
        nested_sandbox: false,
        core_limit_is_fixed: true,
        refuse_group_signals: true,
        is_root: true,
    };
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET] {
        let arguments = [AF_UNIX as u64, kind as u64, 0, 0, 0, 0];
        assert_eq!(ask(none, libc::SYS_socket, arguments), Verdict::Errno(EAFNOSUPPORT));
        let pair = ask(none, libc::SYS_socketpair, arguments);
        assert_eq!(pair == Verdict::Allow, kind == SOCK_STREAM || kind == SOCK_SEQPACKET);
    }
}

#[test]
fn nested_sandboxes_get_the_classic_mount_calls_and_nothing_else() {
    let nested = Options { nested_sandbox: true, ..Options::default() };
    for call in [libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root] {
        assert_eq!(ask(nested, call, [0; 6]), Verdict::Allow);
        assert_eq!(ask(Options::default(), call, [0; 6]), Verdict::Errno(EPERM));
    }
    for call in [libc::SYS_move_mount, libc::SYS_fsopen, libc::SYS_open_tree] {
        assert_eq!(ask(nested, call, [0; 6]), Verdict::Errno(ENOSYS));
    }
    assert_eq!(ask(nested, libc::SYS_setns, [0; 6]), Verdict::Errno(EPERM));
}

/// `getpid` through the 32-bit entry point: what a 32-bit program, or one that wants round a filter, does.
#[cfg(target_arch = "x86_64")]
fn call_by_int_0x80(number: i32) -> i32 {
    let mut eax = number;
    // SAFETY: with zero arguments none of the calls asked for reads or writes memory; rbx is LLVM's and is restored.
    unsafe {
        std::arch::asm!("push rbx", "xor ebx, ebx", "int 0x80", "pop rbx", inout("eax") eax,
                in("ecx") 0, in("edx") 0, in("esi") 0, in("edi") 0);
    }
    eax
}

#[test]
fn the_kernel_runs_the_table() {
    use super::super::install::{Scope, install};
    use nix::sys::wait::{WaitStatus, waitpid};
    let policy = policy(Options::default());
    // SAFETY: the child makes system calls only and leaves by _exit.
    let child = match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Parent { child } => child,
        nix::unistd::ForkResult::Child => {
            let mut wrong = 0;
            match install(&policy, Scope::Thread, true) {
                Ok(installed) if installed.listener.is_some() => drop(installed),
                _ => wrong = 1,
            }
            for row in &policy.rows {
                let Rule { clauses, otherwise: Verdict::Errno(errno) } = &row.rule else { continue };
                for call in row.calls.iter().filter(|_| clauses.is_empty()) {
                    // SAFETY: the filter refuses the call before any argument is looked at.
                    let got = unsafe { libc::syscall(libc::c_long::from(call.number), 0, 0, 0, 0, 0, 0) };
                    if got != -1 || nix::errno::Errno::last_raw() != *errno {
                        wrong = 2;
                    }
                }
            }
            // Nobody listens any more: what would be notified is ENOSYS, connect and foreign architectures alike.
            // SAFETY: no memory is behind the null pointer, and none is read.
            let connect = unsafe { libc::connect(0, std::ptr::null(), 16) };
            if connect != -1 || nix::errno::Errno::last_raw() != ENOSYS {
                wrong = 3;
            }
            #[cfg(target_arch = "x86_64")]
            for number in [20, 102, 359, 362] {
                // getpid, socketcall, socket, connect
                if call_by_int_0x80(number) != -ENOSYS {
                    wrong = 4;
                }
                // SAFETY: as above; the x32 entry is refused whatever the call.
                let x32 = unsafe { libc::syscall(libc::c_long::from(number | 0x4000_0000), 0, 0, 0) };
                if x32 != -1 || nix::errno::Errno::last_raw() != ENOSYS {
                    wrong = 5;
                }
            }
            // SAFETY: ends this process without running the test harness's destructors.
            unsafe { libc::_exit(wrong) }
        }
    };
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "the number names the check");
}

#[test]
fn root_makes_no_set_id_file_and_others_may() {
    let (root, user) = (Options { is_root: true, ..Options::default() }, Options::default());
    let creates = (libc::O_CREAT | libc::O_WRONLY) as u64;
    let refused: [(libc::c_long, [u64; 6]); 8] = [
        (libc::SYS_fchmod, [3, 0o4755, 0, 0, 0, 0]),
        (libc::SYS_fchmod, [3, 0o2755, 0, 0, 0, 0]),
        (libc::SYS_fchmodat, [3, 0, 0o4755, 0, 0, 0]),
        (452, [3, 0, 0o4755, 0, 0, 0]),
        (libc::SYS_mknodat, [3, 0, u64::from(libc::S_IFREG) | 0o4755, 0, 0, 0]),
        (libc::SYS_openat, [3, 0, creates, 0o4755, 0, 0]),
        (libc::SYS_openat, [3, 0, (libc::O_TMPFILE | libc::O_RDWR) as u64, 0o4755, 0, 0]),
        (libc::SYS_openat, [3, 0, creates | 0xdead << 32, 0o4755 | 0xdead << 32, 0, 0]),
    ];
    for (call, arguments) in refused {
        assert_eq!(ask(root, call, arguments), Verdict::Errno(EPERM), "{call} {arguments:?}");
        assert_eq!(ask(user, call, arguments), Verdict::Allow, "{call} {arguments:?}");
    }
    for (call, arguments) in [
        (libc::SYS_fchmod, [3, 0o1777, 0, 0, 0, 0]),
        (libc::SYS_openat, [3, 0, creates, 0o755, 0, 0]),
        // Without O_CREAT there is no mode, and the register holds anything.
        (libc::SYS_openat, [3, 0, (libc::O_DIRECTORY | libc::O_RDONLY) as u64, 0o7777, 0, 0]),
    ] {
        assert_eq!(ask(root, call, arguments), Verdict::Allow, "{call} {arguments:?}");
    }
    for call in [libc::SYS_openat2, libc::SYS_clone3] {
        assert_eq!((ask(root, call, [0; 6]), ask(user, call, [0; 6])), (Verdict::Errno(ENOSYS), Verdict::Allow));
    }
}

#[test]
fn the_callers_process_group_keeps_its_priority() {
    let of = |call, which, who| ask(Options::default(), call, [which, who, 19, 0, 0, 0]);
    assert_eq!(of(libc::SYS_setpriority, 1, 0), Verdict::Errno(EPERM));
    assert_eq!(of(libc::SYS_ioprio_set, 2, 0), Verdict::Errno(EPERM));
    for (which, who) in [(0, 0), (1, 7), (2, 0)] {
        assert_eq!(of(libc::SYS_setpriority, which, who), Verdict::Allow, "{which} {who}");
    }
}
