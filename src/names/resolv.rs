//! The host's resolvers, from the text of its `/etc/resolv.conf` (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr};

use super::hosts::{address, lines};

/// As many as libc asks (MAXNS).
const MOST: usize = 3;
/// No sane file is longer; the rest of a longer one is not looked at.
const LONGEST_TEXT: usize = 64 * 1024;

/// The addresses of the `nameserver` lines, in order, at most three; the host's loopback where there are none, which is what
/// libc then asks. Interface scopes (`fe80::1%eth0`) are dropped, lines that can not be read are passed over.
pub fn resolvers(text: &[u8]) -> Vec<IpAddr> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        address(words.next()?)
    };
    let found: Vec<IpAddr> = lines(text, LONGEST_TEXT).filter_map(line).take(MOST).collect();
    if found.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        resolvers(text.as_bytes()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nameserver_lines_are_read_in_order_and_three_at_most() {
        let text = "# note\n; note\nsearch a.example\nnameserver 192.0.2.1\r\n nameserver\t2001:db8::1 # why\n\
                    nameserver fe80::1%eth0\nnameserver 192.0.2.9\noptions ndots:1\n";
        assert_eq!(parsed(text), ["192.0.2.1", "2001:db8::1", "fe80::1"]);
    }

    #[test]
    fn without_one_it_is_the_loopback_as_in_libc() {
        for text in ["", "nameserver\n", "nameserver example.com\n", "nameserverx 192.0.2.1\n", "#nameserver 192.0.2.1"]
        {
            assert_eq!(parsed(text), ["127.0.0.1"], "{text:?}");
        }
        assert_eq!(resolvers(b"\xff\xfe nameserver\n\0\nnameserver \xff\n").len(), 1);
        assert_eq!(resolvers(&vec![b'x'; 1 << 20]).len(), 1);
    }
}
