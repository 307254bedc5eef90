//! What a jail says about the machine it runs on: names and numbers that are the same for every jail, or random for each.
//!
//! The host name, the resolver, the machine id and the boot id of the real machine link a jail to its user, so a jail has its
//! own. The texts here are pure functions; `mounts` puts them where programs look for them.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// `--hostname` when it is not given: a name that says nothing.
pub const DEFAULT_HOSTNAME: &str = "localhost";

/// Who the jail is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The UTS node name.
    pub hostname: String,
    /// The jail's resolvers, in order (the stack's own addresses).
    pub resolvers: Vec<IpAddr>,
    /// 32 hexadecimal digits, as machine-id(5) wants them.
    pub machine_id: String,
    /// A UUID in its text form, shown as /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
}

/// Why an identity could not be made or set.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The name is not one that programs accept.
    #[error(
        "--hostname {0:?} is no host name: use 1 to 63 letters, digits, hyphens, and dots between labels, as hostname(7) says"
    )]
    BadName(String),
    /// No random numbers.
    #[error("the kernel gave no random numbers for the machine id ({0}); try again once /dev/random is ready")]
    Random(#[from] getrandom::Error),
    /// The UTS namespace refused.
    #[error("cannot set the jail's host name: {0}; the jail needs a UTS namespace of its own, see `netjail doctor`")]
    Uts(nix::Error),
}

impl Identity {
    /// An identity with fresh random ids.
    pub fn new(hostname: &str, resolvers: Vec<IpAddr>) -> Result<Self, IdentityError> {
        let label = |l: &str| {
            !l.is_empty()
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if hostname.len() > 63 || !hostname.split('.').all(label) {
            return Err(IdentityError::BadName(hostname.chars().take(80).collect()));
        }
        let machine = uuid()?;
        let boot = uuid()?;
        let boot_id = format!("{}-{}-{}-{}-{}", &boot[..8], &boot[8..12], &boot[12..16], &boot[16..20], &boot[20..]);
        Ok(Self { hostname: hostname.to_owned(), resolvers, machine_id: machine, boot_id })
    }

    /// Sets the UTS names of this process's namespace (never of the host's: the caller has made one).
    pub fn set_uts(&self) -> Result<(), IdentityError> {
        nix::unistd::sethostname(&self.hostname).map_err(IdentityError::Uts)?;
        // "(none)" is what a kernel without an NIS domain says.
        let domain = b"(none)";
        // SAFETY: the pointer and the length are those of one live buffer.
        let result = unsafe { libc::setdomainname(domain.as_ptr().cast(), domain.len()) };
        nix::errno::Errno::result(result).map(drop).map_err(IdentityError::Uts)
    }

    /// /etc/resolv.conf. `search .` keeps the C library from making a search domain out of the host name.
    pub fn resolv_conf(&self) -> String {
        let mut text = String::new();
        for address in &self.resolvers {
            let _ = writeln!(text, "nameserver {address}");
        }
        text.push_str("search .\n");
        text
    }

    /// /etc/hosts: the loopback under its names and the jail's own.
    pub fn hosts(&self) -> String {
        let own = if self.hostname == DEFAULT_HOSTNAME { String::new() } else { format!(" {}", self.hostname) };
        format!("127.0.0.1\tlocalhost{own}\n::1\tlocalhost ip6-localhost ip6-loopback{own}\n")
    }

    /// /etc/hostname.
    pub fn hostname_file(&self) -> String {
        format!("{}\n", self.hostname)
    }

    /// /etc/machine-id.
    pub fn machine_id_file(&self) -> String {
        format!("{}\n", self.machine_id)
    }
}

/// A version 4 UUID (RFC 9562, 5.4) as 32 hexadecimal digits.
fn uuid() -> Result<String, IdentityError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// /etc/nsswitch.conf, made from the host's: names of hosts come from the jail's files and its resolver, and every service
/// that would ask a process outside (sss, systemd, resolve, mdns, ldap, winbind …) is taken out.
pub fn nsswitch_conf(host: &str) -> String {
    const LOCAL: [&str; 4] = ["files", "altfiles", "db", "compat"];
    let mut seen = Vec::new();
    let mut text = String::new();
    for line in host.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some((database, services)) = line.split_once(':') else { continue };
        let database = database.trim();
        if database.is_empty() || database.contains(char::is_whitespace) || seen.contains(&database) {
            continue;
        }
        let kept: Vec<&str> = services.split_whitespace().filter(|s| LOCAL.contains(s)).collect();
        let kept = match database {
            "hosts" => "files dns".to_owned(),
            _ if kept.is_empty() => "files".to_owned(),
            _ => kept.join(" "),
        };
        let _ = writeln!(text, "{database}: {kept}");
        seen.push(database);
    }
    for (database, services) in [("passwd", "files"), ("group", "files"), ("shadow", "files"), ("hosts", "files dns")] {
        if !seen.contains(&database) {
            let _ = writeln!(text, "{database}: {services}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_checked() {
        for good in ["localhost", "a", "web-1.example"] {
            assert!(Identity::new(good, vec![]).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a b", "a\n", "ä", &"x".repeat(64)] {
            assert!(Identity::new(bad, vec![]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_have_the_right_form_and_differ() {
        let a = Identity::new("localhost", vec![]).unwrap();
        let b = Identity::new("localhost", vec![]).unwrap();
        assert_eq!(a.machine_id.len(), 32);
        assert_eq!(a.boot_id.len(), 36);
        assert_ne!(a.machine_id, b.machine_id);
        assert_ne!(a.boot_id, b.boot_id);
    }

    #[test]
    fn no_service_that_asks_outside_survives() {
        let host = "# c\npasswd: files systemd sss\ngroup: compat [SUCCESS=merge] systemd\nhosts: mymachines resolve [!UNAVAIL=return] files myhostname dns mdns4_minimal\nautomount: sss nis\n";
        let text = nsswitch_conf(host);
        assert_eq!(text, "passwd: files\ngroup: compat\nhosts: files dns\nautomount: files\nshadow: files\n");
        assert!(nsswitch_conf("").contains("hosts: files dns\n"));
    }

    #[test]
    fn the_identity_files_name_only_the_jail() {
        let identity = Identity::new("box", vec!["198.18.0.1".parse().unwrap()]).unwrap();
        assert_eq!(identity.resolv_conf(), "nameserver 198.18.0.1\nsearch .\n");
        assert!(identity.hosts().starts_with("127.0.0.1\tlocalhost box\n"));
        assert_eq!(identity.hostname_file(), "box\n");
    }
}
