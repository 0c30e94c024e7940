//! Which pages of a CP's list the source sends as blocks, and how far it is: those of block records, which the destination can have from
//! nowhere else; of references, all in `cp_mode = "full"`, otherwise those that the destination refused. In the order of the list, as
//! far as it is known what is refused. Bounded by the credit the destination gives.

use ibid_engine::link::{Item, ItemKind};
use ibid_engine::point::{Apply, CpList};
use ibid_units::{CpId, LogBlock, Mutant};
use ibid_wire::peer::RecordKind;
use std::collections::VecDeque;

/// Refused records that may wait to be sent; the destination names the others again.
const WANTED_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct BlockSender {
    /// Records that were queued already, a bit each.
    queued: Vec<u64>,
    wanted: VecDeque<u32>,
    /// References are sent unasked.
    full: bool,
    /// No record before this one is still to be sent unasked.
    next: usize,
    /// The record at hand: (index, page in it, sector in the page).
    at: Option<(usize, u32, u32)>,
    sent: u32,
    credit: u32,
    /// The destination's attempt at this CP, as it last said; each wants its blocks anew.
    round: u32,
    brings: bool,
    blocks: u64,
}

impl BlockSender {
    pub(crate) fn new(segment_blocks: u32, catch_up_blocks: u32) -> Self {
        let records_max = ibid_engine::point::records_max(segment_blocks, catch_up_blocks);
        Self {
            queued: vec![0; records_max.div_ceil(64)],
            wanted: VecDeque::with_capacity(WANTED_MAX),
            full: false,
            next: 0,
            at: None,
            sent: 0,
            credit: 0,
            round: 0,
            brings: false,
            blocks: 0,
        }
    }

    /// A new CP, or the same one with a destination that starts over. `full`: it proves no references; `brings`: there are block records.
    pub(crate) fn start(&mut self, full: bool, brings: bool) {
        self.queued.fill(0);
        self.wanted.clear();
        self.full = full;
        self.brings = brings;
        self.round = 0;
        // Most lists have nothing to be sent unasked, and are not searched for it.
        self.next = if full || brings { 0 } else { usize::MAX };
        self.at = None;
        self.sent = 0;
        self.credit = 0;
    }

    /// The destination refuses a record; true where it had not been named before and its blocks will be sent.
    pub(crate) fn refused(&mut self, record: u32, list: &CpList) -> bool {
        let Some(found) = list.get(record as usize) else { return false };
        let (word, bit) = (record as usize / 64, 1u64 << (record % 64));
        let has_bytes = matches!(found.kind, RecordKind::Reference(_));
        let is_new = has_bytes && self.queued[word] & bit == 0 && self.wanted.len() < WANTED_MAX;
        if is_new {
            self.queued[word] |= bit;
            self.wanted.push_back(record);
        }
        is_new
    }

    /// The destination has begun its attempt number `round` at this CP: what was sent for an earlier one counts no more.
    pub(crate) fn set_round(&mut self, round: u32) {
        if round != self.round && !Mutant::RoundIgnored.is_on() {
            self.start(self.full, self.brings);
            self.round = round;
        }
    }

    /// Pieces that may have been sent in all.
    pub(crate) fn set_credit(&mut self, credit: u32) {
        self.credit = self.credit.max(credit);
    }

    /// Blocks sent since start.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The next piece to be sent.
    pub(crate) fn next_item(
        &mut self,
        cp: CpId,
        list: &CpList,
        apply: &Apply,
        piece_sectors: u32,
    ) -> Option<Item> {
        if self.sent >= self.credit {
            return None;
        }
        loop {
            let (index, page, sector) = match self.at {
                Some(at) => at,
                None => (self.next_record(list)?, 0, 0),
            };
            let record = list.get(index).expect("a record of the list");
            let pages = record.pages();
            if page == pages {
                self.at = None;
                continue;
            }
            let start = if page == 0 { record.first.in_block() } else { 0 };
            let end = u64::from(record.first.in_block()) + u64::from(record.sectors.get());
            let end = end.saturating_sub(u64::from(page) * 8).min(8) as u32;
            let first = start.max(sector);
            let count = piece_sectors.min(end - first);
            let ordinal = LogBlock::new(apply.ordinal(index) + page);
            self.at = Some(if first + count == end {
                self.blocks += 1;
                (index, page + 1, 0)
            } else {
                (index, page, first + count)
            });
            self.sent += 1;
            let kind = ItemKind::CpBlock { first: first as u8, count: count as u8 };
            return Some(Item { kind, segment: cp, place: ordinal });
        }
    }

