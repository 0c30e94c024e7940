//! Frames that wait for the device to take them, in order. Bounded; takes its memory at construction.
//! Owns the frames between `push` and the moment the device takes them (PORT-2). What a full one means to the sender is `port`'s.

use ibid_driver::{Class, PortCounters};

use crate::device::Device;
use crate::mbuf::{self, Mbuf};

/// A bounded queue of frames.
pub(crate) struct Outbox {
    /// Beside `mbufs`, which is an array of its own because the device wants one of pointers.
    notes: Box<[Note]>,
    mbufs: Box<[Mbuf]>,
    /// What waits is `first..end` of both.
    first: usize,
    end: usize,
}

#[derive(Clone, Copy)]
struct Note {
    bytes: u32,
    class: Class,
}

// SAFETY: packet buffers are not bound to a thread.
unsafe impl Send for Outbox {}

impl Outbox {
    pub(crate) fn new() -> Outbox {
        Outbox {
            notes: vec![Note { bytes: 0, class: Class::Control }; PENDING_FRAMES].into(),
            mbufs: vec![std::ptr::null_mut(); PENDING_FRAMES].into(),
            first: 0,
            end: 0,
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.first
    }

    /// Makes room for one more frame, moving what waits to the front. False where the queue is full.
    #[inline]
    pub(crate) fn room(&mut self) -> bool {
        if self.end == PENDING_FRAMES && self.first > 0 {
            self.notes.copy_within(self.first..self.end, 0);
            self.mbufs.copy_within(self.first..self.end, 0);
            self.end -= self.first;
            self.first = 0;
        }
        self.end < PENDING_FRAMES
    }

    /// Takes a frame that was just built.
    ///
    /// # Panics
    /// If there was no room.
    #[inline]
    pub(crate) fn push(&mut self, mbuf: Mbuf, class: Class) {
        // SAFETY: the frame was just built and is ours alone.
        let bytes = unsafe { mbuf::frame_bytes(mbuf) };
        self.notes[self.end] = Note { bytes, class };
        self.mbufs[self.end] = mbuf;
        self.end += 1;
    }

    /// Gives frames to the device, as many as it takes, and counts those.
    pub(crate) fn flush(&mut self, device: &mut Device, counters: &mut PortCounters) {
        // Bounded: every round but the last takes at least one of at most PENDING_FRAMES.
        while self.first < self.end {
            let burst = self.end.min(self.first + BURST_FRAMES);
            // SAFETY: what waits are frames that `frames` built, ours until the device takes them (PORT-2).
            let sent = unsafe { device.transmit(&mut self.mbufs[self.first..burst]) };
            for note in &self.notes[self.first..self.first + sent] {
                counters.tx_frames += 1;
                counters.tx_bytes[note.class as usize] += u64::from(note.bytes);
            }
            self.first += sent;
            if sent == 0 {
                return;
            }
        }
        self.first = 0;
        self.end = 0;
    }

    /// Gives up all frames; how many.
    pub(crate) fn abandon(&mut self) -> u64 {
        let count = self.len() as u64;
        mbuf::free(&mut self.mbufs[self.first..self.end]);
        self.first = 0;
        self.end = 0;
        count
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Frames in one call of the driver.
pub(crate) const BURST_FRAMES: usize = 32;
/// Frames that wait at most; the sender is told that the port is busy beyond.
pub(crate) const PENDING_FRAMES: usize = 256;
