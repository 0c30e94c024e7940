//! Requests: submitting, polling, waiting, and a blocking convenience over them.

use crate::ClientError;
use crate::connect::KEEP_ALIVE;
use crate::initiator::Initiator;
use crate::queue::{Completion, Flow};
use crate::wait::wait;
use ibid_wire::nvme_tcp::{Deallocate, DsmRange, Io, Sgl, Sqe, Status, opcode, psdt};
use std::time::{Duration, Instant};

/// Why a request was not taken. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RefusedWhy {
    /// As many requests are outstanding as the queue takes: poll, then try again.
    #[error("the queue is full")]
    Full,
    /// There is no such queue.
    #[error("there is no such queue")]
    NoQueue,
    /// The length is 0, or more than one command can say or the target takes.
    #[error("the length is out of range")]
    Length,
    /// The buffer is shorter than the request.
    #[error("the buffer is too short")]
    Buffer,
}

/// A request that was not taken, with its buffer.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub why: RefusedWhy,
    /// The caller's buffer.
    pub buffer: Vec<u8>,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write { fua: bool, fuse: u8 },
    Compare { fuse: u8 },
    Verify,
    Flush,
    Zeroes { deallocate: bool },
    Deallocate,
}

impl Kind {
    /// Its data travels in the caller's buffer.
    const fn has_data(self) -> bool {
        matches!(self, Kind::Read | Kind::Write { .. } | Kind::Compare { .. })
    }
}

/// A pair that was not taken, with its buffers.
#[derive(Debug)]
pub struct PairRefused {
    /// Why.
    pub why: RefusedWhy,
    /// The caller's buffers: what was expected, what was to be written.
    pub buffers: [Vec<u8>; 2],
}

impl Initiator {
    /// Reads `blocks` logical blocks into the start of `buffer`.
    pub fn submit_read(
        &mut self,
        queue: usize,
        token: u64,
        slba: u64,
        blocks: u32,
        buffer: Vec<u8>,
    ) -> Result<(), Refused> {
        self.submit(queue, token, Kind::Read, slba, blocks, buffer)
    }

    /// Writes `blocks` logical blocks from the start of `buffer`.
    pub fn submit_write(
        &mut self,
        queue: usize,
        token: u64,
        slba: u64,
        blocks: u32,
        fua: bool,
        buffer: Vec<u8>,
    ) -> Result<(), Refused> {
        self.submit(queue, token, Kind::Write { fua, fuse: 0 }, slba, blocks, buffer)
    }

    /// Compares `blocks` logical blocks with the start of `buffer`: ends with [`Status::COMPARE_FAILURE`] where they differ.
    pub fn submit_compare(
        &mut self,
        queue: usize,
        token: u64,
        slba: u64,
        blocks: u32,
        buffer: Vec<u8>,
    ) -> Result<(), Refused> {
        self.submit(queue, token, Kind::Compare { fuse: 0 }, slba, blocks, buffer)
    }

    /// Writes `blocks` logical blocks from the second buffer if they are as in the first one, with nothing in between (fused Compare and
    /// Write). Both commands end: the compare as one by itself, the write with [`Status::ABORTED_FAILED_FUSED`] where they differ.
    pub fn submit_compare_and_write(
        &mut self,
        queue: usize,
        tokens: [u64; 2],
        slba: u64,
        blocks: u32,
        buffers: [Vec<u8>; 2],
    ) -> Result<(), PairRefused> {
        let compare = Kind::Compare { fuse: psdt::FUSE_FIRST };
        let write = Kind::Write { fua: false, fuse: psdt::FUSE_SECOND };
        let refusal = match self.judge(queue, compare, blocks, &buffers[0]) {
            Err(why) => Some(why),
            Ok(_) if self.room(queue) < 2 => Some(RefusedWhy::Full),
            Ok(_) => self.judge(queue, write, blocks, &buffers[1]).err(),
        };
        if let Some(why) = refusal {
            return Err(PairRefused { why, buffers });
        }
        let [expected, new] = buffers;
        self.submit(queue, tokens[0], compare, slba, blocks, expected)
            .and_then(|()| self.submit(queue, tokens[1], write, slba, blocks, new))
            .expect("there is room for both");
        Ok(())
    }

    /// Has `blocks` logical blocks read and checked, and nothing sent.
    pub fn submit_verify(
        &mut self,
        queue: usize,
        token: u64,
        slba: u64,
        blocks: u32,
    ) -> Result<(), Refused> {
        self.submit(queue, token, Kind::Verify, slba, blocks, Vec::new())
    }

    /// Flushes the namespace.
    pub fn submit_flush(&mut self, queue: usize, token: u64) -> Result<(), Refused> {
        self.submit(queue, token, Kind::Flush, 0, 1, Vec::new())
    }

