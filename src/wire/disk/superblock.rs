//! The superblock: what a node promises about its volumes and its log. Two copies, written in turn; the one with the higher
//! sequence that checks is the truth.

use super::{DiskFormatError, FORMAT_VERSION};
use crate::bytes::{array_at, crc32c_with_hole, put, u16_at, u32_at, u64_at};
use ibid_units::{CpId, Epoch, Lsn};

/// Bytes of a superblock copy.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Where the two copies lie on the log device: far enough apart for one bad neighbourhood not to hold both.
pub const SUPERBLOCK_AT: [u64; 2] = [0, 64 * 1024];
/// Volumes a node can have: what a superblock has room for, with some to spare.
pub const VOLUMES_MAX: usize = 48;

mod field {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 8;
    pub(super) const CRC: usize = 12;
    pub(super) const SEQUENCE: usize = 16;
    pub(super) const PAIR: usize = 24;
    pub(super) const EPOCH: usize = 40;
    pub(super) const CP: usize = 48;
    pub(super) const LAST_LSN: usize = 56;
    pub(super) const CHAIN: usize = 64;
    pub(super) const SEGMENTS: usize = 96;
    pub(super) const SEGMENT_BLOCKS: usize = 100;
    pub(super) const CLEAN: usize = 104;
    pub(super) const ROLE: usize = 105;
    pub(super) const VOLUMES: usize = 106;
    pub(super) const STATE: usize = 108;
    pub(super) const FRESH: usize = 109;
    pub(super) const WHOLE: usize = 110;
    pub(super) const AGREED: usize = 112;
    pub(super) const PEER_CP: usize = 120;
    pub(super) const PEER_CHAIN: usize = 128;
    pub(super) const PEER_NEXT_CHAIN: usize = 160;
    pub(super) const OPENED: usize = 192;
    pub(super) const VOLUME: usize = 256;
    pub(super) const VOLUME_STRIDE: usize = 24;
}

const MAGIC: u64 = u64::from_le_bytes(*b"IBIDSUPR");
const _: () = assert!(field::VOLUME + VOLUMES_MAX * field::VOLUME_STRIDE <= SUPERBLOCK_BYTES);

/// Which volume stands at a place in the list: a pair whose lists differ is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeIdentity {
    /// The namespace's UUID, the same on both nodes.
    pub uuid: [u8; 16],
    /// Capacity in 512-byte sectors.
    pub sectors: u64,
}

/// How this node's volumes stand to its peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SyncState {
    /// A destination that never met a source.
    #[default]
    New,
    /// Source: the peer's volumes differ by nothing but what is in the log. Destination: the volumes are those of CP `cp`.
    InSync,
    /// Source: the map on the device counts, and writes may have been completed alone. Destination: it is being caught up,
    /// its volumes are those of no time.
    OutOfSync,
}

/// A node's durable state outside its log segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Grows with every write of a superblock; copy `sequence % 2` holds it.
    pub sequence: u64,
    /// The pair this node belongs to, the same on both nodes.
    pub pair: [u8; 16],
    /// Who may write.
    pub epoch: Epoch,
    /// The newest consistency point that is durable in this node's volumes.
    pub cp: CpId,
    /// The newest entry that this consistency point contains.
    pub last_lsn: Lsn,
    /// SHA-256 over the previous chain digest and this CP's list.
    pub chain: [u8; 32],
    /// Segment slots of the log.
    pub segments: u32,
    /// 4 KiB blocks of each.
    pub segment_blocks: u32,
    /// True after an orderly stop: no segment holds an entry past `cp`.
    pub clean: bool,
    /// 0 destination, 1 source.
    pub role: u8,
    /// Entries of epochs before `opened` count only up to here: batches of theirs above are void, even if they check. Never more than what
    /// was durable in this log when it was written.
    pub agreed: Lsn,
    /// The epoch in which the source's log was last opened for new writes (at a destination, as its source said).
    pub opened: Epoch,
    /// How the volumes stand to the peer's.
    pub state: SyncState,
    /// The volumes held nothing when this device was made, and nothing has been written to them since.
    pub fresh: bool,
    /// The map names every block, not only those that are allocated (source).
    pub whole: bool,
    /// The newest CP known to be durable at the peer, or [`Superblock::PEER_NONE`] (source, out of sync) …
    pub peer_cp: CpId,
    /// … its chain digest …
    pub peer_chain: [u8; 32],
    /// … and that of the CP after it.
    pub peer_next_chain: [u8; 32],
    /// How many of `volumes` are in use.
    pub volume_count: u16,
    /// The volumes, by place.
    pub volumes: [VolumeIdentity; VOLUMES_MAX],
}

