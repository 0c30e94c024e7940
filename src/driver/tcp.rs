//! Client connections over the kernel's TCP, non-blocking, told by an edge-triggered epoll.
//! Takes listening addresses at start; gives [`Streams`]: bytes go from the socket into a span of the arena and back in one
//! system call each. Knows no protocol. Also waits for other descriptors (a disk's), so that an idle shard needs one wait.
//!
//! TCP-1  At most `connections_max` connections are open; one more is accepted and closed at once, so that its client
//!        learns it now and the listener's queue can't fill with it. (Whoever closes old ones for new ones needs
//!        [`ACCEPTS_MAX`] more than it keeps.)
//! TCP-2  An event belongs to the connection that has the id now: a closed socket has left epoll before its id is reused,
//!        and ids change hands only between polls or by an accept, which is shown before anything of that connection.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use ibid_units::{Nanos, Span};

use crate::{Arena, Piece, StreamEvent, StreamId, StreamStop, Streams};

/// Pieces that one send takes; of more, a prefix goes. Twice the 16 pieces of a read reply, each with header and digest,
/// and some.
pub const SEND_PIECES_MAX: usize = 64;
/// Events taken in one poll; the rest waits in epoll.
const EVENTS_MAX: usize = 64;
/// Connections accepted in one poll, so that a storm of them doesn't hold up those that are there.
pub const ACCEPTS_MAX: usize = 16;
/// Connections that the kernel keeps until they are accepted. The standard library's 128 overflow in a storm while the shard is busy
/// or off its core, and a host whose SYN is dropped then comes back after a second.
const BACKLOG: i32 = 1024;
/// How long sent bytes may stay unacknowledged, or wait for a window that stays closed, before the kernel gives a connection up: the
/// other side is gone. As long as the target waits for a host that takes nothing.
const USER_TIMEOUT_MS: u32 = 30_000;
/// Unread bytes thrown away at a close, as many system calls of 64 KiB: see [`TcpStreams::close`].
const DISCARDS_MAX: usize = 16;
const DISCARD_BYTES: usize = 64 << 10;

/// The listeners of a shard and the connections made through them.
pub struct TcpStreams {
    epoll: OwnedFd,
    arena: Arc<Arena>,
    listeners: Vec<TcpListener>,
    streams: Vec<Option<Stream>>,
    free: Vec<u16>,
    /// Given up for a moment when descriptors run out, to accept a connection and close it (else epoll tells of it forever).
    spare: Option<OwnedFd>,
    refused_count: u64,
}

struct Stream {
    socket: TcpStream,
    /// A send had said `WouldBlock`, and nobody was told of room since.
    wants_room: bool,
}

/// What an epoll entry stands for, in the upper half of its 64 bits; the lower half is an index.
const STREAM: u64 = 0;
const LISTENER: u64 = 1 << 32;
const WATCHED: u64 = 2 << 32;

