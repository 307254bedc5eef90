//! The ways of reaching the target that are compared: no jail at all, netjail in several settings, its peers.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::table::Group::{self, Bulk, Connects, Dns, Held, Idle, Lives, Trips, Udp, Workers};
use crate::{FAR_V4, MINDING_PORT, PROXY_PORT, RESOLVER, TARGET_V4, TARGET_V6};

/// What ratios are ratios to: the same client, the same proxy, no jail.
pub const BOUND: &str = "socks5";

/// One way of reaching the target.
#[derive(Clone)]
pub struct Variant {
    pub name: String,
    /// What stands before the client's own command; empty without a launcher.
    pub launcher: Vec<String>,
    pub host: &'static str,
    /// The client speaks SOCKS5 itself, to the proxy at this port.
    pub socks: Option<u16>,
    /// What it takes part in.
    pub groups: &'static [Group],
    /// The variant that it is held against; its own figures are then taken beside that one's.
    pub bound: Option<&'static str>,
    /// Held to the targets.
    pub judged: bool,
    /// Takes part in every third round only.
    pub seldom: bool,
    /// Whether `--quick` has the time for it.
    pub quick: bool,
    /// Why it can not be measured.
    pub missing: Option<String>,
}

/// What the variants are made from.
pub struct Given<'a> {
    pub netjail: &'a str,
    /// Where configuration may be written that an ordinary user reads.
    pub folder: &'a Path,
    /// More launchers, or other commands for known ones: a name, and what stands before the client's command.
    pub peers: &'a [(String, String)],
}

const TARGETS: &[Group] = &[Bulk, Trips, Connects, Idle];
const ALL: &[Group] = &[Bulk, Trips, Connects, Udp, Lives, Idle, Held];
const PLAIN: &[Group] = &[Bulk, Trips, Connects, Udp, Lives, Idle];
const PATH: &[Group] = &[Bulk, Trips, Connects];

/// All of them, in the order of the report; a bound before those that are held against it.
pub fn all(given: &Given<'_>) -> io::Result<Vec<Variant>> {
    let registry = given.folder.join("registry.yaml");
    let proxy =
        |name: &str, port| format!("  - {{name: {name}, kind: network.socks5, host: 127.0.0.1, port: {port}}}\n");
    let proxies = proxy("proxy", PROXY_PORT) + &proxy("minds", MINDING_PORT);
    std::fs::write(&registry, format!("version: \"1.0\"\nnamespace: bench\nentries:\n{proxies}"))?;
    let (registry, log) = (registry.display(), given.folder.join("home/log"));
    let netjail = |network: &str, more: &str| {
        words(&format!("{} run -q --registry {registry} --network {network} {more} --", given.netjail))
    };
    let through = |more| netjail("bench:proxy", more);
    let plain = |name: &str, host, socks, groups| Variant {
        name: name.into(),
        launcher: Vec::new(),
        host,
        socks,
        groups,
        bound: None,
        judged: false,
        seldom: false,
        quick: true,
        missing: None,
    };
    let jail =
        |name: &str, launcher, host, groups, bound| Variant { launcher, bound, ..plain(name, host, None, groups) };
    let judged = |name: &str, launcher, host, groups, bound| Variant {
        judged: true,
        ..jail(name, launcher, host, groups, bound)
    };
    let seldom = |variant| Variant { seldom: true, ..variant };
    let long = |variant| Variant { quick: false, ..variant };

    let mut all = vec![
        seldom(Variant { bound: Some(BOUND), ..plain("loopback", TARGET_V4, None, PLAIN) }),
        plain(BOUND, TARGET_V4, Some(PROXY_PORT), PLAIN),
        judged("netjail", through(""), TARGET_V4, ALL, Some(BOUND)),
        judged("netjail mtu 1500", through("--mtu 1500"), TARGET_V4, TARGETS, Some(BOUND)),
        long(plain(BOUND_V6, TARGET_V6, Some(PROXY_PORT), TARGETS)),
        long(judged("netjail v6", through(""), TARGET_V6, TARGETS, Some(BOUND_V6))),
        long(judged("netjail v6 mtu 1500", through("--mtu 1500"), TARGET_V6, TARGETS, Some(BOUND_V6))),
        judged("netjail, log on", through(&format!("--log {}", log.display())), RESOLVER, &[Dns], None),
        jail("netjail, sockets host", through("--sockets host"), TARGET_V4, &[Connects], Some(BOUND)),
        plain(MINDS, TARGET_V4, Some(MINDING_PORT), &[Connects]),
        jail("netjail, none ahead", netjail("bench:minds", ""), TARGET_V4, &[Connects], Some(MINDS)),
        long(seldom(jail("netjail workers 2", through("--workers 2"), TARGET_V4, PATH, Some(BOUND)))),
        long(seldom(plain(VETH, FAR_V4, None, PATH))),
        long(seldom(jail("netjail direct", netjail("direct", ""), FAR_V4, PATH, Some(VETH)))),
        jail(ONE_WORKER, netjail("direct", ""), FAR_V4, &[Workers], None),
        judged("netjail direct, 2 workers", netjail("direct", "--workers 2"), FAR_V4, &[Workers], Some(ONE_WORKER)),
    ];
    for (name, command) in peers(given)? {
        let launcher = words(&command);
        let missing =
            launcher.iter().find_map(|word| word.strip_prefix(NEEDS)).or(launcher.first().map(String::as_str));
        let missing =
            missing.filter(|program| !installed(program)).map(|program| format!("{program} is not installed"));
        let launcher = launcher.into_iter().filter(|word| !word.starts_with(NEEDS)).collect();
        let peer = jail(&name, launcher, TARGET_V4, PLAIN, Some(BOUND));
        all.push(Variant { missing, ..seldom(peer) });
    }
    Ok(all)
}

