use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::flow::Refusal;

fn direct(allow_lan: bool) -> Table {
    let own = |address: &str, on_link: &str| OwnAddress {
        address: address.parse::<std::net::IpAddr>().unwrap().into(),
        on_link: on_link.parse().unwrap(),
    };
    Table {
        generation: 7,
        network: Id::direct(),
        direct: true,
        allow_lan,
        host: vec![
            own("127.0.0.1", "127.0.0.0/8"),
            own("203.0.113.7", "203.0.113.0/24"),
            own("10.1.2.3", "10.1.0.0/16"),
            own("192.0.2.9", "192.0.2.9/32"),
            own("2001:db8:1::5", "2001:db8:1::/64"),
            own("fe80::1", "fe80::/64"),
        ],
    }
}

fn proxied() -> Table {
    Table { network: "app:tor".parse().unwrap(), direct: false, host: Vec::new(), ..direct(false) }
}

fn rule(table: &Table, ip: &str) -> Rule {
    rule_of(table, ip.parse().unwrap())
}

fn rule_of(table: &Table, ip: IpAddr) -> Rule {
    table.decide(&Request::Flow(&Target::Addr(SocketAddr::new(ip, 80)))).rule()
}

/// The address in each form that carries an IPv4 address.
fn forms(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = v4.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let mut forms = vec![
        v4.to_ipv6_mapped(),
        Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 1, 2, 3, 4, 5),
        Ipv6Addr::new(0x2001, 0, 0x0808, 0x0808, 0, 0, !high, !low),
        Ipv6Addr::new(0x2001, 0, high, low, 0, 0, !0x0808, !0x0808),
        Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0x5efe, high, low),
    ];
    if a != 0 {
        // The lengths that the site's own NAT64 prefix can have.
        let at = |start: usize, octets: [u8; 4]| {
            let mut form = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0).octets();
            let places = (start..16).filter(|place| *place != 8);
            places.zip(octets).for_each(|(place, octet)| form[place] = octet);
            Ipv6Addr::from(form)
        };
        forms.extend([6, 7, 9, 12].map(|start| at(start, [a, b, c, d])));
    }
    forms
}

/// What must never be dialled, on a host with `direct()`'s addresses.
const NEVER: &[(&str, Rule)] = &[
    ("127.0.0.1", Rule::HostLoopback),
    ("127.255.255.254", Rule::HostLoopback),
    ("::1", Rule::HostLoopback),
    ("0.0.0.0", Rule::Unspecified),
    ("0.1.2.3", Rule::Unspecified),
    ("::", Rule::Unspecified),
    ("203.0.113.7", Rule::HostAddress),
    ("10.1.2.3", Rule::HostAddress),
    ("192.0.2.9", Rule::HostAddress),
    ("2001:db8:1::5", Rule::HostAddress),
    ("169.254.169.254", Rule::Metadata),
    ("168.63.129.16", Rule::Metadata),
    ("100.100.100.200", Rule::Metadata),
    ("fd00:ec2::254", Rule::Metadata),
    ("169.254.0.1", Rule::LinkLocal),
    ("fe80::abcd", Rule::LinkLocal),
    ("febf::1", Rule::LinkLocal),
    ("fec0::1", Rule::SiteLocal),
    ("224.0.0.251", Rule::Multicast),
    ("239.255.255.250", Rule::Multicast),
    ("ff02::1", Rule::Multicast),
    ("255.255.255.255", Rule::Broadcast),
    ("203.0.113.255", Rule::Broadcast),
    ("203.0.113.0", Rule::Broadcast),
    ("10.1.255.255", Rule::Broadcast),
    ("240.0.0.1", Rule::Reserved),
    ("198.18.0.1", Rule::JailRange),
    ("198.19.255.255", Rule::JailRange),
    ("fd6e:6a61:696c::1", Rule::JailRange),
];

/// What `--allow-lan` opens.
const LAN: &[(&str, Rule)] = &[
    ("10.0.0.1", Rule::Private),
    ("172.16.0.1", Rule::Private),
    ("172.31.255.255", Rule::Private),
    ("192.168.1.1", Rule::Private),
    ("100.64.0.1", Rule::Private),
    ("100.127.255.255", Rule::Private),
    ("192.0.0.1", Rule::Private),
    ("fc00::1", Rule::Private),
    ("fdff::1", Rule::Private),
    ("64:ff9b:1::1.1.1.1", Rule::Private),
    ("203.0.113.8", Rule::OnLink),
    ("2001:db8:1::6", Rule::OnLink),
];