impl TcpStreams {
    /// Listens on every address (port 0: any free one, see [`TcpStreams::addresses`]) for up to `connections_max` clients.
    pub fn listen(
        addresses: impl ToSocketAddrs,
        arena: Arc<Arena>,
        connections_max: u16,
    ) -> io::Result<TcpStreams> {
        // SAFETY: takes a flag, gives a descriptor or -1.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let mut streams = TcpStreams {
            epoll,
            arena,
            listeners: Vec::new(),
            streams: (0..connections_max).map(|_| None).collect(),
            free: (0..connections_max).rev().collect(),
            spare: spare(),
            refused_count: 0,
        };
        for address in addresses.to_socket_addrs()? {
            // The standard library sets SO_REUSEADDR, so a restart needn't wait for old connections' TIME_WAIT.
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            deepen(&listener)?;
            let tag = LISTENER | streams.listeners.len() as u64;
            streams.add(listener.as_raw_fd(), libc::EPOLLIN, tag)?;
            streams.listeners.push(listener);
        }
        if streams.listeners.is_empty() {
            return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        }
        Ok(streams)
    }

    /// The addresses listened on, with the ports the system chose.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Ends a wait also when this descriptor becomes readable. Whoever owns it keeps it open, and sees to it itself.
    pub fn watch(&mut self, descriptor: RawFd) -> io::Result<()> {
        self.add(descriptor, libc::EPOLLIN, WATCHED)
    }

    /// Who is at the other end; `None` if it is gone.
    pub fn peer(&self, id: StreamId) -> Option<SocketAddr> {
        self.streams.get(usize::from(id.0))?.as_ref()?.socket.peer_addr().ok()
    }

    /// Connections that are open.
    pub fn open_count(&self) -> usize {
        self.streams.len() - self.free.len()
    }

    /// Connections that were closed at once because there were too many.
    pub fn refused_count(&self) -> u64 {
        self.refused_count
    }

    fn add(&self, descriptor: RawFd, events: i32, tag: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: tag };
        let epoll = self.epoll.as_raw_fd();
        // SAFETY: both descriptors are open, and the kernel reads one event at the address of ours.
        match unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, descriptor, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn accept(&mut self, listener: usize, sink: &mut dyn FnMut(StreamEvent)) {
        for _ in 0..ACCEPTS_MAX {
            match self.listeners[listener].accept() {
                Ok((socket, from)) => {
                    if let Some(id) = self.admit(socket) {
                        sink(StreamEvent::Opened(id, from.ip()));
                    } else {
                        self.refused_count += 1;
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        self.spare = None;
                        if self.listeners[listener].accept().is_ok() {
                            self.refused_count += 1;
                        }
                        self.spare = spare();
                        return;
                    }
                    Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => {}
                    // Mostly EAGAIN: no more of them. Anything else is tried again when epoll tells.
                    _ => return,
                },
            }
        }
    }

    /// `None` closes the socket, by its drop.
    fn admit(&mut self, socket: TcpStream) -> Option<StreamId> {
        let index = *self.free.last()?;
        socket.set_nonblocking(true).ok()?;
        // A reply's last segment must not wait for the acknowledgement of the one before (Nagle).
        socket.set_nodelay(true).ok()?;
        set_user_timeout(&socket).ok()?;
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.add(socket.as_raw_fd(), events, STREAM | u64::from(index)).ok()?;
        self.free.pop();
        self.streams[usize::from(index)] = Some(Stream { socket, wants_room: false });
        Some(StreamId(index))
    }

    fn tell(&mut self, index: usize, events: u32, sink: &mut dyn FnMut(StreamEvent)) {
        let Some(stream) = self.streams[index].as_mut() else {
            return;
        };
        let id = StreamId(u16::try_from(index).expect("at most connections_max"));
        let has = |flags: i32| events & flags.cast_unsigned() != 0;
        let broken = has(libc::EPOLLERR | libc::EPOLLHUP);
        if broken || has(libc::EPOLLIN | libc::EPOLLRDHUP) {
            sink(StreamEvent::Readable(id));
        }
        if broken || has(libc::EPOLLRDHUP) {
            sink(StreamEvent::Ended(id));
        }
        if stream.wants_room && (broken || has(libc::EPOLLOUT)) {
            stream.wants_room = false;
            sink(StreamEvent::Writable(id));
        }
    }
}

