//! Door 3: processes outside, those of the same user first of all.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getppid};

use super::call::{Arg, ZERO, any, call, descriptor, refused, told};
use super::{Attack, Context, Gift, Outcome, Proof};

pub const ATTACKS: &[Attack] = &[
    Attack::new("ptrace", "trace a process outside", trace),
    Attack::new("process-vm-read", "read the memory of a process outside with process_vm_readv", vm_read),
    Attack::new("proc-mem", "read /proc/PID/mem of a process outside", mem),
    Attack::new("proc-environ", "read /proc/PID/environ of a process outside", |c| {
        file(&format!("/proc/{}/environ", c.victim.pid), c)
    }),
    Attack::new("proc-fd", "open /proc/PID/fd of a process outside", |c| {
        file(&format!("/proc/{}/fd/{}", c.victim.pid, c.victim.file), c)
    }),
    Attack::new("proc-root", "reach hidden files through /proc/PID/root", |c| {
        let path = c.hidden.join("secret");
        file(&format!("/proc/{}/root{}", c.victim.pid, path.display()), c)
    }),
    Attack::new("proc-cwd", "reach hidden files through /proc/PID/cwd", |c| {
        file(&format!("/proc/{}/cwd/secret", c.victim.pid), c)
    }),
    Attack::new("proc-list", "find a process outside in /proc by its command line", list),
    Attack::new("kill", "end a process outside with kill", |c| {
        nix::sys::signal::kill(Pid::from_raw(c.victim.pid), Signal::SIGTERM).map_err(refused("kill"))?;
        Ok("killed".into())
    })
    .proven(Proof::VictimDied),
    Attack::new("kill-group", "end a process outside that shares the process group", |_| {
        // The group is the caller's own, so its number need not be known here.
        crate::jail::payload::ignore(Signal::SIGTERM);
        nix::sys::signal::kill(Pid::from_raw(0), Signal::SIGTERM).map_err(refused("kill"))?;
        Ok("killed".into())
    })
    .given(Gift::Group)
    .proven(Proof::VictimDied),
    Attack::new("pidfd-kill", "end a process outside with pidfd_send_signal", |c| {
        let pidfd = pidfd(c)?;
        let signal = Arg::Int(libc::SIGTERM.into());
        call(libc::SYS_pidfd_send_signal, &mut [Arg::Int(pidfd.as_raw_fd().into()), signal, ZERO, ZERO])
            .map_err(refused("pidfd_send_signal"))?;
        Ok("killed".into())
    })
    .proven(Proof::VictimDied),
    Attack::new("pidfd-getfd", "take a descriptor of a process outside", |c| {
        let pidfd = pidfd(c)?;
        let number = Arg::Int(c.victim.file.into());
        let file = descriptor(libc::SYS_pidfd_getfd, &mut [Arg::Int(pidfd.as_raw_fd().into()), number, ZERO])
            .map_err(refused("pidfd_getfd"))?;
        let mut text = [0u8; 256];
        let fd = Arg::Int(file.as_raw_fd().into());
        let read = call(libc::SYS_pread64, &mut [fd, Arg::Buffer(&mut text), Arg::Int(256), ZERO])
            .map_err(refused("pread"))?;
        told(&text[..read as usize], &c.token, "a file of the victim")
    }),
    Attack::new("prlimit", "change the limits of a process outside", |c| {
        let mut old = [0u8; 16];
        let pid = Arg::Int(c.victim.pid.into());
        call(libc::SYS_prlimit64, &mut [pid, Arg::Int(libc::RLIMIT_NOFILE.into()), ZERO, Arg::Buffer(&mut old)])
            .map_err(refused("prlimit"))?;
        Ok("the limits of a process outside were read".into())
    }),
    Attack::new("supervisor-environ", "read the environment of the process that started this one", |_| {
        let path = format!("/proc/{}/environ", getppid());
        match fs::read(&path) {
            Ok(text) if text.is_empty() => Err(format!("{path} is empty")),
            Ok(text) => Ok(format!("{path} gave {} bytes", text.len())),
            Err(e) => Err(format!("{path}: {e}")),
        }
    }),
    Attack::new("supervisor-memory", "read the memory of the process that started this one", supervisor_memory),
    Attack::new("supervisor-root", "reach hidden files through the process that started this one", |c| {
        let path = c.hidden.join("secret");
        file(&format!("/proc/{}/root{}", getppid(), path.display()), c)
    }),
    Attack::new("supervisor-descriptors", "look at the descriptors of the process that started this one", |_| {
        // Their numbers alone may be listed by the same user (proc_pid_fd(5)); what they are takes the right to trace.
        let path = format!("/proc/{}/fd", getppid());
        let entries = fs::read_dir(&path).map_err(|e| format!("{path}: {e}"))?;
        any(entries.flatten(), |entry| {
            let link = entry.path();
            match fs::read_link(&link) {
                Ok(target) => Ok(format!("{} is {}", link.display(), target.display())),
                Err(e) => Err(format!("{}: {e}", link.display())),
            }
        })
    }),
    Attack::new("enter-namespace", "enter the network namespace of pid 1 or of a process outside", |c| {
        any([1, c.victim.pid, getppid().as_raw()], |pid| {
            let path = CString::new(format!("/proc/{pid}/ns/net")).map_err(|e| e.to_string())?;
            let flags = Arg::Int(libc::O_CLOEXEC.into());
            let at = Arg::Int(libc::AT_FDCWD.into());
            let fd = descriptor(libc::SYS_openat, &mut [at, Arg::Text(&path), flags, ZERO])
                .map_err(refused(&path.to_string_lossy()))?;
            enter_and_look(fd.as_raw_fd(), c)
        })
    }),
];