impl Superblock {
    /// `peer_cp` where the peer holds nothing of use.
    pub const PEER_NONE: CpId = CpId::new(u64::MAX);

    /// Writes the superblock into a block, checksum included.
    ///
    /// # Panics
    /// If `out` is not [`SUPERBLOCK_BYTES`] long.
    pub fn emit(&self, out: &mut [u8]) {
        assert_eq!(out.len(), SUPERBLOCK_BYTES, "a superblock is one block");
        out.fill(0);
        put(out, field::MAGIC, &MAGIC.to_le_bytes());
        put(out, field::VERSION, &FORMAT_VERSION.to_le_bytes());
        put(out, field::SEQUENCE, &self.sequence.to_le_bytes());
        put(out, field::PAIR, &self.pair);
        put(out, field::EPOCH, &self.epoch.get().to_le_bytes());
        put(out, field::CP, &self.cp.get().to_le_bytes());
        put(out, field::LAST_LSN, &self.last_lsn.get().to_le_bytes());
        put(out, field::CHAIN, &self.chain);
        put(out, field::SEGMENTS, &self.segments.to_le_bytes());
        put(out, field::SEGMENT_BLOCKS, &self.segment_blocks.to_le_bytes());
        put(out, field::CLEAN, &[u8::from(self.clean)]);
        put(out, field::ROLE, &[self.role]);
        put(out, field::VOLUMES, &self.volume_count.to_le_bytes());
        put(out, field::STATE, &[self.state as u8]);
        put(out, field::FRESH, &[u8::from(self.fresh)]);
        put(out, field::WHOLE, &[u8::from(self.whole)]);
        put(out, field::AGREED, &self.agreed.get().to_le_bytes());
        put(out, field::OPENED, &self.opened.get().to_le_bytes());
        put(out, field::PEER_CP, &self.peer_cp.get().to_le_bytes());
        put(out, field::PEER_CHAIN, &self.peer_chain);
        put(out, field::PEER_NEXT_CHAIN, &self.peer_next_chain);
        for (index, volume) in self.volumes[..usize::from(self.volume_count)].iter().enumerate() {
            let at = field::VOLUME + index * field::VOLUME_STRIDE;
            put(out, at, &volume.uuid);
            put(out, at + 16, &volume.sectors.to_le_bytes());
        }
        let crc = crc32c_with_hole(out, field::CRC);
        put(out, field::CRC, &crc.to_le_bytes());
    }

    /// Reads a superblock back, refusing anything that this version would not have written.
    pub fn parse(bytes: &[u8]) -> Result<Superblock, DiskFormatError> {
        if bytes.len() != SUPERBLOCK_BYTES {
            return Err(DiskFormatError::Length);
        }
        if u64_at(bytes, field::MAGIC) != MAGIC {
            return Err(DiskFormatError::Magic);
        }
        if u32_at(bytes, field::CRC) != crc32c_with_hole(bytes, field::CRC) {
            return Err(DiskFormatError::Checksum);
        }
        let version = u32_at(bytes, field::VERSION);
        if version != FORMAT_VERSION {
            return Err(DiskFormatError::Version(version));
        }
        let volume_count = u16_at(bytes, field::VOLUMES);
        if usize::from(volume_count) > VOLUMES_MAX {
            return Err(DiskFormatError::Length);
        }
        let clean = bytes[field::CLEAN];
        let role = bytes[field::ROLE];
        let (fresh, whole) = (bytes[field::FRESH], bytes[field::WHOLE]);
        if clean > 1 || role > 1 || fresh > 1 || whole > 1 {
            return Err(DiskFormatError::Value);
        }
        let state = match bytes[field::STATE] {
            0 => SyncState::New,
            1 => SyncState::InSync,
            2 => SyncState::OutOfSync,
            _ => return Err(DiskFormatError::Value),
        };
        let mut volumes = [VolumeIdentity::default(); VOLUMES_MAX];
        for (index, volume) in volumes[..usize::from(volume_count)].iter_mut().enumerate() {
            let at = field::VOLUME + index * field::VOLUME_STRIDE;
            *volume = VolumeIdentity { uuid: array_at(bytes, at), sectors: u64_at(bytes, at + 16) };
        }
        Ok(Superblock {
            sequence: u64_at(bytes, field::SEQUENCE),
            pair: array_at(bytes, field::PAIR),
            epoch: Epoch::new(u64_at(bytes, field::EPOCH)),
            cp: CpId::new(u64_at(bytes, field::CP)),
            last_lsn: Lsn::new(u64_at(bytes, field::LAST_LSN)),
            chain: array_at(bytes, field::CHAIN),
            segments: u32_at(bytes, field::SEGMENTS),
            segment_blocks: u32_at(bytes, field::SEGMENT_BLOCKS),
            clean: clean == 1,
            role,
            agreed: Lsn::new(u64_at(bytes, field::AGREED)),
            opened: Epoch::new(u64_at(bytes, field::OPENED)),
            state,
            fresh: fresh == 1,
            whole: whole == 1,
            peer_cp: CpId::new(u64_at(bytes, field::PEER_CP)),
            peer_chain: array_at(bytes, field::PEER_CHAIN),
            peer_next_chain: array_at(bytes, field::PEER_NEXT_CHAIN),
            volume_count,
            volumes,
        })
    }

