//! Clients' compares and verifies: reads that send nothing. A compare's data comes into memory of its own, beside log and reads, and is
//! compared with what a read would show; a verify only looks whether there is something to show.
//! CMP-1  what a compare is decided by are the bytes of one instant: those in the log it looks at then, for those in the volume it is
//!        counted as a read, which no CP writes under.
//!
//! Who gets memory, and when, is decided in `compare_memory`.

use super::Core;
use super::clients::NONE;
use super::reads::{Purpose, ReadSlot, SCATTER_WORDS};
use crate::disks::{Work, volume_file};
use ibid_driver::{Arena, Disk, DiskOp};
use ibid_engine::frontend::CommandId;
use ibid_engine::volume::{Fragment, plan_read};
use ibid_units::{Mutant, Nanos, SECTOR_BYTES, Sector, Sectors, Span, VolumeId};
use ibid_wire::nvme_tcp::Status;

/// How far a compare is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// Waits for memory.
    Memory,
    /// Its data is coming in.
    Data,
    /// Its data is there; it waits for the write that it is fused with.
    Held,
    /// It is being decided, or waits for what that takes.
    Begun,
    /// It has found no difference, and waits for the write that it is fused with.
    Equal,
}

/// What is special about a compare.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compare {
    pub(super) progress: Progress,
    /// Its data is in the capsule.
    pub(super) inline: bool,
    /// A write follows that it decides about …
    pub(super) fused: bool,
    /// … which is this one, or not here yet.
    pub(super) write: u32,
    /// Memory: for the host's data, and behind it for the volume's.
    run: Option<Span>,
    /// When it got that.
    pub(super) placed: Nanos,
    /// Sectors of the volume that are still to be compared.
    marks: Option<u32>,
    differs: bool,
}

impl Compare {
    pub(super) const NONE: Compare = Compare {
        progress: Progress::Memory,
        inline: false,
        fused: false,
        write: NONE,
        run: None,
        placed: Nanos::ZERO,
        marks: None,
        differs: false,
    };
}

/// Where the host's data lies in a compare's memory, or what is read beside it: congruent, as everywhere.
fn data_at(run: Span, first: Sector, sectors: Sectors, beside: bool) -> Span {
    let half = if beside { u64::from(run.len / 2) } else { 0 };
    let offset = half + u64::from(first.in_block()) * SECTOR_BYTES;
    Span::new(run.at + offset, sectors.bytes() as u32)
}

fn equal(arena: &Arena, one: Span, other: Span) -> bool {
    *arena.bytes(one) == *arena.bytes(other)
}

impl<D: Disk> Core<D> {
    pub(super) fn verify_came(
        &mut self,
        now: Nanos,
        cmd: CommandId,
        volume: VolumeId,
        first: Sector,
        sectors: Sectors,
    ) {
        self.begin_command(now, cmd, volume, first, sectors, Purpose::Verify);
    }

    pub(super) fn compare_came(
        &mut self,
        now: Nanos,
        cmd: CommandId,
        (volume, first, sectors): (VolumeId, Sector, Sectors),
        inline: bool,
        fused: bool,
    ) {
        let mut slot = ReadSlot::new(now, cmd, volume, first, sectors, Purpose::Compare);
        slot.compare = Compare { inline, fused, ..Compare::NONE };
        let Some(place) = self.take_read(slot) else { return };
        self.place_new_compare(now, place);
    }

    /// The place of a command that is a compare.
    pub(super) fn compare_of(&mut self, cmd: CommandId) -> u32 {
        let place = self.table(cmd).read;
        if place == NONE {
            return NONE;
        }
        let slot = self.reads.get(place);
        let is_compare = slot.purpose == Purpose::Compare && slot.cmd == Some(cmd);
        if is_compare { place } else { NONE }
    }

