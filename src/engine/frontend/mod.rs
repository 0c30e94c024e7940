//! The NVMe/TCP target: everything a host says and hears, for all connections of one shard.
//! Takes bytes that arrived and answers of the shard; gives [`Event`]s, a plan where the next bytes go ([`ReceivePlan`]) and a
//! plan of what to send ([`PieceList`]). Payload never passes through: plans name [`Span`]s of the arena.
//!
//! Rule of use: after every call that takes `&mut self`, drain [`Frontend::poll_event`] fully.
//!
//! FE-1  no payload byte of the next PDU lands in a header buffer: a plan never asks for more than the header that must follow.
//! FE-2  a slot stands at most once in its connection's transmit queue, so the queue never outgrows the slots.
//! FE-3  a span is written to only between `place_write` and the last `Arrived`, `complete` or `closed` of its command.
//! FE-4  every read that got pieces gives exactly one `Released`.
//! FE-5  once a connection begins to close, no command of it is the shard's any more: each was abandoned before the call ended.
//! FE-6  a fused write is told with the compare of the same range that came directly before it on its queue, or not at all.
//!
//! Not here: sockets (`driver`), payload digests (`runtime`), the log and the volumes, the arithmetic of authentication (`chap`), and who
//! may be reached by which path ([`Frontend::set_access`] is told).

mod access;
mod admin;
mod admission;
mod audit;
mod auth;
mod auth_commands;
mod command;
mod config;
mod connection;
mod controller;
mod deadline;
mod discovery;
mod events;
mod fabrics;
mod features;
mod fused;
mod identify;
mod io;
mod logs;
mod receive;
mod stage;
mod transmit;

#[cfg(test)]
mod tests;

pub use auth_commands::{AuthAnswer, AuthJob};
pub use config::{
    AuthConfig, HostAuth, Limits, NamespaceConfig, REFERRALS_MAX, Referral, TargetConfig,
};
pub use ibid_wire::nvme_tcp::AnaState;
pub use stage::{Piece, PieceList, SEND_PIECES_MAX};

use access::Access;
use admission::Places;
use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use auth::HostKeys;
use connection::{Connection, Phase, State, To};
use controller::{Controller, Host};
use core::net::IpAddr;
use ibid_units::{Nanos, Sector, Sectors, Span, VolumeId};
use ibid_wire::nvme_tcp::{IDENTIFY_BYTES, Status};

/// Pieces that one read may be answered with.
pub const READ_PIECES_MAX: usize = 16;

/// One TCP connection; reused after [`Frontend::closed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ConnId(u16);

impl ConnId {
    /// Its place among [`Limits::connections_max`], for tables beside the frontend.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One command of one connection. Carries a generation: an answer to a command that is gone does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct CommandId {
    conn: u16,
    slot: u16,
    generation: u32,
}

impl CommandId {
    /// The connection it came on.
    pub const fn conn(self) -> ConnId {
        ConnId(self.conn)
    }
    /// The command's place among the [`Limits::queue_depth_max`] of its connection, for tables beside the frontend.
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

/// Where the next bytes of a connection go.
#[derive(PartialEq, Eq, Debug)]
pub enum ReceivePlan<'a> {
    /// Receive into `payload` first and into `head` behind it, in one call.
    Receive {
        /// A run of the arena, if client data is due.
        payload: Option<Span>,
        /// Never empty.
        head: &'a mut [u8],
    },
    /// Data of a write comes next and the write has no pages yet: leave the bytes in the socket until an answer of the shard.
    Blocked,
    /// Nothing is received any more: send what [`Frontend::send_plan`] still holds, then close.
    Closing,
}

/// A part of a read's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadPiece {
    /// Where the bytes lie.
    pub span: Span,
    /// Their CRC32C; must be there when [`Frontend::wants_data_digest`].
    pub crc: Option<u32>,
}

