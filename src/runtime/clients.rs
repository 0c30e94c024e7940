//! Clients of a node, of either role: its target, their connections, what they send and hear.
//! What their commands ask for is the owner's business: it gets the target's events ([`Serve::client_event`]).
//! Not here: sockets (`driver`), the protocol (`engine::frontend`).

use crate::auth::AuthRoom;
use crate::snapshot::AuthCounters;
use ibid_driver::{Piece, StreamEvent, StreamId, StreamStop, Streams};
use ibid_engine::frontend::{
    self, CommandId, ConnId, Event, Frontend, PieceList, ReceivePlan, TargetConfig,
};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::Status;
use std::net::IpAddr;
use std::sync::Arc;

/// Receive calls for one connection in one turn, so that a busy one starves nobody.
const RECEIVES_PER_TURN: usize = 32;
/// Send calls likewise.
const SENDS_PER_TURN: usize = 16;
/// Streams that one poll of the driver may open, each of which may be refused.
const REFUSED_STREAMS: usize = 256;

/// One client connection.
#[derive(Clone, Copy, Debug, Default)]
struct Conn {
    id: Option<ConnId>,
    stream: Option<StreamId>,
    readable: bool,
    writable: bool,
    /// Something changed what it wants to send or may receive.
    attend: bool,
    /// The host sends no more.
    ended: bool,
}

/// A target and its connections.
pub(crate) struct Clients {
    /// The target.
    pub(crate) frontend: Frontend,
    conns: Vec<Conn>,
    /// No connection has a place from here on.
    used: usize,
    /// Who computes for hosts that authenticate.
    pub(crate) auth: Option<Arc<AuthRoom>>,
    /// Streams that opened in this poll and can't be taken.
    refused: Vec<StreamId>,
}

impl Clients {
    /// A target without connections; all memory is taken here.
    pub(crate) fn new(config: TargetConfig) -> Self {
        let connections_max = usize::from(config.limits.connections_max);
        Self {
            frontend: Frontend::new(config),
            conns: vec![Conn::default(); connections_max],
            used: 0,
            auth: None,
            refused: Vec::with_capacity(REFUSED_STREAMS),
        }
    }

    /// No connection is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// TCP connections that are open.
    pub(crate) fn connections(&self) -> u32 {
        self.conns.iter().filter(|conn| conn.stream.is_some()).count() as u32
    }

    /// How hosts' authentications went.
    pub(crate) fn auth_counters(&self) -> AuthCounters {
        let counters = self.frontend.counters();
        AuthCounters {
            succeeded: counters.authenticated,
            failed: counters.auth_failures,
            under_way: self.frontend.authenticating(),
        }
    }

    /// Looks at what a connection wants to send, in this turn or the next.
    pub(crate) fn attend(&mut self, conn: ConnId) {
        self.conns[conn.index()].attend = true;
    }

    /// Ends a command that carries no data back.
    pub(crate) fn complete(&mut self, cmd: CommandId, status: Status) {
        self.frontend.complete(cmd, status);
        self.attend(cmd.conn());
    }

    /// Has something computed for an authentication.
    fn authenticate(&mut self, now: Nanos, conn: ConnId) {
        let Some(job) = self.frontend.take_auth_job(conn) else { return };
        match &self.auth {
            Some(room) => room.ask(job),
            None => self.frontend.auth_computed(now, job.refuse()),
        }
    }

    /// Takes what was computed for authentications.
    fn take_computed(&mut self, now: Nanos) {
        let Some(room) = &self.auth else { return };
        while let Some(answer) = room.answer() {
            self.frontend.auth_computed(now, answer);
        }
    }

    fn conn_of(&mut self, stream: StreamId) -> Option<&mut Conn> {
        self.conns[..self.used].iter_mut().find(|conn| conn.stream == Some(stream))
    }
}

/// A shard that has clients. The steps of its turn that are the same whatever it does for them.
pub(crate) trait Serve {
    /// Its clients.
    fn clients(&mut self) -> &mut Clients;
    /// New connections are taken.
    fn takes_clients(&self) -> bool;
    /// Something the target wants done.
    fn client_event(&mut self, now: Nanos, event: Event);

    /// Takes note of what happened to streams, after waiting for it for at most `wait`; true if anything did.
    fn poll_clients<S: Streams>(&mut self, now: Nanos, wait: Nanos, streams: &mut S) -> bool {
        let mut any = false;
        let mut refused = std::mem::take(&mut self.clients().refused);
        streams.poll(wait, &mut |event| {
            any = true;
            refused.extend(self.stream_event(now, event));
        });
        for stream in refused.drain(..) {
            streams.close(stream);
        }
        self.clients().refused = refused;
        any
    }

