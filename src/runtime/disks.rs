//! The disk driver with a bounded queue in front, and the names of what is under way.

use ibid_driver::{Disk, DiskError, DiskOp, FileId};
use std::collections::VecDeque;

/// What an operation was started for. Comes back with its completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// A piece of log job `job`.
    LogWrite { job: u32 },
    /// The log's flush.
    LogFlush,
    /// A read of read slot `slot`.
    Read { slot: u32 },
    /// A reference or opcode of the CP, or a volume's flush.
    Apply,
    /// A block of the CP from staging page `page`.
    Block { page: u32 },
    /// The superblock.
    Superblock,
    /// The flush after it.
    SuperblockFlush,
    /// A page of the out-of-sync map from staging slot `slot`.
    MapWrite { slot: u32 },
    /// The flush after those.
    MapFlush,
    /// A run of blocks that a CP brings, from staging page `page` on.
    Bring { page: u32 },
    /// A page of the log, read again because memory no longer holds what came.
    Heal,
    /// Another one, before it is sent again.
    Mend,
    /// The first batch of a tail that is dropped, overwritten …
    Erase,
    /// … and the flush after it.
    EraseFlush,
    /// What the peer asked of a volume.
    Answer { slot: u32 },
    /// What a source does with its volumes between two CPs.
    Between,
}

impl Work {
    const fn token(self) -> u64 {
        let (kind, value) = match self {
            Work::LogWrite { job } => (0, job),
            Work::LogFlush => (1, 0),
            Work::Read { slot } => (2, slot),
            Work::Apply => (3, 0),
            Work::Block { page } => (4, page),
            Work::Superblock => (5, 0),
            Work::SuperblockFlush => (6, 0),
            Work::MapWrite { slot } => (7, slot),
            Work::MapFlush => (8, 0),
            Work::Bring { page } => (9, page),
            Work::Heal => (10, 0),
            Work::Answer { slot } => (11, slot),
            Work::Erase => (12, 0),
            Work::EraseFlush => (13, 0),
            Work::Between => (14, 0),
            Work::Mend => (15, 0),
        };
        kind << 32 | value as u64
    }

    fn of_token(token: u64) -> Work {
        let value = token as u32;
        match token >> 32 {
            0 => Work::LogWrite { job: value },
            1 => Work::LogFlush,
            2 => Work::Read { slot: value },
            3 => Work::Apply,
            4 => Work::Block { page: value },
            5 => Work::Superblock,
            6 => Work::SuperblockFlush,
            7 => Work::MapWrite { slot: value },
            8 => Work::MapFlush,
            9 => Work::Bring { page: value },
            10 => Work::Heal,
            11 => Work::Answer { slot: value },
            12 => Work::Erase,
            13 => Work::EraseFlush,
            14 => Work::Between,
            15 => Work::Mend,
            other => panic!("a disk gave token kind {other}, which nobody submitted"),
        }
    }
}

/// The disk of a shard.
pub(crate) struct Disks<D> {
    disk: D,
    waiting: VecDeque<(DiskOp, Work)>,
    waiting_max: usize,
}

impl<D: Disk> Disks<D> {
    /// `waiting_max` is what all users of the disk can have under way at once.
    pub(crate) fn new(disk: D, waiting_max: usize) -> Self {
        Self { disk, waiting: VecDeque::with_capacity(waiting_max), waiting_max }
    }

    /// Starts an operation, now or as soon as the device takes it; order is kept.
    pub(crate) fn submit(&mut self, op: DiskOp, work: Work) {
        if self.waiting.is_empty() && self.disk.submit(op, work.token()).is_ok() {
            return;
        }
        assert!(self.waiting.len() < self.waiting_max, "users of the disk keep to their bounds");
        self.waiting.push_back((op, work));
    }

    /// Shows completions; returns how many.
    pub(crate) fn poll(&mut self, mut sink: impl FnMut(Work, Result<(), DiskError>)) -> usize {
        while let Some(&(op, work)) = self.waiting.front() {
            if self.disk.submit(op, work.token()).is_err() {
                break;
            }
            self.waiting.pop_front();
        }
        self.disk.poll(&mut |token, result| sink(Work::of_token(token), result))
    }

    /// Operations that may still wait for the device.
    pub(crate) fn room(&self) -> usize {
        self.waiting_max - self.waiting.len()
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.disk.in_flight() == 0
    }
}

/// The log device's place in the list of files a disk is opened with.
pub(crate) const LOG_FILE: FileId = FileId(0);

/// A volume's place in that list.
pub(crate) fn volume_file(volume: ibid_units::VolumeId) -> FileId {
    FileId(volume.get() + 1)
}
