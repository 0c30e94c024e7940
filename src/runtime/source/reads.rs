//! Clients' reads: bytes go out from where they lie, in log or volume; what is in too many pieces is gathered.
//! SRC-2  a read's fragments are decided at one instant; log pages it names are pinned until its bytes have left, or were copied aside.

use super::Core;
use super::clients::NONE;
use super::compare::Compare;
use super::writes::OWED_MAX;
use crate::clients::Serve as _;
use crate::disks::{Work, volume_file};
use crate::layout::Span64;
use crate::pool::RunPool;
use crate::snapshot::{COPIED_GATHER, Stage};
use ibid_driver::{Disk, DiskOp};
use ibid_engine::frontend::{CommandId, READ_PIECES_MAX, ReadPiece};
use ibid_engine::volume::{Fragment, plan_read};
use ibid_units::{BLOCK_BYTES, CpId, Mutant, Nanos, SECTOR_BYTES, Sector, Sectors, Span, VolumeId};
use ibid_wire::disk::ENTRY_PAGES_MAX;
use ibid_wire::nvme_tcp::Status;

/// Reads moved out of the log's way in one turn: each is copied.
const MOVES_MAX: usize = 4;
/// How often is looked for hosts that keep memory others wait for.
const RECLAIM_EVERY: Nanos = Nanos::from_millis(10);

/// Disk operations of one read, at most: one for each of its pieces.
pub(super) const READ_OPS_MAX: usize = READ_PIECES_MAX;
/// Gathered reads that may read from the volume at one time.
pub(super) const SCATTERS_MAX: usize = 8;
/// Words with a bit for each sector of the longest read.
pub(super) const SCATTER_WORDS: usize = (1 << 20) / 512 / 64;

/// What is read for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// To be sent.
    Read,
    /// To see that it can be read.
    Verify,
    /// To be compared.
    Compare,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ReadSlot {
    pub(super) purpose: Purpose,
    pub(super) compare: Compare,
    pub(super) cmd: Option<CommandId>,
    pub(super) volume: VolumeId,
    pub(super) first: Sector,
    pub(super) sectors: Sectors,
    pub(super) pieces: [ReadPiece; READ_PIECES_MAX],
    piece_count: usize,
    pub(super) run: Option<Span>,
    scatter: Option<u32>,
    /// A bit per slot of the log that is pinned.
    pins: u64,
    pub(super) outstanding: u32,
    pub(super) generation: usize,
    pub(super) failed: bool,
    /// The peer was asked for what could not be read here: that is the last resort.
    pub(super) asked_peer: bool,
    pub(super) abandoned: bool,
    pub(super) parsed: Nanos,
    /// Whose it is.
    pub(super) host: usize,
    /// When its bytes were given to the target; `NEVER` before.
    answered: Nanos,
}

/// Memory for reads: each host has a share of it, so that one that does not take its bytes leaves some to others (R5).
#[derive(Debug)]
pub(super) struct ReadMemory {
    pool: RunPool,
    /// Pages of one host, at most.
    share: u32,
    of: Vec<u32>,
    reclaim_at: Nanos,
}

impl ReadMemory {
    pub(super) fn new(region: Span64, hosts: usize) -> Self {
        let least = 2 * u32::from(ENTRY_PAGES_MAX);
        Self {
            pool: RunPool::new(region),
            share: (region.blocks - region.blocks / 4).max(region.blocks.min(least)),
            of: vec![0; hosts],
            reclaim_at: Nanos::ZERO,
        }
    }

    pub(super) fn take(&mut self, host: usize, pages: u32) -> Option<Span> {
        if self.of[host] + pages > self.share {
            return None;
        }
        let run = self.pool.take(pages)?;
        self.of[host] += pages;
        Some(run)
    }

    fn give(&mut self, host: usize, run: Span) {
        self.of[host] -= run.len / BLOCK_BYTES as u32;
        self.pool.give(run);
    }
}

impl ReadSlot {
    pub(super) const EMPTY: ReadSlot = ReadSlot {
        purpose: Purpose::Read,
        compare: Compare::NONE,
        cmd: None,
        volume: VolumeId::new(0),
        first: Sector::new(0),
        sectors: Sectors::new(0),
        pieces: [ReadPiece { span: Span::new(0, 0), crc: None }; READ_PIECES_MAX],
        piece_count: 0,
        run: None,
        scatter: None,
        pins: 0,
        outstanding: 0,
        generation: 0,
        failed: false,
        asked_peer: false,
        abandoned: false,
        parsed: Nanos::ZERO,
        host: 0,
        answered: Nanos::NEVER,
    };