    /// Makes a run read as zeroes, giving its space back where `deallocate` says so.
    pub fn submit_zeroes(
        &mut self,
        queue: usize,
        token: u64,
        slba: u64,
        blocks: u32,
        deallocate: bool,
    ) -> Result<(), Refused> {
        self.submit(queue, token, Kind::Zeroes { deallocate }, slba, blocks, Vec::new())
    }

    /// Deallocates a run (Dataset Management).
    pub fn submit_deallocate(
        &mut self,
        queue: usize,
        token: u64,
        slba: u64,
        blocks: u32,
    ) -> Result<(), Refused> {
        self.submit(queue, token, Kind::Deallocate, slba, blocks, Vec::new())
    }

    /// Requests that the queue can still take.
    pub fn room(&self, queue: usize) -> usize {
        self.queues.get(queue).map_or(0, |queue| queue.room())
    }

    fn judge(
        &self,
        queue: usize,
        kind: Kind,
        blocks: u32,
        buffer: &[u8],
    ) -> Result<u16, RefusedWhy> {
        let bytes = u64::from(blocks) * u64::from(self.namespace.lba_bytes);
        let limit = match kind {
            Kind::Read | Kind::Write { .. } => {
                u64::from(self.transfer_bytes_max) / u64::from(self.namespace.lba_bytes)
            }
            Kind::Compare { fuse: 0 } => self.compare_blocks_max,
            Kind::Compare { .. } if self.has_pairs => self.namespace.pair_blocks.into(),
            Kind::Compare { .. } => 0,
            Kind::Verify => self.verify_blocks_max.min(1 << 16),
            Kind::Flush => 1,
            Kind::Zeroes { .. } => self.zeroes_blocks_max.min(1 << 16),
            Kind::Deallocate => self.deallocate_blocks_max,
        };
        if blocks == 0 || u64::from(blocks) > limit {
            return Err(RefusedWhy::Length);
        }
        if kind.has_data() && (buffer.len() as u64) < bytes {
            return Err(RefusedWhy::Buffer);
        }
        self.queues.get(queue).ok_or(RefusedWhy::NoQueue)?.next_slot().ok_or(RefusedWhy::Full)
    }

    fn submit(
        &mut self,
        queue: usize,
        token: u64,
        kind: Kind,
        slba: u64,
        blocks: u32,
        buffer: Vec<u8>,
    ) -> Result<(), Refused> {
        let cid = match self.judge(queue, kind, blocks, &buffer) {
            Ok(cid) => cid,
            Err(why) => return Err(Refused { why, buffer }),
        };
        let (nsid, lba_bytes) = (self.namespace.nsid, self.namespace.lba_bytes);
        let queue = &mut self.queues[queue];
        let bytes = blocks.saturating_mul(lba_bytes);
        let io = |fua| Io { slba, blocks, fua };
        match kind {
            Kind::Read => {
                let mut sqe = io(false).emit(opcode::READ, cid, nsid);
                sqe.sgl = Sgl::transport(bytes);
                queue.submit(&sqe, &[], Flow::In { done: 0 }, bytes, token, buffer);
            }
            Kind::Write { .. } | Kind::Compare { .. } => {
                let (code, fua, fuse) = match kind {
                    Kind::Write { fua, fuse } => (opcode::WRITE, fua, fuse),
                    Kind::Compare { fuse } => (opcode::COMPARE, false, fuse),
                    _ => unreachable!("these two send data"),
                };
                let mut sqe = io(fua).emit(code, cid, nsid).fused(fuse);
                let inline = bytes <= queue.in_capsule;
                sqe.sgl = if inline { Sgl::in_capsule(bytes) } else { Sgl::transport(bytes) };
                let flow = if inline { Flow::Settled } else { Flow::Out { asked: 0, staged: 0 } };
                queue.submit(&sqe, &[], flow, bytes, token, buffer);
            }
            Kind::Verify => {
                let sqe = io(false).emit(opcode::VERIFY, cid, nsid);
                queue.submit(&sqe, &[], Flow::Settled, 0, token, buffer);
            }
            Kind::Flush => queue.submit(
                &Sqe::new(opcode::FLUSH, cid, nsid),
                &[],
                Flow::Settled,
                0,
                token,
                buffer,
            ),
            Kind::Zeroes { deallocate } => {
                queue.submit(
                    &io(false).emit_zeroes(cid, nsid, deallocate),
                    &[],
                    Flow::Settled,
                    0,
                    token,
                    buffer,
                );
            }
            Kind::Deallocate => {
                let mut list = [0; DsmRange::BYTES];
                DsmRange { attributes: 0, blocks, slba }.emit(&mut list);
                let sqe = Deallocate { ranges: 1, deallocate: true }.emit(cid, nsid);
                queue.submit(&sqe, &list, Flow::Settled, 0, token, buffer);
            }
        }
        Ok(())
    }