fn pidfd(c: &Context) -> Result<std::os::fd::OwnedFd, String> {
    descriptor(libc::SYS_pidfd_open, &mut [Arg::Int(c.victim.pid.into()), ZERO]).map_err(refused("pidfd_open"))
}

fn file(path: &str, c: &Context) -> Outcome {
    let file = fs::File::open(path).map_err(|e| format!("{path}: {e}"))?;
    let mut text = Vec::new();
    file.take(1 << 20).read_to_end(&mut text).map_err(|e| format!("{path}: {e}"))?;
    told(&text, &c.token, path)
}

fn trace(c: &Context) -> Outcome {
    let victim = Pid::from_raw(c.victim.pid);
    ptrace::attach(victim).map_err(refused("ptrace"))?;
    let _ = waitpid(victim, None);
    let word = ptrace::read(victim, c.victim.address as ptrace::AddressType);
    let _ = ptrace::detach(victim, None);
    let bytes = word.map_err(refused("PTRACE_PEEKDATA"))?.to_ne_bytes();
    told(&bytes, &c.token[..8], "the traced process")
}

fn vm_read(c: &Context) -> Outcome {
    let mut text = vec![0u8; c.token.len()];
    let local = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    let remote = libc::iovec { iov_base: c.victim.address as *mut _, iov_len: text.len() };
    // SAFETY: the local vector describes a live buffer; the remote one is another process's.
    let read = unsafe { libc::process_vm_readv(c.victim.pid, &raw const local, 1, &raw const remote, 1, 0) };
    nix::errno::Errno::result(read).map_err(refused("process_vm_readv"))?;
    told(&text, &c.token, "the memory of a process outside")
}

fn mem(c: &Context) -> Outcome {
    let path = format!("/proc/{}/mem", c.victim.pid);
    let mut file = fs::File::open(&path).map_err(|e| format!("{path}: {e}"))?;
    file.seek(SeekFrom::Start(c.victim.address)).map_err(|e| e.to_string())?;
    let mut text = vec![0u8; c.token.len()];
    file.read_exact(&mut text).map_err(|e| format!("{path}: {e}"))?;
    told(&text, &c.token, &path)
}

fn list(_: &Context) -> Outcome {
    let entries = fs::read_dir("/proc").map_err(|e| e.to_string())?;
    let mut seen = 0;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        seen += 1;
        if line.windows(15).any(|w| w == b"selftest-victim") {
            return Ok(format!("/proc/{name} is the victim"));
        }
    }
    Err(format!("{seen} processes, none of them the victim"))
}

fn supervisor_memory(_: &Context) -> Outcome {
    let pid = getppid();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|e| format!("/proc/{pid}/maps: {e}"))?;
    let start = maps
        .lines()
        .find(|line| line.contains(" rw-p "))
        .and_then(|line| u64::from_str_radix(line.split('-').next()?, 16).ok())
        .ok_or("no memory is shown")?;
    let mut file = fs::File::open(format!("/proc/{pid}/mem")).map_err(|e| format!("/proc/{pid}/mem: {e}"))?;
    file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
    let mut bytes = [0u8; 64];
    file.read_exact(&mut bytes).map_err(|e| format!("/proc/{pid}/mem: {e}"))?;
    Ok(format!("64 bytes of process {pid} at {start:#x} were read"))
}

/// Enters a network namespace; only one in which the victims' listener answers is the outside.
pub fn enter_and_look(fd: i32, c: &Context) -> Outcome {
    call(libc::SYS_setns, &mut [Arg::Int(fd.into()), Arg::Int(libc::CLONE_NEWNET.into())]).map_err(refused("setns"))?;
    super::network::tcp(std::net::Ipv4Addr::LOCALHOST.into(), c)
}
