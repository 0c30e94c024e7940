//! Clients of the source: their connections, their writes on the way into the log, their reads out of log and volume.
//! SRC-1  a write is completed to its host only after the log has committed it, or with an error before it was logged.
//! SRC-2  a read's fragments are decided at one instant; log pages it names are pinned until its bytes have left.

use super::Core;
use crate::disks::{Work, volume_file};
use crate::snapshot::{COPIED_GATHER, COPIED_LATE, Stage};
use ibid_driver::{Disk, DiskOp, Piece, StreamEvent, StreamId, StreamStop, Streams};
use ibid_engine::frontend::{self, CommandId, ConnId, Event, PieceList, READ_PIECES_MAX, ReadPiece, ReceivePlan};
use ibid_engine::log::{Completion, Placement, ReserveRefused};
use ibid_engine::volume::{Fragment, plan_read};
use ibid_units::{BLOCK_BYTES, LogBlock, Nanos, SECTOR_BYTES, Sector, Sectors, Span, VolumeId};
use ibid_wire::disk::EntryKind;
use ibid_wire::nvme_tcp::Status;

/// Receive calls for one connection in one turn, so that a busy one starves nobody.
const RECEIVES_PER_TURN: usize = 32;
/// Send calls likewise.
const SENDS_PER_TURN: usize = 16;
/// Disk operations of one read, at most: one for each of its pieces.
pub(super) const READ_OPS_MAX: usize = READ_PIECES_MAX;
/// Gathered reads that may read from the volume at one time.
pub(super) const SCATTERS_MAX: usize = 8;
/// Words with a bit for each sector of the longest read.
const SCATTER_WORDS: usize = (1 << 20) / 512 / 64;

const NONE: u32 = u32::MAX;

/// One client connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conn {
    pub(super) id: Option<ConnId>,
    pub(super) stream: Option<StreamId>,
    readable: bool,
    writable: bool,
    /// Something changed what it wants to send or may receive.
    attend: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WriteState {
    /// Waits for room in the log.
    Waiting,
    /// Its data is coming in.
    Receiving,
    /// It is in the log, on its way to be committed.
    Logged,
    /// Its segment was closed before its data came; waits to be moved.
    Late,
    /// Its connection died while it waited: forgotten when its turn comes.
    Dropped,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct WriteSlot {
    state: WriteState,
    cmd: Option<CommandId>,
    placement: Option<Placement>,
    kind: EntryKind,
    volume: VolumeId,
    first: Sector,
    sectors: Sectors,
    parsed: Nanos,
    waited: bool,
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
    };
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ReadSlot {
    cmd: Option<CommandId>,
    volume: VolumeId,
    first: Sector,
    sectors: Sectors,
    pieces: [ReadPiece; READ_PIECES_MAX],
    piece_count: usize,
    run: Option<Span>,
    scatter: Option<u32>,
    /// A bit per slot of the log that is pinned.
    pins: u64,
    outstanding: u32,
    generation: usize,
    failed: bool,
    abandoned: bool,
    parsed: Nanos,
}

impl ReadSlot {
    pub(super) const EMPTY: ReadSlot = ReadSlot {
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
        abandoned: false,
        parsed: Nanos::ZERO,
    };
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
    pub(super) const EMPTY: Scatter = Scatter { under: Span::new(0, 0), sectors: [0; SCATTER_WORDS] };
}

/// The command's place in tables beside the frontend.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandTable {
    write: u32,
    read: u32,
}

impl Default for CommandTable {
    fn default() -> Self {
        Self { write: NONE, read: NONE }
    }
}

impl<D: Disk> Core<D> {
    /// Something happened to a stream. A stream that can't be taken is given back to be closed.
    pub(super) fn stream_event(&mut self, now: Nanos, event: StreamEvent) -> Option<StreamId> {
        match event {
            StreamEvent::Opened(stream) => {
                let id = if self.stopping.is_some() { None } else { self.frontend.open(now) };
                let Some(id) = id else { return Some(stream) };
                self.conns[id.index()] =
                    Conn { id: Some(id), stream: Some(stream), readable: true, writable: true, attend: true };
                self.drain_events(now);
            }
            StreamEvent::Readable(stream) => {
                if let Some(conn) = self.conn_of(stream) {
                    conn.readable = true;
                }
            }
            StreamEvent::Writable(stream) => {
                if let Some(conn) = self.conn_of(stream) {
                    conn.writable = true;
                    conn.attend = true;
                }
            }
        }
        None
    }

