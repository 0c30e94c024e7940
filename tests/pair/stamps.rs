//! A client whose every block says which write it is of, and that knows what each block may hold after a crash: what was
//! acknowledged last, or what was on its way. Writes are of one block or several, some are zeroes; none overlaps another that is on its way.
//!
//! A block: its LBA, the write's number, the volume, the write's first block and length, filler that follows from those, CRC32C. So a
//! block that was torn, that is another's, or that went back in time is told from a good one by itself and by what is remembered here.

use crate::load::options;
use ibid_client::{ClientError, Completion, Initiator};
use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BLOCK_BYTES: usize = 4096;
const CRC_AT: usize = BLOCK_BYTES - 4;
/// The longest write, in blocks. Well below what the target says it writes whole or not at all.
const BLOCKS_MAX: u64 = 24;
/// Longest time without any completion while writes are outstanding.
const SILENCE_MAX: Duration = Duration::from_secs(25);

/// What one block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    Zeroes,
    /// The write with this number.
    Write(u64),
}

/// splitmix64 (Steele and Lea).
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A write that was sent and of which nothing was heard.
#[derive(Clone, Copy, Debug)]
struct Flight {
    number: u64,
    first: u64,
    blocks: u64,
    zeroes: bool,
}

impl Flight {
    fn content(&self) -> Content {
        if self.zeroes { Content::Zeroes } else { Content::Write(self.number) }
    }
    fn range(&self) -> std::ops::Range<usize> {
        self.first as usize..(self.first + self.blocks) as usize
    }
}

/// What a volume may hold.
pub(crate) struct Stamps {
    volume: u32,
    /// What each block held when it was last known for certain.
    settled: Vec<Content>,
    /// Number of the write on its way to each block; 0 for none.
    flying: Vec<u64>,
    flights: HashMap<u64, Flight>,
    written: u64,
    random: Random,
}

impl Stamps {
    /// A volume of zeroes.
    pub(crate) fn new(volume: u32, bytes: u64, seed: u64) -> Stamps {
        let blocks = bytes as usize / BLOCK_BYTES;
        Stamps {
            volume,
            settled: vec![Content::Zeroes; blocks],
            flying: vec![0; blocks],
            flights: HashMap::new(),
            written: 0,
            random: Random(seed ^ mix(volume.into())),
        }
    }

    /// A new write to blocks that nothing is on its way to; `None` where none was found quickly.
    fn choose(&mut self) -> Option<Flight> {
        for _ in 0..64 {
            let blocks = match self.random.below(4) {
                0 => 1 + self.random.below(BLOCKS_MAX),
                _ => 1,
            };
            let first = self.random.below(self.settled.len() as u64 - blocks + 1);
            let zeroes = self.random.below(16) == 0;
            let flight = Flight { number: self.written + 1, first, blocks, zeroes };
            if self.flying[flight.range()].iter().all(|number| *number == 0) {
                self.written += 1;
                self.flying[flight.range()].fill(flight.number);
                self.flights.insert(flight.number, flight);
                return Some(flight);
            }
        }
        None
    }

    fn acknowledge(&mut self, number: u64) {
        let flight = self.flights.remove(&number).expect("an answer belongs to a write");
        self.settled[flight.range()].fill(flight.content());
        self.flying[flight.range()].fill(0);
    }

    fn fill(&self, flight: &Flight, bytes: &mut [u8]) {
        for (offset, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
            let lba = flight.first + offset as u64;
            stamp(block, lba, flight.number, self.volume, flight.first, flight.blocks);
        }
    }

    /// Whether only what is allowed was found. With nothing under way, what was found is what must stay from now on: a write whose end
    /// was not heard of has either happened or not.
    fn settle(&mut self, found: &[Content]) -> Result<(), String> {
        assert_eq!(found.len(), self.settled.len(), "every block was read");
        for (lba, content) in found.iter().enumerate() {
            let flight = self.flights.get(&self.flying[lba]);
            if *content != self.settled[lba] && flight.is_none_or(|it| it.content() != *content) {
                return Err(format!(
                    "block {lba} holds {content:?}; {:?} was acknowledged or seen last, on its way was {flight:?}",
                    self.settled[lba],
                ));
            }
        }
        for flight in self.flights.values() {
            // Blocks that held before what was written don't tell.
            let telling = || flight.range().filter(|lba| self.settled[*lba] != flight.content());
            let landed = telling().filter(|lba| found[*lba] == flight.content()).count();
            if landed != 0 && landed != telling().count() {
                let all = telling().count();
                return Err(format!("{flight:?} happened in part: {landed} of {all} blocks"));
            }
        }
        self.settled.copy_from_slice(found);
        self.flying.fill(0);
        self.flights.clear();
        Ok(())
    }

