//! What a batch must be to follow the one before it: the same question for the mirror, for recovery, and for a source that takes batches back from
//! its peer. Pages are a second question, asked once they are there.

use super::{LogGeometry, MirrorFault, PagePart};
use crate::memory::Memory;
use ibid_units::{CpId, Epoch, LogBlock, Lsn, SECTOR_BYTES, Span};
use ibid_wire::disk::{Batch, Entry, SegmentHeader};

/// The batch that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due<'a> {
    pub(super) geometry: LogGeometry,
    pub(super) volume_sectors: &'a [u64],
    pub(super) segment: CpId,
    pub(super) epoch: Epoch,
    pub(super) index: u32,
    pub(super) previous: u32,
    pub(super) first_lsn: Lsn,
}

impl Due<'_> {
    /// The batch in `bytes`, if it is the one that is due and names only places that exist.
    pub(super) fn batch<'b>(&self, bytes: &'b [u8]) -> Result<Batch<'b>, MirrorFault> {
        let batch = Batch::parse(bytes).map_err(|_| MirrorFault::Structure)?;
        let header = batch.header;
        let block = self.geometry.batch_block(self.index);
        let follows = header.segment == self.segment
            && header.epoch == self.epoch
            && header.block == block
            && header.index == self.index
            && header.previous == self.previous
            && header.first_lsn == self.first_lsn;
        if !follows || batch.entry_count == 0 || header.committed >= header.first_lsn {
            return Err(MirrorFault::Order);
        }
        if !batch.entries().all(|(entry, _)| entry_fits(self.volume_sectors, &entry, block)) {
            return Err(MirrorFault::Structure);
        }
        Ok(batch)
    }
}

/// The last entry of a batch.
pub(super) fn last_of(batch: &Batch<'_>) -> Lsn {
    Lsn::new(batch.header.first_lsn.get() + u64::from(batch.entry_count) - 1)
}

/// True where a header is of this segment, this pair and this geometry.
pub(super) fn header_fits(
    header: &SegmentHeader,
    geometry: LogGeometry,
    segment: CpId,
    pair: [u8; 16],
) -> bool {
    header.segment == segment
        && header.pair == pair
        && header.blocks == geometry.segment_blocks
        && header.first_lsn > Lsn::new(0)
}

/// True where an entry lies in its volume, and its pages between the header and the batch's block.
fn entry_fits(volume_sectors: &[u64], entry: &Entry, below: LogBlock) -> bool {
    let end = entry.first.checked_end(entry.sectors);
    let in_volume = volume_sectors
        .get(usize::from(entry.volume.get()))
        .is_some_and(|sectors| end.is_some_and(|end| end.get() <= *sectors));
    let pages_end = entry.page.get().checked_add(u32::from(entry.pages));
    let in_pages = entry.pages == 0
        || (entry.page.get() >= 1 && pages_end.is_some_and(|end| end <= below.get()));
    in_volume && in_pages
}

/// Index nodes that an entry takes: a node for each block it touches.
pub(super) fn nodes_of(entry: &Entry) -> u32 {
    entry.sectors.blocks_from(entry.first)
}

/// The part of an entry's page that carries payload.
pub(super) fn part_of(entry: &Entry, index: u16) -> PagePart {
    let (first, count) = entry.page_part(index);
    PagePart { first: first as u8, count: count as u8 }
}

/// The bytes of a page's part.
pub(super) fn part_span(
    geometry: LogGeometry,
    segment: CpId,
    page: LogBlock,
    part: PagePart,
) -> Span {
    let whole = geometry.span(segment, page, 1);
    let sector = SECTOR_BYTES as u32;
    Span::new(whole.at + u64::from(u32::from(part.first) * sector), u32::from(part.count) * sector)
}

/// Every page of a batch: (page, its part, the checksum it must have).
pub(super) fn pages_of<'a>(
    batch: &Batch<'a>,
) -> impl Iterator<Item = (LogBlock, PagePart, u32)> + 'a {
    batch.entries().flat_map(|(entry, crcs)| {
        (0..entry.pages).map(move |index| {
            let page = LogBlock::new(entry.page.get() + u32::from(index));
            (page, part_of(&entry, index), crcs.get(index))
        })
    })
}

/// The Lsn after so many batches of a segment whose structure lies in memory: of no batches, the one before its first entry. `None` where that
/// does not lie there.
pub(super) fn last_lsn_of(
    memory: &impl Memory,
    geometry: LogGeometry,
    segment: CpId,
    batches: u32,
) -> Option<Lsn> {
    let Some(index) = batches.checked_sub(1) else {
        let header = memory
            .read(geometry.span(segment, LogBlock::new(0), 1), SegmentHeader::parse)
            .ok()
            .filter(|header| header.segment == segment)?;
        return header.first_lsn.get().checked_sub(1).map(Lsn::new);
    };
    if batches >= geometry.segment_blocks {
        return None;
    }
    memory.read(geometry.span(segment, geometry.batch_block(index), 1), |bytes| {
        let batch = Batch::parse(bytes).ok()?;
        (batch.header.segment == segment && batch.header.index == index).then(|| last_of(&batch))
    })
}
