//! From a log device and an arena to a node that knows what it holds: superblock, map, log. Nothing can be made of an [`Unrecovered`] but a
//! [`Recovered`], or a refusal that says why. Takes completions turn by turn and never waits.
//! RCV-1  nothing that was found counts before a flush of the log device has completed: a process that died leaves writes that can be read and
//!        are not durable.
//! RCV-2  a blank device's log is zeroed before its first superblock: no entry of a former life can ever count.

use crate::disks::LOG_FILE;
use crate::layout::{Layout, MAP_STAGING_BLOCKS};
use crate::memory::ArenaMemory;
use crate::superblock::{CopyFound, StartRefused, identify, newest, spare};
use ibid_driver::{Arena, Disk, DiskError, DiskOp};
use ibid_engine::log::{BlockRun, RecoveredLog, Scan, ScanConfig};
use ibid_units::{BLOCK_BYTES, Mutant, Span};
use ibid_wire::disk::{SEGMENTS_AT, SUPERBLOCK_AT, Superblock, SyncState};
use std::sync::Arc;

/// Reads of the log under way, at most.
const READS_MAX: usize = 32;

/// What recovery found, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// The device held nothing and got its first superblock.
    pub blank: bool,
    /// Superblock copies that check.
    pub superblock_copies_good: u8,
    /// Superblock copies that don't, or can't be read, or are gone.
    pub superblock_copies_bad: u8,
    /// Segments after the newest CP.
    pub segments: u32,
    /// Entries in them.
    pub entries: u64,
    /// Bytes read of the log and the map.
    pub bytes_read: u64,
    /// The log's tail was torn: nobody is known to have been told of what is missing.
    pub torn: bool,
    /// Entries are missing that were acknowledged, or that an earlier start of this node had found durable.
    pub damaged: bool,
    /// Blocks of the log that could not be read.
    pub blocks_unreadable: u32,
    /// Pages of the map that could not be read. They count as all ones.
    pub map_pages_unreadable: u32,
}

/// A node's log device before anybody knows what is on it.
pub struct Unrecovered<D> {
    disk: D,
    arena: Arc<Arena>,
    memory: ArenaMemory,
    layout: Layout,
    expected: Superblock,
    map_pages: u32,
    stage: Stage,
    /// The operation to be submitted next, if the device had no room for it.
    held: Option<(DiskOp, Job)>,
    jobs: [Option<Job>; READS_MAX],
    copies: [CopyFound; 2],
    copies_seen: bool,
    copies_read_again: [bool; 2],
    superblock: Superblock,
    scan: Option<Scan>,
    log: Option<RecoveredLog>,
    report: RecoveryReport,
}

/// What a node's log device holds, and all that a shard begins with.
pub struct Recovered<D> {
    /// The driver, with nothing under way.
    pub disk: D,
    /// The superblock that counts.
    pub superblock: Superblock,
    /// The log. Where its epoch is above the superblock's, that one must not be given again.
    pub log: RecoveredLog,
    /// For people.
    pub report: RecoveryReport,
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Nothing moved: the device is awaited.
    Idle,
    /// Something moved.
    Busy,
    /// [`Unrecovered::finish`] may be called.
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// A superblock copy is read.
    Copy(usize),
    /// A blank device's log is made zeroes …
    Zero,
    /// … the first superblock written …
    First,
    /// … and both flushed, between and after.
    FlushZero,
    /// The map, from this page on.
    Map(u32),
    /// The log.
    Log,
    /// RCV-1.
    Flush,
    Done,
}

#[derive(Clone, Copy, Debug)]
enum Job {
    /// The one operation of a stage that has one at a time.
    Step,
    /// Pages of the map.
    Map {
        first: u32,
        count: u32,
    },
    Run(BlockRun),
}

impl<D: Disk> Unrecovered<D> {
    /// Over a disk whose file 0 is the log device, and an arena as long as `layout` says. `expected` is the superblock that a blank device of this
    /// node would get (with `fresh` set or not: only whoever knows the volumes can say); `map_pages` how many pages the out-of-sync map
    /// has behind the log (0: none, and none is zeroed on a blank device).
    pub fn new(
        disk: D,
        layout: Layout,
        arena: Arc<Arena>,
        expected: Superblock,
        map_pages: u32,
    ) -> Self {
        assert!(
            layout.log.segments == expected.segments
                && layout.log.segment_blocks == expected.segment_blocks,
            "the arena is laid out for the log"
        );
        Self {
            disk,
            memory: ArenaMemory(arena.clone()),
            arena,
            layout,
            superblock: expected,
            expected,
            map_pages,
            stage: Stage::Copy(0),
            held: None,
            jobs: [None; READS_MAX],
            copies: [CopyFound::Blank, CopyFound::Blank],
            copies_seen: false,
            copies_read_again: [false; 2],
            scan: None,
            log: None,
            report: RecoveryReport::default(),
        }
    }

