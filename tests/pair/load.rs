//! A client that knows what it was promised: which write of each cell was acknowledged last, and which was on its way.
//! Every write carries its cell's number and its version, so that whatever is read later says which write it was.

use ibid_client::{ClientError, Completion, ConnectOptions, Initiator};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest time without any completion while writes are outstanding, before the client gives up.
const SILENCE_MAX: Duration = Duration::from_secs(25);

/// What a volume may hold: version 0 of a cell is zeroes.
#[derive(Clone)]
pub(crate) struct Model {
    cell_bytes: usize,
    cells: Vec<Cell>,
    random: u64,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    acknowledged: u64,
    written: u64,
}

impl Model {
    /// A volume of zeroes.
    pub(crate) fn new(volume_bytes: u64, cell_bytes: usize) -> Model {
        let cells = volume_bytes / cell_bytes as u64;
        Model { cell_bytes, cells: vec![Cell::default(); cells as usize], random: 1 }
    }

    /// A cell that nothing is on its way to.
    fn choose(&mut self) -> usize {
        loop {
            // splitmix64 (Steele and Lea).
            self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let cell = ((z ^ (z >> 31)) % self.cells.len() as u64) as usize;
            if self.cells[cell].written == self.cells[cell].acknowledged {
                return cell;
            }
        }
    }

    /// Panics where `bytes`, read from cell `first` on, hold anything but the last acknowledged write, or one that was on its way.
    /// With nothing under way, what was found is what must stay from now on.
    fn check(&mut self, first: usize, bytes: &[u8], place: &str) {
        let mut expected = vec![0; self.cell_bytes];
        for (offset, found) in bytes.chunks(self.cell_bytes).enumerate() {
            let cell = first + offset;
            let known = self.cells[cell];
            let version = u64::from_le_bytes(found[8..16].try_into().unwrap());
            assert!(
                (known.acknowledged..=known.written).contains(&version),
                "{place}: cell {cell} holds write {version}; {} was acknowledged, {} was sent",
                known.acknowledged,
                known.written
            );
            fill(cell, version, &mut expected);
            assert!(found == expected, "{place}: cell {cell} holds write {version} in part");
            self.cells[cell] = Cell { acknowledged: version, written: version };
        }
    }

    /// Reads everything from the target and checks it.
    pub(crate) fn check_target(&mut self, initiator: &mut Initiator) {
        let lba = initiator.namespace().lba_bytes as usize;
        let mut bytes = vec![0; 1 << 20];
        let step = bytes.len() / self.cell_bytes;
        for first in (0..self.cells.len()).step_by(step) {
            let cells = step.min(self.cells.len() - first);
            let bytes = &mut bytes[..cells * self.cell_bytes];
            initiator.read((first * self.cell_bytes / lba) as u64, bytes).unwrap();
            self.check(first, bytes, "target");
        }
    }

    /// Reads everything from a volume's file and checks it.
    pub(crate) fn check_file(&mut self, path: &Path) {
        let file = File::open(path).unwrap();
        let mut bytes = vec![0; 1 << 20];
        let step = bytes.len() / self.cell_bytes;
        for first in (0..self.cells.len()).step_by(step) {
            let cells = step.min(self.cells.len() - first);
            let bytes = &mut bytes[..cells * self.cell_bytes];
            file.read_exact_at(bytes, (first * self.cell_bytes) as u64).unwrap();
            self.check(first, bytes, &path.display().to_string());
        }
    }
}

