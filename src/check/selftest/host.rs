//! What names this machine: the texts that must not be found inside.

use std::fs;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

/// The host's addresses but the loopbacks, and its interfaces with a hardware address.
pub fn own_links() -> (Vec<IpAddr>, Vec<(String, String)>) {
    let (mut addresses, mut links) = (Vec::new(), Vec::new());
    let Ok(list) = getifaddrs() else { return (addresses, links) };
    for interface in list {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in().map(|a| a.ip()).filter(|a| !a.is_loopback()) {
            addresses.push(v4.into());
        }
        // Link-local ones need an interface to be reached, and are the MAC in another form.
        let v6 = address.as_sockaddr_in6().map(|a| a.ip());
        if let Some(v6) = v6.filter(|a| !a.is_loopback() && !a.is_unicast_link_local()) {
            addresses.push(v6.into());
        }
        if let Some(mac) = address.as_link_addr().and_then(|link| link.addr()).filter(|mac| *mac != [0; 6]) {
            links.push((interface.interface_name, mac.map(|b| format!("{b:02x}")).join(":")));
        }
    }
    (addresses, links)
}

/// Whatever names this machine, as far as this user can read it.
pub fn host_strings(addresses: &[IpAddr], links: &[(String, String)], hostname: &str) -> Vec<(String, String)> {
    let mut strings: Vec<(String, String)> = Vec::new();
    for (name, mac) in links {
        strings.push((format!("MAC of {name}"), mac.clone()));
    }
    for address in addresses {
        strings.push((format!("address {address}"), address.to_string()));
        match address {
            // /proc/net/route and its kind write addresses in hexadecimal, in the machine's own byte order.
            IpAddr::V4(v4) => {
                strings.push((format!("address {address}"), format!("{:08X}", u32::from_ne_bytes(v4.octets()))))
            }
            IpAddr::V6(v6) => {
                strings.push((format!("address {address}"), v6.octets().iter().map(|b| format!("{b:02x}")).collect()))
            }
        }
    }
    let files = [
        ("boot id", "/proc/sys/kernel/random/boot_id"),
        ("machine id", "/etc/machine-id"),
        ("machine id", "/var/lib/dbus/machine-id"),
        ("board's UUID", "/sys/class/dmi/id/product_uuid"),
        ("board's serial number", "/sys/class/dmi/id/product_serial"),
    ];
    for (what, path) in files {
        let text = fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        if text.len() >= 8 {
            strings.push((what.into(), text));
        }
    }
    for entry in fs::read_dir("/etc/ssh").into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "pub")
            && let Some(key) = fs::read_to_string(&path).unwrap_or_default().split(' ').nth(1)
        {
            strings.push(("ssh host key".into(), key.to_owned()));
        }
    }
    // A short name is a word of many files; the exact places are cases of their own.
    if hostname.len() >= 6 && hostname != "localhost" {
        strings.push(("host name".into(), hostname.to_owned()));
    }
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for resolver in resolvers.lines().filter_map(|line| line.strip_prefix("nameserver")) {
        strings.push(("resolver".into(), resolver.trim().to_owned()));
    }
    strings
}
