//! A mediator, and children in namespaces of their own that hand their filter over to it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::control::channel::{Channel, pair};
use crate::jail::seccomp::install::{Scope, install};
use crate::jail::seccomp::{Options, payload};
use crate::mediate::{FromMediator, Setup, ToMediator, hand_over, run};

pub type Said = Result<(), String>;

/// Fails a check with its text and line.
macro_rules! check {
    ($holds:expr) => {
        if !$holds {
            return Err(format!("line {}: {}", line!(), stringify!($holds)));
        }
    };
}
/// Fails unless both are equal, and says what they are.
macro_rules! same {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err(format!("line {}: {} is {left:?}, not {right:?}", line!(), stringify!($left)));
                }
            }
        }
    };
}
pub(super) use {check, same};

/// A fork whose body's last word is brought back.
pub struct Child {
    pub pid: Pid,
    words: fs::File,
}

pub fn spawn(body: impl FnOnce() -> Said) -> Child {
    let (read, write) = nix::unistd::pipe().unwrap();
    // SAFETY: the child runs code of this test alone and leaves by _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => Child { pid: child, words: read.into() },
        ForkResult::Child => {
            drop(read);
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            // A panic must not unwind into the fixture's own destructors.
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|panic| {
                Err(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".into()))
            });
            if let Err(text) = &said {
                let _ = fs::File::from(write).write_all(text.as_bytes());
            }
            // SAFETY: ends this process without running the test harness's destructors.
            unsafe { libc::_exit(i32::from(said.is_err())) }
        }
    }
}

impl Child {
    pub fn wait(mut self) -> (WaitStatus, String) {
        let mut said = String::new();
        self.words.read_to_string(&mut said).unwrap();
        (waitpid(self.pid, None).unwrap(), said)
    }

    pub fn good(self) {
        let pid = self.pid;
        let (status, said) = self.wait();
        assert_eq!((status, said.as_str()), (WaitStatus::Exited(pid, 0), ""));
    }
}

/// Enters a new user namespace in which its user is who it was, and others.
pub fn enter(others: CloneFlags) -> Said {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    unshare(CloneFlags::CLONE_NEWUSER | others).map_err(|e| format!("unshare: {e}"))?;
    let write =
        |name: &str, text: String| fs::write(format!("/proc/self/{name}"), text).map_err(|e| format!("{name}: {e}"));
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{uid} {uid} 1"))?;
    write("gid_map", format!("{gid} {gid} 1"))
}

/// Enters new user, network and mount namespaces, with the loopback up.
pub fn enter_namespaces() -> Said {
    enter(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
    // SAFETY: ifreq is plain data, filled in before the kernel reads it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: a live socket and a live request.
    check!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } == 0);
    Ok(())
}

/// A child in namespaces of its own without any mediator: the control of every attack.
pub fn unmediated(body: impl FnOnce() -> Said) -> Child {
    spawn(move || {
        enter_namespaces()?;
        body()
    })
}

pub struct Jail {
    pub mediator: Pid,
    pub warden: Channel<ToMediator, FromMediator>,
    pub options: Options,
}

impl Jail {
    pub fn new() -> Self {
        Self::with(Options::default(), &[])
    }

    pub fn with(options: Options, allowed: &[PathBuf]) -> Self {
        let (warden, control) = pair::<ToMediator, FromMediator>().unwrap();
        let setup = Setup { control, allow_datagrams: options.allow_datagrams };
        let keep = warden.as_raw_fd();
        let child = spawn(move || {
            nix::unistd::close(keep).map_err(|e| e.to_string())?;
            run(setup).map_err(|e| e.to_string())
        });
        let jail = Self { mediator: child.pid, warden, options };
        allowed.iter().for_each(|path| jail.allow(path, false));
        jail
    }

    /// `--allow-socket`.
    pub fn allow(&self, path: &Path, only_this: bool) {
        let path = path.as_os_str().as_encoded_bytes().to_vec();
        self.warden.send(&ToMediator::AllowPath { path, only_this }).unwrap();
    }

    /// Starts a command of the jail.
    pub fn start(&self, body: impl FnOnce() -> Said) -> Child {
        self.start_in(|confine| {
            enter_namespaces()?;
            confine()?;
            body()
        })
    }

    /// Starts a command that enters its own namespaces and then calls its argument.
    pub fn start_in(&self, body: impl FnOnce(&dyn Fn() -> Said) -> Said) -> Child {
        let kind = SockType::SeqPacket;
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        self.warden.send_with(&ToMediator::Command, &[ours.as_fd()]).unwrap();
        drop(ours);
        let options = self.options;
        let warden = self.warden.as_raw_fd();
        spawn(move || {
            nix::unistd::close(warden).map_err(|e| e.to_string())?;
            body(&|| confine(options, &theirs))
        })
    }

    pub fn run(&self, body: impl FnOnce() -> Said) {
        self.start(body).good();
    }

    /// The next event, if one comes within a time that is far longer than it takes.
    pub fn event(&self) -> Option<FromMediator> {
        use nix::poll::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(self.warden.as_fd(), PollFlags::POLLIN)], 10_000u16).unwrap();
        self.warden.receive().ok().map(|(event, _)| event)
    }
}

pub fn confine(options: Options, channel: &OwnedFd) -> Said {
    let installed = install(&payload::policy(options), Scope::Thread, true).map_err(|e| e.to_string())?;
    check!(installed.listener.is_some());
    hand_over(channel.as_fd(), installed).map_err(|e| format!("hand-over: {e}"))
}

impl Drop for Jail {
    fn drop(&mut self) {
        let _ = kill(self.mediator, Signal::SIGKILL);
        let _ = waitpid(self.mediator, None);
    }
}

/// A folder in which host and jail both see the same files.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The errno of a result, 0 for success.
pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().map_or(0, |e| e.raw_os_error().unwrap_or(-1))
}

/// connect(2) as it is; 0 or the errno.
pub fn connect(fd: i32, address: &[u8], length: u32) -> i32 {
    // SAFETY: a wrong length is the kernel's to refuse; what it reads beyond the slice is part of the test's own memory.
    let got = unsafe { libc::connect(fd, address.as_ptr().cast(), length) };
    if got == 0 { 0 } else { nix::errno::Errno::last_raw() }
}

/// A `sockaddr_un` for a path or an abstract name (which begins with NUL).
pub fn unix_address(name: &[u8]) -> Vec<u8> {
    [&(libc::AF_UNIX as u16).to_ne_bytes()[..], name].concat()
}

/// A `sockaddr_in` of 127.0.0.1.
pub fn inet_address(port: u16) -> Vec<u8> {
    let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    bytes.extend(port.to_be_bytes());
    bytes.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

pub fn socket(family: i32, kind: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "socket({family}, {kind}): {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just made it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Connects a new stream socket to a path; 0 or the errno.
pub fn reach(path: &Path) -> i32 {
    use std::os::unix::ffi::OsStrExt;
    let address = unix_address(path.as_os_str().as_bytes());
    connect(socket(libc::AF_UNIX, libc::SOCK_STREAM).as_raw_fd(), &address, address.len() as u32)
}

/// Waits until something holds.
pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