    /// Something happened to a stream. A stream that can't be taken, or has to go, is given back to be closed.
    fn stream_event(&mut self, now: Nanos, event: StreamEvent) -> Option<StreamId> {
        match event {
            StreamEvent::Opened(stream, from) => {
                if !self.takes_clients() {
                    return Some(stream);
                }
                let evicted = self.make_room(now, from);
                let clients = self.clients();
                let Some(id) = clients.frontend.open(now, from) else { return Some(stream) };
                clients.conns[id.index()] = Conn {
                    id: Some(id),
                    stream: Some(stream),
                    readable: true,
                    writable: true,
                    attend: true,
                    ended: false,
                };
                clients.used = clients.used.max(id.index() + 1);
                self.drain_events(now);
                return evicted;
            }
            StreamEvent::Readable(stream) => {
                if let Some(conn) = self.clients().conn_of(stream) {
                    conn.readable = true;
                }
            }
            StreamEvent::Ended(stream) => {
                if let Some(conn) = self.clients().conn_of(stream) {
                    conn.readable = true;
                    conn.ended = true;
                }
            }
            StreamEvent::Writable(stream) => {
                if let Some(conn) = self.clients().conn_of(stream) {
                    conn.writable = true;
                    conn.attend = true;
                }
            }
        }
        None
    }

    /// Ends the connection that is in the way of one more from this address; its stream is given back to be closed.
    fn make_room(&mut self, now: Nanos, from: IpAddr) -> Option<StreamId> {
        let clients = self.clients();
        let victim = clients.frontend.in_the_way(from)?;
        let conn = std::mem::take(&mut clients.conns[victim.index()]);
        clients.frontend.closed(now, victim);
        self.drain_events(now);
        conn.stream
    }

    /// Receives from every connection that has something, straight into where the target wants it.
    fn receive_clients<S: Streams>(&mut self, now: Nanos, streams: &mut S) -> bool {
        let mut any = false;
        for at in 0..self.clients().used {
            for _ in 0..RECEIVES_PER_TURN {
                let clients = self.clients();
                let Conn { id: Some(id), stream: Some(stream), readable: true, .. } =
                    clients.conns[at]
                else {
                    break;
                };
                let ended = clients.conns[at].ended;
                let (asked, got) = match clients.frontend.receive_plan(id) {
                    // Its host is gone, and may be back on another connection: what it left behind must not come after what it
                    // sends there (I16).
                    ReceivePlan::Blocked if ended => {
                        any = true;
                        self.close_client(now, at, streams);
                        break;
                    }
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
                        clients.frontend.received(now, id, count);
                        clients.conns[at].attend = true;
                        self.drain_events(now);
                        // A short count has emptied the socket; what comes later is told by a new event. Only an end that was
                        // told already has none to come.
                        let conn = &mut self.clients().conns[at];
                        if count < asked && !conn.ended {
                            conn.readable = false;
                        }
                    }
                    Err(StreamStop::WouldBlock) => clients.conns[at].readable = false,
                    Err(StreamStop::Closed) => {
                        any = true;
                        self.close_client(now, at, streams);
                    }
                }
            }
        }
        any
    }

    /// Sends on every connection that has something to say.
    fn send_clients<S: Streams>(&mut self, now: Nanos, streams: &mut S) -> bool {
        let mut any = false;
        for at in 0..self.clients().used {
            for _ in 0..SENDS_PER_TURN {
                let clients = self.clients();
                let Conn { id: Some(id), stream: Some(stream), writable, attend: true, .. } =
                    clients.conns[at]
                else {
                    break;
                };
                let mut list = PieceList::new();
                clients.frontend.send_plan(id, &mut list);
                if list.is_empty() {
                    clients.conns[at].attend = false;
                    if matches!(clients.frontend.receive_plan(id), ReceivePlan::Closing) {
                        self.close_client(now, at, streams);
                    }
                    break;
                }
                if !writable {
                    // Told when there is room again.
                    clients.conns[at].attend = false;
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
                        clients.frontend.sent(id, count);
                        self.drain_events(now);
                    }
                    Err(StreamStop::WouldBlock) => clients.conns[at].writable = false,
                    Err(StreamStop::Closed) => self.close_client(now, at, streams),
                }
            }
        }
        any
    }

    /// Looks at the target's deadlines, and at what was computed for it.
    fn tick_clients(&mut self, now: Nanos) {
        self.clients().frontend.tick(now);
        self.clients().take_computed(now);
        self.drain_events(now);
    }

    /// Gives the owner every event of the target.
    fn drain_events(&mut self, now: Nanos) {
        while let Some(event) = self.clients().frontend.poll_event() {
            match event {
                Event::Attend { conn } => self.clients().attend(conn),
                Event::Authenticate { conn } => self.clients().authenticate(now, conn),
                event => self.client_event(now, event),
            }
        }
    }

    /// Ends the connection in a place of the table.
    fn close_client<S: Streams>(&mut self, now: Nanos, at: usize, streams: &mut S) {
        let clients = self.clients();
        let conn = std::mem::take(&mut clients.conns[at]);
        if let Some(id) = conn.id {
            clients.frontend.closed(now, id);
            self.drain_events(now);
        }
        if let Some(stream) = conn.stream {
            streams.close(stream);
        }
        let clients = self.clients();
        while clients.used > 0 && clients.conns[clients.used - 1].id.is_none() {
            clients.used -= 1;
        }
    }

    /// Ends every connection.
    fn close_clients<S: Streams>(&mut self, now: Nanos, streams: &mut S) {
        for at in 0..self.clients().conns.len() {
            self.close_client(now, at, streams);
        }
    }
}
