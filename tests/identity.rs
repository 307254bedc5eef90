//! What names the host is not to be found in a jail, wherever one looks: planted strings in a host of the test's own (network,
//! name, mounts), and the machine's own boot id and kernel command line, which can't be planted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use lab::{Finished, Jail};

const NAME: &str = "planted-host-9c1f";
const MAC: [u8; 6] = [0x06, 0x9c, 0x1f, 0x77, 0x21, 0x43];
const V4: [u8; 4] = [198, 18, 77, 33];
const V6: &str = "fd77:9c1f:21::33";

/// The source of a local file system stands in mountinfo and can't be given another name there: the one thing that stays.
/// (Debian's installer calls a volume group after the host: docs/selftest.md says so.)
const DISK: &str = "disk=planted-disk-9c1f";

/// What is searched for, as (what, bytes).
fn planted() -> Vec<(&'static str, Vec<u8>)> {
    let v6: std::net::Ipv6Addr = V6.parse().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap();
    let mut all = vec![
        ("mac", b"06:9c:1f:77:21:43".to_vec()),
        ("mac", MAC.to_vec()),
        ("v4", b"198.18.77.33".to_vec()),
        ("v4", V4.to_vec()),
        // As in /proc/net/route, in the byte order of little-endian machines.
        ("v4", b"214D12C6".to_vec()),
        ("v6", V6.as_bytes().to_vec()),
        ("v6", v6.octets().to_vec()),
        ("v6", v6.octets().iter().flat_map(|b| format!("{b:02x}").into_bytes()).collect()),
        ("name", NAME.into()),
        ("boot-id", boot.trim().into()),
    ];
    if command_line.trim().len() > 20 {
        all.push(("command-line", command_line.trim().into()));
    }
    let texts = [
        "resolver=198.18.77.53",
        "machine-id=9c1f77219c1f77219c1f77219c1f7721",
        "host-key=AAAAC3NzaC1lZDI1NTE5AAAAIplantedhostkey9c1f",
        "lease=198.18.77.67",
        "lease-name=planted-lease-9c1f",
        "utmp=planted-utmp-9c1f",
        "log=planted-log-9c1f",
        "nfs=planted-nfs-9c1f",
        DISK,
        "nis=planted-nis-9c1f",
        "connection=198.18.77.91",
        "cloud=planted-cloud-9c1f",
    ];
    all.extend(texts.iter().map(|pair| pair.split_once('=').unwrap()).map(|(what, text)| (what, text.into())));
    all
}

