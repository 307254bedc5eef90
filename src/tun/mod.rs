//! The device: opened inside the jail's network namespace, used outside of it.
//!
//! A TUN device belongs to the namespace in which TUNSETIFF was called, whoever holds its descriptor afterwards. So the
//! jail's init, single-threaded and without a runtime, opens the queues here and hands the descriptors out; it keeps none.
//! Offloads are negotiated in the same place, because they decide what one read(2) means: with a virtio-net header before
//! each packet the kernel passes TCP super-segments of up to 64 KiB with partial checksums in both directions, and that,
//! bytes per system call, is what decides throughput (Documentation/networking/tuntap.rst, linux/if_tun.h).
//!
//! Addresses, routes, MTU and queue length are the namespace's affair, not this module's.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::utsname::uname;

/// The bytes of the virtio-net header before each packet (`struct virtio_net_hdr`, linux/virtio_net.h).
pub const VNET_HEADER: usize = 10;

/// The most queues that one device may have (MAX_TAP_QUEUES, drivers/net/tun.c).
pub const MAX_QUEUES: usize = 256;

const OFFLOAD_CHECKSUM: libc::c_uint = 0x01; // TUN_F_CSUM
const OFFLOAD_TCP: libc::c_uint = 0x02 | 0x04; // TUN_F_TSO4, TUN_F_TSO6
const OFFLOAD_UDP: libc::c_uint = 0x20 | 0x40; // TUN_F_USO4, TUN_F_USO6: Linux 6.2

/// The ioctls of linux/if_tun.h, by their numbers there.
mod ioctl {
    #![allow(missing_docs)] // the macros' functions can have no text of their own
    nix::ioctl_write_ptr_bad!(set_interface, 0x4004_54ca, libc::ifreq); // TUNSETIFF
    nix::ioctl_write_int_bad!(set_persist, 0x4004_54cb); // TUNSETPERSIST
    nix::ioctl_write_int_bad!(set_offload, 0x4004_54d0); // TUNSETOFFLOAD
    nix::ioctl_write_ptr_bad!(set_header_size, 0x4004_54d8, libc::c_int); // TUNSETVNETHDRSZ
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// No such file: the driver is not there, or the container does not pass the device on.
    #[error(
        "cannot open {path}: it does not exist; load the driver with `modprobe tun`, or, in a container, start it with \
         `--device /dev/net/tun`"
    )]
    Missing {
        /// What was opened.
        path: PathBuf,
    },
    /// The file's mode keeps this user out.
    #[error("cannot open {path}: permission denied; let every user open it with `chmod 0666 {path}`")]
    Forbidden {
        /// What was opened.
        path: PathBuf,
    },
    /// The kernel refused a step of the set-up.
    #[error("cannot set up the TUN device {name}: {step}: {source}; {remedy}")]
    Setup {
        /// The interface's name.
        name: String,
        /// The ioctl, by its name in linux/if_tun.h.
        step: &'static str,
        /// What to do.
        remedy: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A name that no interface can have, or a number of queues that no device can have.
    #[error(
        "cannot make a TUN device {name:?} with {queues} queues: a name has 1 to 15 bytes, and queues are 1 to 256"
    )]
    Argument {
        /// The name asked for.
        name: String,
        /// The queues asked for.
        queues: usize,
    },
    /// Anything else that opening gave.
    #[error("cannot open {path}: {source}; `netjail doctor` lists what this machine lacks")]
    Open {
        /// What was opened.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Where the device file is.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A path, usually `/dev/net/tun`.
    Path(&'a Path),
    /// A directory that is kept from the host's mount namespace: its file `tun`.
    Directory(BorrowedFd<'a>),
}

impl Source<'_> {
    fn name(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.to_path_buf(),
            Self::Directory(_) => PathBuf::from("/dev/net/tun"),
        }
    }

    fn open(&self) -> Result<OwnedFd, TunError> {
        let opened: io::Result<OwnedFd> = match self {
            Self::Path(path) => File::options()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
                .open(path)
                .map(OwnedFd::from),
            Self::Directory(directory) => {
                let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                openat(*directory, "tun", flags, Mode::empty()).map_err(io::Error::from)
            }
        };
        opened.map_err(|source| {
            let path = self.name();
            match source.kind() {
                io::ErrorKind::NotFound => TunError::Missing { path },
                io::ErrorKind::PermissionDenied => TunError::Forbidden { path },
                // ENODEV and ENXIO: the node is there, the driver is not.
                _ if matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => TunError::Missing { path },
                _ => TunError::Open { path, source },
            }
        })
    }
}