impl Streams for TcpStreams {
    fn poll(&mut self, wait: Nanos, sink: &mut dyn FnMut(StreamEvent)) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let count = epoll_wait(self.epoll.as_raw_fd(), &mut events, wait);
        for event in &events[..count] {
            let (events, tag) = (event.events, event.u64);
            let index = usize::try_from(tag & u64::from(u32::MAX)).expect("an index of ours");
            match tag & !u64::from(u32::MAX) {
                STREAM => self.tell(index, events, sink),
                LISTENER => self.accept(index, sink),
                _ => {}
            }
        }
    }

    fn receive(
        &mut self,
        id: StreamId,
        payload: Option<Span>,
        head: &mut [u8],
    ) -> Result<usize, StreamStop> {
        let stream = self.streams[usize::from(id.0)].as_ref().ok_or(StreamStop::Closed)?;
        let payload = payload.filter(|span| span.len > 0);
        let span = payload.unwrap_or_default();
        if span.len == 0 && head.is_empty() {
            // A zero would read as the end of the stream.
            return Ok(0);
        }
        let pieces = [
            libc::iovec { iov_base: self.arena.address(span).cast(), iov_len: span.len as usize },
            libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() },
        ];
        let _held = payload.map(|_| self.arena.hold_for_write());
        // SAFETY: the kernel writes to two runs: one in the arena, in bounds by `address`, which nobody in the program looks at
        // while `_held` lives (ARENA-2); the other is the caller's exclusive slice.
        let result = unsafe { libc::readv(stream.socket.as_raw_fd(), pieces.as_ptr(), 2) };
        match usize::try_from(result) {
            Ok(0) => Err(StreamStop::Closed),
            Ok(count) => Ok(count),
            Err(_) => Err(stop()),
        }
    }

    fn send(&mut self, id: StreamId, pieces: &[Piece<'_>]) -> Result<usize, StreamStop> {
        let stream = self.streams[usize::from(id.0)].as_mut().ok_or(StreamStop::Closed)?;
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut parts = [empty; SEND_PIECES_MAX];
        let mut count = 0;
        for piece in pieces {
            let part = match *piece {
                Piece::Bytes(bytes) => {
                    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
                }
                Piece::Span(span) => libc::iovec {
                    iov_base: self.arena.address(span).cast(),
                    iov_len: span.len as usize,
                },
            };
            if part.iov_len == 0 {
                continue;
            }
            if count == parts.len() {
                break;
            }
            parts[count] = part;
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let _held = self.arena.hold_for_read();
        // SAFETY: all zeroes is a valid `msghdr`: null pointers with lengths of zero.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = count as _;
        let socket = stream.socket.as_raw_fd();
        // SAFETY: the kernel reads from runs that are the caller's slices, or in the arena, in bounds by `address`, where nobody
        // in the program writes while `_held` lives (ARENA-2). It copies them before it returns.
        let result = unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) };
        match usize::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => {
                let stop = stop();
                stream.wants_room |= stop == StreamStop::WouldBlock;
                Err(stop)
            }
        }
    }

    /// Throws away what has arrived and was not read, up to 1 MiB: a close with unread bytes makes the kernel send RST, which
    /// may overtake our last words (a C2HTermReq that says why) in the client's kernel.
    fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams[usize::from(id.0)].take() else {
            return;
        };
        self.free.push(id.0);
        for _ in 0..DISCARDS_MAX {
            let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
            let socket = stream.socket.as_raw_fd();
            // SAFETY: with MSG_TRUNC, TCP drops the bytes and writes nothing to the address, which is null (tcp(7)).
            let result = unsafe { libc::recv(socket, std::ptr::null_mut(), DISCARD_BYTES, flags) };
            if result <= 0 {
                break;
            }
        }
    }
}

/// Gives a listener a longer queue: a second listen(2) does that.
fn deepen(listener: &TcpListener) -> io::Result<()> {
    // SAFETY: the descriptor is a socket that listens.
    match unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// TCP_USER_TIMEOUT (tcp(7)).
fn set_user_timeout(socket: &TcpStream) -> io::Result<()> {
    let value = USER_TIMEOUT_MS;
    // SAFETY: the socket is open, and the kernel reads an integer of the length that is given at the address of ours.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Why a system call on a socket moved nothing. EINTR doesn't happen to non-blocking sockets; it would close the connection.
fn stop() -> StreamStop {
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => StreamStop::WouldBlock,
        _ => StreamStop::Closed,
    }
}

/// Waits by `epoll_pwait2` (Linux 5.11), whose time is in nanoseconds; before that, by milliseconds rounded up. A signal
/// ends the wait with no event.
fn epoll_wait(epoll: RawFd, events: &mut [libc::epoll_event; EVENTS_MAX], wait: Nanos) -> usize {
    const NANOS_PER_SECOND: u64 = 1_000_000_000;
    let room = EVENTS_MAX as i32;
    if wait == Nanos::ZERO {
        // SAFETY: the kernel writes at most `room` events to the array, which has as many.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), room, 0) };
        return usize::try_from(count).unwrap_or(0);
    }
    let timeout = libc::timespec {
        tv_sec: i64::try_from(wait.get() / NANOS_PER_SECOND).expect("fits: 2^64 ns are 2^34 s"),
        tv_nsec: (wait.get() % NANOS_PER_SECOND).cast_signed(),
    };
    // By its number: the C library may be older than the call.
    // SAFETY: as above; the timeout lives through the call, and no signal mask is given.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll,
            events.as_mut_ptr(),
            room,
            &raw const timeout,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
    if count < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        let ms = i32::try_from(wait.get().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        // SAFETY: as the first.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), room, ms) };
        return usize::try_from(count).unwrap_or(0);
    }
    usize::try_from(count).unwrap_or(0)
}

fn owned(descriptor: i32) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call has just given it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn spare() -> Option<OwnedFd> {
    // SAFETY: the path is terminated; gives a descriptor or -1.
    owned(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }).ok()
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