/// Makes the host: in network, mount and UTS namespaces of its own, as root.
const HOST: &str = r#"
set -e
mount --make-rprivate /
hostname planted-host-9c1f; echo planted-nis-9c1f >/proc/sys/kernel/domainname
ip link set lo up
ip link add wan0 address 06:9c:1f:77:21:43 type veth peer name wan1; ip link set wan1 up
ip addr add 198.18.77.33/24 dev wan0; ip -6 addr add fd77:9c1f:21::33/64 dev wan0 nodad; ip link set wan0 up
mount -t sysfs sysfs /sys
layers=$1; mount -t tmpfs layers $layers
for folder in etc var/lib; do
    name=${folder%/*}; mkdir -p $layers/$name/up $layers/$name/work
    mount -t overlay -o lowerdir=/$folder,upperdir=$layers/$name/up,workdir=$layers/$name/work overlay /$folder
done
for folder in run var/log; do name=${folder#*/}; mkdir $layers/$name; mount --bind $layers/$name /$folder; done
plant() { mkdir -p "$(dirname "$1")"; rm -f "$1"; printf '%s\n' "$2" >"$1"; }
plant /etc/hostname planted-host-9c1f
plant /etc/mailname planted-host-9c1f
plant /etc/hosts "127.0.0.1 localhost
198.18.77.33 planted-host-9c1f"
plant /etc/resolv.conf "nameserver 198.18.77.53"
plant /etc/machine-id 9c1f77219c1f77219c1f77219c1f7721
plant /var/lib/dbus/machine-id 9c1f77219c1f77219c1f77219c1f7721
plant /etc/ssh/ssh_host_ed25519_key.pub "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIplantedhostkey9c1f root@planted-host-9c1f"
plant /etc/fstab "planted-nfs-9c1f:/export /mnt nfs defaults 0 0"
plant /etc/network/interfaces "address 198.18.77.33"
plant /etc/netplan/50.yaml "macaddress: 06:9c:1f:77:21:43"
plant /etc/NetworkManager/system-connections/wan.nmconnection "mac-address=06:9c:1f:77:21:43"
plant /etc/cloud/cloud.cfg planted-cloud-9c1f
plant /var/lib/cloud/data/instance-id planted-cloud-9c1f
plant /var/lib/dhcp/dhclient.wan0.leases 'option dhcp-server-identifier 198.18.77.67; option host-name "planted-lease-9c1f";'
plant /var/lib/NetworkManager/internal-x-wan0.lease "ADDRESS=198.18.77.67"
plant /run/systemd/netif/leases/2 "SERVER_ADDRESS=198.18.77.67"
plant /run/NetworkManager/devices/2 "perm-hw-addr-fake=06:9c:1f:77:21:43"
plant /run/utmp planted-utmp-9c1f
plant /var/log/wtmp planted-utmp-9c1f
plant /var/log/lastlog planted-utmp-9c1f
plant /var/log/syslog planted-log-9c1f
chmod -R a+rX /etc/ssh/*.pub /etc/netplan /etc/NetworkManager /etc/cloud /run /var/log /var/lib/cloud /var/lib/dhcp /var/lib/NetworkManager
mkdir -p $layers/disk $layers/served; mkdir -p /var/lib/planted-mounts/share /var/lib/planted-mounts/disk
mount -t tmpfs planted-disk-9c1f /var/lib/planted-mounts/disk
if [ -n "$2" ]; then
    bindfs -f -o fsname=planted-nfs-9c1f:/export $layers/served /var/lib/planted-mounts/share &
    echo $! >$1.server
    until mountpoint -q /var/lib/planted-mounts/share; do kill -0 $!; sleep 0.02; done
fi
export SSH_CONNECTION='198.18.77.91 4711 198.18.77.33 22' SSH_CLIENT='198.18.77.91 4711 22' HOSTNAME=planted-host-9c1f
export DISPLAY=planted-host-9c1f:10.0 SESSION_MANAGER=local/planted-host-9c1f:@/tmp/.ICE-unix/1
export KUBERNETES_SERVICE_HOST=198.18.77.33
shift 2; exec "$@"
"#;

fn search(jail: &Jail, host: &Path, before: &[&str], words: &[String]) -> Finished {
    let layers = tempfile::tempdir_in(host).unwrap();
    let fuse = lab::program("bindfs").map_or("", |_| "fuse");
    let mut all = vec!["-mnu", "--", "bash", "-c", HOST, "host", layers.path().to_str().unwrap(), fuse];
    all.extend(before);
    all.extend(words.iter().map(String::as_str));
    let command = jail.command(Path::new("unshare"), &all);
    let done = lab::Running::start(command).finish_within(Duration::from_secs(240));
    if let Ok(pid) = std::fs::read_to_string(layers.path().with_extension("server")) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGTERM);
    }
    done
}

#[test]
fn nothing_that_names_the_host_is_found_inside() {
    root_only!();
    let python = lab::program("python3");
    require!(python.is_some(), "no python3 outside of root's home");
    let user = lab::ordinary_user();
    require!(user.is_some(), "no ordinary user to become");
    let (user, python) = (user.unwrap().name, python.unwrap().to_str().unwrap().to_owned());
    let host = tempfile::tempdir_in("/mnt").unwrap();

    let looking = |jail: &Jail| {
        let text: String = planted()
            .iter()
            .map(|(what, bytes)| format!("{what} {}\n", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()))
            .collect();
        std::fs::write(jail.work().join("wanted"), text).unwrap();
        std::fs::write(jail.work().join("search.py"), include_str!("tools/search.py")).unwrap();
    };
    let words = [python, "search.py".into(), "wanted".into()];
    let (of_root, of_user) = (Jail::new(), Jail::of_an_ordinary_user().unwrap());
    looking(&of_root);
    looking(&of_user);

    // Without a jail everything is found, so the search is not blind.
    let control = search(&of_root, host.path(), &[], &words).good();
    let seen: BTreeSet<String> =
        control.facts("found").iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
    let blind: Vec<_> = planted().iter().map(|(what, _)| *what).filter(|what| !seen.contains(*what)).collect();
    assert!(blind.is_empty(), "not found outside: {blind:?}\n{control:#?}");

    let netjail = |jail: &Jail, more: &[&str]| -> Vec<String> {
        let registry = jail.registry_file();
        let all = [lab::jail::binary(), "run".into(), "--registry".into(), registry.display().to_string()].into_iter();
        let all = all.chain(["--network".into(), "nil".into()]).chain(more.iter().map(|w| (*w).to_owned()));
        all.chain(["--".into()]).chain(words.iter().cloned()).collect()
    };
    let become_user = ["runuser", "-u", &user, "--"];
    let ways: [(&str, &Jail, &[&str], Vec<String>); 4] = [
        ("root", &of_root, &[], netjail(&of_root, &[])),
        ("root as a user", &of_user, &[], netjail(&of_user, &["--user", &user])),
        ("a user", &of_user, &become_user, netjail(&of_user, &[])),
        ("a user, direct to a private network", &of_user, &become_user, netjail(&of_user, &["--allow-lan"])),
    ];
    for (who, jail, before, words) in ways {
        let done = search(jail, host.path(), before, &words).good();
        let mut found = done.facts("found");
        found.retain(|line| !(line.starts_with("disk /proc/") && line.contains("/mount")));
        assert_eq!(found, Vec::<String>::new(), "{who}");
        let files: u32 = done.fact("files").parse().unwrap();
        assert!(files > 500, "{who}: only {files} files were read");
    }
}
