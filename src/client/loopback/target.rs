//! A target for tests: the real frontend on loopback, a vector as arena and volume, and the smallest pump that joins them.

use crate::queue::crc32c;
use ibid_engine::frontend::{
    AnaState, AuthConfig, CommandId, ConnId, Event, Frontend, Limits, NamespaceConfig, Piece,
    PieceList, READ_PIECES_MAX, ReadPiece, ReceivePlan, TargetConfig,
};
use ibid_units::{Nanos, Span, VolumeId};
use ibid_wire::nvme_tcp::Status;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) const NQN: &str = "nqn.2014-08.org.example:ibid-test";
pub(super) const VOLUME_BYTES: u64 = 16 << 20;
const TRANSFER: u32 = 1 << 20;
const DEPTH: u16 = 64;
const CONNECTIONS: u16 = 8;

pub(super) struct Target {
    pub(super) addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<u8>>>,
}

impl Target {
    pub(super) fn start(lba_bytes: u32) -> Self {
        Self::start_with(lba_bytes, AuthConfig::default())
    }

    /// One that asks hosts for authentication.
    pub(super) fn start_with(lba_bytes: u32, auth: AuthConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let config = TargetConfig {
            nqn: NQN.into(),
            serial: "1".into(),
            model: "ibid test".into(),
            firmware: "0".into(),
            namespaces: vec![NamespaceConfig {
                volume: VolumeId::new(0),
                capacity: VOLUME_BYTES / 512,
                lba_bytes,
                uuid: [1; 16],
                nguid: [2; 16],
            }],
            access: AnaState::Optimized,
            limits: Limits {
                connections_max: CONNECTIONS,
                queue_depth_max: DEPTH,
                io_queues_max: 4,
                ..Limits::default()
            },
            hosts: None,
            auth,
            traddr: "127.0.0.1".into(),
            trsvcid: addr.port(),
            port_id: 1,
            referrals: Vec::new(),
            controller_ids: (1, 100),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread =
            std::thread::spawn(move || Pump::new(Frontend::new(config), listener).run(&seen));
        Self { addr, stop, thread: Some(thread) }
    }

    /// Ends the target; gives the volume's bytes.
    pub(super) fn stop(mut self) -> Vec<u8> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Chance.
fn chance(out: &mut [u8]) -> std::io::Result<()> {
    std::fs::File::open("/dev/urandom")?.read_exact(out)
}

struct Pump {
    frontend: Frontend,
    listener: TcpListener,
    streams: Vec<Option<(ConnId, TcpStream)>>,
    /// The volume, then a transfer's room for every command slot.
    arena: Vec<u8>,
    /// Where the write of a slot goes in the volume.
    writes: Vec<u64>,
    /// Of the compare in a slot what it found, and of the write in a slot which compare it is fused with, and whether its data is there.
    compares: Vec<Option<Option<bool>>>,
    fused: Vec<Option<(CommandId, bool)>>,
    paired: Vec<Option<CommandId>>,
    start: Instant,
}

impl Pump {
    fn new(frontend: Frontend, listener: TcpListener) -> Self {
        let slots = usize::from(CONNECTIONS) * usize::from(DEPTH);
        Self {
            frontend,
            listener,
            streams: (0..CONNECTIONS).map(|_| None).collect(),
            arena: vec![0; VOLUME_BYTES as usize + slots * TRANSFER as usize],
            writes: vec![0; slots],
            compares: vec![None; slots],
            fused: vec![None; slots],
            paired: vec![None; slots],
            start: Instant::now(),
        }
    }

    fn run(mut self, stop: &AtomicBool) -> Vec<u8> {
        while !stop.load(Ordering::Relaxed) {
            let mut busy = false;
            let now = Nanos::new(self.start.elapsed().as_nanos() as u64);
            if let Ok((stream, _)) = self.listener.accept() {
                stream.set_nonblocking(true).unwrap();
                stream.set_nodelay(true).unwrap();
                if let Some(conn) = self.frontend.open(now, Ipv4Addr::LOCALHOST.into()) {
                    self.streams[conn.index()] = Some((conn, stream));
                }
                busy = true;
            }
            self.frontend.tick(now);
            self.events();
            for index in 0..self.streams.len() {
                busy |= self.turn(now, index);
            }
            if !busy {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        self.arena.truncate(VOLUME_BYTES as usize);
        self.arena
    }

    fn turn(&mut self, now: Nanos, index: usize) -> bool {
        let Some((conn, mut stream)) = self.streams[index].take() else {
            return false;
        };
        let mut busy = false;
        let mut closes = false;
        for _ in 0..64 {
            let result = match self.frontend.receive_plan(conn) {
                ReceivePlan::Receive { payload, head } => {
                    let payload = match payload {
                        Some(span) => &mut self.arena[span.at as usize..span.end() as usize],
                        None => &mut [],
                    };
                    stream.read_vectored(&mut [IoSliceMut::new(payload), IoSliceMut::new(head)])
                }
                ReceivePlan::Blocked => break,
                ReceivePlan::Closing => {
                    let mut list = PieceList::new();
                    self.frontend.send_plan(conn, &mut list);
                    closes |= list.is_empty();
                    break;
                }
            };
            match result {
                Ok(0) => {
                    closes = true;
                    break;
                }
                Ok(count) => {
                    busy = true;
                    self.frontend.received(now, conn, count);
                    self.events();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    closes = true;
                    break;
                }
            }
        }
        loop {
            let mut list = PieceList::new();
            self.frontend.send_plan(conn, &mut list);
            if list.is_empty() {
                break;
            }
            let slices: Vec<IoSlice<'_>> = list
                .as_slice()
                .iter()
                .map(|piece| match piece {
                    Piece::Bytes(bytes) => IoSlice::new(bytes),
                    Piece::Span(span) => {
                        IoSlice::new(&self.arena[span.at as usize..span.end() as usize])
                    }
                })
                .collect();
            match stream.write_vectored(&slices) {
                Ok(count) => {
                    busy = true;
                    self.frontend.sent(conn, count);
                    self.events();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    closes = true;
                    break;
                }
            }
        }
        if closes {
            self.frontend.closed(now, conn);
            self.events();
        } else {
            self.streams[index] = Some((conn, stream));
        }
        busy
    }

    fn events(&mut self) {
        while let Some(event) = self.frontend.poll_event() {
            match event {
                Event::Write { cmd, first, sectors, .. }
                | Event::Compare { cmd, first, sectors, .. } => {
                    let place = place_of(cmd);
                    self.writes[place] = first.bytes();
                    self.compares[place] = None;
                    self.fused[place] = None;
                    match event {
                        Event::Write { fused: Some(one), .. } => {
                            self.fused[place] = Some((one, false));
                            self.paired[place] = Some(cmd);
                        }
                        Event::Compare { .. } => self.compares[place] = Some(None),
                        _ => {}
                    }
                    let at = VOLUME_BYTES + place as u64 * u64::from(TRANSFER);
                    self.frontend.place_write(cmd, Span::new(at, sectors.bytes() as u32));
                }
                Event::Arrived { cmd, span, digest, last } => {
                    let from = span.at as usize..span.end() as usize;
                    if digest.is_some_and(|digest| digest != crc32c(&self.arena[from.clone()])) {
                        self.frontend.digest_is_wrong(cmd);
                        continue;
                    }
                    let place = place_of(cmd);
                    let base = VOLUME_BYTES + place as u64 * u64::from(TRANSFER);
                    if !last {
                        continue;
                    }
                    let len = (span.end() - base) as usize;
                    let (base, at) = (base as usize, self.writes[place] as usize);
                    if self.compares[place].is_some() {
                        let equal = self.arena[base..base + len] == self.arena[at..at + len];
                        self.compares[place] = Some(Some(equal));
                        let status = if equal { Status::SUCCESS } else { Status::COMPARE_FAILURE };
                        self.frontend.complete(cmd, status);
                    } else if let Some((one, _)) = self.fused[place] {
                        self.fused[place] = Some((one, true));
                    } else {
                        self.arena.copy_within(base..base + len, at);
                        self.frontend.complete(cmd, Status::SUCCESS);
                    }
                    self.pairs(len);
                }
                Event::Read { cmd, first, sectors, .. } => {
                    // In as many pieces as there may be, to see them joined.
                    let step = (sectors.get().div_ceil(READ_PIECES_MAX as u32)).max(1) * 512;
                    let mut span = Span::new(first.bytes(), sectors.bytes() as u32);
                    let mut pieces = Vec::new();
                    while span.len > 0 {
                        let piece = span.first(step);
                        let crc = self
                            .frontend
                            .wants_data_digest(cmd)
                            .then(|| crc32c(&self.arena[piece.at as usize..piece.end() as usize]));
                        pieces.push(ReadPiece { span: piece, crc });
                        span = span.skip(piece.len);
                    }
                    self.frontend.read_ready(cmd, &pieces);
                }
                Event::Flush { cmd, .. } | Event::Verify { cmd, .. } => {
                    self.frontend.complete(cmd, Status::SUCCESS)
                }
                Event::Zeroes { cmd, first, sectors, .. } => {
                    let at = first.bytes() as usize;
                    self.arena[at..at + sectors.bytes() as usize].fill(0);
                    self.frontend.complete(cmd, Status::SUCCESS);
                }
                Event::Authenticate { conn } => {
                    let job = self.frontend.take_auth_job(conn).expect("it was asked for");
                    let now = Nanos::new(self.start.elapsed().as_nanos() as u64);
                    self.frontend.auth_computed(now, job.run(chance));
                }
                Event::Released { .. } | Event::Abandoned { .. } | Event::Attend { .. } => {}
            }
        }
    }
    /// Writes whose compare has ended, too. (With one host that waits for each pair, all of them are as long.)
    fn pairs(&mut self, len: usize) {
        for place in 0..self.fused.len() {
            let Some((one, true)) = self.fused[place] else { continue };
            let Some(Some(equal)) = self.compares[place_of(one)] else { continue };
            self.fused[place] = None;
            let status = if equal { Status::SUCCESS } else { Status::ABORTED_FAILED_FUSED };
            if equal {
                let base = VOLUME_BYTES as usize + place * TRANSFER as usize;
                self.arena.copy_within(base..base + len, self.writes[place] as usize);
            }
            let cmd = self.paired[place].take().expect("a pair's write has a name");
            self.frontend.complete(cmd, status);
        }
    }
}

fn place_of(cmd: CommandId) -> usize {
    cmd.conn().index() * usize::from(DEPTH) + cmd.slot()
}
