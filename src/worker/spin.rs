//! Looks again for a moment before it sleeps, where the next packet is a moment away.
//!
//! In a conversation of small messages, one at a time, going to sleep and being woken costs as much as the message's whole way
//! through the stack. The kernel's hypervisor has the same trouble with its guests and the same cure (halt polling,
//! Documentation/virt/kvm/halt-polling.rst): where the last waits were short, the next one probably is.
//!
//! - A wait is looked through for [`MOMENT`] at most, and only after [`FIRST`] waits in a row that were shorter.
//! - One wait that was longer ends it, and the next row must be twice as long, up to [`MOST`]: what is in vain is less than
//!   one part in a hundred of the time wherever the guess is bad.
//! - Bulk is not conversation: there the waits are few, and each would cost processor time for no byte more.
//! - With one processor there is nobody else who could send the next packet meanwhile.

use std::time::Duration;

use crate::tun::VNET_HEADER;

/// How long to look. A wait through which nobody slept is shorter by a wake-up, of some 10 us, and those of its peers.
const MOMENT: Duration = Duration::from_micros(100);

/// How many short waits in a row begin it, at first and at most.
const FIRST: u32 = 8;
const MOST: u32 = 256;

/// The most bytes that one turn of a conversation moves.
const SMALL: usize = 4096 + VNET_HEADER;

/// Whether to look, from what the last waits were like.
#[derive(Debug)]
pub(super) struct Spin {
    /// Short waits in a row, and how many of them it takes.
    row: u32,
    needed: u32,
    possible: bool,
}

impl Spin {
    /// For the processors that this thread may use.
    pub fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { row: 0, needed: FIRST, possible: processors > 1 }
    }

    /// For how long to look before the next sleep.
    pub fn moment(&self) -> Option<Duration> {
        (self.possible && self.row >= self.needed).then_some(MOMENT)
    }

    /// A wait took so long, and the turn before it had moved so many bytes and had so many things to do.
    pub fn waited(&mut self, took: Duration, bytes: usize, events: usize) {
        if took <= MOMENT && bytes <= SMALL && events <= 1 {
            self.row = self.row.saturating_add(1);
            // A long row pays for what was in vain.
            if self.row.is_multiple_of(self.needed * 4) {
                self.needed = (self.needed / 2).max(FIRST);
            }
            return;
        }
        if self.row >= self.needed {
            self.needed = (self.needed * 2).min(MOST);
        }
        self.row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(20);
    const LONG: Duration = Duration::from_millis(2);

    fn new() -> Spin {
        Spin { possible: true, ..Spin::new() }
    }

    fn short(spin: &mut Spin, count: u32) {
        (0..count).for_each(|_| spin.waited(SHORT, 64, 1));
    }

    #[test]
    fn a_conversation_is_looked_for_and_what_is_none_is_not() {
        let mut spin = new();
        short(&mut spin, FIRST - 1);
        assert_eq!(spin.moment(), None);
        short(&mut spin, 1);
        assert_eq!(spin.moment(), Some(MOMENT));
        for (took, bytes, events) in [(LONG, 64, 1), (SHORT, 65_535, 1), (SHORT, 64, 9)] {
            let mut spin = new();
            (0..10_000).for_each(|_| spin.waited(took, bytes, events));
            assert_eq!(spin.moment(), None, "{took:?}, {bytes} bytes, {events} events");
        }
        assert_eq!(Spin { possible: false, ..spin }.moment(), None);
    }

    #[test]
    fn guesses_that_were_wrong_make_the_next_ones_rare() {
        let mut spin = new();
        let (mut waits, mut in_vain) = (0, 0);
        while waits < 1_000_000 {
            while spin.moment().is_none() {
                short(&mut spin, 1);
                waits += 1;
            }
            spin.waited(LONG, 64, 1);
            (waits, in_vain) = (waits + 1, in_vain + 1);
        }
        assert!(in_vain * 100 < waits, "{in_vain} of {waits}");
        short(&mut spin, MOST * 9);
        spin.waited(LONG, 64, 1);
        short(&mut spin, FIRST * 2);
        assert!(spin.moment().is_some(), "a long row that was right makes good");
    }
}
