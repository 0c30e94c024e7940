//! Keeps the out-of-sync map on the log device: dirty pages are written in place, then flushed. A page that a crash tears
//! counts as all ones, so one copy is enough (MAP-1).
//! MAP-3  a bit that a CP needs is durable before the superblock that records the CP; see `source::point`.

use crate::disks::{Disks, LOG_FILE, Work};
use crate::layout::Span64;
use crate::slots::Slots;
use ibid_driver::{Arena, Disk, DiskOp};
use ibid_engine::sync::OutOfSync;
use ibid_units::{BLOCK_BYTES, Span};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    Writing,
    Flushing,
}

/// Writes the map's pages, a few at a time.
#[derive(Debug)]
pub(crate) struct MapWriter {
    pair: [u8; 16],
    /// Where the map lies on the log device.
    device_at: u64,
    staging: Span64,
    /// The page that is written from each block of the staging memory.
    slots: Slots<Option<u32>>,
    stage: Stage,
}

impl MapWriter {
    pub(crate) fn new(pair: [u8; 16], device_at: u64, staging: Span64) -> Self {
        assert!(staging.blocks > 0, "pages of the map are written from memory of their own");
        let slots = Slots::new(staging.blocks as usize, None);
        Self { pair, device_at, staging, slots, stage: Stage::Idle }
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Writes what is dirty, then flushes; true if anything was begun.
    pub(crate) fn turn<D: Disk>(
        &mut self,
        arena: &Arena,
        disks: &mut Disks<D>,
        map: &mut OutOfSync,
    ) -> bool {
        if self.stage == Stage::Flushing || (self.stage == Stage::Idle && !map.is_dirty()) {
            return false;
        }
        self.stage = Stage::Writing;
        let mut any = false;
        while !self.slots.is_full() {
            let Some(page) = map.next_dirty() else { break };
            if (0..self.slots.count() as u32).any(|slot| *self.slots.get(slot) == Some(page)) {
                // Of two writes of a page the older one may be the last to reach the device.
                map.set_dirty(page);
                break;
            }
            let slot = self.slots.take(Some(page)).expect("a place was free");
            let at = self.staging.at + u64::from(slot) * BLOCK_BYTES;
            let span = Span::new(at, BLOCK_BYTES as u32);
            arena.with_mut(span, |out| map.emit(page, self.pair, out));
            let at = self.device_at + u64::from(page) * BLOCK_BYTES;
            disks.submit(DiskOp::Write { file: LOG_FILE, at, span }, Work::MapWrite { slot });
            any = true;
        }
        if self.slots.used() == 0 {
            self.stage = Stage::Flushing;
            disks.submit(DiskOp::Flush { file: LOG_FILE }, Work::MapFlush);
            any = true;
        }
        any
    }

    /// A page's write is complete.
    pub(crate) fn written(&mut self, slot: u32) {
        *self.slots.get_mut(slot) = None;
        self.slots.give(slot);
    }

    /// The flush is complete: every page that was not dirty again is durable.
    pub(crate) fn flushed(&mut self) {
        assert!(self.stage == Stage::Flushing, "the map was being flushed");
        self.stage = Stage::Idle;
    }
}
