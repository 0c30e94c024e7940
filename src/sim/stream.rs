//! Byte streams in memory: arrive in pieces, have little room, end at any byte. Events are told once, as epoll's edges are.

use crate::SOURCE;
use crate::effects::{Effect, Effects};
use crate::guard;
use crate::random::Random;
use ibid_driver::{Arena, Piece, StreamEvent, StreamId, StreamStop, Streams};
use ibid_units::{Nanos, Span};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that the target may have sent and the host not read.
const ROOM: usize = 48 << 10;

#[derive(Default)]
struct Socket {
    /// Sent by the host, not there yet.
    coming: VecDeque<u8>,
    /// There for the target.
    here: VecDeque<u8>,
    /// Sent by the target.
    back: VecDeque<u8>,
    host_open: bool,
    /// The end has come behind what is here.
    ended: bool,
    target_open: bool,
    opened_told: bool,
    readable: bool,
    wants_room: bool,
    writable: bool,
}

impl Socket {
    /// The end has come. Whoever waits for room will have none: a real stack answers with a reset, which counts as room.
    fn end(&mut self) {
        self.ended = true;
        self.writable |= std::mem::take(&mut self.wants_room);
    }
}

/// All connections between hosts and target.
pub struct Sockets {
    random: Random,
    sockets: Vec<Socket>,
    /// Bytes arrive in pieces of at most so many; 0: at once.
    pub pieces: u64,
    /// Connections that the target gave up at once.
    pub open_to_target: usize,
    /// How often the target has looked whether something came.
    pub looks: u64,
    pub effects: Effects,
}

impl Sockets {
    pub fn new(random: Random, pieces: u64) -> Rc<RefCell<Sockets>> {
        Rc::new(RefCell::new(Sockets {
            random,
            sockets: Vec::new(),
            pieces,
            open_to_target: 0,
            looks: 0,
            effects: Effects::default(),
        }))
    }

    /// A host connects.
    pub fn connect(&mut self) -> usize {
        let fresh = Socket { host_open: true, target_open: true, ..Socket::default() };
        self.open_to_target += 1;
        match self.sockets.iter().position(|socket| !socket.host_open && !socket.target_open) {
            Some(at) => {
                self.sockets[at] = fresh;
                at
            }
            None => {
                self.sockets.push(fresh);
                self.sockets.len() - 1
            }
        }
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.sockets[at].coming.extend(bytes);
    }

    /// What the target sent; `None` when it has closed and everything was read.
    pub fn read(&mut self, at: usize, out: &mut Vec<u8>) -> bool {
        let socket = &mut self.sockets[at];
        let (front, back) = socket.back.as_slices();
        out.extend_from_slice(front);
        out.extend_from_slice(back);
        socket.back.clear();
        if socket.wants_room {
            socket.wants_room = false;
            socket.writable = true;
        }
        socket.target_open
    }

    /// The target is gone, and every connection with it.
    pub fn forget(&mut self) {
        self.sockets.clear();
        self.open_to_target = 0;
    }

    /// The target's process is gone: its end of every connection is closed, what it had not read is lost.
    pub fn target_is_gone(&mut self) {
        for socket in &mut self.sockets {
            socket.target_open = false;
            socket.here.clear();
            socket.coming.clear();
        }
        self.open_to_target = 0;
    }

    pub fn is_open_at_target(&self, at: usize) -> bool {
        self.sockets[at].target_open
    }

    /// The host is gone; what it sent still arrives.
    pub fn close(&mut self, at: usize) {
        self.sockets[at].host_open = false;
    }

    /// Moves bytes on their way; true if there were any.
    pub fn deliver(&mut self) -> bool {
        let mut any = false;
        for socket in &mut self.sockets {
            if socket.coming.is_empty() {
                if !socket.host_open && !socket.ended && socket.target_open {
                    socket.end();
                    socket.readable = true;
                    any = true;
                }
                continue;
            }
            let most = if self.pieces == 0 { u64::MAX } else { 1 + self.random.below(self.pieces) };
            let count = socket.coming.len().min(usize::try_from(most).unwrap_or(usize::MAX));
            let (front, back) = socket.coming.as_slices();
            let split = front.len().min(count);
            socket.here.extend(&front[..split]);
            socket.here.extend(&back[..count - split]);
            socket.coming.drain(..count);
            // The end may come with the last bytes, under one event.
            if socket.coming.is_empty() && !socket.host_open {
                socket.end();
            }
            socket.readable = true;
            any = true;
        }
        any
    }

