//! What lies on a log device, little-endian and versioned: superblocks, segment headers, batches of entry descriptors,
//! pages of the out-of-sync map.
//! docs/format.md draws it. Volumes carry no structure of ours: LBA n lies at n × LBA size.

mod map;
mod segment;
mod superblock;

pub use map::{MAP_PAGE_BLOCKS, MAP_PAGE_BYTES, MAP_PAGE_WORDS, MapPage};
pub use segment::{
    BATCH_HEADER_BYTES, Batch, BatchEmitter, BatchHeader, ENTRY_BYTES, ENTRY_PAGES_MAX, Entries,
    Entry, EntryKind, SEGMENT_HEADER_BYTES, SegmentHeader,
};
pub use superblock::{
    SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock, SyncState, VOLUMES_MAX, VolumeIdentity,
};

/// Where segment slots begin on a log device; slot s lies at this plus s × segment bytes.
pub const SEGMENTS_AT: u64 = 1024 * 1024;

/// Version of everything on a log device. Another version is refused, never guessed at.
pub const FORMAT_VERSION: u32 = 2;

/// Why bytes of a log device were not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskFormatError {
    /// Not a structure of ours: another magic number.
    #[error("not an ibid structure (magic number differs)")]
    Magic,
    /// Written by another version.
    #[error("format version {0}, this program reads {FORMAT_VERSION}")]
    Version(u32),
    /// The checksum differs: torn, rotten or stale.
    #[error("checksum differs")]
    Checksum,
    /// A length or count goes past what holds it.
    #[error("a length field goes past its container")]
    Length,
    /// A field has a value that has no meaning.
    #[error("a field has an undefined value")]
    Value,
}