const BOUND_V6: &str = "socks5 v6";
const MINDS: &str = "socks5, minds";
const VETH: &str = "veth";
const ONE_WORKER: &str = "netjail direct, 1 worker";

/// Before the name of the program that a peer's script needs.
const NEEDS: &str = "needs:";

fn words(command: &str) -> Vec<String> {
    command.split_whitespace().map(str::to_owned).collect()
}

fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|at| at.join(program)).any(|file| file.exists());
    found || program.contains('/') && Path::new(program).exists()
}

/// The peers that the bench knows how to start, and those that were named.
fn peers(given: &Given<'_>) -> io::Result<Vec<(String, String)>> {
    let write = |name: &str, text: &str| -> io::Result<PathBuf> {
        let path = given.folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let chains = format!("strict_chain\nquiet_mode\n[ProxyList]\nsocks5 127.0.0.1 {PROXY_PORT}\n");
    let chains = write("proxychains.conf", &chains)?;
    let (slirp, tun2proxy) = (write("slirp", SLIRP)?, write("tun2proxy", TUN2PROXY)?);
    std::fs::create_dir_all(given.folder.join("shim"))?;
    std::fs::set_permissions(write("shim/unshare", UNSHARE)?, Permissions::from_mode(0o755))?;
    let mut peers = vec![
        ("pasta".into(), "pasta --config-net -q --".into()),
        ("slirp4netns".into(), format!("bash {} {NEEDS}slirp4netns", slirp.display())),
        ("proxychains4".into(), format!("proxychains4 -q -f {}", chains.display())),
        ("tun2proxy".into(), format!("bash {} {NEEDS}tun2proxy-bin {PROXY_PORT}", tun2proxy.display())),
    ];
    for (name, command) in given.peers {
        peers.retain(|(known, _)| known != name);
        peers.push((name.clone(), command.clone()));
    }
    Ok(peers)
}

/// slirp4netns joins a namespace that somebody else made.
const SLIRP: &str = r#"
dir=$(mktemp -d -p "$HOME"); mkfifo "$dir/pid" "$dir/ready" "$dir/go"
exec 3<&0
unshare --user --map-root-user --net bash -c 'd=$0; echo $$ >"$d/pid"; read -r _ <"$d/go"; exec "$@"' "$dir" "$@" <&3 3<&- &
job=$!
read -r pid <"$dir/pid"
slirp4netns --configure --mtu=65520 -r 5 "$pid" tap0 5>"$dir/ready" >/dev/null 2>&1 &
helper=$!
read -r _ <"$dir/ready"
echo go >"$dir/go"
rm -rf "$dir"
wait "$job"; status=$?
kill "$helper" 2>/dev/null
exit "$status"
"#;

/// tun2proxy takes a proxy on the loopback for one behind its own device, as long as the loopback of its namespace is down:
/// the unshare(1) that it starts brings that up.
const TUN2PROXY: &str = r#"
shim=$(dirname "$0")/shim port=$1; shift
PATH=$shim:$PATH exec tun2proxy-bin -v error --unshare --setup --max-sessions 60000 --mtu 65520 \
    --proxy "socks5://127.0.0.1:$port" -- "$@"
"#;
const UNSHARE: &str = r#"#!/bin/bash
PATH=${PATH#*:} exec unshare "${@:1:7}" sh -c 'ip link set lo up && exec "$0" "$@"' "${@:8}"
"#;
