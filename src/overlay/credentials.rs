//! Random logins for stream isolation.
//!
//! Tor puts two SOCKS connections on one circuit only where user name and password are the same (`IsolateSOCKSAuth`,
//! tor(1)), so a fresh pair is a fresh circuit. The text is lower-case hexadecimal: it needs no escaping, fits the 255 bytes
//! of RFC 1929, and cannot begin with `<torS0X>`, which Tor 0.4.9 reads as an instruction.

use std::{fmt, io};

/// Random bytes in each half: collisions among a jail's connections must not happen even by chance.
const RANDOM_BYTES: usize = 16;

/// The length of each half as text.
const TEXT_BYTES: usize = RANDOM_BYTES * 2;

/// A user name and a password that nobody else has.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: [u8; TEXT_BYTES],
    password: [u8; TEXT_BYTES],
}

impl Credentials {
    /// Draws a new pair from getrandom(2).
    ///
    /// # Errors
    /// The kernel's, where its random source cannot be read; no weaker source is tried.
    pub fn random() -> io::Result<Self> {
        let mut drawn = [0; RANDOM_BYTES * 2];
        getrandom::fill(&mut drawn).map_err(|e| io::Error::other(e.to_string()))?;
        let (first, second) = drawn.split_at(RANDOM_BYTES);
        Ok(Self { username: hexadecimal(first), password: hexadecimal(second) })
    }

    /// User name and password, as [`Handshake::new`](super::socks5::Handshake::new) takes them.
    pub fn login(&self) -> (&[u8], &[u8]) {
        (&self.username, &self.password)
    }
}

/// Two digits a byte; what does not fit the text is not there to begin with.
fn hexadecimal(bytes: &[u8]) -> [u8; TEXT_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; TEXT_BYTES];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_share_nothing() {
        let (a, b) = (Credentials::random().unwrap(), Credentials::random().unwrap());
        assert_ne!(a.login().0, b.login().0);
        assert_ne!(a.login().1, b.login().1);
        assert_ne!(a.login().0, a.login().1);
    }

    #[test]
    fn the_text_is_hexadecimal_of_full_length() {
        let drawn = Credentials::random().unwrap();
        for half in [drawn.login().0, drawn.login().1] {
            assert_eq!(half.len(), 32);
            assert!(half.iter().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
        }
        assert_eq!(&hexadecimal(&[0x0f, 0xa9])[..4], b"0fa9");
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", Credentials::random().unwrap()), "Credentials(…)");
    }
}