    fn check(&mut self, found: &[Content], place: &str) {
        if let Err(wrong) = self.settle(found) {
            panic!("{place}: volume {}: {wrong}", self.volume);
        }
    }

    /// Reads the whole volume from the target and checks it.
    pub(crate) fn check_target(&mut self, initiator: &mut Initiator) {
        assert!(initiator.use_namespace(self.volume + 1));
        let mut bytes = vec![0; 1 << 20];
        let mut found = Vec::with_capacity(self.settled.len());
        while found.len() < self.settled.len() {
            let blocks = (self.settled.len() - found.len()).min(bytes.len() / BLOCK_BYTES);
            let bytes = &mut bytes[..blocks * BLOCK_BYTES];
            initiator.read(found.len() as u64, bytes).unwrap();
            self.parse(bytes, &mut found, "target");
        }
        self.check(&found, "target");
    }

    /// Reads the whole volume from its file and checks it.
    pub(crate) fn check_file(&mut self, path: &Path) {
        let place = path.display().to_string();
        let file = File::open(path).unwrap();
        let mut bytes = vec![0; self.settled.len() * BLOCK_BYTES];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut found = Vec::with_capacity(self.settled.len());
        self.parse(&bytes, &mut found, &place);
        self.check(&found, &place);
    }

    fn parse(&self, bytes: &[u8], found: &mut Vec<Content>, place: &str) {
        for block in bytes.chunks(BLOCK_BYTES) {
            let lba = found.len() as u64;
            match parse(block, lba, self.volume) {
                Ok(content) => found.push(content),
                Err(wrong) => panic!("{place}: volume {}, block {lba}: {wrong}", self.volume),
            }
        }
    }
}

fn stamp(block: &mut [u8], lba: u64, number: u64, volume: u32, first: u64, blocks: u64) {
    let words = [lba, number, u64::from(volume), first, blocks];
    for (place, word) in block.chunks_exact_mut(8).enumerate() {
        let value = match words.get(place) {
            Some(value) => *value,
            None => mix(lba ^ number << 24 ^ (place as u64) << 54),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    let crc = ibid_wire::crc32c(&block[..CRC_AT]);
    block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// What a block holds, or what is wrong with it.
fn parse(block: &[u8], lba: u64, volume: u32) -> Result<Content, String> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(Content::Zeroes);
    }
    let word = |place: usize| {
        u64::from_le_bytes(block[place * 8..place * 8 + 8].try_into().expect("eight bytes"))
    };
    let (number, first, blocks) = (word(1), word(3), word(4));
    let crc = u32::from_le_bytes(block[CRC_AT..].try_into().expect("four bytes"));
    if ibid_wire::crc32c(&block[..CRC_AT]) != crc {
        // A tear shows in sectors: which of them belong to the write that the first names?
        let mut expected = [0; BLOCK_BYTES];
        stamp(&mut expected, word(0), number, volume, first, blocks);
        let sectors = block.chunks(512).zip(expected.chunks(512)).map(|(found, expected)| {
            if found == expected {
                '='
            } else if found.iter().all(|byte| *byte == 0) {
                '0'
            } else {
                'x'
            }
        });
        let sectors: String = sectors.collect();
        return Err(format!("torn; it begins as write {number}, sectors {sectors}"));
    }
    if (word(0), word(2)) != (lba, volume.into()) {
        return Err(format!("holds block {} of volume {}", word(0), word(2)));
    }
    if !(first..first + blocks).contains(&lba) {
        return Err(format!("write {number} went to {first}, {blocks} blocks"));
    }
    Ok(Content::Write(number))
}

/// A client that writes in a thread of its own until it is told to stop, or its target goes away.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<(Stamps, Result<(), ClientError>)>,
}