/// Makes the device `name` in the caller's network namespace and returns its queues: non-blocking, close-on-exec, each
/// with virtio-net headers of [`VNET_HEADER`] bytes. The number of queues is fixed for the device's life, since the kernel
/// would otherwise move flows between them.
///
/// The caller needs CAP_NET_ADMIN over the namespace.
pub fn open(source: Source<'_>, name: &str, queues: usize) -> Result<Vec<OwnedFd>, TunError> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || !(1..=MAX_QUEUES).contains(&queues) {
        return Err(TunError::Argument { name: name.to_owned(), queues });
    }
    let setup = |step, remedy| {
        move |errno: Errno| TunError::Setup { name: name.to_owned(), step, remedy, source: errno.into() }
    };
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    // SAFETY: ifreq is a plain C structure of integers and bytes, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;

    let mut opened = Vec::with_capacity(queues);
    for _ in 0..queues {
        let queue = source.open()?;
        let fd = queue.as_raw_fd();
        // SAFETY: TUNSETIFF reads one ifreq, which lives until the call returns.
        unsafe { ioctl::set_interface(fd, &raw const request) }
            .map_err(setup("TUNSETIFF", "the caller must own the network namespace (CAP_NET_ADMIN)"))?;
        let size = VNET_HEADER as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which lives until the call returns.
        unsafe { ioctl::set_header_size(fd, &raw const size) }
            .map_err(setup("TUNSETVNETHDRSZ", "use Linux 2.6.35 or later"))?;
        let wanted = OFFLOAD_CHECKSUM | OFFLOAD_TCP;
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        match unsafe { ioctl::set_offload(fd, (wanted | OFFLOAD_UDP) as libc::c_int) } {
            Err(Errno::EINVAL) => {
                // SAFETY: as above.
                unsafe { ioctl::set_offload(fd, wanted as libc::c_int) }
                    .map_err(setup("TUNSETOFFLOAD", "use Linux 4.18 or later"))?;
            }
            other => {
                other.map_err(setup("TUNSETOFFLOAD", "use Linux 4.18 or later"))?;
            }
        }
        opened.push(queue);
    }
    Ok(opened)
}

/// Whether a queue of [`open`]'s takes UDP super-datagrams in both directions (USO, Linux 6.2).
pub fn takes_super_datagrams(queue: BorrowedFd<'_>) -> bool {
    let all = OFFLOAD_CHECKSUM | OFFLOAD_TCP | OFFLOAD_UDP;
    // SAFETY: TUNSETOFFLOAD takes its argument by value. It is what `open` has asked for already, if the kernel has it.
    unsafe { ioctl::set_offload(queue.as_raw_fd(), all as libc::c_int) }.is_ok()
}

/// The most bytes of one TCP packet that the kernel takes from a TUN with virtio-net headers. Since Linux 6.3 that is not what
/// 16 bits can name, but what a socket buffer holds (BIG TCP for IPv4); here it is a quarter of a flow's ring, so that the others
/// can be filled while one is read.
pub fn longest_packet() -> usize {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    if release.is_ok_and(|release| is_since(&release, (6, 3))) { 256 * 1024 } else { 65_535 }
}

/// Whether a kernel's release (`6.18.1-generic`) is this one or a later one.
fn is_since(release: &str, since: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return false };
    (major, minor) >= since
}

/// Lets the device outlive its last descriptor, so that closing that one takes 0.07 ms instead of 23: the device then dies
/// with its namespace, in a worker of the kernel. To be called only once no process of the jail lives, because a device
/// that dies with its descriptors is what closes the way out when netjail itself is killed.
pub fn persist(queue: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    unsafe { ioctl::set_persist(queue.as_raw_fd(), 1) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_names_the_command_that_repairs_it() {
        let error = open(Source::Path(Path::new("/nonexistent/tun")), "nj0", 1).unwrap_err();
        assert!(matches!(error, TunError::Missing { .. }));
        assert!(error.to_string().contains("modprobe tun"), "{error}");
    }

    #[test]
    fn a_release_is_compared_by_its_numbers() {
        for later in ["6.3.0", "6.3-rc1", "6.18.44-x1", "10.0.1"] {
            assert!(is_since(later, (6, 3)), "{later}");
        }
        for earlier in ["6.2.16", "5.19.0-50-generic", "4.4.0", "6", "", "x6.9"] {
            assert!(!is_since(earlier, (6, 3)), "{earlier}");
        }
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_refused_before_anything_is_opened() {
        for (name, queues) in [("", 1), ("sixteen-bytes-xx", 1), ("nj0", 0), ("nj0", 257)] {
            assert!(matches!(open(Source::Path(Path::new("/")), name, queues), Err(TunError::Argument { .. })));
        }
    }

    #[test]
    fn a_file_that_is_no_tun_device_is_an_error_of_the_step_that_failed() {
        let error = open(Source::Path(Path::new("/dev/null")), "nj0", 1).unwrap_err();
        assert!(matches!(error, TunError::Setup { step: "TUNSETIFF", .. }), "{error}");
    }
}
