//! Sets of signals by number: real-time signals have no names in nix, and programs use them all the same.
//!
//! As a bit mask, bit n-1 is signal n, as in `/proc/PID/status`.

use nix::sys::signal::SigSet;

/// The highest signal number of Linux (`signal(7)`).
const HIGHEST: i32 = 64;

/// Bit of one signal.
pub const fn bit(number: i32) -> u64 {
    1 << (number - 1)
}

/// The set of a mask. The C library keeps two numbers (32 and 33) for itself, which are left out.
pub fn set_of(mask: u64) -> SigSet {
    // SAFETY: sigset_t is plain data; sigemptyset makes it valid, and sigaddset refuses what it can not hold.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for number in (1..=HIGHEST).filter(|number| mask & bit(*number) != 0) {
            libc::sigaddset(&raw mut set, number);
        }
        SigSet::from_sigset_t_unchecked(set)
    }
}

/// The mask of a set.
pub fn mask_of(set: &SigSet) -> u64 {
    // SAFETY: sigismember only reads the set, and answers -1 for a number that it does not know.
    let member = |number: &i32| unsafe { libc::sigismember(set.as_ref(), *number) } == 1;
    (1..=HIGHEST).filter(member).fold(0, |mask, number| mask | bit(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_and_its_set_are_the_same_signals() {
        let mask = bit(libc::SIGINT) | bit(libc::SIGTERM) | bit(libc::SIGRTMIN() + 1) | bit(HIGHEST);
        assert_eq!(mask_of(&set_of(mask)), mask);
        assert_eq!(mask_of(&set_of(u64::MAX)), !(bit(32) | bit(33)));
    }
}
