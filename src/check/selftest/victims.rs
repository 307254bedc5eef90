//! Everything that an attack may reach outside: listeners, a process, shared objects, planted texts.
//!
//! All of it lives in a folder of its own in the home folder (sockets also where programs keep theirs), belongs to the caller,
//! and is taken away at the end.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, UnixAddr, accept, bind, listen, setsockopt, socket,
    sockopt,
};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::SelftestError;
use super::host::{host_strings, own_links};
use crate::check::attacks::{Context, Outcome};

/// The victims while they live.
#[derive(Debug)]
pub struct Victims {
    /// Where they are.
    pub context: Context,
    base: PathBuf,
    process: Option<Child>,
    /// Whatever comes in here came from an attack.
    silent: Vec<OwnedFd>,
    remove: Vec<PathBuf>,
    shared_memory: i32,
    queue: i32,
}

/// The variables that a launcher has to drop; each gets a value with the mark.
const PLANTED: [&str; 16] = [
    "SSH_CONNECTION",
    "SSH_CLIENT",
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
    "TMUX",
    "HOSTNAME",
    "KUBERNETES_SERVICE_HOST",
    "HTTP_PROXY",
    "https_proxy",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "SESSION_MANAGER",
    "DOCKER_HOST",
    "GPG_AGENT_INFO",
    "REDIS_PORT_6379_TCP_ADDR",
    "WSL_INTEROP",
];

