//! What an address is to the host.
//!
//! An IPv6 address can carry an IPv4 address that some router or the kernel itself will unwrap: v4-mapped, v4-compatible,
//! NAT64, 6to4, Teredo, ISATAP. Each such address is judged as every address in it as well, and the strictest answer holds.
//! The ranges are those of the IANA special-purpose registries; documentation prefixes are not among the refused, for they
//! lead nowhere outside a test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::Rule;

/// The IPv4 addresses of every jail: gateway, resolver, itself, and the pool for names (RFC 2544's range).
pub const JAIL_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15);

/// The IPv6 addresses of every jail (a unique local prefix, RFC 4193).
pub const JAIL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd6e, 0x6a61, 0x696c, 0, 0, 0, 0, 0), 64);

/// An address of the host, or a prefix that it takes for itself, with the prefix that is on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnAddress {
    /// The address, or all of these addresses.
    pub address: IpNet,
    /// What the interface reaches without a router.
    pub on_link: IpNet,
}

/// Metadata services of the large clouds, on whatever range they lie.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), // EC2, GCE, Azure, Oracle, OpenStack and others
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),   // ECS tasks
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure's wire server: a public address that never leaves the host
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle, classic
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // EC2
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // GCE
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)), // Scaleway
];

/// Judges an address that the host itself would dial.
pub fn judge_direct(ip: IpAddr, host: &[OwnAddress], allow_lan: bool) -> Rule {
    let mut verdict = judge_one(ip, host);
    if let IpAddr::V6(v6) = ip {
        for v4 in embedded(v6).into_iter().flatten() {
            verdict = stricter(verdict, judge_one(IpAddr::V4(v4), host));
        }
    }
    match verdict {
        Rule::Private | Rule::OnLink if allow_lan => Rule::AllowLan,
        rule => rule,
    }
}

/// Judges an address that a proxy would dial. The proxy's own loopback and link are its business: they are what its
/// operator opens or closes, and a name that resolves there could not be seen from here anyway.
pub fn judge_proxied(ip: IpAddr) -> Rule {
    match ip.to_canonical() {
        IpAddr::V4(v4) if JAIL_V4.contains(&v4) => Rule::UnknownPoolAddress,
        IpAddr::V6(v6) if JAIL_V6.contains(&v6) => Rule::UnknownPoolAddress,
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Rule::Unspecified,
        ip if ip.is_unspecified() => Rule::Unspecified,
        ip if ip.is_multicast() => Rule::Multicast,
        IpAddr::V4(Ipv4Addr::BROADCAST) => Rule::Broadcast,
        _ => Rule::Default,
    }
}

/// Always forbidden beats forbidden without `--allow-lan` beats allowed.
fn stricter(a: Rule, b: Rule) -> Rule {
    let rank = |rule| match rule {
        Rule::Default => 0,
        Rule::Private | Rule::OnLink => 1,
        _ => 2,
    };
    if rank(b) > rank(a) { b } else { a }
}

/// One address as it stands. The most telling name comes first, and everything that is always forbidden comes before
/// what `--allow-lan` opens.
fn judge_one(ip: IpAddr, host: &[OwnAddress]) -> Rule {
    if METADATA.contains(&ip) {
        return Rule::Metadata;
    }
    let always = match ip {
        IpAddr::V4(v4) => always_v4(v4),
        IpAddr::V6(v6) => always_v6(v6),
    };
    if let Some(rule) = always {
        return rule;
    }
    if host.iter().any(|own| own.address.contains(&ip)) {
        return Rule::HostAddress;
    }
    if let IpAddr::V4(v4) = ip
        && host.iter().any(|own| is_directed_broadcast(v4, &own.on_link))
    {
        return Rule::Broadcast;
    }
    if is_private(ip) {
        return Rule::Private;
    }
    if host.iter().any(|own| own.on_link.contains(&ip)) {
        return Rule::OnLink;
    }
    Rule::Default
}

fn always_v4(ip: Ipv4Addr) -> Option<Rule> {
    match ip.octets() {
        [0, ..] => Some(Rule::Unspecified),
        [127, ..] => Some(Rule::HostLoopback),
        [169, 254, ..] => Some(Rule::LinkLocal),
        [224..=239, ..] => Some(Rule::Multicast),
        [255, 255, 255, 255] => Some(Rule::Broadcast),
        [240..=255, ..] => Some(Rule::Reserved),
        _ if JAIL_V4.contains(&ip) => Some(Rule::JailRange),
        _ => None,
    }
}

fn always_v6(ip: Ipv6Addr) -> Option<Rule> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Rule::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Rule::HostLoopback),
        [0xfe80..=0xfebf, ..] => Some(Rule::LinkLocal),
        [0xfec0..=0xfeff, ..] => Some(Rule::SiteLocal),
        [0xff00..=0xffff, ..] => Some(Rule::Multicast),
        _ if JAIL_V6.contains(&ip) => Some(Rule::JailRange),
        _ => None,
    }
}

/// The first and the last address of a prefix with more than two: older kernels answer to both (RFC 1812 section 5.3.5).
fn is_directed_broadcast(ip: Ipv4Addr, on_link: &IpNet) -> bool {
    match on_link {
        IpNet::V4(net) => net.prefix_len() < 31 && (ip == net.broadcast() || ip == net.network()),
        IpNet::V6(_) => false,
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || matches!(v4.octets(), [100, 64..=127, ..] | [192, 0, 0, _]),
        // fc00::/7, and the site's own NAT64 prefix (RFC 8215), behind which the site's own hosts lie.
        IpAddr::V6(v6) => matches!(v6.segments(), [0xfc00..=0xfdff, ..] | [0x64, 0xff9b, 1, ..]),
    }
}

/// The IPv4 addresses that an IPv6 address can carry; all possible readings, for nobody can know which one a router takes.
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 5] {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    // ISATAP (RFC 5214 section 6.1) is an interface identifier and fits behind any prefix.
    let isatap = if s[4] & 0xfdff == 0 && s[5] == 0x5efe { v4(s[6], s[7]) } else { None };
    match s {
        // `::` and `::1` are no v4-compatible addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None; 5],
        // v4-compatible (RFC 4291 section 2.5.5.1), v4-mapped (2.5.5.2), v4-translated (RFC 2765 section 2.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => [v4(s[6], s[7]), None, None, None, None],
        // NAT64 (RFC 6052 section 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => [v4(s[6], s[7]), None, None, None, None],
        [0x64, 0xff9b, 1, ..] => {
            // The site's own NAT64 prefix may be a /48, /56, /64 or /96, and the address steps over byte 8 (RFC 6052
            // section 2.2). A wrong reading finds the padding, zeros; and no translator leads to 0.0.0.0/8.
            let [.., b6, b7, _, b9, b10, b11, b12, b13, b14, b15] = ip.octets();
            let readings = [[b6, b7, b9, b10], [b7, b9, b10, b11], [b9, b10, b11, b12], [b12, b13, b14, b15]];
            let [a, b, c, d] = readings.map(|octets| (octets[0] != 0).then(|| Ipv4Addr::from(octets)));
            [a, b, c, d, isatap]
        }
        // Teredo: its server, and its client with all bits turned (RFC 4380 section 4).
        [0x2001, 0, ..] => [v4(s[2], s[3]), v4(!s[6], !s[7]), isatap, None, None],
        // 6to4 (RFC 3056 section 2).
        [0x2002, ..] => [v4(s[1], s[2]), isatap, None, None, None],
        _ => [isatap, None, None, None, None],
    }
}