    /// A compare has memory for its data, which may come.
    pub(super) fn compare_placed(&mut self, now: Nanos, place: u32, run: Span) {
        let slot = self.reads.get_mut(place);
        slot.compare.run = Some(run);
        slot.compare.progress = Progress::Data;
        slot.compare.placed = now;
        let ReadSlot { cmd, first, sectors, .. } = *slot;
        if let Some(cmd) = cmd {
            self.clients.frontend.place_write(cmd, data_at(run, first, sectors, false));
            self.attend(cmd.conn());
        }
    }

    /// Data of a compare is in its memory.
    pub(super) fn compare_arrived(
        &mut self,
        now: Nanos,
        place: u32,
        span: Span,
        digest: Option<u32>,
        last: bool,
    ) {
        let ReadSlot { cmd, compare, .. } = *self.reads.get(place);
        let Some(cmd) = cmd else { return };
        if digest.is_some_and(|digest| digest != self.arena.crc32c(span)) {
            self.clients.frontend.digest_is_wrong(cmd);
            self.attend(cmd.conn());
            self.fail_fused(now, place);
            self.finish_read(now, place);
            return;
        }
        if !last {
            return;
        }
        if compare.fused {
            self.reads.get_mut(place).compare.progress = Progress::Held;
            if compare.write != NONE {
                self.try_pair(compare.write);
            }
        } else {
            self.begin_compare(now, place);
        }
    }

    /// Decides about a compare by itself, in its turn.
    pub(super) fn begin_compare(&mut self, now: Nanos, place: u32) {
        self.reads.get_mut(place).compare.progress = Progress::Begun;
        self.begin_in_turn(now, place);
    }

    /// Looks at what a read of the run would show now; starts what reading of the volume that takes. False where it can't be now.
    pub(super) fn begin_look(&mut self, place: u32, from_volume: usize) -> bool {
        let slot = *self.reads.get(place);
        let (volume, first, sectors) = (slot.volume, slot.first, slot.sectors);
        let target = match (slot.purpose, from_volume) {
            (Purpose::Compare, _) => match self.look_at_log(place) {
                // What the volume holds decides nothing any more.
                _ if self.reads.get(place).compare.differs => None,
                marks if marks == [0; SCATTER_WORDS] => None,
                _ if self.compares.marks.is_full() => return false,
                marks => {
                    self.reads.get_mut(place).compare.marks = self.compares.marks.take(marks);
                    let run = slot.compare.run.expect("a compare that begins has memory");
                    Some(data_at(run, first, sectors, true))
                }
            },
            (_, 0) => None,
            (_, _) => {
                let Some(run) = self.read_memory.take(slot.host, sectors.blocks_from(first)) else {
                    return false;
                };
                self.reads.get_mut(place).run = Some(run);
                Some(data_at(run, first, sectors, false))
            }
        };
        let generation = self.gate.enter();
        let slot = self.reads.get_mut(place);
        slot.generation = generation;
        if let Some(span) = target {
            slot.outstanding = 1;
            let op = DiskOp::Read { file: volume_file(volume), at: first.bytes(), span };
            self.disks.submit(op, Work::Read { slot: place });
        }
        true
    }

    /// Compares what the log has of a run. Gives a bit for each sector that the volume has.
    fn look_at_log(&mut self, place: u32) -> [u64; SCATTER_WORDS] {
        let ReadSlot { volume, first, sectors, compare, .. } = *self.reads.get(place);
        let run = compare.run.expect("a compare that begins has memory");
        let mut data = data_at(run, first, sectors, false);
        let mut marks = [0; SCATTER_WORDS];
        let mut differs = false;
        let Self { log, geometry, arena, layout, .. } = self;
        plan_read(log, volume, first, sectors, |fragment| {
            let bytes = fragment.sectors() * SECTOR_BYTES as u32;
            let here = data.first(bytes);
            let from = (u64::from(sectors.bytes() as u32 - data.len) / SECTOR_BYTES) as u32;
            data = data.skip(bytes);
            match fragment {
                Fragment::Log { segment, page, in_page, sectors }
                    if !Mutant::CompareSkipsLog.is_on() =>
                {
                    let whole = geometry.span(segment, page, (in_page + sectors).div_ceil(8));
                    let there = Span::new(whole.at + u64::from(in_page) * SECTOR_BYTES, bytes);
                    differs |= !equal(arena, here, there);
                }
                Fragment::Zeroes { .. } => {
                    differs |= !equal(arena, here, layout.zeroes.first(bytes));
                }
                Fragment::Log { sectors, .. } | Fragment::Volume { sectors, .. } => {
                    for sector in from..from + sectors {
                        marks[sector as usize / 64] |= 1 << (sector % 64);
                    }
                }
            }
        });
        self.reads.get_mut(place).compare.differs = differs;
        marks
    }