    /// Moves everything that can move. Every page of the map that counts (a source out of sync has one) is shown to `map` once: number and bytes,
    /// which don't check where the page could not be read.
    pub fn turn(&mut self, map: &mut dyn FnMut(u32, &[u8])) -> Result<Turn, StartRefused> {
        let mut busy = self.submit();
        let mut done = Vec::new();
        self.disk.poll(&mut |token, result| done.push((token as usize, result)));
        for (place, result) in done {
            busy = true;
            let job = self.jobs[place].take().expect("a completion is of a job under way");
            self.completed(job, result, map)?;
        }
        if self.stage == Stage::Log && self.scan.as_ref().is_some_and(Scan::is_done) {
            self.log_done()?;
            busy = true;
        }
        Ok(match (self.stage, busy) {
            (Stage::Done, _) => Turn::Done,
            (_, true) => Turn::Busy,
            (_, false) => Turn::Idle,
        })
    }

    /// What was found.
    ///
    /// # Panics
    /// Before a turn came to [`Turn::Done`].
    pub fn finish(self) -> Recovered<D> {
        assert!(self.stage == Stage::Done, "RCV-1: recovery is finished before it counts");
        let log = self.log.expect("recovery ends with a log");
        Recovered { disk: self.disk, superblock: self.superblock, log, report: self.report }
    }

    fn is_idle(&self) -> bool {
        self.held.is_none() && self.jobs.iter().all(Option::is_none)
    }

    /// Hands over as many operations as there are and the device takes; true if any.
    fn submit(&mut self) -> bool {
        let mut any = false;
        while let Some(place) = self.jobs.iter().position(Option::is_none) {
            let Some((op, job)) = self.held.take().or_else(|| self.next_op()) else { break };
            if self.disk.submit(op, place as u64).is_err() {
                self.held = Some((op, job));
                break;
            }
            self.jobs[place] = Some(job);
            any = true;
        }
        any
    }

    /// The next operation of the stage, if it may begin now.
    fn next_op(&mut self) -> Option<(DiskOp, Job)> {
        if let (Stage::Log, Some(scan)) = (self.stage, &mut self.scan) {
            let run = scan.next_read(&self.memory)?;
            let log = self.layout.log;
            let (at, span) = (run.device_at(log), run.span(log));
            return Some((DiskOp::Read { file: LOG_FILE, at, span }, Job::Run(run)));
        }
        // Every other stage has one operation at a time.
        if !self.jobs.iter().all(Option::is_none) {
            return None;
        }
        let file = LOG_FILE;
        let span = self.layout.superblock;
        let op = match self.stage {
            Stage::Copy(place) => DiskOp::Read { file, at: SUPERBLOCK_AT[place], span },
            Stage::Zero => {
                let len = self.layout.log.bytes() + u64::from(self.map_pages) * BLOCK_BYTES;
                DiskOp::Zero { file, at: SEGMENTS_AT, len }
            }
            Stage::First => {
                let first = self.expected;
                self.arena.with_mut(span, |bytes| first.emit(bytes));
                DiskOp::Write { file, at: first.device_at(), span }
            }
            Stage::Map(first) => {
                let count = MAP_STAGING_BLOCKS.min(self.map_pages - first);
                let at = self.layout.log.map_at() + u64::from(first) * BLOCK_BYTES;
                let span = Span::new(self.layout.map.at, count * BLOCK_BYTES as u32);
                return Some((DiskOp::Read { file, at, span }, Job::Map { first, count }));
            }
            Stage::FlushZero | Stage::Flush => DiskOp::Flush { file },
            Stage::Log | Stage::Done => return None,
        };
        Some((op, Job::Step))
    }