/// What the shard has to know or do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A write wants pages: answer [`Frontend::place_write`], or [`Frontend::complete`] with an error.
    Write {
        /// The command.
        cmd: CommandId,
        /// Where to.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// Length.
        sectors: Sectors,
        /// Force unit access.
        fua: bool,
        /// The compare that this write is fused with: it takes effect only if that finds no difference, and as one with it. Both
        /// are answered.
        fused: Option<CommandId>,
    },
    /// A compare wants memory for the host's data: answer [`Frontend::place_write`], or [`Frontend::complete`] with an error.
    Compare {
        /// The command.
        cmd: CommandId,
        /// With what.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// Length.
        sectors: Sectors,
        /// Its data is in the capsule: nothing more is received on its connection before it is placed.
        inline: bool,
        /// A write follows that it decides about, or [`Event::Abandoned`] if none does.
        fused: bool,
    },
    /// A run is to be read and checked, and nothing sent: answer [`Frontend::complete`].
    Verify {
        /// The command.
        cmd: CommandId,
        /// Which volume.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// Length.
        sectors: Sectors,
    },
    /// Data of a write or compare is in place. After the last one the shard logs the write, or compares, and then calls
    /// [`Frontend::complete`].
    Arrived {
        /// The command.
        cmd: CommandId,
        /// The part of the placed span that was filled.
        span: Span,
        /// The CRC32C the host sent over it, to be compared by the shard ([`Frontend::digest_is_wrong`]).
        digest: Option<u32>,
        /// Nothing is missing any more.
        last: bool,
    },
    /// A read: answer [`Frontend::read_ready`], or [`Frontend::complete`] with an error.
    Read {
        /// The command.
        cmd: CommandId,
        /// Where from.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// Length.
        sectors: Sectors,
    },
    /// Make everything completed durable: answer [`Frontend::complete`].
    Flush {
        /// The command.
        cmd: CommandId,
        /// Which volume.
        volume: VolumeId,
    },
    /// Make a run read as zeroes: answer [`Frontend::complete`] once for each of these, also where several have the same `cmd`
    /// (one Dataset Management command has up to 256 ranges).
    Zeroes {
        /// The command.
        cmd: CommandId,
        /// Which volume.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// Length.
        sectors: Sectors,
        /// The run's space may be given back.
        deallocate: bool,
    },
    /// All pieces of a read have been handed to the stream, or never will be: their pages may be unpinned.
    Released {
        /// The command.
        cmd: CommandId,
    },
    /// The connection of a command is gone, or goes: its host may be back at any time. Or it was a fused compare whose write did not
    /// come. What has no place in the order of writes must be
    /// dropped; anything else may run on, its answer is ignored.
    Abandoned {
        /// The command.
        cmd: CommandId,
    },
    /// Something is to be computed for an authentication: take it ([`Frontend::take_auth_job`]), and bring what came of it
    /// ([`Frontend::auth_computed`]).
    Authenticate {
        /// The connection.
        conn: ConnId,
    },
    /// Something other than its own traffic (a deadline, a reset) changed what a connection wants: look at its plans.
    Attend {
        /// The connection.
        conn: ConnId,
    },
}

/// What a frontend counts since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Read, compare and verify commands taken.
    pub reads: u64,
    /// Write commands taken.
    pub writes: u64,
    /// Sectors of them.
    pub read_sectors: u64,
    /// Sectors of those writes.
    pub written_sectors: u64,
    /// Connections given up because the host broke the protocol.
    pub protocol_errors: u64,
    /// Connections given up at a deadline.
    pub deadlines_missed: u64,
    /// Writes and compares whose data digest was wrong.
    pub digest_errors: u64,
    /// Connections that authenticated.
    pub authenticated: u64,
    /// Authentications that failed.
    pub auth_failures: u64,
}

