//! Door 5: facilities of the kernel that no namespace divides.

use std::fs;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::call::{Arg, ZERO, any, call, descriptor, refused, socket};
use super::{Attack, Context, Gift, Outcome};

const AF_SMC: i32 = 43;
const AF_NFC: i32 = 39;
const AF_QIPCRTR: i32 = 42;

pub const ATTACKS: &[Attack] = &[
    Attack::new("vsock", "make an AF_VSOCK socket", |_| family(&[(libc::AF_VSOCK, libc::SOCK_STREAM, 0)])),
    Attack::new("bluetooth", "make a Bluetooth socket", |_| {
        family(&[(libc::AF_BLUETOOTH, libc::SOCK_RAW, 1), (libc::AF_BLUETOOTH, libc::SOCK_STREAM, 3)])
    }),
    Attack::new("nfc", "make an NFC socket", |_| {
        family(&[(AF_NFC, libc::SOCK_RAW, 0), (AF_NFC, libc::SOCK_STREAM, 1)])
    }),
    Attack::new("qipcrtr", "make a Qualcomm IPC router socket", |_| family(&[(AF_QIPCRTR, libc::SOCK_DGRAM, 0)])),
    Attack::new("alg", "make an AF_ALG socket", |_| family(&[(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)])),
    Attack::new("smc", "make an SMC socket, which shares RDMA devices", |_| {
        family(&[
            (AF_SMC, libc::SOCK_STREAM, 0),
            (libc::AF_INET, libc::SOCK_STREAM, 256),
            (libc::AF_INET6, libc::SOCK_STREAM, 256),
        ])
    }),
    Attack::new(
        "other-families",
        "make a socket of TIPC, RDS, CAN, KCM, XDP, X.25, AX.25, PPPoX, IUCV or Phonet",
        |_| {
            family(&[
                (30, libc::SOCK_SEQPACKET, 0),
                (21, libc::SOCK_SEQPACKET, 0),
                (29, libc::SOCK_RAW, 1),
                (41, libc::SOCK_DGRAM, 0),
                (44, libc::SOCK_RAW, 0),
                (9, libc::SOCK_SEQPACKET, 0),
                (3, libc::SOCK_DGRAM, 0),
                (24, libc::SOCK_STREAM, 0),
                (32, libc::SOCK_STREAM, 0),
                (35, libc::SOCK_DGRAM, 0),
            ])
        },
    ),
    Attack::new("other-protocols", "make a socket of SCTP, DCCP, UDP-Lite or L2TP", |_| {
        family(&[
            (libc::AF_INET, libc::SOCK_STREAM, 132),
            (libc::AF_INET, libc::SOCK_SEQPACKET, 132),
            (libc::AF_INET, 6, 33),
            (libc::AF_INET, libc::SOCK_DGRAM, 136),
            (libc::AF_INET, libc::SOCK_DGRAM, 115),
        ])
    }),
    Attack::new("netlink-others", "make a netlink socket of uevents, audit, generic, netfilter or crypto", |_| {
        family(&[
            (libc::AF_NETLINK, libc::SOCK_RAW, 15),
            (libc::AF_NETLINK, libc::SOCK_RAW, 9),
            (libc::AF_NETLINK, libc::SOCK_RAW, 16),
            (libc::AF_NETLINK, libc::SOCK_RAW, 12),
            (libc::AF_NETLINK, libc::SOCK_RAW, 21),
            (libc::AF_NETLINK, libc::SOCK_RAW, 4),
        ])
    }),
    Attack::new("io-uring", "set up an io_uring, which makes and connects sockets past a filter", |_| {
        let mut parameters = [0u8; 120];
        descriptor(libc::SYS_io_uring_setup, &mut [Arg::Int(4), Arg::Buffer(&mut parameters)])
            .map_err(refused("io_uring_setup"))?;
        Ok("an io_uring is set up".into())
    }),
    Attack::new("tiocsti", "type into the caller's terminal with TIOCSTI", |_| {
        let byte = [b' '];
        terminal(0x5412, &byte)
    })
    .given(Gift::Terminal),
    Attack::new("tiocsti-high-bits", "the same with the upper half of the request number set", |_| {
        let byte = [b' '];
        terminal(0x1_0000_5412, &byte)
    })
    .given(Gift::Terminal),
    Attack::new("tioclinux", "paste into the console with TIOCLINUX", |_| {
        // Subcode 12 only reads which console is in the foreground.
        any(["/dev/tty", "/dev/tty0", "/dev/console", "/dev/tty1"], |path| {
            let file = fs::File::options().read(true).write(true).open(path).map_err(|e| format!("{path}: {e}"))?;
            let mut subcode = [12u8];
            let number = Arg::Int(file.as_raw_fd().into());
            call(libc::SYS_ioctl, &mut [number, Arg::Int(0x541c), Arg::Buffer(&mut subcode)])
                .map(|_| format!("TIOCLINUX works on {path}"))
                .map_err(refused(path))
        })
    }),
    Attack::new("bpf", "load a BPF map", |_| {
        // BPF_MAP_CREATE of an array: type 2, key 4, value 4, one entry.
        let mut attributes = [0u8; 128];
        for (at, value) in [(0, 2u32), (4, 4), (8, 4), (12, 1)] {
            attributes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        descriptor(libc::SYS_bpf, &mut [ZERO, Arg::Buffer(&mut attributes), Arg::Int(72)]).map_err(refused("bpf"))?;
        Ok("a BPF map was made".into())
    }),
    Attack::new("perf", "open a performance counter", |_| {
        // perf_event_attr: type SOFTWARE (1), size 64, config TASK_CLOCK (1), disabled and exclude_kernel.
        let mut attributes = [0u8; 128];
        attributes[0] = 1;
        attributes[4] = 64;
        attributes[8] = 1;
        attributes[40] = 0b10_0001;
        let rest = [ZERO, Arg::Int(-1), Arg::Int(-1), ZERO];
        let mut arguments: Vec<Arg<'_>> = vec![Arg::Buffer(&mut attributes)];
        arguments.extend(rest);
        descriptor(libc::SYS_perf_event_open, &mut arguments).map_err(refused("perf_event_open"))?;
        Ok("a counter is open".into())
    }),
    Attack::new("userfaultfd", "make a userfaultfd", |_| {
        // UFFD_USER_MODE_ONLY (1), which needs no privilege.
        descriptor(libc::SYS_userfaultfd, &mut [Arg::Int(1)]).map_err(refused("userfaultfd"))?;
        Ok("a userfaultfd is open".into())
    }),
    Attack::new("kexec", "load another kernel", |_| {
        permitted(libc::SYS_kexec_load, &mut [ZERO, Arg::Int(99), ZERO, Arg::Int(-1)])
    }),
    Attack::new("modules", "load or unload a kernel module", |_| {
        let mut outcomes = vec![permitted(libc::SYS_finit_module, &mut [Arg::Int(-1), Arg::Text(c""), ZERO])];
        outcomes.push(permitted(libc::SYS_delete_module, &mut [Arg::Text(c"netjail-no-such-module"), ZERO]));
        any(outcomes, |outcome| outcome)
    }),
    Attack::new("reboot", "reboot", |_| permitted(libc::SYS_reboot, &mut [ZERO, ZERO, ZERO, ZERO])),
    Attack::new("swapon", "swap to a file", |_| {
        permitted(libc::SYS_swapon, &mut [Arg::Text(c"/netjail-no-such-file"), ZERO])
    }),
    Attack::new("ports", "ask for raw I/O ports", |_| {
        if !cfg!(target_arch = "x86_64") {
            return Err("this architecture has none".into());
        }
        #[cfg(target_arch = "x86_64")]
        call(libc::SYS_iopl, &mut [Arg::Int(3)]).map_err(refused("iopl"))?;
        Ok("iopl(3) was granted".into())
    }),
    Attack::new("syslog", "read the kernel's log", |_| {
        let mut text = [0u8; 256];
        // SYSLOG_ACTION_READ_ALL (3)
        let read = call(libc::SYS_syslog, &mut [Arg::Int(3), Arg::Buffer(&mut text), Arg::Int(256)])
            .map_err(refused("syslog"))?;
        Ok(format!("{read} bytes of the kernel's log were read"))
    }),
    Attack::new("file-handles", "open a file by its handle", handles),
    Attack::new("mount-api", "open a file system context", |_| {
        descriptor(libc::SYS_fsopen, &mut [Arg::Text(c"tmpfs"), ZERO]).map_err(refused("fsopen"))?;
        Ok("a file system context is open".into())
    }),
    Attack::new("int80", "make a datagram socket by int 0x80 socketcall, past a 64-bit filter", |_| int80()),
    Attack::new("x32", "make a datagram socket by its x32 number", |_| {
        if !cfg!(target_arch = "x86_64") {
            return Err("this architecture has none".into());
        }
        let kind = Arg::Int(libc::SOCK_DGRAM.into());
        descriptor(0x4000_0000 | libc::SYS_socket, &mut [Arg::Int(libc::AF_UNIX.into()), kind, ZERO])
            .map_err(refused("x32 socket"))?;
        Ok("a socket was made".into())
    }),
];

fn family(sockets: &[(i32, i32, i32)]) -> Outcome {
    any(sockets, |&(family, kind, protocol)| {
        let name = format!("socket({family}, {kind}, {protocol})");
        socket(family, kind, protocol).map(|_| format!("{name} was made")).map_err(refused(&name))
    })
}

/// For calls whose arguments make no sense: any answer but a refusal means that the kernel went past its permission check.
fn permitted(number: libc::c_long, arguments: &mut [Arg<'_>]) -> Outcome {
    match call(number, arguments) {
        Err(errno @ (Errno::EPERM | Errno::ENOSYS | Errno::EACCES)) => Err(format!("{errno:?}")),
        Err(errno) => Ok(format!("permitted: the kernel only minds the arguments ({errno:?})")),
        Ok(_) => Ok("permitted".into()),
    }
}

fn terminal(request: i64, byte: &[u8]) -> Outcome {
    call(libc::SYS_ioctl, &mut [ZERO, Arg::Int(request), Arg::Bytes(byte)]).map_err(refused("ioctl"))?;
    Ok("a character was typed into the caller's terminal".into())
}

fn handles(_: &Context) -> Outcome {
    let mut handle = [0u8; 136];
    handle[..4].copy_from_slice(&128u32.to_ne_bytes());
    let mut mount = [0u8; 4];
    let at = || Arg::Int(libc::AT_FDCWD.into());
    call(
        libc::SYS_name_to_handle_at,
        &mut [at(), Arg::Text(c"."), Arg::Buffer(&mut handle), Arg::Buffer(&mut mount), ZERO],
    )
    .map_err(refused("name_to_handle_at"))?;
    descriptor(libc::SYS_open_by_handle_at, &mut [at(), Arg::Buffer(&mut handle), ZERO])
        .map_err(refused("open_by_handle_at"))?;
    Ok("a folder was opened by its handle".into())
}

#[cfg(target_arch = "x86_64")]
fn int80() -> Outcome {
    use std::arch::asm;
    // The 32-bit entry takes 32-bit pointers, so the arguments lie in the lowest 4 GiB.
    // SAFETY: an anonymous mapping of one page.
    let page = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if page == libc::MAP_FAILED {
        return Err(format!("mmap: {:?}", Errno::last()));
    }
    let arguments = page.cast::<u32>();
    for (at, value) in [libc::AF_UNIX as u32, libc::SOCK_DGRAM as u32, 0].into_iter().enumerate() {
        // SAFETY: three words at the beginning of the page.
        unsafe { arguments.add(at).write(value) };
    }
    let mut result: i64 = 102; // __NR_socketcall of i386; call 1 is socket
    // SAFETY: the entry clobbers only what is named; rbx is kept by hand, since the compiler may not give it away.
    unsafe {
        asm!(
            "xchg rbx, {one}", "int 0x80", "xchg rbx, {one}",
            one = inout(reg) 1i64 => _,
            inout("rax") result,
            in("rcx") page as u64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    let result = result as i32;
    if result >= 0 {
        return Ok(format!("socketcall made descriptor {result}"));
    }
    Err(format!("socketcall: {:?}", Errno::from_raw(-result)))
}

#[cfg(not(target_arch = "x86_64"))]
fn int80() -> Outcome {
    Err("this architecture has no int 0x80".into())
}
