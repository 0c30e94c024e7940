//! A CP's list: 16-byte records. A reference names bytes that lie in the log, an opcode says what they are: these are what clients
//! wrote. Block and hole records bring what the peer lacks from before. A volume record says which volume those after it speak of.

use super::PeerFormatError;
use crate::bytes::{array_at, put, u16_at, u32_at, u64_at};
use ibid_units::{CpId, LogBlock, Lsn, Sector, Sectors, VolumeId};

/// Bytes of a record.
pub const RECORD_BYTES: usize = 16;
/// Sectors of the longest run one record can name: 32 MiB less one block, whole blocks.
pub const RUN_SECTORS_MAX: u32 = 65_528;
/// Bytes of a [`CpOpen`].
pub const CP_OPEN_BYTES: usize = 112;

const _: () = assert!(RUN_SECTORS_MAX <= u16::MAX as u32 && RUN_SECTORS_MAX.is_multiple_of(8));

// The highest page numbers name no page: a segment has fewer blocks than that.
const PAGE_ZEROES: u32 = 0xFFFF_FFFF;
const PAGE_DEALLOCATE: u32 = 0xFFFF_FFFE;
const PAGE_BLOCK: u32 = 0xFFFF_FFFD;
const PAGE_VOLUME: u32 = 0xFFFF_FFFC;
const PAGE_HOLE: u32 = 0xFFFF_FFFB;
/// The first page number that is not one.
const PAGE_RESERVED: u32 = 0xFFFF_FF00;

/// How the destination gets the bytes of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// From its own log, from this page of the CP's segment on.
    Reference(LogBlock),
    /// They are zero.
    Zeroes,
    /// They are zero and their space may be given back.
    Deallocate,
    /// Catch-up: they follow in CpBlock sections, from the source's volume.
    Block,
    /// Catch-up: they are zero, and their space may be given back.
    Hole,
    /// Not a run: the records after it are of this volume.
    Volume(VolumeId),
}

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// How the bytes come.
    pub kind: RecordKind,
    /// First sector of the run.
    pub first: Sector,
    /// Length of the run, at most [`RUN_SECTORS_MAX`].
    pub sectors: Sectors,
    /// CRC32C over the CRC32Cs of the pages' parts, 0 where there are none.
    pub digest: u32,
}

impl Record {
    /// The record that turns to `volume`.
    pub const fn volume(volume: VolumeId) -> Record {
        Record {
            kind: RecordKind::Volume(volume),
            first: Sector::new(0),
            sectors: Sectors::new(0),
            digest: 0,
        }
    }

    /// Number of 4 KiB pages the run touches.
    pub const fn pages(&self) -> u32 {
        self.sectors.blocks_from(self.first)
    }

    /// The 16 bytes: first_lba u48, sectors u16, page u32, digest u32.
    pub fn emit(&self) -> [u8; RECORD_BYTES] {
        assert!(self.first.get() >> 48 == 0, "a volume ends before sector 2^48");
        assert!(
            self.sectors.get() <= RUN_SECTORS_MAX,
            "a run is at most {RUN_SECTORS_MAX} sectors"
        );
        let (first, page) = match self.kind {
            RecordKind::Reference(page) => {
                assert!(page.get() < PAGE_RESERVED, "a page number is below the reserved ones");
                (self.first.get(), page.get())
            }
            RecordKind::Zeroes => (self.first.get(), PAGE_ZEROES),
            RecordKind::Deallocate => (self.first.get(), PAGE_DEALLOCATE),
            RecordKind::Block => (self.first.get(), PAGE_BLOCK),
            RecordKind::Hole => (self.first.get(), PAGE_HOLE),
            RecordKind::Volume(volume) => (u64::from(volume.get()), PAGE_VOLUME),
        };
        let mut out = [0; RECORD_BYTES];
        put(&mut out, 0, &first.to_le_bytes()[..6]);
        put(&mut out, 6, &(self.sectors.get() as u16).to_le_bytes());
        put(&mut out, 8, &page.to_le_bytes());
        put(&mut out, 12, &self.digest.to_le_bytes());
        out
    }

    /// Reads a record, refusing what [`Record::emit`] does not write. Whether the run lies in the volume and the pages
    /// in the segment is for the applier to check.
    pub fn parse(bytes: &[u8; RECORD_BYTES]) -> Result<Record, PeerFormatError> {
        let raw_first = u64_at(bytes, 0) & 0x0000_FFFF_FFFF_FFFF;
        let sectors = u32::from(u16_at(bytes, 6));
        let page = u32_at(bytes, 8);
        let digest = u32_at(bytes, 12);
        let kind = match page {
            PAGE_ZEROES => RecordKind::Zeroes,
            PAGE_DEALLOCATE => RecordKind::Deallocate,
            PAGE_BLOCK => RecordKind::Block,
            PAGE_HOLE => RecordKind::Hole,
            PAGE_VOLUME => {
                let volume = u16::try_from(raw_first).map_err(|_| PeerFormatError::Value)?;
                if sectors != 0 || digest != 0 {
                    return Err(PeerFormatError::Value);
                }
                return Ok(Record::volume(VolumeId::new(volume)));
            }
            PAGE_RESERVED..PAGE_HOLE => return Err(PeerFormatError::Value),
            page => RecordKind::Reference(LogBlock::new(page)),
        };
        if sectors == 0 || sectors > RUN_SECTORS_MAX {
            return Err(PeerFormatError::Value);
        }
        Ok(Record { kind, first: Sector::new(raw_first), sectors: Sectors::new(sectors), digest })
    }

