//! Clients of the source: their connections, what they send and hear, and where their commands go: see `writes` and `reads`.

use super::Core;
use ibid_driver::{Disk, Piece, StreamEvent, StreamId, StreamStop, Streams};
use ibid_engine::frontend::{self, CommandId, ConnId, Event, PieceList, ReceivePlan};
use ibid_units::Nanos;
use ibid_wire::disk::EntryKind;
use ibid_wire::nvme_tcp::Status;

/// Receive calls for one connection in one turn, so that a busy one starves nobody.
const RECEIVES_PER_TURN: usize = 32;
/// Send calls likewise.
const SENDS_PER_TURN: usize = 16;

/// No place in a table.
pub(super) const NONE: u32 = u32::MAX;

/// One client connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conn {
    pub(super) id: Option<ConnId>,
    pub(super) stream: Option<StreamId>,
    readable: bool,
    writable: bool,
    /// Something changed what it wants to send or may receive.
    attend: bool,
    /// The host sends no more.
    ended: bool,
}

/// The command's place in tables beside the frontend.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandTable {
    pub(super) write: u32,
    pub(super) read: u32,
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
                self.conns[id.index()] = Conn {
                    id: Some(id),
                    stream: Some(stream),
                    readable: true,
                    writable: true,
                    attend: true,
                    ended: false,
                };
                self.conns_used = self.conns_used.max(id.index() + 1);
                self.drain_events(now);
            }
            StreamEvent::Readable(stream) => {
                if let Some(conn) = self.conn_of(stream) {
                    conn.readable = true;
                }
            }
            StreamEvent::Ended(stream) => {
                if let Some(conn) = self.conn_of(stream) {
                    conn.readable = true;
                    conn.ended = true;
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
        self.conns[..self.conns_used].iter_mut().find(|conn| conn.stream == Some(stream))
    }

    /// Receives from every connection that has something, straight into log pages.
    pub(super) fn receive_clients<S: Streams>(&mut self, now: Nanos, streams: &mut S) -> bool {
        let mut any = false;
        for at in 0..self.conns_used {
            for _ in 0..RECEIVES_PER_TURN {
                let Conn { id: Some(id), stream: Some(stream), readable: true, .. } =
                    self.conns[at]
                else {
                    break;
                };
                let (asked, got) = match self.frontend.receive_plan(id) {
                    // What is in the socket is still there when the plan becomes one that receives.
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
                        // A short count has emptied the socket; what comes later is told by a new event. Only an end that was
                        // told already has none to come.
                        if count < asked && !self.conns[at].ended {
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
        while self.conns_used > 0 && self.conns[self.conns_used - 1].id.is_none() {
            self.conns_used -= 1;
        }
    }

    pub(super) fn close_all<S: Streams>(&mut self, now: Nanos, streams: &mut S) {
        for at in 0..self.conns.len() {
            self.close_conn(now, at, streams);
        }
    }

    /// No write of a client is on its way into the log.
    pub(super) fn frontend_is_quiet(&self) -> bool {
        self.waiting_writes.is_empty() && self.waiting_large.is_empty() && self.late.is_empty()
    }

    /// Sends on every connection that has something to say.
    pub(super) fn send_clients<S: Streams>(&mut self, now: Nanos, streams: &mut S) -> bool {
        let mut any = false;
        for at in 0..self.conns_used {
            for _ in 0..SENDS_PER_TURN {
                let Conn {
                    id: Some(id), stream: Some(stream), writable: true, attend: true, ..
                } = self.conns[at]
                else {
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

    pub(super) fn table(&mut self, cmd: CommandId) -> &mut CommandTable {
        &mut self.command_table[cmd.conn().index() * self.queue_depth + cmd.slot()]
    }

    pub(super) fn attend(&mut self, conn: ConnId) {
        self.conns[conn.index()].attend = true;
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
                Event::Arrived { cmd, span, digest, last } => {
                    self.arrived(now, cmd, span, digest, last)
                }
                Event::Read { cmd, volume, first, sectors } => {
                    self.read_came(now, cmd, volume, first, sectors)
                }
                // Nothing is volatile: whatever was completed is durable on both nodes already.
                Event::Flush { cmd, .. } => self.complete(cmd, Status::SUCCESS),
                Event::Released { cmd } => self.released(now, cmd),
                Event::Abandoned { cmd } => self.abandoned(now, cmd),
                Event::Attend { conn } => self.attend(conn),
            }
        }
    }

    pub(super) fn complete(&mut self, cmd: CommandId, status: Status) {
        self.frontend.complete(cmd, status);
        self.attend(cmd.conn());
    }

    fn abandoned(&mut self, now: Nanos, cmd: CommandId) {
        let CommandTable { write, read } = *self.table(cmd);
        if write != NONE {
            self.abandon_write(now, cmd, write);
        }
        if read != NONE {
            self.abandon_read(cmd, read);
        }
    }
}