    pub(super) const fn new(
        now: Nanos,
        cmd: CommandId,
        volume: VolumeId,
        first: Sector,
        sectors: Sectors,
        purpose: Purpose,
    ) -> ReadSlot {
        ReadSlot { purpose, cmd: Some(cmd), volume, first, sectors, parsed: now, ..ReadSlot::EMPTY }
    }
}

/// What a gathered read fetches from the volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scatter {
    /// Where the volume's bytes come, laid out as the read's own memory.
    under: Span,
    /// A bit for each sector of the read that is the volume's.
    sectors: [u64; SCATTER_WORDS],
}

impl Scatter {
    pub(super) const EMPTY: Scatter =
        Scatter { under: Span::new(0, 0), sectors: [0; SCATTER_WORDS] };
}

impl<D: Disk> Core<D> {
    pub(super) fn read_came(
        &mut self,
        now: Nanos,
        cmd: CommandId,
        volume: VolumeId,
        first: Sector,
        sectors: Sectors,
    ) {
        self.begin_command(now, cmd, volume, first, sectors, Purpose::Read);
    }

    /// A command that reads, and waits for nothing but its turn.
    pub(super) fn begin_command(
        &mut self,
        now: Nanos,
        cmd: CommandId,
        volume: VolumeId,
        first: Sector,
        sectors: Sectors,
        purpose: Purpose,
    ) {
        let slot = ReadSlot::new(now, cmd, volume, first, sectors, purpose);
        if let Some(place) = self.take_read(slot) {
            self.begin_in_turn(now, place);
        }
    }

    /// There is a place for every command. All of them may still be kept by disk operations of connections that are gone; then the host
    /// is asked to try again.
    pub(super) fn take_read(&mut self, mut slot: ReadSlot) -> Option<u32> {
        let cmd = slot.cmd?;
        slot.host = self.clients.frontend.host_of(cmd);
        let Some(place) = self.reads.take(slot) else {
            self.complete(cmd, Status::COMMAND_INTERRUPTED);
            return None;
        };
        self.commands += 1;
        self.table(cmd).read = place;
        Some(place)
    }

    pub(super) fn begin_in_turn(&mut self, now: Nanos, place: u32) {
        if !self.waiting_reads.is_empty() || !self.begin_read(now, place) {
            self.waiting_reads.push_back(place);
        }
    }

    /// Decides where a read's bytes come from and starts what disk reads it needs; false where there is no memory for it now.
    pub(super) fn begin_read(&mut self, now: Nanos, place: u32) -> bool {
        let ReadSlot { volume, first, sectors, .. } = *self.reads.get(place);
        // SYNC-2: before the log is open the peer may hold newer entries, acknowledged ones among them; and what recovery found is shown only
        // once it is known whether it was acknowledged, neither it nor what was there before.
        let decided = self.log.is_open() && !self.is_undecided(volume, first, sectors);
        if !decided && !Mutant::ReadBeforeOpen.is_on() {
            return false;
        }
        let (mut fragments, mut from_volume) = (0, 0);
        let mut rotten = None;
        plan_read(&self.log, volume, first, sectors, |fragment| {
            fragments += 1;
            from_volume += usize::from(matches!(fragment, Fragment::Volume { .. }));
            rotten = rotten.or(self.rotten(&fragment));
        });
        if let Some(segment) = rotten {
            self.wait_for_healing(now, segment);
            return false;
        }
        if self.reads.get(place).purpose != Purpose::Read {
            if !self.begin_look(place, from_volume) {
                return false;
            }
            if self.reads.get(place).outstanding == 0 {
                self.read_ready(now, place);
            }
            return true;
        }
        let gather = fragments > READ_PIECES_MAX;
        if from_volume > 0 || gather {
            let host = self.reads.get(place).host;
            let Some(run) = self.read_memory.take(host, sectors.blocks_from(first)) else {
                return false;
            };
            self.reads.get_mut(place).run = Some(run);
        }
        if gather && from_volume > 0 && !self.begin_scatter(place) {
            self.give_run(place);
            return false;
        }
        let generation = self.gate.enter();
        self.reads.get_mut(place).generation = generation;
        if gather {
            self.begin_gather(place);
        } else {
            self.begin_pieces(place);
        }
        if self.reads.get(place).outstanding == 0 {
            self.read_ready(now, place);
        }
        true
    }