    /// The record as it enters the chain digest: without the place of its bytes, which is one log's. `None` where it is catch-up,
    /// which repeats history and is none (decisions/0010).
    pub fn canonical(&self) -> Option<[u8; RECORD_BYTES]> {
        match self.kind {
            RecordKind::Reference(_) => Some(Record { kind: RecordKind::Block, ..*self }.emit()),
            RecordKind::Zeroes | RecordKind::Deallocate | RecordKind::Volume(_) => {
                Some(self.emit())
            }
            RecordKind::Block | RecordKind::Hole => None,
        }
    }
}

/// Opens a consistency point at the destination: what the list will be, so that a wrong one is never applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpOpen {
    /// Which CP; also the segment that its references name.
    pub cp: CpId,
    /// Every entry up to here is contained.
    pub last_lsn: Lsn,
    /// Records in the list.
    pub records: u32,
    /// Batches in the segment: the destination must hold each.
    pub batches: u32,
    /// CRC32C of the list's bytes.
    pub list_crc: u32,
    /// True where every run is to be sent as blocks (`cp_mode = "full"`).
    pub full: bool,
    /// True where nothing but what the log holds will be missing at the destination when it has this CP.
    pub in_sync: bool,
    /// Chain digest before this CP.
    pub chain_before: [u8; 32],
    /// Chain digest after it.
    pub chain_after: [u8; 32],
}

impl CpOpen {
    /// Writes the body.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let out = &mut out[..CP_OPEN_BYTES];
        out.fill(0);
        put(out, 0, &self.cp.get().to_le_bytes());
        put(out, 8, &self.last_lsn.get().to_le_bytes());
        put(out, 16, &self.records.to_le_bytes());
        put(out, 20, &self.batches.to_le_bytes());
        put(out, 24, &self.list_crc.to_le_bytes());
        put(out, 28, &[u8::from(self.full), u8::from(self.in_sync)]);
        put(out, 32, &self.chain_before);
        put(out, 64, &self.chain_after);
        CP_OPEN_BYTES
    }

    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<CpOpen, PeerFormatError> {
        if bytes.len() != CP_OPEN_BYTES {
            return Err(PeerFormatError::Length);
        }
        if bytes[28] > 1 || bytes[29] > 1 {
            return Err(PeerFormatError::Value);
        }
        Ok(CpOpen {
            cp: CpId::new(u64_at(bytes, 0)),
            last_lsn: Lsn::new(u64_at(bytes, 8)),
            records: u32_at(bytes, 16),
            batches: u32_at(bytes, 20),
            list_crc: u32_at(bytes, 24),
            full: bytes[28] == 1,
            in_sync: bytes[29] == 1,
            chain_before: array_at(bytes, 32),
            chain_after: array_at(bytes, 64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kind: RecordKind) -> Record {
        Record {
            kind,
            first: Sector::new(0x1234_5678_9ABC),
            sectors: Sectors::new(RUN_SECTORS_MAX),
            digest: 0xD1_6E57,
        }
    }

    #[test]
    fn each_kind_round_trips() {
        for kind in [
            RecordKind::Reference(LogBlock::new(9)),
            RecordKind::Zeroes,
            RecordKind::Deallocate,
            RecordKind::Block,
            RecordKind::Hole,
        ] {
            assert_eq!(Record::parse(&run(kind).emit()), Ok(run(kind)));
        }
        let volume = Record::volume(VolumeId::new(63));
        assert_eq!(Record::parse(&volume.emit()), Ok(volume));
    }

    #[test]
    fn what_emit_never_writes_is_refused() {
        let mut empty = run(RecordKind::Zeroes).emit();
        empty[6..8].fill(0);
        assert_eq!(Record::parse(&empty), Err(PeerFormatError::Value));
        let mut long = run(RecordKind::Zeroes).emit();
        long[6..8].fill(0xFF);
        assert_eq!(Record::parse(&long), Err(PeerFormatError::Value));
        let mut reserved = run(RecordKind::Zeroes).emit();
        reserved[8..12].copy_from_slice(&[0x10, 0xFF, 0xFF, 0xFF]);
        assert_eq!(Record::parse(&reserved), Err(PeerFormatError::Value));
    }

    #[test]
    fn the_place_of_bytes_is_no_history_and_catch_up_is_none_at_all() {
        let reference = |page| run(RecordKind::Reference(LogBlock::new(page))).canonical();
        assert!(reference(5).is_some());
        assert_eq!(reference(5), reference(6));
        assert_ne!(reference(5), run(RecordKind::Zeroes).canonical());
        assert_ne!(run(RecordKind::Zeroes).canonical(), run(RecordKind::Deallocate).canonical());
        assert_eq!(run(RecordKind::Block).canonical(), None);
        assert_eq!(run(RecordKind::Hole).canonical(), None);
    }

    #[test]
    fn a_cp_open_round_trips() {
        for (full, in_sync) in [(true, false), (false, true), (false, false)] {
            cp_open_round_trips(full, in_sync);
        }
    }

    fn cp_open_round_trips(full: bool, in_sync: bool) {
        let open = CpOpen {
            cp: CpId::new(4),
            last_lsn: Lsn::new(44),
            records: 7,
            batches: 3,
            list_crc: 1,
            full,
            in_sync,
            chain_before: [1; 32],
            chain_after: [2; 32],
        };
        let mut out = [0xFF; 128];
        let length = open.emit(&mut out);
        assert_eq!(CpOpen::parse(&out[..length]), Ok(open));
        assert_eq!(CpOpen::parse(&out[..length - 1]), Err(PeerFormatError::Length));
        for flag in [28, 29] {
            let mut other = out;
            other[flag] = 2;
            assert_eq!(CpOpen::parse(&other[..length]), Err(PeerFormatError::Value));
        }
    }
}
