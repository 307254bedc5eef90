//! Door 2: unix sockets, whose path names no namespace holds back.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{SockaddrLike, UnixAddr};

use super::call::{Arg, ZERO, any, call, connect, descriptor, hear, refused, socket, unix};
use super::descriptors::send_to_path;
use super::{Attack, Context, Outcome, Proof};

pub const ATTACKS: &[Attack] = &[
    Attack::new("socket-in-working-folder", "connect to a unix socket in the working folder", |c| place(c, "cwd")),
    Attack::new("socket-in-home", "connect to a unix socket in the home folder", |c| place(c, "home")),
    Attack::new("socket-in-tmp", "connect to a unix socket in /tmp", |c| place(c, "tmp")),
    Attack::new("socket-in-var-tmp", "connect to a unix socket in /var/tmp", |c| place(c, "var-tmp")),
    Attack::new("socket-in-run", "connect to a unix socket in /run", |c| place(c, "run")),
    Attack::new("socket-in-shm", "connect to a unix socket in /dev/shm", |c| place(c, "shm")),
    Attack::new("socket-by-relative-path", "connect to a unix socket by a relative path", relative),
    Attack::new("socket-by-proc-root", "connect through /proc/self/root and /proc/thread-self/cwd", through_proc),
    Attack::new("socket-by-symlink", "connect through a symbolic link made inside", through_symlink),
    Attack::new("socket-by-hard-link", "connect through a hard link made inside", through_hard_link),
    Attack::new("socket-by-descriptor", "connect through /proc/self/fd of an O_PATH descriptor", through_descriptor),
    Attack::new("socket-non-blocking", "connect with a non-blocking socket", non_blocking),
    Attack::new("socket-swap-race", "swap the address in memory while connect is being looked at", race),
    Attack::new("socket-seqpacket", "connect to a SEQPACKET socket by path", |c| {
        unix(&c.seqpacket, libc::SOCK_SEQPACKET, &c.token)
    }),
    Attack::new("socket-raw", "reach a datagram socket with AF_UNIX SOCK_RAW", |c| {
        let fd = socket(libc::AF_UNIX, libc::SOCK_RAW, 0).map_err(refused("socket"))?;
        send_to_path(fd.as_raw_fd(), c)
    })
    .proven(Proof::Arrived),
    Attack::new("datagram-by-path", "send a datagram to a path", |c| {
        let fd = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0).map_err(refused("socket"))?;
        send_to_path(fd.as_raw_fd(), c)
    })
    .proven(Proof::Arrived),
    Attack::new("datagram-by-pair", "send to a path from one end of a datagram socketpair", pair)
        .proven(Proof::Arrived),
    Attack::new("abstract-stream", "connect to an abstract stream socket", abstract_stream),
    Attack::new("abstract-datagram", "send to an abstract datagram socket", abstract_datagram).proven(Proof::Arrived),
    Attack::new("fifo", "write into a FIFO in /tmp or /run that somebody outside reads", fifo).proven(Proof::Arrived),
    Attack::new("known-dbus", "connect to D-Bus, system or session", |_| {
        known(&["/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket", "/run/user/UID/bus"])
    }),
    Attack::new("known-systemd", "connect to systemd, journald, logind, udev or resolved", |_| {
        known(&[
            "/run/systemd/private",
            "/run/user/UID/systemd/private",
            "/run/systemd/journal/stdout",
            "/run/systemd/userdb/io.systemd.DynamicUser",
            "/run/systemd/resolve/io.systemd.Resolve",
            "/run/udev/control",
        ])
    }),
    Attack::new("known-containers", "connect to docker, containerd, podman, libvirt, snapd or lxd", |_| {
        known(&[
            "/run/docker.sock",
            "/var/run/docker.sock",
            "/run/containerd/containerd.sock",
            "/run/podman/podman.sock",
            "/run/user/UID/podman/podman.sock",
            "/run/user/UID/docker.sock",
            "/run/libvirt/libvirt-sock",
            "/run/snapd.socket",
            "/var/lib/lxd/unix.socket",
        ])
    }),
    Attack::new("known-names", "connect to nscd, avahi, sssd or winbind", |_| {
        known(&[
            "/run/nscd/socket",
            "/var/run/nscd/socket",
            "/run/avahi-daemon/socket",
            "/var/lib/sss/pipes/nss",
            "/run/samba/winbindd/pipe",
        ])
    }),
    Attack::new("known-desktop", "connect to X11, Wayland, PulseAudio, tmux or an ssh or gpg agent", |_| {
        let mut found: Vec<PathBuf> = Vec::new();
        let uid = nix::unistd::geteuid();
        for folder in [
            "/tmp/.X11-unix".into(),
            format!("/tmp/tmux-{uid}"),
            format!("/run/user/{uid}"),
            format!("/run/user/{uid}/gnupg"),
            format!("/run/user/{uid}/pulse"),
        ] {
            found.extend(sockets_in(Path::new(&folder)));
        }
        any(found, |path| reachable(&path))
    }),
];

