//! Clients' writes on their way into the log: room, data, Lsn, commit; and what becomes of data that comes too late for its segment.
//! SRC-1  a write is completed with success only after the log has committed it; one that is sent back gets no Lsn, or stays in the log as an
//!        orphan (ORPHAN-1).

use super::Core;
use super::clients::NONE;
use crate::snapshot::{COPIED_LATE, Stage};
use ibid_driver::Disk;
use ibid_engine::frontend::CommandId;
use ibid_engine::log::{Completion, Placement, ReserveRefused, TOKEN_NONE};
use ibid_units::{
    BLOCK_BYTES, LogBlock, Mutant, Nanos, SECTOR_BYTES, Sector, Sectors, Span, VolumeId,
};
use ibid_wire::disk::{ENTRY_PAGES_MAX, EntryKind};
use ibid_wire::nvme_tcp::Status;
use std::collections::VecDeque;

/// While another host's write waits for the memory, a host has so long to deliver the data of one; then it is asked to send it again (R4).
pub(super) const OWED_MAX: Nanos = Nanos::from_millis(2_000);
/// How often is looked for such a write.
const RECLAIM_EVERY: Nanos = Nanos::from_millis(10);

/// How long the log waits for memory to set late data aside before the host is asked to send it again.
pub(super) const HELD_MAX: Nanos = Nanos::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WriteState {
    /// Waits for room in the log.
    Waiting,
    /// Its data is coming in.
    Receiving,
    /// Its data is there; the compare that it is fused with decides about it.
    Paired,
    /// Its data is there; a pair keeps it out of the log.
    Barred,
    /// It is in the log, on its way to be committed.
    Logged,
    /// Its segment was closed before its data came; waits to be moved.
    Late,
    /// Its connection died, or it waited too long: forgotten when its turn comes, without effect.
    Dropped,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct WriteSlot {
    pub(super) state: WriteState,
    pub(super) cmd: Option<CommandId>,
    pub(super) placement: Option<Placement>,
    kind: EntryKind,
    pub(super) volume: VolumeId,
    pub(super) first: Sector,
    pub(super) sectors: Sectors,
    pub(super) parsed: Nanos,
    waited: bool,
    /// Where a late write's bytes wait for room, so that they pin no segment meanwhile.
    aside: Option<Span>,
    /// Pages counted in [`Core::large`] for it.
    large: u32,
    /// The compare that it is fused with.
    pub(super) compare: u32,
    /// Another of the same command's, or `NONE`.
    pub(super) next: u32,
    /// Whose it is.
    host: usize,
    /// When it got its pages.
    placed: Nanos,
}

/// Large writes: how much of the memory beside the log they may come to need, and who waits for it. Each host has a queue and a share of
/// its own, so that one that withholds data does not stand in the way of others.
#[derive(Debug)]
pub(super) struct Large {
    /// Pages in all, at most this …
    limit: u32,
    /// … and of one host: what is left belongs to others.
    share: u32,
    pages: u32,
    of: Vec<u32>,
    pub(super) waiting: Vec<VecDeque<u32>>,
    /// The host whose turn it is.
    turn: usize,
    reclaim_at: Nanos,
}

impl Large {
    /// Of `blocks` of memory, for so many hosts and writes.
    pub(super) fn new(blocks: u32, hosts: usize, writes_max: usize) -> Self {
        // Half of the memory: runs of every length find their place in the other half's gaps.
        let limit = blocks / 2;
        Self {
            limit,
            share: (limit - limit / 4).max(limit.min(u32::from(ENTRY_PAGES_MAX))),
            pages: 0,
            of: vec![0; hosts],
            waiting: (0..hosts).map(|_| VecDeque::with_capacity(writes_max)).collect(),
            turn: 0,
            reclaim_at: Nanos::ZERO,
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    fn has_room(&self, host: usize, pages: u32) -> bool {
        pages == 0 || (self.pages + pages <= self.limit && self.of[host] + pages <= self.share)
    }

    fn take(&mut self, host: usize, pages: u32) {
        self.pages += pages;
        self.of[host] += pages;
    }

    fn give(&mut self, host: usize, pages: u32) {
        self.pages -= pages;
        self.of[host] -= pages;
    }
}

impl WriteSlot {
    pub(super) const EMPTY: WriteSlot = WriteSlot {
        state: WriteState::Dropped,
        cmd: None,
        placement: None,
        kind: EntryKind::Write,
        volume: VolumeId::new(0),
        first: Sector::new(0),
        sectors: Sectors::new(0),
        parsed: Nanos::ZERO,
        waited: false,
        aside: None,
        large: 0,
        compare: NONE,
        next: NONE,
        host: 0,
        placed: Nanos::ZERO,
    };
}

/// Where the bytes of a placement lie in a run beside the log: congruent there, too.
fn aside_payload(run: Span, placement: &Placement) -> Span {
    let offset = u64::from(placement.entry.first.in_block()) * SECTOR_BYTES;
    Span::new(run.at + offset, placement.entry.sectors.bytes() as u32)
}

impl<D: Disk> Core<D> {
    pub(super) fn write_came(
        &mut self,
        now: Nanos,
        id: CommandId,
        kind: EntryKind,
        (volume, first, sectors): (VolumeId, Sector, Sectors),
        fused: Option<CommandId>,
    ) {
        let compare = fused.map_or(NONE, |first| self.compare_of(first));
        if fused.is_some() && compare == NONE {
            self.complete(id, Status::ABORTED_FAILED_FUSED);
            return;
        }
        let host = self.clients.frontend.host_of(id);
        let slot = WriteSlot {
            state: WriteState::Waiting,
            cmd: Some(id),
            placement: None,
            kind,
            volume,
            first,
            sectors,
            parsed: now,
            waited: false,
            aside: None,
            large: 0,
            compare: NONE,
            next: NONE,
            host,
            placed: now,
        };
        let refusal = match (self.fault, self.stopping) {
            // Hosts are told in the turn that follows.
            (Some(_), _) => Some(Status::ANA_INACCESSIBLE),
            (None, Some(_)) => Some(Status::COMMAND_INTERRUPTED),
            (None, None) => None,
        };
        let place = if refusal.is_none() { self.writes.take(slot) } else { None };
        let Some(place) = place else {
            if compare != NONE {
                self.part(now, compare);
            }
            self.complete(id, refusal.unwrap_or(Status::COMMAND_INTERRUPTED));
            return;
        };
        self.commands += 1;
        self.writes.get_mut(place).next = std::mem::replace(&mut self.table(id).write, place);
        if compare != NONE {
            self.fuse(place, compare);
        }
        if !self.queue_of(place).is_empty() || !self.try_place(now, place) {
            self.queue_of(place).push_back(place);
            if self.log.is_full() {
                self.note_wait(place);
            }
        }
    }

    /// Whether a write's data can only come after an R2T: it may stand in its stream behind commands that wait for the log.
    /// So that the log never waits for it, such writes are taken on only while there is memory to set all of them aside; they
    /// wait in a queue of their own, which holds up no stream.
    fn is_large(&self, place: u32) -> bool {
        let slot = self.writes.get(place);
        slot.kind == EntryKind::Write && slot.sectors.bytes() > self.in_capsule_bytes
    }

    fn queue_of(&mut self, place: u32) -> &mut VecDeque<u32> {
        if self.is_large(place) {
            &mut self.large.waiting[self.writes.get(place).host]
        } else {
            &mut self.waiting_writes
        }
    }

    /// A write waits because every segment is full: counted once.
    pub(super) fn note_wait(&mut self, place: u32) {
        let slot = self.writes.get_mut(place);
        self.full_waits += u64::from(!slot.waited);
        slot.waited = true;
    }

    /// Reserves room for a write; false where it must wait.
    pub(super) fn try_place(&mut self, now: Nanos, place: u32) -> bool {
        let WriteSlot { kind, volume, first, sectors, cmd, parsed, host, .. } =
            *self.writes.get(place);
        let large = if self.is_large(place) { sectors.blocks_from(first) } else { 0 };
        if !self.large.has_room(host, large) {
            return false;
        }
        let placement = match self.log.reserve(now, kind, volume, first, sectors) {
            Ok(placement) => placement,
            Err(ReserveRefused::Full) => {
                self.note_wait(place);
                return false;
            }
            Err(ReserveRefused::Busy | ReserveRefused::NotOpen) => return false,
        };
        let slot = self.writes.get_mut(place);
        slot.placement = Some(placement);
        slot.state = WriteState::Receiving;
        slot.large = large;
        slot.placed = now;
        self.large.take(host, large);
        if slot.waited {
            let waited = now.since(parsed);
            self.full_wait = self.full_wait.after(waited);
            self.times.record(Stage::FullWait, waited);
        }
        if kind == EntryKind::Write {
            let span = self.payload(&placement);
            if let Some(cmd) = cmd {
                self.clients.frontend.place_write(cmd, span);
                self.attend(cmd.conn());
            }
        } else {
            self.log_write(now, place);
        }
        true
    }

    /// The bytes of a placement in the log: congruent, so they begin inside the first page where the run does.
    pub(super) fn payload(&self, placement: &Placement) -> Span {
        let entry = placement.entry;
        let whole = self.geometry.span(placement.segment, entry.page, u32::from(entry.pages));
        let offset = u64::from(entry.first.in_block()) * SECTOR_BYTES;
        Span::new(whole.at + offset, entry.sectors.bytes() as u32)
    }

    pub(super) fn arrived(
        &mut self,
        now: Nanos,
        cmd: CommandId,
        span: Span,
        digest: Option<u32>,
        last: bool,
    ) {
        let compare = self.compare_of(cmd);
        if compare != NONE {
            self.compare_arrived(now, compare, span, digest, last);
            return;
        }
        let place = self.table(cmd).write;
        if place == NONE || self.writes.get(place).cmd != Some(cmd) {
            return;
        }
        let crc = digest.map(|_| self.arena.crc32c(span));
        if crc != digest {
            self.release_compare(now, place);
            self.clients.frontend.digest_is_wrong(cmd);
            self.attend(cmd.conn());
            self.forget_write(now, place);
            return;
        }
        if !last {
            return;
        }
        let slot = *self.writes.get(place);
        self.times.record(Stage::Receive, now.since(slot.parsed));
        let Some(placement) = slot.placement else {
            // It had to leave its segment while it was coming in.
            if !self.hold_for_compare(place) {
                self.writes.get_mut(place).state = WriteState::Late;
                self.late.push_back(place);
            }
            return;
        };
        if placement.entry.pages == 1 && span == self.payload(&placement) && crc.is_some() {
            // The host's digest covers exactly the page: one sum serves both.
            self.log.set_page(&placement, 0, crc.unwrap_or_default());
        } else {
            self.sum_pages(&placement);
        }
        if !self.hold_for_compare(place) {
            self.log_write(now, place);
        }
    }

    /// A write that is fused with a compare, and whose data is there, waits for that.
    fn hold_for_compare(&mut self, place: u32) -> bool {
        if self.writes.get(place).compare == NONE {
            return false;
        }
        self.writes.get_mut(place).state = WriteState::Paired;
        self.try_pair(place);
        true
    }

    /// Sums each page of a write, once, while its bytes are warm.
    pub(super) fn sum_pages(&mut self, placement: &Placement) {
        for index in 0..placement.entry.pages {
            let (first, count) = placement.entry.page_part(index);
            let page = LogBlock::new(placement.entry.page.get() + u32::from(index));
            let whole = self.geometry.span(placement.segment, page, 1);
            let sector = SECTOR_BYTES as u32;
            let part = Span::new(whole.at + u64::from(first * sector), count * sector);
            let crc = self.arena.crc32c(part);
            self.log.set_page(placement, index, crc);
        }
    }

    /// Gives a write whose data is there to the log, unless a pair keeps it out (FUSE-1).
    pub(super) fn log_write(&mut self, now: Nanos, place: u32) {
        if !self.bar(place) {
            self.log_now(now, place);
        }
    }

    pub(super) fn log_now(&mut self, now: Nanos, place: u32) {
        let placement =
            self.writes.get(place).placement.expect("a write that is logged was placed");
        match self.log.complete(now, placement, u64::from(place)) {
            Completion::Logged => {
                self.writes.get_mut(place).state = WriteState::Logged;
                self.give_large(place);
            }
            Completion::Late => {
                self.writes.get_mut(place).state = WriteState::Late;
                self.late.push_back(place);
            }
        }
    }

    /// Gives a write's room and place back; it was never logged.
    pub(super) fn forget_write(&mut self, now: Nanos, place: u32) {
        let slot = *self.writes.get(place);
        if let Some(placement) = slot.placement {
            self.log.abandon(now, placement);
        }
        self.give_write(place);
    }

    pub(super) fn give_aside(&mut self, place: u32) {
        if let Some(run) = self.writes.get_mut(place).aside.take() {
            if self.writes.get(place).large == 0 {
                self.small_pages -= run.len / BLOCK_BYTES as u32;
            }
            self.aside_pool.give(run);
        }
    }

    /// A large write has its Lsn, or will have none: it can't become late any more.
    fn give_large(&mut self, place: u32) {
        let slot = self.writes.get_mut(place);
        self.large.give(slot.host, std::mem::take(&mut slot.large));
    }

    pub(super) fn give_write(&mut self, place: u32) {
        self.give_aside(place);
        self.give_large(place);
        let slot = self.writes.get_mut(place);
        let cmd = slot.cmd.take();
        slot.placement = None;
        let state = slot.state;
        self.fused.forget(place, state);
        if let Some(cmd) = cmd {
            self.unchain(cmd, place);
        }
        self.commands -= 1;
        self.writes.give(place);
    }

    /// Writes that waited for room, late ones first, then in the order they came.
    pub(super) fn retry_waiting(&mut self, now: Nanos) -> bool {
        if self.fault.is_some() {
            self.fail_waiting(now);
        }
        self.make_way(now);
        let mut any = false;
        for _ in 0..self.late.len() {
            let Some(place) = self.late.pop_front() else {
                break;
            };
            if self.writes.get(place).state == WriteState::Dropped {
                self.drop_late(now, place, Status::COMMAND_INTERRUPTED);
                any = true;
                continue;
            }
            if self.move_late(now, place) {
                any = true;
                continue;
            }
            self.set_aside(place);
            let keeps = self
                .writes
                .get(place)
                .placement
                .map(|placement| self.geometry.slot(placement.segment));
            if keeps.is_some()
                && keeps == self.log.held_slot()
                && now.since(self.held_since) >= HELD_MAX
            {
                self.drop_late(now, place, Status::COMMAND_INTERRUPTED);
            } else {
                self.late.push_back(place);
            }
        }
        any |= self.retry_queue(now, None);
        let hosts = self.large.waiting.len();
        self.large.turn = (self.large.turn + 1) % hosts;
        for offset in 0..hosts {
            let host = (self.large.turn + offset) % hosts;
            any |= self.retry_queue(now, Some(host));
            self.reclaim(now, host);
        }
        self.reclaim_reads(now);
        for _ in 0..self.waiting_reads.len() {
            let Some(place) = self.waiting_reads.pop_front() else { break };
            if self.reads.get(place).abandoned {
                self.finish_read(now, place);
            } else if self.expire_read(now, place) {
            } else if !self.begin_read(now, place) {
                self.waiting_reads.push_back(place);
                continue;
            }
            any = true;
        }
        any
    }

    /// Places what waits in a queue, in its order: small writes, or a host's large ones.
    fn retry_queue(&mut self, now: Nanos, host: Option<usize>) -> bool {
        let mut any = false;
        while let Some(place) = self.waiting(host).front().copied() {
            if self.writes.get(place).state == WriteState::Dropped {
                self.give_write(place);
            } else if !self.try_place(now, place) {
                break;
            }
            any = true;
            self.waiting(host).pop_front();
        }
        any
    }

    fn waiting(&mut self, host: Option<usize>) -> &mut VecDeque<u32> {
        match host {
            Some(host) => &mut self.large.waiting[host],
            None => &mut self.waiting_writes,
        }
    }

    /// Where a host's write waits for memory that others have had for too long without sending their data, theirs are ended: they
    /// are asked to send them again.
    fn reclaim(&mut self, now: Nanos, host: usize) {
        let Some(place) = self.large.waiting[host].front().copied() else { return };
        let WriteSlot { first, sectors, .. } = *self.writes.get(place);
        let pages = sectors.blocks_from(first);
        let others_have_it = self.large.pages + pages > self.large.limit
            && self.large.of[host] + pages <= self.large.share;
        if !others_have_it || now < self.large.reclaim_at {
            return;
        }
        self.large.reclaim_at = now.after(RECLAIM_EVERY);
        for place in 0..self.writes.count() as u32 {
            let WriteSlot { state, large, host: of, placed, .. } = *self.writes.get(place);
            if state == WriteState::Receiving
                && large > 0
                && of != host
                && now.since(placed) >= OWED_MAX
            {
                self.end_fused(now, place, Status::COMMAND_INTERRUPTED);
            }
        }
    }

    /// Nothing becomes durable any more: writes that have no Lsn yet fail, so that their hosts can turn elsewhere.
    pub(super) fn fail_waiting(&mut self, now: Nanos) {
        self.fail_fused_waiting(now);
        while let Some(place) = self
            .waiting_writes
            .pop_front()
            .or_else(|| self.large.waiting.iter_mut().find_map(VecDeque::pop_front))
        {
            self.release_compare(now, place);
            if let Some(cmd) = self
                .writes
                .get(place)
                .cmd
                .filter(|_| self.writes.get(place).state == WriteState::Waiting)
            {
                self.complete(cmd, Status::ANA_INACCESSIBLE);
            }
            self.give_write(place);
        }
        while let Some(place) = self.late.pop_front() {
            self.drop_late(now, place, Status::ANA_INACCESSIBLE);
        }
    }

    /// Ends a late write, which has no Lsn, without its effect.
    pub(super) fn drop_late(&mut self, now: Nanos, place: u32, status: Status) {
        self.release_compare(now, place);
        if let Some(placement) = self.writes.get(place).placement {
            self.log.release_late(placement);
        }
        if let Some(cmd) = self.writes.get(place).cmd {
            self.complete(cmd, status);
        }
        self.give_write(place);
    }

    /// Data that is still coming keeps the slot that the log needs next: the log waits for no host. The data goes on to memory
    /// beside the log; where there is none, the host is asked to try again. (A host's data may stand behind commands that themselves
    /// wait for room in the log, so waiting could be for ever.)
    pub(super) fn make_way(&mut self, now: Nanos) {
        let Some(held) = self.log.held_slot() else {
            self.held_since = now;
            return;
        };
        self.move_reads(now, held);
        for place in 0..self.writes.count() as u32 {
            let WriteSlot { state, cmd, placement, .. } = *self.writes.get(place);
            let coming = match state {
                WriteState::Receiving => true,
                WriteState::Paired | WriteState::Barred => false,
                WriteState::Waiting
                | WriteState::Logged
                | WriteState::Late
                | WriteState::Dropped => continue,
            };
            let (Some(cmd), Some(placement)) = (cmd, placement) else { continue };
            if self.geometry.slot(placement.segment) != held {
                continue;
            }
            self.set_aside(place);
            let aside = self.writes.get(place).aside;
            if let Some(run) = aside.filter(|_| coming) {
                self.clients.frontend.move_write(cmd, aside_payload(run, &placement));
            } else if self.writes.get(place).placement.is_some()
                && now.since(self.held_since) >= HELD_MAX
            {
                self.end_fused(now, place, Status::COMMAND_INTERRUPTED);
            }
        }
    }

    /// The log has no room for a late write: its bytes leave their segment all the same, for the room it waits for may be that
    /// segment's own slot. Where there is no memory now, a later turn tries again.
    pub(super) fn set_aside(&mut self, place: u32) {
        let Some(old) = self.writes.get(place).placement else {
            return;
        };
        if old.entry.pages > 0 {
            let pages = u32::from(old.entry.pages);
            let small = self.writes.get(place).large == 0;
            // Small writes keep to their half: the other belongs to the large ones that were taken on because of it.
            if small && self.small_pages + pages > self.layout.staging.blocks / 2 {
                return;
            }
            let Some(run) = self.aside_pool.take(pages) else {
                return;
            };
            self.small_pages += if small { pages } else { 0 };
            let from = self.payload(&old);
            self.arena.copy_within(from, aside_payload(run, &old).at);
            self.copied[COPIED_LATE] += u64::from(from.len);
            self.writes.get_mut(place).aside = Some(run);
        }
        self.log.release_late(old);
        self.writes.get_mut(place).placement = None;
    }

    /// Moves a late write's bytes to a new place and logs it there.
    pub(super) fn move_late(&mut self, now: Nanos, place: u32) -> bool {
        let slot = *self.writes.get(place);
        let Ok(placement) = self.log.reserve(now, slot.kind, slot.volume, slot.first, slot.sectors)
        else {
            return false;
        };
        if slot.kind == EntryKind::Write {
            let to = self.payload(&placement);
            let from = match (slot.aside, slot.placement) {
                (Some(run), _) => aside_payload(run, &placement),
                (None, Some(old)) => self.payload(&old),
                (None, None) => {
                    unreachable!("the bytes of a late write lie in its segment or aside")
                }
            };
            self.arena.copy_within(from, to.at);
            self.copied[COPIED_LATE] += u64::from(from.len);
            self.sum_pages(&placement);
        }
        if let Some(old) = slot.placement {
            self.log.release_late(old);
        }
        self.give_aside(place);
        self.writes.get_mut(place).placement = Some(placement);
        self.log_write(now, place);
        true
    }

    /// Completes writes that both nodes hold (SRC-1).
    pub(super) fn commit(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some(committed) = self.log.pop_committed() {
            any = true;
            if committed.token == TOKEN_NONE {
                // Recovery found it: whoever wrote it is gone.
                continue;
            }
            let place = committed.token as u32;
            let slot = *self.writes.get(place);
            if slot.cmd.is_none() {
                self.orphans.committed(place);
            }
            self.times.record(Stage::Commit, now.since(committed.arrived));
            self.times.record(Stage::Write, now.since(slot.parsed));
            let volume = &mut self.volumes[usize::from(slot.volume.get())];
            volume.writes += 1;
            volume.write_bytes += slot.sectors.bytes();
            self.release_compare(now, place);
            if let Some(cmd) = slot.cmd {
                self.complete(cmd, Status::SUCCESS);
            }
            self.give_write(place);
        }
        any
    }

    /// The connection of a write is gone.
    pub(super) fn abandon_write(&mut self, now: Nanos, cmd: CommandId, place: u32) {
        if self.writes.get(place).cmd != Some(cmd) {
            return;
        }
        self.sever(place);
        match self.writes.get(place).state {
            WriteState::Waiting | WriteState::Late if Mutant::DeadWriteLogged.is_on() => {}
            WriteState::Waiting => {
                self.unlink(cmd, place);
                self.writes.get_mut(place).state = WriteState::Dropped;
            }
            // It has no Lsn yet: after its host's retry it must not take effect (I16).
            WriteState::Receiving | WriteState::Paired | WriteState::Barred => {
                self.forget_write(now, place)
            }
            WriteState::Late => {
                self.unlink(cmd, place);
                self.drop_from_late(place);
            }
            // It is in the log, before whatever its host sends again; only its host no longer hears of it.
            WriteState::Logged => self.orphan(cmd, place),
            WriteState::Dropped => self.unlink(cmd, place),
        }
    }

    /// A late write will not be logged; it is forgotten when it is its turn.
    fn drop_from_late(&mut self, place: u32) {
        self.writes.get_mut(place).state = WriteState::Dropped;
        self.fused.forget(place, WriteState::Dropped);
    }

    /// Ends a write that has no Lsn, without effect.
    pub(super) fn end_unlogged(&mut self, now: Nanos, place: u32, status: Status) {
        let WriteSlot { state, cmd, .. } = *self.writes.get(place);
        if let Some(cmd) = cmd {
            self.complete(cmd, status);
            match state {
                WriteState::Waiting | WriteState::Late => self.unlink(cmd, place),
                WriteState::Receiving
                | WriteState::Paired
                | WriteState::Barred
                | WriteState::Logged
                | WriteState::Dropped => {}
            }
        }
        match state {
            WriteState::Waiting | WriteState::Late => self.drop_from_late(place),
            WriteState::Receiving | WriteState::Paired | WriteState::Barred => {
                self.forget_write(now, place)
            }
            WriteState::Logged | WriteState::Dropped => {}
        }
    }

    /// A command's host no longer waits for a write.
    fn unlink(&mut self, cmd: CommandId, place: u32) {
        self.writes.get_mut(place).cmd = None;
        self.unchain(cmd, place);
    }

    /// The same of one that is in the log.
    fn orphan(&mut self, cmd: CommandId, place: u32) {
        self.unlink(cmd, place);
        let WriteSlot { volume, first, sectors, .. } = *self.writes.get(place);
        self.orphans.add(place, (volume, first, sectors));
    }

    /// Takes a write out of the chain of its command's: a list of ranges is as many writes.
    fn unchain(&mut self, cmd: CommandId, place: u32) {
        let next = std::mem::replace(&mut self.writes.get_mut(place).next, NONE);
        let mut at = self.table(cmd).write;
        if at == place {
            self.table(cmd).write = next;
            return;
        }
        while at != NONE {
            let slot = self.writes.get_mut(at);
            if slot.next == place {
                slot.next = next;
                return;
            }
            at = slot.next;
        }
    }

    /// Ends a write that has waited for `limit`, if it is one that can be ended; true where it was. Its host is asked to send it again.
    pub(super) fn expire_write(
        &mut self,
        now: Nanos,
        place: u32,
        limit: Nanos,
        status: Status,
    ) -> bool {
        let WriteSlot { state, cmd, parsed, .. } = *self.writes.get(place);
        let Some(cmd) = cmd.filter(|_| now.since(parsed) >= limit) else { return false };
        match state {
            WriteState::Waiting | WriteState::Late | WriteState::Paired | WriteState::Barred => {
                self.end_fused(now, place, status);
            }
            // It stays in the log, and comes before what is sent again.
            WriteState::Logged => {
                self.release_compare(now, place);
                self.complete(cmd, status);
                self.orphan(cmd, place);
            }
            // Its own host is slow: the target's time limits are for that.
            WriteState::Receiving | WriteState::Dropped => return false,
        }
        true
    }
}