/// The target of one shard.
pub struct Frontend {
    config: TargetConfig,
    connections: Vec<Connection>,
    places: Places,
    controllers: Vec<Controller>,
    /// The hosts that have controllers.
    hosts: Vec<Host>,
    controller_id_next: u16,
    /// By the place of the host in the configuration.
    host_keys: Vec<HostKeys>,
    /// The next sequence number of a challenge; 0 before the first.
    auth_seqnum: u32,
    events: VecDeque<Event>,
    events_max: usize,
    access: Access,
    /// Where small structures are rendered before a part of them is staged.
    scratch: Box<[u8; IDENTIFY_BYTES]>,
    counters: Counters,
    now: Nanos,
    /// No deadline lies before this.
    next: Nanos,
}

impl Frontend {
    /// A target without connections; all its memory is taken here.
    ///
    /// # Panics
    /// If the configuration is outside of the bounds that [`TargetConfig`] and [`Limits`] state.
    pub fn new(config: TargetConfig) -> Self {
        config.check();
        let limits = config.limits;
        // One call gives at most two events per slot (controllers that end take all their queues with them), a range event per range
        // of one command, and three `Attend` per connection (its own deadline, its controller's or what a change of access has to tell, a
        // failure that is due).
        let slots = usize::from(limits.connections_max) * usize::from(limits.queue_depth_max);
        let events_max = slots * 2
            + io::RANGES_MAX
            + usize::from(limits.connections_max) * 3
            + usize::from(limits.controllers_max);
        Self {
            connections: (0..limits.connections_max).map(|_| Connection::new(&limits)).collect(),
            places: Places::new(limits.connections_max),
            controllers: (0..limits.controllers_max).map(|_| Controller::default()).collect(),
            hosts: (0..limits.controllers_max).map(|_| Host::default()).collect(),
            controller_id_next: config.controller_ids.0,
            host_keys: (config.auth.hosts.iter())
                .map(|host| HostKeys::new(host, &config.nqn))
                .collect(),
            auth_seqnum: 0,
            events: VecDeque::with_capacity(events_max),
            events_max,
            access: Access::new(config.namespaces.len(), config.access),
            scratch: Box::new([0; IDENTIFY_BYTES]),
            counters: Counters::default(),
            now: Nanos::ZERO,
            next: Nanos::NEVER,
            config,
        }
    }

    /// Takes a TCP connection in. `None`: there are too many, close it. Before that, [`Frontend::in_the_way`] names who could go for it.
    pub fn open(&mut self, now: Nanos, from: IpAddr) -> Option<ConnId> {
        self.now = now;
        let c = self.take_place(from)?;
        self.connections[c].state = State::AwaitsIcReq;
        self.set_handshake_deadline(c, now);
        Some(ConnId(c as u16))
    }

    /// The socket is gone, whoever closed it. Every command of it ends here.
    pub fn closed(&mut self, now: Nanos, conn: ConnId) {
        self.now = now;
        let c = conn.index();
        if self.connections[c].state == State::Free {
            return;
        }
        for slot in 0..self.connections[c].slots.len() as u16 {
            if self.connections[c].slots[usize::from(slot)].pinned {
                let cmd = self.command_id(c, slot);
                self.push(Event::Released { cmd });
            }
        }
        self.abandon(c);
        self.leave_controller(c);
        self.connections[c].reset();
        self.places.give(c);
    }

    /// The next thing the shard has to know. Drain it fully after every call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What was counted since start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether the connection of a command has data digests on: its read pieces need their CRC32C.
    pub fn wants_data_digest(&self, cmd: CommandId) -> bool {
        self.connections[usize::from(cmd.conn)].data_digest
    }

    /// Gives a write, or a compare, memory for its data. In-capsule data flows there with the next receive; for other data an R2T goes
    /// out.
    ///
    /// # Panics
    /// If the span's length is not the data's.
    pub fn place_write(&mut self, cmd: CommandId, span: Span) {
        let Some((c, slot)) = self.find(cmd) else {
            return;
        };
        let connection = &mut self.connections[c];
        if connection.state == State::Closing {
            return;
        }
        let entry = &mut connection.slots[usize::from(slot)];
        let Phase::AwaitsPages { bytes, inline } = entry.phase else {
            return;
        };
        assert!(span.len == bytes, "a write of {bytes} bytes got {} bytes of pages", span.len);
        if inline {
            entry.phase = Phase::Filling;
            connection.place_body(span);
        } else {
            entry.phase = Phase::AwaitsR2t { span };
            self.enqueue(c, slot);
        }
        self.set_data_deadline(c, false);
    }

