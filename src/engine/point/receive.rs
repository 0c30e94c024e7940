//! The destination's side of a list: collects its stretches in any order until it is whole and is the one announced.
//! CP-4  a list is applied only if its checksum, its chain digests and its place in the order of CPs are right.

use super::CpList;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::CpId;
use ibid_wire::peer::{ChainDigest, CpOpen, RECORD_BYTES};

/// How far a list is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListState {
    /// None is announced.
    Idle,
    /// Stretches are missing.
    Collecting,
    /// It is whole and checked.
    Whole,
    /// It contradicts what was announced: not applied.
    Wrong,
}

/// Collects one list after another.
#[derive(Debug)]
pub struct ListReceiver {
    open: Option<CpOpen>,
    state: ListState,
    have: Vec<u64>,
    missing: usize,
}

impl ListReceiver {
    /// For lists of segments of this size, and catch-up of so many blocks.
    pub fn new(segment_blocks: u32, catch_up_blocks: u32) -> Self {
        let records_max = super::records_max(segment_blocks, catch_up_blocks);
        Self {
            open: None,
            state: ListState::Idle,
            have: vec![0; records_max.div_ceil(64)],
            missing: 0,
        }
    }

    /// Forgets the list.
    pub fn reset(&mut self) {
        self.open = None;
        self.state = ListState::Idle;
    }

    /// What was announced.
    pub fn open(&self) -> Option<&CpOpen> {
        self.open.as_ref()
    }

    /// How far the list is.
    pub fn state(&self) -> ListState {
        self.state
    }

    /// A CP is announced, after CP `done` with chain digest `chain`. False refuses it: not the next, or of another history.
    #[must_use]
    pub fn announced(
        &mut self,
        open: &CpOpen,
        done: CpId,
        chain: &[u8; 32],
        list: &mut CpList,
    ) -> bool {
        if open.cp <= done || self.open.as_ref() == Some(open) {
            return true;
        }
        if open.cp != done.next() || open.chain_before != *chain || self.open.is_some() {
            return false;
        }
        if !list.resize(open.records as usize) {
            return false;
        }
        self.have.fill(0);
        self.missing = open.records as usize;
        self.open = Some(*open);
        self.state = ListState::Collecting;
        if self.missing == 0 {
            self.check(list);
        }
        true
    }

    /// A stretch of the list, beginning at record `place`. False where it can't be placed now.
    #[must_use]
    pub fn stretch(&mut self, cp: CpId, place: u32, bytes: &[u8], list: &mut CpList) -> bool {
        let Some(open) = &self.open else { return false };
        if open.cp != cp || !bytes.len().is_multiple_of(RECORD_BYTES) {
            return false;
        }
        let count = bytes.len() / RECORD_BYTES;
        let place = place as usize;
        if place + count > open.records as usize {
            return false;
        }
        if self.state != ListState::Collecting {
            return true;
        }
        list.bytes_mut()[place * RECORD_BYTES..(place + count) * RECORD_BYTES]
            .copy_from_slice(bytes);
        for record in place..place + count {
            let (word, bit) = (record / 64, 1u64 << (record % 64));
            if self.have[word] & bit == 0 {
                self.have[word] |= bit;
                self.missing -= 1;
            }
        }
        if self.missing == 0 {
            self.check(list);
        }
        true
    }

    /// CP-4.
    fn check(&mut self, list: &CpList) {
        let open = self.open.as_ref().expect("a list that is checked was announced");
        let mut chain = ChainDigest::new(&open.chain_before, open.cp);
        let parses = (0..list.len())
            .all(|index| list.get(index).map(|record| chain.push(&record)).is_some());
        let right = parses
            && ibid_wire::crc32c(list.bytes()) == open.list_crc
            && chain.finish() == open.chain_after;
        self.state = if right { ListState::Whole } else { ListState::Wrong };
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
