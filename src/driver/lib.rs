//! The rim of the engine: what it needs of the world as small traits, and their real implementations.
//! Gives [`Clock`], [`Port`], [`Disk`] and [`Streams`], the [`Arena`] that all payload lies in, and over them the
//! system's clock, io_uring and kernel TCP. DPDK implements [`Port`] in its own crate. Knows nothing of NVMe or the log.

mod arena;
mod capture;
mod memory;
mod numa;
mod clock;
mod extents;
mod faulty;
#[cfg(test)]
mod loop_port;
mod pcapng;
pub mod idle;
mod file;
mod uring;
mod tcp;
pub mod checksum;
pub mod no_alloc;

pub use arena::{Arena, ArenaError, ArenaWarning, Bytes, MemoryWish, PageSize};
pub use capture::{
    CAPTURE_FRAMES_MAX, Capture, CaptureConfig, CaptureCounts, CaptureForm, CapturePort,
};
pub use clock::MonotonicClock;
pub use extents::EXTENTS_MAX;
pub use faulty::{
    Blackout, Bottleneck, CERTAIN, FaultyPort, HELD_MAX, LinkFaultCounts, LinkFaults,
};
pub use file::{DiskFile, FileWarning, OpenError, OpenOptions};
pub use memory::{HugeRefused, HugeReserve, Misplaced};
pub use tcp::{ACCEPTS_MAX, SEND_PIECES_MAX, TcpStreams};
pub use uring::{DEPTH_MAX, UringDisk, UringError, UringWarning};

use ibid_units::{Nanos, Span};
use std::net::IpAddr;

/// Monotonic time, read once per turn of a shard.
pub trait Clock {
    /// The time now. Never less than what it said before.
    fn now(&mut self) -> Nanos;
}

/// The traffic class of a frame, for accounting and (later) for priorities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Log entries on their way to the peer's log.
    Log,
    /// What a consistency point sends: its list, and blocks where references don't do.
    Cp,
    /// Hello, probes, acknowledgements and reports.
    Control,
    /// Blocks that the peer missed while it was away, or before it was there.
    CatchUp,
}

/// What a port counts. All sums since start; bytes are of whole Ethernet frames without preamble and FCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortCounters {
    /// Frames given to the device.
    pub tx_frames: u64,
    /// Bytes of those, by [`Class`]: log, cp, control, catch-up.
    pub tx_bytes: [u64; 4],
    /// Frames that arrived for us.
    pub rx_frames: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Frames that arrived but were not for us, or were malformed below the link layer.
    pub rx_dropped: u64,
    /// Payload bytes that the CPU copied from the arena into frames.
    pub tx_copied_bytes: u64,
}

/// The device has no room for a frame now; try again on a later turn. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortBusy;

/// What is done to a datagram before it leaves.
pub type Seal<'a> = &'a mut dyn FnMut(&mut [u8]);

/// A link device: sends and receives the link's datagrams (UDP payloads; the headers below are the port's own).
/// Frames may be lost, doubled and reordered, never merged or split.
pub trait Port {
    /// The largest datagram that fits one frame.
    fn datagram_bytes_max(&self) -> usize;
    /// Bytes of headers that every frame carries below the datagram (Ethernet, IP, UDP).
    fn overhead_bytes(&self) -> usize;
    /// Queues one datagram: `head`, then the bytes of each span in the arena, all of them copied before this returns. A `seal` is shown
    /// the whole datagram in the buffer that the device sends, once, and may change it but for its length. It is not called where the
    /// port is busy.
    fn send(
        &mut self,
        class: Class,
        head: &[u8],
        spans: &[Span],
        seal: Option<Seal<'_>>,
    ) -> Result<(), PortBusy>;
    /// Hands queued frames to the device. Called once at the end of a turn, and by the port itself when its burst is full.
    fn flush(&mut self);
    /// Takes at most `frames_max` frames off the device and shows each one's datagram, at most [`Port::datagram_bytes_max`] long, to
    /// `sink`, which may change it where it lies; returns how many.
    fn receive(&mut self, frames_max: usize, sink: &mut dyn FnMut(&mut [u8])) -> usize;
    /// What was counted since start.
    fn counters(&self) -> PortCounters;
}