fn place(c: &Context, name: &str) -> Outcome {
    let path = c.streams.iter().find(|(place, _)| place == name).map(|(_, path)| path);
    unix(path.ok_or("no socket could be made there outside")?, libc::SOCK_STREAM, &c.token)
}

fn stream(c: &Context) -> Result<&PathBuf, String> {
    c.streams.iter().find(|(place, _)| place == "cwd").map(|(_, path)| path).ok_or_else(|| "no victim".into())
}

fn relative(c: &Context) -> Outcome {
    let path = stream(c)?;
    let folder = path.parent().and_then(Path::file_name).ok_or("no folder")?;
    let name = Path::new("..").join(folder).join(".").join(path.file_name().ok_or("no name")?);
    unix(&name, libc::SOCK_STREAM, &c.token)
}

fn through_proc(c: &Context) -> Outcome {
    let path = stream(c)?;
    let name = path.file_name().ok_or("no name")?;
    let absolute = path.strip_prefix("/").map_err(|e| e.to_string())?;
    let ways = [
        Path::new("/proc/self/cwd").join(name),
        Path::new("/proc/thread-self/cwd").join(name),
        Path::new("/proc/self/root").join(absolute),
    ];
    any(ways, |path| unix(&path, libc::SOCK_STREAM, &c.token))
}

fn through_symlink(c: &Context) -> Outcome {
    let link = c.file.with_file_name(format!("link-{}", std::process::id()));
    symlink(stream(c)?, &link).map_err(|e| format!("symlink: {e}"))?;
    let outcome = unix(&link, libc::SOCK_STREAM, &c.token);
    let _ = fs::remove_file(&link);
    outcome
}

fn through_hard_link(c: &Context) -> Outcome {
    let link = c.file.with_file_name(format!("hard-{}", std::process::id()));
    fs::hard_link(stream(c)?, &link).map_err(|e| format!("link: {e}"))?;
    let outcome = unix(&link, libc::SOCK_STREAM, &c.token);
    let _ = fs::remove_file(&link);
    outcome
}

fn through_descriptor(c: &Context) -> Outcome {
    let path = std::ffi::CString::new(stream(c)?.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    let flags = Arg::Int((libc::O_PATH | libc::O_CLOEXEC).into());
    let fd = descriptor(libc::SYS_openat, &mut [Arg::Int(libc::AT_FDCWD.into()), Arg::Text(&path), flags, ZERO])
        .map_err(refused("open with O_PATH"))?;
    unix(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())), libc::SOCK_STREAM, &c.token)
}

fn non_blocking(c: &Context) -> Outcome {
    let path = stream(c)?;
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    let fd = socket(libc::AF_UNIX, kind, 0).map_err(refused("socket"))?;
    let address = UnixAddr::new(path).map_err(refused("address"))?;
    connect(&fd, &address).map_err(refused("connect"))?;
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live structure.
    unsafe { libc::poll(&raw mut polled, 1, 2000) };
    hear(fd, &c.token, "a unix socket in the working folder")
}

