//! What the source sends, put in its place: pieces of the log, blocks of a CP; and batches that have become whole, persisted.
//! DST-2  a packet is acknowledged only when each of its sections was placed, or was there already.

use super::{BATCH_OPS_MAX, Core, OTHER_OPS_MAX};
use crate::disks::Work;
use crate::snapshot::{COPIED_RECEIVE, COPIED_STAGING, Fault, Stage};
use ibid_driver::{Disk, DiskOp};
use ibid_engine::log::{PlaceRefused, Placed};
use ibid_units::{Mutant, Nanos, SECTOR_BYTES, Span};
use ibid_wire::disk::Batch;
use ibid_wire::peer::{Frame, Section, SectionKind};

/// Times that a batch of the source may come wrong, one after another, before its log is no more believed.
const CONTRADICTIONS_MAX: u32 = 3;

impl<D: Disk> Core<D> {
    pub(super) fn sourced_came(&mut self, now: Nanos, frame: &Frame<'_>) -> bool {
        let header = frame.header;
        if self.hello.is_some() {
            return false;
        }
        self.heard = now;
        let mut placed = true;
        for (section, body) in frame.sections() {
            let checks = ibid_driver::checksum::crc32c(body) == section.crc;
            if !checks && !Mutant::BodyUnchecked.is_on() {
                return false;
            }
            placed &= match section.kind {
                SectionKind::Log => self.log_came(&section, body),
                SectionKind::CpOpen => self.open_came(now, body),
                SectionKind::CpList => self.list_came(&section, body),
                SectionKind::CpBlock => self.block_came(&section, body),
                SectionKind::Ping => {
                    self.report_due = true;
                    true
                }
                SectionKind::Goodbye => {
                    self.gone = true;
                    true
                }
                SectionKind::Report
                | SectionKind::Hello
                | SectionKind::HelloAnswer
                | SectionKind::Ask
                | SectionKind::Answer => false,
            };
        }
        if placed || Mutant::AckedUnplaced.is_on() {
            // DST-2.
            self.rx_repeated += u64::from(!self.received.insert(header.number.get()));
            if self.frames_unreported == 0 {
                self.unreported_since = now;
            }
            self.frames_unreported += 1;
        }
        placed
    }

    pub(super) fn log_came(&mut self, section: &Section, body: &[u8]) -> bool {
        let segment = self.mirror.widen(section.segment);
        let structure = section.extra == 1;
        let length = body.len() as u32;
        match self.mirror.place(segment, section.place, length, structure) {
            Ok(Placed::New(span)) => {
                self.arena.copy_in(span.at, body);
                if structure {
                    // A structure's block is zero behind what it uses, as at the source.
                    let rest = Span::new(span.end(), 4096 - length);
                    self.arena.zero(rest);
                } else {
                    self.copied[COPIED_RECEIVE] += u64::from(length);
                }
                self.mirror.arrived(segment, section.place, length, structure, section.crc);
                true
            }
            // What is drained was here before: its packet is only late.
            Ok(Placed::Duplicate) | Err(PlaceRefused::Drained) => true,
            Err(PlaceRefused::NoSlot | PlaceRefused::Range) => false,
        }
    }

    pub(super) fn block_came(&mut self, section: &Section, body: &[u8]) -> bool {
        let cp = self.mirror.widen(section.segment);
        if cp <= self.superblock.durable.cp {
            return true;
        }
        let sector = SECTOR_BYTES as u32;
        let length = body.len() as u32;
        if self.apply.cp() != cp
            || !length.is_multiple_of(sector)
            || length > 8 * sector
            || section.extra >= 8
        {
            return false;
        }
        let (first, count) = (section.extra as u8, (length / sector) as u8);
        if self.apply.block_is_here(section.place, first, count) {
            return true;
        }
        if self.staging_slots.is_full() {
            return false;
        }
        let Some(want) = self.apply.block_came(&self.list, section.place, first, count) else {
            return false;
        };
        let page = self.staging_slots.take(()).expect("there was a free one");
        self.staged += 1;
        let span = Span::new(self.staging.at + u64::from(page) * 4096, length);
        self.arena.copy_in(span.at, body);
        self.copied[COPIED_STAGING] += u64::from(length);
        let file = crate::disks::volume_file(want.volume);
        self.disks
            .submit(DiskOp::Write { file, at: want.first.bytes(), span }, Work::Block { page });
        self.cp_sum.blocks += 1;
        true
    }

    /// Persists batches that have become whole.
    pub(super) fn take_batches(&mut self, now: Nanos) -> bool {
        let mut any = false;
        let disk_ops = BATCH_OPS_MAX + OTHER_OPS_MAX + self.staging.blocks as usize;
        while self.persist.has_room()
            && self.disks.room() > disk_ops
            && self.fault.is_none()
            && self.hello.is_none()
            && !self.restart
        {
            match self.mirror.next_ready(&self.memory) {
                Ok(Some(batch)) => {
                    any = true;
                    self.contradictions = 0;
                    self.count_entries(self.geometry.span(batch.segment, batch.block, 1));
                    self.persist.begin(now, &self.arena, &mut self.disks, batch);
                }
                Ok(None) => break,
                Err(_) if self.contradictions < CONTRADICTIONS_MAX => {
                    // What came is not what its sum says: it is asked for again, with a session that begins after what is durable here.
                    self.contradictions += 1;
                    self.restart = true;
                    self.report_due = true;
                    break;
                }
                Err(_) => {
                    // The source's log contradicts itself: nothing of it is believed from here on.
                    self.set_fault(now, Fault::Peer);
                }
            }
        }
        let Self { persist, disks, mirror, times, report_due, .. } = self;
        persist.turn(now, disks, |last, took| {
            mirror.set_durable(last);
            times.record(Stage::Persist, took);
            *report_due = true;
        });
        any
    }

    pub(super) fn count_entries(&mut self, span: Span) {
        let bytes = self.arena.bytes(span);
        let Ok(batch) = Batch::parse(&bytes) else { return };
        self.proved = self.proved.max(batch.header.committed);
        for (entry, _) in batch.entries() {
            let volume = &mut self.volumes[usize::from(entry.volume.get())];
            volume.writes += 1;
            volume.write_bytes += entry.sectors.bytes();
        }
    }
}
