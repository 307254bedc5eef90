//! The mediator's own copy of a socket address, read for what decides.

/// What kind of address the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// A unix socket by path, up to the first NUL byte.
    Path(&'a [u8]),
    /// A unix socket by a name of the socket's own network namespace.
    Abstract,
    /// Netlink: the port id and the multicast groups.
    Netlink {
        /// 0 is the kernel.
        port: u32,
        /// A bit for each group.
        groups: u32,
    },
    /// Everything else.
    Other(u16),
}

impl<'a> Address<'a> {
    /// Reads `bytes` as the kernel would on this machine (unix(7), netlink(7)).
    pub fn read(bytes: &'a [u8]) -> Self {
        let Some(family) = bytes.first_chunk().map(|b| u16::from_ne_bytes(*b)) else { return Self::Other(0) };
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
        match i32::from(family) {
            libc::AF_UNIX => match &bytes[2..] {
                [] | [0, ..] => Self::Abstract,
                path => Self::Path(path.split(|b| *b == 0).next().unwrap_or(path)),
            },
            libc::AF_NETLINK => Self::Netlink { port: word(4), groups: word(8) },
            _ => Self::Other(family),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_ends_at_its_first_nul_and_an_abstract_name_begins_with_one() {
        let unix = |path: &[u8]| [&(libc::AF_UNIX as u16).to_ne_bytes()[..], path].concat();
        assert_eq!(Address::read(&unix(b"/a\0/b")), Address::Path(b"/a"));
        assert_eq!(Address::read(&unix(b"/a")), Address::Path(b"/a"));
        assert_eq!(Address::read(&unix(b"\0/a")), Address::Abstract);
        assert_eq!(Address::read(&[1]), Address::Other(0));
        let mut netlink = (libc::AF_NETLINK as u32).to_ne_bytes().to_vec();
        netlink.extend(7u32.to_ne_bytes());
        assert_eq!(Address::read(&netlink), Address::Netlink { port: 7, groups: 0 });
    }
}