    fn completed(
        &mut self,
        job: Job,
        result: Result<(), DiskError>,
        map: &mut dyn FnMut(u32, &[u8]),
    ) -> Result<(), StartRefused> {
        match (job, self.stage) {
            (Job::Run(run), _) => {
                let scan = self.scan.as_mut().expect("runs are the scan's");
                scan.read_done(&mut self.memory, run, result.is_ok());
            }
            (Job::Map { first, count }, _) => self.map_came(first, count, result, map),
            (Job::Step, Stage::Copy(place)) => {
                self.copies[place] = match result {
                    Ok(()) => CopyFound::judge(&self.arena.bytes(self.layout.superblock)),
                    Err(DiskError(code)) => CopyFound::Unreadable(code),
                };
                self.stage = match self.next_copy(place) {
                    Some(next) => Stage::Copy(next),
                    None => self.superblock_found()?,
                };
            }
            (Job::Step, stage) => {
                if let Err(DiskError(code)) = result {
                    return Err(std::io::Error::from_raw_os_error(code).into());
                }
                self.stage = match stage {
                    Stage::Zero => Stage::FlushZero,
                    Stage::FlushZero => Stage::First,
                    Stage::First => Stage::Flush,
                    Stage::Flush => Stage::Done,
                    Stage::Copy(_) | Stage::Map(_) | Stage::Log | Stage::Done => {
                        panic!("{stage:?} has no step of its own")
                    }
                };
            }
        }
        Ok(())
    }

    /// The copy to be read after this one. One that can't be read is read once more when both had their turn: the error may have passed, and
    /// the other copy may be a write older.
    fn next_copy(&mut self, place: usize) -> Option<usize> {
        if place == 0 && !self.copies_seen {
            self.copies_seen = true;
            return Some(1);
        }
        let again = |place: &usize| {
            matches!(self.copies[*place], CopyFound::Unreadable(_))
                && !self.copies_read_again[*place]
        };
        let next = (0..2).find(again)?;
        self.copies_read_again[next] = true;
        Some(next)
    }

    /// Both copies have been judged.
    fn superblock_found(&mut self) -> Result<Stage, StartRefused> {
        let (found, (good, bad)) = newest(&self.copies)?;
        (self.report.superblock_copies_good, self.report.superblock_copies_bad) = (good, bad);
        let Some(mut found) = found else {
            self.report.blank = true;
            let Superblock { cp, last_lsn, epoch, .. } = self.expected;
            self.log = Some(RecoveredLog::empty(cp, last_lsn, epoch));
            return Ok(Stage::Zero);
        };
        identify(&found, &self.expected)?;
        spare(&mut found, &self.copies);
        self.superblock = found;
        let volumes = &found.volumes[..usize::from(found.volume_count)];
        self.scan = Some(Scan::new(ScanConfig {
            geometry: self.layout.log,
            pair: found.pair,
            cp: found.cp,
            last_lsn: found.last_lsn,
            opened: found.opened,
            agreed: found.agreed,
            volume_sectors: volumes.iter().map(|volume| volume.sectors).collect(),
        }));
        let has_map = found.role == 1 && found.state == SyncState::OutOfSync && self.map_pages > 0;
        Ok(if has_map { Stage::Map(0) } else { Stage::Log })
    }

    fn map_came(
        &mut self,
        first: u32,
        count: u32,
        result: Result<(), DiskError>,
        map: &mut dyn FnMut(u32, &[u8]),
    ) {
        self.report.bytes_read += u64::from(count) * BLOCK_BYTES;
        let page =
            |n: u32| Span::new(self.layout.map.at + u64::from(n) * BLOCK_BYTES, BLOCK_BYTES as u32);
        if result.is_err() && count > 1 {
            // Page by page: only those that can't be read are lost.
            let at = self.layout.log.map_at() + u64::from(first) * BLOCK_BYTES;
            let op = DiskOp::Read { file: LOG_FILE, at, span: page(0) };
            self.held = Some((op, Job::Map { first, count: 1 }));
            return;
        }
        if result.is_err() {
            self.arena.with_mut(page(0), |bytes| bytes.fill(0));
            self.report.map_pages_unreadable += 1;
        }
        for n in 0..count {
            map(first + n, &self.arena.bytes(page(n)));
        }
        let next = first + count;
        self.stage = if next == self.map_pages { Stage::Log } else { Stage::Map(next) };
    }

    fn log_done(&mut self) -> Result<(), StartRefused> {
        assert!(self.is_idle(), "a scan that is done has nothing under way");
        let log = self.scan.take().expect("the log was scanned").finish()?;
        let Superblock { epoch, agreed, .. } = self.superblock;
        if log.epoch > epoch && self.report.superblock_copies_bad == 0 {
            return Err(StartRefused::Epoch { found: log.epoch, epoch });
        }
        let report = &mut self.report;
        report.segments = log.segments.len() as u32;
        report.entries = log.entries();
        report.bytes_read += log.bytes_read;
        report.torn = log.is_torn();
        report.damaged = log.is_damaged() || log.end < agreed;
        report.blocks_unreadable = log.blocks_unreadable;
        self.log = Some(log);
        self.stage = if Mutant::RecoveryUnflushed.is_on() { Stage::Done } else { Stage::Flush };
        Ok(())
    }
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