impl Writer {
    pub(crate) fn start(addr: SocketAddr, nqn: &str, mut stamps: Stamps, depth: u16) -> Writer {
        let mut initiator = Initiator::connect(addr, nqn, &options(2, depth, false)).unwrap();
        assert!(initiator.use_namespace(stamps.volume + 1));
        assert!(u64::from(initiator.namespace().atomic_blocks) >= BLOCKS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (stop_it, count) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let result = write(&mut initiator, &mut stamps, depth.into(), &stop_it, &count)
                .and_then(|()| initiator.disconnect());
            (stamps, result)
        });
        Writer { stop, acknowledged, thread }
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
    pub(crate) fn finish(self) -> (Stamps, Result<(), ClientError>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Writes until told to stop, then waits for what is under way. An error leaves what was under way as what may or may not have happened.
fn write(
    initiator: &mut Initiator,
    stamps: &mut Stamps,
    depth: usize,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> Result<(), ClientError> {
    let mut under_way = 0;
    let mut done = Vec::with_capacity(depth);
    let mut heard = Instant::now();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        while !stopping
            && under_way < depth
            && let Some(queue) = (0..initiator.queues()).max_by_key(|queue| initiator.room(*queue))
            && initiator.room(queue) > 0
            && let Some(flight) = stamps.choose()
        {
            let Flight { number, first, blocks, zeroes } = flight;
            if zeroes {
                initiator.submit_zeroes(queue, number, first, blocks as u32, number % 2 == 0)
            } else {
                let mut buffer = vec![0; blocks as usize * BLOCK_BYTES];
                stamps.fill(&flight, &mut buffer);
                initiator.submit_write(queue, number, first, blocks as u32, false, buffer)
            }
            .unwrap();
            under_way += 1;
        }
        if under_way == 0 && stopping {
            return Ok(());
        }
        initiator.wait(Duration::from_millis(50), &mut |completion| done.push(completion))?;
        if !done.is_empty() {
            heard = Instant::now();
        } else if under_way > 0 && heard.elapsed() > SILENCE_MAX {
            return Err(ClientError::Timeout("write"));
        }
        for Completion { token, status, .. } in done.drain(..) {
            under_way -= 1;
            if status.is_success() {
                stamps.acknowledge(token);
                count.fetch_add(1, Ordering::Relaxed);
            } else {
                // It may have happened all the same: it stays in the model as on its way, and the client goes as hosts do.
                return Err(ClientError::Failed { doing: "write", status });
            }
        }
    }
}

#[test]
fn a_block_that_is_not_whole_or_not_its_own_is_told() {
    let mut block = [0; BLOCK_BYTES];
    assert_eq!(parse(&block, 7, 1), Ok(Content::Zeroes));
    stamp(&mut block, 7, 42, 1, 5, 4);
    assert_eq!(parse(&block, 7, 1), Ok(Content::Write(42)));
    assert!(parse(&block, 8, 1).unwrap_err().contains("holds block 7"));
    assert!(parse(&block, 7, 0).unwrap_err().contains("of volume 1"));
    let mut later = [0; BLOCK_BYTES];
    stamp(&mut later, 7, 43, 1, 7, 1);
    let mut torn = later;
    torn[1024..].copy_from_slice(&block[1024..]);
    assert_eq!(parse(&torn, 7, 1).unwrap_err(), "torn; it begins as write 43, sectors ==xxxxxx");
}

#[test]
fn a_model_takes_what_was_promised_and_nothing_else() {
    let landed = |content: [Content; 4]| {
        let mut stamps = Stamps::new(0, 4 * BLOCK_BYTES as u64, 1);
        for (number, first, blocks) in [(1, 0, 1), (2, 1, 2)] {
            let flight = Flight { number, first, blocks, zeroes: false };
            stamps.flying[flight.range()].fill(number);
            stamps.flights.insert(number, flight);
        }
        stamps.acknowledge(1);
        stamps.settle(&content)
    };
    let (zero, one, two) = (Content::Zeroes, Content::Write(1), Content::Write(2));
    assert_eq!(landed([one, zero, zero, zero]), Ok(()));
    assert_eq!(landed([one, two, two, zero]), Ok(()));
    assert!(landed([zero, two, two, zero]).unwrap_err().contains("block 0 holds Zeroes"));
    assert!(landed([one, two, zero, zero]).unwrap_err().contains("happened in part"));
    assert!(landed([one, two, two, two]).unwrap_err().contains("block 3 holds Write(2)"));
}