/// The environment of every attack's launcher: the planted variables, and netjail's own folders away from the user's.
pub fn set_environment(command: &mut Command, context: &Context) {
    for (name, value) in PLANTED.iter().zip(&context.environment) {
        command.env(name, value);
    }
    if let Some(base) = context.file.parent().and_then(Path::parent) {
        command.env("XDG_STATE_HOME", base.join("state"));
        command.env("XDG_CONFIG_HOME", base.join("config"));
        command.env("XDG_RUNTIME_DIR", base.join("runtime"));
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> SelftestError {
    let what = what.into();
    move |source| SelftestError::Victim { what, source }
}

fn errno<T>(result: nix::Result<T>) -> io::Result<T> {
    result.map_err(io::Error::from)
}

impl Victims {
    /// Starts them all.
    pub fn start() -> Result<Self, SelftestError> {
        let random = getrandom::u64().map_err(|e| failed("random numbers")(io::Error::other(e.to_string())))?;
        let token = format!("njtoken{random:016x}");
        let uid = geteuid();
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| is_writable(home));
        let base = home.clone().unwrap_or_else(std::env::temp_dir).join(format!(".netjail-selftest-{random:08x}"));
        let mut victims = Self {
            context: Context::default(),
            base: base.clone(),
            process: None,
            silent: Vec::new(),
            remove: vec![base.clone()],
            shared_memory: -1,
            queue: -1,
        };
        for folder in ["", "work", "outside", "state/netjail", "config", "runtime"] {
            let path = base.join(folder);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(failed(path.display().to_string()))?;
        }
        let hidden = base.join("state/netjail");
        for folder in [hidden.clone(), base.join("outside")] {
            fs::write(folder.join("secret"), &token).map_err(failed("a secret file"))?;
        }
        let registry = "version: \"1.0\"\nnamespace: selftest\nentries:\n  - name: closed\n    kind: network.socks5\n    host: 127.0.0.1\n    port: 1\n";
        fs::write(base.join("work/registry.yaml"), registry).map_err(failed("the registry"))?;

        let program = std::env::current_exe().map_err(failed("the path of this program"))?;
        let (addresses, interfaces) = own_links();
        let hostname = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        victims.context = Context {
            token: token.clone(),
            strings: host_strings(&addresses, &interfaces, &hostname),
            environment: PLANTED.iter().map(|name| format!("njplanted{random:x}-{name}")).collect(),
            addresses,
            interfaces,
            hostname,
            hidden,
            program,
            ipc_key: (random & 0x3fff_ffff) as i32 | 1,
            message_queue: format!("/netjail-selftest-{random:x}"),
            key: format!("netjail-selftest-{random:x}"),
            plant: PathBuf::from(format!("/tmp/netjail-planted-{random:x}")),
            file: base.join("work/context.json"),
            abstract_stream: format!("netjail-selftest-{random:x}"),
            abstract_datagram: format!("netjail-selftest-{random:x}-d"),
            ..Context::default()
        };
        let unique = format!("netjail-selftest-{random:x}");
        victims.serve_network().map_err(failed("listeners"))?;
        let places = [
            ("cwd", base.join("work")),
            ("home", home.unwrap_or_else(|| base.clone())),
            ("tmp", "/tmp".into()),
            ("var-tmp", "/var/tmp".into()),
            ("shm", "/dev/shm".into()),
            ("run", if uid.is_root() { "/run".into() } else { format!("/run/user/{uid}").into() }),
        ];
        victims.serve_unix(&places, &unique).map_err(failed("unix sockets"))?;
        victims.make_shared().map_err(failed("shared objects"))?;
        victims.renew()?;
        Ok(victims)
    }

    fn serve_network(&mut self) -> io::Result<()> {
        let token = self.context.token.clone();
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        self.context.tcp = tcp.local_addr()?.port();
        serve_tcp(tcp, token.clone());
        if let Ok(tcp) = v6_only(self.context.tcp) {
            serve_tcp(tcp, token.clone());
        }
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        self.context.udp = udp.local_addr()?.port();
        serve_udp(udp, token.clone());
        for address in self.context.addresses.iter().filter(|a| a.is_ipv6()) {
            if let Ok(udp) = UdpSocket::bind((*address, self.context.udp)) {
                serve_udp(udp, token.clone());
            }
        }
        let silent = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        silent.set_nonblocking(true)?;
        self.context.silent_udp = silent.local_addr()?.port();
        let _ = silent.join_multicast_v4(&Ipv4Addr::new(239, 255, 77, 77), &Ipv4Addr::UNSPECIFIED);
        self.silent.push(silent.into());
        Ok(())
    }

    fn serve_unix(&mut self, places: &[(&str, PathBuf)], unique: &str) -> io::Result<()> {
        let token = self.context.token.clone();
        for (name, folder) in places {
            let path = folder.join(format!("{unique}.sock"));
            let Ok(listener) = UnixListener::bind(&path) else { continue };
            self.remove.push(path.clone());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
            serve_stream(listener, token.clone());
            self.context.streams.push(((*name).to_owned(), path));
        }
        let listener = UnixListener::bind_addr(&UnixAddress::from_abstract_name(&self.context.abstract_stream)?)?;
        serve_stream(listener, token.clone());

        let work = self.base.join("work");
        self.context.seqpacket = work.join("seqpacket.sock");
        let seqpacket = errno(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None))?;
        errno(bind(seqpacket.as_raw_fd(), &UnixAddr::new(&self.context.seqpacket)?))?;
        errno(listen(&seqpacket, Backlog::MAXCONN))?;
        std::thread::spawn(move || {
            while let Ok(fd) = accept(seqpacket.as_raw_fd()) {
                let _ = nix::sys::socket::send(fd, token.as_bytes(), nix::sys::socket::MsgFlags::MSG_NOSIGNAL);
                let _ = nix::unistd::close(fd);
            }
        });

        self.context.datagram = work.join("datagram.sock");
        let by_path = UnixDatagram::bind(&self.context.datagram)?;
        let by_name = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(&self.context.abstract_datagram)?)?;
        for datagram in [by_path, by_name] {
            datagram.set_nonblocking(true)?;
            self.silent.push(datagram.into());
        }
        for (name, folder) in places.iter().filter(|(name, _)| ["tmp", "run"].contains(name)) {
            let path = folder.join(format!("{unique}.{name}.fifo"));
            if nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o666)).is_err() {
                continue;
            }
            self.remove.push(path.clone());
            let reader = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
            self.silent.push(reader.into());
            self.context.fifos.push(path);
        }
        Ok(())
    }

    fn make_shared(&mut self) -> io::Result<()> {
        let c = &self.context;
        // SAFETY: integers; the segment is attached where the kernel chooses and holds a page.
        unsafe {
            self.shared_memory = libc::shmget(c.ipc_key, 4096, libc::IPC_CREAT | 0o600);
            let at = libc::shmat(self.shared_memory, std::ptr::null(), 0);
            if at as isize != -1 {
                std::ptr::copy_nonoverlapping(c.token.as_ptr(), at.cast::<u8>(), c.token.len());
                libc::shmdt(at);
            }
            self.queue = libc::msgget(c.ipc_key, libc::IPC_CREAT | 0o600);
        }
        let name = c_string(&c.message_queue);
        // SAFETY: a terminated name; null attributes are the defaults.
        let queue = unsafe {
            libc::mq_open(name.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600, std::ptr::null::<libc::mq_attr>())
        };
        if queue >= 0 {
            // SAFETY: the descriptor is this function's own.
            unsafe { libc::mq_close(queue) };
        }
        let key = c_string(&c.key);
        // SAFETY: terminated names and a live buffer with its length. A kernel without keyrings has no such victim.
        unsafe {
            let ring = libc::KEY_SPEC_USER_KEYRING;
            libc::syscall(libc::SYS_add_key, c"user".as_ptr(), key.as_ptr(), c.token.as_ptr(), c.token.len(), ring);
        }
        Ok(())
    }

    /// Makes whole again what an attack may have used up, and forgets what came in.
    pub fn renew(&mut self) -> Result<(), SelftestError> {
        self.drain();
        let _ = fs::remove_file(&self.context.plant);
        self.fill_queue();
        if self.is_dead() {
            self.start_process().map_err(failed("a process"))?;
            let text = serde_json::to_vec(&self.context).map_err(|e| failed("the context")(e.into()))?;
            fs::write(&self.context.file, text).map_err(failed("the context"))?;
        }
        Ok(())
    }

    /// One message, and never more.
    fn fill_queue(&self) {
        let mut message = 1u64.to_ne_bytes().to_vec();
        message.extend_from_slice(self.context.token.as_bytes());
        let mut taken = [0u8; 512];
        // SAFETY: both buffers are longer than a type and the length given.
        unsafe {
            libc::msgrcv(self.queue, taken.as_mut_ptr().cast(), 500, 0, libc::IPC_NOWAIT);
            let length = self.context.token.len();
            libc::msgsnd(self.queue, message.as_ptr().cast(), length, libc::IPC_NOWAIT);
        }
    }

    fn start_process(&mut self) -> io::Result<()> {
        let mut child = Command::new(&self.context.program)
            .arg("selftest-victim")
            .arg(self.base.join("victim.sock"))
            .env("NETJAIL_SELFTEST_TOKEN", &self.context.token)
            .current_dir(&self.context.hidden)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        self.context.victim = serde_json::from_str(&line)?;
        self.process = Some(child);
        Ok(())
    }

    /// Whether the victim process has ended by now.
    pub fn is_dead(&mut self) -> bool {
        self.process.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Whether it ends, or has: a signal that was sent is delivered at once, but the end may take a moment.
    pub fn dies(&mut self) -> bool {
        if let Some(child) = &self.process {
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            crate::check::attacks::ends_within(pid, Duration::from_millis(200));
        }
        self.is_dead()
    }

    /// Whether something that an attack planted can be seen; it is removed.
    pub fn take_planted(&self) -> bool {
        let there = fs::symlink_metadata(&self.context.plant).is_ok_and(|m| m.is_file() || m.file_type().is_socket());
        let _ = fs::remove_file(&self.context.plant);
        there
    }

    /// Whether the token came in on one of the sockets that nobody else knows.
    pub fn arrived(&mut self) -> Outcome {
        let mut polled: Vec<PollFd<'_>> =
            self.silent.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        // Delivery on one machine is immediate; this is for a loaded one.
        let _ = poll(&mut polled, PollTimeout::from(60u8));
        drop(polled);
        if self.drain() {
            Ok("the message arrived outside".into())
        } else {
            Err("sent, but nothing arrived outside".into())
        }
    }

    fn drain(&mut self) -> bool {
        let mut came = false;
        for fd in &self.silent {
            let mut bytes = [0u8; 512];
            while let Ok(length @ 1..) = nix::unistd::read(fd, &mut bytes) {
                came |= bytes[..length].windows(self.context.token.len()).any(|w| w == self.context.token.as_bytes());
            }
        }
        came
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
        for path in self.remove.iter().rev() {
            if path.is_dir() { drop(fs::remove_dir_all(path)) } else { drop(fs::remove_file(path)) }
        }
        let _ = fs::remove_file(&self.context.plant);
        let name = c_string(&self.context.message_queue);
        let key = c_string(&self.context.key);
        // SAFETY: integers, terminated names and null pointers; all of it names objects that this process made.
        unsafe {
            libc::shmctl(self.shared_memory, libc::IPC_RMID, std::ptr::null_mut());
            libc::msgctl(self.queue, libc::IPC_RMID, std::ptr::null_mut());
            libc::mq_unlink(name.as_ptr());
            let ring = libc::KEY_SPEC_USER_KEYRING;
            let id = libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SEARCH, ring, c"user".as_ptr(), key.as_ptr(), 0);
            if id > 0 {
                libc::syscall(libc::SYS_keyctl, libc::KEYCTL_UNLINK, id, ring);
            }
        }
    }
}

fn c_string(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).unwrap_or_default()
}

fn is_writable(folder: &Path) -> bool {
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// The standard library's v6 listeners take IPv4 too, which the v4 listener has already.
fn v6_only(port: u16) -> io::Result<TcpListener> {
    let fd = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)))?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd.into())
}

fn serve_tcp(listener: TcpListener, token: String) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(token.as_bytes());
        }
    });
}

fn serve_udp(socket: UdpSocket, token: String) {
    std::thread::spawn(move || {
        let mut asked = [0u8; 64];
        while let Ok((_, from)) = socket.recv_from(&mut asked) {
            let _ = socket.send_to(token.as_bytes(), from);
        }
    });
}

fn serve_stream(listener: UnixListener, token: String) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(token.as_bytes());
        }
    });
}