    /// Whether a run touches what may yet be committed and nobody waits for: what recovery found, and orphans (ORPHAN-1).
    fn is_undecided(&self, volume: VolumeId, first: Sector, sectors: Sectors) -> bool {
        self.log.overlaps_uncommitted_recovered(volume, first, sectors)
            || (!Mutant::OrphanOvertaken.is_on() && self.orphans.overlap(volume, first, sectors))
    }

    /// The segment of a fragment with a page that is no longer what came.
    fn rotten(&self, fragment: &Fragment) -> Option<CpId> {
        let Fragment::Log { segment, page, in_page, sectors } = *fragment else { return None };
        let pages = (in_page + sectors).div_ceil(8);
        let sound = self.log.pages.sound(segment, page, pages, &self.memory);
        (sound < pages).then_some(segment)
    }

    /// A CP heals the page and brings it to the volume; the read waits for that (HEAL-2).
    fn wait_for_healing(&mut self, now: Nanos, segment: CpId) {
        self.heal.wanted = true;
        if segment.next() == self.log.segments().1 {
            self.log.seal(now);
        }
    }

    /// Ends a read that has waited too long: for the peer to say what of a recovered log was acknowledged, or for a page to be healed.
    pub(super) fn expire_read(&mut self, now: Nanos, place: u32) -> bool {
        let expired = self.has_expired(now, place);
        if expired {
            self.end_read(now, place, Status::COMMAND_INTERRUPTED);
        }
        expired
    }

    pub(super) fn has_expired(&self, now: Nanos, place: u32) -> bool {
        let ReadSlot { cmd, parsed, .. } = *self.reads.get(place);
        cmd.is_some() && now.since(parsed) >= self.sync.stall_timeout
    }

    /// Ends a read without data.
    pub(super) fn end_read(&mut self, now: Nanos, place: u32, status: Status) {
        if let Some(cmd) = self.reads.get(place).cmd {
            self.complete(cmd, status);
        }
        self.finish_read(now, place);
    }

    /// The place in the read's memory of the byte that sector `sector` begins with.
    pub(super) fn run_at(&self, place: u32, sector: Sector) -> u64 {
        let slot = self.reads.get(place);
        let run = slot.run.expect("a read from the volume has memory");
        run.at + sector.bytes() - slot.first.block() * BLOCK_BYTES
    }

    pub(super) fn read_volume(&mut self, place: u32, first: Sector, sectors: u32) {
        let at = self.run_at(place, first);
        let slot = self.reads.get_mut(place);
        slot.outstanding += 1;
        let span = Span::new(at, sectors * SECTOR_BYTES as u32);
        let op = DiskOp::Read { file: volume_file(slot.volume), at: first.bytes(), span };
        self.disks.submit(op, Work::Read { slot: place });
    }

    /// Bytes go out from where they lie (SRC-2).
    pub(super) fn begin_pieces(&mut self, place: u32) {
        let ReadSlot { volume, first, sectors, .. } = *self.reads.get(place);
        let mut found = [Fragment::Zeroes { sectors: 0 }; READ_PIECES_MAX];
        let mut count = 0;
        plan_read(&self.log, volume, first, sectors, |fragment| {
            found[count] = fragment;
            count += 1;
        });
        let mut at = first;
        for fragment in &found[..count] {
            let bytes = fragment.sectors() * SECTOR_BYTES as u32;
            let span = match *fragment {
                Fragment::Log { segment, page, in_page, sectors } => {
                    self.pin(place, segment);
                    let whole = self.geometry.span(segment, page, (in_page + sectors).div_ceil(8));
                    Span::new(whole.at + u64::from(in_page) * SECTOR_BYTES, bytes)
                }
                Fragment::Zeroes { .. } => self.layout.zeroes.first(bytes),
                Fragment::Volume { first, sectors } => {
                    self.read_volume(place, first, sectors);
                    Span::new(self.run_at(place, first), bytes)
                }
            };
            let slot = self.reads.get_mut(place);
            slot.pieces[slot.piece_count] = ReadPiece { span, crc: None };
            slot.piece_count += 1;
            at = at + Sectors::new(fragment.sectors());
        }
        assert!(at == first + sectors, "fragments cover the read");
    }

    /// Takes what a gathered read needs to fetch the volume's sectors: memory beside its own, and a list of which they are.
    pub(super) fn begin_scatter(&mut self, place: u32) -> bool {
        let ReadSlot { first, sectors, host, .. } = *self.reads.get(place);
        if self.scatters.is_full() {
            return false;
        }
        let Some(under) = self.read_memory.take(host, sectors.blocks_from(first)) else {
            return false;
        };
        let scatter = self.scatters.take(Scatter { under, sectors: [0; SCATTER_WORDS] });
        self.reads.get_mut(place).scatter = scatter;
        true
    }

