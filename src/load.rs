//! A load on an NVMe/TCP target: requests in flight up to a depth, each timed from submission to completion.
//! Sleeps while it waits, so that it may share a core with what it measures.

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use ibid_client::{Completion, Initiator};
use std::time::{Duration, Instant};

/// Longest time without any completion.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// One request.
pub(crate) enum Request {
    /// Write what the closure put into the buffer.
    Write { slba: u64, blocks: u32 },
    /// Read.
    Read { slba: u64, blocks: u32 },
    /// Make zero, giving space back.
    Zeroes { slba: u64, blocks: u32 },
}

/// What a load measured.
pub(crate) struct Measured {
    /// Nanoseconds from submission to completion, of writes …
    pub(crate) writes: Histogram<u64>,
    /// … and of reads.
    pub(crate) reads: Histogram<u64>,
    /// Bytes written.
    pub(crate) bytes_written: u64,
    /// Bytes read.
    pub(crate) bytes_read: u64,
    /// From the first submission to the last completion.
    pub(crate) took: Duration,
}

impl Measured {
    pub(crate) fn new() -> Measured {
        let histogram =
            || Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("fixed bounds are right");
        Measured {
            writes: histogram(),
            reads: histogram(),
            bytes_written: 0,
            bytes_read: 0,
            took: Duration::ZERO,
        }
    }

    pub(crate) fn add(&mut self, other: &Measured) {
        self.writes.add(&other.writes).expect("the bounds are the same");
        self.reads.add(&other.reads).expect("the bounds are the same");
        self.bytes_written += other.bytes_written;
        self.bytes_read += other.bytes_read;
        self.took += other.took;
    }
}

struct InFlight {
    began: Instant,
    bytes: u64,
    read: bool,
}

/// Runs requests until `next` gives none, at most `depth` in flight. `next` fills the buffer of a write.
pub(crate) fn run(
    initiator: &mut Initiator,
    depth: usize,
    mut next: impl FnMut(&mut Vec<u8>) -> Option<Request>,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<Measured> {
    let lba = u64::from(initiator.namespace().lba_bytes);
    let queues = initiator.queues();
    let mut measured = Measured::new();
    let mut slots: Vec<Option<InFlight>> = (0..depth).map(|_| None).collect();
    let mut free: Vec<usize> = (0..depth).rev().collect();
    let mut buffers: Vec<Vec<u8>> = (0..depth).map(|_| Vec::new()).collect();
    let mut done = Vec::with_capacity(depth);
    let mut more = true;
    let mut queue = 0;
    let start = Instant::now();
    while more || free.len() < depth {
        while more
            && let Some(&slot) = free.last()
            && let Some(room) =
                (0..queues).map(|n| (queue + n) % queues).find(|at| initiator.room(*at) > 0)
        {
            let mut buffer = std::mem::take(&mut buffers[slot]);
            let Some(request) = next(&mut buffer) else {
                more = false;
                break;
            };
            free.pop();
            queue = (room + 1) % queues;
            let token = slot as u64;
            let (read, blocks) = match request {
                Request::Read { blocks, .. } => (true, blocks),
                Request::Write { blocks, .. } | Request::Zeroes { blocks, .. } => (false, blocks),
            };
            let bytes = u64::from(blocks) * lba;
            slots[slot] = Some(InFlight { began: Instant::now(), bytes, read });
            let submitted = match request {
                Request::Write { slba, blocks } => {
                    initiator.submit_write(room, token, slba, blocks, false, buffer)
                }
                Request::Read { slba, blocks } => {
                    buffer.resize(usize::try_from(bytes)?, 0);
                    initiator.submit_read(room, token, slba, blocks, buffer)
                }
                Request::Zeroes { slba, blocks } => {
                    buffers[slot] = buffer;
                    initiator.submit_zeroes(room, token, slba, blocks, true)
                }
            };
            submitted.map_err(|refused| refused.why).context("a request was refused")?;
        }
        if free.len() == depth {
            // `next` ended the load while nothing was in flight: there is no completion to wait for.
            break;
        }
        let waited = Instant::now();
        while done.is_empty() {
            initiator.wait(Duration::from_millis(500), &mut |completion: Completion| {
                done.push(completion)
            })?;
            if done.is_empty() && waited.elapsed() > SILENCE_MAX {
                bail!("the target completed nothing for {} s", SILENCE_MAX.as_secs());
            }
        }
        for completion in done.drain(..) {
            let slot = usize::try_from(completion.token)?;
            let flight =
                slots[slot].take().context("a completion of something that was not asked for")?;
            if !completion.status.is_success() {
                bail!("a request failed: {}", completion.status);
            }
            let nanos = u64::try_from(flight.began.elapsed().as_nanos())?;
            if flight.read {
                measured.reads.saturating_record(nanos);
                measured.bytes_read += flight.bytes;
            } else {
                measured.writes.saturating_record(nanos);
                measured.bytes_written += flight.bytes;
            }
            if !completion.buffer.is_empty() {
                buffers[slot] = completion.buffer;
            }
            free.push(slot);
            progress(flight.bytes);
        }
    }
    measured.took = start.elapsed();
    Ok(measured)
}

/// A generator of positions and contents: splitmix64 (Steele and Lea).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