    fn conn_of(&mut self, stream: StreamId) -> Option<&mut Conn> {
        self.conns.iter_mut().find(|conn| conn.stream == Some(stream))
    }

    /// Receives from every connection that has something, straight into log pages.
    pub(super) fn receive_clients<S: Streams>(&mut self, now: Nanos, streams: &mut S) -> bool {
        let mut any = false;
        for at in 0..self.conns.len() {
            for _ in 0..RECEIVES_PER_TURN {
                let Conn { id: Some(id), stream: Some(stream), readable: true, .. } = self.conns[at] else { break };
                let (asked, got) = match self.frontend.receive_plan(id) {
                    ReceivePlan::Blocked | ReceivePlan::Closing => break,
                    ReceivePlan::Receive { payload, head } => {
                        let asked = payload.map_or(0, |span| span.len as usize) + head.len();
                        (asked, streams.receive(stream, payload, head))
                    }
                };
                match got {
                    Ok(count) => {
                        any = true;
                        self.frontend.received(now, id, count);
                        self.conns[at].attend = true;
                        self.drain_events(now);
                        if count < asked {
                            // A short count empties the socket; what comes later is told by a new event.
                            self.conns[at].readable = false;
                        }
                    }
                    Err(StreamStop::WouldBlock) => self.conns[at].readable = false,
                    Err(StreamStop::Closed) => {
                        any = true;
                        self.close_conn(now, at, streams);
                    }
                }
            }
        }
        any
    }

    fn close_conn<S: Streams>(&mut self, now: Nanos, at: usize, streams: &mut S) {
        let conn = std::mem::take(&mut self.conns[at]);
        if let Some(id) = conn.id {
            self.frontend.closed(now, id);
            self.drain_events(now);
        }
        if let Some(stream) = conn.stream {
            streams.close(stream);
        }
    }

    pub(super) fn close_all<S: Streams>(&mut self, now: Nanos, streams: &mut S) {
        for at in 0..self.conns.len() {
            self.close_conn(now, at, streams);
        }
    }

    /// No write of a client is on its way into the log.
    pub(super) fn frontend_is_quiet(&self) -> bool {
        self.waiting_writes.is_empty() && self.late.is_empty()
    }

    /// Sends on every connection that has something to say.
    pub(super) fn send_clients<S: Streams>(&mut self, now: Nanos, streams: &mut S) -> bool {
        let mut any = false;
        for at in 0..self.conns.len() {
            for _ in 0..SENDS_PER_TURN {
                let Conn { id: Some(id), stream: Some(stream), writable: true, attend: true, .. } = self.conns[at] else {
                    break;
                };
                let mut list = PieceList::new();
                self.frontend.send_plan(id, &mut list);
                if list.is_empty() {
                    self.conns[at].attend = false;
                    if matches!(self.frontend.receive_plan(id), ReceivePlan::Closing) {
                        self.close_conn(now, at, streams);
                    }
                    break;
                }
                any = true;
                let mut pieces = [Piece::Bytes(&[]); frontend::SEND_PIECES_MAX];
                for (piece, listed) in pieces.iter_mut().zip(list.as_slice()) {
                    *piece = match *listed {
                        frontend::Piece::Bytes(bytes) => Piece::Bytes(bytes),
                        frontend::Piece::Span(span) => Piece::Span(span),
                    };
                }
                match streams.send(stream, &pieces[..list.as_slice().len()]) {
                    Ok(count) => {
                        self.frontend.sent(id, count);
                        self.drain_events(now);
                    }
                    Err(StreamStop::WouldBlock) => self.conns[at].writable = false,
                    Err(StreamStop::Closed) => self.close_conn(now, at, streams),
                }
            }
        }
        any
    }

    fn table(&mut self, cmd: CommandId) -> &mut CommandTable {
        &mut self.command_table[cmd.conn().index() * self.queue_depth + cmd.slot()]
    }

    fn attend(&mut self, conn: ConnId) {
        let conn = &mut self.conns[conn.index()];
        conn.attend = true;
        // A plan that was blocked may have become one that receives.
        conn.readable = true;
    }