    /// Sends and receives what can be now, without waiting; shows every request that ended to `sink` and returns how many. Sends a keep-alive
    /// when one is due, so call this or [`Initiator::wait`] at least every few seconds.
    pub fn poll(&mut self, sink: &mut dyn FnMut(Completion)) -> Result<usize, ClientError> {
        let mut ended = 0;
        for queue in &mut self.queues {
            ended += queue.poll(sink)?;
        }
        self.keep_alive()?;
        Ok(ended)
    }

    /// Like [`Initiator::poll`], but sleeps until something ends or `timeout` is over.
    pub fn wait(
        &mut self,
        timeout: Duration,
        sink: &mut dyn FnMut(Completion),
    ) -> Result<usize, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            let ended = self.poll(sink)?;
            let now = Instant::now();
            if ended > 0 || now >= deadline {
                return Ok(ended);
            }
            let keep_alive =
                if self.keep_alive_every.is_zero() { deadline } else { self.keep_alive_at };
            let until = deadline.min(keep_alive);
            let sockets = self
                .queues
                .iter()
                .chain([&self.admin])
                .map(|queue| (&queue.stream, queue.wants_to_write()));
            wait(sockets, until.saturating_duration_since(now))
                .map_err(|source| ClientError::Socket { doing: "wait", source })?;
        }
    }

    fn keep_alive(&mut self) -> Result<(), ClientError> {
        let now = Instant::now();
        if !self.keep_alive_every.is_zero()
            && now >= self.keep_alive_at
            && !self.keep_alive_out
            && let Some(cid) = self.admin.next_slot()
        {
            let sqe = Sqe::new(opcode::KEEP_ALIVE, cid, 0);
            self.admin.submit(&sqe, &[], Flow::Settled, 0, KEEP_ALIVE, Vec::new());
            self.keep_alive_out = true;
            self.keep_alive_at = now + self.keep_alive_every;
        }
        // Also notices that the target has closed the admin queue.
        let mut failed = None;
        let mut came = false;
        self.admin.poll(&mut |completion| {
            if completion.token == KEEP_ALIVE {
                came = true;
                failed = (!completion.status.is_success()).then_some(completion.status);
            }
        })?;
        self.keep_alive_out &= !came;
        match failed {
            Some(status) => Err(ClientError::Failed { doing: "keep alive", status }),
            None => Ok(()),
        }
    }

    /// Waits for everything that is outstanding; the first failure is the answer.
    fn settle(&mut self, doing: &'static str) -> Result<Vec<u8>, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut ended: Option<Completion> = None;
        while ended.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Timeout(doing));
            }
            self.wait(left, &mut |completion| ended = Some(completion))?;
        }
        let Completion { status, buffer, .. } = ended.expect("it ended");
        if status == Status::SUCCESS {
            Ok(buffer)
        } else {
            Err(ClientError::Failed { doing, status })
        }
    }

    /// Reads `out`, a whole number of logical blocks, from `slba` on, one command after another. For use when nothing else is outstanding.
    pub fn read(&mut self, slba: u64, out: &mut [u8]) -> Result<(), ClientError> {
        let lba = self.namespace.lba_bytes as usize;
        let mut buffer = vec![0; out.len().min(self.transfer_bytes_max as usize)];
        let mut at = slba;
        for chunk in out.chunks_mut(self.transfer_bytes_max as usize) {
            let blocks = whole_blocks(chunk.len(), lba)?;
            self.submit_read(0, 0, at, blocks, buffer)
                .map_err(|refused| ClientError::Refused(refused.why))?;
            buffer = self.settle("read")?;
            chunk.copy_from_slice(&buffer[..chunk.len()]);
            at += u64::from(blocks);
        }
        Ok(())
    }

    /// Writes `bytes`, a whole number of logical blocks, from `slba` on. For use when nothing else is outstanding.
    pub fn write(&mut self, slba: u64, bytes: &[u8]) -> Result<(), ClientError> {
        let lba = self.namespace.lba_bytes as usize;
        let mut buffer = Vec::with_capacity(bytes.len().min(self.transfer_bytes_max as usize));
        let mut at = slba;
        for chunk in bytes.chunks(self.transfer_bytes_max as usize) {
            let blocks = whole_blocks(chunk.len(), lba)?;
            buffer.clear();
            buffer.extend_from_slice(chunk);
            self.submit_write(0, 0, at, blocks, false, buffer)
                .map_err(|refused| ClientError::Refused(refused.why))?;
            buffer = self.settle("write")?;
            at += u64::from(blocks);
        }
        Ok(())
    }

    /// Whether `bytes`, a whole number of logical blocks, are what the namespace holds from `slba` on. For use when nothing else is
    /// outstanding.
    pub fn compare(&mut self, slba: u64, bytes: &[u8]) -> Result<bool, ClientError> {
        let lba = self.namespace.lba_bytes as usize;
        let mut at = slba;
        for chunk in bytes.chunks(self.transfer_bytes_max as usize) {
            let blocks = whole_blocks(chunk.len(), lba)?;
            self.submit_compare(0, 0, at, blocks, chunk.to_vec())
                .map_err(|refused| ClientError::Refused(refused.why))?;
            match self.settle("compare") {
                Ok(_) => {}
                Err(ClientError::Failed { status: Status::COMPARE_FAILURE, .. }) => {
                    return Ok(false);
                }
                Err(other) => return Err(other),
            }
            at += u64::from(blocks);
        }
        Ok(true)
    }

    /// Writes `new` if the namespace holds `expected` there, as one; tells whether it did. For use when nothing else is outstanding.
    pub fn compare_and_write(
        &mut self,
        slba: u64,
        expected: &[u8],
        new: &[u8],
    ) -> Result<bool, ClientError> {
        let blocks = whole_blocks(new.len(), self.namespace.lba_bytes as usize)?;
        self.submit_compare_and_write(0, [0, 1], slba, blocks, [expected.to_vec(), new.to_vec()])
            .map_err(|refused| ClientError::Refused(refused.why))?;
        const DOING: &str = "compare and write";
        let deadline = Instant::now() + self.timeout;
        let mut ended = [None; 2];
        while ended.iter().any(Option::is_none) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Timeout(DOING));
            }
            self.wait(left, &mut |completion| {
                ended[(completion.token == 1) as usize] = Some(completion.status);
            })?;
        }
        match ended.map(|status| status.expect("both have ended")) {
            [Status::SUCCESS, Status::SUCCESS] => Ok(true),
            [Status::COMPARE_FAILURE, _] => Ok(false),
            [Status::SUCCESS, status] | [status, _] => {
                Err(ClientError::Failed { doing: DOING, status })
            }
        }
    }

    /// Has a run read and checked by the target, in as many commands as its limit asks for. For use when nothing else is outstanding.
    pub fn verify(&mut self, slba: u64, blocks: u64) -> Result<(), ClientError> {
        let step = self.verify_blocks_max.min(1 << 16);
        self.in_steps("verify", slba, blocks, step, |this, at, count| {
            this.submit_verify(0, 0, at, count)
        })
    }

    /// Flushes. For use when nothing else is outstanding.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.submit_flush(0, 0).map_err(|refused| ClientError::Refused(refused.why))?;
        self.settle("flush").map(drop)
    }

    /// Makes a run read as zeroes, in as many commands as the target's limit asks for. For use when nothing else is outstanding.
    pub fn zeroes(&mut self, slba: u64, blocks: u64, deallocate: bool) -> Result<(), ClientError> {
        let step = self.zeroes_blocks_max.min(1 << 16);
        self.in_steps("write zeroes", slba, blocks, step, |this, at, count| {
            this.submit_zeroes(0, 0, at, count, deallocate)
        })
    }

    /// Deallocates a run, in as many commands as the target's limit asks for. For use when nothing else is outstanding.
    pub fn deallocate(&mut self, slba: u64, blocks: u64) -> Result<(), ClientError> {
        let step = self.deallocate_blocks_max;
        self.in_steps("deallocate", slba, blocks, step, |this, at, count| {
            this.submit_deallocate(0, 0, at, count)
        })
    }

    fn in_steps(
        &mut self,
        doing: &'static str,
        slba: u64,
        blocks: u64,
        step: u64,
        submit: impl Fn(&mut Self, u64, u32) -> Result<(), Refused>,
    ) -> Result<(), ClientError> {
        if step == 0 {
            return Err(ClientError::Unsupported(doing));
        }
        let mut done = 0;
        while done < blocks {
            let count = (blocks - done).min(step) as u32;
            submit(self, slba + done, count)
                .map_err(|refused| ClientError::Refused(refused.why))?;
            self.settle(doing)?;
            done += u64::from(count);
        }
        Ok(())
    }
}

fn whole_blocks(bytes: usize, lba: usize) -> Result<u32, ClientError> {
    if bytes.is_multiple_of(lba) {
        Ok((bytes / lba) as u32)
    } else {
        Err(ClientError::Refused(RefusedWhy::Length))
    }
}