    /// Too many pieces to send apart: they are gathered in the read's memory. What the volume has is read beside it and laid in when it
    /// has come.
    pub(super) fn begin_gather(&mut self, place: u32) {
        let wanted = self.gather(place);
        let ReadSlot { volume, first, sectors, scatter, .. } = *self.reads.get(place);
        assert!(
            scatter.is_some() || wanted.iter().all(|word| *word == 0),
            "a read with sectors in the volume has a list of them"
        );
        if let Some(scatter) = scatter {
            let scatter = self.scatters.get_mut(scatter);
            scatter.sectors = wanted;
            let at = scatter.under.at + u64::from(first.in_block()) * SECTOR_BYTES;
            let span = Span::new(at, sectors.bytes() as u32);
            let op = DiskOp::Read { file: volume_file(volume), at: first.bytes(), span };
            self.reads.get_mut(place).outstanding = 1;
            self.disks.submit(op, Work::Read { slot: place });
        }
    }

    /// Makes one piece of a read: what the log has is copied now, which is counted. Gives a bit for each sector that the volume has.
    pub(super) fn gather(&mut self, place: u32) -> [u64; SCATTER_WORDS] {
        let ReadSlot { volume, first, sectors, run, .. } = *self.reads.get(place);
        let run = run.expect("a gathered read has memory");
        let start = run.at + u64::from(first.in_block()) * SECTOR_BYTES;
        let mut wanted = [0; SCATTER_WORDS];
        let mut offset = 0;
        let Self { log, geometry, arena, copied, .. } = self;
        plan_read(log, volume, first, sectors, |fragment| {
            let bytes = fragment.sectors() * SECTOR_BYTES as u32;
            let at = start + u64::from(offset) * SECTOR_BYTES;
            match fragment {
                Fragment::Log { segment, page, in_page, sectors } => {
                    let whole = geometry.span(segment, page, (in_page + sectors).div_ceil(8));
                    arena.copy_within(
                        Span::new(whole.at + u64::from(in_page) * SECTOR_BYTES, bytes),
                        at,
                    );
                    copied[COPIED_GATHER] += u64::from(bytes);
                }
                Fragment::Zeroes { .. } => arena.zero(Span::new(at, bytes)),
                Fragment::Volume { sectors, .. } => {
                    for sector in offset..offset + sectors {
                        wanted[sector as usize / 64] |= 1 << (sector % 64);
                    }
                }
            }
            offset += fragment.sectors();
        });
        let slot = self.reads.get_mut(place);
        slot.pieces[0] = ReadPiece { span: Span::new(start, sectors.bytes() as u32), crc: None };
        slot.piece_count = 1;
        wanted
    }

    /// Lays the volume's sectors of a gathered read into its memory.
    pub(super) fn end_scatter(&mut self, place: u32, scatter: u32) {
        let ReadSlot { first, sectors, run, .. } = *self.reads.get(place);
        let run = run.expect("a gathered read has memory");
        let Scatter { under, sectors: wanted } = *self.scatters.get(scatter);
        let head = u64::from(first.in_block()) * SECTOR_BYTES;
        for sector in 0..u64::from(sectors.get()) {
            if wanted[(sector / 64) as usize] >> (sector % 64) & 1 == 1 {
                let offset = head + sector * SECTOR_BYTES;
                self.arena.copy_within(
                    Span::new(under.at + offset, SECTOR_BYTES as u32),
                    run.at + offset,
                );
                self.copied[COPIED_GATHER] += SECTOR_BYTES;
            }
        }
    }

    pub(super) fn give_run(&mut self, place: u32) {
        let slot = self.reads.get_mut(place);
        if let Some(run) = slot.run.take() {
            self.read_memory.give(slot.host, run);
        }
    }

    pub(super) fn pin(&mut self, place: u32, segment: CpId) {
        let bit = 1u64 << self.geometry.slot(segment);
        if self.reads.get(place).pins & bit == 0 && !Mutant::PinForgotten.is_on() {
            self.log.pin(segment);
            self.reads.get_mut(place).pins |= bit;
        }
    }

    pub(super) fn read_done(&mut self, now: Nanos, place: u32, success: bool) {
        let slot = self.reads.get_mut(place);
        slot.outstanding -= 1;
        slot.failed |= !success;
        if slot.outstanding == 0 {
            self.read_ready(now, place);
        }
    }

