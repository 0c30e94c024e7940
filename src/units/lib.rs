//! The quantities of ibid as types of their own, so that two of them can't be mistaken for one another.
//! Takes and gives nothing but numbers. No I/O, no allocation, no dependency.
#![no_std]
#![forbid(unsafe_code)]

pub mod mutant;

use core::fmt;
use core::ops::{Add, Sub};

pub use mutant::Mutant;

/// Bytes in a sector: the unit of every position in a volume, whatever its LBA format.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes in a log block (a page of payload or a descriptor block), and in a volume block.
pub const BLOCK_BYTES: u64 = 4096;
/// Sectors in a block.
pub const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR_BYTES;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number, as it comes off a wire or a disk.
            pub const fn new(raw: $inner) -> Self { Self(raw) }
            /// The raw number, as it goes onto a wire or a disk.
            pub const fn get(self) -> $inner { self.0 }
            /// The one after this one.
            #[must_use]
            pub const fn next(self) -> Self { Self(self.0 + 1) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    };
}

number!(/// Numbers the entries of a log: 1, 2, 3 … without gaps. 0 is "none yet".
    Lsn(u64));
number!(/// Numbers consistency points 1, 2, 3 …; also names the segment that it drains.
    CpId(u64));
number!(/// Who may write; grows at every source start and every promotion.
    Epoch(u64));
number!(/// A frame's number on the link, within one session.
    PacketNumber(u64));
number!(/// A volume of this node; the NVMe namespace id is one more.
    VolumeId(u16));
number!(/// A 4 KiB block's number within a log segment; block 0 is the segment header.
    LogBlock(u32));
number!(/// A point in monotonic time, in nanoseconds. Only differences mean anything.
    Nanos(u64));
number!(/// A position in a volume, in 512-byte sectors from its start.
    Sector(u64));
number!(/// A length in 512-byte sectors.
    Sectors(u32));

impl Lsn {
    /// The Lsn `count` entries later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl Sector {
    /// The sector just behind `length`; `None` where that is past what 64 bits hold.
    pub const fn checked_end(self, length: Sectors) -> Option<Sector> {
        match self.0.checked_add(length.0 as u64) {
            Some(end) => Some(Sector(end)),
            None => None,
        }
    }
    /// The 4 KiB block of the volume this sector lies in.
    pub const fn block(self) -> u64 {
        self.0 / BLOCK_SECTORS
    }
    /// The sector's place in its block, 0 to 7.
    pub const fn in_block(self) -> u32 {
        (self.0 % BLOCK_SECTORS) as u32
    }
    /// The position in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 * SECTOR_BYTES
    }
}

impl Add<Sectors> for Sector {
    type Output = Sector;
    fn add(self, length: Sectors) -> Sector {
        Sector(self.0 + u64::from(length.0))
    }
}

impl Sectors {
    /// The length in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64 * SECTOR_BYTES
    }
    /// How many 4 KiB blocks of a volume the run from `first` touches.
    pub const fn blocks_from(self, first: Sector) -> u32 {
        if self.0 == 0 {
            return 0;
        }
        ((first.0 + self.0 as u64 - 1) / BLOCK_SECTORS - first.0 / BLOCK_SECTORS + 1) as u32
    }
}

impl Nanos {
    /// The start of time, before anything has happened.
    pub const ZERO: Nanos = Nanos(0);
    /// A time that never comes.
    pub const NEVER: Nanos = Nanos(u64::MAX);
    /// So many milliseconds as a span of time.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }
    /// So many microseconds as a span of time.
    pub const fn from_micros(us: u64) -> Self {
        Self(us * 1_000)
    }
    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
    /// This time, `span` later; never past [`Nanos::NEVER`].
    #[must_use]
    pub const fn after(self, span: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(span.0))
    }
}

impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, other: Nanos) -> Nanos {
        self.since(other)
    }
}

/// A run of bytes in the node's one arena: how client payload is named without being held.
/// The engine passes spans on; only drivers turn them into memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Offset of the first byte from the start of the arena.
    pub at: u64,
    /// Length in bytes.
    pub len: u32,
}

impl Span {
    /// The span of `len` bytes at `at`.
    pub const fn new(at: u64, len: u32) -> Self {
        Self { at, len }
    }
    /// The offset just behind the last byte.
    pub const fn end(self) -> u64 {
        self.at + self.len as u64
    }
    /// What is left when the first `count` bytes are taken off.
    ///
    /// # Panics
    /// If the span is shorter than `count`.
    #[must_use]
    pub const fn skip(self, count: u32) -> Self {
        assert!(count <= self.len, "a span is skipped past its end");
        Self { at: self.at + count as u64, len: self.len - count }
    }
    /// Its first `count` bytes, or all of it where it is shorter.
    #[must_use]
    pub const fn first(self, count: u32) -> Self {
        Self { at: self.at, len: if count < self.len { count } else { self.len } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_every_block_it_touches() {
        assert_eq!(Sectors::new(8).blocks_from(Sector::new(0)), 1);
        assert_eq!(Sectors::new(8).blocks_from(Sector::new(1)), 2);
        assert_eq!(Sectors::new(1).blocks_from(Sector::new(7)), 1);
        assert_eq!(Sectors::new(0).blocks_from(Sector::new(7)), 0);
    }

    #[test]
    fn an_end_past_64_bits_is_refused() {
        assert_eq!(Sector::new(u64::MAX).checked_end(Sectors::new(1)), None);
        assert_eq!(Sector::new(4).checked_end(Sectors::new(4)), Some(Sector::new(8)));
    }

    #[test]
    fn a_span_is_taken_apart_without_gap_or_overlap() {
        let whole = Span::new(100, 50);
        assert_eq!(whole.first(20).end(), whole.skip(20).at);
        assert_eq!(whole.skip(50).len, 0);
    }
}
