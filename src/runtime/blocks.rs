//! Which pages of a CP's list the source sends as blocks, and how far it is: all of them in `cp_mode = "full"`, otherwise those of
//! references that the destination refused. Bounded by the credit the destination gives.

use ibid_engine::link::{Item, ItemKind};
use ibid_engine::point::{Apply, CpList};
use ibid_units::{CpId, LogBlock};
use ibid_wire::peer::RecordKind;
use std::collections::VecDeque;

/// Refused records that may wait to be sent; the destination names the others again.
const WANTED_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct BlockSender {
    /// Records that were queued already, a bit each.
    queued: Vec<u64>,
    wanted: VecDeque<u32>,
    /// In full mode, the next record to be sent.
    next: Option<usize>,
    /// The record at hand: (index, page in it, sector in the page).
    at: Option<(usize, u32, u32)>,
    sent: u32,
    credit: u32,
    blocks: u64,
}

impl BlockSender {
    pub(crate) fn new(segment_blocks: u32) -> Self {
        let records_max = ibid_engine::point::records_max(segment_blocks);
        Self {
            queued: vec![0; records_max.div_ceil(64)],
            wanted: VecDeque::with_capacity(WANTED_MAX),
            next: None,
            at: None,
            sent: 0,
            credit: 0,
            blocks: 0,
        }
    }

    /// A new CP, or the same one with a destination that starts over.
    pub(crate) fn start(&mut self) {
        self.queued.fill(0);
        self.wanted.clear();
        self.next = None;
        self.at = None;
        self.sent = 0;
        self.credit = 0;
    }

    /// Sends every record from now on (`cp_mode = "full"`), if it has not begun to.
    pub(crate) fn want_all(&mut self) {
        if self.next.is_none() {
            self.next = Some(0);
        }
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
        if let Some(record) = self.wanted.pop_front() {
            return Some(record as usize);
        }
        let next = self.next.as_mut()?;
        while *next < list.len() {
            let index = *next;
            *next += 1;
            let has_bytes = list
                .get(index)
                .is_some_and(|record| matches!(record.kind, RecordKind::Reference(_)));
            if has_bytes {
                return Some(index);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ibid_engine::point::Prove;
    use ibid_units::{Sector, Sectors, VolumeId};
    use ibid_wire::peer::Record;

    fn list() -> CpList {
        let mut list = CpList::new(64);
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
        list
    }

    fn pieces(piece: u32, setup: impl FnOnce(&mut BlockSender, &CpList)) -> Vec<(u32, u8, u8)> {
        let list = list();
        let mut apply = Apply::new(64, vec![1000]);
        assert!(apply.start(CpId::new(1), &list, Prove::Nothing));
        let mut sender = BlockSender::new(64);
        sender.start();
        setup(&mut sender, &list);
        let mut out = Vec::new();
        while let Some(item) = sender.next_item(CpId::new(1), &list, &apply, piece) {
            let ItemKind::CpBlock { first, count } = item.kind else { panic!("{item:?}") };
            out.push((item.place.get(), first, count));
        }
        out
    }

    #[test]
    fn full_mode_sends_every_sector_of_every_reference_once() {
        let all = pieces(8, |sender, _| {
            sender.set_credit(100);
            sender.want_all();
        });
        assert_eq!(all, [(0, 6, 2), (1, 0, 8), (2, 0, 2), (3, 0, 8)]);
        let small = pieces(2, |sender, _| {
            sender.set_credit(100);
            sender.want_all();
        });
        assert_eq!(small.iter().map(|piece| u32::from(piece.2)).sum::<u32>(), 20);
    }

    #[test]
    fn a_refused_record_is_sent_once_however_often_it_is_named_and_nothing_beyond_the_credit() {
        let refused = pieces(8, |sender, list| {
            sender.set_credit(100);
            assert!(sender.refused(3, list));
            assert!(!sender.refused(3, list));
            assert!(!sender.refused(2, list));
            assert!(!sender.refused(99, list));
        });
        assert_eq!(refused, [(3, 0, 8)]);
        let short = pieces(8, |sender, _| {
            sender.set_credit(2);
            sender.want_all();
        });
        assert_eq!(short.len(), 2);
    }
}