    /// Where this superblock goes: the copies take turns, so that a torn write leaves the other.
    pub fn device_at(&self) -> u64 {
        SUPERBLOCK_AT[(self.sequence % 2) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        let mut volumes = [VolumeIdentity::default(); VOLUMES_MAX];
        volumes[0] = VolumeIdentity { uuid: [7; 16], sectors: 2048 };
        volumes[1] = VolumeIdentity { uuid: [8; 16], sectors: 4096 };
        Superblock {
            sequence: 9,
            pair: [3; 16],
            epoch: Epoch::new(4),
            cp: CpId::new(77),
            last_lsn: Lsn::new(123_456),
            chain: [5; 32],
            segments: 4,
            segment_blocks: 16384,
            clean: true,
            role: 1,
            agreed: Lsn::new(123_400),
            opened: Epoch::new(3),
            state: SyncState::OutOfSync,
            fresh: true,
            whole: true,
            peer_cp: CpId::new(70),
            peer_chain: [6; 32],
            peer_next_chain: [7; 32],
            volume_count: 2,
            volumes,
        }
    }

    #[test]
    fn what_is_emitted_parses_to_the_same() {
        let mut block = [0; SUPERBLOCK_BYTES];
        sample().emit(&mut block);
        assert_eq!(Superblock::parse(&block), Ok(sample()));
        assert_eq!(sample().device_at(), SUPERBLOCK_AT[1]);
        for state in [SyncState::New, SyncState::InSync, SyncState::OutOfSync] {
            let other =
                Superblock { state, fresh: false, peer_cp: Superblock::PEER_NONE, ..sample() };
            other.emit(&mut block);
            assert_eq!(Superblock::parse(&block), Ok(other));
        }
    }

    #[test]
    fn a_field_without_meaning_is_refused_though_the_sum_is_right() {
        for at in [field::CLEAN, field::ROLE, field::STATE, field::FRESH, field::WHOLE] {
            let mut block = [0; SUPERBLOCK_BYTES];
            sample().emit(&mut block);
            block[at] = 3;
            let crc = crc32c_with_hole(&block, field::CRC);
            put(&mut block, field::CRC, &crc.to_le_bytes());
            assert_eq!(Superblock::parse(&block), Err(DiskFormatError::Value), "byte {at}");
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_is_refused() {
        let mut block = [0; SUPERBLOCK_BYTES];
        sample().emit(&mut block);
        for at in 0..SUPERBLOCK_BYTES {
            block[at] ^= 0x10;
            assert!(Superblock::parse(&block).is_err(), "byte {at}");
            block[at] ^= 0x10;
        }
        assert_eq!(Superblock::parse(&block[1..]), Err(DiskFormatError::Length));
        assert_eq!(Superblock::parse(&[0; SUPERBLOCK_BYTES]), Err(DiskFormatError::Magic));
    }
}