    /// Gives a write whose data is still coming other pages, into which the shard has copied what is here already.
    ///
    /// # Panics
    /// If the span's length is not the write's.
    pub fn move_write(&mut self, cmd: CommandId, span: Span) {
        let Some((c, slot)) = self.find(cmd) else {
            return;
        };
        let connection = &mut self.connections[c];
        let entry = &mut connection.slots[usize::from(slot)];
        match &mut entry.phase {
            Phase::AwaitsR2t { span: old } => {
                assert!(old.len == span.len, "a write moves to pages of its length");
                *old = span;
            }
            Phase::Filling => {
                let mut start = None;
                if let Some(transfer) = &mut entry.r2t {
                    assert!(transfer.span.len == span.len, "a write moves to pages of its length");
                    start = Some(transfer.span.at);
                    transfer.span = span;
                }
                if let Some(body) = &mut connection.body
                    && body.slot == slot
                    && let To::Arena { whole } = &mut body.to
                {
                    // Data in the capsule is the write's whole data.
                    whole.at = span.at + start.map_or(0, |start| whole.at - start);
                }
            }
            _ => {}
        }
    }

    /// Answers a read with the pieces that make up its data, in order. Late answers are released at once.
    ///
    /// # Panics
    /// If there are no pieces or too many, or they are not the read's length, or a digest is wanted and missing.
    pub fn read_ready(&mut self, cmd: CommandId, pieces: &[ReadPiece]) {
        let Some((c, slot)) = self.find(cmd) else {
            self.push(Event::Released { cmd });
            return;
        };
        let connection = &mut self.connections[c];
        let entry = &mut connection.slots[usize::from(slot)];
        let Phase::Reading { bytes } = entry.phase else {
            self.push(Event::Released { cmd });
            return;
        };
        assert!(
            (1..=READ_PIECES_MAX).contains(&pieces.len()),
            "a read is answered with {} pieces",
            pieces.len()
        );
        let sum: u64 = pieces.iter().map(|piece| u64::from(piece.span.len)).sum();
        assert!(sum == u64::from(bytes), "a read of {bytes} bytes is answered with {sum}");
        if connection.data_digest {
            assert!(pieces.iter().all(|piece| piece.crc.is_some()), "a piece has no digest");
        }
        connection.pieces[usize::from(slot)][..pieces.len()].copy_from_slice(pieces);
        entry.phase = Phase::Sending { count: pieces.len() as u8, next: 0, offset: 0 };
        entry.pinned = true;
        self.enqueue(c, slot);
    }

    /// A read that was answered and has not left yet gets other pieces with the same bytes, one for each it had; those are released.
    ///
    /// # Panics
    /// If a piece's length is not what it was.
    pub fn move_read(&mut self, cmd: CommandId, pieces: &[ReadPiece]) {
        let Some((c, slot)) = self.find(cmd) else {
            return;
        };
        let connection = &mut self.connections[c];
        if !connection.slots[usize::from(slot)].pinned {
            return;
        }
        let old = &mut connection.pieces[usize::from(slot)];
        for (old, new) in old.iter().zip(pieces) {
            assert!(old.span.len == new.span.len, "a read moves to pieces of its lengths");
        }
        connection.stage.move_spans(slot, |span| {
            let at = old[..pieces.len()].iter().position(|piece| piece.span == span);
            pieces[at.expect("what is staged of a read is a piece of it")].span
        });
        old[..pieces.len()].copy_from_slice(pieces);
    }