impl<P: Port + ?Sized> Port for Box<P> {
    fn datagram_bytes_max(&self) -> usize {
        (**self).datagram_bytes_max()
    }
    fn overhead_bytes(&self) -> usize {
        (**self).overhead_bytes()
    }
    fn send(
        &mut self,
        class: Class,
        head: &[u8],
        spans: &[Span],
        seal: Option<Seal<'_>>,
    ) -> Result<(), PortBusy> {
        (**self).send(class, head, spans, seal)
    }
    fn flush(&mut self) {
        (**self).flush();
    }
    fn receive(&mut self, frames_max: usize, sink: &mut dyn FnMut(&mut [u8])) -> usize {
        (**self).receive(frames_max, sink)
    }
    fn counters(&self) -> PortCounters {
        (**self).counters()
    }
}

/// A file or block device that was opened at start, by its place in the list of those.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId(pub u16);

/// One operation on a file. Offsets and lengths are multiples of the file's logical block. Until the completion, a span's
/// bytes are the device's (ARENA-1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// Reads `span.len` bytes at byte `at` of the file into the arena.
    Read {
        /// Which file.
        file: FileId,
        /// Byte offset in the file.
        at: u64,
        /// Where the bytes go.
        span: Span,
    },
    /// Writes the span's bytes at byte `at` of the file. Durable only after a later [`DiskOp::Flush`].
    Write {
        /// Which file.
        file: FileId,
        /// Byte offset in the file.
        at: u64,
        /// Where the bytes lie.
        span: Span,
    },
    /// Makes everything that completed on this file before the submission survive a power cut.
    Flush {
        /// Which file.
        file: FileId,
    },
    /// Makes a run read as zeroes, keeping its space.
    Zero {
        /// Which file.
        file: FileId,
        /// Byte offset in the file.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Gives a run's space back; it reads as zeroes afterwards.
    Deallocate {
        /// Which file.
        file: FileId,
        /// Byte offset in the file.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// The disk's queue is full; try again after completions. Nothing was submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskBusy;

/// A disk operation failed for good; the number is the operating system's error code (28 = no space, 5 = I/O error …).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("disk operation failed: {}", std::io::Error::from_raw_os_error(*.0))]
pub struct DiskError(pub i32);

/// Asynchronous access to the files a node was opened with. Reads and writes move between device and arena directly.
pub trait Disk {
    /// Queues an operation; `token` comes back with its completion.
    fn submit(&mut self, op: DiskOp, token: u64) -> Result<(), DiskBusy>;
    /// Hands queued operations to the device and shows every completion to `sink`; returns how many there were. Short transfers are
    /// continued inside, so `Ok` means all bytes.
    fn poll(&mut self, sink: &mut dyn FnMut(u64, Result<(), DiskError>)) -> usize;
    /// Operations submitted and not completed.
    fn in_flight(&self) -> usize;
    /// A file descriptor that becomes readable when completions wait (eventfd or the ring's fd), so an idle shard can
    /// sleep on it. `None` where there is none.
    fn descriptor(&self) -> Option<i32> {
        None
    }
}

/// One client connection of a [`Streams`]; reused after close.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct StreamId(pub u16);

/// Why a stream moved no bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamStop {
    /// Nothing can move now; an event will tell when.
    WouldBlock,
    /// The other side is gone, or the connection broke.
    Closed,
}

/// What happened to a stream since the last poll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamEvent {
    /// A client connected from this address; the stream may be read and written from now on.
    Opened(StreamId, IpAddr),
    /// Bytes may be waiting (or the end): receive until `WouldBlock`.
    Readable(StreamId),
    /// The other side sends no more (or the connection broke): the end stands behind what is still to be received. Told
    /// beside `Readable`, so that after a short receive nobody stops before the end.
    Ended(StreamId),
    /// There is room again after a send had said `WouldBlock`.
    Writable(StreamId),
}

/// A piece of what is sent on a stream.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Bytes of the caller (PDU headers, digests, small replies).
    Bytes(&'a [u8]),
    /// Payload in the arena.
    Span(Span),
}

/// Byte streams with clients (TCP). Edge-triggered: an event is told once.
pub trait Streams {
    /// Shows what happened to `sink`, waiting at most `wait` for something to happen; zero never waits.
    fn poll(&mut self, wait: Nanos, sink: &mut dyn FnMut(StreamEvent));
    /// Receives into `payload` (a span of the arena, if any) first and `head` after it, in one system call; returns the count.
    fn receive(
        &mut self,
        id: StreamId,
        payload: Option<Span>,
        head: &mut [u8],
    ) -> Result<usize, StreamStop>;
    /// Sends a prefix of the pieces; returns how many bytes went.
    fn send(&mut self, id: StreamId, pieces: &[Piece<'_>]) -> Result<usize, StreamStop>;
    /// Closes the connection; the id may be given to a new one.
    fn close(&mut self, id: StreamId);
}
