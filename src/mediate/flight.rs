//! The calls that are being answered, in memory that outlives the worker.
//!
//! A worker can be killed in the middle of a call. The kernel would let the caller of that call wait for ever as long as the
//! listener lives; so the supervisor finds the calls here and fails them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;

/// The most calls of one jail that are answered at a time.
pub const MAX_PENDING: usize = 1000;

/// A call under way; `listener` 0 is none.
#[derive(Debug, Default)]
struct Slot {
    listener: AtomicU32,
    id: AtomicU64,
}

/// The table, shared with the children of the process that made it.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    slots: &'static [Slot; MAX_PENDING],
}

impl Flight {
    /// Maps it; it stays for as long as the process does.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: zeroes are valid atomics.
        Ok(Self { slots: unsafe { map_shared::<[Slot; MAX_PENDING]>() }? })
    }

    /// Notes a call.
    pub fn begin(&self, slot: usize, listener: u32, id: u64) {
        self.slots[slot].id.store(id, Ordering::Relaxed);
        self.slots[slot].listener.store(listener, Ordering::Release);
    }

    /// Forgets it.
    pub fn end(&self, slot: usize) {
        self.slots[slot].listener.store(0, Ordering::Release);
    }

    /// Takes all of them out.
    pub fn drain(&self) -> Vec<(u32, u64)> {
        let take = |slot: &Slot| {
            let listener = slot.listener.swap(0, Ordering::Acquire);
            (listener != 0).then(|| (listener, slot.id.load(Ordering::Relaxed)))
        };
        self.slots.iter().filter_map(take).collect()
    }
}

/// A zeroed `T` that is shared with the children of this process, and stays for as long as they do.
///
/// # Safety
/// All zeroes must be a value of `T`, and `T` must be made for more than one process at a time: of atomics.
pub(super) unsafe fn map_shared<T>() -> Result<&'static T, Errno> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<T>(), protection, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the mapping is large enough, aligned to a page, never unmapped, and the caller vouches for zeroes.
    Ok(unsafe { &*at.cast::<T>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_and_not_ended_is_found() {
        let flight = Flight::new().unwrap();
        flight.begin(0, 1, 70);
        flight.begin(999, 2, 71);
        flight.begin(5, 1, 72);
        flight.end(5);
        assert_eq!(flight.drain(), [(1, 70), (2, 71)]);
        assert!(flight.drain().is_empty());
    }
}