    /// How long the host of a connection has taken nothing of what waits for it.
    pub fn stalled_for(&self, now: Nanos, conn: ConnId) -> Nanos {
        let due = self.connections[conn.index()].send_deadline;
        if due == Nanos::NEVER {
            return Nanos::ZERO;
        }
        Nanos::new((now.get() + deadline::SEND_LIMIT.get()).saturating_sub(due.get()))
    }

    /// Ends a connection whose host takes nothing, before its time: others need what it keeps.
    pub fn give_up(&mut self, now: Nanos, conn: ConnId) {
        self.now = now;
        let c = conn.index();
        if !matches!(self.connections[c].state, State::Free | State::Closing) {
            self.counters.deadlines_missed += 1;
            self.begin_close(c);
        }
        self.connections[c].stage_is_lost();
        self.push(Event::Attend { conn });
    }

    /// The host a command is of: its place among [`Limits::controllers_max`], for tables beside the frontend.
    pub fn host_of(&self, cmd: CommandId) -> usize {
        self.connections[usize::from(cmd.conn)].host.into()
    }

    /// Ends a command that carries no data back. Of a write whose data is still coming the rest is thrown away first.
    pub fn complete(&mut self, cmd: CommandId, status: Status) {
        let Some((c, slot)) = self.find(cmd) else {
            return;
        };
        let entry = &mut self.connections[c].slots[usize::from(slot)];
        match entry.phase {
            Phase::AwaitsPages { inline: false, .. }
            | Phase::AwaitsR2t { .. }
            | Phase::AtShard
            | Phase::Reading { .. } => {
                self.respond(c, slot, status, 0);
            }
            Phase::AwaitsPages { inline: true, .. } | Phase::Filling => {
                entry.phase = Phase::Draining { status };
                self.connections[c].discard_body(slot);
                self.set_data_deadline(c, false);
            }
            Phase::Ranges { left, worst } => {
                let worst = if worst.is_success() { status } else { worst };
                if left > 1 {
                    entry.phase = Phase::Ranges { left: left - 1, worst };
                } else {
                    self.respond(c, slot, worst, 0);
                }
            }
            Phase::Free
            | Phase::AwaitsData { .. }
            | Phase::Draining { .. }
            | Phase::Sending { .. }
            | Phase::Reply { .. }
            | Phase::Held
            | Phase::AwaitsAuth
            | Phase::Responding { .. }
            | Phase::Leaving => {}
        }
    }

    /// The digest that came with data is not the data's: the command fails with 0/22h once its data is drained.
    /// The shard forgets the command as if it had completed it.
    pub fn digest_is_wrong(&mut self, cmd: CommandId) {
        if self.find(cmd).is_some() {
            self.counters.digest_errors += 1;
            self.complete(cmd, Status::TRANSIENT_TRANSPORT_ERROR);
        }
    }

    fn push(&mut self, event: Event) {
        if let Event::Write { volume, .. }
        | Event::Read { volume, .. }
        | Event::Compare { volume, .. }
        | Event::Verify { volume, .. }
        | Event::Zeroes { volume, .. }
        | Event::Flush { volume, .. } = event
        {
            let refusal = self.access_refusal(volume);
            assert!(
                refusal.is_none(),
                "ANA-1: the shard is told of a command to what is {refusal:?}"
            );
        }
        assert!(self.events.len() < self.events_max, "events were not drained");
        self.events.push_back(event);
    }

    fn command_id(&self, c: usize, slot: u16) -> CommandId {
        CommandId {
            conn: c as u16,
            slot,
            generation: self.connections[c].slots[usize::from(slot)].generation,
        }
    }

    /// The place of a command that still lives.
    fn find(&self, cmd: CommandId) -> Option<(usize, u16)> {
        let c = usize::from(cmd.conn);
        let slot = &self.connections[c].slots[usize::from(cmd.slot)];
        (slot.generation == cmd.generation && slot.phase != Phase::Free).then_some((c, cmd.slot))
    }
}