    pub(super) fn read_ready(&mut self, now: Nanos, place: u32) {
        let slot = *self.reads.get(place);
        self.gate.leave(slot.generation);
        if let Some(scatter) = slot.scatter.filter(|_| !slot.failed) {
            self.end_scatter(place, scatter);
        }
        let Some(cmd) = slot.cmd.filter(|_| !slot.abandoned) else {
            self.finish_read(now, place);
            return;
        };
        if slot.failed && !slot.asked_peer {
            self.turn_to_peer(place);
            return;
        }
        if slot.purpose != Purpose::Read {
            self.looked(now, place);
            return;
        }
        if slot.failed {
            self.end_read(now, place, Status::UNRECOVERED_READ_ERROR);
            return;
        }
        self.times.record(Stage::Read, now.since(slot.parsed));
        let volume = &mut self.volumes[usize::from(slot.volume.get())];
        volume.reads += 1;
        volume.read_bytes += slot.sectors.bytes();
        let mut pieces = slot.pieces;
        if self.clients.frontend.wants_data_digest(cmd) {
            for piece in &mut pieces[..slot.piece_count] {
                piece.crc = Some(self.arena.crc32c(piece.span));
            }
        }
        self.reads.get_mut(place).answered = now;
        self.clients.frontend.read_ready(cmd, &pieces[..slot.piece_count]);
        self.attend(cmd.conn());
    }

    /// Bytes that their hosts have not taken keep the slot that the log needs next: they go on from memory beside it, so that a host
    /// that does not read holds up nobody's writes (R5). Where there is no memory, its connection ends.
    pub(super) fn move_reads(&mut self, now: Nanos, held: usize) {
        let mut moved = 0;
        for place in 0..self.reads.count() as u32 {
            let ReadSlot { cmd, pins, answered, .. } = *self.reads.get(place);
            let (Some(cmd), true) = (cmd, pins >> held & 1 == 1 && answered != Nanos::NEVER) else {
                continue;
            };
            if moved < MOVES_MAX && self.move_read(place, cmd) {
                moved += 1;
            } else if now.since(self.held_since) >= OWED_MAX {
                self.clients.frontend.give_up(now, cmd.conn());
                self.drain_events(now);
            }
        }
    }

    /// Copies what a read shows of the log into its own memory, each byte to its place in the blocks of the run.
    fn move_read(&mut self, place: u32, cmd: CommandId) -> bool {
        let ReadSlot { first, sectors, host, run, pins, piece_count, .. } = *self.reads.get(place);
        let run = match run {
            Some(run) => run,
            None => {
                let Some(run) = self.read_memory.take(host, sectors.blocks_from(first)) else {
                    return false;
                };
                self.reads.get_mut(place).run = Some(run);
                run
            }
        };
        let log_end = self.geometry.bytes();
        let mut at = run.at + u64::from(first.in_block()) * SECTOR_BYTES;
        for piece in &mut self.reads.get_mut(place).pieces[..piece_count] {
            let len = u64::from(piece.span.len);
            if piece.span.at < log_end {
                self.arena.copy_within(piece.span, at);
                self.copied[COPIED_GATHER] += len;
                piece.span.at = at;
            }
            at += len;
        }
        let slot = *self.reads.get(place);
        self.clients.frontend.move_read(cmd, &slot.pieces[..piece_count]);
        for at in 0..u64::BITS {
            if pins >> at & 1 == 1 {
                self.log.unpin_slot(at as usize);
            }
        }
        self.reads.get_mut(place).pins = 0;
        true
    }

    /// Where a host's read has long waited for memory, and other hosts take nothing of what they have it for, their connections end.
    pub(super) fn reclaim_reads(&mut self, now: Nanos) {
        let waits = |place: &u32| {
            let slot = self.reads.get(*place);
            now.since(slot.parsed) >= OWED_MAX
                && !slot.abandoned
                && !self.is_undecided(slot.volume, slot.first, slot.sectors)
        };
        let Some(waiting) = self.waiting_reads.iter().copied().find(waits) else { return };
        if now < self.read_memory.reclaim_at || !self.log.is_open() {
            return;
        }
        self.read_memory.reclaim_at = now.after(RECLAIM_EVERY);
        let host = self.reads.get(waiting).host;
        for place in 0..self.reads.count() as u32 {
            let ReadSlot { cmd, run, answered, host: of, .. } = *self.reads.get(place);
            let (Some(cmd), Some(_), true) = (cmd, run, of != host) else { continue };
            let has_stalled = self.clients.frontend.stalled_for(now, cmd.conn()) >= OWED_MAX;
            if answered != Nanos::NEVER && has_stalled {
                self.clients.frontend.give_up(now, cmd.conn());
                self.drain_events(now);
            }
        }
    }

