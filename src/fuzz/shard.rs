//! A shard in place of the real one: keeps volumes in memory, answers a target's events at once, at the end of a step, or when a script
//! says so, and holds the target to its promises: FE-3 (what may be written to, and how long), FE-4 (what is released), FE-5 (what ends with a connection) and FE-6 (what is fused).

use crate::input::Input;
use ibid_engine::frontend::{
    AuthJob, CommandId, ConnId, Event, Frontend, READ_PIECES_MAX, ReadPiece,
};
use ibid_units::{Nanos, Sector, Sectors, Span, VolumeId};
use ibid_wire::nvme_tcp::{Status, crc32c};
use std::convert::Infallible;
use std::ops::Range;

/// Volumes that are served.
pub const VOLUMES: u16 = 2;
/// Bytes of each.
pub const VOLUME_BYTES: u64 = 128 << 10;
/// Longest read or write.
pub const TRANSFER: u32 = 16 << 10;
/// Runs of pages for reads and writes. What finds none is refused, as by a full log.
const RUNS: u64 = 64;

/// When events are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    /// In the order in which they come, before anything else happens.
    AtOnce,
    /// When everything that came has been taken.
    AtEnd,
    /// By [`Shard::answer`] only.
    ByScript,
}

/// What becomes of a host's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// It is written there, if the compare that it is fused with finds no difference.
    Write { to: u64, fused: Option<CommandId> },
    /// It is compared with what is there. `fused`: a write decides when.
    Compare { with: u64, fused: bool },
}

