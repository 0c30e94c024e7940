//! Frames of the link, written to a file beside their way: a [`Port`] around another that copies each datagram into a bounded queue, and a
//! thread of its own that writes what is queued (`pcapng`). The shard never waits for it: where the queue is full, because the disk is slow,
//! the frame is not written, and counted.
//!
//! A datagram passes as it would without: the same bytes, results and order.
//! Buffers are taken at the start; the port's thread allocates nothing, makes no system call but for the time, and takes no lock.

use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam::queue::ArrayQueue;
use ibid_units::Span;

use crate::pcapng::{Direction, FrameMark, PcapWriter};
use crate::{Arena, Class, Port, PortBusy, PortCounters, Seal};

/// Frames that wait to be written, at most: some milliseconds of a fast link, 18 MiB with jumbo frames.
pub const CAPTURE_FRAMES_MAX: usize = 2048;
/// How long the writer sleeps with nothing to write. Nobody wakes it: that would be a system call of the port's thread.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What is written to the file at once.
const STEP_BYTES: usize = 1 << 20;

/// Which form of a datagram is captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaptureForm {
    /// As it passes the wire.
    Wire,
    /// As it was before it was sealed, or is once the receiver has opened it where it lies.
    Opened,
}

/// What is captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureConfig {
    /// This end of the link …
    pub local: SocketAddr,
    /// … and the other, for the headers in the file.
    pub peer: SocketAddr,
    /// The longest datagram.
    pub datagram_bytes_max: usize,
    /// Its form.
    pub form: CaptureForm,
}

/// A capture that runs until this is dropped, which waits until what is queued has been written.
pub struct Capture {
    config: CaptureConfig,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What became of frames so far. May be asked on any thread.
#[derive(Clone)]
pub struct CaptureCounts(Arc<Shared>);

impl CaptureCounts {
    /// Frames that were given to the file.
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }
    /// Frames that were not, for want of room in the queue or in the file.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
    /// The operating system's error code, once the file has refused something: nothing is written from then on.
    pub fn failed(&self) -> Option<i32> {
        let code = self.0.failed.load(Ordering::Relaxed);
        i32::try_from(code).ok().filter(|code| *code != 0)
    }
}

struct Shared {
    free: ArrayQueue<Slot>,
    full: ArrayQueue<Slot>,
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

struct Slot {
    mark: FrameMark,
    length: usize,
    bytes: Box<[u8]>,
}

impl Capture {
    /// Begins a capture into `file`. All buffers are taken here.
    pub fn start(file: impl Write + Send + 'static, config: CaptureConfig) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            free: ArrayQueue::new(CAPTURE_FRAMES_MAX),
            full: ArrayQueue::new(CAPTURE_FRAMES_MAX),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        for _ in 0..CAPTURE_FRAMES_MAX {
            let mark = FrameMark { direction: Direction::Inbound, at: 0, missing: 0 };
            // Of ones, so that each page is there and not only promised.
            let bytes = vec![1; config.datagram_bytes_max].into();
            drop(shared.free.push(Slot { mark, length: 0, bytes }));
        }
        let about = match config.form {
            CaptureForm::Wire => "frames as they pass the wire",
            CaptureForm::Opened => "frames opened: before they are sealed, after they are opened",
        };
        let file = BufWriter::with_capacity(STEP_BYTES, file);
        let mut writer = PcapWriter::new(file, config.local, config.peer, about)?;
        writer.flush()?;
        let inside = shared.clone();
        let thread = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || inside.write_all(writer))?;
        Ok(Self { config, shared, thread: Some(thread) })
    }

    /// Puts the capture around a port, whose spans lie in `arena`.
    pub fn around<P: Port>(&self, inner: P, arena: Arc<Arena>) -> CapturePort<P> {
        let tee = Tee { shared: self.shared.clone(), form: self.config.form, missing: 0 };
        CapturePort { inner, arena, tee }
    }

    /// What became of frames so far.
    pub fn counts(&self) -> CaptureCounts {
        CaptureCounts(self.shared.clone())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // If it panicked the file ends where it was; the node's work does not depend on it.
            drop(thread.join());
        }
    }
}