fn fill(cell: usize, version: u64, bytes: &mut [u8]) {
    if version == 0 {
        bytes.fill(0);
        return;
    }
    for (word, place) in bytes.chunks_mut(8).enumerate() {
        let value = match word {
            0 => cell as u64,
            1 => version,
            _ => (cell as u64 ^ version << 32)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(word as u64),
        };
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// How a client connects.
pub(crate) fn options(queues: u16, depth: u16, digests: bool) -> ConnectOptions {
    ConnectOptions {
        io_queues: queues,
        queue_depth: depth,
        header_digest: digests,
        data_digest: digests,
        timeout: crate::common::WAIT,
        ..ConnectOptions::default()
    }
}

/// Writes random cells, `depth` at a time, until `stop` says so of the number acknowledged; then waits for those on their way.
pub(crate) fn write(
    initiator: &mut Initiator,
    model: &mut Model,
    depth: usize,
    stop: &mut dyn FnMut(u64) -> bool,
) -> Result<(), ClientError> {
    write_patiently(initiator, model, (depth, SILENCE_MAX), stop)
}

fn write_patiently(
    initiator: &mut Initiator,
    model: &mut Model,
    (depth, silence_max): (usize, Duration),
    stop: &mut dyn FnMut(u64) -> bool,
) -> Result<(), ClientError> {
    let lba = initiator.namespace().lba_bytes as usize;
    let blocks = (model.cell_bytes / lba) as u32;
    let mut spare: Vec<Vec<u8>> = (0..depth).map(|_| vec![0; model.cell_bytes]).collect();
    let mut done = Vec::with_capacity(depth);
    let mut acknowledged = 0;
    let mut silent_since = Instant::now();
    loop {
        let stopping = stop(acknowledged);
        while !stopping
            && let Some(queue) = (0..initiator.queues()).max_by_key(|queue| initiator.room(*queue))
            && initiator.room(queue) > 0
            && let Some(mut buffer) = spare.pop()
        {
            let cell = model.choose();
            model.cells[cell].written += 1;
            fill(cell, model.cells[cell].written, &mut buffer);
            let slba = (cell * model.cell_bytes / lba) as u64;
            initiator.submit_write(queue, cell as u64, slba, blocks, false, buffer).unwrap();
        }
        if spare.len() == depth {
            return Ok(());
        }
        initiator.wait(Duration::from_millis(50), &mut |completion| done.push(completion))?;
        if !done.is_empty() {
            silent_since = Instant::now();
        } else if silent_since.elapsed() > silence_max {
            return Err(ClientError::Timeout("write"));
        }
        for Completion { token, status, buffer, .. } in done.drain(..) {
            if !status.is_success() {
                return Err(ClientError::Failed { doing: "write", status });
            }
            let cell = &mut model.cells[token as usize];
            cell.acknowledged = cell.written;
            acknowledged += 1;
            spare.push(buffer);
        }
    }
}

/// Writes `count` random cells.
pub(crate) fn write_count(initiator: &mut Initiator, model: &mut Model, depth: usize, count: u64) {
    write(initiator, model, depth, &mut |acknowledged| acknowledged >= count).unwrap();
}

/// A client that writes in a thread of its own until it is told to stop, or its target goes away.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<(Model, Result<(), ClientError>)>,
}

impl Load {
    pub(crate) fn start(addr: SocketAddr, nqn: &str, model: Model, depth: u16) -> Load {
        Load::start_patient(addr, nqn, model, (depth, SILENCE_MAX))
    }

    /// Gives up only after so long without any completion.
    pub(crate) fn start_patient(
        addr: SocketAddr,
        nqn: &str,
        mut model: Model,
        (depth, silence_max): (u16, Duration),
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut initiator = Initiator::connect(addr, nqn, &options(2, depth, false)).unwrap();
        let (stop_it, count) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let with = (depth.into(), silence_max);
            let result = write_patiently(&mut initiator, &mut model, with, &mut |acknowledged| {
                count.store(acknowledged, Ordering::Relaxed);
                stop_it.load(Ordering::Relaxed)
            });
            let left = result.and_then(|()| initiator.disconnect());
            (model, left)
        });
        Load { stop, acknowledged, thread }
    }

    /// Writes acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) fn wait_for(&self, more: u64) {
        let target = self.acknowledged() + more;
        crate::common::until("writes are acknowledged", || {
            (self.acknowledged() >= target).then_some(())
        });
    }

    /// Ends it; what was promised until then, and how it ended.
    pub(crate) fn finish(self) -> (Model, Result<(), ClientError>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