/// What the shard has to do for a command, or has to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Duty {
    /// A write or compare wants pages.
    Place { bytes: u32, what: Use },
    /// Its data comes into these pages, up to `got` so far.
    Fill { span: Span, got: u32, what: Use },
    /// Its data is there.
    Full { span: Span, what: Use },
    /// A read wants data.
    Read { from: u64, bytes: u32 },
    /// Its data is being sent from these pages.
    Pinned { span: Span },
    /// A flush or a verify.
    Look,
    /// A run of zeroes.
    Zeroes { to: u64, bytes: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Task {
    cmd: CommandId,
    duty: Duty,
    /// The connection is gone; the answer goes nowhere.
    orphan: bool,
}

/// The shard and its memory.
#[derive(Debug)]
pub struct Shard {
    /// When events are answered.
    pub answers: Answers,
    arena: Vec<u8>,
    /// Runs of pages nobody has.
    free: Vec<u64>,
    tasks: Vec<Task>,
    /// Whose data came since the frontend was last asked for events until it had no more: what was answered meanwhile may stand among the rest as
    /// abandoned, for that was decided before.
    told: Vec<CommandId>,
    /// A digest was wrong, which is said at once: how much the host still hears of it depends on how the stream is cut.
    pub digest_was_wrong: bool,
    /// What is to be computed for authentications.
    jobs: Vec<AuthJob>,
    /// What stands for chance: the same in every run of a script.
    chance: u64,
    /// The time.
    pub now: Nanos,
}

fn range(at: u64, len: u64) -> Range<usize> {
    at as usize..(at + len) as usize
}

fn contains(outer: Span, inner: Span) -> bool {
    outer.at <= inner.at && inner.end() <= outer.end()
}

impl Shard {
    /// Volumes full of zeroes.
    pub fn new(answers: Answers) -> Self {
        let volumes = u64::from(VOLUMES) * VOLUME_BYTES;
        let run = |index: u64| volumes + index * u64::from(TRANSFER);
        Self {
            answers,
            arena: vec![0; run(RUNS) as usize],
            free: (0..RUNS).map(run).collect(),
            tasks: Vec::new(),
            jobs: Vec::new(),
            told: Vec::new(),
            digest_was_wrong: false,
            chance: 0,
            now: Nanos::ZERO,
        }
    }

    /// Bytes of the arena.
    pub fn bytes(&self, span: Span) -> &[u8] {
        &self.arena[range(span.at, span.len.into())]
    }

    /// A part of a volume.
    pub fn volume(&self, volume: u16, at: u64, len: u64) -> &[u8] {
        &self.arena[range(u64::from(volume) * VOLUME_BYTES + at, len)]
    }

    /// Pages that the target wants the next bytes of a connection in: they must be those that a write of this connection was given,
    /// behind what has come for it (FE-3).
    pub fn receive_into(&mut self, conn: ConnId, span: Span, bytes: &[u8]) {
        let is_leased = self.tasks.iter().any(|task| match task.duty {
            Duty::Fill { span: pages, got, .. } => {
                task.cmd.conn() == conn && contains(pages.skip(got), span)
            }
            _ => false,
        });
        assert!(is_leased, "FE-3: {conn:?} receives into {span:?}, which it was not given");
        assert!(bytes.len() <= span.len as usize, "more bytes than there is room for");
        self.arena[range(span.at, bytes.len() as u64)].copy_from_slice(bytes);
    }

    /// Pages that the target wants sent on a connection: they must be those of a read of it that is not released (FE-4).
    pub fn send_from(&self, conn: ConnId, span: Span) -> &[u8] {
        let is_pinned = self.tasks.iter().any(|task| match task.duty {
            Duty::Pinned { span: pages } => task.cmd.conn() == conn && contains(pages, span),
            _ => false,
        });
        assert!(is_pinned, "FE-4: {conn:?} sends from {span:?}, which it was not given");
        self.bytes(span)
    }

    fn place(volume: VolumeId, first: Sector, sectors: u64) -> u64 {
        let end = first.bytes() + sectors * 512;
        assert!(volume.get() < VOLUMES && end <= VOLUME_BYTES, "a run beyond the end of a volume");
        u64::from(volume.get()) * VOLUME_BYTES + first.bytes()
    }

    fn push(&mut self, cmd: CommandId, duty: Duty) {
        self.tasks.push(Task { cmd, duty, orphan: false });
    }

    fn find(&self, cmd: CommandId) -> Option<usize> {
        self.tasks.iter().position(|task| task.cmd == cmd)
    }

    fn transfer(&self, cmd: CommandId, sectors: Sectors) -> u32 {
        assert!(self.find(cmd).is_none(), "a command is told twice");
        let bytes = sectors.bytes();
        assert!((512..=u64::from(TRANSFER)).contains(&bytes), "a transfer of {bytes} bytes");
        bytes as u32
    }

    /// Events are about to be taken in.
    pub fn begin(&mut self) {
        self.told.clear();
    }

    /// Takes an event in.
    pub fn event(&mut self, frontend: &mut Frontend, event: Event) {
        match event {
            Event::Write { cmd, volume, first, sectors, fused, .. } => {
                let bytes = self.transfer(cmd, sectors);
                let to = Self::place(volume, first, sectors.get().into());
                if let Some(compare) = fused {
                    self.assert_pair(compare, cmd, to, bytes);
                }
                self.push(cmd, Duty::Place { bytes, what: Use::Write { to, fused } });
            }
            Event::Compare { cmd, volume, first, sectors, fused, .. } => {
                let bytes = self.transfer(cmd, sectors);
                let with = Self::place(volume, first, sectors.get().into());
                self.push(cmd, Duty::Place { bytes, what: Use::Compare { with, fused } });
            }
            Event::Read { cmd, volume, first, sectors } => {
                let bytes = self.transfer(cmd, sectors);
                let from = Self::place(volume, first, sectors.get().into());
                self.push(cmd, Duty::Read { from, bytes });
            }
            Event::Flush { cmd, volume } => {
                assert!(self.find(cmd).is_none(), "a command is told twice");
                assert!(volume.get() < VOLUMES, "a flush of no volume");
                self.push(cmd, Duty::Look);
            }
            Event::Verify { cmd, volume, first, sectors } => {
                assert!(self.find(cmd).is_none(), "a command is told twice");
                Self::place(volume, first, sectors.get().into());
                self.push(cmd, Duty::Look);
            }
            Event::Zeroes { cmd, volume, first, sectors, .. } => {
                let to = Self::place(volume, first, sectors.get().into());
                self.push(cmd, Duty::Zeroes { to, bytes: sectors.bytes() });
            }
            Event::Arrived { cmd, span, digest, last } => {
                self.arrived(frontend, cmd, span, digest, last);
            }
            Event::Released { cmd } => {
                let index = self.find(cmd).expect("FE-4: a read is released that has no pages");
                let Duty::Pinned { span } = self.tasks.swap_remove(index).duty else {
                    panic!("FE-4: a command is released that has no pages to give back");
                };
                self.free.push(span.at);
            }
            Event::Abandoned { cmd } => self.abandoned(cmd),
            Event::Authenticate { conn } => {
                let job = frontend.take_auth_job(conn);
                self.jobs.push(job.expect("what is to be computed is there"));
            }
            Event::Attend { .. } => {}
        }
        if self.answers == Answers::AtOnce {
            self.answer_all(frontend);
        }
    }

    /// A write comes with the compare of the same range that came before it on its queue (FE-6).
    fn assert_pair(&self, compare: CommandId, write: CommandId, to: u64, len: u32) {
        let index = self.find(compare).expect("FE-6: a write is fused with a compare that is gone");
        let (bytes, what) = match self.tasks[index].duty {
            Duty::Place { bytes, what } => (bytes, what),
            Duty::Fill { span, what, .. } | Duty::Full { span, what } => (span.len, what),
            duty => panic!("FE-6: a write is fused with {duty:?}"),
        };
        assert!(
            what == Use::Compare { with: to, fused: true } && bytes == len,
            "FE-6: a write is fused with a compare of another range: {what:?}"
        );
        assert!(compare.conn() == write.conn(), "FE-6: a pair is on two queues");
    }

    fn arrived(
        &mut self,
        frontend: &mut Frontend,
        cmd: CommandId,
        part: Span,
        digest: Option<u32>,
        last: bool,
    ) {
        self.told.push(cmd);
        let index = self.find(cmd).expect("data came for a write that has no pages");
        let Duty::Fill { span, got, what } = self.tasks[index].duty else {
            panic!("data came for a command that awaits none");
        };
        assert!(part.at == span.at + u64::from(got), "data came out of order");
        assert!(contains(span, part), "FE-3: data came outside of its pages");
        let got = got + part.len;
        assert!(last == (got == span.len), "the last data is not the last");
        if digest.is_some_and(|digest| digest != crc32c(self.bytes(part))) {
            let task = self.tasks.swap_remove(index);
            self.free.push(span.at);
            self.digest_was_wrong = true;
            frontend.digest_is_wrong(cmd);
            self.end_pair(frontend, task.duty);
        } else if last {
            self.tasks[index].duty = Duty::Full { span, what };
        } else {
            self.tasks[index].duty = Duty::Fill { span, got, what };
        }
    }

    fn abandoned(&mut self, cmd: CommandId) {
        let is_known = self.find(cmd).is_some() || self.told.contains(&cmd);
        assert!(is_known, "a command is abandoned that nobody knows");
        let mut index = 0;
        while index < self.tasks.len() {
            let task = &mut self.tasks[index];
            if task.cmd != cmd {
                index += 1;
                continue;
            }
            assert!(!task.orphan, "a command is abandoned twice");
            match task.duty {
                Duty::Fill { span, .. } | Duty::Full { span, what: Use::Compare { .. } } => {
                    self.free.push(span.at);
                    self.tasks.swap_remove(index);
                }
                Duty::Place { .. } => {
                    self.tasks.swap_remove(index);
                }
                Duty::Pinned { .. } => panic!("FE-4: a read with pages is abandoned"),
                Duty::Full { .. } | Duty::Read { .. } | Duty::Look | Duty::Zeroes { .. } => {
                    task.orphan = true;
                    index += 1;
                }
            }
        }
    }

    /// Answers everything that can be answered, as well as it can be.
    pub fn answer_all(&mut self, frontend: &mut Frontend) {
        while (0..self.tasks.len()).any(|index| self.succeed(frontend, index, 1)) {}
        while !self.jobs.is_empty() {
            self.compute(frontend, 0, true);
        }
    }

    /// Brings what an authentication wants computed, or does not.
    fn compute(&mut self, frontend: &mut Frontend, index: usize, well: bool) {
        let job = self.jobs.swap_remove(index);
        let chance = |out: &mut [u8]| {
            for part in out.chunks_mut(8) {
                self.chance += 1;
                // Different each time, and that is all.
                let bytes = self.chance.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
                part.copy_from_slice(&bytes[..part.len()]);
            }
            Ok::<(), Infallible>(())
        };
        let answer = if well { job.run(chance) } else { job.refuse() };
        frontend.auth_computed(self.now, answer);
    }

    /// Answers one of the commands that wait, or brings what was computed, in a way of the script's choice.
    pub fn answer(&mut self, frontend: &mut Frontend, input: &mut Input<'_>) {
        let (which, how) = (input.u8(), input.u8());
        let count = self.tasks.len() + self.jobs.len();
        if count == 0 {
            return;
        }
        let index = usize::from(which) % count;
        let Some(&Task { duty, cmd, .. }) = self.tasks.get(index) else {
            self.compute(frontend, index - self.tasks.len(), how & 3 != 3);
            return;
        };
        match (duty, how & 3) {
            (Duty::Pinned { .. }, _) => {}
            // The write moves while its data comes: what is there goes along, also of a PDU that is not complete.
            (Duty::Fill { span, got, what }, 0 | 1) => {
                if let Some(at) = self.free.pop() {
                    self.arena.copy_within(range(span.at, span.len.into()), at as usize);
                    let pages = Span::new(at, span.len);
                    frontend.move_write(cmd, pages);
                    self.free.push(span.at);
                    self.tasks[index].duty = Duty::Fill { span: pages, got, what };
                }
            }
            (Duty::Fill { span, .. }, _) | (Duty::Full { span, .. }, 3) => {
                self.free.push(span.at);
                self.end(frontend, index, Status::COMMAND_INTERRUPTED);
            }
            (_, 3) => self.end(frontend, index, Status::COMMAND_INTERRUPTED),
            (_, _) => {
                self.succeed(frontend, index, usize::from(how >> 2));
            }
        }
    }

    /// Ends a command. A write that fails takes the compare with it that it is fused with.
    fn end(&mut self, frontend: &mut Frontend, index: usize, status: Status) {
        let task = self.tasks.swap_remove(index);
        frontend.complete(task.cmd, status);
        if !status.is_success() {
            self.end_pair(frontend, task.duty);
        }
    }

    fn end_pair(&mut self, frontend: &mut Frontend, duty: Duty) {
        let (Duty::Place { what, .. } | Duty::Fill { what, .. } | Duty::Full { what, .. }) = duty
        else {
            return;
        };
        let Use::Write { fused: Some(compare), .. } = what else { return };
        if let Some(index) = self.find(compare) {
            let task = self.tasks.swap_remove(index);
            if let Duty::Fill { span, .. } | Duty::Full { span, .. } = task.duty {
                self.free.push(span.at);
            }
            frontend.complete(compare, Status::ABORTED_FAILED_FUSED);
        }
    }

    /// Does what can be done for one command; a read in so many pieces. Whether anything could be.
    fn succeed(&mut self, frontend: &mut Frontend, index: usize, pieces: usize) -> bool {
        let Task { cmd, duty, .. } = self.tasks[index];
        match duty {
            Duty::Place { bytes, what } => {
                let Some(at) = self.free.pop() else {
                    self.end(frontend, index, Status::COMMAND_INTERRUPTED);
                    return true;
                };
                let span = Span::new(at, bytes);
                self.tasks[index].duty = Duty::Fill { span, got: 0, what };
                frontend.place_write(cmd, span);
            }
            Duty::Full { span, what: Use::Compare { with, fused: false } } => {
                let status = self.compare(span, with);
                self.free.push(span.at);
                self.end(frontend, index, status);
            }
            Duty::Full { span, what: Use::Write { to, fused } } => {
                return self.write(frontend, index, span, to, fused);
            }
            Duty::Read { from, bytes } => {
                let Some(at) = self.free.pop() else {
                    self.end(frontend, index, Status::COMMAND_INTERRUPTED);
                    return true;
                };
                self.arena.copy_within(range(from, bytes.into()), at as usize);
                let span = Span::new(at, bytes);
                self.tasks[index].duty = Duty::Pinned { span };
                self.send(frontend, cmd, span, pieces);
            }
            Duty::Zeroes { to, bytes } => {
                self.arena[range(to, bytes)].fill(0);
                self.end(frontend, index, Status::SUCCESS);
            }
            Duty::Look => self.end(frontend, index, Status::SUCCESS),
            Duty::Full { what: Use::Compare { fused: true, .. }, .. }
            | Duty::Fill { .. }
            | Duty::Pinned { .. } => return false,
        }
        true
    }

    fn compare(&self, span: Span, with: u64) -> Status {
        if self.bytes(span) == &self.arena[range(with, span.len.into())] {
            Status::SUCCESS
        } else {
            Status::COMPARE_FAILURE
        }
    }

    /// Writes, together with the compare that the write is fused with. `false`: that one still waits for its data.
    fn write(
        &mut self,
        frontend: &mut Frontend,
        index: usize,
        span: Span,
        to: u64,
        fused: Option<CommandId>,
    ) -> bool {
        let cmd = self.tasks[index].cmd;
        let mut status = Status::SUCCESS;
        if let Some(compare) = fused {
            status = Status::ABORTED_FAILED_FUSED;
            match self.find(compare).map(|other| (other, self.tasks[other].duty)) {
                Some((other, Duty::Full { span: pages, what: Use::Compare { with, .. } })) => {
                    let compared = self.compare(pages, with);
                    if compared.is_success() {
                        status = compared;
                    }
                    self.free.push(pages.at);
                    self.end(frontend, other, compared);
                }
                Some(_) => return false,
                // It was ended before.
                None => {}
            }
        }
        if status.is_success() {
            self.arena.copy_within(range(span.at, span.len.into()), to as usize);
        }
        self.free.push(span.at);
        let index = self.find(cmd).expect("a write that is being ended is there");
        self.end(frontend, index, status);
        true
    }

    /// Once a connection begins to close, nothing of it is to be done that somebody waits for (FE-5).
    pub fn assert_abandoned(&self, conn: ConnId) {
        let waits = self.tasks.iter().find(|task| {
            task.cmd.conn() == conn && !task.orphan && !matches!(task.duty, Duty::Pinned { .. })
        });
        assert!(waits.is_none(), "FE-5: {conn:?} ends, and {waits:?} was not abandoned");
    }

    fn send(&self, frontend: &mut Frontend, cmd: CommandId, span: Span, pieces: usize) {
        let mut list = [ReadPiece::default(); READ_PIECES_MAX];
        let count = pieces.clamp(1, READ_PIECES_MAX).min((span.len / 512) as usize);
        let wants = frontend.wants_data_digest(cmd);
        let mut left = span;
        for (index, place) in list[..count].iter_mut().enumerate() {
            let is_last = index + 1 == count;
            let piece = if is_last { left } else { left.first(512) };
            left = left.skip(piece.len);
            *place = ReadPiece { span: piece, crc: wants.then(|| crc32c(self.bytes(piece))) };
        }
        frontend.read_ready(cmd, &list[..count]);
    }

    /// Nothing is left of any command.
    pub fn assert_empty(&self) {
        assert!(self.tasks.is_empty(), "nobody is there, and the shard still has {:?}", self.tasks);
        assert!(self.free.len() as u64 == RUNS, "pages are lost");
    }
}