const OPEN: &[&str] = &[
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "100.63.255.255",
    "100.128.0.0",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.2.8",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.100.1",
    "203.0.112.255",
    "223.255.255.255",
    "2606:4700::1111",
    "2001:db8:2::1",
    "2002:101:101::1",
    "64:ff9b::1.1.1.1",
    "::ffff:1.1.1.1",
    "2001:db8:1:1::5",
];

#[test]
fn what_is_never_dialled_is_net_unreachable_whatever_the_flags() {
    for allow_lan in [false, true] {
        let table = direct(allow_lan);
        for (ip, expected) in NEVER {
            let target = Target::Addr(SocketAddr::new(ip.parse().unwrap(), 80));
            let verdict = table.decide(&Request::Flow(&target));
            let expected = Verdict::Deny { refusal: Refusal::NetUnreachable, rule: *expected };
            assert_eq!(verdict, expected, "{ip}");
        }
    }
}

#[test]
fn private_and_on_link_addresses_open_with_allow_lan_only() {
    for (ip, expected) in LAN {
        assert_eq!(rule(&direct(false), ip), *expected, "{ip}");
        assert_eq!(expected.refusal(), Some(Refusal::NetUnreachable));
        assert_eq!(rule(&direct(true), ip), Rule::AllowLan, "{ip}");
    }
}

#[test]
fn the_open_internet_passes_up_to_the_borders_of_the_ranges() {
    for ip in OPEN {
        assert_eq!(rule(&direct(false), ip), Rule::Default, "{ip}");
    }
}

#[test]
fn no_form_of_an_ipv4_address_passes_where_the_address_does_not() {
    for allow_lan in [false, true] {
        let table = direct(allow_lan);
        for (ip, _) in NEVER.iter().chain(LAN) {
            let Ok(v4) = ip.parse::<Ipv4Addr>() else { continue };
            for form in forms(v4) {
                let (plain, dressed) = (rule_of(&table, v4.into()), rule_of(&table, form.into()));
                assert!(plain.refusal().is_none() || dressed.refusal().is_some(), "{v4} as {form}");
            }
        }
    }
    assert_eq!(rule(&direct(true), "::127.0.0.1"), Rule::HostLoopback);
}

#[test]
fn a_public_name_that_resolves_to_the_loopback_is_the_loopback() {
    // On direct the program dials the address that the resolver gave; a name in a flow was resolved by nobody.
    let table = direct(true);
    let name = HostName::parse("rebind.example.com").unwrap();
    assert_eq!(table.decide(&Request::Question(&name)).rule(), Rule::Default);
    assert_eq!(rule(&table, "127.0.0.1"), Rule::HostLoopback);
    assert_eq!(table.decide(&Request::Flow(&Target::Name(name, 80))).rule(), Rule::UnresolvedName);
}

#[test]
fn overlay_names_never_reach_the_host_s_resolvers() {
    for name in ["abc.onion", "www.abc.ONION.", "stats.i2p"] {
        let name = HostName::parse(name).unwrap();
        assert_eq!(direct(true).decide(&Request::Question(&name)).rule(), Rule::UnroutableName);
        assert_eq!(direct(true).decide(&Request::Flow(&Target::Name(name.clone(), 80))).rule(), Rule::UnroutableName);
        assert_eq!(proxied().decide(&Request::Question(&name)).rule(), Rule::Default);
    }
}

#[test]
fn a_proxy_judges_its_own_side_but_gets_nothing_that_has_no_meaning() {
    let table = proxied();
    for ip in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "2001:db8::1", "::1"] {
        assert_eq!(rule(&table, ip), Rule::Default, "{ip}");
    }
    for (ip, expected) in [
        ("198.18.3.4", Rule::UnknownPoolAddress),
        ("::ffff:198.18.3.4", Rule::UnknownPoolAddress),
        ("fd6e:6a61:696c::9", Rule::UnknownPoolAddress),
        ("0.0.0.0", Rule::Unspecified),
        ("::", Rule::Unspecified),
        ("224.0.0.1", Rule::Multicast),
        ("ff02::1", Rule::Multicast),
        ("255.255.255.255", Rule::Broadcast),
    ] {
        assert_eq!(rule(&table, ip), expected, "{ip}");
    }
    assert_eq!(Rule::UnknownPoolAddress.refusal(), Some(Refusal::Refused), "an RST, never a dial");
}

#[test]
fn an_allowed_flow_names_the_network_that_carries_it() {
    let (table, name) = (proxied(), HostName::parse("abc.onion").unwrap());
    let verdict = table.decide(&Request::Flow(&Target::Name(name, 80)));
    assert_eq!(verdict, Verdict::Allow { network: &"app:tor".parse().unwrap(), rule: Rule::Default });
}

