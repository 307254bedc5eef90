//! Rings: where the bytes of a flow wait, taken from mappings that cost nothing until they are touched.
//!
//! A flow needs two rings of hundreds of KiB and mostly uses none of them. An arena maps them in blocks without reserving memory and
//! without huge pages, so an untouched ring is address space only; a ring that was touched gives its pages back with
//! MADV_DONTNEED. That call costs microseconds, so a returned ring first stays *warm*: the next short flow takes it with its
//! pages, and [`Rings::trim`] cleans what nobody took.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Rings in one mapping.
const BLOCK: usize = 64;

/// The kernel gave no address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for a flow's rings: mmap failed; raise the address space limit (ulimit -v)")]
pub struct NoMemory;

/// The rings of all flows.
pub(super) struct Rings {
    receive: Arena,
    transmit: Arena,
}

/// The two rings of one flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    receive: Ring,
    transmit: Ring,
}

impl Rings {
    /// Bytes of each, rounded up to whole pages: for what clients send, and for what is sent to them.
    pub fn new(receive: usize, transmit: usize) -> Self {
        Self { receive: Arena::new(receive), transmit: Arena::new(transmit) }
    }

    /// Takes a pair, warm ones if there are.
    pub fn take(&mut self) -> Result<Pair, NoMemory> {
        let receive = self.receive.take()?;
        match self.transmit.take() {
            Ok(transmit) => Ok(Pair { receive, transmit }),
            Err(error) => {
                self.receive.give_back(receive, false);
                Err(error)
            }
        }
    }

    /// The bytes of both: for what is received, and for what is sent.
    ///
    /// # Safety
    /// The slices must be gone before the pair is given back, cleaned or taken again, and before this is dropped; and they must
    /// be the only ones of this pair.
    pub unsafe fn bytes(&self, pair: Pair) -> (&'static mut [u8], &'static mut [u8]) {
        // SAFETY: the caller's promise is that of each arena.
        unsafe { (self.receive.bytes(pair.receive), self.transmit.bytes(pair.transmit)) }
    }

    /// Takes a pair back whose pages may have been touched.
    pub fn give_back(&mut self, pair: Pair, touched: bool) {
        self.receive.give_back(pair.receive, touched);
        self.transmit.give_back(pair.transmit, touched);
    }

    /// Gives the pages of a pair back to the kernel. Its content becomes zeroes; it must hold no byte that anybody needs.
    pub fn clean(&self, pair: Pair) {
        self.receive.clean(pair.receive);
        self.transmit.clean(pair.transmit);
    }

    /// Cleans at most `most` warm rings; true if there are more.
    pub fn trim(&mut self, most: usize) -> bool {
        let more = self.receive.trim(most / 2);
        self.transmit.trim(most / 2) || more
    }

    /// Whether a free ring still holds pages.
    pub fn is_warm(&self) -> bool {
        self.receive.is_warm() || self.transmit.is_warm()
    }
}

/// One ring, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ring(u32);

/// Rings of one size.
struct Arena {
    size: usize,
    blocks: Vec<NonNull<u8>>,
    clean: Vec<Ring>,
    warm: Vec<Ring>,
}

impl Arena {
    /// An arena of rings of `size` bytes, rounded up to whole pages.
    fn new(size: usize) -> Self {
        Self { size: size.max(1).next_multiple_of(4096), blocks: Vec::new(), clean: Vec::new(), warm: Vec::new() }
    }

    /// Takes a ring, a warm one if there is one.
    fn take(&mut self) -> Result<Ring, NoMemory> {
        if let Some(ring) = self.warm.pop().or_else(|| self.clean.pop()) {
            return Ok(ring);
        }
        let length = NonZeroUsize::new(self.size * BLOCK).ok_or(NoMemory)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let block = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }
            .map_err(|_| NoMemory)?;
        // A kernel without huge pages refuses the advice, and needs none.
        // SAFETY: the range is the mapping just made.
        let _ = unsafe { madvise(block, length.get(), MmapAdvise::MADV_NOHUGEPAGE) };
        let first = (self.blocks.len() * BLOCK) as u32;
        self.blocks.push(block.cast());
        // The lowest number is taken first, so that few page tables are touched.
        self.clean.extend((first..first + BLOCK as u32).rev().map(Ring));
        self.clean.pop().ok_or(NoMemory)
    }

    /// The ring's bytes.
    ///
    /// # Safety
    /// The slice must be gone before the ring is given back, cleaned or taken again, and before the arena is dropped; and
    /// it must be the only one of this ring.
    unsafe fn bytes(&self, ring: Ring) -> &'static mut [u8] {
        // SAFETY: the address is inside a mapping of this arena, which is readable, writable and zero-filled; nobody else
        // has this ring, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.address(ring).as_ptr(), self.size) }
    }

    /// Takes a ring back whose pages may have been touched.
    fn give_back(&mut self, ring: Ring, touched: bool) {
        if touched { self.warm.push(ring) } else { self.clean.push(ring) }
    }

    /// Gives the pages of a ring back to the kernel. Its content becomes zeroes; it must hold no byte that anybody needs.
    fn clean(&self, ring: Ring) {
        // SAFETY: the range is one ring of a live mapping. Slices of it stay valid, for the pages read as zeroes.
        let _ = unsafe { madvise(self.address(ring).cast(), self.size, MmapAdvise::MADV_DONTNEED) };
    }

    /// Cleans at most `most` warm rings; true if there are more.
    fn trim(&mut self, most: usize) -> bool {
        let from = self.warm.len().saturating_sub(most);
        for ring in self.warm.split_off(from) {
            self.clean(ring);
            self.clean.push(ring);
        }
        !self.warm.is_empty()
    }

    /// Whether a free ring still holds pages.
    fn is_warm(&self) -> bool {
        !self.warm.is_empty()
    }

    fn address(&self, ring: Ring) -> NonNull<u8> {
        let (block, at) = (ring.0 as usize / BLOCK, ring.0 as usize % BLOCK);
        // SAFETY: the offset is inside the block's mapping, since `at` is below BLOCK.
        unsafe { self.blocks[block].add(at * self.size) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for block in &self.blocks {
            // SAFETY: each block is a whole mapping made by `take`, and no slice outlives the arena by `bytes`' contract.
            let _ = unsafe { munmap(block.cast(), self.size * BLOCK) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_was_given_back_and_trimmed_holds_zeroes_again() {
        let mut arena = Arena::new(8192);
        let ring = arena.take().unwrap();
        // SAFETY: the only slice, gone at the end of the statement.
        unsafe { arena.bytes(ring) }.fill(7);
        arena.give_back(ring, true);
        assert!(!arena.trim(10));
        let again = arena.take().unwrap();
        // SAFETY: the only slice, gone at the end of the statement.
        assert!(unsafe { arena.bytes(again) }.iter().all(|b| *b == 0));
    }

    #[test]
    fn rings_do_not_overlap() {
        let mut arena = Arena::new(4096);
        let rings: Vec<Ring> = (0..3 * BLOCK).map(|_| arena.take().unwrap()).collect();
        for (i, ring) in rings.iter().enumerate() {
            // SAFETY: the only slice, gone at the end of the statement.
            unsafe { arena.bytes(*ring) }.fill(i as u8);
        }
        for (i, ring) in rings.iter().enumerate() {
            // SAFETY: the only slice, gone at the end of the statement.
            assert!(unsafe { arena.bytes(*ring) }.iter().all(|b| *b == i as u8));
        }
    }
}
