//! A page of the log that is to be sent again, and whose bytes in memory are no longer those that came: it is read again from the log
//! device first. One at a time, and nothing is sent meanwhile; it happens when memory fails, not under load.
//! What is sent for the first time is not looked at: it carries the sum that was taken when the client's bytes came, and the peer refuses it.
//! MEND-1 what the peer has refused or not acknowledged goes out again only while it still is what was summed when it came.

use super::Core;
use crate::disks::{LOG_FILE, Work};
use crate::snapshot::Fault;
use ibid_driver::{Disk, DiskOp};
use ibid_units::{CpId, LogBlock, Lsn, Nanos};

/// The log device is read again after an error so much later.
const AGAIN_AFTER: Nanos = Nanos::from_millis(1000);

/// The page at hand.
#[derive(Debug, Default)]
pub(super) struct Mend {
    page: Option<Page>,
    /// The slot that is kept while the log device is read.
    reading: Option<usize>,
    /// Pages that were mended, since start.
    pub(super) mended: u64,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    segment: CpId,
    block: LogBlock,
    /// The device holds the page once this entry is durable.
    durable: Lsn,
    at: Nanos,
}

impl Mend {
    /// Whether a page is being mended, before which nothing is sent.
    pub(super) fn is_busy(&self) -> bool {
        self.page.is_some()
    }
}

impl<D: Disk> Core<D> {
    /// Takes a page that must not be sent as it is.
    pub(super) fn mend(&mut self, now: Nanos, segment: CpId, block: LogBlock) {
        // Of which batch it is would have to be looked up; everything that is in a batch now will do.
        let page = Page { segment, block, durable: self.log.batched(), at: now };
        self.mend.page.get_or_insert(page);
    }

    pub(super) fn mend_turn(&mut self, now: Nanos) -> bool {
        let Some(page) = self.mend.page.filter(|_| self.mend.reading.is_none()) else {
            return false;
        };
        if !self.log.retains(page.segment) {
            self.mend.page = None;
            return true;
        }
        if self.fault.is_some() || now < page.at {
            return false;
        }
        if !self.persist.is_to_disk() {
            self.set_fault(now, Fault::Memory);
            return true;
        }
        if self.log.durable_here_lsn() < page.durable {
            return false;
        }
        self.mend.reading = Some(self.log.pin(page.segment));
        let span = self.geometry.span(page.segment, page.block, 1);
        let at = self.geometry.device_at(page.segment, page.block);
        self.disks.submit(DiskOp::Read { file: LOG_FILE, at, span }, Work::Mend);
        true
    }

    /// The log device was read. Where it does not have what came either, nobody may have it: the peer has not said that it does.
    pub(super) fn mended(&mut self, now: Nanos, success: bool) {
        if let Some(page) = self.mend.page {
            if self.log.pages.sound(page.segment, page.block, 1, &self.memory) == 1 {
                self.mend.mended += 1;
                self.mend.page = None;
            } else if !self.log.retains(page.segment) {
                // A CP has brought it to the volumes meanwhile: it is sent no more.
                self.mend.page = None;
            } else if success {
                self.set_fault(now, Fault::Memory);
            } else {
                self.mend.page = Some(Page { at: now.after(AGAIN_AFTER), ..page });
            }
        }
        // Last: it may open the next segment in the slot, which forgets the sums of this one.
        if let Some(slot) = self.mend.reading.take() {
            self.log.unpin_slot(slot);
        }
    }
}
