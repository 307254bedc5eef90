//! What names the host on a network: addresses, names, ids. Each place is searched for the host's own strings.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;

use super::call::{Arg, any, call, refused, socket};
use super::search;
use super::{Attack, Context, Outcome};

pub const ATTACKS: &[Attack] = &[
    Attack::new("interfaces", "find the host's addresses or MACs with getifaddrs (netlink dumps)", interfaces),
    Attack::new("interface-ioctl", "find a MAC of the host with SIOCGIFHWADDR", |c| {
        any(&c.interfaces, |(name, mac)| {
            let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(refused("socket"))?;
            let mut request = [0u8; 40];
            let length = name.len().min(15);
            request[..length].copy_from_slice(&name.as_bytes()[..length]);
            let number = Arg::Int(fd.as_raw_fd().into());
            call(libc::SYS_ioctl, &mut [number, Arg::Int(0x8927), Arg::Buffer(&mut request)]).map_err(refused(name))?;
            let found = request[18..24].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
            if found == *mac { Ok(format!("{name} has {mac}")) } else { Err(format!("{name} has {found}")) }
        })
    }),
    Attack::new("bind-own-address", "bind a socket to an address of the host", |c| {
        // A namespace without any address lets every address be bound, and has none of the host's for it.
        if std::net::UdpSocket::bind(("198.51.100.77", 0)).is_ok() {
            return Err("any address can be bound here".into());
        }
        any(&c.addresses, |address| {
            std::net::UdpSocket::bind((*address, 0))
                .map(|_| format!("bound to {address}"))
                .map_err(|e| format!("{address}: {e}"))
        })
    }),
    Attack::new("host-name", "read the host's name with uname", |c| {
        let name = nix::unistd::gethostname().map_err(refused("gethostname"))?;
        if name.to_string_lossy() == c.hostname {
            Ok("uname has the host's name".into())
        } else {
            Err("another".into())
        }
    }),
    Attack::new("host-name-file", "read the host's name in /etc", |c| {
        any(["/etc/hostname", "/etc/mailname", "/proc/sys/kernel/hostname"], |path| {
            let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
            if text.trim() == c.hostname {
                Ok(format!("{path} has the host's name"))
            } else {
                Err(format!("{path}: another"))
            }
        })
    }),
    Attack::new("machine-id", "read the machine id", |c| {
        any(["/etc/machine-id", "/var/lib/dbus/machine-id"], |path| search::file(path, c))
    }),
    Attack::new("boot-id", "read the boot id", |c| search::file("/proc/sys/kernel/random/boot_id", c)),
    Attack::new("command-line", "read the kernel's command line", |_| {
        let text = fs::read_to_string("/proc/cmdline").map_err(|e| e.to_string())?;
        if text.trim().is_empty() { Err("empty".into()) } else { Ok(format!("/proc/cmdline has {} bytes", text.len())) }
    }),
    Attack::new("resolver", "read the host's resolvers", |c| search::file("/etc/resolv.conf", c)),
    Attack::new("environment", "find variables that name the host or lead to its sockets", |c| {
        let found: Vec<String> = std::env::vars_os()
            .filter(|(_, value)| c.environment.iter().any(|text| value.to_string_lossy().contains(text.as_str())))
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect();
        if found.is_empty() { Err("none of the planted ones".into()) } else { Ok(found.join(" ")) }
    }),
    Attack::new("mount-table", "find the host's strings in the mount table", |c| {
        any(["/proc/self/mountinfo", "/proc/self/mounts", "/proc/self/mountstats"], |path| search::file(path, c))
    }),
    Attack::new("search-proc", "search all of /proc", |c| search::trees(&["/proc"], c)),
    Attack::new("search-sys", "search all of /sys", |c| search::trees(&["/sys"], c)),
    Attack::new("search-etc", "search all of /etc", |c| search::written_trees(&["/etc"], c)),
    Attack::new("search-run", "search all of /run", |c| search::trees(&["/run", "/var/run"], c)),
    Attack::new("search-logs", "search logs, leases and what installers left", |c| {
        search::written_trees(
            &[
                "/var/log",
                "/var/lib/dhcp",
                "/var/lib/dhcpcd",
                "/var/lib/NetworkManager",
                "/var/lib/cloud",
                "/var/lib/systemd",
                "/var/lib/dbus",
                "/var/spool",
                "/var/cache",
                "/boot",
            ],
            c,
        )
    }),
    Attack::new("search-dev", "search the names in /dev", |c| search::trees(&["/dev"], c)),
];

fn interfaces(c: &Context) -> Outcome {
    let list = getifaddrs().map_err(refused("getifaddrs"))?;
    for interface in list {
        let Some(address) = interface.address else { continue };
        let ip: Option<IpAddr> = (address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip())))
            .or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())));
        if let Some(ip) = ip.filter(|ip| c.addresses.contains(ip)) {
            return Ok(format!("{} has {ip}", interface.interface_name));
        }
        let mac = address.as_link_addr().and_then(|link| link.addr());
        let mac = mac.map(|mac| mac.map(|b| format!("{b:02x}")).join(":"));
        if let Some((name, mac)) = c.interfaces.iter().find(|(_, known)| Some(known) == mac.as_ref()) {
            return Ok(format!("{name} has {mac}"));
        }
    }
    Err("none of the host's".into())
}