    pub(super) fn drain_events(&mut self, now: Nanos) {
        while let Some(event) = self.frontend.poll_event() {
            match event {
                Event::Write { cmd, volume, first, sectors, fua: _ } => {
                    self.write_came(now, Some(cmd), EntryKind::Write, volume, first, sectors);
                }
                Event::Zeroes { cmd, volume, first, sectors, deallocate } => {
                    let kind = if deallocate { EntryKind::Deallocate } else { EntryKind::Zeroes };
                    self.write_came(now, Some(cmd), kind, volume, first, sectors);
                }
                Event::Arrived { cmd, span, digest, last } => self.arrived(now, cmd, span, digest, last),
                Event::Read { cmd, volume, first, sectors } => self.read_came(now, cmd, volume, first, sectors),
                // Nothing is volatile: whatever was completed is durable on both nodes already.
                Event::Flush { cmd, .. } => self.complete(cmd, Status::SUCCESS),
                Event::Released { cmd } => self.released(now, cmd),
                Event::Abandoned { cmd } => self.abandoned(now, cmd),
                Event::Attend { conn } => self.attend(conn),
            }
        }
    }

    fn complete(&mut self, cmd: CommandId, status: Status) {
        self.frontend.complete(cmd, status);
        self.attend(cmd.conn());
    }

    fn write_came(
        &mut self,
        now: Nanos,
        cmd: Option<CommandId>,
        kind: EntryKind,
        volume: VolumeId,
        first: Sector,
        sectors: Sectors,
    ) {
        let Some(id) = cmd else { return };
        if self.fault.is_some() || self.stopping.is_some() {
            self.complete(id, if self.fault.is_some() { Status::WRITE_FAULT } else { Status::COMMAND_INTERRUPTED });
            return;
        }
        let slot = WriteSlot {
            state: WriteState::Waiting,
            cmd,
            placement: None,
            kind,
            volume,
            first,
            sectors,
            parsed: now,
            waited: false,
        };
        let Some(place) = self.writes.take(slot) else {
            self.complete(id, Status::COMMAND_INTERRUPTED);
            return;
        };
        self.commands += 1;
        if kind == EntryKind::Write {
            self.table(id).write = place;
        }
        if !self.waiting_writes.is_empty() || !self.try_place(now, place) {
            self.waiting_writes.push_back(place);
        }
    }

    /// Reserves room for a write; false where it must wait.
    fn try_place(&mut self, now: Nanos, place: u32) -> bool {
        let WriteSlot { kind, volume, first, sectors, cmd, parsed, .. } = *self.writes.get(place);
        let placement = match self.log.reserve(now, kind, volume, first, sectors) {
            Ok(placement) => placement,
            Err(refused) => {
                let slot = self.writes.get_mut(place);
                if refused == ReserveRefused::Full && !slot.waited {
                    slot.waited = true;
                    self.full_waits += 1;
                }
                return false;
            }
        };
        let slot = self.writes.get_mut(place);
        slot.placement = Some(placement);
        slot.state = WriteState::Receiving;
        if slot.waited {
            let waited = now.since(parsed);
            self.full_wait = self.full_wait.after(waited);
            self.times.record(Stage::FullWait, waited);
        }
        if kind == EntryKind::Write {
            let span = self.payload(&placement);
            if let Some(cmd) = cmd {
                self.frontend.place_write(cmd, span);
                self.attend(cmd.conn());
            }
        } else {
            self.log_write(now, place);
        }
        true
    }

    /// The bytes of a placement in the log: congruent, so they begin inside the first page where the run does.
    fn payload(&self, placement: &Placement) -> Span {
        let entry = placement.entry;
        let whole = self.geometry.span(placement.segment, entry.page, u32::from(entry.pages));
        let offset = u64::from(entry.first.in_block()) * SECTOR_BYTES;
        Span::new(whole.at + offset, entry.sectors.bytes() as u32)
    }

    fn arrived(&mut self, now: Nanos, cmd: CommandId, span: Span, digest: Option<u32>, last: bool) {
        let place = self.table(cmd).write;
        if place == NONE || self.writes.get(place).cmd != Some(cmd) {
            return;
        }
        let crc = digest.map(|_| self.arena.crc32c(span));
        if crc != digest {
            self.frontend.digest_is_wrong(cmd);
            self.attend(cmd.conn());
            self.forget_write(now, place);
            return;
        }
        if !last {
            return;
        }
        let slot = *self.writes.get(place);
        self.times.record(Stage::Receive, now.since(slot.parsed));
        let placement = slot.placement.expect("a write that received was placed");
        if placement.entry.pages == 1 && span == self.payload(&placement) && crc.is_some() {
            // The host's digest covers exactly the page: one sum serves both.
            self.log.set_page(&placement, 0, crc.unwrap_or_default());
        } else {
            self.sum_pages(&placement);
        }
        self.log_write(now, place);
    }

