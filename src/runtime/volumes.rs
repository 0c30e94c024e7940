//! A CP's operations as operations of the disk. The same for both nodes: bytes go from the node's own log to its own volume.

use crate::disks::volume_file;
use ibid_driver::DiskOp;
use ibid_engine::log::LogGeometry;
use ibid_engine::point::ApplyOp;
use ibid_units::{CpId, SECTOR_BYTES, Span};

/// What the disk is to do for one operation of a CP.
pub(crate) fn disk_op(geometry: &LogGeometry, segment: CpId, op: ApplyOp) -> DiskOp {
    match op {
        ApplyOp::Write { volume, first, sectors, page } => {
            let whole = geometry.span(segment, page, sectors.blocks_from(first));
            let offset = u64::from(first.in_block()) * SECTOR_BYTES;
            let span = Span::new(whole.at + offset, sectors.bytes() as u32);
            DiskOp::Write { file: volume_file(volume), at: first.bytes(), span }
        }
        ApplyOp::Zero { volume, first, sectors } => {
            DiskOp::Zero { file: volume_file(volume), at: first.bytes(), len: sectors.bytes() }
        }
        ApplyOp::Deallocate { volume, first, sectors } => DiskOp::Deallocate {
            file: volume_file(volume),
            at: first.bytes(),
            len: sectors.bytes(),
        },
        ApplyOp::Rotten { .. } => panic!("HEAL-1: what is rotten is not written"),
        ApplyOp::Flush { volume } => DiskOp::Flush { file: volume_file(volume) },
    }
}