    /// The bytes of a read have left.
    pub(super) fn released(&mut self, now: Nanos, cmd: CommandId) {
        let place = self.table(cmd).read;
        if place != NONE && self.reads.get(place).cmd == Some(cmd) {
            self.finish_read(now, place);
        }
    }

    /// What a read holds of the log and of memory.
    fn give_back(&mut self, place: u32) {
        let slot = *self.reads.get(place);
        self.give_run(place);
        if let Some(scatter) = slot.scatter {
            let under = self.scatters.get(scatter).under;
            self.read_memory.give(slot.host, under);
            self.scatters.give(scatter);
        }
        for at in 0..u64::BITS {
            if slot.pins >> at & 1 == 1 {
                self.log.unpin_slot(at as usize);
            }
        }
        let slot = self.reads.get_mut(place);
        slot.scatter = None;
        slot.pins = 0;
    }

    /// The volume could not be read: the read begins anew, with the peer's help, when it is its turn (PEER-1).
    fn turn_to_peer(&mut self, place: u32) {
        self.give_back(place);
        let slot = self.reads.get_mut(place);
        slot.piece_count = 0;
        slot.failed = false;
        self.between.wait_read(place);
    }

    /// Begins a read anew that could not read the volume: what the log has now is gathered, of the rest the caller sees to every sector
    /// that is marked. `None` where it can't begin now.
    pub(super) fn begin_peer_read(
        &mut self,
        now: Nanos,
        place: u32,
    ) -> Option<(VolumeId, Sector, Sectors, [u64; SCATTER_WORDS])> {
        let ReadSlot { volume, first, sectors, .. } = *self.reads.get(place);
        if self.is_undecided(volume, first, sectors) {
            return None;
        }
        let mut rotten = None;
        plan_read(&self.log, volume, first, sectors, |fragment| {
            rotten = rotten.or(self.rotten(&fragment));
        });
        if let Some(segment) = rotten {
            self.wait_for_healing(now, segment);
            return None;
        }
        let host = self.reads.get(place).host;
        let run = self.read_memory.take(host, sectors.blocks_from(first))?;
        let generation = self.gate.enter();
        let slot = self.reads.get_mut(place);
        slot.run = Some(run);
        slot.generation = generation;
        slot.asked_peer = true;
        Some((volume, first, sectors, self.gather(place)))
    }

    /// It could not be brought to an end now: it waits again.
    pub(super) fn suspend_peer_read(&mut self, place: u32) {
        let generation = self.reads.get(place).generation;
        self.gate.leave(generation);
        self.reads.get_mut(place).asked_peer = false;
        self.turn_to_peer(place);
    }

    /// It has all its bytes, or will not get them.
    pub(super) fn end_peer_read(&mut self, now: Nanos, place: u32, success: bool) {
        self.reads.get_mut(place).failed = !success;
        self.read_ready(now, place);
    }

    /// A read that waits for the peer ends without it.
    pub(super) fn fail_waiting_read(&mut self, now: Nanos, place: u32, status: Status) {
        if self.reads.get(place).purpose == Purpose::Compare {
            self.end_compare(now, place, status);
        } else {
            self.end_read(now, place, status);
        }
    }

    pub(super) fn finish_read(&mut self, _now: Nanos, place: u32) {
        let slot = *self.reads.get(place);
        self.give_back(place);
        self.give_compare(place);
        if let Some(cmd) = slot.cmd {
            let table = self.table(cmd);
            if table.read == place {
                table.read = NONE;
            }
        }
        self.commands -= 1;
        *self.reads.get_mut(place) = ReadSlot::EMPTY;
        self.reads.give(place);
    }

    /// The connection of a read is gone; what is under way for it comes to its end.
    pub(super) fn abandon_read(&mut self, now: Nanos, cmd: CommandId, place: u32) {
        if self.reads.get(place).cmd != Some(cmd) {
            return;
        }
        self.table(cmd).read = NONE;
        if self.reads.get(place).purpose == Purpose::Compare {
            self.abandon_compare(now, place);
        } else {
            self.reads.get_mut(place).abandoned = true;
        }
    }
}