    /// Sums each page of a write, once, while its bytes are warm.
    fn sum_pages(&mut self, placement: &Placement) {
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

    fn log_write(&mut self, now: Nanos, place: u32) {
        let placement = self.writes.get(place).placement.expect("a write that is logged was placed");
        match self.log.complete(now, placement, u64::from(place)) {
            Completion::Logged => self.writes.get_mut(place).state = WriteState::Logged,
            Completion::Late => {
                self.writes.get_mut(place).state = WriteState::Late;
                self.late.push_back(place);
            }
        }
    }

    /// Gives a write's room and place back; it was never logged.
    fn forget_write(&mut self, now: Nanos, place: u32) {
        let slot = *self.writes.get(place);
        if let Some(placement) = slot.placement {
            self.log.abandon(now, placement);
        }
        self.give_write(place);
    }

    fn give_write(&mut self, place: u32) {
        let slot = self.writes.get_mut(place);
        let cmd = slot.cmd.take();
        slot.placement = None;
        if let Some(cmd) = cmd {
            let table = self.table(cmd);
            if table.write == place {
                table.write = NONE;
            }
        }
        self.commands -= 1;
        self.writes.give(place);
    }

    /// Writes that waited for room, late ones first, then in the order they came.
    pub(super) fn retry_waiting(&mut self, now: Nanos) {
        if self.fault.is_some() {
            self.fail_waiting();
        }
        for _ in 0..self.late.len() {
            let Some(place) = self.late.pop_front() else { break };
            if !self.move_late(now, place) {
                self.late.push_front(place);
                break;
            }
        }
        while let Some(&place) = self.waiting_writes.front() {
            if self.writes.get(place).state == WriteState::Dropped {
                self.give_write(place);
            } else if !self.try_place(now, place) {
                break;
            }
            self.waiting_writes.pop_front();
        }
        while let Some(&place) = self.waiting_reads.front() {
            if self.reads.get(place).abandoned {
                self.finish_read(now, place);
            } else if !self.begin_read(now, place) {
                break;
            }
            self.waiting_reads.pop_front();
        }
    }

    /// Nothing becomes durable any more: writes that have no Lsn yet fail, so that their hosts can turn elsewhere.
    fn fail_waiting(&mut self) {
        while let Some(place) = self.waiting_writes.pop_front() {
            if let Some(cmd) = self.writes.get(place).cmd.filter(|_| self.writes.get(place).state == WriteState::Waiting) {
                self.complete(cmd, Status::WRITE_FAULT);
            }
            self.give_write(place);
        }
    }

    /// Moves a late write's bytes to a new place and logs it there.
    fn move_late(&mut self, now: Nanos, place: u32) -> bool {
        let slot = *self.writes.get(place);
        let Ok(placement) = self.log.reserve(now, slot.kind, slot.volume, slot.first, slot.sectors) else { return false };
        let old = slot.placement.expect("a late write was placed");
        if slot.kind == EntryKind::Write {
            let (from, to) = (self.payload(&old), self.payload(&placement));
            self.arena.copy_within(from, to.at);
            self.copied[COPIED_LATE] += u64::from(from.len);
            self.sum_pages(&placement);
        }
        self.log.release_late(old);
        self.writes.get_mut(place).placement = Some(placement);
        self.log_write(now, place);
        true
    }

    /// Completes writes that both nodes hold (SRC-1).
    pub(super) fn commit(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some(committed) = self.log.pop_committed() {
            any = true;
            let place = committed.token as u32;
            let slot = *self.writes.get(place);
            self.times.record(Stage::Commit, now.since(committed.arrived));
            self.times.record(Stage::Write, now.since(slot.parsed));
            let volume = &mut self.volumes[usize::from(slot.volume.get())];
            volume.writes += 1;
            volume.write_bytes += slot.sectors.bytes();
            if let Some(cmd) = slot.cmd {
                self.complete(cmd, Status::SUCCESS);
            }
            self.give_write(place);
        }
        any
    }

    fn abandoned(&mut self, now: Nanos, cmd: CommandId) {
        let CommandTable { write, read } = *self.table(cmd);
        if write != NONE && self.writes.get(write).cmd == Some(cmd) {
            match self.writes.get(write).state {
                WriteState::Waiting => self.writes.get_mut(write).state = WriteState::Dropped,
                WriteState::Receiving => self.forget_write(now, write),
                // It is in the log and takes effect; only its host no longer hears of it.
                WriteState::Logged | WriteState::Late | WriteState::Dropped => {}
            }
        }
        if read != NONE && self.reads.get(read).cmd == Some(cmd) {
            self.reads.get_mut(read).abandoned = true;
            self.table(cmd).read = NONE;
        }
    }

    fn read_came(&mut self, now: Nanos, cmd: CommandId, volume: VolumeId, first: Sector, sectors: Sectors) {
        let slot = ReadSlot { cmd: Some(cmd), volume, first, sectors, parsed: now, ..ReadSlot::EMPTY };
        let place = self.reads.take(slot).expect("there is a read slot for every command");
        self.commands += 1;
        self.table(cmd).read = place;
        if !self.waiting_reads.is_empty() || !self.begin_read(now, place) {
            self.waiting_reads.push_back(place);
        }
    }

    /// Decides where a read's bytes come from and starts what disk reads it needs; false where there is no memory for it now.
    fn begin_read(&mut self, now: Nanos, place: u32) -> bool {
        let ReadSlot { volume, first, sectors, .. } = *self.reads.get(place);
        let (mut fragments, mut from_volume) = (0, 0);
        plan_read(&self.log, volume, first, sectors, |fragment| {
            fragments += 1;
            from_volume += usize::from(matches!(fragment, Fragment::Volume { .. }));
        });
        let gather = fragments > READ_PIECES_MAX;
        if from_volume > 0 || gather {
            let Some(run) = self.read_pool.take(sectors.blocks_from(first)) else { return false };
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

    /// The place in the read's memory of the byte that sector `sector` begins with.
    fn run_at(&self, place: u32, sector: Sector) -> u64 {
        let slot = self.reads.get(place);
        let run = slot.run.expect("a read from the volume has memory");
        run.at + sector.bytes() - slot.first.block() * BLOCK_BYTES
    }

    fn read_volume(&mut self, place: u32, first: Sector, sectors: u32) {
        let at = self.run_at(place, first);
        let slot = self.reads.get_mut(place);
        slot.outstanding += 1;
        let span = Span::new(at, sectors * SECTOR_BYTES as u32);
        let op = DiskOp::Read { file: volume_file(slot.volume), at: first.bytes(), span };
        self.disks.submit(op, Work::Read { slot: place });
    }

    /// Bytes go out from where they lie (SRC-2).
    fn begin_pieces(&mut self, place: u32) {
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
    fn begin_scatter(&mut self, place: u32) -> bool {
        let ReadSlot { first, sectors, .. } = *self.reads.get(place);
        if self.scatters.is_full() {
            return false;
        }
        let Some(under) = self.read_pool.take(sectors.blocks_from(first)) else { return false };
        let scatter = self.scatters.take(Scatter { under, sectors: [0; SCATTER_WORDS] });
        self.reads.get_mut(place).scatter = scatter;
        true
    }

    /// Too many pieces to send apart: they are gathered in the read's memory, which is counted. What the log has is copied now;
    /// what the volume has is read beside it and laid in when it has come.
    fn begin_gather(&mut self, place: u32) {
        let ReadSlot { volume, first, sectors, run, scatter, .. } = *self.reads.get(place);
        let run = run.expect("a gathered read has memory");
        let start = run.at + u64::from(first.in_block()) * SECTOR_BYTES;
        let mut offset = 0;
        let Self { log, geometry, arena, copied, scatters, .. } = self;
        plan_read(log, volume, first, sectors, |fragment| {
            let bytes = fragment.sectors() * SECTOR_BYTES as u32;
            let at = start + u64::from(offset) * SECTOR_BYTES;
            match fragment {
                Fragment::Log { segment, page, in_page, sectors } => {
                    let whole = geometry.span(segment, page, (in_page + sectors).div_ceil(8));
                    arena.copy_within(Span::new(whole.at + u64::from(in_page) * SECTOR_BYTES, bytes), at);
                    copied[COPIED_GATHER] += u64::from(bytes);
                }
                Fragment::Zeroes { .. } => arena.zero(Span::new(at, bytes)),
                Fragment::Volume { sectors, .. } => {
                    let scatter = scatters.get_mut(scatter.expect("a read with sectors in the volume has a list of them"));
                    for sector in offset..offset + sectors {
                        scatter.sectors[sector as usize / 64] |= 1 << (sector % 64);
                    }
                }
            }
            offset += fragment.sectors();
        });
        let slot = self.reads.get_mut(place);
        slot.pieces[0] = ReadPiece { span: Span::new(start, sectors.bytes() as u32), crc: None };
        slot.piece_count = 1;
        if let Some(scatter) = scatter {
            slot.outstanding = 1;
            let under = self.scatters.get(scatter).under;
            let at = under.at + u64::from(first.in_block()) * SECTOR_BYTES;
            let span = Span::new(at, sectors.bytes() as u32);
            let op = DiskOp::Read { file: volume_file(volume), at: first.bytes(), span };
            self.disks.submit(op, Work::Read { slot: place });
        }
    }

    /// Lays the volume's sectors of a gathered read into its memory.
    fn end_scatter(&mut self, place: u32, scatter: u32) {
        let ReadSlot { first, sectors, run, .. } = *self.reads.get(place);
        let run = run.expect("a gathered read has memory");
        let Scatter { under, sectors: wanted } = *self.scatters.get(scatter);
        let head = u64::from(first.in_block()) * SECTOR_BYTES;
        for sector in 0..u64::from(sectors.get()) {
            if wanted[(sector / 64) as usize] >> (sector % 64) & 1 == 1 {
                let offset = head + sector * SECTOR_BYTES;
                self.arena.copy_within(Span::new(under.at + offset, SECTOR_BYTES as u32), run.at + offset);
                self.copied[COPIED_GATHER] += SECTOR_BYTES;
            }
        }
    }

    fn give_run(&mut self, place: u32) {
        if let Some(run) = self.reads.get_mut(place).run.take() {
            self.read_pool.give(run);
        }
    }

    fn pin(&mut self, place: u32, segment: ibid_units::CpId) {
        let bit = 1u64 << self.geometry.slot(segment);
        if self.reads.get(place).pins & bit == 0 {
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

    fn read_ready(&mut self, now: Nanos, place: u32) {
        let slot = *self.reads.get(place);
        self.gate.leave(slot.generation);
        if let Some(scatter) = slot.scatter.filter(|_| !slot.failed) {
            self.end_scatter(place, scatter);
        }
        let Some(cmd) = slot.cmd.filter(|_| !slot.abandoned) else {
            self.finish_read(now, place);
            return;
        };
        if slot.failed {
            self.complete(cmd, Status::UNRECOVERED_READ_ERROR);
            self.finish_read(now, place);
            return;
        }
        self.times.record(Stage::Read, now.since(slot.parsed));
        let volume = &mut self.volumes[usize::from(slot.volume.get())];
        volume.reads += 1;
        volume.read_bytes += slot.sectors.bytes();
        let mut pieces = slot.pieces;
        if self.frontend.wants_data_digest(cmd) {
            for piece in &mut pieces[..slot.piece_count] {
                piece.crc = Some(self.arena.crc32c(piece.span));
            }
        }
        self.frontend.read_ready(cmd, &pieces[..slot.piece_count]);
        self.attend(cmd.conn());
    }

    /// The bytes of a read have left.
    fn released(&mut self, now: Nanos, cmd: CommandId) {
        let place = self.table(cmd).read;
        if place != NONE && self.reads.get(place).cmd == Some(cmd) {
            self.finish_read(now, place);
        }
    }

    fn finish_read(&mut self, _now: Nanos, place: u32) {
        let slot = *self.reads.get(place);
        self.give_run(place);
        if let Some(scatter) = slot.scatter {
            let under = self.scatters.get(scatter).under;
            self.read_pool.give(under);
            self.scatters.give(scatter);
        }
        for at in 0..u64::BITS {
            if slot.pins >> at & 1 == 1 {
                self.log.unpin_slot(at as usize);
            }
        }
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
}