    /// Everything that a compare or verify takes is there, or can't be had.
    pub(super) fn looked(&mut self, now: Nanos, place: u32) {
        let slot = *self.reads.get(place);
        let status = if slot.failed {
            Status::UNRECOVERED_READ_ERROR
        } else if slot.purpose == Purpose::Compare && self.found_difference(place) {
            Status::COMPARE_FAILURE
        } else {
            Status::SUCCESS
        };
        if slot.purpose == Purpose::Compare {
            self.end_compare(now, place, status);
        } else {
            self.end_read(now, place, status);
        }
    }

    fn found_difference(&self, place: u32) -> bool {
        let ReadSlot { first, sectors, compare, pieces, asked_peer, .. } = *self.reads.get(place);
        let run = compare.run.expect("a compare that ends has memory");
        let data = data_at(run, first, sectors, false);
        if asked_peer {
            // All of it was gathered.
            return !equal(&self.arena, data, pieces[0].span);
        }
        let Some(marks) = compare.marks else { return compare.differs };
        let marks = self.compares.marks.get(marks);
        let beside = data_at(run, first, sectors, true);
        let differs = |sector: u64| {
            let at = |whole: Span| Span::new(whole.at + sector * SECTOR_BYTES, SECTOR_BYTES as u32);
            marks[(sector / 64) as usize] >> (sector % 64) & 1 == 1
                && !equal(&self.arena, at(data), at(beside))
        };
        compare.differs || (0..u64::from(sectors.get())).any(differs)
    }

    /// A compare has ended. A write that it is fused with goes on, or ends with it.
    pub(super) fn end_compare(&mut self, now: Nanos, place: u32, status: Status) {
        let compare = self.reads.get(place).compare;
        if compare.write != NONE
            && (status == Status::SUCCESS
                || status == Status::COMPARE_FAILURE && Mutant::FusedUnmatched.is_on())
        {
            self.give_compare(place);
            self.reads.get_mut(place).compare.progress = Progress::Equal;
            self.log_fused(now, compare.write);
            return;
        }
        if let Some(cmd) = self.reads.get(place).cmd {
            self.complete(cmd, status);
        }
        self.fail_fused(now, place);
        self.finish_read(now, place);
    }

    /// Gives back what a compare holds.
    pub(super) fn give_compare(&mut self, place: u32) {
        let slot = self.reads.get_mut(place);
        let (run, marks) = (slot.compare.run.take(), slot.compare.marks.take());
        if let Some(run) = run {
            self.compares.give(slot.compare.inline, slot.host, run);
        }
        if let Some(marks) = marks {
            self.compares.marks.give(marks);
        }
    }

    /// The connection of a compare is gone, or its write did not come.
    pub(super) fn abandon_compare(&mut self, now: Nanos, place: u32) {
        let compare = self.reads.get(place).compare;
        self.abandon_fused(now, place);
        match compare.progress {
            // Whatever it waits for notices.
            Progress::Memory | Progress::Begun => self.reads.get_mut(place).abandoned = true,
            Progress::Data | Progress::Held | Progress::Equal => self.finish_read(now, place),
        }
    }
}