#[test]
fn port_0_is_refused_everywhere() {
    let name = Target::Name(HostName::parse("a.example").unwrap(), 0);
    for table in [direct(true), proxied()] {
        for target in [&name, &Target::Addr("1.1.1.1:0".parse().unwrap())] {
            assert_eq!(table.decide(&Request::Flow(target)).rule(), Rule::PortZero);
        }
    }
}

/// Addresses near the borders as well as any.
fn v4() -> impl Strategy<Value = Ipv4Addr> {
    let known: Vec<u32> =
        NEVER.iter().chain(LAN).filter_map(|(ip, _)| ip.parse::<Ipv4Addr>().ok()).map(u32::from).collect();
    prop_oneof![
        any::<u32>(),
        (prop::sample::select(known), -300i32..300).prop_map(|(ip, step)| ip.wrapping_add_signed(step)),
    ]
    .prop_map(Ipv4Addr::from)
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    let starts = vec![0, 0x64, 0x2001, 0x2002, 0x2606, 0xfc00, 0xfe80, 0xfec0, 0xff02, 0xffff];
    prop_oneof![
        any::<u128>().prop_map(Ipv6Addr::from),
        (prop::sample::select(starts), any::<[u16; 7]>())
            .prop_map(|(start, [a, b, c, d, e, f, g])| Ipv6Addr::new(start, a, b, c, d, e, f, g)),
        (v4(), any::<prop::sample::Index>()).prop_map(|(ip, form)| *form.get(&forms(ip))),
        any::<u64>().prop_map(|low| Ipv6Addr::from(u128::from(low))),
    ]
}

/// The specification of issue and RFCs once more, in prefixes instead of octets.
fn is_open_by_prefix(ip: Ipv4Addr, allow_lan: bool) -> bool {
    let within = |prefixes: &[&str]| prefixes.iter().any(|p| p.parse::<ipnet::Ipv4Net>().unwrap().contains(&ip));
    let never = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/3",
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "203.0.113.7/32",
        "203.0.113.0/32",
        "203.0.113.255/32",
        "10.1.2.3/32",
        "10.1.0.0/32",
        "10.1.255.255/32",
        "192.0.2.9/32",
    ];
    let lan = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "203.0.113.0/24"];
    !within(&never) && (allow_lan || !within(&lan))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(3000)))]

    #[test]
    fn direct_passes_exactly_what_the_prefixes_leave(ip in v4(), allow_lan in any::<bool>()) {
        let passes = rule_of(&direct(allow_lan), ip.into()).refusal().is_none();
        prop_assert_eq!(passes, is_open_by_prefix(ip, allow_lan));
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address(ip in v4(), allow_lan in any::<bool>()) {
        for table in [direct(allow_lan), proxied()] {
            prop_assert_eq!(rule_of(&table, ip.into()), rule_of(&table, ip.to_ipv6_mapped().into()));
        }
    }

    #[test]
    fn no_form_passes_where_its_address_does_not(ip in v4(), allow_lan in any::<bool>()) {
        let table = direct(allow_lan);
        if rule_of(&table, ip.into()).refusal().is_some() {
            for form in forms(ip) {
                prop_assert!(rule_of(&table, form.into()).refusal().is_some(), "{} as {}", ip, form);
            }
        }
    }

    #[test]
    fn every_request_is_decided_and_the_verdict_fits_its_rule(ip in v6(), port in any::<u16>(), allow_lan in any::<bool>()) {
        for table in [direct(allow_lan), proxied()] {
            let target = Target::Addr(SocketAddr::new(ip.into(), port));
            match table.decide(&Request::Flow(&target)) {
                Verdict::Allow { network, rule } => {
                    prop_assert_eq!(network, &table.network);
                    prop_assert_eq!(rule.refusal(), None);
                    // The kernel itself refuses only some of these; none may come so far.
                    prop_assert!(!table.direct || !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified()));
                }
                Verdict::Deny { refusal, rule } => prop_assert_eq!(rule.refusal(), Some(refusal)),
            }
        }
    }

    #[test]
    fn allow_lan_only_ever_opens(ip in v6()) {
        if rule_of(&direct(false), ip.into()).refusal().is_none() {
            prop_assert!(rule_of(&direct(true), ip.into()).refusal().is_none());
        }
    }
}

#[test]
fn all_addresses_of_a_prefix_that_the_host_takes_for_itself_are_the_hosts_with_allow_lan_too() {
    let own = "203.0.112.16/28".parse().unwrap();
    for allow_lan in [false, true] {
        let table = Table { host: vec![OwnAddress { address: own, on_link: own }], ..direct(allow_lan) };
        assert_eq!(table.address("203.0.112.17".parse().unwrap()), Rule::HostAddress);
        assert_eq!(table.address("203.0.112.32".parse().unwrap()), Rule::Default);
    }
}