/// A second thread writes the victim's path over that of a socket of this process's own, and back, as fast as it can.
fn race(c: &Context) -> Outcome {
    let victim = stream(c)?.as_os_str().as_encoded_bytes().to_vec();
    // Of the same length, so that only bytes of the path change.
    let mut own = victim.clone();
    let last = own.last_mut().ok_or("no path")?;
    *last = if *last == b'x' { b'y' } else { b'x' };
    let own_path = PathBuf::from(String::from_utf8_lossy(&own).into_owned());
    let listener = UnixListener::bind(&own_path).map_err(|e| format!("bind: {e}"))?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    let _ = fs::set_permissions(&own_path, std::os::unix::fs::PermissionsExt::from_mode(0o700));

    let address = Arc::new(std::array::from_fn::<AtomicU8, 110, _>(|_| AtomicU8::new(0)));
    for (cell, byte) in address.iter().zip((libc::AF_UNIX as u16).to_ne_bytes().iter().chain(&own)) {
        cell.store(*byte, Ordering::Relaxed);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let end = 2 + victim.len() - 1;
    let letters = [own[own.len() - 1], victim[victim.len() - 1]];
    let swapper = {
        let (address, stop) = (Arc::clone(&address), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for letter in letters {
                    address[end].store(letter, Ordering::Relaxed);
                    for _ in 0..40 {
                        std::hint::spin_loop();
                    }
                }
            }
        })
    };
    let length = (2 + victim.len() + 1) as libc::socklen_t;
    let started = Instant::now();
    let mut tries = 0u32;
    let outcome = loop {
        if started.elapsed() > Duration::from_millis(800) {
            break Err(format!("{tries} connects, none got out"));
        }
        let Ok(fd) = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) else { break Err("no socket".into()) };
        tries += 1;
        // SAFETY: the array lives on and is only written atomically; the kernel copies it.
        let connected = unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), length) } == 0;
        // Own connections say nothing, so that only a word is a success.
        if connected
            && !matches!(peer_name(&fd), Some(name) if name == own)
            && let Ok(evidence) = hear(fd, &c.token, "a unix socket in the working folder")
        {
            break Ok(format!("{evidence} after {tries} connects"));
        }
        while listener.accept().is_ok() {}
    };
    stop.store(true, Ordering::Relaxed);
    let _ = swapper.join();
    let _ = fs::remove_file(&own_path);
    outcome
}

fn peer_name(fd: &std::os::fd::OwnedFd) -> Option<Vec<u8>> {
    let peer = nix::sys::socket::getpeername::<UnixAddr>(fd.as_raw_fd()).ok()?;
    peer.path().map(|path| path.as_os_str().as_encoded_bytes().to_vec())
}

fn pair(c: &Context) -> Outcome {
    let mut ends = [0u8; 8];
    let kind = Arg::Int((libc::SOCK_DGRAM | libc::SOCK_CLOEXEC).into());
    call(libc::SYS_socketpair, &mut [Arg::Int(libc::AF_UNIX.into()), kind, ZERO, Arg::Buffer(&mut ends)])
        .map_err(refused("socketpair"))?;
    send_to_path(i32::from_ne_bytes([ends[0], ends[1], ends[2], ends[3]]), c)
}

fn abstract_stream(c: &Context) -> Outcome {
    let fd = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).map_err(refused("socket"))?;
    let address = UnixAddr::new_abstract(c.abstract_stream.as_bytes()).map_err(refused("address"))?;
    connect(&fd, &address).map_err(refused("connect"))?;
    hear(fd, &c.token, "an abstract socket")
}

fn abstract_datagram(c: &Context) -> Outcome {
    let fd = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0).map_err(refused("socket"))?;
    let address = UnixAddr::new_abstract(c.abstract_datagram.as_bytes()).map_err(refused("address"))?;
    let text = c.token.as_bytes();
    // SAFETY: both buffers live, with their lengths.
    nix::errno::Errno::result(unsafe {
        libc::sendto(fd.as_raw_fd(), text.as_ptr().cast(), text.len(), 0, SockaddrLike::as_ptr(&address), address.len())
    })
    .map_err(refused("sendto"))?;
    Ok("sent".into())
}

fn fifo(c: &Context) -> Outcome {
    any(&c.fifos, |path| {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let text = path.display();
        let mut file = fs::File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| format!("{text}: {e}"))?;
        file.write_all(c.token.as_bytes()).map_err(|e| format!("{text}: {e}"))?;
        Ok("sent".into())
    })
}

fn sockets_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_socket = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    entries.flatten().filter(is_socket).map(|entry| entry.path()).collect()
}

fn known(paths: &[&str]) -> Outcome {
    let uid = nix::unistd::geteuid().to_string();
    any(paths, |path| reachable(Path::new(&path.replace("UID", &uid))))
}

/// A service says nothing by itself: being connected is the evidence.
fn reachable(path: &Path) -> Outcome {
    let name = path.display().to_string();
    any([libc::SOCK_STREAM, libc::SOCK_SEQPACKET], |kind| {
        let fd = socket(libc::AF_UNIX, kind, 0).map_err(refused("socket"))?;
        let address = UnixAddr::new(path).map_err(refused(&name))?;
        connect(&fd, &address).map_err(refused(&name))?;
        Ok(format!("connected to {name}"))
    })
}
