use std::os::fd::AsRawFd;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::super::assembler::NATIVE_ARCH;
use super::super::assembler::tests::assert_program_is_table;
use super::super::install::{Scope, install};
use super::*;

/// Runs `body` in a child; it says 0 when all is well, else a number that names the failing check.
fn in_child(body: impl FnOnce() -> i32) {
    // SAFETY: the child makes system calls and simple allocations only, and leaves by _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let code = body();
            // SAFETY: ends this process without running the test harness's destructors.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "the number names the check");
        }
    }
}

fn errno_of(call: libc::c_long, arguments: [usize; 4]) -> i32 {
    // SAFETY: every use gives the call arguments that are harmless if the filter lets it through.
    let got = unsafe { libc::syscall(call, arguments[0], arguments[1], arguments[2], arguments[3]) };
    if got < 0 { nix::errno::Errno::last_raw() } else { 0 }
}

#[test]
fn the_programs_are_the_tables() {
    for policy in [relay(false), relay(true), mediator(false), mediator(true), warden(), usher()] {
        assert_program_is_table(&policy);
    }
}

#[test]
fn a_relay_can_not_open_execute_make_sockets_trace_or_kill() {
    in_child(|| {
        if install(&relay(false), Scope::Process, false).is_err() {
            return 1;
        }
        let path = c"/bin/true".as_ptr() as usize;
        for (n, (call, arguments)) in [
            (libc::SYS_openat, [libc::AT_FDCWD as usize, path, 0, 0]),
            (libc::SYS_execve, [path, 0, 0, 0]),
            (libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0]),
            (libc::SYS_socket, [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, 0]),
            (libc::SYS_ptrace, [libc::PTRACE_TRACEME as usize, 0, 0, 0]),
            (libc::SYS_kill, [1, 0, 0, 0]),
            (libc::SYS_connect, [0, 0, 0, 0]),
            (libc::SYS_mmap, [0, 4096, (libc::PROT_READ | libc::PROT_EXEC) as usize, 0x22]),
            (libc::SYS_clone, [0, 0, 0, 0]),
            (libc::SYS_io_uring_setup, [1, 0, 0, 0]),
            (libc::SYS_prctl, [0, 0, 0, 0]),
        ]
        .into_iter()
        .enumerate()
        {
            if errno_of(call, arguments) != EPERM {
                return 10 + n as i32;
            }
        }
        0
    });
}

#[test]
fn a_direct_relay_makes_inet_sockets_and_no_others() {
    in_child(|| {
        if install(&relay(true), Scope::Process, false).is_err() {
            return 1;
        }
        let socket = |family: i32, kind: i32, protocol: i32| {
            errno_of(libc::SYS_socket, [family as usize, kind as usize, protocol as usize, 0])
        };
        let stream = SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        if socket(AF_INET, stream, 0) != 0 || socket(AF_INET6, SOCK_DGRAM, 0) != 0 {
            return 2;
        }
        for (family, kind, protocol) in
            [(AF_UNIX, stream, 0), (AF_INET, libc::SOCK_RAW, 1), (AF_NETLINK, SOCK_DGRAM, 0)]
        {
            if socket(family, kind, protocol) != EPERM {
                return 3;
            }
        }
        0
    });
}

#[test]
fn no_packet_of_the_relays_own_can_leave_its_network() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    in_child(move || {
        if std::net::TcpStream::connect(address).is_err() {
            return 1; // the control: from outside it answers
        }
        if empty_network().is_err() {
            return 2;
        }
        if std::net::TcpStream::connect(address).is_ok() {
            return 3;
        }
        let caps = caps::read(None, caps::CapSet::Permitted).unwrap();
        if !caps.is_empty() {
            return 4;
        }
        // No capability over the new namespace either: the loopback stays down.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        // SAFETY: ifreq is plain data, filled in before the kernel reads it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        // SAFETY: a live socket and a live request.
        let got = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
        if got == 0 { 5 } else { 0 }
    });
}

#[test]
fn a_reset_connection_can_not_be_aimed_anew() {
    let decide = |policy: &Policy, call: libc::c_long, arguments| policy.decide(NATIVE_ARCH, call as u32, arguments);
    let fast_open = libc::MSG_FASTOPEN as u64;
    for direct in [false, true] {
        let policy = relay(direct);
        let plain = libc::MSG_NOSIGNAL as u64;
        // It could name an address, behind a pointer.
        assert_eq!(decide(&policy, libc::SYS_sendmsg, [5, 0x10, plain, 0, 0, 0]), Verdict::Errno(EPERM));
        let many = decide(&policy, libc::SYS_sendmmsg, [5, 0x10, 1, plain, 0, 0]);
        assert_eq!(many == Verdict::Allow, direct);
        assert_eq!(decide(&policy, libc::SYS_sendmmsg, [5, 0x10, 1, fast_open, 0, 0]), Verdict::Errno(EPERM));
        assert_eq!(decide(&policy, libc::SYS_sendto, [5, 0x10, 1, fast_open, 0, 0]), Verdict::Errno(EPERM));
        assert_eq!(decide(&policy, libc::SYS_sendto, [5, 0x10, 1, plain, 0, 0]), Verdict::Allow);
        let option =
            |name: i32| decide(&policy, libc::SYS_setsockopt, [5, libc::SOL_UDP as u64, name as u64, 0x10, 4, 0]);
        assert_eq!(option(libc::UDP_SEGMENT), Verdict::Allow, "how a write is cut says nothing of where it goes");
        assert_eq!(option(libc::UDP_GRO) == Verdict::Allow, direct);
        let addressed = decide(&policy, libc::SYS_sendto, [5, 0x10, 1, plain, 1 << 40, 16]);
        assert_eq!(addressed == Verdict::Allow, direct, "a high half is an address too");
    }
}

#[test]
fn the_warden_starts_no_program_and_still_dials() {
    in_child(|| {
        if install(&warden(), Scope::Process, false).is_err() {
            return 1;
        }
        let path = c"/bin/true".as_ptr() as usize;
        if errno_of(libc::SYS_execve, [path, 0, 0, 0]) != EPERM || errno_of(libc::SYS_unshare, [0, 0, 0, 0]) != EPERM {
            return 2;
        }
        if std::net::TcpListener::bind("127.0.0.1:0").is_err() || std::fs::read("/proc/self/status").is_err() {
            return 3;
        }
        0
    });
}
