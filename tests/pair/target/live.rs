//! The host that keeps to the rules: writes stamped blocks, reads them back, and knows what it must find. Its I/O has to go on whatever
//! others do. Measures each write.

use crate::common::until;
use crate::load::options;
use hdrhistogram::Histogram;
use ibid_client::{Completion, ConnectOptions, Initiator, Status};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Its name; the list of hosts that may connect has it.
pub(crate) const LIVE: &str = "nqn.2014-08.org.example:well-behaved";
/// Blocks it writes, from the start of the volume on; the others' are behind them.
pub(crate) const BLOCKS: u64 = 1024;
const BLOCK_BYTES: usize = 4096;
/// Writes in flight.
const DEPTH: u16 = 4;
/// Every so many rounds, a write of this many blocks, which needs an R2T.
const LARGE_EVERY: u64 = 16;
const LARGE_BLOCKS: u32 = 16;
/// No answer for so long is a failure.
const SILENCE_MAX: Duration = Duration::from_secs(25);

struct Shared {
    stop: AtomicBool,
    /// Commands that ended well.
    done: AtomicU64,
    /// Commands it was asked to send again, and did.
    interrupted: AtomicU64,
    /// Nanoseconds of each write of one block since it was last asked.
    latency: Mutex<Histogram<u64>>,
    failed: Mutex<Option<String>>,
}

pub(crate) struct Live {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Live {
    pub(crate) fn start(addr: SocketAddr, nqn: &str) -> Live {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            interrupted: AtomicU64::new(0),
            latency: Mutex::new(Histogram::new(3).unwrap()),
            failed: Mutex::new(None),
        });
        let options = ConnectOptions {
            host_nqn: LIVE.to_owned(),
            host_id: *b"well-behaved\0\0\0\0",
            ..options(1, 2 * DEPTH, false)
        };
        let mut initiator = Initiator::connect(addr, nqn, &options).unwrap();
        let ours = shared.clone();
        let thread = std::thread::spawn(move || {
            if let Err(wrong) = run(&mut initiator, &ours) {
                *ours.failed.lock().unwrap() = Some(wrong);
                return;
            }
            initiator.disconnect().unwrap();
        });
        Live { shared, thread }
    }

    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    pub(crate) fn interrupted(&self) -> u64 {
        self.shared.interrupted.load(Ordering::Relaxed)
    }

    /// So many more of its commands end well.
    pub(crate) fn goes_on(&self, what: &str, more: u64) {
        let target = self.done() + more;
        until(&format!("{what}: the well-behaved host goes on"), || {
            if let Some(wrong) = &*self.shared.failed.lock().unwrap() {
                panic!("{what}: the well-behaved host: {wrong}");
            }
            (self.done() >= target).then_some(())
        });
    }

    /// What its writes of one block took since this was last asked.
    pub(crate) fn take_latency(&self) -> Histogram<u64> {
        let mut latency = self.shared.latency.lock().unwrap();
        std::mem::replace(&mut *latency, Histogram::new(3).unwrap())
    }

    pub(crate) fn finish(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        if let Some(wrong) = &*self.shared.failed.lock().unwrap() {
            panic!("the well-behaved host: {wrong}");
        }
    }
}

fn fill(lba: u64, version: u64, block: &mut [u8]) {
    for (at, word) in block.chunks_exact_mut(8).enumerate() {
        let value = (lba << 40 ^ version << 8 ^ at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// One command at a time of each of `DEPTH` walkers, each in blocks of its own: a write, then a read of what it wrote.
fn run(initiator: &mut Initiator, shared: &Shared) -> Result<(), String> {
    let stride = BLOCKS / u64::from(DEPTH);
    let mut walkers = [Walker { rounds: 0, reads: false }; DEPTH as usize];
    let mut idle: Vec<usize> = (0..walkers.len()).collect();
    let mut began = [Instant::now(); DEPTH as usize];
    let mut heard = Instant::now();
    let mut done = Vec::new();
    loop {
        let stopping = shared.stop.load(Ordering::Relaxed);
        while !stopping && let Some(at) = idle.pop() {
            let walker = walkers[at];
            let (lba, blocks) = walker.place(at as u64 * stride, stride);
            let mut buffer = vec![0; blocks as usize * BLOCK_BYTES];
            began[at] = Instant::now();
            if walker.reads {
                initiator.submit_read(0, at as u64, lba, blocks, buffer).unwrap();
            } else {
                for (offset, block) in buffer.chunks_exact_mut(BLOCK_BYTES).enumerate() {
                    fill(lba + offset as u64, walker.rounds, block);
                }
                initiator.submit_write(0, at as u64, lba, blocks, false, buffer).unwrap();
            }
        }
        if idle.len() == walkers.len() {
            return Ok(());
        }
        initiator
            .wait(Duration::from_millis(50), &mut |completion| done.push(completion))
            .map_err(|error| error.to_string())?;
        if !done.is_empty() {
            heard = Instant::now();
        } else if heard.elapsed() > SILENCE_MAX {
            return Err("no answer".to_owned());
        }
        for Completion { token, status, buffer, .. } in done.drain(..) {
            let at = token as usize;
            idle.push(at);
            let walker = &mut walkers[at];
            if status == Status::COMMAND_INTERRUPTED {
                shared.interrupted.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if !status.is_success() {
                return Err(format!("{status}"));
            }
            shared.done.fetch_add(1, Ordering::Relaxed);
            let (lba, blocks) = walker.place(at as u64 * stride, stride);
            if walker.reads {
                let mut expected = vec![0; BLOCK_BYTES];
                for (offset, block) in buffer.chunks_exact(BLOCK_BYTES).enumerate() {
                    fill(lba + offset as u64, walker.rounds, &mut expected);
                    if block != expected {
                        return Err(format!(
                            "block {} is not what was written",
                            lba + offset as u64
                        ));
                    }
                }
                walker.rounds += 1;
            } else if blocks == 1 {
                let nanos = began[at].elapsed().as_nanos() as u64;
                shared.latency.lock().unwrap().record(nanos).unwrap();
            }
            walker.reads = !walker.reads;
        }
    }
}

#[derive(Clone, Copy)]
struct Walker {
    rounds: u64,
    reads: bool,
}

impl Walker {
    fn place(self, first: u64, stride: u64) -> (u64, u32) {
        let blocks = if self.rounds % LARGE_EVERY == LARGE_EVERY - 1 { LARGE_BLOCKS } else { 1 };
        (first + self.rounds * 7 % (stride - u64::from(LARGE_BLOCKS)), blocks)
    }
}