impl Shared {
    /// The writer's thread.
    fn write_all<W: Write>(&self, mut writer: PcapWriter<W>) {
        let mut dirty = false;
        loop {
            // Asked before the queue is: what was queued before the stop is seen after it.
            let stop = self.stop.load(Ordering::Acquire);
            if let Some(slot) = self.full.pop() {
                let written = self.failed.load(Ordering::Relaxed) == 0
                    && self.noted(writer.frame(slot.mark, &slot.bytes[..slot.length]));
                let counter = if written { &self.written } else { &self.dropped };
                counter.fetch_add(1, Ordering::Relaxed);
                // There is room: it came from there.
                drop(self.free.push(slot));
                dirty = true;
                continue;
            }
            if std::mem::take(&mut dirty) && self.failed.load(Ordering::Relaxed) == 0 {
                self.noted(writer.flush());
            }
            if stop {
                break;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        if self.failed.load(Ordering::Relaxed) == 0 {
            let written = self.written.load(Ordering::Relaxed);
            let dropped = self.dropped.load(Ordering::Relaxed);
            self.noted(writer.finish(now(), written, dropped));
        }
    }

    /// Whether it went well; the first failure is kept.
    fn noted(&self, result: io::Result<()>) -> bool {
        if let Err(error) = &result {
            let code = error.raw_os_error().unwrap_or(libc::EIO).unsigned_abs();
            self.failed.store(code.into(), Ordering::Relaxed);
        }
        result.is_ok()
    }
}

/// A port whose datagrams are captured.
pub struct CapturePort<P: Port> {
    inner: P,
    /// What is sent lies here.
    arena: Arc<Arena>,
    tee: Tee,
}

/// The port's end of the queue.
struct Tee {
    shared: Arc<Shared>,
    form: CaptureForm,
    /// Frames that found no room since the last one that did.
    missing: u32,
}

impl Tee {
    /// Queues a datagram of `head` and what `more` adds to it in the buffer behind, which returns how much that was.
    fn put(&mut self, direction: Direction, head: &[u8], more: impl FnOnce(&mut [u8]) -> usize) {
        let Some(mut slot) = self.shared.free.pop() else {
            self.missing = self.missing.saturating_add(1);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let begin = head.len().min(slot.bytes.len());
        slot.bytes[..begin].copy_from_slice(&head[..begin]);
        slot.length = begin + more(&mut slot.bytes[begin..]);
        slot.mark = FrameMark { direction, at: now(), missing: std::mem::take(&mut self.missing) };
        // There is room: as many slots as places.
        drop(self.shared.full.push(slot));
    }

    fn put_whole(&mut self, direction: Direction, datagram: &[u8]) {
        self.put(direction, datagram, |_| 0);
    }
}

impl<P: Port> Port for CapturePort<P> {
    fn datagram_bytes_max(&self) -> usize {
        self.inner.datagram_bytes_max()
    }

    fn overhead_bytes(&self) -> usize {
        self.inner.overhead_bytes()
    }

    fn send(
        &mut self,
        class: Class,
        head: &[u8],
        spans: &[Span],
        seal: Option<Seal<'_>>,
    ) -> Result<(), PortBusy> {
        let Self { inner, arena, tee } = self;
        if let Some(seal) = seal {
            return inner.send(
                class,
                head,
                spans,
                Some(&mut |datagram: &mut [u8]| {
                    if tee.form == CaptureForm::Opened {
                        tee.put_whole(Direction::Outbound, datagram);
                    }
                    seal(datagram);
                    if tee.form == CaptureForm::Wire {
                        tee.put_whole(Direction::Outbound, datagram);
                    }
                }),
            );
        }
        inner.send(class, head, spans, None)?;
        tee.put(Direction::Outbound, head, |room| {
            let mut at = 0;
            for span in spans {
                let length = (span.len as usize).min(room.len() - at);
                arena.copy_out(span.at, &mut room[at..at + length]);
                at += length;
            }
            at
        });
        Ok(())
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn receive(&mut self, frames_max: usize, sink: &mut dyn FnMut(&mut [u8])) -> usize {
        let Self { inner, tee, .. } = self;
        inner.receive(frames_max, &mut |datagram| {
            if tee.form == CaptureForm::Wire {
                tee.put_whole(Direction::Inbound, datagram);
            }
            sink(datagram);
            if tee.form == CaptureForm::Opened {
                tee.put_whole(Direction::Inbound, datagram);
            }
        })
    }

    fn counters(&self) -> PortCounters {
        self.inner.counters()
    }
}

/// Nanoseconds since 1970, as captures have them: two nodes' files can be laid one beside the other.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
