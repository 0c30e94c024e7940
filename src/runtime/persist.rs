//! Makes batches durable on the log device, on both nodes the same way: write header, descriptors and pages, then flush, then it counts.
//! One flush is under way at a time; it covers every batch that was written before it, so load makes groups by itself.
//! PER-1  a batch counts as durable only after a flush that was submitted when all of its writes had completed.
//! PER-2  after an error nothing counts as durable any more.

use crate::disks::{Disks, LOG_FILE, Work};
use ibid_driver::{Arena, Disk, DiskOp};
use ibid_engine::log::{ClosedBatch, LogGeometry};
use ibid_units::{LogBlock, Lsn, Mutant, Nanos};
use ibid_wire::disk::Batch;
use std::collections::VecDeque;

/// Batches that may be under way.
pub(crate) const JOBS_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Job {
    last: Lsn,
    writes: u32,
    began: Nanos,
}

/// The log device's writer.
#[derive(Debug)]
pub(crate) struct Persist {
    geometry: LogGeometry,
    /// False for `durability = "memory"`: a batch counts at once.
    to_disk: bool,
    jobs: VecDeque<Job>,
    /// Number of the first job in the queue.
    first: u32,
    /// Jobs from the front that the flush under way covers.
    flushing: Option<usize>,
    failed: bool,
}

impl Persist {
    /// Whether the log is on a device, too.
    pub(crate) const fn is_to_disk(&self) -> bool {
        self.to_disk
    }

    pub(crate) fn new(geometry: LogGeometry, to_disk: bool) -> Self {
        Self {
            geometry,
            to_disk,
            jobs: VecDeque::with_capacity(JOBS_MAX),
            first: 0,
            flushing: None,
            failed: false,
        }
    }

    /// True where another batch may be begun.
    pub(crate) fn has_room(&self) -> bool {
        self.jobs.len() < JOBS_MAX
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Begins to write a batch whose structure has been checked or made by this node.
    pub(crate) fn begin<D: Disk>(
        &mut self,
        now: Nanos,
        arena: &Arena,
        disks: &mut Disks<D>,
        batch: ClosedBatch,
    ) {
        let ClosedBatch { segment, block, with_header, last } = batch;
        assert!(self.has_room(), "whoever begins a batch has asked for room");
        let number = self.first.wrapping_add(self.jobs.len() as u32);
        let mut writes = 0;
        if self.to_disk {
            let mut write = |first: LogBlock, count: u32| {
                let span = self.geometry.span(segment, first, count);
                let at = self.geometry.device_at(segment, first);
                disks.submit(
                    DiskOp::Write { file: LOG_FILE, at, span },
                    Work::LogWrite { job: number },
                );
                writes += 1;
            };
            if with_header {
                write(LogBlock::new(0), 1);
            }
            write(block, 1);
            let bytes = arena.bytes(self.geometry.span(segment, block, 1));
            let batch = Batch::parse(&bytes).expect("a batch in the log checks");
            let mut run: Option<(u32, u32)> = None;
            for (entry, _) in batch.entries().filter(|(entry, _)| entry.pages > 0) {
                let (page, pages) = (entry.page.get(), u32::from(entry.pages));
                match &mut run {
                    // One write of at most 1 MiB: neighbours join while they fit.
                    Some((first, count)) if *first + *count == page && *count + pages <= 256 => {
                        *count += pages
                    }
                    _ => {
                        if let Some((first, count)) = run.replace((page, pages)) {
                            write(LogBlock::new(first), count);
                        }
                    }
                }
            }
            if let Some((first, count)) = run {
                write(LogBlock::new(first), count);
            }
        }
        self.jobs.push_back(Job { last, writes, began: now });
    }

    /// A write is complete.
    pub(crate) fn written(&mut self, job: u32) {
        let at = job.wrapping_sub(self.first) as usize;
        self.jobs[at].writes -= 1;
    }

    /// An error came back: nothing becomes durable any more (PER-2).
    pub(crate) fn fail(&mut self) {
        self.failed = !Mutant::FailedFlushCounts.is_on();
    }

    /// Starts the next flush if one is due; with `durability = "memory"` finds what counts at once.
    pub(crate) fn turn<D: Disk>(
        &mut self,
        now: Nanos,
        disks: &mut Disks<D>,
        done: impl FnMut(Lsn, Nanos),
    ) {
        if self.failed || self.flushing.is_some() {
            return;
        }
        let ready = self.jobs.iter().take_while(|job| job.writes == 0).count();
        if ready == 0 {
            return;
        }
        if self.to_disk && !Mutant::LogFlushSkipped.is_on() {
            self.flushing = Some(ready);
            disks.submit(DiskOp::Flush { file: LOG_FILE }, Work::LogFlush);
        } else {
            self.pop(now, ready, done);
        }
    }

    /// The flush is complete (PER-1).
    pub(crate) fn flushed(&mut self, now: Nanos, done: impl FnMut(Lsn, Nanos)) {
        let mut ready = self.flushing.take().expect("a flush was under way");
        if Mutant::FlushCoversLater.is_on() {
            ready = self.jobs.iter().take_while(|job| job.writes == 0).count();
        }
        if !self.failed {
            self.pop(now, ready, done);
        }
    }

    fn pop(&mut self, now: Nanos, count: usize, mut done: impl FnMut(Lsn, Nanos)) {
        for _ in 0..count {
            let job = self.jobs.pop_front().expect("jobs that were counted");
            self.first = self.first.wrapping_add(1);
            done(job.last, now.since(job.began));
        }
    }
}
