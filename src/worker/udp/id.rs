//! The name of a mapping.

/// Names a mapping for as long as it lives; a later one in the same place has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MappingId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Tells a mapping's number from a flow's, and from that of a connection made ahead, where all travel as one word: no flow's
/// slot is as high.
const MARK: u64 = 1 << 30;

impl MappingId {
    /// As `epoll_event.data` wants it, and the warden.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | MARK | u64::from(self.slot)
    }

    /// The inverse of [`MappingId::to_bits`]; `None` for a flow's number.
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits & MARK != 0).then(|| Self::of_bits(bits))
    }

    /// The same, where it is known to be a mapping's.
    pub fn of_bits(bits: u64) -> Self {
        Self { slot: (bits & (MARK - 1)) as u32, generation: (bits >> 32) as u32 }
    }
}