    fn next_record(&mut self, list: &CpList) -> Option<usize> {
        while self.next < list.len() && !self.is_unasked(list, self.next) {
            self.next += 1;
        }
        let refused = self.wanted.front().map(|record| *record as usize);
        if let Some(record) = refused.filter(|record| *record < self.next) {
            self.wanted.pop_front();
            return Some(record);
        }
        if self.next >= list.len() {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    fn is_unasked(&self, list: &CpList, index: usize) -> bool {
        match list.get(index).expect("a record of the list").kind {
            RecordKind::Block => true,
            RecordKind::Reference(_) => self.full,
            RecordKind::Zeroes
            | RecordKind::Deallocate
            | RecordKind::Hole
            | RecordKind::Volume(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ibid_engine::log::LogGeometry;
    use ibid_engine::point::{Prove, Side};
    use ibid_units::{Sector, Sectors, VolumeId};
    use ibid_wire::peer::Record;

    fn list() -> CpList {
        let mut list = CpList::new(64, 16);
        list.push(&Record::volume(VolumeId::new(0)));
        let run = |first, sectors, kind| Record {
            kind,
            first: Sector::new(first),
            sectors: Sectors::new(sectors),
            digest: 0,
        };
        list.push(&run(6, 12, RecordKind::Reference(LogBlock::new(1))));
        list.push(&run(24, 8, RecordKind::Zeroes));
        list.push(&run(32, 8, RecordKind::Reference(LogBlock::new(9))));
        list.push(&run(40, 20, RecordKind::Block));
        list.push(&run(64, 8, RecordKind::Hole));
        list
    }

    fn pieces(piece: u32, setup: impl FnOnce(&mut BlockSender, &CpList)) -> Vec<(u32, u8, u8)> {
        let list = list();
        let geometry = LogGeometry { segments: 2, segment_blocks: 64, arena_at: 0 };
        let mut apply = Apply::new(Side::Source, geometry, 16, vec![1000]);
        assert!(apply.start(CpId::new(1), &list, Prove::Nothing));
        let mut sender = BlockSender::new(64, 16);
        setup(&mut sender, &list);
        let mut out = Vec::new();
        while let Some(item) = sender.next_item(CpId::new(1), &list, &apply, piece) {
            let ItemKind::CpBlock { first, count } = item.kind else { panic!("{item:?}") };
            out.push((item.place.get(), first, count));
        }
        out
    }

    /// The pieces of the block record.
    const BLOCKS: [(u32, u8, u8); 3] = [(4, 0, 8), (5, 0, 8), (6, 0, 4)];

    #[test]
    fn full_mode_sends_every_sector_that_lies_in_a_page_once() {
        let all = pieces(8, |sender, _| {
            sender.start(true, true);
            sender.set_credit(100);
        });
        assert_eq!(all[..4], [(0, 6, 2), (1, 0, 8), (2, 0, 2), (3, 0, 8)]);
        assert_eq!(all[4..], BLOCKS);
        let small = pieces(2, |sender, _| {
            sender.start(true, true);
            sender.set_credit(100);
        });
        assert_eq!(small.iter().map(|piece| u32::from(piece.2)).sum::<u32>(), 40);
    }

    #[test]
    fn a_refused_record_is_sent_once_however_often_it_is_named_and_nothing_beyond_the_credit() {
        let refused = pieces(8, |sender, list| {
            sender.start(false, false);
            sender.set_credit(100);
            assert!(sender.refused(3, list));
            assert!(!sender.refused(3, list));
            assert!(!sender.refused(2, list));
            assert!(!sender.refused(99, list));
        });
        assert_eq!(refused, [(3, 0, 8)]);
        let short = pieces(8, |sender, _| {
            sender.start(true, true);
            sender.set_credit(2);
        });
        assert_eq!(short.len(), 2);
    }

    #[test]
    fn block_records_are_sent_unasked_and_refused_references_in_their_place_among_them() {
        let unasked = pieces(8, |sender, list| {
            sender.start(false, true);
            sender.set_credit(100);
            assert!(!sender.refused(4, list), "a block is not refused");
        });
        assert_eq!(unasked, BLOCKS);
        let both = pieces(8, |sender, list| {
            sender.start(false, true);
            sender.set_credit(100);
            assert!(sender.refused(3, list));
        });
        assert_eq!(both[0], (3, 0, 8));
        assert_eq!(both[1..], BLOCKS);
        let none = pieces(8, |sender, _| {
            sender.start(false, true);
        });
        assert!(none.is_empty(), "there is no credit");
    }
}