    fn receive(
        &mut self,
        id: StreamId,
        arena: &Arena,
        payload: Option<Span>,
        head: &mut [u8],
    ) -> Result<usize, StreamStop> {
        let socket = &mut self.sockets[usize::from(id.0)];
        assert!(socket.target_open, "a closed stream is read");
        if socket.here.is_empty() {
            return Err(if socket.ended { StreamStop::Closed } else { StreamStop::WouldBlock });
        }
        let span = payload.unwrap_or_default();
        let first = socket.here.len().min(span.len as usize);
        let (front, back) = socket.here.as_slices();
        let split = front.len().min(first);
        arena.copy_in(span.at, &front[..split]);
        arena.copy_in(span.at + split as u64, &back[..first - split]);
        socket.here.drain(..first);
        let second = socket.here.len().min(head.len());
        for (place, byte) in head.iter_mut().zip(socket.here.drain(..second)) {
            *place = byte;
        }
        Ok(first + second)
    }

    fn send(
        &mut self,
        id: StreamId,
        arena: &Arena,
        pieces: &[Piece<'_>],
    ) -> Result<usize, StreamStop> {
        if self.effects.is_dead(SOURCE) {
            let bytes = |piece: &Piece<'_>| match piece {
                Piece::Bytes(bytes) => bytes.len(),
                Piece::Span(span) => span.len as usize,
            };
            return Ok(pieces.iter().map(bytes).sum());
        }
        let Self { sockets, random, .. } = self;
        let socket = &mut sockets[usize::from(id.0)];
        assert!(socket.target_open, "a closed stream is written");
        if socket.ended {
            return Err(StreamStop::Closed);
        }
        let mut room = ROOM - socket.back.len();
        if room > 1 && random.chance(100) {
            room = 1 + random.below(room as u64) as usize;
        }
        let mut sent = 0;
        for piece in pieces {
            let left = room - sent;
            match piece {
                Piece::Bytes(bytes) => {
                    let count = bytes.len().min(left);
                    socket.back.extend(&bytes[..count]);
                    sent += count;
                }
                Piece::Span(span) => {
                    let part = span.first(u32::try_from(left).expect("little room"));
                    socket.back.extend(&*arena.bytes(part));
                    sent += part.len as usize;
                }
            }
        }
        if sent == 0 {
            socket.wants_room = true;
            return Err(StreamStop::WouldBlock);
        }
        self.effects.mark(SOURCE, Effect::Answered);
        Ok(sent)
    }
}

/// The driver a source holds.
pub struct MemStreams {
    pub sockets: Rc<RefCell<Sockets>>,
    pub arena: Arc<Arena>,
}

/// Where all hosts are.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl Streams for MemStreams {
    fn poll(&mut self, _wait: Nanos, sink: &mut dyn FnMut(StreamEvent)) {
        self.sockets.borrow_mut().looks += 1;
        let count = self.sockets.borrow().sockets.len();
        for at in 0..count {
            let id = StreamId(u16::try_from(at).expect("few connections"));
            let events = {
                let socket = &mut self.sockets.borrow_mut().sockets[at];
                if !socket.target_open {
                    continue;
                }
                let opened = !std::mem::replace(&mut socket.opened_told, true);
                let readable = std::mem::take(&mut socket.readable);
                [
                    opened.then_some(StreamEvent::Opened(id, HOST)),
                    (readable && !opened).then_some(StreamEvent::Readable(id)),
                    (readable && socket.ended).then_some(StreamEvent::Ended(id)),
                    std::mem::take(&mut socket.writable).then_some(StreamEvent::Writable(id)),
                ]
            };
            for event in events.into_iter().flatten() {
                sink(event);
            }
        }
    }
    fn receive(
        &mut self,
        id: StreamId,
        payload: Option<Span>,
        head: &mut [u8],
    ) -> Result<usize, StreamStop> {
        guard::world(|| self.sockets.borrow_mut().receive(id, &self.arena, payload, head))
    }
    fn send(&mut self, id: StreamId, pieces: &[Piece<'_>]) -> Result<usize, StreamStop> {
        guard::world(|| self.sockets.borrow_mut().send(id, &self.arena, pieces))
    }
    fn close(&mut self, id: StreamId) {
        guard::world(|| {
            let sockets = &mut *self.sockets.borrow_mut();
            sockets.open_to_target -= 1;
            let socket = &mut sockets.sockets[usize::from(id.0)];
            assert!(socket.target_open, "a stream is closed once");
            socket.target_open = false;
            socket.here.clear();
            socket.coming.clear();
        });
    }
}
