//! What the warden must know of the host for *direct*: its addresses, its hosts file, its resolvers; read here because the
//! relay opens no file, and read again when they change.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

/// No hosts file or resolv.conf is larger; what follows is not read. Bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// The beginning of a small text file; empty where it can not be read.
pub fn read_text(path: &str) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(LARGEST_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Tells when the host's addresses, hosts file or resolvers may have changed.
#[derive(Debug)]
pub struct Changes {
    links: OwnedFd,
    files: Inotify,
}

impl Changes {
    /// Begins to watch.
    pub fn watch() -> nix::Result<Self> {
        let links = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        // RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of rtnetlink(7).
        bind(links.as_raw_fd(), &NetlinkAddr::new(0, 0x10 | 0x100))?;
        let files = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let changes = Self { links, files };
        changes.watch_files();
        Ok(changes)
    }

    /// Watches the folders, for a file that is replaced by a rename takes its own watch away with it; and the files, for a
    /// file that is mounted there (as containers do) is written in another folder. Watching what is watched changes nothing.
    fn watch_files(&self) {
        let news = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            let _ = self.files.add_watch(file, AddWatchFlags::IN_CLOSE_WRITE);
            let real = fs::canonicalize(file).ok();
            for folder in [Path::new(file).parent(), real.as_deref().and_then(Path::parent)].into_iter().flatten() {
                let _ = self.files.add_watch(folder, news);
            }
        }
    }

    /// What to poll.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.links.as_fd(), self.files.as_fd()]
    }

    /// Takes the news; whether any of it may matter.
    pub fn take(&mut self) -> bool {
        let mut any = false;
        let mut buffer = [0; 4096];
        // ENOBUFS says that news were lost: something has changed then, too.
        while matches!(recv(self.links.as_raw_fd(), &mut buffer, MsgFlags::empty()), Ok(1..) | Err(Errno::ENOBUFS)) {
            any = true;
        }
        while let Ok(events) = self.files.read_events() {
            // An event without a name is a file's own.
            any |= events
                .iter()
                .any(|e| e.name.as_ref().is_none_or(|n| n == "resolv.conf" || n == "hosts" || n == "stub-resolv.conf"));
        }
        if any {
            self.watch_files();
        }
        any
    }
}
